/*
 * Stacks of all kinds under guard mode, which has to look at them to see how deep io_submit is nested,
 * and must not touch what only might be one.
 *
 * The first of these was a crash: two coroutine stacks of 64 KiB with a guard page between, a function
 * that nests on the upper one with a variable-length array, and then one call on the lower. Guard mode
 * took both for one stack, and looked for the callers of that one call where they had been before,
 * which was now in the guard page. The others are its relatives.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <libaio.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include "ring.h"

enum {
    PAGE = 4096,
    LEVELS = 30, /* far beyond the bound */
};

static int file;
static int event;
static io_context_t context;
static int accepted;
static int refused;
/* Every request has its own, which stays as it is when it is refused. */
static __thread struct iocb requests[LEVELS + 2];
static __thread struct iocb *blocked;

static struct iocb *prepare(int index)
{
    static char buffer[512];
    struct iocb *iocb = &requests[index];

    io_prep_pread(iocb, file, buffer, sizeof(buffer), index * 512);
    io_set_eventfd(iocb, event);
    return iocb;
}

/* What QEMU does from its event loop after an EAGAIN, so that guard mode goes on as with QEMU. */
static __attribute__((noinline)) void come_back(void)
{
    struct io_event done;
    uint64_t count;

    if (blocked == NULL) {
        return;
    }
    assert(read(event, &count, sizeof(count)) == sizeof(count));
    assert(io_submit(context, 1, &blocked) == 1);
    ring_wait(context, &done);
    blocked = NULL;
    accepted++;
}

/* What lies above the stack's first function looks like calls from the one that calls io_submit. */
static bool misleading;

/* One request, and its completion. It never nests. */
static __attribute__((noinline)) void request(void)
{
    struct iocb *iocb = prepare(0);
    struct io_event done;
    int taken = io_submit(context, 1, &iocb);

    if (taken == -EAGAIN && misleading) {
        refused++;
        blocked = iocb;
        come_back();
        return;
    }
    assert(taken == 1);
    ring_wait(context, &done);
    assert(done.res == 512);
    accepted++;
}

/* Calls io_submit, and itself after it: it really is nested. The frame is as large as is asked for. */
static __attribute__((noinline)) void nest(int levels, size_t room)
{
    char array[room + 1];
    struct iocb *iocb = prepare(levels);
    struct io_event done;
    int taken;

    memset(array, levels, sizeof(array));
    __asm__ volatile("" ::"r"(array) : "memory");
    errno = ECHILD;
    taken = io_submit(context, 1, &iocb);
    assert(errno == ECHILD); /* libaio leaves it alone */
    if (taken == -EAGAIN) {
        refused++;
        blocked = iocb;
    } else {
        assert(taken == 1);
        ring_wait(context, &done);
        accepted++;
        if (levels > 1) {
            nest(levels - 1, room);
        }
    }
    __asm__ volatile("" ::"r"(array) : "memory");
}

/* Looks nested by where the calls are, and is not: so guard mode looks all the way up. */
static __attribute__((noinline)) void descend(int levels, size_t room)
{
    char array[room + 1];

    __asm__ volatile("" ::"r"(array) : "memory");
    request();
    if (levels > 1) {
        descend(levels - 1, room);
    }
    __asm__ volatile("" ::"r"(array) : "memory");
}

static char *map(size_t pages, int protection)
{
    char *memory = mmap(NULL, pages * PAGE, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                        -1, 0);

    assert(memory != MAP_FAILED);
    return memory;
}

static ucontext_t back;
static ucontext_t coroutine;

static void on(char *stack, size_t size, void (*function)(void))
{
    assert(getcontext(&coroutine) == 0);
    coroutine.uc_stack.ss_sp = stack;
    coroutine.uc_stack.ss_size = size;
    coroutine.uc_link = &back;
    makecontext(&coroutine, function, 0);
    assert(swapcontext(&back, &coroutine) == 0);
    come_back();
}

