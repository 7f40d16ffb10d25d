/*
 * What single requests do, in every kind of host and in every way to submit.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */
#include "rig.h"

#include <fcntl.h>
#include <linux/aio_abi.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static void fill(void *buffer, size_t bytes, uint64_t seed)
{
    unsigned char *byte = buffer;
    for (size_t i = 0; i < bytes; i++) {
        byte[i] = (unsigned char)test_random(&seed);
    }
}

static void check_same(const void *a, const void *b, size_t bytes)
{
    if (memcmp(a, b, bytes) != 0) {
        const unsigned char *x = a, *y = b;
        size_t at = 0;
        while (x[at] == y[at]) {
            at++;
        }
        FAIL("byte %zu is %#x and should be %#x", at, x[at], y[at]);
    }
}

static void check_zero(const void *buffer, size_t bytes)
{
    const unsigned char *byte = buffer;
    for (size_t i = 0; i < bytes; i++) {
        if (byte[i] != 0) {
            FAIL("byte %zu is %#x and should be zero", i, byte[i]);
        }
    }
}

static void put(int fd, const void *buffer, size_t bytes, off_t offset)
{
    CHECK_EQ(pwrite(fd, buffer, bytes, offset), bytes);
}

static void read_gets_what_the_file_holds(void)
{
    Rig rig = rig_new();
    int fd = test_file(0);
    int direct = test_reopen(fd, O_RDONLY | O_DIRECT);
    char *content = aligned_buffer(8 * BLOCK), *buffer = aligned_buffer(4 * BLOCK);
    fill(content, 8 * BLOCK, 1);
    put(fd, content, 8 * BLOCK, 0);
    FOR_EACH_WAY(way) {
        for (int i = 0; i < 2; i++) {
            memset(buffer, 0, 4 * BLOCK);
            Io io = io_of(QEMU_AIO_READ, i ? direct : fd, 2 * BLOCK, buffer, 4 * BLOCK);
            CHECK_EQ(way_do(way, rig, &io), 0);
            check_same(buffer, content + 2 * BLOCK, 4 * BLOCK);
        }
    }
    CHECK_EQ(state_stats(rig.state).failed, 0);
    CHECK_EQ(state_stats(rig.state).retried, 0);
    free(content);
    free(buffer);
    close(direct);
    close(fd);
    rig_free(rig);
}

static void write_changes_exactly_its_bytes(void)
{
    Rig rig = rig_new();
    int fd = test_file(0);
    int direct = test_reopen(fd, O_RDWR | O_DIRECT);
    char *buffer = aligned_buffer(BLOCK), *found = aligned_buffer(3 * BLOCK);
    CHECK_EQ(ftruncate(fd, 3 * BLOCK), 0);
    uint64_t seed = 7;
    FOR_EACH_WAY(way) {
        for (int i = 0; i < 2; i++) {
            fill(buffer, BLOCK, seed++);
            Io io = io_of(QEMU_AIO_WRITE, i ? direct : fd, BLOCK, buffer, BLOCK);
            CHECK_EQ(way_do(way, rig, &io), 0);
            CHECK_EQ(pread(fd, found, 3 * BLOCK, 0), 3 * BLOCK);
            check_zero(found, BLOCK);
            check_same(found + BLOCK, buffer, BLOCK);
            check_zero(found + 2 * BLOCK, BLOCK);
        }
    }
    free(buffer);
    free(found);
    close(direct);
    close(fd);
    rig_free(rig);
}

static void flush_needs_no_vector(void)
{
    Rig rig = rig_new();
    int fd = test_file(0);
    CHECK(laio_has_fdsync(fd));
    FOR_EACH_WAY(way) {
        Io io = io_of(QEMU_AIO_FLUSH, fd, 0, NULL, 0);
        CHECK_EQ(way_do(way, rig, &io), 0);
    }
    Io io = {0};
    CHECK_EQ(laio_state_submit(rig.state, fd, 0, NULL, 0, QEMU_AIO_FLUSH, 0, 0, io_completed, &io),
             0);
    io_finish(rig.ctx, &io, 1);
    CHECK_EQ(io.ret, 0);
    close(fd);
    rig_free(rig);
}

