/* The table of buckets: a fixed array of 16-byte cells, changed by compare-and-swap only. Knows no Python, no clock and
 * no randomness: time and seeds are arguments. The readable twin is pytable.py.
 *
 *   memory   | counters | blocks and resets | line 0 | line 1 | ...           | line n - 1 |
 *   line     | cell 0   | cell 1 | cell 2 | cell 3 | ... | cell 7 |     128 bytes, two adjacent cache lines
 *   cell     | fingerprint: 63 bits | mark: 1 bit | TAT: 64 bits |      16 bytes; all zero: never used
 *
 * A key may live in either of two lines. Their 16 cells are its slots, numbered from 0. Every change is one 16-byte
 * compare-and-swap. So the table needs no lock, and a process that dies leaves nothing half done. A cell with a TAT in
 * the past is a full bucket, and so is free.
 *
 * At most one live cell per fingerprint. Charging changes a live cell in place, so only newcomers could break this: two
 * threads that meet a new key at once, and choose different cells. So a newcomer is written in three steps.
 *   1. Claim: put {fingerprint, a ticket} into a free cell. The ticket is negative, as no TAT is, and unique.
 *   2. Look at all the other cells of both lines. If one is live with our fingerprint, or pending before ours, withdraw
 *      and start again; if one is pending behind ours, take its claim away.
 *   3. Confirm: exchange the ticket for the TAT, which fails if the claim was taken away.
 * Of two that claim at once, at least one sees the other in step 2 (claims and looks are sequentially consistent), and
 * both go by the order of the slots, so never both confirm. A ticket is unique, so nobody can confirm another's claim. A
 * claim whose owner died is taken away by the next who meets it.
 *
 * The lowest bit of the first word is the mark. It is set when a waiter owns a range of the bucket for a later departure
 * (see docs/design.md), and stays until the bucket is full again. Both words are swapped as one, so it is as exact as
 * the TAT.
 */
#ifndef RATEKEEPER_TABLE_H
#define RATEKEEPER_TABLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "siphash.h"

#if !(defined(__x86_64__) && defined(__GCC_HAVE_SYNC_COMPARE_AND_SWAP_16)) &&                                           \
    !(defined(__aarch64__) && !defined(__ARM_BIG_ENDIAN))
#error "the C core needs the 16-byte compare-and-swap of x86-64 (-mcx16) or little-endian ARM64"
#endif

/* For functions on the hot path, above all those that return a struct: through memory it would cost a store and a stalled
 * load. Code of few decisions lies apart: to fetch more of it would cost all decisions more than to run it. */
#define RK_INLINE static inline __attribute__((always_inline))
#define RK_COLD __attribute__((noinline, cold))

typedef __int128 rk_wide;
typedef unsigned __int128 rk_pair;

enum { RK_LINE = 8, RK_PATIENCE = 64 };
#define RK_MARK ((uint64_t)1)

typedef struct {
    uint64_t fingerprint; /* 0: never used; with the mark */
    int64_t tat;          /* ticks; negative: pending */
} rk_cell;

typedef struct {
    uint64_t tickets;      /* given out to claims */
    uint64_t evicted_live; /* live buckets that had to go for a newcomer */
    uint64_t refused_full; /* newcomers refused because no cell was free */
    uint64_t retries;      /* decisions that began again, because another changed the cell meanwhile */
} rk_counters;

/* One process's handle. Processes may share the memory that it points to; the rest is the same in all of them. */
typedef struct {
    rk_cell *cells; /* lines * RK_LINE, aligned to 128 bytes, zeroed when new */
    uint64_t lines; /* at least 2 */
    rk_counters *counters;
    uint64_t *blocked_until; /* ticks, the latest end of a block that was ever made: see charge.h */
    uint64_t *resets; /* the log of resets.h */
    rk_key seed;
    bool deny_when_full;
} rk_table;

typedef struct {
    int64_t (*read)(void *context); /* ticks; where it cannot tell, 0 */
    void *context;
} rk_clock;

typedef struct {
    int64_t increment, burst, tolerance;
} rk_terms;

typedef struct {
    bool allowed;
    int64_t new_tat, ahead, delay, retry_after;
} rk_ruling;

/* ---- the rule: gcra.py, line for line; it stands there with its proof ---- */

