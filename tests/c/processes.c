/* Processes that share one table and are killed, or stopped, at any moment, thousands of times. Linux and the like.
 *
 * Each process asks as fast as it can, for a few keys that all ask for and for a crowd that comes and goes. The parent
 * kills one after a random time of microseconds, and starts another in its place. The questions and answers of a
 * process are counted in shared memory, before and after each request. So the requests that the dead may have had in
 * flight are known, and everything else must be exact.
 *
 * A meeting of two processes within a few instructions is left to chance here: interleave.c looks at every step, but
 * not at real memory, real processes and a real clock.
 */
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/prctl.h>
#endif

#define CHECK_MAIN
#include "check.h"
#include "history.h"

enum { CHILDREN = 4, ROUNDS = 160, KILLS_IN_ROUND = 22, MOST_ROUNDS = 640, LONGEST_LIFE = 1500, LAST_RESORT = 1800 };
enum { LINES = 48, HOT = 64, OWN = 8, SHARED = 4, LIMITS = HOT + OWN + SHARED, CROWD = 600, TURN = 400, YIELD = 500 };
enum { RUNNING_LINES = 2, RUNNING_KEYS = 12, RUNNING_CAPACITY = 3, LOG = 1 << 20 };
enum { RUNNING_KILLS = 1200, PAIR_KILLS = 600 };

#define NOW (INT64_C(1) << 50)
#define HEAVY (INT64_C(1) << 28)       /* of the limits that are judged: a debt that no bystander's comes near */
#define INTERVAL (INT64_C(16) * 20000) /* while the clock runs: 20 microseconds */

typedef struct {
    uint64_t asked, admitted, refused; /* what was asked and not answered was in flight when its process was killed */
} account;

typedef struct {
    uint64_t ready; /* who reserved the line may have died before it was written */
    uint64_t key;
    admission what;
} entry;

/* All that processes share. */
typedef struct {
    rk_cell cells[LINES * RK_LINE] __attribute__((aligned(128)));
    rk_counters counters;
    uint64_t blocked_until;
    uint64_t turn;            /* requests so far: the hot keys take turns */
    account accounts[LIMITS]; /* by limit */
    account both[OWN][SHARED];
    uint64_t falsely_refused;
    uint64_t reserved;
    entry log[LOG];
} arena;

static arena *shared;
static rk_table table;
static volatile pid_t children[CHILDREN];
static uint64_t parents_random = 20240229;
static void (*childs_life)(uint64_t random);

/* The findings of all rounds. */
static struct {
    uint64_t kills, stops, retries, claims_left, in_flight, asked, asked_both, evicted;
    int64_t over_admitted, lost, overcharged, not_whole, stuck, duplicates, stray_claims, not_both, uncounted;
} found;

static uint64_t add(uint64_t *counter)
{
    return __atomic_fetch_add(counter, 1, __ATOMIC_SEQ_CST);
}

/* ---- processes ---- */

static void bury(int who)
{
    if (children[who] > 0) {
        kill(children[who], SIGKILL);
        while (waitpid(children[who], NULL, 0) < 0 && errno == EINTR)
            ;
    }
    children[who] = 0;
}

static void bury_all(void)
{
    for (int who = 0; who < CHILDREN; who++)
        bury(who);
}

static void give_up(int signal_)
{
    static const char why[] = "not ok - it takes for ever\n";
    (void)signal_;
    for (int who = 0; who < CHILDREN; who++)
        if (children[who] > 0)
            kill(children[who], SIGKILL);
    _exit(write(STDOUT_FILENO, why, sizeof why - 1) > 0 ? EXIT_FAILURE : EXIT_FAILURE + 1);
}

static void give_birth(int who)
{
    uint64_t random = next_random(&parents_random) | 1;
    pid_t parent = getpid(), child = fork();
    if (child < 0) {
        bury_all();
        abort();
    }
    if (child == 0) {
        signal(SIGALRM, SIG_DFL);
        alarm(LAST_RESORT); /* it dies though its parent did not say so */
#ifdef __linux__
        prctl(PR_SET_PDEATHSIG, SIGKILL);
#endif
        if (getppid() != parent)
            _exit(EXIT_FAILURE);
        childs_life(random);
        _exit(EXIT_FAILURE); /* it lives until it is killed */
    }
    children[who] = child;
}

