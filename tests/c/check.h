/* Shared by the C tests: claims, a table to test on, and randomness that is the same each time. Knows no threads.
 *
 * A claim is a function whose name says what it proves. CLAIM(name) runs it and prints `ok - name`.
 */
#ifndef RATEKEEPER_TESTS_CHECK_H
#define RATEKEEPER_TESTS_CHECK_H

#include <stdio.h>
#include <stdlib.h>

#include "charge.h"

#ifdef __SANITIZE_THREAD__
enum { SLOW = 6 }; /* by how much to divide the number of rounds: it is slow, and CI is not patient */
#else
enum { SLOW = 1 };
#endif

/* One of each in a program: the file with main() defines CHECK_MAIN. */
extern int claims_passed, claims_failed, checks_failed;
#ifdef CHECK_MAIN
int claims_passed, claims_failed, checks_failed;
#endif

/* Only from one thread at a time: threads report what they saw, and their claim checks it when they are done. */
#define CHECK(what) check((what), #what, __FILE__, __LINE__)

#define CLAIM(name) run_claim(#name, name)

static inline void check(bool holds, const char *what, const char *file, int line)
{
    if (holds)
        return;
    if (checks_failed++ < 5) /* the first few say it; a loop would say it a thousand times */
        printf("# %s:%d: not so: %s\n", file, line, what);
}

static inline void run_claim(const char *name, void (*claim)(void))
{
    checks_failed = 0;
    claim();
    const char *verdict = checks_failed ? "not ok" : "ok";
    claims_passed += !checks_failed;
    claims_failed += checks_failed > 0;
    printf("%s - ", verdict);
    for (; *name; name++)
        putchar(*name == '_' ? ' ' : *name);
    putchar('\n');
    fflush(stdout);
}

/* The last line of every test program, and its exit code. */
static inline int conclude(void)
{
    printf("%d passed, %d failed\n", claims_passed, claims_failed);
    return claims_failed ? EXIT_FAILURE : EXIT_SUCCESS;
}

/* xorshift64*: good enough to choose with, and the same on every machine. */
static inline uint64_t next_random(uint64_t *state)
{
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return *state * 0x2545f4914f6cdd1du;
}

/* From 0 to limit - 1. */
static inline uint64_t random_below(uint64_t *state, uint64_t limit)
{
    return (next_random(state) >> 11) % limit;
}

/* A fingerprint as good as a hashed one, for the n-th key of a test. */
static inline uint64_t fingerprint_of(uint64_t n)
{
    return rk_fingerprint((rk_key){0x5eed, 0xcafe}, &n, sizeof n);
}

typedef struct {
    rk_table table;
    rk_counters counters;
    uint64_t blocked_until;
} fixture;

static inline void wipe(fixture *on)
{
    memset(on->table.cells, 0, on->table.lines * RK_LINE * sizeof(rk_cell));
    on->counters = (rk_counters){.tickets = 0x1234567};
    on->blocked_until = 0;
}

static inline void open_table(fixture *on, uint64_t lines)
{
    void *cells = NULL;
    if (posix_memalign(&cells, RK_LINE * sizeof(rk_cell), lines * RK_LINE * sizeof(rk_cell)))
        abort();
    on->table = (rk_table){.cells = cells, .lines = lines, .counters = &on->counters, .blocked_until = &on->blocked_until};
    wipe(on);
}

static inline void close_table(fixture *on)
{
    free(on->table.cells);
}

/* A token bucket's terms for one request that does not wait. */
static inline rk_terms token_terms(int64_t capacity, int64_t interval, int64_t cost)
{
    return (rk_terms){cost * interval, capacity * interval, capacity * interval};
}

/* A clock that stands at the time it points to. */
static inline int64_t read_standing(void *time)
{
    return *(const int64_t *)time;
}

/* Charge, by a clock that stands. */
static inline rk_answer charge_at(rk_table *table, uint64_t fingerprint, int64_t now, rk_terms terms, bool commit)
{
    rk_clock standing = {read_standing, &now};
    return rk_charge(table, fingerprint, now, terms, commit, &standing);
}

static inline bool charge_all_at(rk_table *table, rk_demand *demands, size_t count, int64_t now)
{
    rk_clock standing = {read_standing, &now};
    return rk_charge_all(table, demands, count, now, true, &standing);
}

static inline bool take(fixture *on, uint64_t fingerprint, int64_t now, rk_terms terms)
{
    return charge_at(&on->table, fingerprint, now, terms, true).allowed;
}

/* As `take`, of a bucket that may be blocked. */
static inline bool take_unblocked(fixture *on, uint64_t fingerprint, int64_t now, rk_terms terms)
{
    rk_demand demand = {.fingerprint = fingerprint, .terms = terms};
    return charge_all_at(&on->table, &demand, 1, now);
}

/* Give back at a bucket at which nobody can be waiting. */
static inline void refund(rk_table *table, uint64_t fingerprint, int64_t increment, int64_t elapsed)
{
    int64_t now = 0;
    rk_clock standing = {read_standing, &now};
    rk_refund(table, fingerprint, now - elapsed, (rk_terms){increment, INT64_MAX, 0}, &standing);
}

/* Forget a bucket. */
static inline void reset(rk_table *table, uint64_t fingerprint)
{
    int64_t now = 0;
    rk_clock standing = {read_standing, &now};
    rk_adjust(table, fingerprint, now, RK_FORGET, RK_KEEP, &standing);
}

/* A bucket's TAT, or 0 for one that is not in the table. */
static inline int64_t tat_of(const fixture *on, uint64_t fingerprint)
{
    rk_cell seen = {fingerprint, 0};
    fingerprint &= ~RK_MARK;
    return rk_find(rk_home_of(&on->table, fingerprint), fingerprint, &seen) ? seen.tat : 0;
}

/* How many cells have this fingerprint and a TAT. Looks at the whole table, and not as the table itself would look. */
static inline int cells_of(const fixture *on, uint64_t fingerprint)
{
    int cells = 0;
    for (uint64_t place = 0; place < on->table.lines * RK_LINE; place++)
        cells += rk_is_of(on->table.cells[place].fingerprint, fingerprint & ~RK_MARK) && on->table.cells[place].tat >= 0;
    return cells;
}

/* Return whether no fingerprint has two cells, and no claim is left over. For when all threads are done. */
static inline bool settled(const fixture *on)
{
    for (uint64_t place = 0; place < on->table.lines * RK_LINE; place++) {
        rk_cell cell = on->table.cells[place];
        if (cell.tat < 0 || (cell.fingerprint && cells_of(on, cell.fingerprint) != 1))
            return false;
    }
    return true;
}

#endif