static inline int64_t rk_clamp(rk_wide ticks)
{
    return ticks < INT64_MAX ? (int64_t)ticks : INT64_MAX - 1;
}

static inline rk_ruling rk_decide(int64_t tat, int64_t now, rk_terms terms)
{
    rk_wide start = tat > now ? tat : now;
    rk_wide new_tat = start + terms.increment;
    rk_wide ahead = new_tat - now;
    bool allowed = ahead <= terms.tolerance;
    rk_wide delay = ahead > terms.burst ? ahead - terms.burst : 0;
    rk_wide retry_after = ahead > terms.tolerance ? ahead - terms.tolerance : 0;
    return (rk_ruling){allowed, rk_clamp(new_tat), rk_clamp(ahead), rk_clamp(delay), rk_clamp(retry_after)};
}

static inline int64_t rk_refundable(int64_t increment, int64_t elapsed)
{
    elapsed = elapsed > 0 ? elapsed : 0;
    return increment > elapsed ? increment - elapsed : 0;
}

/* ---- cells ---- */

static inline rk_cell rk_read(const rk_cell *cell)
{
    /* Two loads, which may straddle a change. A decision on them is made, or proved, by a swap that expects exactly
     * these words. A choice of room, or a count, may be a little out of date. */
    rk_cell seen;
    seen.fingerprint = __atomic_load_n(&cell->fingerprint, __ATOMIC_SEQ_CST);
    seen.tat = __atomic_load_n(&cell->tat, __ATOMIC_SEQ_CST);
    return seen;
}

static inline bool rk_swap(rk_cell *cell, rk_cell expected, rk_cell desired)
{
    rk_pair old, new;
    memcpy(&old, &expected, sizeof old);
    memcpy(&new, &desired, sizeof new);
    return __sync_bool_compare_and_swap((rk_pair *)cell, old, new); /* __atomic would call libatomic here */
}

static inline uint64_t rk_count(uint64_t *counter)
{
    return __atomic_fetch_add(counter, 1, __ATOMIC_RELAXED);
}

/* Return a key's fingerprint, without the mark. 0 means a cell never used, so it becomes 2. */
static inline uint64_t rk_fingerprint(rk_key scope_key, const void *key, size_t length)
{
    uint64_t hash = rk_siphash(scope_key, key, length) & ~RK_MARK;
    return hash ? hash : 2;
}

static inline bool rk_is_of(uint64_t marked, uint64_t fingerprint)
{
    return (marked & ~RK_MARK) == fingerprint;
}

typedef struct {
    rk_cell *line[2];
} rk_home;

/* The two lines in which a fingerprint may live. */
static inline rk_home rk_home_of(const rk_table *table, uint64_t fingerprint)
{
    uint64_t first = (uint64_t)(((rk_pair)fingerprint * table->lines) >> 64);
    uint64_t mixed = fingerprint * 0xd6e8feb86659fd93u;
    uint64_t second = (uint64_t)(((rk_pair)mixed * table->lines) >> 64);
    if (second == first)
        second = first + 1 < table->lines ? first + 1 : 0;
    return (rk_home){{table->cells + first * RK_LINE, table->cells + second * RK_LINE}};
}

/* Begin to fetch the lines of a fingerprint: by the time the clock is read, they are there. The processor fetches the
 * second half of a line by itself. */
static inline void rk_prefetch(const rk_table *table, uint64_t fingerprint)
{
    rk_home home = rk_home_of(table, fingerprint);
    __builtin_prefetch(home.line[0], 1);
    __builtin_prefetch(home.line[1], 1);
}

static inline rk_cell *rk_cell_at(rk_home home, int slot)
{
    return home.line[slot / RK_LINE] + slot % RK_LINE;
}

/* The live cell of a fingerprint, and what was seen in it; or NULL, and `seen` as it was. */
static inline rk_cell *rk_find(rk_home home, uint64_t fingerprint, rk_cell *seen)
{
    for (int slot = 0; slot < 2 * RK_LINE; slot++) {
        rk_cell *cell = rk_cell_at(home, slot);
        if (!rk_is_of(__atomic_load_n(&cell->fingerprint, __ATOMIC_RELAXED), fingerprint))
            continue;
        rk_cell found = rk_read(cell);
        if (rk_is_of(found.fingerprint, fingerprint) && found.tat >= 0) {
            *seen = found;
            return cell;
        }
    }
    return NULL;
}

