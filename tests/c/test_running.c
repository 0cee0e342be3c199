/* The C table, asked by many threads while the clock runs, stands, and steps back: the bound of any window of time.
 *
 * Every admission is kept: see history.h.
 */
#include "crew.h"

#include "history.h"

enum { CAPACITY = 7, INTERVAL = 1000, ASKS = 20000 / SLOW };

typedef struct {
    fixture on;
    _Atomic int64_t clock;
    bool steps_back, shaken;
    pthread_barrier_t barrier;
} scene;

typedef struct {
    scene *in;
    int id;
    size_t count;
    admission admitted[ASKS];
} asker;

/* The clock that all share: mostly goes on, by less than an interval; seldom jumps; and, if it may, steps back. */
static int64_t move_clock(scene *in, uint64_t *random)
{
    int64_t by = (int64_t)random_below(random, INTERVAL / 4);
    if (random_below(random, 500) == 0)
        by = (int64_t)random_below(random, 3 * CAPACITY * INTERVAL);
    if (in->steps_back && random_below(random, 200) == 0)
        by = -(int64_t)random_below(random, 5 * CAPACITY * INTERVAL);
    int64_t now = (in->clock += by);
    return now < 0 ? 0 : now;
}

static int64_t read_scene(void *scene_)
{
    scene *in = scene_;
    int64_t now = in->clock;
    return now < 0 ? 0 : now;
}

static void *ask(void *argument)
{
    asker *self = argument;
    uint64_t random = 991 + (uint64_t)self->id * 7919;
    shake_random += (uint64_t)self->id;
    shake_one_in = self->in->shaken ? 100 : 0;
    pthread_barrier_wait(&self->in->barrier);
    rk_clock clock = {read_scene, self->in};
    int64_t now = 0;
    for (int asked = 0; asked < ASKS; asked++) {
        if (random_below(&random, 8)) /* else with a time that it read before others went on */
            now = move_clock(self->in, &random);
        int64_t cost = 1 + (int64_t)random_below(&random, 3);
        rk_terms terms = token_terms(CAPACITY, INTERVAL, cost);
        rk_answer answer = rk_charge(&self->in->on.table, fingerprint_of(1), now, terms, true, &clock);
        if (answer.allowed)
            self->admitted[self->count++] = (admission){answer.at, answer.at + answer.debt, cost};
    }
    shake_one_in = 0;
    return NULL;
}

static void judge_history(const scene *in, asker *askers)
{
    size_t count = 0;
    admission *history = malloc(sizeof(admission) * THREADS * ASKS);
    if (!history)
        abort();
    for (int id = 0; id < THREADS; id++) {
        memcpy(history + count, askers[id].admitted, askers[id].count * sizeof(admission));
        count += askers[id].count;
    }
    CHECK(count > ASKS / 100);
    CHECK(history_holds(history, count, CAPACITY, INTERVAL));
    CHECK(settled(&in->on));
    free(history);
}

static void run_history(bool steps_back, bool shaken)
{
    scene in = {.steps_back = steps_back, .shaken = shaken};
    asker *askers = calloc(THREADS, sizeof *askers);
    pthread_t threads[THREADS];
    if (!askers)
        abort();
    in.clock = steps_back ? INT64_C(1) << 40 : 0;
    open_table(&in.on, 2);
    pthread_barrier_init(&in.barrier, NULL, THREADS);
    for (int id = 0; id < THREADS; id++) {
        askers[id].in = &in;
        askers[id].id = id;
        if (pthread_create(&threads[id], NULL, ask, &askers[id]))
            abort();
    }
    for (int id = 0; id < THREADS; id++)
        pthread_join(threads[id], NULL);
    judge_history(&in, askers);
    pthread_barrier_destroy(&in.barrier);
    close_table(&in.on);
    free(askers);
}

static void while_the_clock_runs_no_window_admits_more_than_capacity_and_what_refills_in_it(void)
{
    run_history(false, false);
    run_history(false, true);
}

static void while_the_clock_steps_back_no_window_admits_more_than_capacity_and_what_refills_in_it(void)
{
    run_history(true, false);
    run_history(true, true);
}

/* ---- newcomers whose clocks differ ---- */

/* Callers who read the time at different moments hold different cells to be free, and so claim different cells: the
 * hardest case for newcomers. Each bystander's bucket is past for some, and live for others. */
static void prepare_dawn(arena *in, int id, int round, uint64_t *random)
{
    (void)id;
    wipe(&in->on);
    for (uint64_t place = 0; place < in->on.table.lines * RK_LINE; place++)
        if (random_below(random, 8))
            in->on.table.cells[place] = (rk_cell){2 * (1000 + place), 1 + (int64_t)random_below(random, 100)};
    in->key = fingerprint_of((uint64_t)round);
    in->admitted[0] = 0;
}

static void meet_at_dawn(arena *in, int id, int round, uint64_t *random)
{
    (void)id, (void)round;
    for (int tried = 0; tried < 2; tried++) {
        int64_t now = (int64_t)random_below(random, 100);
        in->admitted[0] += take(&in->on, in->key, now, token_terms(CAPACITY, INT64_C(1) << 40, 1));
    }
}

static void judge_dawn(arena *in, int id, int round, uint64_t *random)
{
    (void)id, (void)round, (void)random;
    /* 100 ticks refill almost nothing; and a caller a tick behind the first may miss the last token. */
    CHECK(in->admitted[0] == CAPACITY || in->admitted[0] == CAPACITY - 1);
    CHECK((tat_of(&in->on, in->key) >> 40) == in->admitted[0] && settled(&in->on));
}

static void callers_whose_clocks_differ_by_a_little_meet_a_new_key_and_leave_one_cell(void)
{
    for (uint64_t lines = 2; lines <= 3; lines++) {
        arena in = {0};
        open_table(&in.on, lines);
        compete(&in, 3000, prepare_dawn, meet_at_dawn, judge_dawn);
        close_table(&in.on);
    }
}

void claims_about_running_clocks(void)
{
    CLAIM(while_the_clock_runs_no_window_admits_more_than_capacity_and_what_refills_in_it);
    CLAIM(while_the_clock_steps_back_no_window_admits_more_than_capacity_and_what_refills_in_it);
    CLAIM(callers_whose_clocks_differ_by_a_little_meet_a_new_key_and_leave_one_cell);
}
