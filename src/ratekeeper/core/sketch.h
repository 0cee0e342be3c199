/* Space-Saving: the counts of the keys that come most often, in memory of a fixed size. Knows no Python and no keys, but
 * their fingerprints. Its twin is sketch.py, which has the algorithm's claim.
 *
 * A key without a place takes that of the key with the fewest, and goes on from its count. The heap finds that one: it has
 * each place with its count at some time. A count only grows, so it is right or too low there, and is brought up to date
 * when it comes to the top. So to count a key that has a place is one look into the index. Each step of the heap beyond
 * one a newcomer is paid by a count before.
 */
#ifndef RATEKEEPER_SKETCH_H
#define RATEKEEPER_SKETCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef struct {
    uint64_t fingerprint;
    int64_t count, error; /* its count is up to `error` too high */
} rk_hitter;

typedef struct {
    int64_t count; /* of the place when it was put here */
    uint64_t turn; /* of equal counts, the first that was put here is the least */
    size_t place;
} rk_least;

/* `hitters` and `heap` have room for all places. `index` has `mask + 1` cells, a power of two and twice the places or more:
 * a place + 1, or 0. A fingerprint's cell is the first free one, from its lowest bits on. */
typedef struct {
    size_t places, used, mask;
    uint64_t turns;
    rk_hitter *hitters;
    rk_least *heap;
    uint32_t *index;
} rk_sketch;

/* The memory of a sketch's cells; the hitters come first, so it is to be aligned as they are. */
static inline size_t rk_sketch_bytes(size_t places)
{
    size_t cells = 2;
    while (cells < 2 * places)
        cells *= 2;
    return places * (sizeof(rk_hitter) + sizeof(rk_least)) + cells * sizeof(uint32_t);
}

/* Forget all keys. */
static inline void rk_clear_sketch(rk_sketch *sketch)
{
    sketch->used = 0;
    memset(sketch->index, 0, (sketch->mask + 1) * sizeof *sketch->index);
}

/* Begin in memory of `rk_sketch_bytes`. There is at least one place, and fewer than 2^31. */
static inline void rk_open_sketch(rk_sketch *sketch, void *memory, size_t places)
{
    size_t before = places * (sizeof(rk_hitter) + sizeof(rk_least));
    *sketch = (rk_sketch){.places = places, .hitters = memory};
    sketch->heap = (rk_least *)(sketch->hitters + places);
    sketch->index = (uint32_t *)(sketch->heap + places);
    sketch->mask = (rk_sketch_bytes(places) - before) / sizeof(uint32_t) - 1;
    rk_clear_sketch(sketch);
}

/* The cell of a fingerprint, or the free one where it would be. */
static inline size_t rk_cell_in_index(const rk_sketch *sketch, uint64_t fingerprint)
{
    size_t cell = (size_t)fingerprint & sketch->mask;
    while (sketch->index[cell] && sketch->hitters[sketch->index[cell] - 1].fingerprint != fingerprint)
        cell = (cell + 1) & sketch->mask;
    return cell;
}

/* The count of a key that has a place, or NULL. */
static inline rk_hitter *rk_find_hitter(const rk_sketch *sketch, uint64_t fingerprint)
{
    uint32_t found = sketch->index[rk_cell_in_index(sketch, fingerprint)];
    return found ? &sketch->hitters[found - 1] : NULL;
}

/* Free the cell of a fingerprint. Those behind it move up, as each must be found from its own cell on without a gap. */
static inline void rk_drop_from_index(rk_sketch *sketch, uint64_t fingerprint)
{
    size_t gap = rk_cell_in_index(sketch, fingerprint), next = gap;
    for (;;) {
        next = (next + 1) & sketch->mask;
        if (!sketch->index[next])
            break;
        size_t own = (size_t)sketch->hitters[sketch->index[next] - 1].fingerprint & sketch->mask;
        if (((next - own) & sketch->mask) < ((next - gap) & sketch->mask))
            continue; /* its own cell lies behind the gap */
        sketch->index[gap] = sketch->index[next];
        gap = next;
    }
    sketch->index[gap] = 0;
}

static inline bool rk_is_less(const rk_least *one, const rk_least *other)
{
    return one->count < other->count || (one->count == other->count && one->turn < other->turn);
}

/* Put the place at the top of the heap where its count belongs. */
static inline void rk_sink(rk_sketch *sketch, int64_t count)
{
    rk_least *heap = sketch->heap, sunk = {count, sketch->turns++, heap[0].place};
    size_t at = 0;
    for (size_t child; (child = 2 * at + 1) < sketch->used; at = child) {
        if (child + 1 < sketch->used && rk_is_less(&heap[child + 1], &heap[child]))
            child++;
        if (rk_is_less(&sunk, &heap[child]))
            break;
        heap[at] = heap[child];
    }
    heap[at] = sunk;
}

/* Return a place for a newcomer, with the count of the key that had it. */
static inline size_t rk_take_place(rk_sketch *sketch)
{
    if (sketch->used < sketch->places) { /* until all are used, each is in the heap with a count of 1, in order */
        size_t place = sketch->used++;
        sketch->hitters[place] = (rk_hitter){.count = 0};
        sketch->heap[place] = (rk_least){1, sketch->turns++, place};
        return place;
    }
    for (;;) {
        size_t place = sketch->heap[0].place;
        int64_t count = sketch->hitters[place].count;
        if (count == sketch->heap[0].count) {
            rk_drop_from_index(sketch, sketch->hitters[place].fingerprint);
            rk_sink(sketch, count + 1);
            return place;
        }
        rk_sink(sketch, count);
    }
}

/* Count a key once, and return its place. */
static inline size_t rk_count_key(rk_sketch *sketch, uint64_t fingerprint)
{
    rk_hitter *hitter = rk_find_hitter(sketch, fingerprint);
    if (!hitter) {
        size_t place = rk_take_place(sketch);
        hitter = &sketch->hitters[place];
        *hitter = (rk_hitter){fingerprint, hitter->count, hitter->count};
        sketch->index[rk_cell_in_index(sketch, fingerprint)] = (uint32_t)place + 1;
    }
    hitter->count++;
    return (size_t)(hitter - sketch->hitters);
}

#endif
