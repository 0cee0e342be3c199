/* Changes of a bucket by hand: what they make of it, and threads that charge, give back and make room meanwhile. */
#include "crew.h"

#include "resets.h"

enum { CAPACITY = 2 * THREADS, TRIES = 4, NOW = 50 };

#define HEAVY (INT64_C(1) << 40)
#define MOST ((INT64_C(1) << 62) - 1)
#define BLOCK (100 * HEAVY)

static bool adjust_at(fixture *on, uint64_t fingerprint, int64_t now, rk_adjustment by)
{
    rk_clock standing = {read_standing, &now};
    return rk_adjust(&on->table, fingerprint, now, by, &standing);
}

static bool is_marked(const fixture *on, uint64_t fingerprint)
{
    rk_cell seen = {0, 0};
    rk_find(rk_home_of(&on->table, fingerprint), fingerprint, &seen);
    return seen.fingerprint & RK_MARK;
}

/* ---- one caller ---- */

/* Adjust one bucket, and compare it with the words of Store.adjust. */
static void check_one(fixture *on, rk_cell before, int64_t now, rk_adjustment by)
{
    uint64_t key = before.fingerprint & ~RK_MARK;
    rk_wide tat = before.tat > now ? before.tat : now;
    wipe(on);
    if (before.tat)
        *rk_cell_at(rk_home_of(&on->table, key), 3) = before;
    tat -= by.back;
    if (by.least > 0)
        tat++;
    if (tat < (rk_wide)now + by.least)
        tat = (rk_wide)now + by.least;
    if (tat > (rk_wide)now + by.most)
        tat = (rk_wide)now + by.most;
    bool marked = tat > now && (by.least > 0 || (before.tat > now && before.fingerprint & RK_MARK));
    CHECK(adjust_at(on, key, now, by));
    CHECK(tat_of(on, key) == (tat > now ? rk_clamp(tat) : 0) && is_marked(on, key) == marked);
    CHECK(cells_of(on, key) == (tat > now) && settled(on));
}

static void an_adjusted_bucket_is_what_the_words_say_and_nothing_overflows(void)
{
    static const int64_t ticks[] = {0, 1, 2, HEAVY, HEAVY + 1, MOST - 1, MOST};
    static const int64_t tats[] = {0, 1, NOW - 1, NOW, NOW + 1, NOW + 2, HEAVY, MOST, INT64_MAX - 1};
    enum { TICKS = sizeof ticks / sizeof *ticks, TATS = sizeof tats / sizeof *tats };
    fixture on;
    open_table(&on, 2);
    for (int place = 0; place < TICKS * TICKS * TICKS * TATS * 4; place++) {
        int rest = place / 4;
        rk_adjustment by = {ticks[rest % TICKS], ticks[rest / TICKS % TICKS], ticks[rest / TICKS / TICKS % TICKS]};
        rk_cell before = {fingerprint_of(1) | (place & 1), tats[rest / TICKS / TICKS / TICKS]};
        if (by.least <= by.most)
            check_one(&on, before, place & 2 ? MOST : NOW, by);
    }
    close_table(&on);
}

static void a_full_table_that_denies_newcomers_says_so_and_changes_nothing(void)
{
    fixture on;
    open_table(&on, 2);
    on.table.deny_when_full = true;
    for (uint64_t place = 0; place < 2 * RK_LINE; place++)
        on.table.cells[place] = (rk_cell){fingerprint_of(place + 10), HEAVY};
    CHECK(!adjust_at(&on, fingerprint_of(1), NOW, (rk_adjustment){0, 5, MOST}));
    CHECK(adjust_at(&on, fingerprint_of(1), NOW, (rk_adjustment){5, 0, MOST})); /* it is full already */
    CHECK(rk_live(&on.table, NOW) == 2 * RK_LINE && cells_of(&on, fingerprint_of(1)) == 0);
    CHECK(adjust_at(&on, fingerprint_of(12), NOW, (rk_adjustment){0, 2 * HEAVY, MOST}));
    CHECK(tat_of(&on, fingerprint_of(12)) == NOW + 2 * HEAVY && on.counters.refused_full == 1);
    close_table(&on);
}

static int64_t read_broken(void *context)
{
    (void)context;
    return 0;
}

