/*
 * What the fault shim tells a program that knows it is there.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */
#ifndef FAULT_SHIM_H
#define FAULT_SHIM_H

#include <stdint.h>

typedef struct FaultCounts {
    uint64_t calls; /* to submit, as the library counts them */
    uint64_t eagain;
    uint64_t partial;
    uint64_t cut;
    uint64_t delayed;   /* io_submit(2) only */
    uint64_t transient; /* io_uring only */
} FaultCounts;

void fault_shim_counts(FaultCounts *now);

#endif
