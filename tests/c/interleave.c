/* Two or three callers of the C table in every order in which it can matter, one step at a time; and one who dies at
 * any step, or is stopped until the others are done.
 *
 * Each caller is a coroutine, and a step is a read or a swap of a cell, or a read of the clock. From many tables, all
 * schedules of two callers are run that change callers at most twice, and after them random ones that change often. So
 * a race is found though it needs a meeting within nanoseconds, on any number of cores, and is found again in the next
 * run. (S. Qadeer and J. Rehof,
 * "Context-bounded model checking", 2005: few changes of thread find most races.)
 *
 * It cannot see what depends on the order of memory, only on that of the steps. That is left to test_races.c.
 */
#include <stdint.h>
#include <ucontext.h>

static void step(void);
#define __atomic_load_n(cell, order) (step(), __atomic_load_n(cell, order))
#define __sync_bool_compare_and_swap(cell, old, new) (step(), __sync_bool_compare_and_swap(cell, old, new))
#define __atomic_compare_exchange_n(cell, old, new, weak, won, lost)                                                   \
    (step(), __atomic_compare_exchange_n(cell, old, new, weak, won, lost))

#define CHECK_MAIN
#include "check.h"
#include "history.h"

enum { CALLERS = 3, CHANGES = 2, STACK = 64 * 1024, NOW = 50, TABLES = 6, WAITING = 400, ENDLESS = 100000 };
enum { LIMITS = 3, KEYS = 6, MOST_ADMITTED = 32 };

#define HEAVY (INT64_C(1) << 40)

typedef struct {
    ucontext_t context;
    bool done;
    uint64_t random;
    int64_t admitted;
    char *stack;
} caller;

static caller callers[CALLERS];
static ucontext_t scheduler;
static int running = -1; /* the caller whose turn it is; -1: nobody's, and steps are not counted */
static fixture on;

/* The schedule: change callers before these steps; or, if `change_one_in`, at random. */
static int crew = 2; /* how many callers there are */
static uint64_t taken, change_at[CHANGES], change_one_in, schedule_random;
static int changes_made;

/* The first caller does not take this step, nor any after it (UINT64_MAX: it does): it is dead; or, if it comes back,
 * stopped until the others are done. */
static uint64_t leaves_at = UINT64_MAX;
static bool comes_back;

/* The clock that all read. If it moves, it does so when callers change, so each may hold a time that is long past. */
static int64_t the_time = NOW;
static bool clock_moves;
static const int64_t moves[] = {0, 0, 1, 300, 999, 1000, 1001, 2000, 2500, 4000};

static void step(void)
{
    if (running < 0)
        return;
    uint64_t now = taken++;
    if (now > ENDLESS) { /* it waits for one that does not go on */
        printf("not ok - a caller does not end\n");
        fflush(stdout);
        abort();
    }
    bool change = now == leaves_at && running == 0;
    if (changes_made < CHANGES && now == change_at[changes_made]) {
        changes_made++;
        change = true;
    }
    if (change_one_in)
        change |= random_below(&schedule_random, change_one_in) == 0;
    if (change && clock_moves)
        the_time += moves[random_below(&schedule_random, sizeof moves / sizeof *moves)];
    if (change)
        swapcontext(&callers[running].context, &scheduler);
}

static int64_t read_clock(void *context)
{
    (void)context;
    step();
    return the_time;
}

static const rk_clock all_read = {read_clock, NULL};

/* ---- what the callers do ---- */

static const uint64_t new_key = 0x9e3779b97f4a7c14;

static uint64_t bystander(uint64_t *random)
{
    return fingerprint_of(random_below(random, 2 * RK_LINE + 2));
}

/* A table of two lines that is nearly full, so that a step of another may change where a newcomer goes. */
static void set_table(uint64_t random)
{
    static const rk_cell never_used = {0, 0};
    wipe(&on);
    for (uint64_t place = 0; place < 2 * RK_LINE; place++) {
        rk_cell cell = {fingerprint_of(place), NOW - 2 + (int64_t)random_below(&random, 50)};
        on.table.cells[place] = random_below(&random, 8) ? cell : never_used;
    }
}

