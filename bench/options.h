/* The command line of laio-bench. SPDX-License-Identifier: MIT OR Apache-2.0 */
#ifndef BENCH_OPTIONS_H
#define BENCH_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { EXIT_IO = 1, EXIT_USAGE = 2 };

typedef struct Options {
    const char *image;
    bool write;
    bool random;
    bool direct;
    bool verify;      /* write a pattern, then read it back */
    bool verify_only; /* read back what an earlier --verify with the same seed wrote */
    bool json;
    bool yes;
    unsigned depth;
    unsigned kernel;           /* one of LaioKernel */
    unsigned max_submit_depth; /* 0: the library's default */
    size_t size;
    uint64_t count;
    uint64_t offset;
    uint64_t seed;
} Options;

/* Exits with a message, or after --help and --version. */
void options_parse(Options *options, int argc, char **argv);

/* What one of LaioKernel is called in options and in the environment. */
const char *kernel_name(unsigned kernel);

/* One line on standard error that begins with the program's name; ends the program. */
_Noreturn void die(int status, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