static void nested_with_array(void)
{
    nest(9, 2048);
}

static void nested_tightly(void)
{
    nest(LEVELS, 0);
}

static void one_request(void)
{
    request();
}

static void one_nest(void)
{
    nest(1, 0);
}

/* Two stacks with `gap` pages between them that cannot be read. */
static void side_by_side(size_t stack_pages, size_t gap)
{
    size_t size = stack_pages * PAGE;
    char *memory = map(2 * stack_pages + gap + 2, PROT_NONE);
    char *lower = memory + PAGE;
    char *upper = lower + size + gap * PAGE;

    assert(mprotect(lower, size, PROT_READ | PROT_WRITE) == 0);
    assert(mprotect(upper, size, PROT_READ | PROT_WRITE) == 0);
    for (int i = 0; i < 20; i++) {
        on(upper, size, nested_with_array);
        on(lower, size, one_nest);
        on(lower, size, one_request);
        on(lower, size, nested_tightly);
        on(upper, size, one_nest);
    }
    assert(munmap(memory, (2 * stack_pages + gap + 2) * PAGE) == 0);
}

static void small_stacks(void)
{
    side_by_side(16, 1);
    side_by_side(16, 0);
    side_by_side(9, 1);
    side_by_side(8, 3);
}

/* The stack that was nested on is gone; another is made below where it was. */
static void unmapped_stacks(void)
{
    for (int i = 0; i < 20; i++) {
        char *memory = map(64, PROT_READ | PROT_WRITE);

        on(memory + 32 * PAGE, 32 * PAGE, nested_with_array);
        assert(munmap(memory + 32 * PAGE, 32 * PAGE) == 0);
        on(memory, 32 * PAGE, one_nest);
        on(memory, 32 * PAGE, nested_tightly);
        assert(munmap(memory, 32 * PAGE) == 0);
    }
}

#ifdef __x86_64__
/*
 * A switch by hand to a stack whose first function is jumped to. It says that it has a return address
 * (as a compiler would of a function that does not return), but there is nothing above it.
 */
void first_function(void);
void jump_to(char *stack_pointer);
void (*first_calls)(void);
void *saved_stack_pointer;

__asm__(".text\n"
        ".globl jump_to\n"
        ".type jump_to, @function\n"
        "jump_to:\n"
        "    push %rbx\n"
        "    push %rbp\n"
        "    push %r12\n"
        "    push %r13\n"
        "    push %r14\n"
        "    push %r15\n"
        "    mov %rsp, saved_stack_pointer(%rip)\n"
        "    mov %rdi, %rsp\n"
        "    jmp first_function\n"
        ".size jump_to, . - jump_to\n"
        ".globl first_function\n"
        ".type first_function, @function\n"
        "first_function:\n"
        "    .cfi_startproc\n"
        "    sub $16, %rsp\n"
        "    .cfi_adjust_cfa_offset 16\n"
        "    call *first_calls(%rip)\n"
        "    mov saved_stack_pointer(%rip), %rsp\n"
        "    pop %r15\n"
        "    pop %r14\n"
        "    pop %r13\n"
        "    pop %r12\n"
        "    pop %rbp\n"
        "    pop %rbx\n"
        "    ret\n"
        "    .cfi_endproc\n"
        ".size first_function, . - first_function\n");

static void descend_all(void)
{
    descend(LEVELS, 100);
}

/*
 * Close below a stack that was nested on, so that the calls there look like callers. Between them there
 * is a page that cannot be read, and the lower stack ends right at it.
 */
