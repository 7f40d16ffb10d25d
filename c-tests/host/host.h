/*
 * A host like QEMU, for the tests: event loops, bottom halves, event notifiers, coroutines and
 * deferred calls, given to the library through laio_set_host_ops(). It knows only laio.h.
 *
 * One process has one host, and there are many kinds of hosts. A HostVariant says which this is.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */
#ifndef HOST_H
#define HOST_H

#include <laio.h>

/* What becomes of a signal of the library's eventfd. */
typedef enum HostDelivery {
    DELIVER_ONCE,
    DELIVER_TWICE, /* io_read is called a second time, with nothing to read */
    DELIVER_NEVER,
} HostDelivery;

typedef enum HostPolling {
    POLL_NEVER,
    POLL_ADAPTIVELY, /* for a while, then wait */
    POLL_ONLY,       /* never wait */
} HostPolling;

typedef enum HostDeferral {
    DEFER_NONE, /* no hooks: the library gathers submissions itself */
    /* As QEMU: calls stay in the list while they run, and a section that ends meanwhile makes
     * them all again. */
    DEFER_AS_QEMU,
    DEFER_STRICTLY_ONCE,
} HostDeferral;

typedef struct HostVariant {
    const char *name;
    bool builtin; /* no hooks at all */
    bool by_fd;   /* and whoever waits does so outside, by laio_loop_get_fd() */
    bool minimal; /* without the optional hooks, `log` and `error_set` among them */
    bool coroutines;
    bool lock; /* as QEMU up to 8.2: completions run under a lock of the context */
    HostDeferral deferral;
    HostDelivery delivery;
    HostPolling polling;
} HostVariant;

/* One bit for each variant, for sets of them. */
enum {
    HOST_QEMU = 1 << 0,
    HOST_STRICT = 1 << 1,
    HOST_PLAIN = 1 << 2,
    HOST_MINIMAL = 1 << 3,
    HOST_TWICE = 1 << 4,
    HOST_ADAPTIVE = 1 << 5,
    HOST_POLLED = 1 << 6,
    HOST_LOCK = 1 << 7,
    HOST_UNASKED = 1 << 8, /* the built-in one, of which nobody wants the descriptor */
    HOST_ASKED = 1 << 9,   /* it, when the program waits by its descriptor */
    HOST_BUILTIN = HOST_UNASKED | HOST_ASKED,
    HOST_DEAF = 1 << 10,       /* the eventfd is never delivered, and nothing polls */
    HOST_DEAF_PLAIN = 1 << 11, /* the same, without deferral hooks */
};
#define HOST_VARIANTS 12
/* Those that see every completion. */
#define HOST_HEARING (HOST_DEAF - 1)
#define HOST_ANY ((1 << HOST_VARIANTS) - 1)

extern const HostVariant host_variants[HOST_VARIANTS];

/* The variant of this process. */
extern const HostVariant *host;

/* Makes this process a host of `variant`: gives the library its hooks. Once. */
void host_start(const HostVariant *variant);

/* The hooks of `variant`, for tests that spoil them. */
LaioHostOps host_ops(const HostVariant *variant);

/* An event loop of the calling thread; the newest is the current one. */
AioContext *host_context_new(void);
void host_context_free(AioContext *ctx);

/* Makes `ctx` the current one of the calling thread. NULL: the thread has none. */
void host_set_current(AioContext *ctx);

/* The state that laio_co_submit() and laio_io_plug() use in `ctx`. */
void host_set_state(AioContext *ctx, LinuxAioState *s);

/* Runs an event loop once, as aio_poll() of QEMU. A blocking call returns false when nothing
 * happens: at once if the host knows that nothing is outstanding, else after a long time. */
bool host_poll(AioContext *ctx, bool blocking);

/* What the library asks of the event loop about batches; 0 is the default. */
void host_set_max_batch(AioContext *ctx, uint64_t max_batch);

/* Locks `ctx`, in the variant that has locks. */
void host_lock(AioContext *ctx);
void host_unlock(AioContext *ctx);

/* How often the event loop has done this. */
typedef struct HostCounts {
    uint64_t bh_calls;
    uint64_t eventfd_calls;
    uint64_t poll_ready_calls;
    uint64_t lock_acquisitions;
} HostCounts;
HostCounts host_counts(AioContext *ctx);

/* How many descriptors the library has the event loop watch; of a host that gives hooks. */
unsigned host_watched(AioContext *ctx);

/* Deferred calls, as the host's own code would use them. */
void host_defer_begin(void);
void host_defer_call(LaioHostFunc fn, void *opaque);
void host_defer_end(void);

/* Coroutines. */
typedef void CoroutineFunc(void *opaque);
Coroutine *coroutine_new(CoroutineFunc *fn, void *opaque);
/* Runs `co` until it yields or ends, and then those that it has woken. */
void coroutine_enter(Coroutine *co);
void coroutine_yield(void);
Coroutine *coroutine_self(void);
bool coroutine_entered(Coroutine *co);
/* Enters `co`; called in a coroutine, once that one has yielded or ended. */
void coroutine_wake(Coroutine *co);
bool in_coroutine(void);
/* Frees the pool of the calling thread. */
void coroutine_thread_done(void);

/* The lines that the log hook got and nobody took yet, each with a newline; to be freed. */
char *host_take_log(void);

/* The last error that the error hook was given: its errno, or 0. The message goes to `message`. */
int host_take_error(char *message, size_t size);

#endif
