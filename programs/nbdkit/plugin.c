/*
 * An nbdkit plugin that serves a file or block device through laio:
 *
 *     nbdkit ./nbdkit-laio-plugin.so file=disk.raw [direct=true]
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */
#define NBDKIT_API_VERSION 2
#include <nbdkit-plugin.h>

#include "engine.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#define THREAD_MODEL NBDKIT_THREAD_MODEL_PARALLEL

/* For O_DIRECT: of memory, offset and size. What is less than that, the kernel refuses. */
enum { ALIGNMENT = 4096 };

/* A connection. */
typedef struct Handle {
    int fd;
    bool can_punch, can_zero, can_extents;
    int64_t size;
} Handle;

static char *filename;
static bool direct;
static bool started;

static int laio_config(const char *key, const char *value)
{
    if (strcmp(key, "file") == 0) {
        free(filename);
        filename = nbdkit_realpath(value);
        return filename ? 0 : -1;
    }
    if (strcmp(key, "direct") == 0) {
        int yes = nbdkit_parse_bool(value);
        direct = yes == 1;
        return yes < 0 ? -1 : 0;
    }
    nbdkit_error("unknown parameter '%s'", key);
    return -1;
}

static int laio_config_complete(void)
{
    if (!filename) {
        nbdkit_error("you must give the file=FILENAME parameter");
        return -1;
    }
    return 0;
}

/* Not earlier: nbdkit forks into the background, and threads do not come along. */
static int laio_after_fork(void)
{
    int ret = engine_start();
    if (ret < 0) {
        nbdkit_error("cannot start laio: %s", strerror(-ret));
        return -1;
    }
    started = true;
    return 0;
}

static void laio_cleanup_plugin(void)
{
    if (started) {
        engine_stop();
    }
    started = false;
}

static void laio_unload(void)
{
    laio_cleanup_plugin();
    free(filename);
}

static bool seems_to_do(int fd, int mode)
{
    /* Nothing happens beyond the end of a file of which the size is kept; a device says EINVAL. */
    struct stat stat;
    return fstat(fd, &stat) == 0 && S_ISREG(stat.st_mode) &&
           fallocate(fd, mode | FALLOC_FL_KEEP_SIZE, stat.st_size, 1) == 0;
}

static int64_t size_of(int fd)
{
    struct stat stat;
    uint64_t bytes;
    if (fstat(fd, &stat) < 0) {
        return -1;
    }
    if (S_ISBLK(stat.st_mode)) {
        return ioctl(fd, BLKGETSIZE64, &bytes) < 0 ? -1 : (int64_t)bytes;
    }
    return stat.st_size;
}

static void *laio_open(int readonly)
{
    Handle *handle = calloc(1, sizeof(*handle));
    if (!handle) {
        nbdkit_error("calloc: %m");
        return NULL;
    }
    int flags = O_CLOEXEC | (readonly ? O_RDONLY : O_RDWR) | (direct ? O_DIRECT : 0);
    handle->fd = open(filename, flags);
    if (handle->fd < 0 || (handle->size = size_of(handle->fd)) < 0) {
        nbdkit_error("%s: %m", filename);
        if (handle->fd >= 0) {
            close(handle->fd);
        }
        free(handle);
        return NULL;
    }
    handle->can_extents = lseek(handle->fd, 0, SEEK_HOLE) >= 0;
    if (!readonly) {
        handle->can_punch = seems_to_do(handle->fd, FALLOC_FL_PUNCH_HOLE);
        handle->can_zero = seems_to_do(handle->fd, FALLOC_FL_ZERO_RANGE);
    }
    return handle;
}

static void laio_close(void *opaque)
{
    Handle *handle = opaque;
    close(handle->fd);
    free(handle);
}

static int64_t laio_get_size(void *opaque)
{
    return ((Handle *)opaque)->size;
}

static int laio_block_size(void *opaque, uint32_t *minimum, uint32_t *preferred, uint32_t *maximum)
{
    (void)opaque;
    *minimum = direct ? ALIGNMENT : 1;
    *preferred = ALIGNMENT;
    *maximum = 0xffffffff;
    return 0;
}

static int yes(void *opaque)
{
    (void)opaque;
    return 1;
}

static int laio_can_fua(void *opaque)
{
    (void)opaque;
    return laio_has_fua() ? NBDKIT_FUA_NATIVE : NBDKIT_FUA_EMULATE;
}

static int laio_can_trim(void *opaque)
{
    return ((Handle *)opaque)->can_punch;
}

static int laio_can_zero(void *opaque)
{
    Handle *handle = opaque;
    return handle->can_zero || handle->can_punch;
}

static int laio_can_extents(void *opaque)
{
    return ((Handle *)opaque)->can_extents;
}

static int answer(int ret, const char *what)
{
    if (ret == 0) {
        return 0;
    }
    nbdkit_error("%s: %s", what, strerror(-ret));
    nbdkit_set_error(-ret);
    return -1;
}

/* nbdkit's buffers are not aligned. NULL if there is no memory. */
static void *aligned(size_t bytes)
{
    void *memory = NULL;
    return posix_memalign(&memory, ALIGNMENT, bytes) == 0 ? memory : NULL;
}