static int co_flush_without_vector_ret;

static void co_flush_without_vector(void *opaque)
{
    co_flush_without_vector_ret = laio_co_submit(*(int *)opaque, 0, NULL, QEMU_AIO_FLUSH, 0, 0);
}

static void flush_by_coroutine_may_come_without_vector(void)
{
    Rig rig = rig_new();
    int fd = test_file(0);
    co_flush_without_vector_ret = 1;
    if (host->builtin) {
        co_flush_without_vector(&fd);
    } else {
        coroutine_enter(coroutine_new(co_flush_without_vector, &fd));
    }
    while (co_flush_without_vector_ret == 1) {
        CHECK(host_poll(rig.ctx, true));
    }
    CHECK_EQ(co_flush_without_vector_ret, 0);
    close(fd);
    rig_free(rig);
}

static void flush_of_a_pipe_is_einval(void)
{
    Rig rig = rig_new();
    int ends[2];
    CHECK_EQ(pipe(ends), 0);
    CHECK(!laio_has_fdsync(ends[0]));
    FOR_EACH_WAY(way) {
        Io io = io_of(QEMU_AIO_FLUSH, ends[1], 0, NULL, 0);
        CHECK_EQ(way_do(way, rig, &io), -EINVAL);
    }
    close(ends[0]);
    close(ends[1]);
    rig_free(rig);
}

static void fua_write_writes(void)
{
    Rig rig = rig_new();
    int fd = test_file(0);
    char *buffer = aligned_buffer(BLOCK), *found = aligned_buffer(BLOCK);
    CHECK(laio_has_fua());
    uint64_t seed = 70;
    FOR_EACH_WAY(way) {
        fill(buffer, BLOCK, seed++);
        Io io = io_of(QEMU_AIO_WRITE, fd, 0, buffer, BLOCK);
        io.flags = BDRV_REQ_FUA;
        CHECK_EQ(way_do(way, rig, &io), 0);
        CHECK_EQ(pread(fd, found, BLOCK, 0), BLOCK);
        check_same(found, buffer, BLOCK);
        /* QEMU hands flags to reads and flushes too; RWF_DSYNC there would be an error. */
        Io read = io_of(QEMU_AIO_READ, fd, 0, found, BLOCK);
        read.flags = BDRV_REQ_FUA;
        CHECK_EQ(way_do(way, rig, &read), 0);
        Io flush = io_of(QEMU_AIO_FLUSH, fd, 0, NULL, 0);
        flush.flags = BDRV_REQ_FUA;
        CHECK_EQ(way_do(way, rig, &flush), 0);
    }
    free(buffer);
    free(found);
    close(fd);
    rig_free(rig);
}

/* Bytes of the file's first page, which is mapped at `page`, that are not on storage yet. */
static unsigned long dirty_kilobytes(const void *page)
{
    char line[512];
    unsigned long start, end, dirty = 0, kilobytes;
    bool ours = false;
    FILE *smaps = fopen("/proc/self/smaps", "re");
    CHECK(smaps);
    while (fgets(line, sizeof(line), smaps)) {
        if (sscanf(line, "%lx-%lx ", &start, &end) == 2) {
            ours = start == (uintptr_t)page;
        } else if (ours && (sscanf(line, "Private_Dirty: %lu", &kilobytes) == 1 ||
                            sscanf(line, "Shared_Dirty: %lu", &kilobytes) == 1)) {
            dirty += kilobytes;
        }
    }
    fclose(smaps);
    return dirty;
}

