/* Many keys in one call: while one key is charged, the memory of the next ones is on its way. */
#include "gate.h"

/* How many keys ahead memory is fetched: enough of them are under way at a time to hide its latency. */
enum { OBJECTS_AHEAD = 16, LINES_AHEAD = 8 };

/* The fingerprints of all keys, key by key, to be freed by the caller. NULL with a Python error set. All keys are read
 * before any is charged, so that a bad one charges nothing. The error of a lone surrogate is an object of the garbage
 * collector, which may run the user's finalizers: so `keys` must not be a list that they can change. */
static uint64_t *read_keys(rk_gate_object *self, PyObject *const *keys, Py_ssize_t count)
{
    uint64_t *fingerprints = PyMem_New(uint64_t, (size_t)count * (size_t)Py_SIZE(self) + 1);
    if (!fingerprints)
        return PyErr_NoMemory(), NULL;
    uint64_t *next = fingerprints;
    if (rk_was_reset(&self->table->table, self->resets_seen))
        rk_renew_gate(self);
    for (Py_ssize_t k = 0; k < count; k++) {
        rk_text text;
        if (k + OBJECTS_AHEAD < count)
            __builtin_prefetch(keys[k + OBJECTS_AHEAD]);
        if (!rk_read_key(keys[k], &text)) {
            PyMem_Free(fingerprints);
            return NULL;
        }
        for (Py_ssize_t i = 0; i < Py_SIZE(self); i++)
            *next++ = rk_fingerprint(self->limits[i].scope.key, text.bytes, (size_t)text.length);
        Py_XDECREF(text.owner);
    }
    return fingerprints;
}

/* Fill `answers` with a bool for each key, in order. False with a Python error set. */
static bool charge_keys(rk_gate_object *self, const uint64_t *fingerprints, int64_t cost, int64_t now, PyObject *answers)
{
    rk_table_object *table = self->table;
    rk_demand demands[RK_MANY];
    Py_ssize_t limits = Py_SIZE(self), all = PyList_GET_SIZE(answers) * limits;
    for (Py_ssize_t i = 0; i < limits; i++)
        rk_set_terms(&self->limits[i].is, cost, 0, &demands[i]);
    for (Py_ssize_t i = 0; i < all && i < LINES_AHEAD; i++)
        rk_prefetch(&table->table, fingerprints[i]);
    for (Py_ssize_t at = 0; at < all; at += limits) {
        for (Py_ssize_t i = 0; i < limits; i++) {
            demands[i].fingerprint = fingerprints[at + i];
            if (at + i + LINES_AHEAD < all)
                rk_prefetch(&table->table, fingerprints[at + i + LINES_AHEAD]);
        }
        bool allowed = rk_charge_all(&table->table, demands, (size_t)limits, now, true, &table->later);
        if (table->clock && PyErr_Occurred())
            return false;
        PyList_SET_ITEM(answers, at / limits, Py_NewRef(allowed ? Py_True : Py_False));
    }
    return true;
}

/* Many keys at one instant: one clock reading, and booleans instead of decisions. */
PyObject *rk_try_acquire_many(rk_gate_object *self, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"keys", "cost", NULL};
    PyObject *given, *given_cost = NULL, *answers = NULL;
    int64_t cost = 1, now;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "O|O", names, &given, &given_cost) ||
        (given_cost && !rk_read_cost(given_cost, &cost)))
        return NULL;
    if (PyUnicode_Check(given) || PyBytes_Check(given))
        return PyErr_Format(PyExc_TypeError, "keys must be a sequence of keys, not one key");
    PyObject *keys = PySequence_Tuple(given); /* a copy, which nobody can change meanwhile */
    if (!keys)
        return NULL;
    Py_ssize_t count = PyTuple_GET_SIZE(keys);
    uint64_t *fingerprints = read_keys(self, PySequence_Fast_ITEMS(keys), count);
    Py_DECREF(keys);
    if (fingerprints && rk_read_clock(self->table, &now))
        answers = PyList_New(count);
    if (answers && !charge_keys(self, fingerprints, cost, now, answers))
        Py_CLEAR(answers);
    PyMem_Free(fingerprints);
    return answers;
}
