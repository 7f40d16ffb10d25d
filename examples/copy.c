/* SPDX-License-Identifier: MIT OR Apache-2.0 */
#include "copy.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { SLOTS = 8, BLOCK = 64 * 1024 };

/* One block at a time: read, then written. */
typedef struct Slot {
    Copy *copy;
    struct iovec iov; /* stays until the request completes, as the memory does */
    uint64_t offset;
    bool written;
    char memory[BLOCK];
} Slot;

struct Copy {
    LinuxAioState *state;
    int from, to;
    uint64_t size, next;
    unsigned outstanding;
    bool flushing;
    int error; /* the first */
    void (*done)(void *opaque);
    void *opaque;
    Slot slots[SLOTS];
};

Copy *copy_open(int argc, char **argv)
{
    struct stat stat;
    Copy *copy = calloc(1, sizeof(*copy));
    if (argc != 3 || !copy) {
        fprintf(stderr, "usage: %s FROM TO\n", argv[0]);
        free(copy);
        return NULL;
    }
    copy->from = open(argv[1], O_RDONLY | O_CLOEXEC);
    copy->to = copy->from < 0 || fstat(copy->from, &stat) < 0
                   ? -1
                   : open(argv[2], O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (copy->to < 0) {
        perror(copy->from < 0 ? argv[1] : argv[2]);
        copy_close(copy);
        return NULL;
    }
    copy->size = (uint64_t)stat.st_size;
    return copy;
}

static void on_transferred(void *opaque, int ret);
static void on_flushed(void *opaque, int ret);

static void fail(Copy *copy, int ret)
{
    if (ret < 0 && copy->error == 0) {
        copy->error = ret;
    }
}

static void submit(Slot *slot, int fd, int type)
{
    Copy *copy = slot->copy;
    copy->outstanding++;
    int ret = laio_state_submit(copy->state, fd, slot->offset, &slot->iov, 1, type, 0, 0,
                                on_transferred, slot);
    if (ret < 0) { /* on_transferred() is not called */
        copy->outstanding--;
        fail(copy, ret);
    }
}

static void read_next(Slot *slot)
{
    Copy *copy = slot->copy;
    if (copy->error == 0 && copy->next < copy->size) {
        uint64_t left = copy->size - copy->next;
        slot->offset = copy->next;
        slot->iov = (struct iovec){slot->memory, left < BLOCK ? left : BLOCK};
        slot->written = false;
        copy->next += slot->iov.iov_len;
        submit(slot, copy->from, QEMU_AIO_READ);
    }
}

/* Nothing is outstanding: flush, once, and that is all. */
static void finish(Copy *copy)
{
    if (copy->error == 0 && !copy->flushing) {
        copy->flushing = true;
        fail(copy, laio_state_submit(copy->state, copy->to, 0, NULL, 0, QEMU_AIO_FLUSH, 0, 0,
                                     on_flushed, copy));
        if (copy->error == 0) {
            return;
        }
    }
    copy->done(copy->opaque);
}

static void on_flushed(void *opaque, int ret)
{
    Copy *copy = opaque;
    /* A pipe or a character device has nothing to flush. */
    fail(copy, ret == -EINVAL ? 0 : ret);
    copy->done(copy->opaque);
}

static void on_transferred(void *opaque, int ret)
{
    Slot *slot = opaque;
    Copy *copy = slot->copy;
    fail(copy, ret);
    if (copy->error == 0 && !slot->written) {
        slot->written = true;
        submit(slot, copy->to, QEMU_AIO_WRITE);
    } else {
        read_next(slot);
    }
    /* Last: a request may complete within its submission. */
    if (--copy->outstanding == 0) {
        finish(copy);
    }
}

void copy_start(Copy *copy, LinuxAioState *state, void (*done)(void *opaque), void *opaque)
{
    copy->state = state;
    copy->done = done;
    copy->opaque = opaque;
    copy->outstanding = 1; /* this call, until the slots are under way */
    for (int i = 0; i < SLOTS; i++) {
        copy->slots[i].copy = copy;
        read_next(&copy->slots[i]);
    }
    if (--copy->outstanding == 0) {
        finish(copy);
    }
}

int copy_close(Copy *copy)
{
    int error = copy->error;
    if (error < 0) {
        fprintf(stderr, "cannot copy: %s\n", strerror(-error));
    }
    if (copy->from >= 0) {
        close(copy->from);
    }
    if (copy->to >= 0 && close(copy->to) < 0 && error == 0) {
        perror("cannot copy");
        error = -errno;
    }
    free(copy);
    return error < 0;
}
