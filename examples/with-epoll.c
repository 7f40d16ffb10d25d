/*
 * A program that waits in epoll_wait(2) of its own, and copies a file meanwhile.
 *
 *     cc with-epoll.c copy.c $(pkg-config --cflags --libs laio)
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */
#include "copy.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <unistd.h>

static bool over;

static void on_copied(void *opaque)
{
    (void)opaque;
    over = true;
}

int main(int argc, char **argv)
{
    Copy *copy = copy_open(argc, argv);
    AioContext *loop = laio_loop_new();
    LinuxAioState *state = laio_init(NULL);
    if (!copy || !loop || !state) {
        return 1; /* why has been said on standard error */
    }
    laio_attach_aio_context(state, loop);

    /* One descriptor among the program's own. It is level-triggered. */
    int fd = laio_loop_get_fd(loop);
    int epoll = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = loop};
    if (fd < 0 || epoll < 0 || epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) < 0) {
        perror("epoll");
        return 1;
    }

    copy_start(copy, state, on_copied, NULL);
    while (!over) {
        if (epoll_wait(epoll, &event, 1, -1) == 1 && event.data.ptr == loop) {
            laio_loop_poll(loop, false);
        } else if (errno != EINTR) {
            perror("epoll_wait");
            return 1;
        }
    }

    close(epoll); /* before the descriptor goes */
    laio_detach_aio_context(state, loop);
    laio_cleanup(state);
    laio_loop_free(loop);
    return copy_close(copy);
}
