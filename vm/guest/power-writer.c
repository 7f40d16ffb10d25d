/*
 * vm-power-writer DEVICE COUNT SEED [lie]: writes COUNT records of 4 KiB through the library, up to eight
 * at a time, each with the next number, to slots chosen by SEED: some with FUA, some plain, and flushes in
 * between. Every record says of each slot which number was on stable storage there when the record was
 * submitted. So any state of the disk after a power cut can be checked by itself: what its records say
 * must be there, is.
 *
 * With "lie" plain writes count as stable when they complete, which a checker has to notice.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>

#include <laio.h>

enum { RECORD = 4096, SLOTS = 64, WIDTH = 8 };

typedef struct Record {
    char magic[8];
    uint64_t number;
    uint64_t slot;
    uint64_t stable[SLOTS];
} Record;

typedef struct Job {
    union {
        Record record;
        char bytes[RECORD];
    } * buffer;
    struct iovec iov;
    uint64_t slot;
    uint64_t number;
    bool flush, fua, busy;
    uint64_t covered[SLOTS]; /* of a flush: what had completed when it was submitted */
} Job;

static uint64_t completed[SLOTS], stable[SLOTS];
static bool slot_busy[SLOTS];
static bool flush_busy;
static Job jobs[WIDTH];
static bool lie;

static void raise_to(uint64_t *number, uint64_t least)
{
    if (*number < least) {
        *number = least;
    }
}

static void on_done(void *opaque, int ret)
{
    Job *job = opaque;

    if (ret < 0) {
        fprintf(stderr, "vm-power-writer: a request failed: %s\n", strerror(-ret));
        exit(1);
    }
    job->busy = false;
    if (job->flush) {
        flush_busy = false;
        for (unsigned i = 0; i < SLOTS; i++) {
            raise_to(&stable[i], job->covered[i]);
        }
        return;
    }
    slot_busy[job->slot] = false;
    completed[job->slot] = job->number;
    if (job->fua || lie) {
        raise_to(&stable[job->slot], job->number);
    }
}

/* One at a time: the log of dm-log-writes takes apart what two of them, under way together, have
 * flushed. */
static bool prepare_flush(Job *job)
{
    if (flush_busy) {
        return false;
    }
    flush_busy = true;
    job->flush = true;
    job->fua = false;
    memcpy(job->covered, completed, sizeof(completed));
    return true;
}

/* False if there is no free slot for a write just now. */
static bool prepare(Job *job, uint64_t number)
{
    int chance = rand() % 16;

    if (chance == 0) {
        return prepare_flush(job);
    }
    job->flush = false;
    job->fua = chance >= 9;
    job->number = number;
    job->slot = (uint64_t)rand() % SLOTS;
    if (slot_busy[job->slot]) {
        return false;
    }
    slot_busy[job->slot] = true;
    Record *record = &job->buffer->record;
    memcpy(record->magic, "laio-pwr", sizeof(record->magic));
    record->number = number;
    record->slot = job->slot;
    memcpy(record->stable, stable, sizeof(stable));
    job->iov = (struct iovec){.iov_base = job->buffer, .iov_len = RECORD};
    return true;
}

static void submit(LinuxAioState *state, int fd, Job *job)
{
    job->busy = true;
    int ret = laio_state_submit(state, fd, job->flush ? 0 : job->slot * RECORD,
                                job->flush ? NULL : &job->iov, job->flush ? 0 : 1,
                                job->flush ? QEMU_AIO_FLUSH : QEMU_AIO_WRITE,
                                job->fua ? BDRV_REQ_FUA : 0, 0, on_done, job);
    if (ret < 0) {
        fprintf(stderr, "vm-power-writer: submit: %s\n", strerror(-ret));
        exit(1);
    }
}

static bool any_busy(void)
{
    for (unsigned i = 0; i < WIDTH; i++) {
        if (jobs[i].busy) {
            return true;
        }
    }
    return false;
}

int main(int argc, char **argv)
{
    if (argc < 4) {
        fprintf(stderr, "usage: vm-power-writer DEVICE COUNT SEED [lie]\n");
        return 2;
    }
    int fd = open(argv[1], O_RDWR | O_DIRECT);
    uint64_t count = strtoull(argv[2], NULL, 10), number = 1;
    AioContext *loop = laio_loop_new();
    LinuxAioState *state = laio_init(NULL);

    srand((unsigned)strtoul(argv[3], NULL, 10));
    lie = argc > 4;
    if (fd < 0 || !loop || !state || !laio_has_fua() || !laio_has_fdsync(fd)) {
        fprintf(stderr, "vm-power-writer: cannot start: %s\n", strerror(errno));
        return 1;
    }
    laio_attach_aio_context(state, loop);
    for (unsigned i = 0; i < WIDTH; i++) {
        if (posix_memalign((void **)&jobs[i].buffer, RECORD, RECORD)) {
            return 1;
        }
        memset(jobs[i].buffer, 0, RECORD);
    }
    while (number <= count || any_busy()) {
        for (unsigned i = 0; i < WIDTH && number <= count; i++) {
            if (!jobs[i].busy && prepare(&jobs[i], number)) {
                submit(state, fd, &jobs[i]);
                number += !jobs[i].flush;
            }
        }
        if (any_busy()) {
            laio_loop_poll(loop, true);
        }
    }
    /* What was never flushed goes, when the log is closed, before all that is not in it yet. */
    prepare_flush(&jobs[0]);
    submit(state, fd, &jobs[0]);
    while (any_busy()) {
        laio_loop_poll(loop, true);
    }
    laio_detach_aio_context(state, loop);
    laio_cleanup(state);
    laio_loop_free(loop);
    return 0;
}
