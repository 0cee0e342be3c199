/* Newcomers to a crowded table: the cells that they take, the buckets that they evict, the refusals. One thread. */
#include "check.h"

enum { CAPACITY = 10, INTERVAL = 1000, CELLS = 2 * RK_LINE };

/* Fill a table of two lines, so that every cell is home to every key, with live buckets that owe 1, 2, 3... ticks. */
static void crowd(fixture *on, int64_t now)
{
    for (int place = 0; place < CELLS; place++)
        on->table.cells[place] = (rk_cell){fingerprint_of(1000 + (uint64_t)place), now + 1 + place};
}

/* ---- claims that were left behind ---- */

static void a_claim_whose_owner_died_is_taken_away_by_the_next_who_comes(void)
{
    fixture on;
    open_table(&on, 2);
    for (int dead = 0; dead < CELLS; dead++) {
        for (int other_dead = 0; other_dead < CELLS; other_dead++) {
            wipe(&on);
            on.table.cells[dead] = (rk_cell){fingerprint_of(1), INT64_MIN + 77};
            on.table.cells[other_dead] = (rk_cell){fingerprint_of(1), INT64_MIN + 78};
            rk_terms terms = token_terms(CAPACITY, INTERVAL, CAPACITY);
            CHECK(take(&on, fingerprint_of(1), 0, terms) && !take(&on, fingerprint_of(1), 0, terms));
            CHECK(settled(&on) && rk_live(&on.table, 0) == 1 && on.counters.evicted_live == 0);
        }
    }
    close_table(&on);
}

static void a_dead_claim_is_taken_away_in_a_full_table_too_whether_it_evicts_or_denies(void)
{
    fixture on;
    open_table(&on, 2);
    for (int deny = 0; deny < 2; deny++) {
        on.table.deny_when_full = deny;
        for (int dead = 0; dead < CELLS; dead++) {
            crowd(&on, 0);
            on.table.cells[dead] = (rk_cell){fingerprint_of(1), -1};
            CHECK(take(&on, fingerprint_of(1), 0, token_terms(CAPACITY, INTERVAL, 1)));
            CHECK(on.table.cells[dead].fingerprint == fingerprint_of(1) && on.table.cells[dead].tat == INTERVAL);
            CHECK(settled(&on) && on.counters.evicted_live == 0 && on.counters.refused_full == 0);
        }
    }
    close_table(&on);
}

static void a_dead_claim_is_no_debt_to_those_who_only_look_give_back_or_forget(void)
{
    fixture on;
    open_table(&on, 2);
    on.table.cells[3] = (rk_cell){fingerprint_of(1), INT64_MIN};
    rk_terms terms = token_terms(CAPACITY, INTERVAL, CAPACITY);
    CHECK(charge_at(&on.table, fingerprint_of(1), 0, terms, false).allowed);
    refund(&on.table, fingerprint_of(1), INTERVAL, 0);
    reset(&on.table, fingerprint_of(1));
    CHECK(rk_live(&on.table, 0) == 0);
    CHECK(take(&on, fingerprint_of(1), 0, terms) && settled(&on));
    close_table(&on);
}

static void anothers_claim_counts_as_free_and_is_the_last_free_cell_to_be_taken(void)
{
    const int64_t now = 1 << 20;
    fixture on;
    open_table(&on, 2);
    for (int claimed = 0; claimed < CELLS; claimed++) {
        for (int free_cell = 0; free_cell < CELLS; free_cell++) {
            crowd(&on, now);
            on.table.cells[free_cell].tat = now - 1; /* free since a tick ago */
            on.table.cells[claimed] = (rk_cell){fingerprint_of(2), INT64_MIN + 5};
            CHECK(take(&on, fingerprint_of(1), now, token_terms(CAPACITY, INTERVAL, 1)));
            CHECK(on.counters.evicted_live == 0); /* it took one of the two */
            bool same_line = claimed / RK_LINE == free_cell / RK_LINE;
            if (same_line && free_cell != claimed)
                CHECK(on.table.cells[free_cell].fingerprint == fingerprint_of(1) && on.table.cells[claimed].tat < 0);
            if (free_cell == claimed)
                CHECK(settled(&on) && cells_of(&on, fingerprint_of(1)) == 1);
        }
    }
    close_table(&on);
}

/* ---- who goes ---- */

/* Any table of two or three lines: buckets live and past, claims, cells never used. */
static void scatter(fixture *on, uint64_t *random, int64_t now)
{
    uint64_t kinds = 1 + random_below(random, 12); /* at 1, all are live */
    for (uint64_t place = 0; place < on->table.lines * RK_LINE; place++) {
        int64_t away = (int64_t)random_below(random, 1000);
        rk_cell cell = {fingerprint_of(100 + place), now + 1 + away};
        switch (random_below(random, kinds)) {
        case 1:
            cell.tat = now - away;
            break;
        case 2:
            cell.tat = INT64_MIN + away;
            break;
        case 3:
            cell = (rk_cell){0, 0};
            break;
        default:
            break;
        }
        on->table.cells[place] = cell;
    }
}