static void pass_time(void)
{
    struct timespec time = {0, (long)random_below(&parents_random, LONGEST_LIFE) * 1000};
    nanosleep(&time, NULL);
}

/* Kill one after another, at random; at times stop one for a while first, and let it go on or kill it as it stands. */
static void kill_many(int kills)
{
    for (int who = 0; who < CHILDREN; who++)
        give_birth(who);
    int stopped = -1;
    for (int killed = 0; killed < kills; killed++) {
        pass_time();
        if (stopped >= 0 && random_below(&parents_random, 2)) {
            kill(children[stopped], SIGCONT);
            stopped = -1;
        }
        int who = (int)random_below(&parents_random, CHILDREN);
        bury(who);
        give_birth(who);
        stopped = stopped == who ? -1 : stopped;
        if (stopped < 0 && random_below(&parents_random, 4) == 0) {
            stopped = (int)random_below(&parents_random, CHILDREN);
            kill(children[stopped], SIGSTOP);
            found.stops++;
        }
    }
    pass_time();
    bury_all();
    found.kills += (uint64_t)(kills + CHILDREN);
}

/* ---- a standing clock: the questions ---- */

static uint64_t limits_key(uint64_t limit)
{
    return fingerprint_of(limit);
}

/* From one token to more than a round can take. */
static int64_t capacity_of(uint64_t limit)
{
    static const int64_t capacities[] = {1, 2, 3, 10, 100, 1000, 30000, 300000};
    return limit < HOT ? capacities[limit % 8] : limit < HOT + OWN ? 4000 : capacities[4 + limit % 4];
}

static rk_terms terms_of(uint64_t limit, int64_t cost)
{
    return token_terms(capacity_of(limit), HEAVY, cost);
}

static void ask_for_one(uint64_t limit)
{
    account *its = &shared->accounts[limit];
    add(&its->asked);
    rk_answer answer = charge_at(&table, limits_key(limit), NOW, terms_of(limit, 1), true);
    add(answer.allowed ? &its->admitted : &its->refused);
}

/* Else the parent would wait long for a core, and kill seldom. */
static void let_others(uint64_t *random)
{
    if (random_below(random, YIELD) == 0)
        sched_yield();
}

static rk_demand demand_of(uint64_t limit)
{
    return (rk_demand){.fingerprint = limits_key(limit), .terms = terms_of(limit, 1)};
}

/* One of the limits is one of many, and the other is shared; in either order. */
static void ask_for_both(uint64_t own, uint64_t other, bool turned)
{
    account *its = &shared->both[own][other];
    rk_demand first = demand_of(HOT + own), second = demand_of(HOT + OWN + other);
    rk_demand demands[2] = {turned ? second : first, turned ? first : second};
    add(&its->asked);
    add(charge_all_at(&table, demands, 2, NOW) ? &its->admitted : &its->refused);
}

static void live_at_a_standing_clock(uint64_t random)
{
    for (;;) {
        uint64_t turn = add(&shared->turn), choice = random_below(&random, 8);
        let_others(&random);
        if (choice < 3) /* the two whose turn it is: so each is a newcomer once, and all meet there */
            ask_for_one((turn / TURN + random_below(&random, 2)) % HOT);
        else if (choice < 6)
            ask_for_both(random_below(&random, OWN), random_below(&random, SHARED), random_below(&random, 2));
        else { /* more than there is room for: someone must go for each newcomer */
            rk_terms small = {1 + (int64_t)random_below(&random, 1000), 1000, 1000};
            charge_at(&table, fingerprint_of(1000 + random_below(&random, CROWD)), NOW, small, true);
        }
    }
}

/* ---- a standing clock: the right results ---- */

static int64_t owed_by(uint64_t limit)
{
    rk_cell seen = {0, 0};
    uint64_t key = limits_key(limit);
    int64_t ticks = rk_find(rk_home_of(&table, key), key, &seen) ? seen.tat - NOW : 0;
    found.not_whole += ticks > 0 && ticks % HEAVY != 0;
    return ticks > 0 ? ticks / HEAVY : 0;
}

