/* SipHash-1-3: the keyed hash that turns a bucket's identity into its fingerprint. Knows no table and no Python.
 *
 * Keyed by a random seed, so that nobody outside can choose keys that collide. J.-P. Aumasson and D. J. Bernstein,
 * "SipHash: a fast short-input PRF", 2012; with one and three rounds, as hash tables use it (Rust, CPython).
 */
#ifndef RATEKEEPER_SIPHASH_H
#define RATEKEEPER_SIPHASH_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef struct {
    uint64_t k0, k1;
} rk_key;

#define RK_ROTL(x, b) (((x) << (b)) | ((x) >> (64 - (b))))
#define RK_ROUND                                                                                                       \
    do {                                                                                                               \
        v0 += v1, v1 = RK_ROTL(v1, 13), v1 ^= v0, v0 = RK_ROTL(v0, 32);                                                \
        v2 += v3, v3 = RK_ROTL(v3, 16), v3 ^= v2;                                                                      \
        v0 += v3, v3 = RK_ROTL(v3, 21), v3 ^= v0;                                                                      \
        v2 += v1, v1 = RK_ROTL(v1, 17), v1 ^= v2, v2 = RK_ROTL(v2, 32);                                                \
    } while (0)

static inline uint64_t rk_siphash(rk_key key, const void *data, size_t length)
{
    uint64_t v0 = key.k0 ^ 0x736f6d6570736575u, v1 = key.k1 ^ 0x646f72616e646f6du;
    uint64_t v2 = key.k0 ^ 0x6c7967656e657261u, v3 = key.k1 ^ 0x7465646279746573u;
    const unsigned char *bytes = data;
    size_t whole = length & ~(size_t)7;
    uint64_t word;

    for (size_t offset = 0; offset < whole; offset += 8) {
        memcpy(&word, bytes + offset, 8);
        v3 ^= word;
        RK_ROUND;
        v0 ^= word;
    }
    word = 0;
    if (length > whole && whole) { /* the rest is the end of the last eight bytes: one load, without a branch a byte */
        memcpy(&word, bytes + length - 8, 8);
        word >>= 8 * (8 - (length - whole));
    } else if (length >= 4 && !whole) { /* two loads, which may overlap */
        uint32_t first, last;
        memcpy(&first, bytes, 4);
        memcpy(&last, bytes + length - 4, 4);
        word = first | (uint64_t)last << (8 * (length - 4));
    } else if (length && !whole) /* one to three bytes, some of them twice */
        word = bytes[0] | (uint64_t)bytes[length / 2] << (8 * (length / 2)) |
               (uint64_t)bytes[length - 1] << (8 * (length - 1));
    word |= (uint64_t)length << 56;
    v3 ^= word;
    RK_ROUND;
    v0 ^= word;
    v2 ^= 0xff;
    RK_ROUND;
    RK_ROUND;
    RK_ROUND;
    return v0 ^ v1 ^ v2 ^ v3;
}

#undef RK_ROUND

/* The key for one scope (a limiter's or rule's name and the limit's place in it), derived from the table's seed. */
static inline rk_key rk_scope_key(rk_key seed, const void *scope, size_t length)
{
    rk_key other = {~seed.k0, ~seed.k1};
    return (rk_key){rk_siphash(seed, scope, length), rk_siphash(other, scope, length)};
}

#endif