/* Meddle with a bystander, then ask twice for a key that nobody has asked for yet. Its capacity is 3. */
static void call(int self)
{
    caller *me = &callers[self];
    uint64_t other = bystander(&me->random);
    switch (random_below(&me->random, 4)) {
    case 0:
        reset(&on.table, other);
        break;
    case 1:
        take(&on, other, NOW, (rk_terms){1, 1000, 1000});
        break;
    case 2:
        refund(&on.table, other, 30, 0);
        break;
    default:
        break;
    }
    for (int asked = 0; asked < 2; asked++)
        me->admitted += take(&on, new_key, NOW, token_terms(3, HEAVY, 1));
    me->done = true;
}

/* One makes the bucket, forgets it, and gives its cell to a bystander; the other asks for the bucket meanwhile. A
 * bystander owes so much that the other would be refused, if that were taken for the bucket's own debt. */
static void call_and_forget(int self)
{
    uint64_t next = 100;
    callers[self].admitted += take(&on, new_key, NOW, token_terms(2, HEAVY, 1));
    if (self == 0) {
        reset(&on.table, new_key);
        while (rk_live(&on.table, NOW) < 2 * RK_LINE - 1)
            take(&on, fingerprint_of(next++), NOW, token_terms(2, HEAVY, 2));
    }
    callers[self].done = true;
}

/* Ask for two keys at once, all or nothing, in opposite order: one has 1 token, and one has 2. */
static void call_for_both(int self)
{
    rk_demand one = {.fingerprint = new_key, .terms = token_terms(1, HEAVY, 1)};
    rk_demand two = {.fingerprint = ~new_key & ~RK_MARK, .terms = token_terms(2, HEAVY, 1)};
    rk_demand demands[2] = {self ? two : one, self ? one : two};
    callers[self].admitted += rk_charge_all(&on.table, demands, 2, NOW, true, &all_read);
    callers[self].done = true;
}

/* Two or three limits, which all share; what they owed before, and what has been admitted since, as far as is known. */
typedef struct {
    uint64_t fingerprint;
    int64_t capacity, owed, admitted;
} shared_limit;

static shared_limit limits[LIMITS];
static size_t limits_asked; /* by the first caller */
static rk_cell at_first[2 * RK_LINE];

/* New or old buckets, with most of their tokens or one; and a crowd of bystanders. */
static void set_limits(uint64_t random)
{
    limits_asked = 2 + random_below(&random, LIMITS - 1);
    for (uint64_t i = 0; i < LIMITS; i++) {
        shared_limit *limit = &limits[i];
        *limit = (shared_limit){fingerprint_of(500 + i), 1 + (int64_t)random_below(&random, 3), 0, 0};
        rk_cell *cell = &on.table.cells[i * 5 + random_below(&random, 5)];
        switch (random_below(&random, 3)) {
        case 0: /* its last token is left */
            limit->owed = limit->capacity - 1;
            *cell = (rk_cell){limit->fingerprint, NOW + limit->owed * HEAVY};
            break;
        case 1: /* it is full, and may have a cell yet */
            *cell = (rk_cell){limit->fingerprint, NOW - (int64_t)random_below(&random, 3)};
            break;
        default:
            break;
        }
    }
    memcpy(at_first, on.table.cells, sizeof at_first);
}

static bool ask_for_limits(const size_t *which, size_t count)
{
    rk_demand demands[LIMITS];
    for (size_t i = 0; i < count; i++) {
        const shared_limit *limit = &limits[which[i]];
        demands[i] = (rk_demand){.fingerprint = limit->fingerprint, .terms = token_terms(limit->capacity, HEAVY, 1)};
    }
    bool admitted = rk_charge_all(&on.table, demands, count, NOW, true, &all_read);
    for (size_t i = 0; i < count; i++)
        limits[which[i]].admitted += admitted;
    return admitted;
}

/* The first asks for all limits once; the others for one, or for several in another order, or they are newcomers. */
static void call_for_limits(int self)
{
    static const size_t orders[][LIMITS] = {{0, 1, 2}, {1, 0, 2}, {1, 2, 0}, {2, 1, 0}, {2, 0, 1}};
    caller *me = &callers[self];
    if (self == 0)
        ask_for_limits(orders[0], limits_asked);
    for (int asked = 0; self && asked < 2; asked++) {
        const size_t *order = orders[random_below(&me->random, 5)];
        uint64_t count = random_below(&me->random, LIMITS + 1);
        if (count)
            ask_for_limits(order, count);
        else
            take(&on, fingerprint_of(700 + random_below(&me->random, 4)), NOW, (rk_terms){20, 1000, 1000});
    }
    me->done = true;
}

