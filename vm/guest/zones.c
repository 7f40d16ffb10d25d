/*
 * vm-zones DEVICE: fills every zone of a zoned device by zone append through the library, one request in
 * each zone at a time, and reads it back. What goes behind the write pointer fails, alone.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/blkzoned.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/uio.h>

#include <laio.h>

enum { BLOCK = 65536, MOST = 256 };

typedef struct Zone {
    uint64_t start, end, at; /* in bytes; the next append goes to `at` */
    char *buffer;
    struct iovec iov;
    bool busy;
} Zone;

static Zone zones[MOST];
static unsigned zone_count;
static int failures;

static void check(bool good, const char *what)
{
    if (!good) {
        fprintf(stderr, "vm-zones: not so: %s\n", what);
        exit(1);
    }
}

/* Sets `start`, `end` and `at` from what the device says. */
static void report(int fd)
{
    struct blk_zone_report *report = calloc(1, sizeof(*report) + MOST * sizeof(struct blk_zone));

    check(report, "there is memory");
    report->nr_zones = MOST;
    check(ioctl(fd, BLKREPORTZONE, report) == 0, "the device has zones");
    zone_count = 0;
    for (unsigned i = 0; i < report->nr_zones; i++) {
        if (report->zones[i].type == BLK_ZONE_TYPE_SEQWRITE_REQ) {
            Zone *zone = &zones[zone_count++];
            zone->start = report->zones[i].start * 512;
            zone->end = zone->start + report->zones[i].capacity * 512;
            zone->at = report->zones[i].wp * 512;
        }
    }
    free(report);
    check(zone_count > 1, "the device has zones to append to");
}

static void on_done(void *opaque, int ret)
{
    Zone *zone = opaque;

    zone->busy = false;
    if (ret < 0) {
        failures++;
    } else {
        zone->at += BLOCK;
    }
}

static void transfer(LinuxAioState *state, int fd, Zone *zone, int type, uint64_t offset)
{
    zone->busy = true;
    zone->iov = (struct iovec){.iov_base = zone->buffer, .iov_len = BLOCK};
    check(laio_state_submit(state, fd, offset, &zone->iov, 1, type, 0, 0, on_done, zone) == 0,
          "a request is accepted");
}

static bool busy(void)
{
    for (unsigned i = 0; i < zone_count; i++) {
        if (zones[i].busy) {
            return true;
        }
    }
    return false;
}

static void fill(LinuxAioState *state, AioContext *loop, int fd)
{
    bool more = true;

    while (more || busy()) {
        check(failures == 1, "no append at the write pointer fails");
        more = false;
        laio_state_io_plug(state);
        for (unsigned i = 0; i < zone_count; i++) {
            Zone *zone = &zones[i];
            if (!zone->busy && zone->at < zone->end) {
                memset(zone->buffer, (int)(zone->at / BLOCK % 251 + 1), BLOCK);
                transfer(state, fd, zone, QEMU_AIO_ZONE_APPEND, zone->at);
                more = true;
            }
        }
        laio_state_io_unplug(state, 0);
        if (busy()) {
            laio_loop_poll(loop, true);
        }
    }
}

static void read_back(LinuxAioState *state, AioContext *loop, int fd)
{
    for (unsigned i = 0; i < zone_count; i++) {
        for (uint64_t at = zones[i].start; at < zones[i].end; at += BLOCK) {
            transfer(state, fd, &zones[i], QEMU_AIO_READ, at);
            while (busy()) {
                laio_loop_poll(loop, true);
            }
            for (unsigned byte = 0; byte < BLOCK; byte++) {
                check((unsigned char)zones[i].buffer[byte] == at / BLOCK % 251 + 1,
                      "what was appended is read");
            }
        }
    }
}

int main(int argc, char **argv)
{
    int fd = open(argc > 1 ? argv[1] : "", O_RDWR | O_DIRECT);
    AioContext *loop = laio_loop_new();
    LinuxAioState *state = laio_init(NULL);

    check(fd >= 0 && loop && state, "the device opens, and the library starts");
    laio_attach_aio_context(state, loop);
    report(fd);
    for (unsigned i = 0; i < zone_count; i++) {
        check(posix_memalign((void **)&zones[i].buffer, 4096, BLOCK) == 0, "there is memory");
    }
    /* One of a batch is not where the write pointer is. */
    laio_state_io_plug(state);
    transfer(state, fd, &zones[0], QEMU_AIO_ZONE_APPEND, zones[0].start + 4 * BLOCK);
    memset(zones[1].buffer, (int)(zones[1].at / BLOCK % 251 + 1), BLOCK);
    transfer(state, fd, &zones[1], QEMU_AIO_ZONE_APPEND, zones[1].at);
    laio_state_io_unplug(state, 0);
    while (busy()) {
        laio_loop_poll(loop, true);
    }
    check(failures == 1 && zones[0].at == zones[0].start && zones[1].at == zones[1].start + BLOCK,
          "what is not at the write pointer fails, alone");
    /* Since Linux 6.10 a zone is not written to after an error until its state was asked for. */
    report(fd);
    fill(state, loop, fd);
    report(fd);
    for (unsigned i = 0; i < zone_count; i++) {
        check(zones[i].at >= zones[i].end, "the device says that the zones are full");
    }
    read_back(state, loop, fd);
    /* And one into a full zone. */
    transfer(state, fd, &zones[0], QEMU_AIO_ZONE_APPEND, zones[0].start);
    while (busy()) {
        laio_loop_poll(loop, true);
    }
    check(failures == 2, "an append to a full zone fails");
    laio_detach_aio_context(state, loop);
    laio_cleanup(state);
    laio_loop_free(loop);
    printf("%u zones\n", zone_count);
    return 0;
}
