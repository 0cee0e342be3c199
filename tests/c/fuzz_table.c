/* Random operations on the C table, for the sanitizers to watch: fuzz_table [seed [operations]]. One thread.
 *
 * Half of them on tables that a plain array of TATs can model, and it must agree with every answer. The other half on
 * tables of random bytes, as in a damaged shared file: no answer is right there, but each must come, and soon.
 * The same seed does the same on every machine.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

/* Patience runs out at the 64th attempt, and an attempt takes less than 100 steps: this is ten times more. */
enum { TOO_MANY_STEPS = 10 * 64 * 100 };

/* Every look at a cell and every swap is counted, so that a loop without end is found, and found at the same place. */
static uint64_t steps;
static inline void step(void)
{
    if (++steps < TOO_MANY_STEPS)
        return;
    printf("not ok - an operation does not end\n");
    abort();
}
#define __atomic_load_n(cell, order) (step(), __atomic_load_n(cell, order))
#define __sync_bool_compare_and_swap(cell, old, new) (step(), __sync_bool_compare_and_swap(cell, old, new))
#define __atomic_compare_exchange_n(cell, old, new, weak, won, lost)                                                   \
    (step(), __atomic_compare_exchange_n(cell, old, new, weak, won, lost))

#define CHECK_MAIN
#include "check.h"

/* With at most as many keys as a line has cells, no key ever takes another's cell, not even one whose TAT is past. */
enum { KEYS = RK_LINE, MANY_KEYS = 200, LONGEST = 300, EPISODE = 500, DEMANDS = 4 };

static const int64_t MOST = (INT64_C(1) << 62) - 1; /* of the clock, and of a limit's increments */

typedef struct {
    fixture on;
    uint64_t random, keys;
    int64_t now;
    uint64_t fingerprints[MANY_KEYS];
    int64_t tats[KEYS]; /* the model */
    bool has_cell[KEYS], marked[KEYS];
    bool modelled;
} world;

static uint64_t seed = 20240229, operations = 2000000;

static uint64_t below(world *in, uint64_t limit)
{
    return random_below(&in->random, limit);
}

/* From 0 to 2**62 - 1, of any magnitude: small numbers are as likely as large ones, and so are the ends. */
static int64_t any_ticks(world *in)
{
    if (below(in, 16) == 0)
        return below(in, 2) ? MOST : 0;
    return (int64_t)(next_random(&in->random) >> (2 + below(in, 62)));
}

/* The fingerprint of random bytes, that stand in memory of just their length, so that reading on is seen. */
static uint64_t any_fingerprint(world *in)
{
    size_t length = below(in, LONGEST + 1), scope_length = below(in, 40);
    unsigned char *key = malloc(length), *scope = malloc(scope_length);
    if ((!key && length) || (!scope && scope_length))
        abort();
    for (size_t i = 0; i < length; i++)
        key[i] = (unsigned char)next_random(&in->random);
    for (size_t i = 0; i < scope_length; i++)
        scope[i] = (unsigned char)next_random(&in->random);
    rk_key table_seed = {next_random(&in->random), next_random(&in->random)};
    uint64_t fingerprint = rk_fingerprint(rk_scope_key(table_seed, scope, scope_length), key, length);
    CHECK(fingerprint == rk_fingerprint(rk_scope_key(table_seed, scope, scope_length), key, length));
    free(key);
    free(scope);
    return fingerprint;
}

static rk_terms any_terms(world *in)
{
    if (below(in, 4) == 0)
        return (rk_terms){any_ticks(in), any_ticks(in), any_ticks(in)};
    int64_t interval = 1 + (int64_t)below(in, 1000), capacity = 1 + (int64_t)below(in, 20);
    rk_terms terms = token_terms(capacity, interval, (int64_t)below(in, 6));
    if (below(in, 3) == 0)
        terms.burst = terms.increment; /* a leaky bucket */
    if (below(in, 3) == 0)
        terms.tolerance += (int64_t)below(in, 50000); /* willing to wait */
    return terms;
}

static void move_clock(world *in)
{
    if (below(in, 50) == 0)
        in->now = any_ticks(in); /* years ahead, or back */
    else if (below(in, 8) == 0)
        in->now -= (int64_t)below(in, 5000);
    else
        in->now += (int64_t)below(in, 3000);
    in->now = in->now < 0 ? 0 : in->now > MOST ? MOST : in->now;
}

/* The clock has gone on since the operation began, if it is read again. */
static int64_t read_later(void *context)
{
    const world *in = context;
    return in->now < MOST - 700 ? in->now + 700 : MOST;
}

static rk_clock clock_of(world *in)
{
    return (rk_clock){read_later, in};
}

