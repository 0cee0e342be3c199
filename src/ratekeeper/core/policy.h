/* The decisions of a policy on a table: see policy_gate_object.c and policy_decision_object.c. */
#ifndef RATEKEEPER_POLICY_H
#define RATEKEEPER_POLICY_H

#include "matcher.h"

/* A rule's answer. `match.cost` is what the request was charged. */
typedef struct {
    rk_match match;
    rk_answer answer;
    rk_limit limit;
    bool shadow;
} rk_rule_answer;

/* policy_decision_object.c */
PyTypeObject *rk_add_policy_decision_type(PyObject *module, PyTypeObject *base);

/* The policy of a decision: its compiled rules, and its number in this interpreter. */
typedef struct {
    PyObject *rules;
    uint64_t number;
} rk_policy;

PyObject *rk_make_policy_decision(rk_module *module, rk_policy policy, const rk_found *found,
                                  const rk_rule_answer *answers, bool allowed, bool charged);

/* policy_gate_object.c */
PyObject *rk_make_policy_gate(rk_table_object *table, rk_matcher_object *matcher);

extern PyType_Spec rk_policy_decision_spec, rk_policy_gate_spec;

#endif
