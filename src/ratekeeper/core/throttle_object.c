/* Throttle: a gate of one limit that answers CL.THROTTLE as bytes, and counts. The twin is `Throttles` in
 * service/resp/throttle.py, which is the definition.
 */
#include <string.h>

#include "gate.h"

enum { LONGEST_HEAD = 64, DIGITS = 20, OUTCOMES = 3 };

typedef struct {
    PyObject_HEAD
    rk_gate_object *gate;
    int64_t cost;
    PyObject *heads[2]; /* the beginning of an answer that allows, and of one that refuses: bytes */
    PyObject *counts;
    PyObject *places[OUTCOMES]; /* the counts of an answer: it allows, it allows and the limit is nearly used, it refuses */
} rk_throttle_object;

static char *put(char *next, const char *bytes, size_t length)
{
    memcpy(next, bytes, length);
    return next + length;
}

static PyObject *write_answer(const rk_throttle_object *self, const rk_answer *answer)
{
    const rk_limit *limit = &self->gate->limits[0].is;
    PyObject *head = self->heads[!answer->allowed];
    char bytes[LONGEST_HEAD + 3 * DIGITS + 16], *next = bytes;
    next = put(next, PyBytes_AS_STRING(head), (size_t)PyBytes_GET_SIZE(head));
    next = rk_put_number(next, rk_tokens_left(limit, answer->debt));
    next = put(next, "\r\n:", 3);
    if (answer->allowed || answer->retry_after == INT64_MAX)
        next = put(next, "-1", 2);
    else
        next = rk_put_number(next, rk_whole_seconds(limit, answer->retry_after));
    next = put(next, "\r\n:", 3);
    next = rk_put_number(next, rk_whole_seconds(limit, answer->debt));
    next = put(next, "\r\n", 2);
    return PyBytes_FromStringAndSize(bytes, next - bytes);
}

static PyObject *throttle_answer(rk_throttle_object *self, PyObject *key)
{
    rk_request request = {key, self->cost, NULL};
    PyObject *decision = rk_ask_gate(self->gate, &request, 0);
    if (!decision)
        return NULL;
    rk_answer answer = rk_answer_of(decision);
    Py_DECREF(decision);
    bool nearly_used = answer.debt > self->gate->limits[0].is.full / 5 * 4;
    if (!rk_add_counts(self->counts, self->places[!answer.allowed ? 2 : nearly_used]))
        return NULL;
    return write_answer(self, &answer);
}

PyObject *rk_make_throttle(rk_gate_object *gate, PyObject *args)
{
    rk_module *module = gate->table->module;
    PyObject *cost, *both, *all, *heads[2], *counts, *places[OUTCOMES];
    int64_t whole;
    /* Tuples, which keep what they have. "(SS)" alone takes any sequence, also one that makes its items when asked. */
    if (!PyArg_ParseTuple(args, "OO!O!O!", &cost, &PyTuple_Type, &both, module->counts, &counts, &PyTuple_Type, &all) ||
        !PyArg_ParseTuple(both, "SS", &heads[0], &heads[1]) ||
        !PyArg_ParseTuple(all, "OOO", &places[0], &places[1], &places[2]) || !rk_read_cost(cost, &whole))
        return NULL;
    if (Py_SIZE(gate) != 1 || PyBytes_GET_SIZE(heads[0]) > LONGEST_HEAD || PyBytes_GET_SIZE(heads[1]) > LONGEST_HEAD)
        return PyErr_SetString(PyExc_ValueError, "a throttle has one limit, and short heads"), NULL;
    if (!gate->limits[0].is.second)
        Py_RETURN_NONE;
    rk_throttle_object *self = (rk_throttle_object *)module->throttle->tp_alloc(module->throttle, 0);
    if (!self)
        return NULL;
    self->gate = (rk_gate_object *)Py_NewRef((PyObject *)gate);
    self->cost = whole;
    self->counts = Py_NewRef(counts);
    for (int i = 0; i < 2; i++)
        self->heads[i] = Py_NewRef(heads[i]);
    for (int i = 0; i < OUTCOMES; i++)
        self->places[i] = Py_NewRef(places[i]);
    return (PyObject *)self;
}

static int throttle_traverse(rk_throttle_object *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->gate);
    Py_VISIT(self->counts);
    for (int i = 0; i < OUTCOMES; i++)
        Py_VISIT(self->places[i]);
    return 0;
}

/* No tp_clear: as a Gate, it must keep what it asks. */
static void throttle_dealloc(rk_throttle_object *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    Py_XDECREF(self->gate);
    Py_XDECREF(self->counts);
    for (int i = 0; i < 2; i++)
        Py_XDECREF(self->heads[i]);
    for (int i = 0; i < OUTCOMES; i++)
        Py_XDECREF(self->places[i]);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyMethodDef throttle_methods[] = {
    {"answer", (PyCFunction)throttle_answer, METH_O,
     "answer($self, key, /)\n--\n\nDecide for a key and count. Returns the five integers of CL.THROTTLE, as bytes."},
    {NULL},
};

static PyType_Slot throttle_slots[] = {
    {Py_tp_doc, "A limit and a cost that answer CL.THROTTLE."},
    {Py_tp_dealloc, throttle_dealloc},
    {Py_tp_traverse, throttle_traverse},
    {Py_tp_methods, throttle_methods},
    {0, NULL},
};

PyType_Spec rk_throttle_spec = {
    .name = "ratekeeper.core._table.Throttle",
    .basicsize = sizeof(rk_throttle_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = throttle_slots,
};
