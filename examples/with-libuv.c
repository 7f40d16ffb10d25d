/*
 * A program on libuv that copies a file.
 *
 *     cc with-libuv.c copy.c $(pkg-config --cflags --libs laio libuv)
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */
#include "copy.h"

#include <stdio.h>
#include <uv.h>

static void on_readable(uv_poll_t *handle, int status, int events)
{
    (void)status;
    (void)events;
    laio_loop_poll(handle->data, false);
}

static void on_copied(void *handle)
{
    uv_close(handle, NULL); /* the last of the loop's, which ends then */
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

    uv_poll_t handle = {.data = loop};
    int fd = laio_loop_get_fd(loop);
    int ret = fd < 0 ? fd : uv_poll_init(uv_default_loop(), &handle, fd);
    if (ret == 0) {
        ret = uv_poll_start(&handle, UV_READABLE, on_readable);
    }
    if (ret < 0) {
        fprintf(stderr, "cannot watch the event loop: %s\n", uv_strerror(ret));
        return 1;
    }

    copy_start(copy, state, on_copied, &handle);
    uv_run(uv_default_loop(), UV_RUN_DEFAULT);
    uv_loop_close(uv_default_loop());

    laio_detach_aio_context(state, loop);
    laio_cleanup(state);
    laio_loop_free(loop);
    return copy_close(copy);
}
