/*
 * What a QEMU-like tree defines before it includes laio.h: names and layouts as there, and more
 * than laio.h needs.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */
#ifndef QEMU_TYPES_H
#define QEMU_TYPES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

struct AioContext {
    int64_t aio_max_batch;
};
struct QEMUBH {
    struct AioContext *ctx;
};
typedef struct AioContext AioContext;
typedef struct Coroutine Coroutine;
typedef struct Error Error;
typedef struct LinuxAioState LinuxAioState;
typedef struct QEMUBH QEMUBH;

#define QEMU_AIO_READ 0x0001
#define QEMU_AIO_WRITE 0x0002
#define QEMU_AIO_IOCTL 0x0004
#define QEMU_AIO_FLUSH 0x0008
#define QEMU_AIO_ZONE_APPEND 0x0400

/* There these are values of an enumeration, and a macro of ours would break it. */
typedef enum {
    BDRV_REQ_COPY_ON_READ = 0x1,
    BDRV_REQ_FUA = 0x10,
    BDRV_REQ_MASK = 0x3fff,
} BdrvRequestFlags;

typedef struct QEMUIOVector {
    struct iovec *iov;
    int niov;
    __extension__ union {
        __extension__ struct {
            int nalloc;
            struct iovec local_iov;
        };
        __extension__ struct {
            char pad[sizeof(int) + offsetof(struct iovec, iov_len)];
            size_t size;
        };
    };
} QEMUIOVector;

/* Prototypes of the same functions, as in a tree's own block/raw-aio.h. */
#ifdef __cplusplus
extern "C" {
#endif
LinuxAioState *laio_init(Error **errp);
void laio_cleanup(LinuxAioState *s);
int laio_co_submit(int fd, uint64_t offset, QEMUIOVector *qiov, int type, BdrvRequestFlags flags,
                   uint64_t dev_max_batch);
void laio_detach_aio_context(LinuxAioState *s, AioContext *old_context);
void laio_attach_aio_context(LinuxAioState *s, AioContext *new_context);
bool laio_has_fdsync(int);
bool laio_has_fua(void);
#ifdef __cplusplus
}
#endif

#endif
