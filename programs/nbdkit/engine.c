/* SPDX-License-Identifier: MIT OR Apache-2.0 */
#include "engine.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdio.h>
#include <sys/eventfd.h>
#include <unistd.h>

/* On the stack of who waits for it. */
typedef struct Request {
    int type, fd;
    uint64_t offset;
    struct iovec iov;
    BdrvRequestFlags flags;
    int ret;
    sem_t done;
    struct Request *next;
} Request;

static struct {
    pthread_t thread;
    pthread_mutex_t mutex;
    /* Under the mutex: what nobody has submitted yet, the oldest first, and whether to end. */
    Request *first, **last;
    bool stopping;
    int eventfd; /* says that there is something of that */
    sem_t started;
    int error;
} engine = {.mutex = PTHREAD_MUTEX_INITIALIZER};

static void on_complete(void *opaque, int ret)
{
    Request *request = opaque;
    request->ret = ret;
    /* Its owner may go on, and the request be gone, before this returns; that is allowed. */
    sem_post(&request->done);
}

static void tell(void)
{
    const uint64_t one = 1;
    while (write(engine.eventfd, &one, sizeof(one)) < 0 && errno == EINTR) {
    }
}

/* Submits what has come in, as one batch. False if this is the end. */
static bool submit_all(LinuxAioState *state)
{
    uint64_t count;
    /* First: what comes in later tells again. */
    if (read(engine.eventfd, &count, sizeof(count)) < 0 && errno != EAGAIN) {
        perror("eventfd");
    }
    pthread_mutex_lock(&engine.mutex);
    Request *request = engine.first;
    bool stopping = engine.stopping;
    engine.first = NULL;
    engine.last = &engine.first;
    pthread_mutex_unlock(&engine.mutex);

    laio_state_io_plug(state);
    while (request) {
        Request *next = request->next; /* it may complete at once */
        int ret = laio_state_submit(state, request->fd, request->offset, &request->iov, 1,
                                    request->type, request->flags, 0, on_complete, request);
        if (ret < 0) {
            on_complete(request, ret);
        }
        request = next;
    }
    laio_state_io_unplug(state, 0);
    return !stopping;
}

static void serve(AioContext *loop, LinuxAioState *state, int loop_fd)
{
    struct pollfd fds[] = {{engine.eventfd, POLLIN, 0}, {loop_fd, POLLIN, 0}};
    for (;;) {
        if (poll(fds, 2, -1) < 0) {
            continue; /* EINTR */
        }
        if (fds[0].revents && !submit_all(state)) {
            return;
        }
        if (fds[1].revents) {
            laio_loop_poll(loop, false);
        }
    }
}

static void *engine_thread(void *opaque)
{
    (void)opaque;
    AioContext *loop = laio_loop_new();
    LinuxAioState *state = laio_init(NULL);
    int loop_fd = loop ? laio_loop_get_fd(loop) : -ENOMEM;
    if (loop && state) {
        laio_attach_aio_context(state, loop);
    }
    engine.error = !state ? -ENOMEM : loop_fd < 0 ? loop_fd : 0;
    sem_post(&engine.started);
    if (engine.error == 0) {
        serve(loop, state, loop_fd);
    }
    if (state) {
        laio_cleanup(state);
    }
    if (loop) {
        laio_loop_free(loop);
    }
    return NULL;
}

int engine_start(void)
{
    engine.eventfd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (engine.eventfd < 0) {
        return -errno;
    }
    engine.last = &engine.first;
    sem_init(&engine.started, 0, 0);
    int ret = pthread_create(&engine.thread, NULL, engine_thread, NULL);
    if (ret == 0) {
        while (sem_wait(&engine.started) < 0) {
        }
        if (engine.error == 0) {
            return 0;
        }
        pthread_join(engine.thread, NULL);
        ret = -engine.error;
    }
    close(engine.eventfd);
    return -ret;
}

void engine_stop(void)
{
    pthread_mutex_lock(&engine.mutex);
    engine.stopping = true;
    pthread_mutex_unlock(&engine.mutex);
    tell();
    pthread_join(engine.thread, NULL);
    close(engine.eventfd);
    sem_destroy(&engine.started);
}

int engine_do(int type, int fd, uint64_t offset, void *memory, size_t bytes, BdrvRequestFlags flags)
{
    Request request = {.type = type, .fd = fd, .offset = offset, .iov = {memory, bytes}};
    request.flags = flags;
    sem_init(&request.done, 0, 0);
    pthread_mutex_lock(&engine.mutex);
    bool was_empty = !engine.first;
    *engine.last = &request;
    engine.last = &request.next;
    pthread_mutex_unlock(&engine.mutex);
    if (was_empty) {
        tell();
    }
    while (sem_wait(&request.done) < 0) {
    }
    sem_destroy(&request.done);
    return request.ret;
}
