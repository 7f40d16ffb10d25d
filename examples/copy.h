/*
 * What the examples have alike: a copy of a file, eight blocks at a time, by laio_state_submit().
 * It knows nothing of event loops.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */
#ifndef COPY_H
#define COPY_H

#include <laio.h>

typedef struct Copy Copy;

/* Opens both files, as cp(1) would; NULL with a message if it cannot. */
Copy *copy_open(int argc, char **argv);

/* Starts it on `state`. done(opaque) is called once it is over: from a turn of the event loop, or from
 * within this call. */
void copy_start(Copy *copy, LinuxAioState *state, void (*done)(void *opaque), void *opaque);

/* Frees it, and says on standard error what went wrong. The exit status of the program. */
int copy_close(Copy *copy);

#endif
