/* Table: the C table as a Python object: its memory, its clock, and the store's verbs. Glue only. */
#include <sys/mman.h>

#include "policy.h"

/* The fields of ratekeeper.decision.Charge, a named tuple. */
enum { SCOPE, KEY, LIMIT, COST, INCREMENT, BURST, TOLERANCE, SHADOW, ON_ERROR, CHARGE_FIELDS };

static bool bucket_of(rk_table_object *self, PyObject *scope, PyObject *key, uint64_t *fingerprint)
{
    Py_ssize_t length;
    const char *name = PyUnicode_AsUTF8AndSize(scope, &length);
    rk_text text;
    if (!name || !rk_read_key(key, &text))
        return false;
    self->resets_seen = rk_read_resets(&self->table, self->resets_seen);
    rk_scope bound = rk_bind_scope(&self->table, name, (size_t)length, self->resets_seen);
    *fingerprint = rk_fingerprint(bound.key, text.bytes, (size_t)text.length);
    Py_XDECREF(text.owner);
    return true;
}

static bool read_charge(rk_table_object *self, PyObject *charge, rk_demand *demand)
{
    int64_t cost, max_cost;
    int overflow;
    if (!PyTuple_Check(charge) || PyTuple_GET_SIZE(charge) != CHARGE_FIELDS) {
        PyErr_SetString(PyExc_TypeError, "charges must be ratekeeper.decision.Charge");
        return false;
    }
    if (!bucket_of(self, PyTuple_GET_ITEM(charge, SCOPE), PyTuple_GET_ITEM(charge, KEY), &demand->fingerprint) ||
        !rk_read_cost(PyTuple_GET_ITEM(charge, COST), &cost) ||
        !rk_read_int64_attribute(PyTuple_GET_ITEM(charge, LIMIT), "max_cost", &max_cost))
        return false;
    demand->shadow = PyObject_IsTrue(PyTuple_GET_ITEM(charge, SHADOW)) == 1;
    demand->terms.increment = PyLong_AsLongLongAndOverflow(PyTuple_GET_ITEM(charge, INCREMENT), &overflow);
    demand->impossible = overflow || cost > max_cost;
    if (demand->impossible || PyErr_Occurred())
        return !PyErr_Occurred();
    return rk_read_ticks(PyTuple_GET_ITEM(charge, BURST), &demand->terms.burst) &&
           rk_read_ticks(PyTuple_GET_ITEM(charge, TOLERANCE), &demand->terms.tolerance);
}

/* Reads a sequence of charges: a tuple of the same, which nobody can change meanwhile, and what each demands of the
 * table. Both are the caller's to release. */
static bool read_charges(rk_table_object *self, PyObject *charges, PyObject **tuple, rk_demand **demands)
{
    *demands = NULL;
    *tuple = PySequence_Tuple(charges);
    if (!*tuple)
        return false;
    Py_ssize_t count = PyTuple_GET_SIZE(*tuple);
    *demands = PyMem_New(rk_demand, count);
    bool read = *demands != NULL;
    if (!read)
        PyErr_NoMemory();
    for (Py_ssize_t i = 0; read && i < count; i++)
        read = read_charge(self, PyTuple_GET_ITEM(*tuple, i), &(*demands)[i]);
    return read;
}

static PyObject *decisions_on(rk_table_object *self, PyObject *tuple, rk_demand *demands, bool charged)
{
    Py_ssize_t count = PyTuple_GET_SIZE(tuple);
    PyObject *decisions = PyList_New(count);
    for (Py_ssize_t i = 0; decisions && i < count; i++) {
        PyObject *charge = PyTuple_GET_ITEM(tuple, i), *decision = NULL;
        int64_t cost;
        if (rk_read_cost(PyTuple_GET_ITEM(charge, COST), &cost))
            decision = rk_make_decision(self->module, PyTuple_GET_ITEM(charge, LIMIT), PyTuple_GET_ITEM(charge, KEY),
                                        cost, &demands[i].answer, charged && demands[i].answer.allowed);
        if (!decision)
            Py_CLEAR(decisions);
        else
            PyList_SET_ITEM(decisions, i, decision);
    }
    return decisions;
}

