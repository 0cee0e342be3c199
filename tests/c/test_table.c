/* The C table, asked by one thread, while there is room: the rule, giving back and forgetting. And main().
 *
 * Linked with test_hash.c, test_full.c (newcomers find no room), test_races.c (many ask at once) and test_running.c
 * (while the clock runs). No framework: see check.h.
 */
#define CHECK_MAIN
#include "check.h"

enum { CAPACITY = 10, INTERVAL = 1000 };

void claims_about_the_hash(void);
void claims_about_full_tables(void);
void claims_about_adjustments(void);
void claims_about_races(void);
void claims_about_running_clocks(void);
void claims_about_sketches(void);

/* ---- the rule ---- */

static void a_full_bucket_admits_exactly_its_capacity_at_once(void)
{
    fixture on;
    open_table(&on, 2);
    for (int64_t capacity = 1; capacity <= 100; capacity++) {
        int64_t interval = 1 + capacity * 7919, admitted = 0;
        for (int asked = 0; asked < 150; asked++)
            admitted += take(&on, fingerprint_of(1), 5, token_terms(capacity, interval, 1));
        CHECK(admitted == capacity);
        CHECK(tat_of(&on, fingerprint_of(1)) == 5 + capacity * interval);
        reset(&on.table, fingerprint_of(1));
    }
    close_table(&on);
}

static void denied_a_tick_before_retry_after_and_allowed_at_it(void)
{
    fixture on;
    uint64_t random = 21;
    open_table(&on, 2);
    for (int round = 0; round < 2000; round++) {
        int64_t capacity = 1 + (int64_t)random_below(&random, 50);
        int64_t interval = 1 + (int64_t)random_below(&random, 1 << 20);
        int64_t cost = 1 + (int64_t)random_below(&random, (uint64_t)capacity);
        int64_t now = (int64_t)random_below(&random, 1 << 30);
        rk_terms terms = token_terms(capacity, interval, cost);
        rk_answer answer;
        while ((answer = charge_at(&on.table, fingerprint_of(1), now, terms, true)).allowed)
            now += (int64_t)random_below(&random, (uint64_t)interval / 2 + 1);
        CHECK(answer.retry_after > 0);
        CHECK(!take(&on, fingerprint_of(1), now + answer.retry_after - 1, terms));
        CHECK(take(&on, fingerprint_of(1), now + answer.retry_after, terms));
        reset(&on.table, fingerprint_of(1));
    }
    close_table(&on);
}

static void a_then_b_equals_a_plus_b(void)
{
    fixture on;
    uint64_t random = 22, one = fingerprint_of(1), two = fingerprint_of(2);
    open_table(&on, 2);
    for (int round = 0; round < 2000; round++) {
        int64_t interval = 1 + (int64_t)random_below(&random, 1 << 30), now = (int64_t)random_below(&random, 1 << 30);
        int64_t a = (int64_t)random_below(&random, CAPACITY + 1);
        int64_t b = (int64_t)random_below(&random, (uint64_t)(CAPACITY - a + 1));
        CHECK(take(&on, one, now, token_terms(CAPACITY, interval, a)));
        rk_answer after = charge_at(&on.table, one, now, token_terms(CAPACITY, interval, b), true);
        rk_answer at_once = charge_at(&on.table, two, now, token_terms(CAPACITY, interval, a + b), true);
        CHECK(after.allowed && at_once.allowed && after.debt == at_once.debt);
        CHECK(tat_of(&on, one) == tat_of(&on, two));
        reset(&on.table, one);
        reset(&on.table, two);
    }
    close_table(&on);
}

static bool same_as(const fixture *on, const rk_cell *before)
{
    return !memcmp(on->table.cells, before, on->table.lines * RK_LINE * sizeof(rk_cell));
}

static void what_is_refused_costs_nothing_or_is_not_committed_writes_nothing(void)
{
    fixture on;
    rk_cell before[2 * RK_LINE];
    open_table(&on, 2);
    for (uint64_t keys = 0; keys < 30; keys++) { /* from an empty table to one that is more than full */
        memcpy(before, on.table.cells, sizeof before);
        for (uint64_t key = 1; key <= keys + 1; key++) {
            CHECK(take(&on, fingerprint_of(key), 7, token_terms(CAPACITY, INTERVAL, 0)));
            CHECK(!take(&on, fingerprint_of(key), 7, token_terms(CAPACITY, INTERVAL, CAPACITY + 1)));
            CHECK(!take(&on, fingerprint_of(key), 6, token_terms(CAPACITY, INTERVAL, INT64_MAX / INTERVAL)));
            charge_at(&on.table, fingerprint_of(key), 7, token_terms(CAPACITY, INTERVAL, 1), false);
        }
        CHECK(same_as(&on, before));
        take(&on, fingerprint_of(keys + 1), 7, token_terms(CAPACITY, INTERVAL, (int64_t)keys % CAPACITY + 1));
    }
    close_table(&on);
}