static void a_clock_that_breaks_in_the_middle_leaves_the_time_that_was_read_before(void)
{
    fixture on;
    rk_clock broken = {read_broken, NULL};
    open_table(&on, 2);
    take(&on, fingerprint_of(1), NOW, token_terms(CAPACITY, HEAVY, 3));
    CHECK(rk_adjust(&on.table, fingerprint_of(1), NOW, (rk_adjustment){HEAVY, 0, MOST}, &broken));
    CHECK(tat_of(&on, fingerprint_of(1)) == NOW + 2 * HEAVY);
    CHECK(rk_adjust(&on.table, fingerprint_of(2), NOW, (rk_adjustment){0, HEAVY, MOST}, &broken));
    CHECK(tat_of(&on, fingerprint_of(2)) == NOW + HEAVY);
    close_table(&on);
}

/* ---- many at once ---- */

static uint64_t bystander(uint64_t n)
{
    return fingerprint_of(1000000 + n);
}

/* Small debts of bystanders, which come and go, so that a newcomer finds different cells free. */
static void set_bystanders(arena *in, int round, uint64_t *random)
{
    wipe(&in->on);
    for (uint64_t n = 0; n < in->on.table.lines * RK_LINE; n++) {
        rk_terms small = {1 + (int64_t)random_below(random, 9), 1000, 1000};
        charge_at(&in->on.table, bystander(n), NOW - 5 + (int64_t)random_below(random, 5), small, true);
    }
    in->key = fingerprint_of((uint64_t)round);
    for (int counter = 0; counter < 3; counter++)
        in->admitted[counter] = 0;
}

static void disturb(arena *in, uint64_t *random)
{
    uint64_t other = bystander(random_below(random, 3 * RK_LINE));
    switch (random_below(random, 3)) {
    case 0:
        reset(&in->on.table, other);
        break;
    case 1:
        charge_at(&in->on.table, other, NOW, (rk_terms){5, 1000, 1000}, true);
        break;
    default:
        break;
    }
}

enum { TAKEN, BLOCKED, TAKEN_LATE };

static void prepare_block(arena *in, int id, int round, uint64_t *random)
{
    (void)id;
    set_bystanders(in, round, random);
}

/* One blocks the key, which is new or is being made. The others take of it, and give back more than they took. */
static void meet_at_block(arena *in, int id, int round, uint64_t *random)
{
    if (id == round % THREADS) {
        disturb(in, random);
        adjust_at(&in->on, in->key, NOW, (rk_adjustment){0, BLOCK, MOST});
        in->admitted[BLOCKED] = 1;
    }
    for (int tried = 0; tried < TRIES; tried++) {
        disturb(in, random);
        bool late = in->admitted[BLOCKED];
        bool taken = take(&in->on, in->key, NOW, token_terms(CAPACITY, HEAVY, 1));
        in->admitted[TAKEN] += taken;
        in->admitted[TAKEN_LATE] += taken && late;
        refund(&in->on.table, in->key, HEAVY, 0);
    }
}

static void judge_block(arena *in, int id, int round, uint64_t *random)
{
    (void)id, (void)round, (void)random;
    CHECK(in->admitted[TAKEN_LATE] == 0);
    CHECK(tat_of(&in->on, in->key) == NOW + BLOCK && is_marked(&in->on, in->key));
    CHECK(cells_of(&in->on, in->key) == 1 && settled(&in->on));
}

static void after_a_block_nobody_takes_a_token_and_no_refund_shortens_it(void)
{
    for (uint64_t lines = 2; lines <= 3; lines++) {
        arena in = {0};
        open_table(&in.on, lines);
        compete(&in, 2000, prepare_block, meet_at_block, judge_block);
        close_table(&in.on);
    }
}

/* A bucket without a token, so that each grant counts. */
static void prepare_grants(arena *in, int id, int round, uint64_t *random)
{
    (void)id;
    set_bystanders(in, round, random);
    reset(&in->on.table, bystander(0)); /* room, whatever the bystanders are */
    take(&in->on, in->key, NOW, token_terms(CAPACITY, HEAVY, CAPACITY));
}

static void meet_at_grants(arena *in, int id, int round, uint64_t *random)
{
    (void)id, (void)round;
    adjust_at(&in->on, in->key, NOW, (rk_adjustment){HEAVY, 0, MOST});
    for (int tried = 0; tried < TRIES; tried++) {
        disturb(in, random);
        in->admitted[TAKEN] += take(&in->on, in->key, NOW, token_terms(CAPACITY, HEAVY, 1));
    }
}