/* Without the flag a write only dirties the page cache, and the system writes it back much later. */
static void fua_write_is_on_storage(void)
{
    enum { TRIES = 1000 };
    Rig rig = rig_new();
    int fd = test_file(0);
    char *buffer = aligned_buffer(BLOCK);
    CHECK_EQ(ftruncate(fd, BLOCK), 0);
    volatile char *page = mmap(NULL, BLOCK, PROT_READ, MAP_SHARED, fd, 0);
    CHECK(page != MAP_FAILED);
    FOR_EACH_WAY(way) {
        Io io = io_of(QEMU_AIO_WRITE, fd, 0, buffer, BLOCK);
        unsigned tries = 0;
        do {
            CHECK(++tries <= TRIES);
            CHECK_EQ(way_do(way, rig, &io), 0);
            (void)page[0];
        } while (dirty_kilobytes((const void *)page) == 0);
        io.flags = BDRV_REQ_FUA;
        CHECK_EQ(way_do(way, rig, &io), 0);
        (void)page[0];
        CHECK_EQ(dirty_kilobytes((const void *)page), 0);
    }
    munmap((void *)page, BLOCK);
    free(buffer);
    close(fd);
    rig_free(rig);
}

static void zone_append_writes_at_its_offset(void)
{
    Rig rig = rig_new();
    int fd = test_file(0);
    char *buffer = aligned_buffer(BLOCK), *found = aligned_buffer(BLOCK);
    uint64_t seed = 700;
    FOR_EACH_WAY(way) {
        fill(buffer, BLOCK, seed++);
        Io io = io_of(QEMU_AIO_ZONE_APPEND, fd, 5 * BLOCK, buffer, BLOCK);
        CHECK_EQ(way_do(way, rig, &io), 0);
        CHECK_EQ(pread(fd, found, BLOCK, 5 * BLOCK), BLOCK);
        check_same(found, buffer, BLOCK);
    }
    free(buffer);
    free(found);
    close(fd);
    rig_free(rig);
}

static void vectors_are_scattered_and_gathered(void)
{
    enum { PARTS = 5, BYTES = 700 + 0 + 1 + 3000 + 395 };
    Rig rig = rig_new();
    int fd = test_file(0);
    char *memory = aligned_buffer(4 * BLOCK), *content = aligned_buffer(BLOCK);
    struct iovec iov[PARTS] = {
        {memory + 8000, 700}, {memory, 0},          {memory + 9999, 1},
        {memory + 100, 3000}, {memory + 4000, 395},
    };
    uint64_t seed = 17;
    FOR_EACH_WAY(way) {
        fill(content, BYTES, seed++);
        put(fd, content, BYTES, 33);
        memset(memory, 0, 4 * BLOCK);
        Io io = io_of(QEMU_AIO_READ, fd, 33, NULL, 0);
        io.iov = iov;
        io.iovcnt = PARTS;
        CHECK_EQ(way_do(way, rig, &io), 0);
        size_t at = 0;
        for (int i = 0; i < PARTS; i++) {
            check_same(iov[i].iov_base, content + at, iov[i].iov_len);
            at += iov[i].iov_len;
        }
        fill(memory, 4 * BLOCK, seed++);
        io.type = QEMU_AIO_WRITE;
        CHECK_EQ(way_do(way, rig, &io), 0);
        CHECK_EQ(pread(fd, content, BYTES, 33), BYTES);
        at = 0;
        for (int i = 0; i < PARTS; i++) {
            check_same(content + at, iov[i].iov_base, iov[i].iov_len);
            at += iov[i].iov_len;
        }
    }
    free(memory);
    free(content);
    close(fd);
    rig_free(rig);
}

