/* Resets of whole scopes: of all buckets of a limiter or a rule, which the table cannot find, as it keeps fingerprints only.
 *
 * A log in the table's memory has the fingerprint of each scope that was reset, in order. A scope's generation is the
 * place of its last entry, and 0 without one. It is mixed into the scope's key. So after a reset all its buckets have
 * other fingerprints: they are full, and the cells of the old buckets become free by themselves.
 *
 * An entry is appended by one compare-and-swap, so a reset is never half done. A reader of the log up to `seen` learns by
 * one load whether the log goes on. The last entry is never written, so this load needs no bound. Nothing in the log is
 * trusted: with any bytes in it, reading ends.
 */
#ifndef RATEKEEPER_RESETS_H
#define RATEKEEPER_RESETS_H

#include "cells.h"

enum { RK_RESETS = 8191 }; /* entries, the last of which stays 0; with `blocked_until` before them they fill pages */

/* A scope bound to a table. */
typedef struct {
    rk_key key;    /* of its present generation: see rk_fingerprint */
    rk_key first;  /* of a scope that was never reset */
    uint64_t name; /* its fingerprint in the log */
} rk_scope;

static inline bool rk_was_reset(const rk_table *table, uint64_t seen)
{
    return __builtin_expect(__atomic_load_n(&table->resets[seen], __ATOMIC_ACQUIRE) != 0, 0);
}

/* Return how far the log goes, from `seen` on. */
static inline uint64_t rk_read_resets(const rk_table *table, uint64_t seen)
{
    while (seen < RK_RESETS - 1 && rk_was_reset(table, seen))
        seen++;
    return seen;
}

/* Bring a scope's key up to date with the log before `seen`. */
static inline void rk_renew_scope(const rk_table *table, rk_scope *scope, uint64_t seen)
{
    uint64_t generation = seen;
    while (generation && __atomic_load_n(&table->resets[generation - 1], __ATOMIC_RELAXED) != scope->name)
        generation--;
    scope->key = generation ? rk_scope_key(scope->first, &generation, sizeof generation) : scope->first;
}

static inline rk_scope rk_bind_scope(const rk_table *table, const void *name, size_t length, uint64_t seen)
{
    rk_scope scope;
    scope.first = rk_scope_key(table->seed, name, length);
    scope.name = rk_fingerprint(scope.first, name, length);
    rk_renew_scope(table, &scope, seen);
    return scope;
}

/* Reset all buckets of a scope. Returns false, and nothing is done, if the log is full. */
static inline bool rk_reset_scope(rk_table *table, uint64_t name)
{
    for (uint64_t place = 0; place < RK_RESETS - 1; place++) {
        uint64_t none = 0;
        if (!rk_was_reset(table, place) && __atomic_compare_exchange_n(&table->resets[place], &none, name, false,
                                                                        __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
            return true;
    }
    return false;
}

#endif
