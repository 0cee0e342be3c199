/* Makes races likely: when shaking, a thread sometimes lets the others go first just before it reads or swaps a cell.
 * Include before cells.h. For tests only.
 *
 * The steps of the table take nanoseconds, and two cores seldom meet in one. cells.h touches cells only through the
 * compiler's builtins, so those are wrapped here; a macro is not expanded inside itself, so in the end they do run.
 *
 * RK_BREAK makes the swap an ordinary read and write, to prove that ThreadSanitizer would see a race: see Makefile.
 */
#ifndef RATEKEEPER_TESTS_SHAKE_H
#define RATEKEEPER_TESTS_SHAKE_H

#include <sched.h>
#include <stdbool.h>
#include <stdint.h>

/* 0: run at full speed. n: before one step in n, on average, let others run. */
static _Thread_local uint64_t shake_one_in, shake_random = 88172645463325252u;

static inline void shake(void)
{
    if (!shake_one_in)
        return;
    shake_random ^= shake_random << 13;
    shake_random ^= shake_random >> 7;
    shake_random ^= shake_random << 17;
    if (shake_random % shake_one_in == 0)
        sched_yield();
}

#ifdef RK_BREAK
static inline bool broken_swap(unsigned __int128 *cell, unsigned __int128 old, unsigned __int128 new)
{
    if (*cell != old)
        return false;
    shake();
    *cell = new;
    return true;
}
static inline bool broken_swap_of_word(uint64_t *word, uint64_t old, uint64_t new)
{
    if (*word != old)
        return false;
    shake();
    *word = new;
    return true;
}
#define broken(cell) _Generic((cell), uint64_t *: broken_swap_of_word, default: broken_swap)
#define __sync_bool_compare_and_swap(cell, old, new) broken(cell)(cell, old, new)
#define __atomic_compare_exchange_n(cell, old, new, weak, won, lost) broken(cell)(cell, *(old), new)
#else
#define __sync_bool_compare_and_swap(cell, old, new) (shake(), __sync_bool_compare_and_swap(cell, old, new))
#define __atomic_compare_exchange_n(cell, old, new, weak, won, lost)                                                   \
    (shake(), __atomic_compare_exchange_n(cell, old, new, weak, won, lost))
#endif
#define __atomic_load_n(cell, order) (shake(), __atomic_load_n(cell, order))

#endif