static void read_beyond_the_end(bool direct)
{
    const off_t size = 2 * BLOCK + 1234;
    Rig rig = rig_new();
    int fd = test_file(0);
    char *content = aligned_buffer(3 * BLOCK), *buffer = aligned_buffer(4 * BLOCK);
    fill(content, (size_t)size, 99);
    put(fd, content, (size_t)size, 0);
    int reader = test_reopen(fd, O_RDONLY | (direct ? O_DIRECT : 0));
    unsigned short_reads = 0;
    FOR_EACH_WAY(way) {
        memset(buffer, 0xee, 4 * BLOCK);
        Io io = io_of(QEMU_AIO_READ, reader, BLOCK, buffer, 4 * BLOCK);
        CHECK_EQ(way_do(way, rig, &io), 0);
        check_same(buffer, content + BLOCK, BLOCK + 1234);
        check_zero(buffer + BLOCK + 1234, 3 * BLOCK - 1234);
        CHECK_EQ(state_stats(rig.state).retried, ++short_reads);

        memset(buffer, 0xee, 4 * BLOCK);
        Io behind = io_of(QEMU_AIO_READ, reader, 16 * BLOCK, buffer, BLOCK);
        CHECK_EQ(way_do(way, rig, &behind), 0);
        check_zero(buffer, BLOCK);
    }
    /* The end of the file within a vector of several parts. */
    memset(buffer, 0xee, 4 * BLOCK);
    struct iovec parts[] = {{buffer + 2 * BLOCK, 2 * BLOCK}, {buffer, BLOCK}};
    Io io = io_of(QEMU_AIO_READ, reader, BLOCK, NULL, 0);
    io.iov = parts;
    io.iovcnt = 2;
    CHECK_EQ(way_do(WAY_CALLBACK, rig, &io), 0);
    check_same(buffer + 2 * BLOCK, content + BLOCK, BLOCK + 1234);
    check_zero(buffer + 3 * BLOCK + 1234, BLOCK - 1234);
    check_zero(buffer, BLOCK);
    CHECK_EQ(buffer[BLOCK], (char)0xee);
    free(content);
    free(buffer);
    close(reader);
    close(fd);
    rig_free(rig);
}

static void short_read_is_filled_with_zeros(void)
{
    read_beyond_the_end(false);
}

static void short_read_is_filled_with_zeros_with_o_direct(void)
{
    read_beyond_the_end(true);
}

/* What the kernel itself answers to one write by Linux AIO. */
static int linux_aio_answer(int fd, void *buffer, size_t bytes)
{
    aio_context_t context = 0;
    struct iocb write = {
        .aio_lio_opcode = IOCB_CMD_PWRITE,
        .aio_fildes = (uint32_t)fd,
        .aio_buf = (uintptr_t)buffer,
        .aio_nbytes = bytes,
    };
    struct iocb *list[] = {&write};
    struct io_event event = {0};
    CHECK_EQ(syscall(SYS_io_setup, 1, &context), 0);
    int answer = syscall(SYS_io_submit, context, 1, list) == 1 ? 0 : -errno;
    if (answer == 0) {
        CHECK_EQ(syscall(SYS_io_getevents, context, 1, 1, &event, NULL), 1);
        answer = (int)event.res;
    }
    syscall(SYS_io_destroy, context);
    return answer;
}

/*
 * ENOSPC by io_uring, which calls write() of a driver that has no asynchronous writes. Linux AIO wants
 * these of /dev/full, and answers EINVAL where the kernel's has none.
 */
static void dev_full_is_what_the_kernel_says(void)
{
    Rig rig = rig_new();
    int fd = open("/dev/full", O_RDWR | O_CLOEXEC);
    CHECK_GE(fd, 0);
    char buffer[BLOCK];
    memset(buffer, 1, sizeof(buffer));
    bool is_uring = laio_state_kernel(rig.state) == LAIO_KERNEL_IO_URING;
    int expected = is_uring ? -ENOSPC : linux_aio_answer(fd, buffer, sizeof(buffer));
    CHECK(expected == -ENOSPC || expected == -EINVAL);
    FOR_EACH_WAY(way) {
        Io io = io_of(QEMU_AIO_WRITE, fd, 0, buffer, sizeof(buffer));
        CHECK_EQ(way_do(way, rig, &io), expected);
    }
    CHECK_EQ(state_stats(rig.state).failed, state_stats(rig.state).completed);
    close(fd);
    rig_free(rig);
}

/* Writes `text` to a file of /proc/self. */
static void put_text(const char *name, const char *text)
{
    int fd = open(name, O_WRONLY | O_CLOEXEC);
    CHECK_GE(fd, 0);
    CHECK_EQ(write(fd, text, strlen(text)), strlen(text));
    close(fd);
}