/* ---- newcomers ---- */

typedef struct {
    int slot;     /* where the newcomer goes */
    rk_cell seen; /* what was seen there */
    bool live;    /* it is somebody's live bucket: of all in both lines, the one that is full again soonest */
    bool ours;    /* it has the same fingerprint: another thread's claim, or live by now */
} rk_room;

/* Where a newcomer would go: the line with more free cells, and in it the cell that has been free longest. */
static inline rk_room rk_find_room(rk_home home, uint64_t fingerprint, int64_t now)
{
    rk_room best[2];
    int live[2] = {0, 0};
    for (int slot = 0; slot < 2 * RK_LINE; slot++) {
        rk_cell seen = rk_read(rk_cell_at(home, slot));
        int side = slot / RK_LINE;
        if (rk_is_of(seen.fingerprint, fingerprint))
            return (rk_room){slot, seen, false, true};
        int64_t rank = seen.tat < 0 ? now : seen.tat; /* another's claim: free, but the last free cell to take */
        bool first = slot % RK_LINE == 0;
        int64_t best_rank = first ? 0 : best[side].seen.tat < 0 ? now : best[side].seen.tat;
        if (first || rank < best_rank)
            best[side] = (rk_room){slot, seen, rank > now, false};
        live[side] += rank > now;
    }
    if (live[0] == RK_LINE && live[1] == RK_LINE)
        return best[best[1].seen.tat < best[0].seen.tat];
    return best[live[1] < live[0]];
}

/* Return whether `mine` is the only claim or live bucket of its fingerprint. Takes away claims behind it. */
static inline bool rk_alone(rk_home home, int mine, uint64_t fingerprint)
{
    for (int slot = 0; slot < 2 * RK_LINE; slot++) {
        rk_cell *cell = rk_cell_at(home, slot);
        rk_cell seen = rk_read(cell);
        if (slot == mine || !rk_is_of(seen.fingerprint, fingerprint))
            continue;
        if (seen.tat >= 0 || slot < mine || !rk_swap(cell, seen, (rk_cell){0, 0}))
            return false;
    }
    return true;
}

typedef enum { RK_INSERTED, RK_AGAIN, RK_FULL } rk_inserted;

/* Try once to give a newcomer its cell: of a bucket that was full at `*at` and then was charged.
 *
 * No cell means a full bucket, but only if the caller's time is not before the time at which the bucket was forgotten. A
 * caller may be held up for long after it read the clock. So the clock is read again after the claim: a bucket that was
 * forgotten was full before, and a later charge of it takes the claim away. `*at` becomes that time. `*wait` is the time
 * until a cell is free, if none is. */
static inline rk_inserted rk_insert(rk_table *table, rk_home home, uint64_t fingerprint, rk_terms terms, int attempt,
                                    const rk_clock *clock, int64_t *at, int64_t *wait)
{
    int64_t now = *at;
    rk_room room = rk_find_room(home, fingerprint, now);
    if (room.ours && (room.seen.tat >= 0 || attempt % RK_PATIENCE != RK_PATIENCE - 1))
        return RK_AGAIN; /* it is about to be live; if its owner died, patience ends */
    if (room.live && table->deny_when_full) {
        *wait = room.seen.tat - now;
        rk_count(&table->counters->refused_full);
        return RK_FULL;
    }
    rk_cell *cell = rk_cell_at(home, room.slot);
    rk_cell claim = {fingerprint, (int64_t)(rk_count(&table->counters->tickets) | (uint64_t)1 << 63)};
    if (!rk_swap(cell, room.seen, claim))
        return RK_AGAIN;
    if (room.live)
        rk_count(&table->counters->evicted_live);
    if (!rk_alone(home, room.slot, fingerprint)) {
        rk_swap(cell, claim, (rk_cell){0, 0});
        return RK_AGAIN;
    }
    int64_t later = clock->read(clock->context);
    *at = later > now ? later : now;
    uint64_t mark = terms.increment > terms.burst ? RK_MARK : 0;
    rk_cell charged = {fingerprint | mark, rk_clamp((rk_wide)*at + terms.increment)};
    return rk_swap(cell, claim, charged) ? RK_INSERTED : RK_AGAIN;
}

#endif