static int laio_pread(void *opaque, void *buffer, uint32_t count, uint64_t offset, uint32_t flags)
{
    Handle *handle = opaque;
    (void)flags;
    void *memory = direct ? aligned(count) : buffer;
    int ret = memory ? engine_do(QEMU_AIO_READ, handle->fd, offset, memory, count, 0) : -ENOMEM;
    if (direct) {
        if (ret == 0) {
            memcpy(buffer, memory, count);
        }
        free(memory);
    }
    return answer(ret, "read");
}

static int laio_pwrite(void *opaque, const void *buffer, uint32_t count, uint64_t offset,
                       uint32_t flags)
{
    Handle *handle = opaque;
    BdrvRequestFlags fua = flags & NBDKIT_FLAG_FUA ? BDRV_REQ_FUA : 0;
    /* The kernel only reads it. */
    void *memory = direct ? aligned(count) : (void *)(uintptr_t)buffer;
    if (direct && memory) {
        memcpy(memory, buffer, count);
    }
    int ret = memory ? engine_do(QEMU_AIO_WRITE, handle->fd, offset, memory, count, fua) : -ENOMEM;
    if (direct) {
        free(memory);
    }
    return answer(ret, "write");
}

static int flush(Handle *handle)
{
    return engine_do(QEMU_AIO_FLUSH, handle->fd, 0, NULL, 0, 0);
}

static int laio_flush(void *opaque, uint32_t flags)
{
    (void)flags;
    return answer(flush(opaque), "flush");
}

/* Linux has no asynchronous fallocate(2) but through io_uring, so nbdkit's thread waits in it. */
static int change(Handle *handle, int mode, uint32_t count, uint64_t offset, uint32_t flags)
{
    if (fallocate(handle->fd, mode | FALLOC_FL_KEEP_SIZE, (off_t)offset, count) < 0) {
        return -errno;
    }
    return flags & NBDKIT_FLAG_FUA ? flush(handle) : 0;
}

static int laio_trim(void *opaque, uint32_t count, uint64_t offset, uint32_t flags)
{
    return answer(change(opaque, FALLOC_FL_PUNCH_HOLE, count, offset, flags), "trim");
}

static int laio_zero(void *opaque, uint32_t count, uint64_t offset, uint32_t flags)
{
    Handle *handle = opaque;
    bool punch = handle->can_punch && (flags & NBDKIT_FLAG_MAY_TRIM || !handle->can_zero);
    int mode = punch ? FALLOC_FL_PUNCH_HOLE : FALLOC_FL_ZERO_RANGE;
    int ret = change(handle, mode, count, offset, flags);
    if (ret == -EOPNOTSUPP) {
        nbdkit_set_error(EOPNOTSUPP); /* nbdkit writes zeros */
        return -1;
    }
    return answer(ret, "zero");
}

static int laio_extents(void *opaque, uint32_t count, uint64_t offset, uint32_t flags,
                        struct nbdkit_extents *extents)
{
    Handle *handle = opaque;
    uint64_t end = offset + count;
    while (offset < end) {
        off_t data = lseek(handle->fd, (off_t)offset, SEEK_DATA);
        if (data < 0 && errno != ENXIO) {
            return answer(-errno, "lseek");
        }
        uint64_t hole_ends = data < 0 ? (uint64_t)handle->size : (uint64_t)data;
        if (hole_ends > offset && nbdkit_add_extent(extents, offset, hole_ends - offset,
                                                    NBDKIT_EXTENT_HOLE | NBDKIT_EXTENT_ZERO) < 0) {
            return -1;
        }
        offset = hole_ends;
        if (offset < end) {
            off_t hole = lseek(handle->fd, (off_t)offset, SEEK_HOLE);
            if (hole < 0) {
                return answer(-errno, "lseek");
            }
            if (nbdkit_add_extent(extents, offset, (uint64_t)hole - offset, 0) < 0) {
                return -1;
            }
            offset = (uint64_t)hole;
        }
        if (flags & NBDKIT_FLAG_REQ_ONE) {
            break;
        }
    }
    return 0;
}

static struct nbdkit_plugin plugin = {
    .name = "laio",
    .version = LAIO_PLUGIN_VERSION,
    .longname = "nbdkit laio plugin",
    .description = "serves a file by Linux AIO or io_uring",
    .magic_config_key = "file",
    .config_help = "file=<FILENAME>   (required) The file or block device to serve.\n"
                   "direct=<BOOL>     Open it with O_DIRECT; requests are aligned to 4096 then.",
    .config = laio_config,
    .config_complete = laio_config_complete,
    .after_fork = laio_after_fork,
    .cleanup = laio_cleanup_plugin,
    .unload = laio_unload,
    .open = laio_open,
    .close = laio_close,
    .get_size = laio_get_size,
    .block_size = laio_block_size,
    .can_flush = yes,
    .can_multi_conn = yes,
    .can_fua = laio_can_fua,
    .can_trim = laio_can_trim,
    .can_zero = laio_can_zero,
    .can_extents = laio_can_extents,
    .pread = laio_pread,
    .pwrite = laio_pwrite,
    .flush = laio_flush,
    .trim = laio_trim,
    .zero = laio_zero,
    .extents = laio_extents,
    .errno_is_preserved = 1,
};

NBDKIT_REGISTER_PLUGIN(plugin)
