/*
 * A direct read across the end of a file is short where the file ended, which is nowhere that
 * the device could go on from. If the file has grown by the time that the library asks for its
 * size, what is left looks like something to be read: the kernel refused that, misaligned as it
 * was, and the guest got -EINVAL for a read that is fine. Right is 0, with the bytes before the old
 * end exact, and behind it zeros or what was written.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */
#include "rig.h"
#include "valve.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <unistd.h>

enum { LONGEST = 64 * 1024, PARTS_MAX = 16 };

/* What stands in the file at each place; never zero. */
static char byte_at(uint64_t offset)
{
    return (char)(1 + offset % 251);
}

typedef struct Growing {
    int direct;
    int buffered;
    uint64_t size; /* by now */
    /* What the file grows by after each io_submit(2). */
    const unsigned *steps;
    unsigned step_count;
    unsigned step;
    unsigned growths;
    uint64_t until;
} Growing;

static void append(Growing *file, uint64_t bytes)
{
    char data[2 * LONGEST];
    CHECK_LE(bytes, sizeof(data));
    for (uint64_t i = 0; i < bytes; i++) {
        data[i] = byte_at(file->size + i);
    }
    CHECK_EQ(pwrite(file->buffered, data, bytes, (off_t)file->size), bytes);
    file->size += bytes;
}

static Growing growing_new(uint64_t size)
{
    int direct = open(getenv("LAIO_TEST_DIR") ? getenv("LAIO_TEST_DIR") : ".",
                      O_TMPFILE | O_RDWR | O_DIRECT | O_CLOEXEC, 0600);
    if (direct < 0) {
        test_skip("no file with O_DIRECT here: %s", strerror(errno));
    }
    Growing file = {.direct = direct, .buffered = test_reopen(direct, O_RDWR)};
    append(&file, size);
    CHECK_EQ(fsync(file.buffered), 0);
    return file;
}

static void growing_free(Growing *file)
{
    close(file->direct);
    close(file->buffered);
}

static void grow(void *opaque)
{
    Growing *file = opaque;
    if (file->size < file->until) {
        append(file, file->steps[file->step++ % file->step_count]);
        file->growths++;
    }
}

/* Bytes before `end` are the file's; those behind are the file's by now, or zeros. */
static void check_read(const char *data, uint64_t offset, uint64_t bytes, uint64_t end)
{
    for (uint64_t i = 0; i < bytes; i++) {
        char expected = byte_at(offset + i);
        if (data[i] != expected && (offset + i < end || data[i] != 0)) {
            FAIL("byte %llu of %llu at %llu is %d, and the file ended at %llu",
                 (unsigned long long)i, (unsigned long long)bytes, (unsigned long long)offset,
                 data[i], (unsigned long long)end);
        }
    }
}

/* A request of aligned parts over `memory`. */
static Io parted(int fd, uint64_t offset, char *memory, size_t bytes, unsigned parts,
                 struct iovec *iov)
{
    Io io = io_of(QEMU_AIO_READ, fd, offset, memory, bytes);
    size_t each = bytes / parts / BLOCK * BLOCK;
    for (unsigned i = 0; i < parts; i++) {
        iov[i] = (struct iovec){memory + i * each, i + 1 < parts ? each : bytes - i * each};
    }
    io.iov = iov;
    io.iovcnt = (int)parts;
    return io;
}

static const unsigned sizes[] = {1000, 513, 4095, 4097, 1, 511, 12289};
static const unsigned growth[][3] = {
    {1, 1, 1}, {513, 1000, 7}, {4096, 4096, 4096}, {4095, 4097, 3}, {60000, 1, 1}};
#define COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))

/* The file grows between each answer of the kernel and the library's next step. */
static void the_file_grows_before_the_rest_is_read(void)
{
    const size_t lengths[] = {BLOCK, 2 * BLOCK, 5 * BLOCK, LONGEST};
    char *memory = aligned_buffer(LONGEST);
    Rig rig = rig_new();
    FOR_EACH_WAY(way) {
        for (unsigned s = 0; s < COUNT_OF(sizes) * COUNT_OF(growth) * COUNT_OF(lengths); s++) {
            unsigned size = sizes[s % COUNT_OF(sizes)];
            const unsigned *steps = growth[s / COUNT_OF(sizes) % COUNT_OF(growth)];
            size_t length = lengths[s / COUNT_OF(sizes) / COUNT_OF(growth)];
            uint64_t offset = size / BLOCK * BLOCK;
            struct iovec iov[PARTS_MAX];
            unsigned parts = s % 2 && length >= 2 * BLOCK ? (unsigned)(length / BLOCK) : 1;
            Growing file = growing_new(size);
            file.steps = steps;
            file.step_count = 3;
            /* Then it stands still, a while behind what is read. */
            file.until = size + (steps[0] > 100 ? LONGEST + BLOCK : 40);
            test_context("way %d, size %u, %zu bytes in %u parts, growing by %u", way, size, length,
                         parts, steps[0]);
            memset(memory, 0xa5, LONGEST);
            Io io = parted(file.direct, offset, memory, length, parts, iov);
            valve_after_submit(grow, &file);
            CHECK_EQ(way_do(way, rig, &io), 0);
            valve_after_submit(NULL, NULL);
            CHECK(file.growths > 0);
            check_read(memory, offset, length, size);
            growing_free(&file);
        }
    }
    free(memory);
    rig_free(rig);
}