static void bare_stacks_side_by_side(void)
{
    char *memory = map(18, PROT_NONE);
    char *lower = memory + PAGE;
    char *upper = lower + 9 * PAGE;
    void (*functions[])(void) = {descend_all, one_request, one_nest, nested_tightly};

    assert(mprotect(lower, 8 * PAGE, PROT_READ | PROT_WRITE) == 0);
    assert(mprotect(upper, 7 * PAGE, PROT_READ | PROT_WRITE) == 0);
    for (size_t f = 0; f < sizeof(functions) / sizeof(functions[0]); f++) {
        for (int i = 0; i < 20; i++) {
            first_calls = nested_with_array;
            jump_to(upper + 7 * PAGE);
            come_back();
            first_calls = functions[f];
            jump_to(lower + 8 * PAGE);
            come_back();
        }
    }
    assert(munmap(memory, 18 * PAGE) == 0);
}

/* Where the return address would be is the next page, or whatever was there. */
static void bare_stacks(void)
{
    char *memory = map(34, PROT_NONE);
    char *stack = memory + PAGE;
    size_t size = 32 * PAGE;
    uintptr_t garbage[] = {
        0,
        1,
        8,
        PAGE,
        0xdeadbeef,
        0x8000000000000000,
        UINTPTR_MAX,
        UINTPTR_MAX - 7,
        (uintptr_t)memory,
        (uintptr_t)stack,
        (uintptr_t)(stack + size),
        (uintptr_t)first_function,
        (uintptr_t)first_function + 5,
        (uintptr_t)jump_to,
        (uintptr_t)descend,
        (uintptr_t)descend + 1,
        (uintptr_t)io_submit,
        (uintptr_t)&garbage,
        (uintptr_t)nest,
        (uintptr_t)request,
    };
    void (*functions[])(void) = {descend_all, one_request, nested_with_array, nested_tightly};

    assert(mprotect(stack, size, PROT_READ | PROT_WRITE) == 0);
    misleading = true;
    for (size_t f = 0; f < sizeof(functions) / sizeof(functions[0]); f++) {
        first_calls = functions[f];
        jump_to(stack + size);
        come_back();
        for (size_t i = 0; i < sizeof(garbage) / sizeof(garbage[0]); i++) {
            for (size_t above = 1; above < 64; above++) {
                uintptr_t *top = (uintptr_t *)(stack + size) - 2 * above;

                for (size_t word = 0; word < 2 * above; word++) {
                    top[word] = garbage[i];
                }
                jump_to((char *)top);
                come_back();
            }
        }
    }
    assert(munmap(memory, 34 * PAGE) == 0);
}
#endif

/* A signal that interrupts a nesting, and nests on a stack of its own; and on the same stack. */
static void handler(int number)
{
    (void)number;
    nest(LEVELS, 0);
    come_back();
    descend(LEVELS, 0);
}

static __attribute__((noinline)) void nest_then_signal(int levels)
{
    request();
    if (levels > 1) {
        nest_then_signal(levels - 1);
    } else {
        nest(8, 0);
        raise(SIGUSR1);
    }
    __asm__ volatile("" ::: "memory");
}

static void signal_stacks(void)
{
    size_t size = 8 * PAGE;

    for (int flags = 0; flags <= SA_ONSTACK; flags += SA_ONSTACK) {
        char *memory = map(10, PROT_NONE);
        stack_t stack = {.ss_sp = memory + PAGE, .ss_size = size};
        stack_t none = {.ss_flags = SS_DISABLE};
        struct sigaction action = {.sa_handler = handler, .sa_flags = flags};

        assert(mprotect(memory + PAGE, size, PROT_READ | PROT_WRITE) == 0);
        assert(sigaltstack(&stack, NULL) == 0);
        assert(sigaction(SIGUSR1, &action, NULL) == 0);
        for (int i = 0; i < 20; i++) {
            nest_then_signal(LEVELS);
        }
        assert(sigaltstack(&none, NULL) == 0);
        assert(munmap(memory, 10 * PAGE) == 0);
    }
}

static void *nests(void *unused)
{
    nest(9, 0);
    come_back();
    descend(LEVELS, 0);
    return unused;
}

