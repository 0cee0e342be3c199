/* What a store does with its table: charge, give back, forget, count; one bucket, or several all or nothing.
 *
 * Stands on table.h (the cells and the rule). Knows no Python; time is an argument, or a function where a later time is
 * needed.
 */
#ifndef RATEKEEPER_CHARGE_H
#define RATEKEEPER_CHARGE_H

#include "table.h"

/* What became of one charge. `debt` is how far the bucket is from full afterwards. */
typedef struct {
    bool allowed;
    int64_t debt, delay, retry_after;
} rk_answer;

/* Decide one charge, and make it if it is allowed and `commit`. A cost of nothing, or a refusal, writes nothing. */
RK_INLINE rk_answer rk_charge(rk_table *table, uint64_t fingerprint, int64_t now, rk_terms terms, bool commit)
{
    rk_home home = rk_home_of(table, fingerprint);
    for (int attempt = 0;; attempt++) {
        rk_cell seen = {fingerprint, 0};
        rk_cell *cell = rk_find(home, fingerprint, &seen);
        rk_ruling ruling = rk_decide(seen.tat, now, terms);
        bool charged = ruling.allowed && commit && terms.increment > 0;
        int64_t debt = charged ? ruling.ahead : seen.tat > now ? seen.tat - now : 0;
        rk_answer answer = {ruling.allowed, debt, ruling.delay, ruling.retry_after};
        if (cell) {
            /* Uncharged, the swap changes nothing, but proves that what was seen was there at one instant. */
            if (rk_swap(cell, seen, charged ? (rk_cell){fingerprint, ruling.new_tat} : seen))
                return answer;
            continue;
        }
        if (!charged)
            return answer;
        switch (rk_insert(table, home, fingerprint, now, ruling.new_tat, attempt, &answer.retry_after)) {
        case RK_INSERTED:
            return answer;
        case RK_FULL:
            answer.allowed = false;
            answer.debt = 0;
            return answer;
        case RK_AGAIN:
            break;
        }
    }
}

/* Give back what may still be given back of a charge made `elapsed` ticks ago.
 *
 * Nothing while the debt is over the tolerance: then somebody waits, whose turn would not come sooner for it, and a
 * newcomer would be let go with it in one burst. */
static inline void rk_refund(rk_table *table, uint64_t fingerprint, int64_t now, rk_terms terms, int64_t elapsed)
{
    rk_home home = rk_home_of(table, fingerprint);
    int64_t given = rk_refundable(terms.increment, elapsed);
    rk_cell seen, *cell;
    while (given > 0 && (cell = rk_find(home, fingerprint, &seen)) && (rk_wide)seen.tat - now <= terms.tolerance) {
        int64_t tat = seen.tat > given ? seen.tat - given : 0;
        if (rk_swap(cell, seen, (rk_cell){fingerprint, tat}))
            return;
    }
}

/* Set a bucket's TAT back, if it is still what the caller believes. False, and nothing done, if it is not. */
static inline bool rk_rewind(rk_table *table, uint64_t fingerprint, int64_t expected, int64_t tat)
{
    rk_home home = rk_home_of(table, fingerprint);
    rk_cell seen, *cell;
    while ((cell = rk_find(home, fingerprint, &seen)) && seen.tat == expected)
        if (rk_swap(cell, seen, (rk_cell){fingerprint, tat}))
            return true;
    return false;
}

/* Forget a bucket: it is full again. */
static inline void rk_reset(rk_table *table, uint64_t fingerprint)
{
    rk_home home = rk_home_of(table, fingerprint);
    rk_cell seen, *cell;
    while ((cell = rk_find(home, fingerprint, &seen)))
        rk_swap(cell, seen, (rk_cell){0, 0});
}

static inline uint64_t rk_live(const rk_table *table, int64_t now)
{
    uint64_t live = 0;
    for (uint64_t place = 0; place < table->lines * RK_LINE; place++)
        live += rk_read(&table->cells[place]).tat > now;
    return live;
}

/* ---- several limits at once: all or nothing ---- */

typedef struct {
    uint64_t fingerprint;
    rk_terms terms;
    bool shadow; /* decided and charged like the others, but refuses nothing */
    bool never;  /* costs more than its limit can ever admit */
    rk_answer answer;
} rk_demand;

typedef int64_t (*rk_clock)(void *context);

RK_INLINE rk_answer rk_answer_to(rk_table *table, const rk_demand *demand, int64_t now, bool commit)
{
    if (!demand->never)
        return rk_charge(table, demand->fingerprint, now, demand->terms, commit);
    rk_terms nothing = {0, 0, 0};
    rk_answer answer = rk_charge(table, demand->fingerprint, now, nothing, false);
    return (rk_answer){false, answer.debt, INT64_MAX, INT64_MAX};
}

/* Take a charge back that was made a moment ago: exactly if nobody came since, or else as a refund. */
static inline void rk_undo(rk_table *table, const rk_demand *demand, int64_t now, int64_t later)
{
    int64_t new_tat = now + demand->answer.debt, increment = demand->terms.increment;
    if (!rk_rewind(table, demand->fingerprint, new_tat, new_tat - increment))
        rk_refund(table, demand->fingerprint, later, demand->terms, later - now);
}

/* Charge all demands or none; true if all that are not in shadow were allowed (and, if `commit`, charged).
 *
 * Looks at all first, then charges one by one. Another thread may take a last token in between: then what was charged
 * is given back. So it never admits too much; in such a race it may for microseconds refuse what had just fitted.
 */
static inline bool rk_charge_all(rk_table *table, rk_demand *demands, size_t count, int64_t now, bool commit,
                                 rk_clock clock, void *context)
{
    bool allowed = true;
    if (count == 1) {
        demands->answer = rk_answer_to(table, demands, now, commit);
        return demands->answer.allowed || demands->shadow;
    }
    for (size_t i = 0; i < count; i++) {
        demands[i].answer = rk_answer_to(table, &demands[i], now, false);
        allowed &= demands[i].answer.allowed || demands[i].shadow;
    }
    if (!allowed || !commit)
        return allowed;
    size_t charged = 0;
    for (; charged < count && allowed; charged++) {
        demands[charged].answer = rk_answer_to(table, &demands[charged], now, true);
        allowed = demands[charged].answer.allowed || demands[charged].shadow;
    }
    if (allowed)
        return true;
    int64_t later = clock(context);
    for (size_t i = charged - 1; i-- > 0;)
        if (demands[i].answer.allowed) /* one in shadow that was not was never charged */
            rk_undo(table, &demands[i], now, later);
    for (size_t i = 0; i + 1 < charged; i++)
        demands[i].answer = rk_answer_to(table, &demands[i], now, false);
    return false;
}

#endif