/* It owes between what was admitted for certain and what may have been, and the rest of its capacity is there. */
static void judge_limit(uint64_t limit, uint64_t admitted, uint64_t in_flight)
{
    int64_t capacity = capacity_of(limit), owed = owed_by(limit);
    found.over_admitted += (int64_t)admitted > capacity || owed > capacity;
    found.lost += owed < (int64_t)admitted;
    found.overcharged += owed > (int64_t)(admitted + in_flight);
    bool too_much = charge_at(&table, limits_key(limit), NOW, terms_of(limit, capacity - owed + 1), true).allowed;
    bool the_rest = charge_at(&table, limits_key(limit), NOW, terms_of(limit, capacity - owed), true).allowed;
    bool one_more = charge_at(&table, limits_key(limit), NOW, terms_of(limit, 1), true).allowed;
    found.stuck += !the_rest || owed_by(limit) != capacity;
    found.over_admitted += too_much || one_more;
}

static void judge_accounts(void)
{
    uint64_t in_flight = 0;
    account own[OWN] = {{0, 0, 0}}, other[SHARED] = {{0, 0, 0}};
    for (uint64_t limit = 0; limit < HOT; limit++) {
        account its = shared->accounts[limit];
        uint64_t flying = its.asked - its.admitted - its.refused;
        judge_limit(limit, its.admitted, flying);
        in_flight += flying;
        found.asked += its.asked;
    }
    for (uint64_t i = 0; i < OWN * SHARED; i++) {
        account its = shared->both[i / SHARED][i % SHARED];
        uint64_t flying = its.asked - its.admitted - its.refused;
        own[i / SHARED].admitted += its.admitted, other[i % SHARED].admitted += its.admitted;
        own[i / SHARED].asked += flying, other[i % SHARED].asked += flying;
        in_flight += flying;
        found.asked_both += its.asked;
    }
    for (uint64_t i = 0; i < OWN + SHARED; i++) {
        account its = i < OWN ? own[i] : other[i - OWN];
        int64_t owed = owed_by(HOT + i);
        found.not_both += owed < (int64_t)its.admitted || owed > (int64_t)(its.admitted + its.asked);
        judge_limit(HOT + i, its.admitted, its.asked);
    }
    found.in_flight += in_flight;
    found.uncounted += in_flight > KILLS_IN_ROUND + CHILDREN; /* each dead one had one request in flight, or none */
}

/* No key has two cells, and no claim is left but by the dead: one each at most. */
static void judge_cells(void)
{
    uint64_t claims = 0;
    for (uint64_t place = 0; place < LINES * RK_LINE; place++) {
        rk_cell cell = shared->cells[place];
        claims += cell.tat < 0;
        for (uint64_t other = 0; other < place && cell.fingerprint && cell.tat >= 0; other++)
            found.duplicates +=
                shared->cells[other].fingerprint == cell.fingerprint && shared->cells[other].tat >= 0;
    }
    found.claims_left += claims;
    found.stray_claims += claims > KILLS_IN_ROUND + CHILDREN;
}

static void run_round(void)
{
    memset(shared, 0, offsetof(arena, log));
    childs_life = live_at_a_standing_clock;
    kill_many(KILLS_IN_ROUND);
    judge_cells();
    judge_accounts();
    judge_cells();
    found.retries += shared->counters.retries;
    found.evicted += shared->counters.evicted_live;
}

static void say(const char *what, uint64_t one, uint64_t other)
{
    printf("# ");
    printf(what, (unsigned long long)one, (unsigned long long)other);
    printf("\n");
}

/* ---- a standing clock: claims ---- */

static void processes_killed_at_any_moment_admit_no_more_than_capacity(void)
{
    for (int round = 0; round < ROUNDS || (round < MOST_ROUNDS && !found.retries); round++)
        run_round();
    CHECK(found.over_admitted == 0);
    CHECK(found.asked > 100 * found.kills && found.evicted > found.kills);
}

static void no_charge_that_was_admitted_is_lost(void)
{
    CHECK(found.lost == 0 && found.not_whole == 0);
}

