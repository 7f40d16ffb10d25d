/*
 * A program that calls io_submit from everywhere and never recurses through it. Whatever it does, it
 * must not see an EAGAIN: every request here has an eventfd that stays readable, and the ring always
 * has room.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <libaio.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include "ring.h"

enum {
    THREADS = 8,
    COROUTINES = 64,
    STACK_SIZE = 32 << 10,
};

static int file;

static __thread struct {
    io_context_t context;
    int eventfd;
    long calls;
} mine;

/* What a library does for its callers. It returns before anybody goes on. */
static __attribute__((noinline)) void one(void)
{
    char buffer[512];
    struct iocb iocb;
    struct iocb *iocbs[1] = {&iocb};
    struct io_event event;

    io_prep_pread(&iocb, file, buffer, sizeof(buffer), 0);
    io_set_eventfd(&iocb, mine.eventfd);
    assert(io_submit(mine.context, 1, iocbs) == 1);
    ring_wait(mine.context, &event);
    assert(event.res == sizeof(buffer));
    mine.calls++;
}

/* Ever deeper; what earlier calls left on the stack is not overwritten. */
static __attribute__((noinline)) void descend(int levels)
{
    char untouched[3000];

    __asm__ volatile("" ::"r"(untouched) : "memory");
    one();
    if (levels > 0) {
        descend(levels - 1);
    }
    __asm__ volatile("" ::"r"(untouched) : "memory");
}

/* A call before and one after each of two branches. */
static __attribute__((noinline)) void tree(int levels)
{
    one();
    if (levels > 0) {
        tree(levels - 1);
        one();
        tree(levels - 1);
    }
    one();
}

static __attribute__((noinline)) void at_depth(size_t bytes)
{
    char room[bytes];

    __asm__ volatile("" ::"r"(room) : "memory");
    one();
    __asm__ volatile("" ::"r"(room) : "memory");
}

static void up_and_down(void)
{
    unsigned random = 1;

    for (int i = 0; i < 2000; i++) {
        random = random * 1103515245 + 12345;
        at_depth(random / 65536 % 10000 + 1);
    }
    for (int i = 0; i < 100; i++) {
        at_depth((size_t)(i + 1) * 100);
    }
}

static void with_an_error(void)
{
    struct iocb iocb;
    struct iocb *iocbs[1] = {&iocb};

    for (int i = 0; i < 20; i++) {
        memset(&iocb, 0, sizeof(iocb));
        io_prep_pread(&iocb, -1, NULL, 0, 0);
        assert(io_submit(mine.context, 1, iocbs) == -EBADF);
        assert(io_submit(mine.context, 0, iocbs) == 0);
        assert(io_submit(mine.context, -1, iocbs) == -EINVAL);
        assert(io_submit(NULL, 1, iocbs) == -EINVAL);
        assert(io_submit(mine.context, 1, NULL) == -EFAULT);
    }
}

/* Small stacks side by side, entered from one another, each of which stays in the middle. */
static __thread struct {
    ucontext_t back;
    ucontext_t coroutines[COROUTINES];
    int current;
} chain;

static void link_in_chain(void)
{
    int here = chain.current;

    one();
    if (here + 1 < COROUTINES) {
        chain.current = here + 1;
        assert(swapcontext(&chain.coroutines[here], &chain.coroutines[here + 1]) == 0);
    }
    one();
}

static __attribute__((noinline)) void coroutines(void)
{
    size_t size = (size_t)COROUTINES * STACK_SIZE;
    char *stacks = mmap(NULL, size, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    assert(stacks != MAP_FAILED);
    for (volatile int i = 0; i < COROUTINES; i++) {
        ucontext_t *coroutine = &chain.coroutines[i];

        assert(getcontext(coroutine) == 0);
        /* Downwards, so that each lies below the one that enters it. */
        coroutine->uc_stack.ss_sp = stacks + (size_t)(COROUTINES - 1 - i) * STACK_SIZE;
        coroutine->uc_stack.ss_size = STACK_SIZE;
        coroutine->uc_link = i > 0 ? &chain.coroutines[i - 1] : &chain.back;
        makecontext(coroutine, link_in_chain, 0);
    }
    chain.current = 0;
    assert(swapcontext(&chain.back, &chain.coroutines[0]) == 0);
    assert(munmap(stacks, size) == 0);
}

static void *everything(void *unused)
{
    assert(io_setup(8, &mine.context) == 0);
    mine.eventfd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    assert(mine.eventfd >= 0);
    for (int i = 0; i < 1000; i++) {
        one();
    }
    for (int i = 0; i < 20; i++) {
        descend(100);
        tree(6);
        coroutines();
        up_and_down();
        with_an_error();
    }
    assert(mine.calls > 0);
    assert(io_destroy(mine.context) == 0);
    close(mine.eventfd);
    return unused;
}

int main(int argc, char **argv)
{
    pthread_t threads[THREADS];
    pthread_attr_t attributes;
    char zeros[512] = {0};
    char name[4096];

    if (argc != 2) {
        fprintf(stderr, "usage: steady DIRECTORY\n");
        return 2;
    }
    snprintf(name, sizeof(name), "%s/steady.XXXXXX", argv[1]);
    file = mkstemp(name);
    assert(file >= 0 && unlink(name) == 0);
    assert(write(file, zeros, sizeof(zeros)) == sizeof(zeros));

    everything(NULL);
    assert(pthread_attr_init(&attributes) == 0);
    /* glibc takes thread-locals out of the stack, and a ucontext_t of aarch64 has 4.5 KiB. */
    assert(pthread_attr_setstacksize(&attributes, (512 << 10) + sizeof(chain)) == 0);
    for (int i = 0; i < THREADS; i++) {
        assert(pthread_create(&threads[i], &attributes, everything, NULL) == 0);
    }
    for (int i = 0; i < THREADS; i++) {
        assert(pthread_join(threads[i], NULL) == 0);
    }
    return 0;
}