/* Of the key's sixteen cells: the least TAT, claims being free and so least of all. */
static int64_t least_tat(const fixture *on, uint64_t fingerprint)
{
    rk_home home = rk_home_of(&on->table, fingerprint);
    int64_t least = INT64_MAX;
    for (int place = 0; place < CELLS; place++) {
        int64_t tat = home.line[place / RK_LINE][place % RK_LINE].tat;
        least = tat < least ? tat : least;
    }
    return least;
}

static void a_newcomer_takes_a_free_cell_or_else_the_bucket_that_owes_least_and_touches_no_other(void)
{
    fixture on;
    uint64_t random = 41;
    for (int round = 0; round < 20000 / SLOW; round++) {
        int64_t now = 5000;
        uint64_t lines = 2 + random_below(&random, 2), newcomer = fingerprint_of(next_random(&random));
        open_table(&on, lines);
        scatter(&on, &random, now);
        rk_cell before[3 * RK_LINE];
        memcpy(before, on.table.cells, lines * RK_LINE * sizeof(rk_cell));
        int64_t least = least_tat(&on, newcomer);
        CHECK(take(&on, newcomer, now, token_terms(CAPACITY, INTERVAL, 1)));
        int changed = 0;
        for (uint64_t place = 0; place < lines * RK_LINE; place++) {
            if (!memcmp(&on.table.cells[place], &before[place], sizeof(rk_cell)))
                continue;
            changed++;
            CHECK(least <= now ? before[place].tat <= now : before[place].tat == least);
            CHECK(on.table.cells[place].fingerprint == newcomer && on.table.cells[place].tat == now + INTERVAL);
        }
        CHECK(changed == 1);
        CHECK(on.counters.evicted_live == (least > now) && on.counters.refused_full == 0);
        close_table(&on);
    }
}

static void deny_when_full_refuses_the_newcomer_until_the_wait_it_names(void)
{
    fixture on;
    uint64_t random = 42, refused = 0;
    for (int round = 0; round < 20000 / SLOW; round++) {
        int64_t now = 5000;
        uint64_t lines = 2 + random_below(&random, 2), newcomer = fingerprint_of(next_random(&random));
        open_table(&on, lines);
        on.table.deny_when_full = true;
        scatter(&on, &random, now);
        rk_cell before[3 * RK_LINE];
        memcpy(before, on.table.cells, lines * RK_LINE * sizeof(rk_cell));
        int64_t least = least_tat(&on, newcomer);
        rk_terms terms = token_terms(CAPACITY, INTERVAL, 1);
        rk_answer look = charge_at(&on.table, newcomer, now, terms, false);
        CHECK(on.counters.refused_full == 0);
        rk_answer answer = charge_at(&on.table, newcomer, now, terms, true);
        CHECK(answer.allowed == (least <= now) && look.allowed == answer.allowed && look.full == !look.allowed);
        CHECK(look.retry_after == answer.retry_after && look.debt == 0);
        CHECK(on.counters.refused_full == !answer.allowed && on.counters.evicted_live == 0);
        if (!answer.allowed) {
            CHECK(!memcmp(before, on.table.cells, lines * RK_LINE * sizeof(rk_cell)));
            CHECK(answer.retry_after == least - now && answer.debt == 0);
            CHECK(!take(&on, newcomer, now + answer.retry_after - 1, terms));
            CHECK(take(&on, newcomer, now + answer.retry_after, terms));
            CHECK(on.counters.evicted_live == 0);
            refused++;
        }
        close_table(&on);
    }
    CHECK(refused > 100);
}

static void a_flood_of_newcomers_evicts_the_flood_and_no_heavy_debtor(void)
{
    enum { LINES = 64, DEBTORS = 100 };
    fixture on;
    open_table(&on, LINES);
    for (uint64_t key = 0; key < DEBTORS; key++) /* a fifth of all cells, and never all of a line */
        take(&on, fingerprint_of(key), 0, token_terms(1000, INTERVAL, 500 + (int64_t)key));
    for (uint64_t flood = 0; flood < 100000 / SLOW; flood++) {
        int64_t now = (int64_t)flood; /* each newcomer owes a token for 1000 newcomers: there is no free cell */
        CHECK(take(&on, fingerprint_of(1000 + flood), now, token_terms(1000, INTERVAL, 1)));
    }
    for (uint64_t key = 0; key < DEBTORS; key++)
        CHECK(tat_of(&on, fingerprint_of(key)) == (500 + (int64_t)key) * INTERVAL);
    CHECK(on.counters.evicted_live > 20000 / SLOW);
    close_table(&on);
}

