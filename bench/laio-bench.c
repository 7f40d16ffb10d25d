/*
 * laio-bench: reads or writes a disk image through liblaio, and measures.
 *
 * Uses nothing but laio.h and the library's own event loop; laio-bench --help says the rest.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "options.h"
#include "report.h"
#include "workload.h"

static uint64_t size_of(const Options *options, int fd, const struct stat *status)
{
    uint64_t size;

    if (S_ISREG(status->st_mode)) {
        return (uint64_t)status->st_size;
    }
    if (ioctl(fd, BLKGETSIZE64, &size) != 0) {
        die(EXIT_IO, "%s: its size: %s", options->image, strerror(errno));
    }
    return size;
}

/* Before opening it, because the opening of a device may already do something. */
static void check_kind(const Options *options, const struct stat *status)
{
    if (!S_ISREG(status->st_mode) && !S_ISBLK(status->st_mode)) {
        die(EXIT_USAGE, "%s: neither a regular file nor a block device", options->image);
    }
    if (S_ISBLK(status->st_mode) && options->write && !options->yes) {
        die(EXIT_USAGE, "%s: a block device, whose contents %s would destroy; --yes to do it",
            options->image, options->verify ? "--verify" : "-w");
    }
}

static void check_size(const Options *options, const Image *image)
{
    if (options->offset > image->size) {
        die(EXIT_USAGE, "--offset %" PRIu64 ": beyond the end of %s, %" PRIu64 " bytes",
            options->offset, options->image, image->size);
    }
    if (options->size > image->size - options->offset) {
        die(EXIT_USAGE, "-s %zu: %s has only %" PRIu64 " bytes%s", options->size, options->image,
            image->size - options->offset, options->offset ? " after --offset" : "");
    }
}

static void open_image(const Options *options, Image *image)
{
    struct stat status;
    int flags = O_CLOEXEC | (options->write ? O_RDWR : O_RDONLY) | (options->direct ? O_DIRECT : 0);

    if (stat(options->image, &status) != 0) {
        die(EXIT_IO, "%s: %s", options->image, strerror(errno));
    }
    check_kind(options, &status);
    image->is_block_device = S_ISBLK(status.st_mode);
    if (image->is_block_device && options->write) {
        flags |= O_EXCL; /* EBUSY if it is mounted or otherwise in use */
    }
    image->fd = open(options->image, flags);
    if (image->fd < 0) {
        die(EXIT_IO, "%s: open%s: %s", options->image, options->direct ? " with --direct" : "",
            strerror(errno));
    }
    if (fstat(image->fd, &status) != 0) {
        die(EXIT_IO, "%s: %s", options->image, strerror(errno));
    }
    image->size = size_of(options, image->fd, &status);
    check_size(options, image);
}

static int report_failure(const Options *options, const Failure *failure)
{
    const char *operation = failure->operation == OP_WRITE ? "write" : "read";
    bool misaligned = options->direct && failure->os_errno == EINVAL;

    switch (failure->kind) {
    case FAILED_NOT:
        return EXIT_SUCCESS;
    case FAILED_REQUEST:
        fprintf(stderr, "laio-bench: %s: %s of %zu bytes at offset %" PRIu64 ": %s%s\n",
                options->image, operation, options->size, failure->offset,
                strerror(failure->os_errno),
                misaligned ? " (--direct wants -s and --offset to be multiples of the image's"
                             " block size)"
                           : "");
        return EXIT_IO;
    case FAILED_BYTE:
        fprintf(stderr,
                "laio-bench: %s: wrong data in the %zu bytes at offset %" PRIu64
                ": first at offset %" PRIu64 ", 0x%02x instead of 0x%02x\n",
                options->image, options->size, failure->offset, failure->byte, failure->found,
                failure->expected);
        return EXIT_IO;
    }
    return EXIT_IO;
}

int main(int argc, char **argv)
{
    Options options;
    Image image;
    Result result;
    int status;

    options_parse(&options, argc, argv);
    open_image(&options, &image);
    workload_run(&options, &image, &result);
    (options.json ? report_json : report_human)(&options, &image, &result);
    if (fflush(stdout) != 0 || ferror(stdout)) {
        die(EXIT_IO, "standard output: %s", strerror(errno));
    }
    status = report_failure(&options, &result.failure);
    if (status == EXIT_SUCCESS && result.signal) {
        fprintf(stderr, "laio-bench: ended by signal %d (%s)\n", result.signal,
                strsignal(result.signal));
        status = 128 + result.signal;
    }
    free(result.passes);
    close(image.fd);
    return status;
}
