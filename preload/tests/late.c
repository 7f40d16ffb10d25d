/*
 * libaio loaded late: io_submit found by name among everything that is loaded, and in the library.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */
#include <assert.h>
#include <dlfcn.h>
#include <libaio.h>
#include <stdio.h>
#include <string.h>

typedef int io_setup_function(int count, io_context_t *context);
typedef int io_submit_function(io_context_t context, long count, struct iocb **iocbs);

int main(int argc, char **argv)
{
    int mode = argc > 1 && strcmp(argv[1], "local") == 0 ? RTLD_LOCAL : RTLD_GLOBAL;
    void *library = dlopen("libaio.so.1", RTLD_NOW | mode);
    void *everywhere = dlsym(RTLD_DEFAULT, "io_submit");
    void *in_library;
    void *setup;
    io_context_t context = NULL;

    assert(library != NULL);
    in_library = dlsym(library, "io_submit");
    setup = dlsym(library, "io_setup");
    assert(in_library != NULL && setup != NULL);
    assert((*(io_setup_function **)&setup)(1, &context) == 0);
    assert((*(io_submit_function **)&in_library)(context, 0, NULL) == 0);
    if (everywhere != NULL) {
        assert((*(io_submit_function **)&everywhere)(context, 0, NULL) == 0);
        assert((*(io_submit_function **)&everywhere)(context, -1, NULL) == -22);
    }
    return 0;
}