static void the_answer_says_how_much_is_owed(void)
{
    fixture on;
    uint64_t key = fingerprint_of(1);
    open_table(&on, 2);
    CHECK(charge_at(&on.table, key, 100, token_terms(CAPACITY, INTERVAL, 3), true).debt == 3 * INTERVAL);
    CHECK(charge_at(&on.table, key, 100, token_terms(CAPACITY, INTERVAL, 8), true).debt == 3 * INTERVAL);
    CHECK(charge_at(&on.table, key, 600, token_terms(CAPACITY, INTERVAL, 1), false).debt == 3 * INTERVAL - 500);
    CHECK(charge_at(&on.table, key, 90000, token_terms(CAPACITY, INTERVAL, 0), true).debt == 0);
    rk_answer queued = charge_at(&on.table, key, 100, (rk_terms){INTERVAL, INTERVAL, 9 * INTERVAL}, true);
    CHECK(queued.allowed && queued.delay == 3 * INTERVAL && queued.debt == 4 * INTERVAL);
    close_table(&on);
}

static void extreme_times_and_bounds_do_not_overflow(void)
{
    const int64_t most = (INT64_C(1) << 62) - 1; /* of the clock, and of bounds */
    const int64_t values[] = {0, 1, 2, most / 2, most / 2 + 1, most - 1, most};
    const size_t count = sizeof values / sizeof *values;
    fixture on;
    open_table(&on, 2);
    for (size_t i = 0; i < count * count * count * count; i++) {
        int64_t first = values[i % count], then = values[i / count % count];
        int64_t increment = values[i / count / count % count], bound = values[i / count / count / count];
        rk_terms terms = {increment, bound, bound};
        __int128 tat = 0;
        for (int asked = 0; asked < 4; asked++) { /* the last two with a clock that has jumped, ahead or back */
            int64_t now = asked < 2 ? first : then;
            __int128 ahead = (tat > now ? tat : now) + increment - now;
            rk_answer answer = charge_at(&on.table, fingerprint_of(1), now, terms, true);
            CHECK(answer.allowed == (ahead <= bound));
            CHECK(answer.retry_after >= 0 && answer.delay >= 0 && answer.debt >= 0);
            if (ahead < INT64_MAX)
                CHECK(answer.retry_after == (ahead > bound ? ahead - bound : 0));
            if (answer.allowed && increment)
                tat = now + ahead;
            CHECK(tat_of(&on, fingerprint_of(1)) == tat);
        }
        reset(&on.table, fingerprint_of(1));
    }
    close_table(&on);
}

static void a_charge_of_all_the_time_there_is_is_taken_back_without_an_overflow(void)
{
    const int64_t increments[] = {1, INT64_MAX / 2, INT64_MAX - 1, INT64_MAX};
    int64_t late = (INT64_C(1) << 62) - 1;
    rk_clock clock = {read_standing, &late};
    fixture on;
    open_table(&on, 2);
    for (size_t i = 0; i < sizeof increments / sizeof *increments; i++) {
        rk_terms terms = {increments[i], INT64_MAX, increments[i]};
        rk_demand twice[2] = {{.fingerprint = fingerprint_of(1), .terms = terms},
                              {.fingerprint = fingerprint_of(1), .terms = terms}};
        CHECK(!rk_charge_all(&on.table, twice, 2, late, true, &clock)); /* each fits by itself, but not both */
        CHECK(tat_of(&on, fingerprint_of(1)) >= 0 && tat_of(&on, fingerprint_of(1)) <= late);
        reset(&on.table, fingerprint_of(1));
    }
    close_table(&on);
}

static void a_clock_that_steps_back_by_years_mints_nothing(void)
{
    const int64_t year = INT64_C(16000000000) * 86400 * 365;
    fixture on;
    open_table(&on, 2);
    rk_terms all = token_terms(CAPACITY, INTERVAL, CAPACITY), one = token_terms(CAPACITY, INTERVAL, 1);
    CHECK(take(&on, fingerprint_of(1), 9 * year, all));
    CHECK(!take(&on, fingerprint_of(1), 0, one));
    rk_answer denied = charge_at(&on.table, fingerprint_of(1), year, one, true);
    CHECK(!denied.allowed && denied.retry_after == 8 * year + INTERVAL);
    CHECK(take(&on, fingerprint_of(1), 9 * year + INTERVAL, one));
    CHECK(!take(&on, fingerprint_of(1), 9 * year + INTERVAL, one));
    close_table(&on);
}

