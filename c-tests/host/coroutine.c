/*
 * Coroutines on ucontext, with QEMU's rules about who runs when: a coroutine that is woken from
 * within another one runs when that one yields or ends.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */
#include "host.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <ucontext.h>

#if __has_include(<valgrind/valgrind.h>)
#include <valgrind/valgrind.h>
#else
#define VALGRIND_STACK_REGISTER(start, end) 0
#define VALGRIND_STACK_DEREGISTER(id) ((void)(id))
#endif

/* The lowest page of a stack is not mapped, so that an overflow is seen. */
enum { GUARD_BYTES = 4096, STACK_BYTES = 256 * 1024 + GUARD_BYTES, POOL_MAX = 64 };

typedef struct CoroutineList {
    Coroutine *first;
    Coroutine *last;
} CoroutineList;

struct Coroutine {
    ucontext_t context;
    void *stack;
    unsigned stack_id;
    CoroutineFunc *fn;
    void *opaque;
    /* Who entered it and waits; NULL while it is not entered. */
    Coroutine *caller;
    bool ended;
    /* Those that it has woken. */
    CoroutineList woken;
    Coroutine *next;
};

/* The thread's own stack, as a coroutine that nobody entered. */
static __thread Coroutine leader;
static __thread Coroutine *current;
static __thread Coroutine *pool;
static __thread unsigned pool_size;

static void die(const char *why)
{
    fprintf(stderr, "coroutine: %s\n", why);
    abort();
}

static void list_append(CoroutineList *list, Coroutine *co)
{
    co->next = NULL;
    if (list->last) {
        list->last->next = co;
    } else {
        list->first = co;
    }
    list->last = co;
}

static Coroutine *list_pop(CoroutineList *list)
{
    Coroutine *co = list->first;
    if (co) {
        list->first = co->next;
        if (!list->first) {
            list->last = NULL;
        }
    }
    return co;
}

/* Moves all of `from` to the front of `list`. */
static void list_prepend(CoroutineList *list, CoroutineList *from)
{
    if (!from->first) {
        return;
    }
    from->last->next = list->first;
    if (!list->last) {
        list->last = from->last;
    }
    list->first = from->first;
    *from = (CoroutineList){0};
}

/* A thread's current coroutine changes under the feet of the code that runs: the address of the
 * variable must be computed again after each switch, and so not be inlined. */
static __attribute__((noinline)) Coroutine **current_place(void)
{
    if (!current) {
        current = &leader;
    }
    return &current;
}

Coroutine *coroutine_self(void)
{
    return *current_place();
}

bool in_coroutine(void)
{
    return coroutine_self()->caller != NULL;
}

bool coroutine_entered(Coroutine *co)
{
    return co->caller != NULL;
}

static void switch_to(Coroutine *from, Coroutine *to)
{
    *current_place() = to;
    if (swapcontext(&from->context, &to->context) != 0) {
        die("swapcontext failed");
    }
}

static void leave(Coroutine *co)
{
    Coroutine *to = co->caller;
    co->caller = NULL;
    switch_to(co, to);
}

/* The life of a stack: one coroutine after the other. */
static void trampoline(void)
{
    for (;;) {
        Coroutine *self = coroutine_self();
        self->fn(self->opaque);
        self->ended = true;
        leave(self);
    }
}

static Coroutine *stack_new(void)
{
    Coroutine *co = calloc(1, sizeof(*co));
    void *stack = mmap(NULL, STACK_BYTES, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
    if (!co || stack == MAP_FAILED || mprotect(stack, GUARD_BYTES, PROT_NONE) != 0 ||
        getcontext(&co->context) != 0) {
        die("no memory for a stack");
    }
    co->stack = stack;
    co->stack_id = VALGRIND_STACK_REGISTER((char *)stack + GUARD_BYTES,
                                           (char *)stack + STACK_BYTES);
    co->context.uc_stack.ss_sp = (char *)stack + GUARD_BYTES;
    co->context.uc_stack.ss_size = STACK_BYTES - GUARD_BYTES;
    makecontext(&co->context, trampoline, 0);
    return co;
}

static void stack_free(Coroutine *co)
{
    VALGRIND_STACK_DEREGISTER(co->stack_id);
    munmap(co->stack, STACK_BYTES);
    free(co);
}

Coroutine *coroutine_new(CoroutineFunc *fn, void *opaque)
{
    Coroutine *co = pool;
    if (co) {
        pool = co->next;
        pool_size--;
    } else {
        co = stack_new();
    }
    co->fn = fn;
    co->opaque = opaque;
    co->ended = false;
    return co;
}

static void give_back(Coroutine *co)
{
    if (pool_size == POOL_MAX) {
        stack_free(co);
        return;
    }
    co->next = pool;
    pool = co;
    pool_size++;
}

void coroutine_thread_done(void)
{
    while (pool) {
        Coroutine *co = pool;
        pool = co->next;
        stack_free(co);
    }
    pool_size = 0;
}

void coroutine_enter(Coroutine *co)
{
    CoroutineList pending = {0};
    list_append(&pending, co);
    while ((co = list_pop(&pending))) {
        Coroutine *self = coroutine_self();
        if (co->caller || co == self) {
            die("entered a coroutine that is entered already");
        }
        co->caller = self;
        switch_to(self, co);
        /* Whom it woke comes before those who waited longer. */
        list_prepend(&pending, &co->woken);
        if (co->ended) {
            give_back(co);
        }
    }
}

void coroutine_yield(void)
{
    Coroutine *self = coroutine_self();
    if (!self->caller) {
        die("yielded outside of any coroutine");
    }
    leave(self);
}

void coroutine_wake(Coroutine *co)
{
    if (in_coroutine()) {
        list_append(&coroutine_self()->woken, co);
    } else {
        coroutine_enter(co);
    }
}
