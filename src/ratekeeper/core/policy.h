/* The decisions of a policy on a table: see policy_gate_object.c and policy_decision_object.c. */
#ifndef RATEKEEPER_POLICY_H
#define RATEKEEPER_POLICY_H

#include "matcher.h"

enum { RK_MOST_LIMITS = 8 }; /* of one rule, if they are looked up: MOST_LIMITS in policy/lookups/lookup.py */

/* known_limits_object.c */
typedef struct {
    PyObject_VAR_HEAD
    PyObject *limits; /* a tuple; without limits the bucket's requests are denied */
    int64_t stale_at; /* ticks */
    rk_limit numbers[];
} rk_known_limits_object;

/* A rule's answer. `match.cost` is what the request was charged. */
typedef struct {
    rk_match match;
    rk_answer answer;
    rk_limit limit;
    rk_known_limits_object *known; /* the limits that were looked up, or NULL; a decision owns its reference */
    int place;                     /* of the limit among them */
    bool shadow;
} rk_rule_answer;

/* policy_lookups.c: a rule's limits that are looked up, as policy/lookups/cache.py keeps them */
typedef struct {
    PyObject *entries; /* a dict: for each bucket its known limits */
    Py_buffer hits;    /* an int64_t */
    rk_scope scopes[RK_MOST_LIMITS];
} rk_lookup;

/* Set `*bound`, if the rule's limit is looked up. False with a Python error set; `*bound` is to be freed also then. */
bool rk_bind_lookup(const rk_table *table, PyObject *rule, rk_lookup **bound);
void rk_free_lookup(rk_lookup *lookup);

/* Set known[i] to the known limits of each match, a new reference, if they are looked up. `asked` is called for limits
 * that are not known. `places` is room for as many numbers as there are matches. `*now` is the time; if Python was asked
 * meanwhile, RK_NOT_READ. False with a Python error set. */
enum { RK_NOT_READ = -1 };
bool rk_find_limits(rk_table_object *table, const rk_matcher_object *matcher, PyObject *asked,
                    rk_lookup *const *lookups, const rk_found *found, PyObject **known, Py_ssize_t *places, int64_t *now);

/* The answer of a limit that refuses all, which needs no table: as `refused` in policy/decision.py. */
#define RK_REFUSED ((rk_answer){.delay = INT64_MAX, .retry_after = INT64_MAX})

/* policy_decision_object.c */
PyTypeObject *rk_add_policy_decision_type(PyObject *module, PyTypeObject *base);

/* The policy of a decision: its matcher, and its number in this interpreter. */
typedef struct {
    rk_matcher_object *matcher;
    uint64_t number;
} rk_policy;

/* It takes over the values that were found. */
PyObject *rk_make_policy_decision(rk_module *module, rk_policy policy, rk_found *found, const rk_rule_answer *answers,
                                  Py_ssize_t count, bool allowed, bool charged);

/* The parts of a decision that the C core has made. They live as long as the decision. */
typedef struct {
    rk_policy policy;
    int64_t cost;             /* the request's */
    PyObject *const *values;  /* of each slot, as the matcher has read them */
    Py_ssize_t slots;
    const rk_rule_answer *answers;
    Py_ssize_t count;
    const char *keys; /* the bytes of the buckets' keys */
    bool allowed;
} rk_parts;

/* False if it is a decision of another type. */
bool rk_read_parts(const rk_module *module, PyObject *decision, rk_parts *parts);

/* request_facts.c: each returns false or NULL with a Python error set */

/* Find the values of a request and the rules whose tests it passes, whatever became of it. `parts` are those of its
 * decision; or they are NULL, and `asked` is its question. The caller releases what was found, whatever it returns. */
bool rk_find_facts(const rk_matcher_object *matcher, const rk_parts *parts, PyObject *asked, rk_found *found,
                   int *exempt);

/* Whether all of a tuple are places of a matcher's slots. */
bool rk_are_slots(const rk_matcher_object *matcher, PyObject *places);

/* The tokens that an attribute tells, as they are recorded: RK_NO_COST if it is missing, RK_BAD_COST if it tells none.
 * It never fails. */
int64_t rk_told_cost(PyObject *value);

/* The other readings of all values: a new list of slot, reading, slot, reading; None if there are none, as usual. */
PyObject *rk_other_readings(const rk_matcher_object *matcher, const rk_found *found);

/* policy_gate_object.c */
PyObject *rk_make_policy_gate(rk_table_object *table, rk_matcher_object *matcher, PyObject *asked);

extern PyType_Spec rk_policy_decision_spec, rk_policy_gate_spec, rk_known_limits_spec, rk_recorder_spec,
    rk_sketch_spec;

/* states.c: `answers` are those of a decision */

/* The place of the most binding rule; -1 if all rules are in shadow. */
Py_ssize_t rk_most_binding(const rk_rule_answer *answers, Py_ssize_t count);
PyObject *rk_retry_after_seconds(PyObject *decision, const rk_rule_answer *answers, Py_ssize_t count);
PyObject *rk_states(PyObject *decision, const rk_rule_answer *answers, Py_ssize_t count);
PyObject *rk_fill(PyObject *decision, const rk_rule_answer *answers, Py_ssize_t count, PyObject *template, PyObject *most);

/* The most binding rule: its place, its tokens left, and the whole seconds until it is full. */
typedef struct {
    Py_ssize_t place;
    int64_t remaining, reset;
} rk_binding;

/* False if there is none, or if only Python can tell its numbers. */
bool rk_find_binding(const rk_rule_answer *answers, Py_ssize_t count, rk_binding *binding);

/* envoy_answer.c */
PyObject *rk_write_envoy_answer(PyObject *module, PyObject *const *args, Py_ssize_t count);
PyObject *rk_fill_envoy_answer(PyObject *module, PyObject *const *args, Py_ssize_t count);

#endif