/* Keys that come and go, in few cells, by a clock that moves. */
static uint64_t coming[KEYS];
static admission admitted_of[KEYS][MOST_ADMITTED];
static size_t count_of[KEYS];

/* All cells owe for ever, but for two or three in each of three lines. With `deny_when_full`, nobody is put out. */
static void set_few_cells(uint64_t random)
{
    on.table.deny_when_full = true;
    for (uint64_t place = 0; place < on.table.lines * RK_LINE; place++)
        on.table.cells[place] = (rk_cell){2 * (1000 + place), INT64_MAX / 2};
    for (int free_cells = 0; free_cells < 4; free_cells++)
        on.table.cells[random_below(&random, on.table.lines * RK_LINE)] = (rk_cell){0, 0};
    for (uint64_t key = 0; key < KEYS; key++) {
        coming[key] = fingerprint_of(900 + key);
        count_of[key] = 0;
    }
}

/* The time may be read long before it is used. */
static void call_with_a_time_that_may_be_past(int self)
{
    caller *me = &callers[self];
    for (int asked = 0; asked < 6; asked++) {
        uint64_t key = random_below(&me->random, KEYS);
        int64_t now = all_read.read(all_read.context);
        int64_t cost = 1 + (int64_t)random_below(&me->random, 2);
        rk_answer answer = rk_charge(&on.table, coming[key], now, token_terms(2, 1000, cost), true, &all_read);
        if (answer.allowed)
            admitted_of[key][count_of[key]++] = (admission){answer.at, answer.at + answer.debt, cost};
    }
    me->done = true;
}

/* ---- changes by hand ---- */

static bool is_blocked;
static int64_t admitted_late;

static void set_no_block(uint64_t random)
{
    (void)random;
    is_blocked = false, admitted_late = 0;
}

/* The first blocks a key that is new, or is being made; the others take of it, and give back what nobody took. */
static void call_at_a_block(int self)
{
    caller *me = &callers[self];
    if (self == 0) {
        rk_adjust(&on.table, new_key, NOW, 0, 9 * HEAVY, &all_read);
        is_blocked = true;
    }
    for (int asked = 0; self && asked < 2; asked++) {
        bool late = is_blocked;
        admitted_late += take_unblocked(&on, new_key, NOW, token_terms(3, HEAVY, 1)) && late;
        refund(&on.table, new_key, HEAVY, 0);
    }
    me->done = true;
}

static void set_empty_bucket(uint64_t random)
{
    on.table.cells[random_below(&random, RK_LINE)] = (rk_cell){0, 0};
    reset(&on.table, new_key);
    take(&on, new_key, NOW, token_terms(3, HEAVY, 3));
}

/* Each grants one token of a bucket that had none, and takes what it gets. */
static void call_at_a_grant(int self)
{
    caller *me = &callers[self];
    rk_adjust(&on.table, new_key, NOW, HEAVY, RK_KEEP, &all_read);
    for (int asked = 0; asked < 2; asked++)
        me->admitted += take(&on, new_key, NOW, token_terms(3, HEAVY, 1));
    me->done = true;
}

/* ---- running one schedule ---- */

static void (*set_more)(uint64_t random); /* what else the table is set to */

static void make_ready(caller *it, int self, void (*script)(int), uint64_t random)
{
    getcontext(&it->context);
    it->context.uc_stack.ss_sp = it->stack;
    it->context.uc_stack.ss_size = STACK;
    it->context.uc_link = &scheduler;
    it->done = false, it->admitted = 0;
    it->random = random;
    makecontext(&it->context, (void (*)(void))(void *)script, 1, self); /* it is called as makecontext(3) says */
}

