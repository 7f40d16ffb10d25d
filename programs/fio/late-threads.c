/*
 * Preloaded into fio: a new thread begins a little late.
 *
 * With io_submit_mode=offload fio's start_worker() writes a worker's flags after pthread_create(3), over
 * those that the worker may have written already (workqueue.c of 3.33). A worker that was quick is then
 * never seen to run, and the job waits for it for ever, with any engine.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */
#include <dlfcn.h>
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

enum { LATE_US = 50 * 1000 };

typedef struct Start {
    void *(*run)(void *);
    void *opaque;
} Start;

static void *late(void *opaque)
{
    Start start = *(Start *)opaque;
    free(opaque);
    usleep(LATE_US);
    return start.run(start.opaque);
}

int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*run)(void *),
                   void *opaque)
{
    typedef int Create(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
    Create *create = (Create *)dlsym(RTLD_NEXT, "pthread_create");
    Start *start = malloc(sizeof(*start));
    *start = (Start){run, opaque};
    return create(thread, attributes, late, start);
}
