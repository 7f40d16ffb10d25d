/*
 * A program of somebody who has only what was installed: reads from a file, asynchronously.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */
#include <laio.h>

#include <stdio.h>
#include <string.h>

static void done(void *opaque, int ret)
{
    *(int *)opaque = ret;
}

int main(void)
{
    char text[5] = "";
    struct iovec iov = {text, 4};
    int ret = 1;
    FILE *file = tmpfile();
    AioContext *loop = laio_loop_new();
    LinuxAioState *state = laio_init(NULL);
    if (!file || !loop || !state || fputs("laio", file) < 0 || fflush(file) != 0) {
        return 1;
    }
    laio_attach_aio_context(state, loop);
    if (laio_state_submit(state, fileno(file), 0, &iov, 1, QEMU_AIO_READ, 0, 0, done, &ret) != 0) {
        return 2;
    }
    while (ret > 0 && laio_loop_poll(loop, true)) {
    }
    laio_detach_aio_context(state, loop);
    laio_cleanup(state);
    laio_loop_free(loop);
    fclose(file);
    return ret == 0 && strcmp(text, "laio") == 0 ? 0 : 3;
}
