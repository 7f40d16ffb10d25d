/*
 * A write across RLIMIT_FSIZE is short where the limit is. Continuing it there is a write beyond the
 * limit, for which the kernel sends SIGXFSZ: that killed a process which QEMU's own engine gives
 * -ENOSPC, and with the signal ignored the result was -EFBIG. Right is -ENOSPC, with what fits
 * written, and no signal.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */
#include "rig.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

enum { LIMIT = 1 << 20, PARTS = 4, BYTES = PARTS * 2 * BLOCK };

static volatile sig_atomic_t signals;

static void count_signal(int number)
{
    (void)number;
    signals++;
}

static void limit_files(rlim_t bytes)
{
    struct rlimit limit;
    CHECK_EQ(getrlimit(RLIMIT_FSIZE, &limit), 0);
    limit.rlim_cur = bytes;
    CHECK_EQ(setrlimit(RLIMIT_FSIZE, &limit), 0);
}

static void write_across(Rig rig, Way way, int flags, rlim_t limit, size_t fits, bool parted,
                         BdrvRequestFlags fua)
{
    int fd = test_file(flags);
    char *data = aligned_buffer(BYTES), *back = aligned_buffer(BYTES);
    uint64_t offset = limit - fits;
    struct iovec iov[PARTS];
    LaioStats before = state_stats(rig.state);
    test_context("way %d, flags %#x, %zu bytes fit below %llu, parted %d, fua %d", way, flags, fits,
                 (unsigned long long)limit, parted, fua);
    for (int i = 0; i < BYTES; i++) {
        data[i] = (char)(1 + i % 127);
    }
    Io io = io_of(QEMU_AIO_WRITE, fd, offset, data, BYTES);
    io.flags = fua;
    if (parted) {
        for (int i = 0; i < PARTS; i++) {
            iov[i] = (struct iovec){data + i * BYTES / PARTS, BYTES / PARTS};
        }
        io.iov = iov;
        io.iovcnt = PARTS;
    }
    limit_files(limit);
    int result = way_do(way, rig, &io);
    limit_files(RLIM_INFINITY);
    CHECK_EQ(result, -ENOSPC);
    struct stat status;
    CHECK_EQ(fstat(fd, &status), 0);
    CHECK_EQ(status.st_size, limit);
    int buffered = test_reopen(fd, O_RDONLY);
    CHECK_EQ(pread(buffered, back, fits, (off_t)offset), fits);
    CHECK(memcmp(back, data, fits) == 0);
    CHECK_EQ(state_stats(rig.state).failed, before.failed + 1);

    /* The state goes on, below the limit and, without one, beyond. */
    limit_files(limit);
    io = io_of(QEMU_AIO_WRITE, fd, 0, data, BYTES);
    CHECK_EQ(way_do(way, rig, &io), 0);
    limit_files(RLIM_INFINITY);
    io = io_of(QEMU_AIO_WRITE, fd, LIMIT, data, BYTES);
    CHECK_EQ(way_do(way, rig, &io), 0);
    free(data);
    free(back);
    close(buffered);
    close(fd);
}

static void write_across_each(void)
{
    Rig rig = rig_new();
    FOR_EACH_WAY(way) {
        for (int variant = 0; variant < 4; variant++) {
            bool parted = variant & 1;
            BdrvRequestFlags fua = variant & 2 && laio_has_fua() ? BDRV_REQ_FUA : 0;
            write_across(rig, way, 0, LIMIT, BLOCK, parted, fua);
            write_across(rig, way, 0, LIMIT, BYTES - BLOCK, parted, fua);
            /* A limit that no device knows. */
            write_across(rig, way, 0, LIMIT - 1000, 1, parted, fua);
            write_across(rig, way, 0, LIMIT - 1000, 3 * BLOCK + 17, parted, fua);
            write_across(rig, way, O_DIRECT, LIMIT, BLOCK, parted, fua);
            write_across(rig, way, O_DIRECT, LIMIT, BYTES - BLOCK, parted, fua);
        }
    }
    rig_free(rig);
    EXPECT_NO_LOG();
}

static void a_write_across_the_limit_kills_nobody(void)
{
    signal(SIGXFSZ, SIG_DFL);
    write_across_each();
}

static void a_write_across_the_limit_with_the_signal_ignored(void)
{
    signal(SIGXFSZ, SIG_IGN);
    write_across_each();
}

static void a_write_across_the_limit_sends_no_signal(void)
{
    struct sigaction action = {.sa_handler = count_signal};
    CHECK_EQ(sigaction(SIGXFSZ, &action, NULL), 0);
    write_across_each();
    CHECK_EQ(signals, 0);
}

#define HOSTS (HOST_QEMU | HOST_PLAIN | HOST_MINIMAL | HOST_BUILTIN)

static const TestCase cases[] = {
    {"a write across the limit kills nobody", a_write_across_the_limit_kills_nobody, HOSTS},
    {"a write across the limit with the signal ignored",
     a_write_across_the_limit_with_the_signal_ignored, HOSTS},
    {"a write across the limit sends no signal", a_write_across_the_limit_sends_no_signal, HOSTS},
};

TEST_MAIN(cases)