static void each_kill_costs_at_most_the_one_request_that_was_in_flight(void)
{
    CHECK(found.overcharged == 0 && found.uncounted == 0 && found.in_flight > 0);
}

static void of_two_limits_each_is_charged_for_all_that_both_admitted_and_for_what_the_dead_had_in_flight_at_most(void)
{
    CHECK(found.not_both == 0 && found.asked_both > 100 * found.kills);
}

static void after_the_last_kill_whoever_is_left_takes_exactly_what_is_left(void)
{
    CHECK(found.stuck == 0);
}

static void no_key_has_two_cells_and_claims_are_left_by_the_dead_only(void)
{
    CHECK(found.duplicates == 0 && found.stray_claims == 0);
}

static void the_processes_did_meet(void)
{
    CHECK(found.retries > 0);
}

/* ---- a running clock ---- */

static int64_t read_clock(void *context)
{
    struct timespec time;
    (void)context;
#ifdef CLOCK_BOOTTIME
    clock_gettime(CLOCK_BOOTTIME, &time);
#else
    clock_gettime(CLOCK_MONOTONIC, &time);
#endif
    return ((int64_t)time.tv_sec * 1000000000 + time.tv_nsec) * 16;
}

static void keep(uint64_t key, rk_answer answer, int64_t cost)
{
    uint64_t line = add(&shared->reserved);
    if (line >= LOG)
        return;
    shared->log[line].key = key;
    shared->log[line].what = (admission){answer.at, answer.at + answer.debt, cost};
    __atomic_store_n(&shared->log[line].ready, 1, __ATOMIC_RELEASE);
}

/* Others go on for some microseconds, in which a bucket fills up. */
static void hold_up(uint64_t *random)
{
    let_others(random);
    if (random_below(random, 16))
        return;
    int64_t until = read_clock(NULL) + (int64_t)random_below(random, 4 * INTERVAL);
    while (read_clock(NULL) < until)
        ;
}

/* Few cells, and nobody is put out: so all day long a bucket is full again, another takes its cell, and it comes anew.
 * A process that is stopped, or loses its core, holds a time that is long past. */
static void live_at_a_running_clock(uint64_t random)
{
    const rk_clock clock = {read_clock, NULL};
    for (;;) {
        uint64_t key = random_below(&random, RUNNING_KEYS);
        int64_t cost = 1 + (int64_t)random_below(&random, 2), now = read_clock(NULL);
        hold_up(&random); /* with the time in its hand */
        rk_terms terms = token_terms(RUNNING_CAPACITY, INTERVAL, cost);
        rk_answer answer = rk_charge(&table, fingerprint_of(key), now, terms, true, &clock);
        if (answer.allowed)
            keep(key, answer, cost);
        if (random_below(&random, 2)) { /* another key takes a cell; perhaps that of a hot key */
            rk_terms brief = {1 + (int64_t)random_below(&random, (uint64_t)INTERVAL), INTERVAL, INTERVAL};
            rk_charge(&table, fingerprint_of(100 + random_below(&random, 100)), now, brief, true, &clock);
        }
    }
}

/* Two limits, of which one is shared by more: near their last tokens all the time, so that much is given back. */
static void live_on_two_limits(uint64_t random)
{
    const rk_clock clock = {read_clock, NULL};
    for (;;) {
        uint64_t keys[2] = {random_below(&random, 3), 3 + random_below(&random, 2)};
        rk_terms terms = token_terms(RUNNING_CAPACITY, INTERVAL, 1);
        bool turned = random_below(&random, 2);
        rk_demand demands[2] = {{.fingerprint = fingerprint_of(keys[turned]), .terms = terms},
                                {.fingerprint = fingerprint_of(keys[!turned]), .terms = terms}};
        int64_t now = read_clock(NULL);
        let_others(&random);
        add(&shared->both[0][0].asked);
        if (rk_charge_all(&table, demands, 2, now, true, &clock)) {
            keep(keys[turned], demands[0].answer, 1);
            keep(keys[!turned], demands[1].answer, 1);
        } else if (charge_at(&table, demands[0].fingerprint, now, terms, false).allowed &&
                   charge_at(&table, demands[1].fingerprint, now, terms, false).allowed)
            add(&shared->falsely_refused); /* at one time, a bucket gains room only by refunds */
    }
}