/* A write of the same state makes it grow: submitted together, both are right. */
static void a_write_of_the_same_batch_makes_it_grow(void)
{
    char *memory = aligned_buffer(2 * BLOCK), *more = aligned_buffer(BLOCK);
    Rig rig = rig_new();
    for (unsigned round = 0; round < test_scaled(50, 2) * COUNT_OF(sizes); round++) {
        unsigned size = sizes[round % COUNT_OF(sizes)];
        uint64_t offset = size / BLOCK * BLOCK;
        Growing file = growing_new(size);
        test_context("size %u", size);
        for (int i = 0; i < BLOCK; i++) {
            more[i] = byte_at(offset + BLOCK + i);
        }
        memset(memory, 0xa5, 2 * BLOCK);
        Io ios[] = {io_of(QEMU_AIO_READ, file.direct, offset, memory, 2 * BLOCK),
                    io_of(QEMU_AIO_WRITE, file.direct, offset + BLOCK, more, BLOCK)};
        laio_state_io_plug(rig.state);
        io_start(rig.state, &ios[0]);
        io_start(rig.state, &ios[1]);
        laio_state_io_unplug(rig.state, 0);
        io_finish(rig.ctx, ios, 2);
        CHECK_EQ(ios[0].ret, 0);
        CHECK_EQ(ios[1].ret, 0);
        check_read(memory, offset, 2 * BLOCK, size);
        growing_free(&file);
    }
    free(memory);
    free(more);
    rig_free(rig);
}

/* Another thread appends while reads go across the end. */
typedef struct Appender {
    Growing *file;
    _Atomic uint64_t size;
    atomic_bool stop;
} Appender;

static void *append_until_stopped(void *opaque)
{
    Appender *appender = opaque;
    uint64_t seed = 1;
    while (!atomic_load(&appender->stop) && appender->file->size < 8 << 20) {
        append(appender->file, 1 + test_random(&seed) % 3000);
        atomic_store(&appender->size, appender->file->size);
    }
    return NULL;
}

static void another_thread_appends(void)
{
    char *memory = aligned_buffer(LONGEST);
    unsigned rounds = test_scaled(2, 1);
    Rig rig = rig_new();
    for (unsigned round = 0; round < rounds; round++) {
        Growing file = growing_new(sizes[round % COUNT_OF(sizes)]);
        Appender appender = {.file = &file, .size = file.size};
        pthread_t thread;
        uint64_t seed = round;
        CHECK_EQ(pthread_create(&thread, NULL, append_until_stopped, &appender), 0);
        for (unsigned i = 0; i < test_scaled(1000, 20); i++) {
            struct iovec iov[PARTS_MAX];
            uint64_t end = atomic_load(&appender.size);
            uint64_t length = BLOCK * (1 + test_random(&seed) % (LONGEST / BLOCK));
            uint64_t offset = end / BLOCK * BLOCK;
            unsigned parts = 1 + (unsigned)(test_random(&seed) % (length / BLOCK));
            test_context("offset %llu, %llu bytes, end at %llu at least",
                         (unsigned long long)offset, (unsigned long long)length,
                         (unsigned long long)end);
            memset(memory, 0xa5, length);
            Io io = parted(file.direct, offset, memory, length, parts, iov);
            Way way = way_exists(WAY_STATE) && i % 2 ? WAY_STATE : WAY_CALLBACK;
            CHECK_EQ(way_do(way, rig, &io), 0);
            check_read(memory, offset, length, end);
        }
        atomic_store(&appender.stop, true);
        CHECK_EQ(pthread_join(thread, NULL), 0);
        growing_free(&file);
    }
    free(memory);
    rig_free(rig);
}

#define HOSTS (HOST_QEMU | HOST_PLAIN | HOST_MINIMAL | HOST_BUILTIN)

static const TestCase cases[] = {
    {"the file grows before the rest is read", the_file_grows_before_the_rest_is_read, HOSTS},
    {"a write of the same batch makes it grow", a_write_of_the_same_batch_makes_it_grow, HOSTS},
    {"another thread appends", another_thread_appends, HOSTS},
};

TEST_MAIN(cases)