static PyObject *table_decide(rk_table_object *self, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"charges", "commit", NULL};
    rk_demand *demands = NULL;
    PyObject *charges, *tuple, *decisions = NULL;
    int commit = 1;
    int64_t now;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "O|$p", names, &charges, &commit))
        return NULL;
    if (read_charges(self, charges, &tuple, &demands) && rk_read_clock(self, &now)) {
        size_t count = (size_t)PyTuple_GET_SIZE(tuple);
        bool allowed = rk_charge_all(&self->table, demands, count, now, commit, &self->later);
        if (!PyErr_Occurred())
            decisions = decisions_on(self, tuple, demands, allowed && commit);
    }
    PyMem_Free(demands);
    Py_XDECREF(tuple);
    return decisions;
}

static PyObject *table_refund(rk_table_object *self, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"charges", "at_ticks", NULL};
    rk_demand *demands = NULL;
    PyObject *charges, *tuple, *done = NULL;
    long long at;
    int64_t now;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "OL:refund", names, &charges, &at))
        return NULL;
    if (at < 0)
        return PyErr_Format(PyExc_ValueError, "at_ticks must be 0 or more ticks, not %lld", at);
    if (read_charges(self, charges, &tuple, &demands) && rk_read_clock(self, &now)) {
        for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(tuple); i++)
            if (!demands[i].impossible)
                rk_refund(&self->table, demands[i].fingerprint, at, demands[i].terms, &self->later);
        done = PyErr_Occurred() ? NULL : Py_NewRef(Py_None);
    }
    PyMem_Free(demands);
    Py_XDECREF(tuple);
    return done;
}

static PyObject *table_adjust(rk_table_object *self, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"scope", "key", "back_ticks", "block_ticks", NULL};
    PyObject *scope, *key, *given;
    uint64_t fingerprint;
    long long back;
    int64_t now, block = RK_KEEP;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "UOLO:adjust", names, &scope, &key, &back, &given) ||
        (given != Py_None && !rk_read_ticks(given, &block)) ||
        !bucket_of(self, scope, key, &fingerprint) || !rk_read_clock(self, &now)) /* a closed table's has an error to tell */
        return NULL;
    bool done = rk_adjust(&self->table, fingerprint, now, back, block, &self->later);
    return PyErr_Occurred() ? NULL : PyBool_FromLong(done);
}

static PyObject *table_reset_scope(rk_table_object *self, PyObject *scope)
{
    Py_ssize_t length;
    int64_t now;
    if (!PyUnicode_Check(scope))
        return PyErr_Format(PyExc_TypeError, "a scope must be a str, not %s", rk_type_name(scope));
    const char *name = PyUnicode_AsUTF8AndSize(scope, &length);
    if (!name || !rk_read_clock(self, &now)) /* a closed table's has an error to tell */
        return NULL;
    return PyBool_FromLong(rk_reset_scope(&self->table, rk_bind_scope(&self->table, name, (size_t)length, 0).name));
}

static PyObject *table_rewind(rk_table_object *self, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"scope", "key", "expected_ticks", "tat_ticks", NULL};
    PyObject *scope, *key;
    uint64_t fingerprint;
    long long expected, tat;
    int64_t now;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "UOLL:rewind", names, &scope, &key, &expected, &tat) ||
        !bucket_of(self, scope, key, &fingerprint) || !rk_read_clock(self, &now))
        return NULL;
    return PyBool_FromLong(tat >= 0 && rk_rewind(&self->table, fingerprint, expected, tat));
}

static PyObject *table_stats(rk_table_object *self, PyObject *Py_UNUSED(ignored))
{
    int64_t now;
    if (!rk_read_clock(self, &now))
        return NULL;
    uint64_t live;
    Py_BEGIN_ALLOW_THREADS
    live = rk_live(&self->table, now);
    Py_END_ALLOW_THREADS
    const rk_counters *counters = self->table.counters;
    return Py_BuildValue("KKKK", live, counters->evicted_live, counters->refused_full, counters->retries);
}