static void judge_grants(arena *in, int id, int round, uint64_t *random)
{
    (void)id, (void)round, (void)random;
    while (take(&in->on, in->key, NOW, token_terms(CAPACITY, HEAVY, 1)))
        in->admitted[TAKEN]++;
    CHECK(in->admitted[TAKEN] == THREADS);
    CHECK(tat_of(&in->on, in->key) == NOW + CAPACITY * HEAVY && settled(&in->on));
}

static void of_an_empty_bucket_exactly_as_many_tokens_pass_as_were_granted(void)
{
    for (uint64_t lines = 2; lines <= 3; lines++) {
        arena in = {0};
        open_table(&in.on, lines);
        compete(&in, 2000, prepare_grants, meet_at_grants, judge_grants);
        close_table(&in.on);
    }
}

/* ---- resets of whole scopes ---- */

enum { RESETS = 20 };

static uint64_t log_of_resets[RK_RESETS];

static void prepare_resets(arena *in, int id, int round, uint64_t *random)
{
    (void)id, (void)round, (void)random;
    memset(log_of_resets, 0, sizeof log_of_resets);
    in->on.table.resets = log_of_resets;
    in->admitted[0] = 0;
}

/* Each resets its own scope and one that all share. After each, its key is another than before. */
static void reset_scopes(arena *in, int id, int round, uint64_t *random)
{
    (void)round, (void)random;
    rk_table *table = &in->on.table;
    uint64_t seen = 0, names[2] = {(uint64_t)id, THREADS};
    for (int again = 0; again < RESETS; again++)
        for (int which = 0; which < 2; which++) {
            seen = rk_read_resets(table, seen);
            rk_scope scope = rk_bind_scope(table, &names[which], sizeof names[which], seen);
            rk_key before = scope.key;
            bool done = rk_reset_scope(table, scope.name), told = rk_was_reset(table, seen);
            seen = rk_read_resets(table, seen);
            rk_renew_scope(table, &scope, seen);
            in->admitted[0] += done && told && memcmp(&before, &scope.key, sizeof before);
        }
}

static void judge_resets(arena *in, int id, int round, uint64_t *random)
{
    (void)id, (void)round, (void)random;
    CHECK(in->admitted[0] == 2 * RESETS * THREADS);
    CHECK(rk_read_resets(&in->on.table, 0) == 2 * RESETS * THREADS);
}

static void a_reset_of_a_scope_is_kept_and_seen_by_all_who_ask_after_it(void)
{
    arena in = {0};
    open_table(&in.on, 2);
    compete(&in, 300, prepare_resets, reset_scopes, judge_resets);
    close_table(&in.on);
}

static void a_full_log_takes_no_reset_more_and_its_last_entry_stays_empty(void)
{
    fixture on;
    open_table(&on, 2);
    on.table.resets = log_of_resets;
    memset(log_of_resets, 0, sizeof log_of_resets);
    for (int again = 0; again < RK_RESETS - 1; again++)
        CHECK(rk_reset_scope(&on.table, 7));
    CHECK(!rk_reset_scope(&on.table, 7) && log_of_resets[RK_RESETS - 1] == 0);
    CHECK(rk_read_resets(&on.table, 0) == RK_RESETS - 1 && !rk_was_reset(&on.table, RK_RESETS - 1));
    close_table(&on);
}

void claims_about_adjustments(void)
{
    CLAIM(a_reset_of_a_scope_is_kept_and_seen_by_all_who_ask_after_it);
    CLAIM(a_full_log_takes_no_reset_more_and_its_last_entry_stays_empty);
    CLAIM(an_adjusted_bucket_is_what_the_words_say_and_nothing_overflows);
    CLAIM(a_full_table_that_denies_newcomers_says_so_and_changes_nothing);
    CLAIM(a_clock_that_breaks_in_the_middle_leaves_the_time_that_was_read_before);
    CLAIM(after_a_block_nobody_takes_a_token_and_no_refund_shortens_it);
    CLAIM(of_an_empty_bucket_exactly_as_many_tokens_pass_as_were_granted);
}
