/*
 * A thread that submits for all others: a state and its event loop belong to one thread, and nbdkit
 * calls a plugin from many.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */
#ifndef ENGINE_H
#define ENGINE_H

#include <laio.h>

/* Starts the thread. 0, or a negative errno. Not before a fork that nbdkit goes on in. */
int engine_start(void);

/* Ends it. Nobody is in engine_do(). */
void engine_stop(void);

/* Makes a request, as laio_state_submit() does, and returns its result. Any thread. */
int engine_do(int type, int fd, uint64_t offset, void *memory, size_t bytes,
              BdrvRequestFlags flags);

#endif
