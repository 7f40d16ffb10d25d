/*
 * A program on GLib's main loop that copies a file.
 *
 *     cc with-glib.c copy.c $(pkg-config --cflags --libs laio glib-2.0)
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */
#include "copy.h"

#include <glib-unix.h>

static gboolean on_readable(gint fd, GIOCondition condition, gpointer loop)
{
    (void)fd;
    (void)condition;
    laio_loop_poll(loop, false);
    return G_SOURCE_CONTINUE;
}

static void on_copied(void *main_loop)
{
    g_main_loop_quit(main_loop);
}

static gboolean start(gpointer opaque)
{
    void **with = opaque;
    copy_start(with[0], with[1], on_copied, with[2]);
    return G_SOURCE_REMOVE;
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

    int fd = laio_loop_get_fd(loop);
    if (fd < 0) {
        g_printerr("laio_loop_get_fd: %s\n", g_strerror(-fd));
        return 1;
    }
    guint source = g_unix_fd_add(fd, G_IO_IN, on_readable, loop);

    GMainLoop *main_loop = g_main_loop_new(NULL, FALSE);
    /* From within the main loop: it may be over at once, and quitting is for a loop that runs. */
    g_idle_add(start, (void *[]){copy, state, main_loop});
    g_main_loop_run(main_loop);

    g_source_remove(source); /* before the descriptor goes */
    g_main_loop_unref(main_loop);
    laio_detach_aio_context(state, loop);
    laio_cleanup(state);
    laio_loop_free(loop);
    return copy_close(copy);
}
