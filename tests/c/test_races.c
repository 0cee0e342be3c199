/* The C table, asked by many threads at once, while the clock stands still. The claims hold in any order.
 *
 * The clock runs in test_running.c.
 */
#include "crew.h"

enum { CAPACITY = 5, TRIES = 2, KEYS = 60 };

/* Debts of the keys that a claim is about are far above those of the bystanders, so that these are never put out. */
#define HEAVY (INT64_C(1) << 40)

static uint64_t bystander(uint64_t n)
{
    return fingerprint_of(1000000 + n);
}

/* ---- one new key ---- */

/* A table so full of small debts that claims collide: mostly live, some past, some cells never used. */
static void prepare_newcomer(arena *in, int id, int round, uint64_t *random)
{
    (void)id;
    wipe(&in->on);
    uint64_t others = random_below(random, 2 * in->on.table.lines * RK_LINE);
    for (uint64_t n = 0; n < others; n++) {
        rk_terms small = {1 + (int64_t)random_below(random, 100), 1000, 1000};
        charge_at(&in->on.table, bystander(n), (int64_t)random_below(random, 100), small, true);
    }
    in->key = fingerprint_of((uint64_t)round);
    in->others = others;
    in->admitted[0] = 0;
}

/* Bystanders come and go, so that threads see different cells free; else all would claim the same cell. */
static void disturb(arena *in, uint64_t *random)
{
    rk_table *table = &in->on.table;
    rk_terms small = {1 + (int64_t)random_below(random, 100), 1000, 1000};
    uint64_t other = bystander(random_below(random, in->others + 4));
    switch (random_below(random, 4)) {
    case 1:
        reset(table, other);
        break;
    case 2:
        charge_at(table, other, 50, small, true);
        break;
    case 3:
        refund(table, other, small.increment, 0);
        break;
    default:
        break;
    }
}

static void meet_newcomer(arena *in, int id, int round, uint64_t *random)
{
    (void)id, (void)round;
    for (int tried = 0; tried < TRIES; tried++) {
        disturb(in, random);
        in->admitted[0] += take(&in->on, in->key, 50, token_terms(CAPACITY, HEAVY, 1));
    }
}

static void judge_newcomer(arena *in, int id, int round, uint64_t *random)
{
    (void)id, (void)round, (void)random;
    CHECK(in->admitted[0] == CAPACITY);
    CHECK(cells_of(&in->on, in->key) == 1 && tat_of(&in->on, in->key) == 50 + CAPACITY * HEAVY);
    CHECK(settled(&in->on));
}

static void threads_that_meet_a_new_key_at_once_admit_exactly_capacity_and_leave_one_cell(void)
{
    for (uint64_t lines = 2; lines <= 3; lines++) {
        arena in = {0};
        open_table(&in.on, lines);
        compete(&in, 3000, prepare_newcomer, meet_newcomer, judge_newcomer);
        close_table(&in.on);
    }
}

/* As above, but a claim for the key was left by one who died. */
static void prepare_orphan(arena *in, int id, int round, uint64_t *random)
{
    prepare_newcomer(in, id, round, random);
    rk_home home = rk_home_of(&in->on.table, in->key);
    rk_cell *cell = rk_cell_at(home, (int)random_below(random, 2 * RK_LINE));
    *cell = (rk_cell){in->key, INT64_MIN + 7};
}

static void threads_that_meet_a_dead_owners_claim_admit_exactly_capacity_and_leave_one_cell(void)
{
    arena in = {0};
    open_table(&in.on, 2);
    compete(&in, 1500, prepare_orphan, meet_newcomer, judge_newcomer);
    close_table(&in.on);
}

/* ---- many keys ---- */

static void prepare_crowd(arena *in, int id, int round, uint64_t *random)
{
    (void)id, (void)round, (void)random;
    wipe(&in->on);
    for (int key = 0; key < MOST_KEYS; key++)
        in->admitted[key] = 0;
}

static void charge_shared_keys(arena *in, int id, int round, uint64_t *random)
{
    (void)id;
    for (int i = 0; i < 60; i++) {
        uint64_t key = random_below(random, KEYS);
        int64_t cost = 1 + (int64_t)random_below(random, 2);
        if (take(&in->on, fingerprint_of((uint64_t)round * KEYS + key), 50, token_terms(CAPACITY, 1000, cost)))
            in->admitted[key] += cost;
    }
}

/* Each time a bucket is made, it lives until it is put out, which is counted; and in its life it admits `capacity`. */
static void judge_evictions(arena *in, int id, int round, uint64_t *random)
{
    (void)id, (void)round, (void)random;
    int64_t admitted = 0, owed = 0, lives = (int64_t)(rk_live(&in->on.table, 50) + in->on.counters.evicted_live);
    for (int key = 0; key < KEYS; key++)
        admitted += in->admitted[key];
    for (uint64_t place = 0; place < in->on.table.lines * RK_LINE; place++)
        if (in->on.table.cells[place].tat > 50)
            owed += (in->on.table.cells[place].tat - 50) / 1000;
    CHECK(settled(&in->on));
    CHECK(owed <= admitted && admitted <= CAPACITY * lives);
    CHECK(admitted - owed <= CAPACITY * (int64_t)in->on.counters.evicted_live);
    CHECK(admitted - owed >= (int64_t)in->on.counters.evicted_live);
}