static size_t history_of(uint64_t key, admission *history)
{
    size_t count = 0;
    uint64_t end = shared->reserved < LOG ? shared->reserved : LOG;
    for (uint64_t line = 0; line < end; line++)
        if (shared->log[line].ready && shared->log[line].key == key)
            history[count++] = shared->log[line].what;
    return count;
}

/* Returns how many admissions were kept. */
static uint64_t run_and_judge_windows(void (*life)(uint64_t), int kills, uint64_t lines, bool gives_back)
{
    admission *history = malloc(sizeof(admission) * LOG);
    uint64_t count = 0;
    if (!history)
        abort();
    memset(shared, 0, sizeof *shared);
    table.lines = lines;
    table.deny_when_full = true;
    childs_life = life;
    kill_many(kills);
    for (uint64_t key = 0; key < RUNNING_KEYS; key++) {
        size_t its = history_of(key, history);
        count += its;
        if (gives_back) { /* a TAT that goes back too does not tell in which order they came */
            qsort(history, its, sizeof(admission), by_time);
            CHECK(windows_hold(history, its, RUNNING_CAPACITY, INTERVAL));
        } else
            CHECK(history_holds(history, its, RUNNING_CAPACITY, INTERVAL));
    }
    CHECK(count > 1000 && shared->counters.evicted_live == 0);
    free(history);
    return count;
}

static void by_a_running_clock_no_window_admits_more_than_capacity_and_what_refills_whoever_is_killed_or_stopped(void)
{
    uint64_t kept = run_and_judge_windows(live_at_a_running_clock, RUNNING_KILLS, RUNNING_LINES, false);
    say("by a running clock: %llu kills, %llu admissions", RUNNING_KILLS + CHILDREN, kept);
    say("%llu newcomers' claims, %llu retries", shared->counters.tickets, shared->counters.retries);
}

static void nor_does_one_of_two_limits(void)
{
    uint64_t kept = run_and_judge_windows(live_on_two_limits, PAIR_KILLS, LINES, true);
    uint64_t asked = shared->both[0][0].asked, refused = shared->falsely_refused;
    say("of two limits: %llu kills, %llu admissions", PAIR_KILLS + CHILDREN, kept / 2);
    say("%llu asked, %llu refused though both had room when all was given back", asked, refused);
    printf("# that is %.1f in a million\n", 1e6 * (double)refused / (double)asked);
}

static void no_process_is_left_behind(void)
{
    CHECK(waitpid(-1, NULL, WNOHANG) < 0 && errno == ECHILD);
}

int main(void)
{
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED)
        abort();
    table = (rk_table){.cells = shared->cells, .lines = LINES, .counters = &shared->counters, .blocked_until = &shared->blocked_until};
    signal(SIGALRM, give_up);
    alarm(LAST_RESORT);
    CLAIM(processes_killed_at_any_moment_admit_no_more_than_capacity);
    CLAIM(no_charge_that_was_admitted_is_lost);
    CLAIM(each_kill_costs_at_most_the_one_request_that_was_in_flight);
    CLAIM(of_two_limits_each_is_charged_for_all_that_both_admitted_and_for_what_the_dead_had_in_flight_at_most);
    CLAIM(after_the_last_kill_whoever_is_left_takes_exactly_what_is_left);
    CLAIM(no_key_has_two_cells_and_claims_are_left_by_the_dead_only);
    CLAIM(the_processes_did_meet);
    say("by a standing clock: %llu kills, %llu stops", found.kills, found.stops);
    say("%llu requests of one limit, %llu of two", found.asked, found.asked_both);
    say("%llu died with a request in flight, %llu claims were left", found.in_flight, found.claims_left);
    say("%llu retries, %llu put out for a newcomer", found.retries, found.evicted);
    CLAIM(by_a_running_clock_no_window_admits_more_than_capacity_and_what_refills_whoever_is_killed_or_stopped);
    CLAIM(nor_does_one_of_two_limits);
    CLAIM(no_process_is_left_behind);
    munmap(shared, sizeof *shared);
    return conclude();
}
