/* NativeDecision: where the C core keeps a decision's numbers. All else it inherits from ratekeeper.decision.Decision.
 *
 * A class in Python is collected by the garbage collector, and so are its subclasses. A decision refers only to a limit
 * and a key, which refer to nothing, so it is allocated as collectable but never tracked: that costs the least. (A key
 * of a subclass of str that holds its own decision would not be collected.)
 */
#include <string.h>

#include "glue.h"

enum { PYTHON_SLOTS = 2 };

typedef struct {
    PyObject_HEAD
    PyObject *slots[PYTHON_SLOTS]; /* the base's, which a decision made in Python fills: empty here */
    rk_module *module; /* lives as long as the type */
    PyObject *limit, *key;
    int64_t cost, debt, delay, retry_after, at, refunded;
    char allowed;
} rk_decision_object;

/* The type, with `base` for its base: the Python class, whose layout this one extends. NULL with a Python error set. */
PyTypeObject *rk_add_decision_type(PyObject *module, PyTypeObject *base)
{
    if (base->tp_basicsize != offsetof(rk_decision_object, module))
        return PyErr_SetString(PyExc_ImportError, "the C core was built for another ratekeeper: reinstall it"), NULL;
    PyTypeObject *type = rk_add_type(module, &rk_decision_spec, (PyObject *)base);
    PyObject *nodes = PyLong_FromLong(1);
    /* The store decided, not a fallback for it. */
    if (type && (!nodes || PyObject_SetAttrString((PyObject *)type, "on_error", Py_None) < 0 ||
                 PyObject_SetAttrString((PyObject *)type, "nodes", nodes) < 0))
        Py_CLEAR(type);
    Py_XDECREF(nodes);
    return type;
}

PyObject *rk_make_decision(rk_module *module, PyObject *limit, PyObject *key, int64_t cost, const rk_answer *answer,
                           bool charged)
{
    rk_decision_object *self = rk_take_spare(&module->spares.decision, module->decision);
    if (!self)
        return NULL;
    self->module = module;
    memset(self->slots, 0, sizeof self->slots);
    self->limit = Py_NewRef(limit);
    self->key = Py_NewRef(key);
    self->cost = cost;
    self->debt = answer->debt;
    self->delay = answer->delay;
    self->retry_after = answer->retry_after;
    self->at = answer->at;
    self->refunded = charged ? 0 : -1;
    self->allowed = answer->allowed;
    return (PyObject *)self;
}

bool rk_is_allowed(PyObject *decision)
{
    return ((rk_decision_object *)decision)->allowed;
}

rk_answer rk_answer_of(PyObject *decision)
{
    const rk_decision_object *self = (rk_decision_object *)decision;
    return (rk_answer){
        .allowed = self->allowed, .debt = self->debt, .delay = self->delay, .retry_after = self->retry_after,
        .at = self->at,
    };
}

static void decision_dealloc(rk_decision_object *self)
{
    Py_DECREF(self->limit);
    Py_DECREF(self->key); /* may run any code, if it is of a subclass of str: so the spare is looked at afterwards */
    rk_keep_spare(&self->module->spares.decision, (PyObject *)self);
}

static int decision_traverse(rk_decision_object *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->limit);
    Py_VISIT(self->key);
    return 0;
}

static int decision_bool(rk_decision_object *self)
{
    return self->allowed;
}

static PyMemberDef decision_members[] = {
    {"allowed", T_BOOL, offsetof(rk_decision_object, allowed), READONLY, NULL},
    {"limit", T_OBJECT_EX, offsetof(rk_decision_object, limit), READONLY, NULL},
    {"key", T_OBJECT_EX, offsetof(rk_decision_object, key), READONLY, NULL},
    {"cost", T_LONGLONG, offsetof(rk_decision_object, cost), READONLY, NULL},
    {"debt_ticks", T_LONGLONG, offsetof(rk_decision_object, debt), READONLY, NULL},
    {"delay_ticks", T_LONGLONG, offsetof(rk_decision_object, delay), READONLY, NULL},
    {"retry_ticks", T_LONGLONG, offsetof(rk_decision_object, retry_after), READONLY, NULL},
    {"at_ticks", T_LONGLONG, offsetof(rk_decision_object, at), READONLY, NULL},
    {"_refunded", T_LONGLONG, offsetof(rk_decision_object, refunded), 0, NULL},
    {NULL},
};

static PyType_Slot decision_slots[] = {
    {Py_tp_doc, "A decision made by the C core."},
    {Py_tp_dealloc, decision_dealloc},
    {Py_tp_traverse, decision_traverse},
    {Py_tp_members, decision_members},
    {Py_nb_bool, decision_bool},
    {0, NULL},
};

PyType_Spec rk_decision_spec = {
    .name = "ratekeeper.core._table.NativeDecision",
    .basicsize = sizeof(rk_decision_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = decision_slots,
};
