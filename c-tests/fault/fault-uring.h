/*
 * The fault shim's part between liblaio and io_uring.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */
#ifndef FAULT_URING_H
#define FAULT_URING_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "fault-shim.h"

enum { MAX_PARTS = 64 };

/* Of fault-shim.c, all under its lock. */
extern FaultCounts fault_counts;
uint64_t random_below(uint64_t n);
bool comes(const char *kind, uint64_t n);
/* Leaves in `parts` less than the vector of `*count` parts at `whole` has; false if it is too small. */
bool cut_vector(const struct iovec *whole, uint64_t *count, struct iovec *parts);

/* Remembers a new ring. `params` is what the kernel filled. */
void uring_is_set_up(int fd, const void *params);
/* What to enter for instead of `number`; or a negative errno to answer at once. */
long uring_before_enter(int fd, long number, struct iovec *parts);
/* Changes results that are there now. */
void uring_after_enter(int fd);

#endif