/* ---- the model ---- */

/* Return the right answer of rk_charge about key `k`, and charge the model if it is allowed. */
static rk_answer expect(world *in, uint64_t k, rk_terms terms, bool commit)
{
    __int128 start = in->tats[k] > in->now ? in->tats[k] : in->now;
    __int128 owed = start - in->now, ahead = owed + terms.increment;
    bool allowed = ahead <= terms.tolerance, charged = allowed && commit && terms.increment > 0;
    /* A newcomer is charged when it has its cell. */
    int64_t at = charged && !in->has_cell[k] ? read_later(in) : in->now;
    __int128 delay = ahead > terms.burst ? ahead - terms.burst : 0;
    __int128 retry_after = allowed ? 0 : ahead - terms.tolerance;
    bool before = in->marked[k] && in->tats[k] > in->now, marked = before || delay > 0;
    if (charged) {
        in->tats[k] = rk_clamp(in->has_cell[k] ? start + terms.increment : (__int128)at + terms.increment);
        in->marked[k] = marked;
    }
    in->has_cell[k] |= charged;
    return (rk_answer){allowed, at, (int64_t)(charged ? ahead : owed), rk_clamp(delay), rk_clamp(retry_after), marked,
                       marked && !before, false};
}

static void give_back(world *in, uint64_t k, int64_t increment, int64_t elapsed)
{
    if (in->marked[k])
        return;
    int64_t since = elapsed > 0 ? elapsed : 0, given = increment > since ? increment - since : 0;
    in->tats[k] = in->tats[k] > given ? in->tats[k] - given : 0;
}

static bool same_answer(rk_answer one, rk_answer other)
{
    return one.allowed == other.allowed && one.at == other.at && one.debt == other.debt && one.delay == other.delay &&
           one.retry_after == other.retry_after && one.marked == other.marked && one.marks == other.marks;
}

/* ---- operations: each on the table, and on the model if there is one ---- */

static void charge(world *in, uint64_t k)
{
    bool commit = below(in, 8) != 0;
    rk_terms terms = any_terms(in);
    rk_clock clock = clock_of(in);
    rk_answer answer = rk_charge(&in->on.table, in->fingerprints[k], in->now, terms, commit, &clock);
    CHECK(answer.debt >= 0 && answer.delay >= 0 && answer.retry_after >= 0);
    CHECK(answer.allowed ? answer.debt <= terms.tolerance || !terms.increment || !commit : answer.retry_after > 0);
    if (answer.allowed && commit && terms.increment > 0)
        CHECK(tat_of(&in->on, in->fingerprints[k]) == answer.at + answer.debt);
    if (in->modelled)
        CHECK(same_answer(answer, expect(in, k, terms, commit)));
}

/* Expect all or none; two demands may be for one key, and then one may fail though each would fit. */
static bool expect_all(world *in, const uint64_t *ks, const rk_demand *demands, size_t count)
{
    bool allowed = true;
    for (size_t i = 0; i < count; i++)
        allowed &= demands[i].shadow || (!demands[i].impossible && expect(in, ks[i], demands[i].terms, false).allowed);
    size_t charged = 0;
    rk_answer made[DEMANDS] = {{0}};
    for (; charged < count && allowed; charged++) {
        if (!demands[charged].impossible)
            made[charged] = expect(in, ks[charged], demands[charged].terms, true);
        allowed = made[charged].allowed || demands[charged].shadow;
    }
    for (size_t i = charged; i-- > 0 && !allowed;) /* nobody else came meanwhile: the last made is the first undone */
        if (made[i].allowed) {
            in->tats[ks[i]] -= demands[i].terms.increment;
            in->marked[ks[i]] &= !made[i].marks;
        }
    return allowed;
}

static void charge_all(world *in)
{
    rk_demand demands[DEMANDS];
    uint64_t ks[DEMANDS];
    size_t count = 2 + below(in, DEMANDS - 1);
    for (size_t i = 0; i < count; i++) {
        ks[i] = below(in, in->keys);
        demands[i] = (rk_demand){.fingerprint = in->fingerprints[ks[i]], .terms = any_terms(in)};
        demands[i].shadow = below(in, 6) == 0;
        demands[i].impossible = below(in, 20) == 0;
    }
    rk_clock clock = clock_of(in);
    bool allowed = rk_charge_all(&in->on.table, demands, count, in->now, true, &clock);
    if (in->modelled)
        CHECK(allowed == expect_all(in, ks, demands, count));
}

