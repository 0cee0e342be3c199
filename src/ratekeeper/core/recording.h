/* The ring of a recording: segments of records, one after the other. Knows no Python. ring.py draws the layout.
 *
 * A segment is written from its start to its end, once; the next one takes the place of the oldest. A reader takes what lies
 * before `end`, which is stored last. The number is 0 while the start of a segment is written, and another one afterwards:
 * so a reader that looks at it before and after knows whether the segment was its own all the time.
 */
#ifndef RATEKEEPER_RECORDING_H
#define RATEKEEPER_RECORDING_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

enum { RK_RECORD_HEAD = 3, RK_MOST_WORDS = 1 << 14, RK_COST_DIGITS = 18 };
enum { RK_NO_COST = -1, RK_BAD_COST = -2 };
enum { RK_ADMITTED, RK_DELAYED, RK_REJECTED, RK_EXEMPT_FLAG = 4 };
enum { RK_SEGMENTS = 32, RK_LEAST_SEGMENT = 1 << 16 };
enum { RK_NUMBER, RK_END, RK_SCHEMA, RK_COUNT, RK_FIRST, RK_LAST, RK_SEGMENT_HEAD = 8 };

typedef struct {
    char *start;
    size_t size, segments; /* of a segment, in bytes; no segments: nothing is recorded */
    int64_t number;        /* of the segment that is written, from 1; the highest of all */
    int64_t *head;
} rk_ring;

static inline int64_t *rk_segment(const rk_ring *ring, int64_t number)
{
    return (int64_t *)(ring->start + (size_t)number % ring->segments * ring->size);
}

/* Go on in a ring: after the last segment of the process that had it before. */
static inline void rk_open_ring(rk_ring *ring, void *memory, size_t length)
{
    size_t segments = length / RK_LEAST_SEGMENT;
    segments = segments > RK_SEGMENTS ? RK_SEGMENTS : segments;
    *ring = (rk_ring){.start = memory, .segments = segments > 1 ? segments : 0};
    ring->size = ring->segments ? length / segments / 64 * 64 : 0;
    for (size_t i = 0; i < ring->segments; i++) {
        int64_t number = rk_segment(ring, (int64_t)i)[RK_NUMBER];
        ring->number = number > ring->number ? number : ring->number;
    }
}

/* Begin the next segment. False if the schema does not leave it half of its room. */
static inline bool rk_begin_segment(rk_ring *ring, const void *schema, size_t length)
{
    size_t begin = (RK_SEGMENT_HEAD * sizeof(int64_t) + length + 7) / 8 * 8;
    if (!ring->segments || begin > ring->size / 2)
        return false;
    ring->head = rk_segment(ring, ++ring->number);
    __atomic_store_n(&ring->head[RK_NUMBER], 0, __ATOMIC_RELAXED);
    __atomic_thread_fence(__ATOMIC_SEQ_CST); /* nobody sees what follows with the old number */
    memset(ring->head + 1, 0, (RK_SEGMENT_HEAD - 1) * sizeof(int64_t));
    memcpy(ring->head + RK_SEGMENT_HEAD, schema, length);
    ring->head[RK_SCHEMA] = (int64_t)length;
    ring->head[RK_END] = (int64_t)begin;
    __atomic_store_n(&ring->head[RK_NUMBER], ring->number, __ATOMIC_RELEASE);
    return true;
}

/* The place for a record of so many words, in the next segment if this one is full; NULL if it is too long. */
static inline int64_t *rk_record_room(rk_ring *ring, size_t words, const void *schema, size_t length)
{
    if (words > RK_MOST_WORDS || words * 8 > ring->size / 2)
        return NULL;
    if ((size_t)ring->head[RK_END] + words * 8 > ring->size && !rk_begin_segment(ring, schema, length))
        return NULL;
    return (int64_t *)((char *)ring->head + ring->head[RK_END]);
}

/* Show readers the record that was written at the end. */
static inline void rk_commit_record(rk_ring *ring, size_t words, int64_t time)
{
    int64_t *head = ring->head, count = head[RK_COUNT];
    if (!count || time < head[RK_FIRST])
        head[RK_FIRST] = time;
    if (!count || time > head[RK_LAST])
        head[RK_LAST] = time;
    head[RK_COUNT] = count + 1;
    __atomic_store_n(&head[RK_END], head[RK_END] + (int64_t)words * 8, __ATOMIC_RELEASE);
}

#endif
