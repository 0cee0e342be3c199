/* Two callers of the C table in every order in which it can matter, one step at a time; and one who dies at any step.
 *
 * Each caller is a coroutine, and a step is a read or a swap of a cell. From many tables, all schedules are run that
 * change callers at most twice, and after them random ones that change often. So a race is found though it needs a
 * meeting within nanoseconds, on any number of cores, and is found again in the next run. (S. Qadeer and J. Rehof,
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

enum { CALLERS = 2, CHANGES = 2, STACK = 64 * 1024, NOW = 50, TABLES = 6, WAITING = 400, ENDLESS = 100000 };

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
static uint64_t taken, change_at[CHANGES], change_one_in, schedule_random;
static int changes_made;
static uint64_t dies_at; /* the first caller never takes this step, nor any after it; UINT64_MAX: it lives */

static void step(void)
{
    if (running < 0)
        return;
    uint64_t now = taken++;
    bool change = now == dies_at && running == 0;
    if (changes_made < CHANGES && now == change_at[changes_made]) {
        changes_made++;
        change = true;
    }
    if (change_one_in)
        change |= random_below(&schedule_random, change_one_in) == 0;
    if (change)
        swapcontext(&callers[running].context, &scheduler);
}

/* ---- what the callers do ---- */

static const uint64_t new_key = 0x9e3779b97f4a7c15;

static uint64_t bystander(uint64_t *random)
{
    return fingerprint_of(random_below(random, 2 * RK_LINE + 2));
}

/* A table of two lines that is nearly full, so that a step of another may change where a newcomer goes. */
static void set_table(uint64_t random)
{
    static const rk_cell never_used = {0, 0};
    wipe(&on);
    on.table.next_mark = 1;
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
        rk_reset(&on.table, other);
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
        rk_reset(&on.table, new_key);
        while (rk_live(&on.table, NOW) < 2 * RK_LINE - 1)
            take(&on, fingerprint_of(next++), NOW, token_terms(2, HEAVY, 2));
    }
    callers[self].done = true;
}

static int64_t standing_clock(void *context)
{
    (void)context;
    return NOW;
}

/* Ask for two keys at once, all or nothing, in opposite order: one has 1 token, and one has 2. */
static void call_for_both(int self)
{
    rk_demand one = {.fingerprint = new_key, .terms = token_terms(1, HEAVY, 1)};
    rk_demand two = {.fingerprint = ~new_key, .terms = token_terms(2, HEAVY, 1)};
    rk_demand demands[2] = {self ? two : one, self ? one : two};
    callers[self].admitted += rk_charge_all(&on.table, demands, 2, NOW, true, standing_clock, NULL);
    callers[self].done = true;
}

/* ---- running one schedule ---- */

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

/* Returns how many steps it took. */
static uint64_t run(void (*script)(int), uint64_t seed)
{
    set_table(seed | 1);
    taken = 0, changes_made = 0;
    for (int self = 0; self < CALLERS; self++)
        make_ready(&callers[self], self, script, seed * 31 + (uint64_t)self * 17 + 1);
    for (int next = 0; !callers[0].done || !callers[1].done; next = !next) {
        if (callers[next].done)
            next = !next;
        if (next == 0 && taken > dies_at) {
            if (callers[1].done)
                break;
            next = 1;
        }
        running = next;
        swapcontext(&scheduler, &callers[next].context);
        running = -1;
        if (taken > ENDLESS)
            abort();
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

static void explore_at_random(void (*script)(int), judge judge_it)
{
    schedule_random = 4711;
    change_at[0] = UINT64_MAX;
    for (uint64_t seed = 1; seed <= 10000 && !checks_failed; seed++) {
        change_one_in = 2 + random_below(&schedule_random, 40);
        run(script, seed);
        judge_it();
    }
    change_one_in = 0;
}

/* ---- claims ---- */

static void judge_newcomer(void)
{
    CHECK(callers[0].admitted + callers[1].admitted == 3);
    CHECK(cells_of(&on, new_key) == 1 && tat_of(&on, new_key) == NOW + 3 * HEAVY);
    CHECK(settled(&on));
}

static void two_who_meet_a_new_key_admit_exactly_capacity_and_leave_one_cell_in_every_order(void)
{
    dies_at = UINT64_MAX;
    explore(call, judge_newcomer);
    explore_at_random(call, judge_newcomer);
}

static void judge_heir(void)
{
    int64_t tat = tat_of(&on, new_key);
    CHECK(callers[0].admitted == 1 && callers[1].admitted == 1);
    CHECK(tat == 0 || tat == NOW + HEAVY); /* no charge is left, or that of the second; never that of a bystander */
}

static void a_newcomer_owes_nothing_of_what_stood_in_its_cell_in_every_order(void)
{
    dies_at = UINT64_MAX;
    explore(call_and_forget, judge_heir);
    explore_at_random(call_and_forget, judge_heir);
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
    change_at[1] = UINT64_MAX;
    for (uint64_t seed = 1; seed <= TABLES / 2 && !checks_failed; seed++) {
        uint64_t end = 1;
        for (dies_at = 0; dies_at < end; dies_at++)
            for (uint64_t change = 0; change <= dies_at; change++) { /* and the other may have come before */
                change_at[0] = dies_at - change;
                end = run(call, seed);
                judge_survivor();
            }
    }
    dies_at = UINT64_MAX;
}

static void judge_both(void)
{
    int64_t admitted = callers[0].admitted + callers[1].admitted;
    int64_t one = tat_of(&on, new_key), two = tat_of(&on, ~new_key);
    CHECK(admitted <= 1); /* or none: each may have met what the other was about to give back */
    CHECK((one > NOW ? one - NOW : 0) == admitted * HEAVY && (two > NOW ? two - NOW : 0) == admitted * HEAVY);
    CHECK(settled(&on));
}

static void two_limits_are_charged_both_or_neither_in_every_order(void)
{
    explore(call_for_both, judge_both);
    explore_at_random(call_for_both, judge_both);
}

int main(void)
{
    open_table(&on, 2);
    for (int self = 0; self < CALLERS; self++)
        callers[self].stack = malloc(STACK);
    CLAIM(two_who_meet_a_new_key_admit_exactly_capacity_and_leave_one_cell_in_every_order);
    CLAIM(a_newcomer_owes_nothing_of_what_stood_in_its_cell_in_every_order);
    CLAIM(one_who_dies_at_any_step_leaves_nothing_half_done);
    CLAIM(two_limits_are_charged_both_or_neither_in_every_order);
    for (int self = 0; self < CALLERS; self++)
        free(callers[self].stack);
    close_table(&on);
    return conclude();
}
