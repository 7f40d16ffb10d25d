/* What the floors have alike. SPDX-License-Identifier: MIT OR Apache-2.0 */
#ifndef BENCH_FLOOR_H
#define BENCH_FLOOR_H

#include <laio.h>

enum { FLOOR_REQUESTS = 1024 };

/* Submits what is queued and calls back for what is complete; waits for something if `blocking`.
 * Whether there was, or will be, anything. */
bool floor_turn(LinuxAioState *s, bool blocking);

/* Says what failed, with errno, and ends the program. */
void floor_give_up(const char *what) __attribute__((noreturn));

#endif