static void many_keys_in_a_tiny_table_leave_no_duplicates_and_sound_counts(void)
{
    for (uint64_t lines = 2; lines <= 3; lines++) {
        arena in = {0};
        open_table(&in.on, lines);
        compete(&in, 800, prepare_crowd, charge_shared_keys, judge_evictions);
        close_table(&in.on);
    }
}

static void charge_own_keys(arena *in, int id, int round, uint64_t *random)
{
    (void)round;
    for (uint64_t i = 0; i < 20; i++) {
        rk_terms terms = {1 + (int64_t)random_below(random, 1000), 1000, 1000};
        in->admitted[0] += take(&in->on, fingerprint_of((uint64_t)id * 100 + i), 50, terms);
    }
}

static void judge_own_keys(arena *in, int id, int round, uint64_t *random)
{
    (void)id, (void)round, (void)random;
    rk_counters counted = in->on.counters;
    CHECK(settled(&in->on));
    CHECK(in->admitted[0] + (int64_t)counted.refused_full == 20 * THREADS);
    CHECK(in->admitted[0] == (int64_t)(rk_live(&in->on.table, 50) + counted.evicted_live));
    CHECK(in->on.table.deny_when_full ? !counted.evicted_live : !counted.refused_full);
}

static void every_bucket_made_is_live_or_counted_as_evicted_and_every_other_as_refused(void)
{
    for (int deny = 0; deny < 2; deny++) {
        arena in = {0};
        open_table(&in.on, 3);
        in.on.table.deny_when_full = deny;
        compete(&in, 800, prepare_crowd, charge_own_keys, judge_own_keys);
        close_table(&in.on);
    }
}

static void judge_roomy(arena *in, int id, int round, uint64_t *random)
{
    (void)id, (void)random;
    CHECK(in->on.counters.evicted_live == 0 && settled(&in->on));
    for (uint64_t key = 0; key < KEYS; key++) {
        int64_t tat = tat_of(&in->on, fingerprint_of((uint64_t)round * KEYS + key));
        CHECK(in->admitted[key] <= CAPACITY);
        CHECK(tat == (in->admitted[key] ? 50 + in->admitted[key] * 1000 : 0));
    }
}

static void where_there_is_room_no_key_admits_more_than_capacity_and_no_charge_is_lost(void)
{
    arena in = {0};
    open_table(&in.on, 32);
    compete(&in, 800, prepare_crowd, charge_shared_keys, judge_roomy);
    close_table(&in.on);
}

/* ---- several limits ---- */

/* Each thread has its own key with its own limit. All share a limit that is smaller than the sum, and a still smaller
 * limit in shadow, which must not matter. */
static rk_demand *demands_of(int id, rk_demand demands[3])
{
    demands[0] = (rk_demand){.fingerprint = fingerprint_of((uint64_t)id), .terms = token_terms(9, HEAVY, 1)};
    demands[1] = (rk_demand){.fingerprint = fingerprint_of(100), .terms = token_terms(4 * THREADS, HEAVY, 1)};
    demands[2] = (rk_demand){.fingerprint = fingerprint_of(101), .terms = token_terms(THREADS, HEAVY, 1)};
    demands[2].shadow = true;
    return demands;
}

static void charge_all(arena *in, int id, int round, uint64_t *random)
{
    rk_demand demands[3];
    for (int tried = 0; tried < 12; tried++) {
        if (round % 3 == 0)
            disturb(in, random);
        in->admitted[id] += charge_all_at(&in->on.table, demands_of(id, demands), 3, 50);
    }
}

static int64_t owed(const arena *in, uint64_t fingerprint)
{
    int64_t tat = tat_of(&in->on, fingerprint);
    return tat > 50 ? (tat - 50) / HEAVY : 0;
}

static void judge_all(arena *in, int id, int round, uint64_t *random)
{
    (void)id, (void)round, (void)random;
    rk_demand demands[3];
    int64_t total = 0;
    for (int key = 0; key < THREADS; key++) {
        CHECK(in->admitted[key] <= 9 && owed(in, fingerprint_of((uint64_t)key)) == in->admitted[key]);
        total += in->admitted[key];
    }
    CHECK(total <= 4 * THREADS && owed(in, fingerprint_of(100)) == total);
    CHECK(owed(in, fingerprint_of(101)) <= THREADS && settled(&in->on));
    for (int tried = 0; tried < 9 * THREADS; tried++) /* what the race refused too much is still there for one alone */
        total += charge_all_at(&in->on.table, demands_of(tried % THREADS, demands), 3, 50);
    CHECK(total == 4 * THREADS);
}

static void several_limits_are_charged_all_or_none_and_a_race_never_over_admits(void)
{
    for (uint64_t lines = 4; lines <= 8; lines += 4) {
        arena in = {0};
        open_table(&in.on, lines);
        compete(&in, 1200, prepare_crowd, charge_all, judge_all);
        close_table(&in.on);
    }
}

void claims_about_races(void)
{
    CLAIM(threads_that_meet_a_new_key_at_once_admit_exactly_capacity_and_leave_one_cell);
    CLAIM(threads_that_meet_a_dead_owners_claim_admit_exactly_capacity_and_leave_one_cell);
    CLAIM(many_keys_in_a_tiny_table_leave_no_duplicates_and_sound_counts);
    CLAIM(every_bucket_made_is_live_or_counted_as_evicted_and_every_other_as_refused);
    CLAIM(where_there_is_room_no_key_admits_more_than_capacity_and_no_charge_is_lost);
    CLAIM(several_limits_are_charged_all_or_none_and_a_race_never_over_admits);
}