static void a_hundred_thousand_keys_at_seventy_percent_load_evict_nothing(void)
{
    enum { KEYS = 100000, LINES = (KEYS * 10 + 7 * RK_LINE - 1) / (7 * RK_LINE) };
    fixture on;
    open_table(&on, LINES);
    for (uint64_t seed = 1; seed <= 5; seed++) {
        wipe(&on);
        rk_key scope = rk_scope_key((rk_key){seed, ~seed}, "scope", 5);
        for (uint64_t key = 0; key < KEYS; key++)
            CHECK(take(&on, rk_fingerprint(scope, &key, sizeof key), 0, token_terms(CAPACITY, INTERVAL, 1)));
        CHECK(on.counters.evicted_live == 0 && rk_live(&on.table, 0) == KEYS);
    }
    close_table(&on);
}

/* ---- callers who were held up ---- */

static uint64_t key_at_home_in(const fixture *on, int one_line, int other_line)
{
    for (uint64_t n = 1;; n++) {
        rk_home home = rk_home_of(&on->table, fingerprint_of(n));
        ptrdiff_t first = home.line[0] - on->table.cells, second = home.line[1] - on->table.cells;
        if (first == one_line * RK_LINE && second == other_line * RK_LINE)
            return fingerprint_of(n);
    }
}

/* A bucket is charged in full at `early`. When it has just refilled, at `late`, a newcomer takes its cell. Then comes
 * one who read `early`, finds no bucket, and room for a new one in the other line; and whose clock says `again` when it
 * is read again. Returns how much passes from `early` to `late`; it should be the
 * capacity, and what refills meanwhile: twice the capacity. */
static int64_t admitted_though_forgotten(int64_t early, int64_t late, int64_t again)
{
    fixture on;
    open_table(&on, 3);
    uint64_t victim = key_at_home_in(&on, 0, 1), newcomer = key_at_home_in(&on, 0, 2);
    for (uint64_t place = 0; place < 3 * RK_LINE; place++) /* all live, but for one cell in line 0 and one in line 1 */
        if (place != 3 && place != RK_LINE)
            on.table.cells[place] = (rk_cell){2 * (1000 + place), INT64_MAX / 2};
    rk_terms all = token_terms(CAPACITY, INTERVAL, CAPACITY);
    CHECK(take(&on, victim, early, all) && on.table.cells[3].fingerprint == victim);
    CHECK(take(&on, newcomer, late, token_terms(CAPACITY, INTERVAL, 1)) && on.table.cells[3].fingerprint == newcomer);
    rk_clock clock = {read_standing, &again};
    rk_answer held_up = rk_charge(&on.table, victim, early, all, true, &clock);
    CHECK(held_up.allowed && held_up.at == again && tat_of(&on, victim) == again + held_up.debt);
    int64_t admitted = CAPACITY + CAPACITY;
    while (take(&on, victim, late, token_terms(CAPACITY, INTERVAL, 1)))
        admitted++;
    CHECK(on.counters.evicted_live == 0); /* nothing was lost that would have been counted */
    close_table(&on);
    return admitted;
}

static void a_cell_given_to_a_newcomer_mints_nothing_for_a_caller_who_was_held_up(void)
{
    const int64_t early = 50 * INTERVAL, late = early + CAPACITY * INTERVAL;
    CHECK(admitted_though_forgotten(early, late, late) == 2 * CAPACITY);
}

/* The remaining case is a clock that really steps back. Even if it is read again, it is behind the clock of the caller
 * that forgot the bucket. No table can know better: the debt is forgotten too early by that clock. The system's clock
 * does not step back; a clock that somebody passes in may. */
static void a_clock_that_steps_back_behind_a_forgotten_bucket_mints_no_more_than_refills_in_the_step(void)
{
    const int64_t early = 50 * INTERVAL, late = early + CAPACITY * INTERVAL;
    for (int64_t back = 0; back <= CAPACITY; back++)
        CHECK(admitted_though_forgotten(early, late, late - back * INTERVAL) == 2 * CAPACITY + back);
}

void claims_about_full_tables(void)
{
    CLAIM(a_claim_whose_owner_died_is_taken_away_by_the_next_who_comes);
    CLAIM(a_dead_claim_is_taken_away_in_a_full_table_too_whether_it_evicts_or_denies);
    CLAIM(a_dead_claim_is_no_debt_to_those_who_only_look_give_back_or_forget);
    CLAIM(anothers_claim_counts_as_free_and_is_the_last_free_cell_to_be_taken);
    CLAIM(a_newcomer_takes_a_free_cell_or_else_the_bucket_that_owes_least_and_touches_no_other);
    CLAIM(deny_when_full_refuses_the_newcomer_until_the_wait_it_names);
    CLAIM(a_flood_of_newcomers_evicts_the_flood_and_no_heavy_debtor);
    CLAIM(a_hundred_thousand_keys_at_seventy_percent_load_evict_nothing);
    CLAIM(a_cell_given_to_a_newcomer_mints_nothing_for_a_caller_who_was_held_up);
    CLAIM(a_clock_that_steps_back_behind_a_forgotten_bucket_mints_no_more_than_refills_in_the_step);
}
