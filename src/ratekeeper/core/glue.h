/* Declarations that the Python types of the C core share. Python.h begins here; cells.h and charge.h never see it. */
#ifndef RATEKEEPER_GLUE_H
#define RATEKEEPER_GLUE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <structmember.h>

#include "charge.h"

#define RK_TICKS_PER_NS 16
#define RK_TICKS_PER_SECOND (INT64_C(1000000000) * RK_TICKS_PER_NS)
enum { RK_MANY = 64 }; /* the most limits that a limiter may have */
#define RK_MAX_AHEAD (((int64_t)1 << 62) - 1)

enum { RK_NOT_HELD = -1, RK_TYPES = 7 };

typedef struct {
    union {
        struct {
            PyTypeObject *decision, *table, *gate, *matcher, *policy_gate, *policy_decision;
            PyTypeObject *rule_decision; /* ratekeeper.decision.RuleDecision */
        };
        PyTypeObject *types[RK_TYPES];
    };
    int64_t held;  /* what the system's clock tells, in ticks, or RK_NOT_HELD: see SystemClock in clock.py */
    int64_t ahead; /* ticks that it is ahead of the machine's clock */
    uint64_t policies; /* the policies that have been bound to tables: each has its number */
} rk_module;

typedef struct {
    PyObject_HEAD
    rk_table table;
    Py_buffer shared; /* the memory, if it was given; or its `obj` is NULL */
    size_t mapped;    /* bytes of private memory */
    PyObject *clock;  /* a callable that returns ticks, or NULL for the system's clock */
    rk_clock later;   /* the same for the table */
    rk_module *module;
} rk_table_object;

extern PyType_Spec rk_decision_spec, rk_table_spec, rk_gate_spec;

/* module.c: makes a type and adds it to the module; NULL with a Python error set */
PyTypeObject *rk_add_type(PyObject *module, PyType_Spec *spec, PyObject *base);

/* decision_object.c */
PyTypeObject *rk_add_decision_type(PyObject *module, PyTypeObject *base);
PyObject *rk_make_decision(rk_module *module, PyObject *limit, PyObject *key, int64_t cost, const rk_answer *answer,
                           bool charged);
bool rk_is_allowed(PyObject *decision);

/* arguments.c: each returns false with a Python error set */
typedef struct {
    const char *bytes;
    Py_ssize_t length;
    PyObject *owner; /* to be released when the bytes are no longer needed, or NULL */
} rk_text;
bool rk_read_key(PyObject *key, rk_text *text);
bool rk_read_cost(PyObject *cost, int64_t *value);
bool rk_read_ticks(PyObject *number, int64_t *ticks);
bool rk_read_wait(PyObject *timeout, int64_t *ticks);
bool rk_read_int64_attribute(PyObject *object, const char *name, int64_t *value);

/* A limit's integers, and the terms of a demand on it: see Limit.terms in limits.py. */
typedef struct {
    int64_t interval, full, max_cost;
    int64_t second, parts; /* `parts` seconds are `second` ticks: Limit._exact_second; 0 if they do not fit */
    bool queues; /* a leaky bucket: no burst, its callers wait their turn */
} rk_limit;
bool rk_read_limit(PyObject *limit, rk_limit *value);
void rk_set_terms(const rk_limit *limit, int64_t cost, int64_t wait, rk_demand *demand); /* `wait` in ticks */

/* Reads the arguments of a verb, by position or by name. By hand: the general parser takes as long as a decision. */
bool rk_read_arguments(const char *verb, PyObject *const *args, Py_ssize_t count, PyObject *keywords,
                       const char *const *names, int max_args, PyObject **given);

/* A key's bytes as a string, also of lone surrogates. */
PyObject *rk_text_of(const char *bytes, size_t length);

/* The name of a value's type, as Python code has it. */
const char *rk_type_name(PyObject *value);

/* The arguments that all verbs share. */
typedef struct {
    PyObject *key;
    int64_t cost;
    PyObject *timeout; /* or NULL */
} rk_request;
bool rk_read_request(const char *verb, PyObject *const *args, Py_ssize_t count, PyObject *keywords, int max_args,
                     rk_request *request);

/* clock.c */
bool rk_read_clock(rk_table_object *self, int64_t *now);
int64_t rk_later(void *table_object); /* reads an rk_clock; on error it leaves a Python error set */
PyObject *rk_make_closed_clock(void);

/* gate_object.c */
PyObject *rk_make_gate(rk_table_object *table, PyObject *scopes, PyObject *limits, PyObject *wait);

#endif
