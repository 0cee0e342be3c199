/* Declarations that the Python types of the C core share. Python.h begins here; cells.h and charge.h never see it. */
#ifndef RATEKEEPER_GLUE_H
#define RATEKEEPER_GLUE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <structmember.h>

#include "charge.h"
#include "resets.h"

#define RK_AT PyTuple_GET_ITEM
#define RK_TICKS_PER_NS 16
#define RK_TICKS_PER_SECOND (INT64_C(1000000000) * RK_TICKS_PER_NS)
enum { RK_MANY = 64 }; /* the most limits that a limiter may have */
#define RK_MAX_AHEAD (((int64_t)1 << 62) - 1)

enum { RK_NOT_HELD = -1, RK_TYPES = 16, RK_SPARES = 3 };

/* A place for one dead object of a type, kept for the next: most objects die before the next is made. It keeps its
 * reference to its type, and no other. The interpreter's lock guards the place: each interpreter has its own module.
 *
 * Only an object that the garbage collector never saw may look for its module when it dies. Its references keep the module
 * alive, as the collector cannot take them away. */
typedef struct {
    PyObject *dead;
    bool closed; /* the module is going: keep nothing more */
} rk_spare;

typedef struct {
    union {
        struct {
            PyTypeObject *decision, *table, *gate, *matcher, *policy_gate, *policy_decision;
            PyTypeObject *rule_decision; /* ratekeeper.decision.RuleDecision */
            PyTypeObject *pending, *stop, *known_limits, *counts, *recorder, *sketch, *line_reader, *head, *throttle;
        };
        PyTypeObject *types[RK_TYPES];
    };
    int64_t held;  /* what the system's clock tells, in ticks, or RK_NOT_HELD: see SystemClock in clock.py */
    int64_t ahead; /* ticks that it is ahead of the machine's clock */
    uint64_t policies; /* the policies that have been bound to tables: each has its number */
    union {
        struct {
            rk_spare decision, pending, stop;
        };
        rk_spare places[RK_SPARES];
    } spares;
} rk_module;

typedef struct {
    PyObject_HEAD
    rk_table table;
    uint64_t resets_seen; /* how far the log of resets has been read */
    Py_buffer shared; /* the memory, if it was given; or its `obj` is NULL */
    size_t mapped;    /* bytes of private memory */
    PyObject *clock;  /* a callable that returns ticks, or NULL for the system's clock */
    rk_clock later;   /* the same for the table */
    rk_module *module;
} rk_table_object;

extern PyType_Spec rk_decision_spec, rk_table_spec, rk_gate_spec, rk_counts_spec;

/* module.c: makes a type and adds it to the module; NULL with a Python error set */
PyTypeObject *rk_add_type(PyObject *module, PyType_Spec *spec, PyObject *base);

/* decision_object.c */
PyTypeObject *rk_add_decision_type(PyObject *module, PyTypeObject *base);
PyObject *rk_make_decision(rk_module *module, PyObject *limit, PyObject *key, int64_t cost, const rk_answer *answer,
                           bool charged);
bool rk_is_allowed(PyObject *decision);
rk_answer rk_answer_of(PyObject *decision);

static inline void rk_free_dead(PyObject *dead)
{
    PyTypeObject *type = Py_TYPE(dead);
    PyObject_GC_Del(dead);
    Py_DECREF(type);
}

/* Return the dead object or a new one. Its fields are as they are, also if it is new. NULL with a Python error set. */
static inline void *rk_take_spare(rk_spare *spare, PyTypeObject *type)
{
    PyObject *taken = spare->dead;
    if (!taken)
        return PyObject_GC_New(PyObject, type);
    spare->dead = NULL;
#if defined(Py_REF_DEBUG) || defined(Py_TRACE_REFS)
    _Py_NewReference(taken);
#else
    Py_SET_REFCNT(taken, 1);
#endif
    return taken;
}