/* Return the caller whose turn is next; -1 if all are done or dead. */
static int next_after(int last)
{
    int skip = change_one_in && crew > 2 ? (int)random_below(&schedule_random, 2) : 0;
    bool left = taken > leaves_at;
    for (int tried = 1 + skip; tried <= crew + skip; tried++) {
        int next = (last + tried) % crew;
        if (!callers[next].done && !(next == 0 && left))
            return next;
    }
    return left && comes_back && !callers[0].done ? 0 : -1;
}

/* Returns how many steps it took. */
static uint64_t run(void (*script)(int), uint64_t seed)
{
    set_table(seed | 1);
    if (set_more)
        set_more(seed * 71 | 1);
    taken = 0, changes_made = 0, the_time = NOW;
    for (int self = 0; self < crew; self++)
        make_ready(&callers[self], self, script, seed * 31 + (uint64_t)self * 17 + 1);
    for (int next = 0; next >= 0; next = next_after(next)) {
        running = next;
        swapcontext(&scheduler, &callers[next].context);
        running = -1;
    }
    return taken;
}

typedef void (*judge)(void);

/* All schedules of at most two changes, on many tables. Past WAITING steps the second caller only asks again and again
 * whether the claim of the first has gone, and no longer is each step worth a run. */
static void explore(void (*script)(int), judge judge_it)
{
    change_one_in = 0;
    for (uint64_t seed = 1; seed <= TABLES && !checks_failed; seed++) {
        uint64_t last = 1;
        for (change_at[0] = 0; change_at[0] < last; change_at[0]++) {
            uint64_t end = UINT64_MAX;
            for (change_at[1] = change_at[0] + 1; change_at[1] <= end;) {
                end = run(script, seed);
                judge_it();
                change_at[1] += change_at[1] - change_at[0] < WAITING ? 1 : 41;
            }
            last = end; /* without a second change */
        }
    }
}

/* In half of the runs few changes, so that a caller gets far while another stands. */
static void explore_at_random(void (*script)(int), judge judge_it, uint64_t runs, bool one_leaves)
{
    schedule_random = 4711;
    change_at[0] = UINT64_MAX;
    for (uint64_t seed = 1; seed <= runs && !checks_failed; seed++) {
        change_one_in = 2 + random_below(&schedule_random, seed % 2 ? 40 : 200);
        leaves_at = one_leaves ? random_below(&schedule_random, 400) : UINT64_MAX;
        run(script, seed);
        judge_it();
    }
    change_one_in = 0;
    leaves_at = UINT64_MAX;
}

/* The first leaves at every step, and another may have come before: at each step, or at one in `stride`. */
static void explore_leaving(void (*script)(int), judge judge_it, uint64_t tables, uint64_t stride)
{
    change_at[1] = UINT64_MAX;
    for (uint64_t seed = 1; seed <= tables && !checks_failed; seed++) {
        uint64_t end = 1;
        for (leaves_at = 0; leaves_at < end; leaves_at++)
            for (uint64_t change = 0; change <= leaves_at; change += stride) {
                change_at[0] = leaves_at - change;
                end = run(script, seed);
                judge_it();
            }
    }
    leaves_at = UINT64_MAX;
}

/* ---- claims ---- */

static int64_t admitted_to_all(void)
{
    int64_t admitted = 0;
    for (int self = 0; self < crew; self++)
        admitted += callers[self].admitted;
    return admitted;
}

static void judge_newcomer(void)
{
    CHECK(admitted_to_all() == 3);
    CHECK(cells_of(&on, new_key) == 1 && tat_of(&on, new_key) == NOW + 3 * HEAVY);
    CHECK(settled(&on));
}

static void two_who_meet_a_new_key_admit_exactly_capacity_and_leave_one_cell_in_every_order(void)
{
    explore(call, judge_newcomer);
    explore_at_random(call, judge_newcomer, 10000, false);
}

static void three_who_meet_a_new_key_admit_exactly_capacity_and_leave_one_cell(void)
{
    crew = 3;
    explore_at_random(call, judge_newcomer, 15000, false);
    crew = 2;
}

static void judge_heir(void)
{
    int64_t tat = tat_of(&on, new_key);
    CHECK(callers[0].admitted == 1 && callers[1].admitted == 1);
    CHECK(tat == 0 || tat == NOW + HEAVY); /* no charge is left, or that of the second; never that of a bystander */
}