/* Where `ahead` is clamped, the debt is taken from the clamped sum, and comes out less than is owed. It takes a bucket
 * that refills in nine years, and a clock that steps back as far. */
static void the_debt_of_a_refused_request_is_right_also_where_the_sum_does_not_fit(void)
{
    const int64_t most = (INT64_C(1) << 62) - 1;
    fixture on;
    open_table(&on, 2);
    CHECK(take(&on, fingerprint_of(1), most, (rk_terms){most, most, most}));
    CHECK(charge_at(&on.table, fingerprint_of(1), 0, (rk_terms){most, most, most}, true).debt == 2 * most);
    close_table(&on);
}

/* ---- giving back and forgetting ---- */

static void a_refund_gives_back_what_has_not_refilled_since_and_no_more(void)
{
    fixture on;
    uint64_t random = 31, key = fingerprint_of(1);
    open_table(&on, 2);
    for (int round = 0; round < 5000; round++) {
        int64_t now = (int64_t)random_below(&random, 1 << 20);
        int64_t earlier = (int64_t)random_below(&random, 5), cost = 1 + (int64_t)random_below(&random, 5);
        int64_t elapsed = (int64_t)random_below(&random, 12 * INTERVAL) - INTERVAL; /* it may have stepped back */
        take(&on, key, now, token_terms(CAPACITY, INTERVAL, earlier));
        take(&on, key, now, token_terms(CAPACITY, INTERVAL, cost));
        int64_t before = tat_of(&on, key), since = elapsed > 0 ? elapsed : 0;
        int64_t most = cost * INTERVAL > since ? cost * INTERVAL - since : 0;
        refund(&on.table, key, cost * INTERVAL, elapsed);
        CHECK(tat_of(&on, key) == before - most);
        reset(&on.table, key);
    }
    close_table(&on);
}

static void a_refund_gives_nothing_back_once_a_later_departure_was_promised_until_the_bucket_is_full(void)
{
    fixture on;
    rk_terms terms = token_terms(CAPACITY, INTERVAL, 1), waiting = terms;
    uint64_t key = fingerprint_of(1);
    open_table(&on, 2);
    take(&on, key, 1000, token_terms(CAPACITY, INTERVAL, CAPACITY));
    waiting.tolerance += INTERVAL;
    CHECK(take(&on, key, 1000, waiting)); /* its turn is at 1000 + INTERVAL */
    int64_t before = tat_of(&on, key), now = 1000 + INTERVAL - 1;
    rk_clock clock = {read_standing, &now};
    rk_refund(&on.table, key, now, terms, &clock);
    CHECK(tat_of(&on, key) == before);
    now++; /* it may have left, but nobody knows */
    rk_refund(&on.table, key, now, terms, &clock);
    CHECK(tat_of(&on, key) == before);
    now = before; /* the bucket is full */
    CHECK(take(&on, key, now, terms));
    rk_refund(&on.table, key, now, terms, &clock);
    CHECK(tat_of(&on, key) == before);
    close_table(&on);
}

static void a_refund_to_nobody_or_of_too_much_leaves_a_full_bucket(void)
{
    fixture on;
    rk_cell before[2 * RK_LINE];
    open_table(&on, 2);
    take(&on, fingerprint_of(2), 0, token_terms(CAPACITY, INTERVAL, 1));
    memcpy(before, on.table.cells, sizeof before);
    refund(&on.table, fingerprint_of(1), INTERVAL, 0);
    CHECK(same_as(&on, before));
    refund(&on.table, fingerprint_of(2), INT64_MAX, 0);
    CHECK(tat_of(&on, fingerprint_of(2)) == 0 && settled(&on));
    int64_t admitted = 0;
    for (int asked = 0; asked < 2 * CAPACITY; asked++)
        admitted += take(&on, fingerprint_of(2), 0, token_terms(CAPACITY, INTERVAL, 1));
    CHECK(admitted == CAPACITY);
    close_table(&on);
}

/* Somebody who is held up just after it read the clock, until `late`; meanwhile another takes a token of `key`. */
typedef struct {
    fixture *on;
    uint64_t key;
    rk_terms terms;
    int64_t now, late, admitted;
} hold_up;

