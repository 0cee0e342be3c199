/* The gate, for the files that decide with it. */
#ifndef RATEKEEPER_GATE_H
#define RATEKEEPER_GATE_H

#include "glue.h"

typedef struct {
    PyObject *limit;
    rk_scope scope;
    rk_limit is;
} rk_gate_limit;

typedef struct {
    PyObject_VAR_HEAD
    rk_table_object *table;
    uint64_t resets_seen;
    PyObject *wait; /* acquire calls it when the caller's turn has not come */
    rk_gate_limit limits[];
} rk_gate_object;

/* gate_object.c */
void rk_renew_gate(rk_gate_object *self);
PyObject *rk_ask_gate(rk_gate_object *self, const rk_request *request, int64_t wait);

/* gate_many.c */
PyObject *rk_try_acquire_many(rk_gate_object *self, PyObject *args, PyObject *keywords);

/* throttle_object.c: (cost, heads, counts, places); None if the limit's own rate does not fit 64 bits */
PyObject *rk_make_throttle(rk_gate_object *gate, PyObject *args);
extern PyType_Spec rk_throttle_spec;

/* envoy_answer.c: as rk_fill_envoy_answer, for a decision of a gate of one limit */
PyObject *rk_gate_fill_envoy_answer(rk_gate_object *gate, PyObject *const *args, Py_ssize_t count);

/* pending_object.c: the answer to try_acquire, or acquire if it `waits`, once it is awaited */
PyObject *rk_make_pending(rk_gate_object *gate, bool waits, PyObject *const given[3]);

#endif
