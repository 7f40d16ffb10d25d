/*
 * liburing loaded for a plug-in alone: what the plug-in calls is found in the preload library first.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */
#include <assert.h>
#include <dlfcn.h>
#include <errno.h>
#include <stddef.h>

typedef int submit_function(void *ring);
typedef int queue_init_function(unsigned entries, void *ring, unsigned flags);

int main(void)
{
    void *submit = dlsym(RTLD_DEFAULT, "io_uring_submit");
    void *library;
    void *queue_init;
    long ring[64] = {0};

    /* Without a liburing there is nothing to call, and it says so. */
    assert(submit == NULL || (*(submit_function **)&submit)(ring) == -ENOSYS);
    library = dlopen("liburing.so.2", RTLD_NOW | RTLD_LOCAL);
    assert(library != NULL);
    queue_init = dlsym(library, "io_uring_queue_init");
    assert(queue_init != NULL && (*(queue_init_function **)&queue_init)(4, ring, 0) == 0);
    assert(submit == NULL || (*(submit_function **)&submit)(ring) == 0);
    return 0;
}