static int64_t read_and_be_held_up(void *context)
{
    hold_up *it = context;
    int64_t read = it->now;
    if (it->now < it->late) {
        it->now = it->late;
        it->admitted += take(it->on, it->key, it->late, it->terms);
    }
    return read;
}

/* One token is charged and given back at once. But who gives it back is held up after it read the clock; meanwhile the
 * bucket is full again, and what it would give back of is another's charge. */
static void a_refund_mints_nothing_if_the_giver_was_held_up(void)
{
    enum { SIZE = 2, EARLY = 50 * INTERVAL };
    fixture on;
    uint64_t key = fingerprint_of(1);
    rk_terms terms = token_terms(SIZE, INTERVAL, 1);
    open_table(&on, 2);
    CHECK(take(&on, key, EARLY, terms));
    hold_up it = {&on, key, terms, EARLY, EARLY + INTERVAL, 0};
    rk_clock clock = {read_and_be_held_up, &it};
    rk_refund(&on.table, key, EARLY, terms, &clock);
    while (take(&on, key, it.late, terms))
        it.admitted++;
    CHECK(it.admitted == SIZE); /* all at one instant */
    close_table(&on);
}

/* The three demands cannot be met, since two are for the one token of `other`; so what was charged of `key` is given
 * back, by one who may be held up. */
static void what_is_given_back_of_several_limits_mints_nothing_if_the_giver_was_held_up(void)
{
    enum { SIZE = 2, EARLY = 50 * INTERVAL };
    fixture on;
    uint64_t key = fingerprint_of(1), other = fingerprint_of(2);
    open_table(&on, 2);
    rk_terms terms = token_terms(SIZE, INTERVAL, 1), single = token_terms(1, INTERVAL, 1);
    CHECK(take(&on, key, 0, terms) && take(&on, other, 0, single)); /* they have cells; by EARLY, both are full */
    hold_up it = {&on, key, terms, EARLY, EARLY + INTERVAL, 0};
    rk_clock clock = {read_and_be_held_up, &it};
    rk_demand demands[3] = {{.fingerprint = key, .terms = terms},
                            {.fingerprint = other, .terms = single},
                            {.fingerprint = other, .terms = single}};
    CHECK(!rk_charge_all(&on.table, demands, 3, EARLY, true, &clock));
    while (take(&on, key, it.late, terms))
        it.admitted++;
    CHECK(it.admitted == SIZE); /* all at one instant */
    close_table(&on);
}

static void a_reset_forgets_this_bucket_and_no_other(void)
{
    fixture on;
    open_table(&on, 3);
    for (uint64_t key = 0; key < 10; key++)
        take(&on, fingerprint_of(key), 0, token_terms(CAPACITY, INTERVAL, CAPACITY));
    reset(&on.table, fingerprint_of(4));
    CHECK(cells_of(&on, fingerprint_of(4)) == 0 && rk_live(&on.table, 0) == 9);
    for (uint64_t key = 0; key < 10; key++)
        CHECK(take(&on, fingerprint_of(key), 0, token_terms(CAPACITY, INTERVAL, CAPACITY)) == (key == 4));
    close_table(&on);
}

int main(void)
{
    claims_about_the_hash();
    CLAIM(a_full_bucket_admits_exactly_its_capacity_at_once);
    CLAIM(denied_a_tick_before_retry_after_and_allowed_at_it);
    CLAIM(a_then_b_equals_a_plus_b);
    CLAIM(what_is_refused_costs_nothing_or_is_not_committed_writes_nothing);
    CLAIM(the_answer_says_how_much_is_owed);
    CLAIM(extreme_times_and_bounds_do_not_overflow);
    CLAIM(a_charge_of_all_the_time_there_is_is_taken_back_without_an_overflow);
    CLAIM(a_clock_that_steps_back_by_years_mints_nothing);
    CLAIM(a_refund_gives_back_what_has_not_refilled_since_and_no_more);
    CLAIM(a_refund_gives_nothing_back_once_a_later_departure_was_promised_until_the_bucket_is_full);
    CLAIM(a_refund_to_nobody_or_of_too_much_leaves_a_full_bucket);
    CLAIM(a_reset_forgets_this_bucket_and_no_other);
    CLAIM(a_refund_mints_nothing_if_the_giver_was_held_up);
    CLAIM(what_is_given_back_of_several_limits_mints_nothing_if_the_giver_was_held_up);
    CLAIM(the_debt_of_a_refused_request_is_right_also_where_the_sum_does_not_fit);
    claims_about_full_tables();
    claims_about_adjustments();
    claims_about_races();
    claims_about_running_clocks();
    claims_about_sketches();
    return conclude();
}