static void a_newcomer_owes_nothing_of_what_stood_in_its_cell_in_every_order(void)
{
    explore(call_and_forget, judge_heir);
    explore_at_random(call_and_forget, judge_heir, 10000, false);
}

static void judge_survivor(void)
{
    if (!callers[0].done) /* what the dead one got, nobody knows; the one who is left takes the rest */
        while (take(&on, new_key, NOW, token_terms(3, HEAVY, 1)))
            ;
    CHECK(cells_of(&on, new_key) == 1 && tat_of(&on, new_key) == NOW + 3 * HEAVY);
    for (uint64_t place = 0; place < 2 * RK_LINE; place++) {
        rk_cell cell = on.table.cells[place];
        CHECK(cell.tat < 0 ? cell.fingerprint != new_key : !cell.fingerprint || cells_of(&on, cell.fingerprint) == 1);
    }
}

static void one_who_dies_at_any_step_leaves_nothing_half_done(void)
{
    explore_leaving(call, judge_survivor, TABLES / 2, 1);
}

static void judge_both(void)
{
    int64_t admitted = admitted_to_all();
    int64_t one = tat_of(&on, new_key), two = tat_of(&on, ~new_key);
    CHECK(admitted <= 1); /* or none: each may have met what the other was about to give back */
    CHECK((one > NOW ? one - NOW : 0) == admitted * HEAVY && (two > NOW ? two - NOW : 0) == admitted * HEAVY);
    CHECK(settled(&on));
}

static void two_limits_are_charged_both_or_neither_in_every_order(void)
{
    explore(call_for_both, judge_both);
    explore_at_random(call_for_both, judge_both, 10000, false);
}

/* Each bystander that owed something owes it still, or was put out, which is counted. */
static void judge_bystanders(void)
{
    uint64_t lost = 0;
    for (int place = 0; place < 2 * RK_LINE; place++) {
        rk_cell cell = at_first[place];
        bool bystander = cell.tat > NOW;
        for (size_t i = 0; i < LIMITS; i++)
            bystander &= cell.fingerprint != limits[i].fingerprint;
        lost += bystander && tat_of(&on, cell.fingerprint) != cell.tat;
    }
    CHECK(lost <= on.counters.evicted_live);
}

/* The dead one may have left one claim, and nobody else may. */
static void judge_cells(bool one_died)
{
    int claims = 0;
    for (uint64_t place = 0; place < 2 * RK_LINE; place++) {
        rk_cell cell = on.table.cells[place];
        bool asked_by_dead = false;
        for (size_t i = 0; i < limits_asked; i++)
            asked_by_dead |= cell.fingerprint == limits[i].fingerprint;
        claims += cell.tat < 0;
        CHECK(cell.tat >= 0 || asked_by_dead);
        CHECK(cell.tat < 0 || !cell.fingerprint || cells_of(&on, cell.fingerprint) == 1);
    }
    CHECK(claims <= one_died);
}

static void judge_limits(void)
{
    bool one_died = !callers[0].done;
    judge_cells(one_died);
    for (size_t i = 0; i < LIMITS; i++) {
        shared_limit *limit = &limits[i];
        int64_t ticks = tat_of(&on, limit->fingerprint) - NOW, owed = ticks > 0 ? ticks / HEAVY : 0;
        int64_t known = limit->owed + limit->admitted, dead = one_died && i < limits_asked;
        CHECK(ticks <= 0 || ticks % HEAVY == 0);
        CHECK(known <= owed && owed <= known + dead && owed <= limit->capacity);
        while (take(&on, limit->fingerprint, NOW, token_terms(limit->capacity, HEAVY, 1)))
            owed++; /* whoever is left takes what is left */
        CHECK(owed == limit->capacity);
    }
    judge_cells(one_died);
    judge_bystanders();
}

static void one_who_dies_at_any_step_of_a_charge_of_several_limits_costs_no_more_than_that_charge(void)
{
    set_more = set_limits;
    explore_leaving(call_for_limits, judge_limits, 4 * TABLES, 3);
    explore_at_random(call_for_limits, judge_limits, 10000, true);
    crew = 3;
    explore_at_random(call_for_limits, judge_limits, 20000, true);
    crew = 2, set_more = NULL;
}

