/* Changes of a bucket by hand: what they make of it, and threads that charge, give back and make room meanwhile. */
#include "crew.h"

#include "resets.h"

enum { CAPACITY = 2 * THREADS, TRIES = 4, NOW = 50 };

#define HEAVY (INT64_C(1) << 40)
#define MOST ((INT64_C(1) << 62) - 1)
#define BLOCK (100 * HEAVY)

static bool adjust_at(fixture *on, uint64_t fingerprint, int64_t now, int64_t back, int64_t block)
{
    rk_clock standing = {read_standing, &now};
    return rk_adjust(&on->table, fingerprint, now, back, block, &standing);
}

static bool is_marked(const fixture *on, uint64_t fingerprint)
{
    rk_cell seen = {0, 0};
    rk_find(rk_home_of(&on->table, fingerprint), fingerprint, &seen);
    return seen.fingerprint & RK_MARK;
}

/* ---- one caller ---- */

/* Adjust one bucket that may be blocked, and compare it with the words of Store.adjust. */
static void check_one(fixture *on, rk_cell before, int64_t until, int64_t now, int64_t back, int64_t block)
{
    uint64_t key = before.fingerprint & ~RK_MARK, of_block = rk_block_of(&on->table, key);
    rk_wide tat = before.tat, end = until;
    wipe(on);
    if (before.tat)
        *rk_cell_at(rk_home_of(&on->table, key), 3) = before;
    if (until)
        *rk_cell_at(rk_home_of(&on->table, of_block), 7) = (rk_cell){of_block, until};
    on->blocked_until = (uint64_t)until;
    if (back > 0)
        tat = tat - back > now ? tat - back : 0;
    if (block == 0)
        end = 0;
    else if (block > 0 && end < (rk_wide)now + block)
        end = (rk_wide)now + block;
    CHECK(adjust_at(on, key, now, back, block));
    CHECK(tat_of(on, key) == rk_clamp(tat) && is_marked(on, key) == (tat && before.fingerprint & RK_MARK));
    CHECK(tat_of(on, of_block) == rk_clamp(end) && !is_marked(on, of_block));
    CHECK(on->blocked_until == (uint64_t)(block > 0 ? rk_clamp(end) : until));
    CHECK(cells_of(on, key) == (tat > 0) && cells_of(on, of_block) == (end > 0) && settled(on));
}

static void an_adjusted_bucket_is_what_the_words_say_and_nothing_overflows(void)
{
    static const int64_t ticks[] = {0, 1, 2, HEAVY, HEAVY + 1, MOST - 1, MOST};
    static const int64_t tats[] = {0, 1, NOW - 1, NOW, NOW + 1, NOW + 2, HEAVY, MOST};
    static const int64_t untils[] = {0, NOW + 1, MOST + MOST};
    enum { TICKS = sizeof ticks / sizeof *ticks, TATS = sizeof tats / sizeof *tats };
    fixture on;
    open_table(&on, 2);
    for (int place = 0; place < TICKS * (TICKS + 1) * TATS * 12; place++) {
        int rest = place / 12, block = rest / TICKS % (TICKS + 1);
        rk_cell before = {fingerprint_of(1) | (place & 1), tats[rest / TICKS / (TICKS + 1)]};
        check_one(&on, before, untils[place / 4 % 3], place & 2 ? MOST : NOW, ticks[rest % TICKS],
                  block < TICKS ? ticks[block] : RK_KEEP);
    }
    close_table(&on);
}

/* A charge on a blocked bucket: refused until the block's end, or for longer by its debt, whatever is asked. */
static void a_blocked_bucket_refuses_until_the_end_of_its_block_and_nothing_overflows(void)
{
    static const int64_t lefts[] = {1, 2, HEAVY, MOST};
    static const rk_terms terms[] = {{1, 5, 5}, {0, 5, 5}, {3, 3, 3}, {HEAVY, HEAVY, MOST}, {7, 5, MOST}, {1, 1, 1}};
    fixture on;
    uint64_t key = fingerprint_of(1);
    open_table(&on, 2);
    for (size_t place = 0; place < 4 * 6 * 2; place++) {
        int64_t left = lefts[place / 12], owed = place % 2 ? HEAVY : 0;
        rk_terms asked = terms[place / 2 % 6];
        rk_demand demand = {.fingerprint = key, .terms = asked};
        wipe(&on);
        take(&on, key, NOW, (rk_terms){owed, MOST, MOST});
        CHECK(adjust_at(&on, key, NOW, 0, left) && !charge_all_at(&on.table, &demand, 1, NOW));
        int64_t wait = owed + asked.increment > asked.tolerance ? owed + asked.increment - asked.tolerance : 0;
        CHECK(demand.answer.retry_after == (wait > left ? wait : left) && demand.answer.debt >= owed);
        CHECK(tat_of(&on, key) == (owed ? NOW + owed : 0));
        CHECK(charge_all_at(&on.table, &demand, 1, NOW + demand.answer.retry_after));
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
    CHECK(!adjust_at(&on, fingerprint_of(1), NOW, 0, 5) && on.blocked_until == 0);
    CHECK(adjust_at(&on, fingerprint_of(1), NOW, 5, RK_KEEP)); /* it is full already */
    CHECK(adjust_at(&on, fingerprint_of(1), NOW, 5, 0));       /* it is not blocked */
    CHECK(rk_live(&on.table, NOW) == 2 * RK_LINE && on.counters.refused_full == 1);
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
    CHECK(rk_adjust(&on.table, fingerprint_of(1), NOW, HEAVY, HEAVY, &broken));
    CHECK(tat_of(&on, fingerprint_of(1)) == NOW + 2 * HEAVY && on.blocked_until == NOW + HEAVY);
    CHECK(tat_of(&on, rk_block_of(&on.table, fingerprint_of(1))) == NOW + HEAVY);
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
        adjust_at(&in->on, in->key, NOW, 0, BLOCK);
        in->admitted[BLOCKED] = 1;
    }
    for (int tried = 0; tried < TRIES; tried++) {
        disturb(in, random);
        bool late = in->admitted[BLOCKED];
        bool taken = take_unblocked(&in->on, in->key, NOW, token_terms(CAPACITY, HEAVY, 1));
        in->admitted[TAKEN] += taken;
        in->admitted[TAKEN_LATE] += taken && late;
        refund(&in->on.table, in->key, HEAVY, 0);
    }
}

static void judge_block(arena *in, int id, int round, uint64_t *random)
{
    (void)id, (void)round, (void)random;
    CHECK(in->admitted[TAKEN_LATE] == 0);
    uint64_t block = rk_block_of(&in->on.table, in->key);
    CHECK(tat_of(&in->on, block) == NOW + BLOCK && in->on.blocked_until == NOW + BLOCK);
    CHECK(cells_of(&in->on, block) == 1 && settled(&in->on));
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
    adjust_at(&in->on, in->key, NOW, HEAVY, RK_KEEP);
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
    CLAIM(a_blocked_bucket_refuses_until_the_end_of_its_block_and_nothing_overflows);
    CLAIM(a_full_table_that_denies_newcomers_says_so_and_changes_nothing);
    CLAIM(a_clock_that_breaks_in_the_middle_leaves_the_time_that_was_read_before);
    CLAIM(after_a_block_nobody_takes_a_token_and_no_refund_shortens_it);
    CLAIM(of_an_empty_bucket_exactly_as_many_tokens_pass_as_were_granted);
}
