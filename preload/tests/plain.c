/*
 * A program that has nothing to do with libaio; also built statically, and made set-user-ID.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */
#include <stdio.h>
#include <unistd.h>

int main(void)
{
    printf("plain %d\n", geteuid() != getuid());
    return 0;
}
