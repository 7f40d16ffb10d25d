/*
 * The pattern of --verify: each byte follows from its offset in the image and the seed, so that
 * misplaced, stale and missing data all differ.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */
#ifndef BENCH_PATTERN_H
#define BENCH_PATTERN_H

#include <stddef.h>
#include <stdint.h>

/* splitmix64: `state` counts up by an odd constant, and a bijection scrambles it. */
static inline uint64_t scramble(uint64_t state)
{
    state = (state ^ (state >> 30)) * 0xbf58476d1ce4e5b9u;
    state = (state ^ (state >> 27)) * 0x94d049bb133111ebu;
    return state ^ (state >> 31);
}

void pattern_fill(void *buffer, size_t size, uint64_t offset, uint64_t seed);

/* Where in `buffer` the first byte lies that differs from the pattern; `size` when none does. */
size_t pattern_mismatch(const void *buffer, size_t size, uint64_t offset, uint64_t seed);

/* What the pattern has at `offset`. */
uint8_t pattern_byte(uint64_t offset, uint64_t seed);

#endif
