/*
 * How much stack the engine takes for each level of nested submission.
 *
 * Each completion notes where its frame begins. The distance from one level to the next is the
 * engine's, and that of the host's and the test's own functions in between, so that it is at least
 * what it should be compared with.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */
#include "rig.h"

#include <unistd.h>

/* The promise of laio_set_max_submit_depth(). */
enum { LEVEL_BYTES_MAX = 1024, LEVELS = 64 };

/* The address just above the calling function's frame. */
#define FRAME_TOP() ((uintptr_t)__builtin_dwarf_cfa())

typedef struct Stack {
    Rig rig;
    int fd;
    struct iovec iov;
    uint64_t dev_max_batch;
    unsigned left;
    /* By depth: where the completion's frame begins. */
    uintptr_t entered_at[LEVELS + 1];
} Stack;

static __attribute__((noinline)) void stack_completed(void *opaque, int ret);

static __attribute__((noinline)) void stack_submit(Stack *stack)
{
    stack->left--;
    CHECK_EQ(laio_state_submit(stack->rig.state, stack->fd, 0, &stack->iov, 1, QEMU_AIO_READ, 0,
                               stack->dev_max_batch, stack_completed, stack),
             0);
}

static void stack_completed(void *opaque, int ret)
{
    Stack *stack = opaque;
    unsigned depth = laio_submit_depth();
    CHECK_EQ(ret, 0);
    CHECK_GE(depth, 1);
    CHECK_LE(depth, LEVELS);
    stack->entered_at[depth] = FRAME_TOP();
    if (stack->left > 0) {
        stack_submit(stack);
    }
}

/* The largest distance from one level to the next. */
static void measure(uint64_t dev_max_batch, const char *what)
{
    CHECK_EQ(laio_set_max_submit_depth(LEVELS), 0);
    Stack stack = {.rig = rig_new(),
                   .fd = hole_file(),
                   .iov = {aligned_buffer(BLOCK), BLOCK},
                   .dev_max_batch = dev_max_batch,
                   .left = LEVELS};
    /* One descent, to the bound and no further. */
    stack_submit(&stack);
    CHECK_EQ(stack.left, 0);
    CHECK_EQ(state_stats(stack.rig.state).at_bound, 0);
    CHECK_EQ(state_stats(stack.rig.state).completed, LEVELS);
    uintptr_t most = 0;
    for (unsigned depth = 2; depth <= LEVELS; depth++) {
        CHECK(stack.entered_at[depth] < stack.entered_at[depth - 1]);
        uintptr_t bytes = stack.entered_at[depth - 1] - stack.entered_at[depth];
        most = bytes > most ? bytes : most;
    }
    test_note("%s: %zu bytes a level, at most", what, (size_t)most);
    CHECK_LE(most, LEVEL_BYTES_MAX);
    free(stack.iov.iov_base);
    close(stack.fd);
    rig_free(stack.rig);
}

/* The section of completions ends, and submits what gathered. The completion has returned. */
static void a_level_takes_at_most_a_kilobyte(void)
{
    measure(0, "by the end of a section");
}

/* A full batch is submitted from within the completion that fills it: its frames, of this test,
 * are in the distance too. */
static void a_level_of_full_batches_takes_at_most_a_kilobyte(void)
{
    measure(1, "by a full batch");
}

static const TestCase cases[] = {
    {"a level takes at most a kilobyte", a_level_takes_at_most_a_kilobyte,
     HOST_QEMU | HOST_STRICT | HOST_PLAIN | HOST_MINIMAL | HOST_BUILTIN},
    {"a level of full batches takes at most a kilobyte",
     a_level_of_full_batches_takes_at_most_a_kilobyte,
     HOST_QEMU | HOST_STRICT | HOST_PLAIN | HOST_MINIMAL | HOST_BUILTIN},
};

TEST_MAIN(cases)