static void one_who_is_stopped_at_any_step_of_a_charge_of_several_limits_and_goes_on_later_leaves_all_exact(void)
{
    set_more = set_limits, comes_back = true;
    explore_leaving(call_for_limits, judge_limits, 4 * TABLES, 3);
    crew = 3;
    explore_at_random(call_for_limits, judge_limits, 20000, true);
    explore_at_random(call_for_limits, judge_limits, 10000, false);
    crew = 2, set_more = NULL, comes_back = false;
}

static void judge_windows(void)
{
    for (uint64_t key = 0; key < KEYS; key++)
        CHECK(history_holds(admitted_of[key], count_of[key], 2, 1000));
    CHECK(settled(&on) && on.counters.evicted_live == 0);
}

static void callers_who_are_held_up_while_cells_come_and_go_mint_nothing_in_any_window(void)
{
    fixture two_lines = on;
    open_table(&on, 3);
    set_more = set_few_cells, clock_moves = true;
    explore(call_with_a_time_that_may_be_past, judge_windows);
    crew = 3;
    explore_at_random(call_with_a_time_that_may_be_past, judge_windows, 30000, false);
    comes_back = true;
    explore_at_random(call_with_a_time_that_may_be_past, judge_windows, 10000, true);
    crew = 2, set_more = NULL, clock_moves = false, comes_back = false;
    close_table(&on);
    on = two_lines;
}

static void judge_block(void)
{
    CHECK(admitted_late == 0);
    uint64_t block = rk_block_of(&on.table, new_key);
    if (callers[0].done)
        CHECK(tat_of(&on, block) == NOW + 9 * HEAVY && on.blocked_until == NOW + 9 * HEAVY && cells_of(&on, block) == 1);
    else
        CHECK(tat_of(&on, block) <= NOW + 9 * HEAVY && cells_of(&on, block) <= 1);
}

static void nobody_who_asks_after_a_block_is_admitted_in_any_order(void)
{
    set_more = set_no_block;
    explore(call_at_a_block, judge_block);
    explore_leaving(call_at_a_block, judge_block, TABLES, 1);
    crew = 3;
    explore_at_random(call_at_a_block, judge_block, 15000, false);
    crew = 2, set_more = NULL;
}

static void judge_grants(void)
{
    int64_t admitted = admitted_to_all();
    while (take(&on, new_key, NOW, token_terms(3, HEAVY, 1)))
        admitted++;
    CHECK(admitted == crew && tat_of(&on, new_key) == NOW + 3 * HEAVY && settled(&on));
}

static void exactly_as_many_tokens_pass_as_were_granted_in_every_order(void)
{
    set_more = set_empty_bucket;
    explore(call_at_a_grant, judge_grants);
    crew = 3;
    explore_at_random(call_at_a_grant, judge_grants, 15000, false);
    crew = 2, set_more = NULL;
}

int main(void)
{
    open_table(&on, 2);
    for (int self = 0; self < CALLERS; self++)
        callers[self].stack = malloc(STACK);
    CLAIM(two_who_meet_a_new_key_admit_exactly_capacity_and_leave_one_cell_in_every_order);
    CLAIM(three_who_meet_a_new_key_admit_exactly_capacity_and_leave_one_cell);
    CLAIM(a_newcomer_owes_nothing_of_what_stood_in_its_cell_in_every_order);
    CLAIM(one_who_dies_at_any_step_leaves_nothing_half_done);
    CLAIM(two_limits_are_charged_both_or_neither_in_every_order);
    CLAIM(one_who_dies_at_any_step_of_a_charge_of_several_limits_costs_no_more_than_that_charge);
    CLAIM(one_who_is_stopped_at_any_step_of_a_charge_of_several_limits_and_goes_on_later_leaves_all_exact);
    CLAIM(callers_who_are_held_up_while_cells_come_and_go_mint_nothing_in_any_window);
    CLAIM(nobody_who_asks_after_a_block_is_admitted_in_any_order);
    CLAIM(exactly_as_many_tokens_pass_as_were_granted_in_every_order);
    for (int self = 0; self < CALLERS; self++)
        free(callers[self].stack);
    close_table(&on);
    return conclude();
}
