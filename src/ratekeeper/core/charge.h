/* The operations of a store on its table: charge, give back, adjust, count; one bucket, or several all or nothing.
 *
 * Stands on cells.h (the cells and the rule). Knows no Python; time is an argument, or a function where a later time is
 * needed.
 */
#ifndef RATEKEEPER_CHARGE_H
#define RATEKEEPER_CHARGE_H

#include "cells.h"

#define RK_FORGET (((int64_t)1 << 62) - 1) /* the most that a TAT may be ahead */
enum { RK_KEEP = -1 };

/* The answer to one charge, at the time `at`. `debt` is how far the bucket is from full afterwards. */
typedef struct {
    bool allowed;
    int64_t at, debt, delay, retry_after;
    bool marked; /* the bucket is marked afterwards */
    bool marks;    /* this charge has marked it */
    bool full;     /* only because the table has no room */
} rk_answer;

/* Refuse a newcomer for which a table that denies has no room, as rk_insert would. */
static inline void rk_look_for_room(rk_home home, uint64_t fingerprint, rk_answer *answer)
{
    rk_room room = rk_find_room(home, fingerprint, answer->at);
    if (room.live) {
        answer->full = true;
        answer->allowed = false;
        answer->retry_after = room.seen.tat - answer->at;
    }
}