/* A file system of its own for this process, of `bytes`; needs root, or a user namespace. */
static int file_on_a_small_file_system(size_t bytes)
{
    char options[64], uid_map[64], gid_map[64];
    snprintf(options, sizeof(options), "size=%zu", bytes);
    if (unshare(CLONE_NEWNS) != 0) {
        snprintf(uid_map, sizeof(uid_map), "0 %u 1", geteuid());
        snprintf(gid_map, sizeof(gid_map), "0 %u 1", getegid());
        if (unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0) {
            FAIL("needs root or a user namespace, to mount a small tmpfs: %s", strerror(errno));
        }
        put_text("/proc/self/uid_map", uid_map);
        put_text("/proc/self/setgroups", "deny");
        put_text("/proc/self/gid_map", gid_map);
    }
    CHECK_EQ(mount("none", "/", "none", MS_REC | MS_PRIVATE, NULL), 0);
    CHECK_EQ(mount("small", "/tmp", "tmpfs", 0, options), 0);
    int fd = open("/tmp/file", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    CHECK_GE(fd, 0);
    return fd;
}

static void full_file_system_is_enospc_after_what_still_went_in(void)
{
    enum { SPACE = 16 * BLOCK };
    Rig rig = rig_new();
    int fd = file_on_a_small_file_system(SPACE);
    char *content = aligned_buffer(3 * SPACE / 2), *found = aligned_buffer(SPACE);
    uint64_t seed = 4;
    FOR_EACH_WAY(way) {
        CHECK_EQ(ftruncate(fd, 0), 0);
        fill(content, 3 * SPACE / 2, seed++);
        uint64_t retried = state_stats(rig.state).retried;
        Io too_long = io_of(QEMU_AIO_WRITE, fd, 0, content, 3 * SPACE / 2);
        CHECK_EQ(way_do(way, rig, &too_long), -ENOSPC);
        CHECK_EQ(state_stats(rig.state).retried, retried + 1);
        CHECK_EQ(pread(fd, found, SPACE, 0), SPACE);
        check_same(found, content, SPACE);

        CHECK_EQ(ftruncate(fd, 0), 0);
        Io append = too_long;
        append.type = QEMU_AIO_ZONE_APPEND;
        CHECK_EQ(way_do(way, rig, &append), -ENOSPC);
        CHECK_EQ(state_stats(rig.state).retried, retried + 1);

        Io full = io_of(QEMU_AIO_WRITE, fd, 2 * SPACE, content, BLOCK);
        CHECK_EQ(way_do(way, rig, &full), -ENOSPC);
    }
    free(content);
    free(found);
    close(fd);
    rig_free(rig);
}

static void closed_descriptor_is_ebadf(void)
{
    Rig rig = rig_new();
    int fd = test_closed_descriptor();
    char buffer[BLOCK] = {0};
    FOR_EACH_WAY(way) {
        for (int i = 0; i < 3; i++) {
            const int types[] = {QEMU_AIO_READ, QEMU_AIO_WRITE, QEMU_AIO_FLUSH};
            Io io = io_of(types[i], fd, 0, buffer, sizeof(buffer));
            CHECK_EQ(way_do(way, rig, &io), -EBADF);
        }
    }
    rig_free(rig);
}

static void misaligned_o_direct_is_einval(void)
{
    Rig rig = rig_new();
    int fd = test_file(O_DIRECT);
    char *buffer = aligned_buffer(2 * BLOCK);
    /* Not in a hole: there are no blocks to be misaligned with. */
    put(fd, buffer, 2 * BLOCK, 0);
    FOR_EACH_WAY(way) {
        Io offset = io_of(QEMU_AIO_READ, fd, 1, buffer, BLOCK);
        CHECK_EQ(way_do(way, rig, &offset), -EINVAL);
        Io length = io_of(QEMU_AIO_WRITE, fd, 0, buffer, 100);
        CHECK_EQ(way_do(way, rig, &length), -EINVAL);
        Io memory = io_of(QEMU_AIO_READ, fd, 0, buffer + 1, BLOCK);
        CHECK_EQ(way_do(way, rig, &memory), -EINVAL);
        Io good = io_of(QEMU_AIO_READ, fd, 0, buffer, BLOCK);
        CHECK_EQ(way_do(way, rig, &good), 0);
    }
    free(buffer);
    close(fd);
    rig_free(rig);
}

static void write_to_a_read_only_descriptor_is_ebadf(void)
{
    Rig rig = rig_new();
    int fd = test_file(0);
    int reader = test_reopen(fd, O_RDONLY);
    char buffer[BLOCK];
    memset(buffer, 1, sizeof(buffer));
    FOR_EACH_WAY(way) {
        Io io = io_of(QEMU_AIO_WRITE, reader, 0, buffer, sizeof(buffer));
        CHECK_EQ(way_do(way, rig, &io), -EBADF);
    }
    close(reader);
    close(fd);
    rig_free(rig);
}

/* io_submit(2) stops at the bad one and speaks of it alone. */
static void only_the_bad_one_of_a_batch_fails(void)
{
    enum { COUNT = 30 };
    Rig rig = rig_new();
    int fd = test_file(0);
    int closed = test_closed_descriptor();
    char *content = aligned_buffer(COUNT * 512), *buffer = aligned_buffer(COUNT * 512);
    fill(content, COUNT * 512, 5);
    put(fd, content, COUNT * 512, 0);
    for (unsigned bad_mask = 1; bad_mask < 1u << COUNT; bad_mask = bad_mask * 5 + 1) {
        Io ios[COUNT];
        memset(buffer, 0, COUNT * 512);
        laio_state_io_plug(rig.state);
        for (unsigned i = 0; i < COUNT; i++) {
            ios[i] = io_of(QEMU_AIO_READ, bad_mask >> i & 1 ? closed : fd, i * 512,
                           buffer + i * 512, 512);
            io_start(rig.state, &ios[i]);
        }
        laio_state_io_unplug(rig.state, 0);
        io_finish(rig.ctx, ios, COUNT);
        for (unsigned i = 0; i < COUNT; i++) {
            bool bad = bad_mask >> i & 1;
            CHECK_EQ(ios[i].ret, bad ? -EBADF : 0);
            if (!bad) {
                check_same(buffer + i * 512, content + i * 512, 512);
            }
        }
    }
    free(content);
    free(buffer);
    close(fd);
    rig_free(rig);
}

static const TestCase cases[] = {
    {"read gets what the file holds", read_gets_what_the_file_holds, HOST_HEARING},
    {"write changes exactly its bytes", write_changes_exactly_its_bytes, HOST_HEARING},
    {"flush needs no vector", flush_needs_no_vector, HOST_HEARING},
    {"flush by coroutine may come without vector", flush_by_coroutine_may_come_without_vector,
     HOST_HEARING & ~HOST_MINIMAL},
    {"flush of a pipe is EINVAL", flush_of_a_pipe_is_einval, HOST_HEARING},
    {"FUA write writes", fua_write_writes, HOST_HEARING},
    {"FUA write is on storage", fua_write_is_on_storage, HOST_HEARING},
    {"zone append writes at its offset", zone_append_writes_at_its_offset, HOST_HEARING},
    {"vectors are scattered and gathered", vectors_are_scattered_and_gathered, HOST_HEARING},
    {"short read is filled with zeros", short_read_is_filled_with_zeros, HOST_HEARING},
    {"short read is filled with zeros with O_DIRECT", short_read_is_filled_with_zeros_with_o_direct,
     HOST_HEARING},
    {"/dev/full is what the kernel says", dev_full_is_what_the_kernel_says, HOST_HEARING},
    {"full file system is ENOSPC after what still went in",
     full_file_system_is_enospc_after_what_still_went_in, HOST_HEARING},
    {"closed descriptor is EBADF", closed_descriptor_is_ebadf, HOST_HEARING},
    {"misaligned O_DIRECT is EINVAL", misaligned_o_direct_is_einval, HOST_HEARING},
    {"write to a read-only descriptor is EBADF", write_to_a_read_only_descriptor_is_ebadf,
     HOST_HEARING},
    {"only the bad one of a batch fails", only_the_bad_one_of_a_batch_fails, HOST_HEARING},
};

TEST_MAIN(cases)
