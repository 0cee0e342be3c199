/* The sketch of the most frequent keys: its bounds, and each answer, beside a plain list that is searched. */
#include "check.h"
#include "sketch.h"

enum { MOST_PLACES = 40, MOST_KEYS = 200, STEPS = 200000 / SLOW };

/* The same by search. `turns` tells which of equal counts was brought up to date first: that one goes. */
typedef struct {
    rk_hitter hitters[MOST_PLACES];
    int64_t seen[MOST_PLACES]; /* the count when the place was last brought up to date */
    uint64_t turns[MOST_PLACES], turn;
    size_t used, places;
} plain;

static size_t plain_least(const plain *on)
{
    size_t least = 0;
    for (size_t i = 1; i < on->used; i++)
        if (on->seen[i] < on->seen[least] || (on->seen[i] == on->seen[least] && on->turns[i] < on->turns[least]))
            least = i;
    return least;
}

static size_t plain_place(plain *on)
{
    if (on->used < on->places)
        return on->used++;
    for (;;) {
        size_t least = plain_least(on);
        if (on->seen[least] == on->hitters[least].count)
            return least;
        on->seen[least] = on->hitters[least].count;
        on->turns[least] = on->turn++;
    }
}

static size_t plain_count(plain *on, uint64_t fingerprint)
{
    for (size_t i = 0; i < on->used; i++)
        if (on->hitters[i].fingerprint == fingerprint)
            return on->hitters[i].count++, i;
    bool all = on->used == on->places;
    size_t place = plain_place(on);
    int64_t fewest = all ? on->hitters[place].count : 0;
    on->hitters[place] = (rk_hitter){fingerprint, fewest + 1, fewest};
    on->seen[place] = fewest + 1;
    on->turns[place] = on->turn++;
    return place;
}

static bool same(const rk_sketch *sketch, const plain *on)
{
    bool alike = sketch->used == on->used;
    for (size_t i = 0; alike && i < on->used; i++) {
        const rk_hitter *one = &sketch->hitters[i], *other = &on->hitters[i];
        alike = one->fingerprint == other->fingerprint && one->count == other->count && one->error == other->error &&
                rk_find_hitter(sketch, one->fingerprint) == one;
    }
    return alike;
}

/* A trace of keys of which few come often. `clash` has all fingerprints meet in a few cells of the index. */
static void compare(size_t places, uint64_t keys, bool clash, uint64_t seed)
{
    void *memory = malloc(rk_sketch_bytes(places)); /* of just this size, so that a sanitizer sees what lies beyond */
    if (!memory)
        abort();
    rk_sketch sketch;
    rk_open_sketch(&sketch, memory, places);
    plain on = {.places = places};
    bool places_agree = true, all_agree = true;
    for (int step = 0; step < STEPS / 20; step++) {
        uint64_t key = random_below(&seed, keys), fingerprint = fingerprint_of(random_below(&seed, 1 + key));
        if (clash)
            fingerprint = fingerprint << 32 | (fingerprint & 1 ? 0 : sketch.mask);
        places_agree &= rk_count_key(&sketch, fingerprint) == plain_count(&on, fingerprint);
        all_agree &= step % 50 || same(&sketch, &on);
        if (random_below(&seed, 2000) == 0) {
            rk_clear_sketch(&sketch);
            on = (plain){.places = places};
        }
    }
    CHECK(places_agree);
    CHECK(all_agree && same(&sketch, &on));
    free(memory);
}

static void each_key_has_the_place_and_the_count_that_a_search_gives_it(void)
{
    for (size_t places = 1; places <= MOST_PLACES; places += 3)
        compare(places, 1 + places * 4, false, places);
}

static void fingerprints_that_meet_in_one_cell_are_told_apart(void)
{
    for (size_t places = 1; places <= MOST_PLACES; places += 3)
        compare(places, 1 + places * 4, true, 77 + places);
}

static void a_count_is_never_too_low_and_too_high_by_its_error_at_most(void)
{
    enum { PLACES = 16 };
    void *memory = malloc(rk_sketch_bytes(PLACES));
    if (!memory)
        abort();
    rk_sketch sketch;
    rk_open_sketch(&sketch, memory, PLACES);
    int64_t exact[MOST_KEYS] = {0}, floor = INT64_MAX, sum = 0;
    uint64_t random = 11;
    for (int step = 0; step < STEPS; step++) {
        uint64_t key = random_below(&random, 1 + random_below(&random, MOST_KEYS));
        exact[key]++;
        rk_count_key(&sketch, fingerprint_of(key));
    }
    for (size_t i = 0; i < sketch.used; i++) {
        floor = sketch.hitters[i].count < floor ? sketch.hitters[i].count : floor;
        sum += sketch.hitters[i].count;
    }
    bool bounds = true;
    for (uint64_t key = 0; key < MOST_KEYS; key++) {
        const rk_hitter *hitter = rk_find_hitter(&sketch, fingerprint_of(key));
        bounds &= hitter ? hitter->count - hitter->error <= exact[key] && exact[key] <= hitter->count
                         : exact[key] <= floor;
    }
    CHECK(bounds);
    CHECK(sum == STEPS && floor <= STEPS / PLACES);
    free(memory);
}

void claims_about_sketches(void)
{
    CLAIM(each_key_has_the_place_and_the_count_that_a_search_gives_it);
    CLAIM(fingerprints_that_meet_in_one_cell_are_told_apart);
    CLAIM(a_count_is_never_too_low_and_too_high_by_its_error_at_most);
}
