/* The rules that a matcher finds for a request, for the types that use it: see matcher_object.c. */
#ifndef RATEKEEPER_MATCHER_H
#define RATEKEEPER_MATCHER_H

#include "glue.h"

enum { RK_FEW = 16, RK_SHORT = 512 };
enum { RK_SHARED, RK_SKIP, RK_REJECT }; /* the meaning of a missing attribute of the key: MISSING in compiled_rule.py */

/* The fields of policy/patterns.Test, a named tuple. */
enum { TEST_NAME, TEST_SLOT, TEST_ALWAYS, TEST_KNOWN, TEST_GLOB };

/* The fields of policy/program.Program, a named tuple. */
enum { RK_NAMES, RK_HASHED, RK_DIGEST, RK_METHOD, RK_TIER, RK_EXEMPT, RK_RULES, RK_READINGS, RK_PROGRAM_FIELDS };

/* The fields of policy/compiled_rule.CompiledRule, a named tuple. */
enum {
    RULE_NAME, RULE_MESSAGE, RULE_SCOPE, RULE_TESTS, RULE_SLOTS, RULE_MISSING, RULE_OVERRIDES, RULE_LIMITS, RULE_COST,
    RULE_FIXED, RULE_COST_OF, RULE_SHADOW, RULE_WAIT, RULE_KNOWN
};

typedef struct {
    PyObject_HEAD
    PyObject *program; /* policy/program.Program */
    PyObject *rules;   /* its rules; borrowed */
} rk_matcher_object;

/* A rule that charges the request. */
typedef struct {
    Py_ssize_t rule, limit; /* its place; that of its limit, -1 for the rule's own */
    int64_t cost;           /* the rule's own */
    size_t begin, end;      /* of its bucket's key in the bytes */
} rk_match;

typedef struct {
    int64_t cost;      /* the request's: each rule's own, times this; its finder sets it */
    PyObject **values; /* of each slot, or NULL */
    Py_ssize_t slots;
    rk_match *matches;
    Py_ssize_t count;
    char *bytes; /* the keys of the buckets, one after the other */
    size_t length, room;
    PyObject *missing; /* the attribute that refuses the request, or NULL; borrowed */
    PyObject *few_values[RK_FEW];
    rk_match few_matches[RK_FEW];
    char short_bytes[RK_SHORT];
} rk_found;

/* patterns.c: the program's tests. Each returns 1 for yes, 0 for no, -1 with a Python error set. */

/* Whether each test accepts a reading of its attribute, or all readings if `each`. A missing attribute matches nothing. */
int rk_fit(const rk_matcher_object *self, PyObject *tests, PyObject *const *values, bool each);

int rk_accepts(PyObject *test, PyObject *value);

/* A new reference to the tuple of all readings of a value that has several. */
PyObject *rk_readings_of(PyObject *value);

int rk_is_exempt(const rk_matcher_object *self, PyObject *exempt, PyObject *const *values);

/* Set `*place`, RK_NONE_YET at first, to the override that counts, -1 if none does: of all readings, the strictest. `k`
 * is the first of the overrides' attributes whose readings are still to be chosen: 0. */
enum { RK_NONE_YET = -2 };
int rk_find_override(const rk_matcher_object *self, PyObject *overrides, PyObject **values, Py_ssize_t k,
                     Py_ssize_t *place);

static inline Py_ssize_t rk_number_at(PyObject *tuple, Py_ssize_t place)
{
    return PyLong_AsSsize_t(RK_AT(tuple, place));
}

static inline bool rk_has_readings(const rk_matcher_object *self, PyObject *value)
{
    return value && (PyObject *)Py_TYPE(value) == RK_AT(self->program, RK_READINGS);
}

/* buckets.c: each returns false, or NULL, with a Python error set. */

/* Append the key of a rule's bucket to the bytes: for each attribute its length and its value. */
bool rk_append_bucket(const rk_matcher_object *self, PyObject *rule, rk_found *found);

/* Whether a test's slot is a slot itself, or that of its digest: those come after the names. */
bool rk_is_slot_of(const rk_matcher_object *self, Py_ssize_t tested, Py_ssize_t slot);

/* The value of a slot, which is there, as a key takes it: of several readings, the first that the test of the slot, or of
 * its digest, accepts. A new reference. */
PyObject *rk_keyed_value(const rk_matcher_object *self, PyObject *tests, Py_ssize_t slot, PyObject *const *values);

/* The tokens of a rule's own cost. A cost that does not fit 64 bits is as good as infinite. */
bool rk_read_own_cost(PyObject *rule, PyObject *const *values, int64_t *cost);

/* matcher_object.c */

/* Find what charges a request. False with a Python error set. The caller releases what was found, whatever it returns. */
bool rk_find_rules(const rk_matcher_object *self, PyObject *attributes, rk_found *found);

/* Its two first parts: have room for all that may be found, and read the value of each slot. */
bool rk_open_found(const rk_matcher_object *self, rk_found *found);
bool rk_read_values(const rk_matcher_object *self, PyObject *attributes, rk_found *found);
void rk_release_found(rk_found *found);

extern PyType_Spec rk_matcher_spec;

#endif