/* Each on the stack that another thread had, or near it. */
static void threads(void)
{
    pthread_attr_t attributes;

    assert(pthread_attr_init(&attributes) == 0);
    assert(pthread_attr_setstacksize(&attributes, PTHREAD_STACK_MIN) == 0);
    for (int i = 0; i < 200; i++) {
        pthread_t thread;

        assert(pthread_create(&thread, &attributes, nests, NULL) == 0);
        assert(pthread_join(thread, NULL) == 0);
    }
}

/* What the kernel answers EFAULT or EINVAL is answered so, however deep. */
static __attribute__((noinline)) void nest_then_bad(int levels)
{
    struct iocb *iocb = prepare(levels);
    char *nothing = map(2, PROT_NONE);
    struct iocb *bad[] = {NULL, (struct iocb *)8, (struct iocb *)nothing, (struct iocb *)-8,
                          (struct iocb *)0x8000000000000000};
    struct io_event done;

    for (int i = 0; levels == 1 && i < 5; i++) {
        struct iocb *bad_iocbs[1] = {bad[i]};

        assert(io_submit(context, 1, (struct iocb **)bad[i]) == -EFAULT);
        assert(io_submit(context, 1, bad_iocbs) == -EFAULT);
        assert(io_submit(context, 0, (struct iocb **)bad[i]) == 0);
        assert(io_submit(context, -1, (struct iocb **)bad[i]) == -EINVAL);
    }
    if (levels > 1) {
        assert(io_submit(context, 1, &iocb) == 1);
        ring_wait(context, &done);
        nest_then_bad(levels - 1);
    }
    assert(munmap(nothing, 2 * PAGE) == 0);
}

static void bad_arguments(void)
{
    nest_then_bad(9);
}

/* io_submit is no cancellation point. */
static void *nests_while_cancelled(void *done)
{
    assert(pthread_cancel(pthread_self()) == 0);
    nest(LEVELS, 0);
    *(bool *)done = true;
    pthread_testcancel();
    return NULL;
}

static void cancelled(void)
{
    pthread_t thread;
    bool done = false;
    void *result;

    assert(pthread_create(&thread, NULL, nests_while_cancelled, &done) == 0);
    assert(pthread_join(thread, &result) == 0);
    assert(done && result == PTHREAD_CANCELED);
}

/* How much of a stack is used; to be compared with the same without the library. */
static void nest_and_descend(void)
{
    nest(9, 0);
    come_back();
    descend(9, 0);
}

static void room(void)
{
    size_t size = 16 * PAGE;
    char *stack = map(16, PROT_READ | PROT_WRITE);
    size_t untouched = 0;

    request();
    memset(stack, 0xa5, size);
    on(stack, size, nest_and_descend);
    while (stack[untouched] == (char)0xa5) {
        untouched++;
    }
    printf("%zu\n", size - untouched);
    assert(munmap(stack, size) == 0);
}

static const struct {
    const char *name;
    void (*function)(void);
} tests[] = {
    {"small", small_stacks},
    {"unmapped", unmapped_stacks},
#ifdef __x86_64__
    {"bare", bare_stacks},
    {"bare-side-by-side", bare_stacks_side_by_side},
#endif
    {"signal", signal_stacks},
    {"threads", threads},
    {"arguments", bad_arguments},
    {"cancelled", cancelled},
    {"room", room},
};

/* stacks FILE TEST: a file of 32 KiB. */
int main(int argc, char **argv)
{
    assert(argc == 3);
    file = open(argv[1], O_RDONLY | O_CLOEXEC);
    event = eventfd(1, EFD_NONBLOCK | EFD_CLOEXEC);
    assert(file >= 0 && event >= 0);
    assert(io_setup(64, &context) == 0);
    for (size_t i = 0; i < sizeof(tests) / sizeof(tests[0]); i++) {
        if (strcmp(argv[2], tests[i].name) == 0) {
            tests[i].function();
            printf("%d accepted, %d refused\n", accepted, refused);
            return 0;
        }
    }
    return 77; /* not on this architecture */
}