/* End a dealloc, when all fields are released. */
static inline void rk_keep_spare(rk_spare *spare, PyObject *dead)
{
    if (spare->dead || spare->closed)
        rk_free_dead(dead);
    else
        spare->dead = dead;
}

/* arguments.c: each returns false with a Python error set */
typedef struct {
    const char *bytes;
    Py_ssize_t length;
    PyObject *owner; /* to be released when the bytes are no longer needed, or NULL */
} rk_text;
bool rk_read_other_key(PyObject *key, rk_text *text);

/* Nearly all keys are ASCII strings, whose bytes are at hand. */
static inline bool rk_read_key(PyObject *key, rk_text *text)
{
    if (!PyUnicode_Check(key) || !PyUnicode_IS_COMPACT_ASCII(key))
        return rk_read_other_key(key, text);
    *text = (rk_text){PyUnicode_DATA(key), PyUnicode_GET_LENGTH(key), NULL};
    return true;
}
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

static inline int64_t rk_tokens_left(const rk_limit *limit, int64_t debt)
{
    int64_t left = limit->full - debt;
    return left > 0 ? left / limit->interval : 0;
}

/* As Limit.whole_seconds. The limit's `second` is not 0. */
static inline int64_t rk_whole_seconds(const rk_limit *limit, rk_wide ticks)
{
    return (int64_t)((ticks * limit->parts + limit->second - 1) / limit->second);
}
bool rk_read_limit(PyObject *limit, rk_limit *value);

/* `wait` in ticks */
static inline void rk_set_terms(const rk_limit *limit, int64_t cost, int64_t wait, rk_demand *demand)
{
    demand->shadow = false;
    demand->impossible = cost > limit->max_cost;
    if (demand->impossible)
        return;
    int64_t increment = cost * limit->interval;
    int64_t burst = limit->queues ? increment : limit->full;
    int64_t tolerance = wait < RK_MAX_AHEAD - burst ? burst + wait : RK_MAX_AHEAD;
    if (limit->queues && tolerance > limit->full)
        tolerance = limit->full;
    demand->terms = (rk_terms){increment, burst, tolerance};
}

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
bool rk_read_names(const char *verb, PyObject *const *args, Py_ssize_t count, PyObject *keywords, int max_args,
                   PyObject *given[3]);
bool rk_read_other_request(const char *verb, PyObject *const *args, Py_ssize_t count, PyObject *keywords, int max_args,
                           rk_request *request);

static inline bool rk_read_request(const char *verb, PyObject *const *args, Py_ssize_t count, PyObject *keywords,
                                   int max_args, rk_request *request)
{
    if (count != 1 || keywords)
        return rk_read_other_request(verb, args, count, keywords, max_args, request);
    *request = (rk_request){args[0], 1, NULL};
    return true;
}

/* clock.c */
bool rk_read_clock(rk_table_object *self, int64_t *now);
int64_t rk_later(void *table_object); /* reads an rk_clock; on error it leaves a Python error set */
PyObject *rk_make_closed_clock(void);

/* table_memory.c */
bool rk_take_memory(rk_table_object *self, PyObject *memory, uint64_t lines);

/* counts_object.c: raise the count at a place, or at each place of a tuple, by 1; false with a Python error set */
bool rk_add_counts(PyObject *counts, PyObject *places);

/* states.c: write a number that is not negative, in up to 20 digits; returns the place after it */
char *rk_put_number(char *next, int64_t number);

/* requests.c */
PyObject *rk_read_requests(PyObject *module, PyObject *piece);

/* gate_object.c */
PyObject *rk_make_gate(rk_table_object *table, PyObject *scopes, PyObject *limits, PyObject *wait);

/* pending_object.c, stop_object.c */
PyTypeObject *rk_add_pending_type(PyObject *module);
PyTypeObject *rk_add_stop_type(PyObject *module);
void rk_stop_with(rk_module *module, PyObject *value);

#endif
