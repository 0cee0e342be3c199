/* The decisions of a policy on a table: see policy_gate_object.c and policy_decision_object.c. */
#ifndef RATEKEEPER_POLICY_H
#define RATEKEEPER_POLICY_H

#include "matcher.h"

/* A rule's answer. `match.cost` is what the request was charged. */
typedef struct {
    rk_match match;
    rk_answer answer;
} rk_rule_answer;

/* policy_decision_object.c */
PyTypeObject *rk_add_policy_decision_type(PyObject *module, PyTypeObject *base);
PyObject *rk_make_policy_decision(rk_module *module, PyObject *of_policy, const rk_found *found,
                                  const rk_rule_answer *answers, bool allowed, bool charged);

/* policy_gate_object.c */
PyObject *rk_make_policy_gate(rk_table_object *table, rk_matcher_object *matcher);

extern PyType_Spec rk_policy_decision_spec, rk_policy_gate_spec;

#endif
