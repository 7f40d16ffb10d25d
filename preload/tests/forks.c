/*
 * One request, then a child that makes two more: by fork alone, or by exec of itself.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */
#include <assert.h>
#include <fcntl.h>
#include <libaio.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static void requests(const char *file, int count)
{
    static char buffer[512];
    io_context_t context = NULL;
    struct iocb iocb;
    struct iocb *iocbs[1] = {&iocb};
    struct io_event event;
    int fd = open(file, O_RDONLY | O_CLOEXEC);

    assert(fd >= 0);
    assert(io_setup(1, &context) == 0);
    for (int i = 0; i < count; i++) {
        io_prep_pread(&iocb, fd, buffer, sizeof(buffer), 0);
        assert(io_submit(context, 1, iocbs) == 1);
        assert(io_getevents(context, 1, 1, &event, NULL) == 1);
    }
    assert(io_destroy(context) == 0);
    close(fd);
}

int main(int argc, char **argv)
{
    int status;
    pid_t child;

    assert(argc == 3);
    if (strcmp(argv[1], "child") == 0) {
        requests(argv[2], 2);
        return 0;
    }
    requests(argv[2], 1);
    child = fork();
    assert(child >= 0);
    if (child == 0) {
        if (strcmp(argv[1], "exec") == 0) {
            execl("/proc/self/exe", argv[0], "child", argv[2], (char *)NULL);
            abort();
        }
        requests(argv[2], 2);
        exit(0);
    }
    assert(waitpid(child, &status, 0) == child && status == 0);
    return 0;
}
