/* See pattern.h. SPDX-License-Identifier: MIT OR Apache-2.0 */
#include "pattern.h"

#include <string.h>

/* The eight bytes of the image that begin at offset index * 8. */
static inline uint64_t word(uint64_t index, uint64_t seed)
{
    return scramble(scramble(seed + 1) + index * 0x9e3779b97f4a7c15u);
}

uint8_t pattern_byte(uint64_t offset, uint64_t seed)
{
    return (uint8_t)(word(offset / 8, seed) >> (offset % 8 * 8));
}

/* How many bytes there are before the first whole word of the image. */
static size_t head(size_t size, uint64_t offset)
{
    size_t to_word = (size_t)(-offset % 8);

    return to_word < size ? to_word : size;
}

void pattern_fill(void *buffer, size_t size, uint64_t offset, uint64_t seed)
{
    uint8_t *to = buffer;
    size_t at = 0;
    size_t first = head(size, offset);

    for (; at < first; at++) {
        to[at] = pattern_byte(offset + at, seed);
    }
    for (uint64_t index = (offset + at) / 8; size - at >= 8; at += 8, index++) {
        uint64_t little_endian = word(index, seed); /* as every machine that laio supports */

        memcpy(to + at, &little_endian, 8);
    }
    for (; at < size; at++) {
        to[at] = pattern_byte(offset + at, seed);
    }
}

size_t pattern_mismatch(const void *buffer, size_t size, uint64_t offset, uint64_t seed)
{
    const uint8_t *from = buffer;
    size_t at = 0;
    size_t first = head(size, offset);

    while (at < first && from[at] == pattern_byte(offset + at, seed)) {
        at++;
    }
    if (at == first) {
        for (uint64_t index = (offset + at) / 8; size - at >= 8; at += 8, index++) {
            uint64_t found;

            memcpy(&found, from + at, 8);
            if (found != word(index, seed)) {
                break;
            }
        }
    }
    while (at < size && from[at] == pattern_byte(offset + at, seed)) {
        at++;
    }
    return at;
}
