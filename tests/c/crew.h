/* Threads that race on one table, round by round. Only one thread looks between the rounds. For tests only. */
#ifndef RATEKEEPER_TESTS_CREW_H
#define RATEKEEPER_TESTS_CREW_H

#include "shake.h"

#include "check.h"
#include <pthread.h>
#include <stdatomic.h>

enum { THREADS = 8, MOST_KEYS = 64 };

typedef struct {
    fixture on;
    pthread_barrier_t barrier;
    int rounds;
    _Atomic int64_t admitted[MOST_KEYS]; /* by key */
    uint64_t key;    /* the key of this round */
    uint64_t others; /* how many other keys are there */
} arena;

typedef void (*body)(arena *in, int id, int round, uint64_t *random);

typedef struct {
    arena *in;
    int id;
    body prepare, run, judge;
} worker;

/* Each round: one thread prepares, all run at once, one judges. Half of the rounds are shaken. */
static inline void *work(void *argument)
{
    worker *self = argument;
    uint64_t random = 77 + (uint64_t)self->id * 1000003;
    shake_random += (uint64_t)self->id;
    for (int round = 0; round < self->in->rounds; round++) {
        shake_one_in = 0;
        if (self->id == 0)
            self->prepare(self->in, 0, round, &random);
        pthread_barrier_wait(&self->in->barrier);
        shake_one_in = round % 2 ? 4 + random_below(&random, 60) : 0;
        self->run(self->in, self->id, round, &random);
        pthread_barrier_wait(&self->in->barrier);
        if (self->id == 0)
            self->judge(self->in, 0, round, &random);
    }
    shake_one_in = 0;
    return NULL;
}

static inline void compete(arena *in, int rounds, body prepare, body run, body judge)
{
    pthread_t threads[THREADS];
    worker workers[THREADS];
    in->rounds = rounds / SLOW;
    pthread_barrier_init(&in->barrier, NULL, THREADS);
    for (int id = 0; id < THREADS; id++) {
        workers[id] = (worker){in, id, prepare, run, judge};
        if (pthread_create(&threads[id], NULL, work, &workers[id]))
            abort();
    }
    for (int id = 0; id < THREADS; id++)
        pthread_join(threads[id], NULL);
    pthread_barrier_destroy(&in->barrier);
}

#endif
