/* The hash that makes a bucket's identity its fingerprint, and the two lines where a fingerprint may live. */
#include "check.h"

static void reference_rounds(uint64_t v[4], int rounds)
{
    for (; rounds > 0; rounds--) {
        static const struct {
            int a, b, turn;
            bool swap_halves;
        } steps[4] = {{0, 1, 13, true}, {2, 3, 16, false}, {0, 3, 21, false}, {2, 1, 17, true}};
        for (int i = 0; i < 4; i++) {
            uint64_t *a = &v[steps[i].a], *b = &v[steps[i].b];
            *a += *b;
            *b = (*b << steps[i].turn | *b >> (64 - steps[i].turn)) ^ *a;
            if (steps[i].swap_halves)
                *a = *a << 32 | *a >> 32;
        }
    }
}

/* SipHash-c-d, written from the paper a byte at a time, to be compared with. The paper gives a vector for 2-4 only. */
static uint64_t reference_siphash(int c, int d, rk_key key, const unsigned char *data, size_t length)
{
    uint64_t v[4] = {0x736f6d6570736575, 0x646f72616e646f6d, 0x6c7967656e657261, 0x7465646279746573};
    for (int i = 0; i < 4; i++)
        v[i] ^= i % 2 ? key.k1 : key.k0;
    size_t padded = length / 8 * 8 + 8;
    uint64_t word = 0;
    for (size_t at = 0; at < padded; at++) {
        uint64_t byte = at < length ? data[at] : at + 1 == padded ? length & 0xff : 0;
        word |= byte << at % 8 * 8;
        if (at % 8 == 7) {
            v[3] ^= word;
            reference_rounds(v, c);
            v[0] ^= word;
            word = 0;
        }
    }
    v[2] ^= 0xff;
    reference_rounds(v, d);
    return v[0] ^ v[1] ^ v[2] ^ v[3];
}

static void siphash_1_3_gives_the_known_vectors(void)
{
    const rk_key zero = {0, 0}, papers = {0x0706050403020100, 0x0f0e0d0c0b0a0908};
    unsigned char counted[15];
    for (unsigned char i = 0; i < sizeof counted; i++)
        counted[i] = i;
    /* Appendix A of the paper: it vouches for our reference. */
    CHECK(reference_siphash(2, 4, papers, counted, 15) == 0xa129ca6149be45e5);
    /* The authors' 1-3 with a key of zeros, as OCaml's tests have it. */
    CHECK(rk_siphash(zero, "", 0) == 0xd1fba762150c532c);
    CHECK(rk_siphash(zero, counted, 1) == 0x68a914128e01e473);
    /* CPython's hash(bytes) is SipHash-1-3 since 3.11, and PYTHONHASHSEED=0 is a key of zeros. */
    CHECK(rk_siphash(zero, "abc", 3) == 0xc03bc3a0042630f2);
    CHECK(rk_siphash(zero, "1234567", 7) == 0xa33d651594fdae81);
    CHECK(rk_siphash(zero, "12345678", 8) == 0x3489982430560a87);
    CHECK(rk_siphash(zero, "123456789", 9) == 0x0fbc0f0007965fcf);
    CHECK(rk_siphash(zero, "ratekeeper: an exact rate limiter", 33) == 0x0b030b22010482ba);
}

static void siphash_1_3_agrees_with_the_paper_at_every_length_and_alignment(void)
{
    uint64_t random = 11;
    unsigned char data[308];
    for (size_t length = 0; length <= 300; length++) {
        for (size_t i = 0; i < sizeof data; i++)
            data[i] = (unsigned char)next_random(&random);
        rk_key key = {next_random(&random), next_random(&random)};
        const unsigned char *from = data + length % 8;
        CHECK(rk_siphash(key, from, length) == reference_siphash(1, 3, key, from, length));
    }
}

static void a_fingerprint_is_never_the_one_of_an_unused_cell(void)
{
    /* No input that hashes to 0 is known, so look for where it would matter: 0 must have become something else. */
    uint64_t random = 12;
    for (int i = 0; i < 1000; i++) {
        uint64_t n = next_random(&random);
        CHECK(rk_fingerprint((rk_key){n, ~n}, &n, sizeof n) != 0);
    }
}

static void the_two_lines_of_a_key_differ_and_are_in_the_table(void)
{
    uint64_t random = 13;
    for (uint64_t lines = 2; lines < 40; lines++) {
        fixture on;
        open_table(&on, lines);
        for (uint64_t i = 0; i < 500; i++) {
            uint64_t fingerprint = i < 5 ? i + 1 : i < 10 ? UINT64_MAX - i : next_random(&random);
            rk_home home = rk_home_of(&on.table, fingerprint);
            CHECK(home.line[0] != home.line[1]);
            for (int side = 0; side < 2; side++) {
                ptrdiff_t at = home.line[side] - on.table.cells;
                CHECK(at >= 0 && at % RK_LINE == 0 && (uint64_t)at < lines * RK_LINE);
            }
        }
        close_table(&on);
    }
}

void claims_about_the_hash(void)
{
    CLAIM(siphash_1_3_gives_the_known_vectors);
    CLAIM(siphash_1_3_agrees_with_the_paper_at_every_length_and_alignment);
    CLAIM(a_fingerprint_is_never_the_one_of_an_unused_cell);
    CLAIM(the_two_lines_of_a_key_differ_and_are_in_the_table);
}