/* From now on every verb raises. The memory stays until the last gate is gone: others may be deciding on it. */
static PyObject *table_close(rk_table_object *self, PyObject *Py_UNUSED(ignored))
{
    PyObject *clock = rk_make_closed_clock();
    if (!clock)
        return NULL;
    Py_XSETREF(self->clock, clock);
    Py_RETURN_NONE;
}

static PyObject *table_gate(rk_table_object *self, PyObject *args)
{
    PyObject *scopes, *limits, *wait;
    if (!PyArg_ParseTuple(args, "O!O!O", &PyTuple_Type, &scopes, &PyTuple_Type, &limits, &wait))
        return NULL;
    return rk_make_gate(self, scopes, limits, wait);
}

static PyObject *table_policy_gate(rk_table_object *self, PyObject *args)
{
    PyObject *matcher, *asked;
    if (!PyArg_ParseTuple(args, "O!O", self->module->matcher, &matcher, &asked))
        return NULL;
    return rk_make_policy_gate(self, (rk_matcher_object *)matcher, asked == Py_None ? NULL : asked);
}

static PyObject *table_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"memory", "lines", "deny_when_full", "seed", "clock", NULL};
    unsigned long long lines;
    int deny;
    const char *seed;
    Py_ssize_t seed_length;
    PyObject *memory, *clock;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "OKpy#O", names, &memory, &lines, &deny, &seed, &seed_length, &clock))
        return NULL;
    if (lines < 2 || seed_length != sizeof(rk_key))
        return PyErr_Format(PyExc_ValueError, "a table needs at least 2 lines and 16 bytes of seed");
    rk_table_object *self = (rk_table_object *)type->tp_alloc(type, 0);
    if (!self)
        return NULL;
    if (!rk_take_memory(self, memory, lines)) {
        Py_DECREF(self);
        return NULL;
    }
    self->table.deny_when_full = deny;
    memcpy(&self->table.seed, seed, sizeof(rk_key));
    self->clock = clock == Py_None ? NULL : Py_NewRef(clock);
    self->later = (rk_clock){rk_later, self};
    self->module = PyType_GetModuleState(type);
    return (PyObject *)self;
}

static int table_traverse(rk_table_object *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->clock);
    return 0;
}

static int table_clear(rk_table_object *self)
{
    if (self->clock) /* without one it would read the system's: from now on it has none, and every verb raises */
        Py_XSETREF(self->clock, Py_NewRef(Py_None));
    return 0;
}

static void table_dealloc(rk_table_object *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    Py_XDECREF(self->clock);
    if (self->mapped)
        munmap(self->table.counters, self->mapped);
    PyBuffer_Release(&self->shared); /* does nothing if there is none */
    type->tp_free(self);
    Py_DECREF(type);
}

static PyMethodDef table_methods[] = {
    {"decide", (PyCFunction)(void (*)(void))table_decide, METH_VARARGS | METH_KEYWORDS, NULL},
    {"refund", (PyCFunction)(void (*)(void))table_refund, METH_VARARGS | METH_KEYWORDS, NULL},
    {"adjust", (PyCFunction)(void (*)(void))table_adjust, METH_VARARGS | METH_KEYWORDS, NULL},
    {"reset_scope", (PyCFunction)table_reset_scope, METH_O, NULL},
    {"rewind", (PyCFunction)(void (*)(void))table_rewind, METH_VARARGS | METH_KEYWORDS, NULL},
    {"stats", (PyCFunction)table_stats, METH_NOARGS, NULL},
    {"close", (PyCFunction)table_close, METH_NOARGS, NULL},
    {"gate", (PyCFunction)table_gate, METH_VARARGS, NULL},
    {"policy_gate", (PyCFunction)table_policy_gate, METH_VARARGS, NULL},
    {NULL},
};

static PyType_Slot table_slots[] = {
    {Py_tp_doc, "The table of buckets in C; see _table.pyi."},
    {Py_tp_new, table_new},
    {Py_tp_dealloc, table_dealloc},
    {Py_tp_traverse, table_traverse},
    {Py_tp_clear, table_clear},
    {Py_tp_methods, table_methods},
    {0, NULL},
};

PyType_Spec rk_table_spec = {
    .name = "ratekeeper.core._table.Table",
    .basicsize = sizeof(rk_table_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .slots = table_slots,
};