static void operate(world *in)
{
    uint64_t k = below(in, in->keys);
    int64_t increment = any_terms(in).increment, elapsed = (int64_t)below(in, 4000) - 1000;
    steps = 0;
    switch (below(in, 10)) {
    case 0:
        refund(&in->on.table, in->fingerprints[k], increment, elapsed);
        if (in->modelled)
            give_back(in, k, increment, elapsed);
        break;
    case 1:
        reset(&in->on.table, in->fingerprints[k]);
        if (in->modelled) { /* a damaged table may have other cells of the bucket */
            CHECK(tat_of(&in->on, in->fingerprints[k]) == 0);
            in->tats[k] = 0, in->has_cell[k] = in->marked[k] = false;
        }
        break;
    case 2:
        charge_all(in);
        break;
    case 3:
        move_clock(in);
        break;
    default:
        charge(in, k);
    }
    for (k = 0; in->modelled && k < KEYS; k++) /* with a TAT of 0 it might lose its cell, as if it were never used */
        if (in->has_cell[k] && !in->tats[k]) {
            reset(&in->on.table, in->fingerprints[k]);
            in->has_cell[k] = in->marked[k] = false;
        }
}

/* ---- episodes ---- */

static void name_keys(world *in)
{
    for (uint64_t k = 0; k < in->keys; k++) {
        in->fingerprints[k] = any_fingerprint(in);
        for (uint64_t other = 0; other < k; other++)
            if (in->fingerprints[other] == in->fingerprints[k])
                in->fingerprints[k] = (next_random(&in->random) | 2) & ~RK_MARK; /* never seen to happen */
    }
}

static void compare_tables(world *in)
{
    uint64_t live = 0;
    steps = 0;
    for (uint64_t k = 0; k < in->keys; k++) {
        CHECK(tat_of(&in->on, in->fingerprints[k]) == in->tats[k]);
        CHECK(cells_of(&in->on, in->fingerprints[k]) <= 1);
        live += in->tats[k] > in->now;
    }
    CHECK(rk_live(&in->on.table, in->now) == live);
    CHECK(in->on.counters.evicted_live == 0 && in->on.counters.refused_full == 0);
}

static void every_answer_is_that_of_a_plain_array_of_tats(void)
{
    world in = {.random = seed | 1, .keys = KEYS, .modelled = true};
    for (uint64_t done = 0; done < operations / 2; done += EPISODE) {
        open_table(&in.on, 2 + below(&in, 4));
        in.on.table.deny_when_full = below(&in, 2);
        memset(in.tats, 0, sizeof in.tats);
        memset(in.has_cell, 0, sizeof in.has_cell);
        memset(in.marked, 0, sizeof in.marked);
        name_keys(&in);
        in.now = any_ticks(&in);
        for (int i = 0; i < EPISODE; i++) {
            operate(&in);
            if (i % 16 == 0)
                compare_tables(&in);
        }
        compare_tables(&in);
        close_table(&in.on);
    }
}

/* Random bytes are seldom a key's fingerprint, so some cells get one: with debts, with claims, and more than once. */
static void damage(world *in)
{
    for (uint64_t place = 0; place < in->on.table.lines * RK_LINE; place++) {
        rk_cell *cell = &in->on.table.cells[place];
        uint64_t kind = below(in, 8);
        if (kind < 5)
            *cell = (rk_cell){next_random(&in->random), (int64_t)next_random(&in->random)};
        if (kind > 2 && kind < 5)
            cell->fingerprint = in->fingerprints[below(in, in->keys)];
        if (kind == 4)
            cell->tat = below(in, 2) ? any_ticks(in) : below(in, 2) ? INT64_MAX : INT64_MIN;
    }
}

static void whatever_bytes_are_in_the_cells_every_call_returns_and_soon(void)
{
    world in = {.random = ~seed | 1};
    for (uint64_t done = 0; done < operations / 2; done += EPISODE) {
        open_table(&in.on, 2 + below(&in, 4));
        in.on.table.deny_when_full = below(&in, 2);
        in.on.counters.tickets = next_random(&in.random);
        in.keys = 1 + below(&in, below(&in, 2) ? 10 : MANY_KEYS);
        name_keys(&in);
        in.now = any_ticks(&in);
        for (int i = 0; i < EPISODE; i++) {
            if (i % 50 == 0)
                damage(&in);
            operate(&in);
        }
        close_table(&in.on);
    }
}

int main(int count, char **arguments)
{
    if (count > 1)
        seed = strtoull(arguments[1], NULL, 0);
    if (count > 2)
        operations = strtoull(arguments[2], NULL, 0);
    printf("# seed %llu, %llu operations\n", (unsigned long long)seed, (unsigned long long)operations);
    CLAIM(every_answer_is_that_of_a_plain_array_of_tats);
    CLAIM(whatever_bytes_are_in_the_cells_every_call_returns_and_soon);
    return conclude();
}
