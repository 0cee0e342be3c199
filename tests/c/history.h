/* A history of admissions, and whether any window of time admitted too much. For tests only. */
#ifndef RATEKEEPER_TESTS_HISTORY_H
#define RATEKEEPER_TESTS_HISTORY_H

#include "check.h"

/* Of one key: when it was, by the clock of who asked; where it left the TAT; and what it cost, in tokens.
 *
 * A key's TAT only grows if nothing is given back or put out, so the TATs put the admissions in the order in which they
 * happened, whatever the clock said. */
typedef struct {
    int64_t at, new_tat, cost;
} admission;

static inline int by_tat(const void *one, const void *other)
{
    const admission *a = one, *b = other;
    return (a->new_tat > b->new_tat) - (a->new_tat < b->new_tat);
}

static inline int by_time(const void *one, const void *other)
{
    const admission *a = one, *b = other;
    return a->at != b->at ? (a->at > b->at) - (a->at < b->at) : by_tat(one, other);
}

/* Is sum(cost i..j) <= capacity + (at j - at i) / interval for all i <= j? In one pass: the sum is the difference of
 * two running totals, so only the i with the least total * interval - at matters. */
static inline bool windows_hold(const admission *history, size_t count, int64_t capacity, int64_t interval)
{
    int64_t total = 0, least = INT64_MAX;
    for (size_t j = 0; j < count; j++) {
        int64_t before = total * interval - history[j].at;
        least = before < least ? before : least;
        total += history[j].cost;
        if (total * interval - history[j].at - least > capacity * interval)
            return false;
    }
    return true;
}

/* Return whether each admission moved the TAT on by at least its cost, so that none was lost, and whether the windows
 * hold, both in the order in which they happened and in that of the clock. Sorts the history. */
static inline bool history_holds(admission *history, size_t count, int64_t capacity, int64_t interval)
{
    qsort(history, count, sizeof(admission), by_tat);
    for (size_t i = 1; i < count; i++)
        if (history[i].new_tat - history[i - 1].new_tat < history[i].cost * interval)
            return false;
    if (!windows_hold(history, count, capacity, interval))
        return false;
    qsort(history, count, sizeof(admission), by_time);
    return windows_hold(history, count, capacity, interval);
}

#endif