/* Decide one charge, and make it if it is allowed and `commit`. A cost of nothing, or a refusal, writes nothing. */
RK_INLINE rk_answer rk_charge(rk_table *table, uint64_t fingerprint, int64_t now, rk_terms terms, bool commit,
                              const rk_clock *clock)
{
    rk_home home = rk_home_of(table, fingerprint);
    for (int attempt = 0;; attempt++, rk_count(&table->counters->retries)) {
        rk_cell seen = {fingerprint, 0};
        rk_cell *cell = rk_find(home, fingerprint, &seen);
        rk_ruling ruling = rk_decide(seen.tat, now, terms);
        bool charged = ruling.allowed && commit && terms.increment > 0;
        int64_t debt = charged ? ruling.ahead : seen.tat > now ? seen.tat - now : 0;
        uint64_t marked = seen.tat > now ? seen.fingerprint & RK_MARK : 0;
        uint64_t mark = ruling.delay > 0 ? RK_MARK : marked;
        rk_answer answer = {ruling.allowed, now, debt, ruling.delay, ruling.retry_after, mark != 0, mark != marked,
                            false};
        if (cell) {
            /* Uncharged, the swap changes nothing, but proves that what was seen was there at one instant. */
            if (rk_swap(cell, seen, charged ? (rk_cell){fingerprint | mark, ruling.new_tat} : seen))
                return answer;
            continue;
        }
        if (!commit && ruling.allowed && terms.increment > 0 && table->deny_when_full)
            rk_look_for_room(home, fingerprint, &answer);
        if (!charged)
            return answer;
        switch (rk_insert(table, home, fingerprint, terms, attempt, clock, &answer.at, &answer.retry_after)) {
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

/* Give back the part of a charge, made at `at`, that has not refilled since.
 *
 * It moves all later ranges of the axis down, which is right if their owners have left. So it gives nothing while the
 * bucket is marked: somebody owns a range for a later departure, and a newcomer would leave with it in one burst. Nor
 * while the debt is over the burst, as it is during a pause that a server has asked for. The time is read after the
 * cell, so every charge in the cell is older than that time. Otherwise a delayed thread could refund, from a later charge,
 * units that the bucket has refilled meanwhile. */
static inline void rk_refund(rk_table *table, uint64_t fingerprint, int64_t at, rk_terms terms, const rk_clock *clock)
{
    rk_home home = rk_home_of(table, fingerprint);
    rk_cell seen, *cell;
    while ((cell = rk_find(home, fingerprint, &seen))) {
        int64_t now = clock->read(clock->context);
        int64_t given = rk_refundable(terms.increment, now - at);
        if (given == 0 || (rk_wide)seen.tat - now > terms.burst || seen.fingerprint & RK_MARK)
            return;
        if (rk_swap(cell, seen, (rk_cell){seen.fingerprint, seen.tat > given ? seen.tat - given : 0}))
            return;
    }
}

/* Set a bucket's TAT back, if it is still what the caller believes. False, and nothing done, if it is not. */
static inline bool rk_rewind(rk_table *table, uint64_t fingerprint, int64_t expected, int64_t tat)
{
    rk_home home = rk_home_of(table, fingerprint);
    rk_cell seen, *cell;
    while ((cell = rk_find(home, fingerprint, &seen)) && seen.tat == expected)
        if (rk_swap(cell, seen, (rk_cell){seen.fingerprint, tat}))
            return true;
    return false;
}

/* ---- changes by hand ---- */

/* Adjust a bucket, whether or not it is there: the TAT goes back by `back` ticks, and then is at least `least` ahead of the
 * time. A bucket that is not there is full. Returns false, and nothing is done, if it is to be there and finds no room.
 *
 * It mints tokens, and takes tokens away, whatever waiters own. `*now` was read before; the time is read again after the
 * cell, as in rk_refund, and `*now` becomes that time. */
static inline bool rk_move(rk_table *table, uint64_t fingerprint, int64_t *now, int64_t back, int64_t least,
                           const rk_clock *clock)
{
    rk_home home = rk_home_of(table, fingerprint);
    for (int attempt = 0;; attempt++, rk_count(&table->counters->retries)) {
        rk_cell seen, *cell = rk_find(home, fingerprint, &seen);
        int64_t later = clock->read(clock->context), wait;
        *now = later > *now ? later : *now;
        if (!cell) {
            if (least == 0)
                return true;
            rk_inserted inserted = rk_insert(table, home, fingerprint, (rk_terms){least, least, 0}, attempt, clock, now,
                                             &wait);
            if (inserted != RK_AGAIN)
                return inserted == RK_INSERTED;
            continue;
        }
        rk_wide tat = back < RK_FORGET ? (rk_wide)seen.tat - back : 0;
        tat = tat < (rk_wide)*now + least ? (rk_wide)*now + least : tat;
        rk_cell made = tat > *now ? (rk_cell){seen.fingerprint, rk_clamp(tat)} : (rk_cell){0, 0};
        if (rk_swap(cell, seen, made))
            return true;
    }
}

/* A block of a bucket is a bucket too: its TAT is the block's end. Its fingerprint follows from the bucket's. So a
 * block holds whatever the bucket's limit is, and the bucket's debt goes on beside it.
 *
 * While no block of the table is in force, a decision learns that from one word, the latest end of them all. It only grows,
 * and is written after the block's cell: so a block that was made is seen. Nothing else depends on it: in a damaged table, a
 * later end costs time only, and an earlier one hides blocks until the next is made, as a cell that was zeroed would. */
static inline uint64_t rk_block_of(const rk_table *table, uint64_t fingerprint)
{
    return rk_fingerprint(table->seed, &fingerprint, sizeof fingerprint);
}

static inline bool rk_may_block(const rk_table *table, int64_t now)
{
    return __builtin_expect(__atomic_load_n(table->blocked_until, __ATOMIC_ACQUIRE) > (uint64_t)now, 0);
}

/* Change a bucket by hand: its TAT goes back by `back` ticks (by RK_FORGET: the bucket is full). Its block ends if `block`
 * is 0, and lasts at least so many ticks if it is more. RK_KEEP leaves it. False, and no block is made, if it finds no room. */
static inline bool rk_adjust(rk_table *table, uint64_t fingerprint, int64_t now, int64_t back, int64_t block,
                             const rk_clock *clock)
{
    if (back > 0)
        rk_move(table, fingerprint, &now, back, 0, clock);
    if (block == RK_KEEP)
        return true;
    if (!rk_move(table, rk_block_of(table, fingerprint), &now, block > 0 ? 0 : RK_FORGET, block, clock))
        return false;
    uint64_t end = block > 0 ? (uint64_t)rk_clamp((rk_wide)now + block) : 0, latest;
    do
        latest = __atomic_load_n(table->blocked_until, __ATOMIC_SEQ_CST);
    while (end > latest && !__atomic_compare_exchange_n(table->blocked_until, &latest, end, false, __ATOMIC_SEQ_CST,
                                                        __ATOMIC_SEQ_CST));
    return true;
}

static inline uint64_t rk_live(const rk_table *table, int64_t now)
{
    uint64_t live = 0;
    for (uint64_t i = 0; i < table->lines * RK_LINE; i++)
        live += rk_read(&table->cells[i]).tat > now;
    return live;
}

/* ---- several limits at once: all or nothing ---- */

typedef struct {
    uint64_t fingerprint;
    rk_terms terms;
    bool shadow; /* decided and charged like the others, but refuses nothing */
    bool impossible; /* costs more than its limit can ever admit */
    rk_answer answer;
} rk_demand;

/* Return whether the demand's bucket is blocked, with the answer: as if the bucket owed so much that the same request
 * passes at the block's end, and not before. Seldom called, so out of the way of the hot path. */
__attribute__((noinline, cold, unused)) static bool rk_is_blocked(rk_table *table, const rk_demand *demand, int64_t now,
                                                                  const rk_clock *clock, rk_answer *answer)
{
    rk_terms nothing = {0, 0, 0}, terms = demand->impossible ? nothing : demand->terms;
    rk_wide left = rk_charge(table, rk_block_of(table, demand->fingerprint), now, nothing, false, clock).debt;
    if (left <= 0)
        return false;
    *answer = rk_charge(table, demand->fingerprint, now, terms, false, clock);
    rk_wide debt = left + (terms.tolerance > terms.increment ? terms.tolerance - terms.increment : 0);
    bool longest = debt > answer->debt; /* then it is told as a debt that leaves no token, whatever the cost */
    rk_wide ahead = (longest ? debt : answer->debt) + terms.increment;
    answer->allowed = answer->full = false;
    answer->debt = longest ? rk_clamp(ahead) : answer->debt;
    answer->delay = demand->impossible ? INT64_MAX : rk_clamp(ahead > terms.burst ? ahead - terms.burst : 0);
    answer->retry_after = demand->impossible ? INT64_MAX : rk_clamp(ahead - terms.tolerance);
    return true;
}

RK_INLINE rk_answer rk_answer_to(rk_table *table, const rk_demand *demand, int64_t now, bool commit,
                                 const rk_clock *clock)
{
    rk_answer blocked;
    if (rk_may_block(table, now) && rk_is_blocked(table, demand, now, clock, &blocked))
        return blocked;
    if (!demand->impossible)
        return rk_charge(table, demand->fingerprint, now, demand->terms, commit, clock);
    rk_terms nothing = {0, 0, 0};
    rk_answer answer = rk_charge(table, demand->fingerprint, now, nothing, false, clock);
    return (rk_answer){false, answer.at, answer.debt, INT64_MAX, INT64_MAX, false, false, false};
}

/* Take a charge back that was made a moment ago: exactly if nobody came since, or else as a refund. (A reset in between
 * has given it back already; then later callers may get these units twice.) If somebody has marked the bucket since, the TAT
 * may be what it was, and the range at its end not ours. A mark of the charge's own goes with it. */
static inline void rk_undo(rk_table *table, const rk_demand *demand, const rk_clock *clock)
{
    int64_t at = demand->answer.at, new_tat = rk_clamp((rk_wide)at + demand->answer.debt);
    rk_wide before = (rk_wide)new_tat - demand->terms.increment;
    rk_home home = rk_home_of(table, demand->fingerprint);
    rk_cell made = {demand->fingerprint | (demand->answer.marked ? RK_MARK : 0), new_tat};
    rk_cell seen, *cell = rk_find(home, demand->fingerprint, &seen);
    uint64_t kept = demand->answer.marks ? demand->fingerprint : made.fingerprint;
    if (!cell || !rk_swap(cell, made, (rk_cell){kept, before > 0 ? (int64_t)before : 0}))
        rk_refund(table, demand->fingerprint, at, demand->terms, clock);
}

/* Charge all demands or none; true if all that are not in shadow were allowed (and, if `commit`, charged).
 *
 * Looks at all first, then charges one by one. Another thread may take a last token in between: then what was charged
 * is given back. So it never admits too much; in such a race it may for microseconds refuse what had just fitted. A
 * process that dies in between has charged some of its demands, and admitted nothing.
 */
static inline bool rk_charge_all(rk_table *table, rk_demand *demands, size_t count, int64_t now, bool commit,
                                 const rk_clock *clock)
{
    bool allowed = true;
    if (count == 1) {
        demands->answer = rk_answer_to(table, demands, now, commit, clock);
        return demands->answer.allowed || demands->shadow;
    }
    for (size_t i = 0; i < count; i++) {
        demands[i].answer = rk_answer_to(table, &demands[i], now, false, clock);
        allowed &= demands[i].answer.allowed || demands[i].shadow;
    }
    if (!allowed || !commit) {
        for (size_t i = 0; i < count && commit; i++)
            __atomic_fetch_add(&table->counters->refused_full, demands[i].answer.full, __ATOMIC_RELAXED);
        return allowed;
    }
    size_t charged = 0;
    for (; charged < count && allowed; charged++) {
        demands[charged].answer = rk_answer_to(table, &demands[charged], now, true, clock);
        allowed = demands[charged].answer.allowed || demands[charged].shadow;
    }
    if (allowed)
        return true;
    for (size_t i = charged - 1; i-- > 0;)
        if (demands[i].answer.allowed) /* one in shadow that was not was never charged */
            rk_undo(table, &demands[i], clock);
    for (size_t i = 0; i + 1 < charged; i++)
        demands[i].answer = rk_answer_to(table, &demands[i], now, false, clock);
    return false;
}

#endif
