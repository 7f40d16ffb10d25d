/* The requests that laio-bench makes. SPDX-License-Identifier: MIT OR Apache-2.0 */
#ifndef BENCH_WORKLOAD_H
#define BENCH_WORKLOAD_H

#include <laio.h>

#include "histogram.h"
#include "options.h"

/* One way over the image. */
typedef enum Operation { OP_READ, OP_WRITE } Operation;

typedef struct Pass {
    Operation operation;
    bool verified;      /* every byte read was compared */
    uint64_t completed; /* with success */
    uint64_t elapsed_ns;
    Histogram latency_ns;
    Histogram held_ns; /* from the first completion of a turn of the loop to the turn's end */
} Pass;

/* The first thing that went wrong. */
typedef struct Failure {
    enum { FAILED_NOT, FAILED_REQUEST, FAILED_BYTE } kind;
    Operation operation;
    uint64_t offset; /* of the request */
    int os_errno;
    uint64_t byte; /* offset of the wrong byte in the image, */
    uint8_t expected;
    uint8_t found;
} Failure;

typedef struct Image {
    int fd;
    uint64_t size;
    bool is_block_device;
} Image;

typedef struct Result {
    Pass *passes;
    unsigned pass_count;
    Failure failure;
    int signal; /* that ended the run, or 0 */
    LaioStats stats;
} Result;

/* Does all that the options ask for. The caller frees result->passes. */
void workload_run(const Options *options, const Image *image, Result *result);

#endif
