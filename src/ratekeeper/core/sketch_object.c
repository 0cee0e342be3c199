/* Sketch: the keys that a policy's rules refuse most, in memory of a fixed size. Its twin is service/live/sketch.py, which
 * has the promises. A key is known by its fingerprint, as in the table, and kept as a string for people.
 */
#include "sketch.h"

#include "policy.h"

enum { SHORT = 64 }; /* the characters of a key that is kept as it is; `cut` is asked about a longer one */
#define MOST_PLACES (INT64_C(1) << 20)

typedef struct {
    PyObject *label, *key; /* text */
} rk_named;

typedef struct {
    PyObject_HEAD
    const rk_module *module;
    rk_sketch sketch;
    rk_named *names; /* of each place */
    rk_key secret;
    uint64_t policy;                 /* the number of the policy whose labels these are; 0 for none */
    PyObject *labels;                /* of each rule, a tuple */
    rk_key *keys;                    /* of each label */
    PyObject *labels_of, *told, *cut; /* callables: see sketch.py */
} rk_sketch_object;

static bool key_of_label(const rk_sketch_object *self, PyObject *label, rk_key *key)
{
    rk_text text;
    if (!rk_read_key(label, &text))
        return false;
    *key = rk_scope_key(self->secret, text.bytes, (size_t)text.length);
    Py_XDECREF(text.owner);
    return true;
}

/* The text of a key, to be kept: a new reference. */
static PyObject *kept_text(const rk_sketch_object *self, const char *bytes, size_t length)
{
    PyObject *text = rk_text_of(bytes, length);
    if (!text || PyUnicode_GET_LENGTH(text) <= SHORT)
        return text;
    PyObject *cut = PyObject_CallOneArg(self->cut, text);
    Py_DECREF(text);
    return cut;
}

/* Give a key without a place the one of the key with the fewest. False with a Python error set. */
RK_COLD static bool count_newcomer(rk_sketch_object *self, PyObject *label, uint64_t fingerprint, const char *bytes,
                                   size_t length)
{
    rk_named named = {.label = Py_NewRef(label)};
    named.key = kept_text(self, bytes, length); /* first: it may fail, or count keys itself */
    if (!named.key) {
        Py_DECREF(label);
        return false;
    }
    rk_named *place = &self->names[rk_count_key(&self->sketch, fingerprint)], old = *place;
    *place = named;
    Py_XDECREF(old.label);
    Py_XDECREF(old.key);
    return true;
}

/* Count a key once. False with a Python error set. */
RK_INLINE bool count_key(rk_sketch_object *self, PyObject *label, rk_key of_label, const char *bytes, size_t length)
{
    uint64_t fingerprint = rk_siphash(of_label, bytes, length);
    rk_hitter *hitter = rk_find_hitter(&self->sketch, fingerprint);
    if (!hitter)
        return count_newcomer(self, label, fingerprint, bytes, length);
    hitter->count++;
    return true;
}

/* Learn the labels of another policy's rules. The caller takes over those before. */
RK_COLD static bool learn_labels(rk_sketch_object *self, PyObject *asked, uint64_t policy, PyObject **before)
{
    PyObject *labels = PyObject_CallOneArg(self->labels_of, asked);
    if (labels && !PyTuple_Check(labels)) {
        PyErr_Format(PyExc_TypeError, "labels are a tuple, not %s", rk_type_name(labels));
        Py_DECREF(labels); /* last: it may free the type, and so its name */
        return false;
    }
    rk_key *keys = labels ? PyMem_New(rk_key, PyTuple_GET_SIZE(labels)) : NULL;
    bool good = keys || (labels && PyErr_NoMemory());
    for (Py_ssize_t i = 0; good && i < PyTuple_GET_SIZE(labels); i++)
        good = key_of_label(self, RK_AT(labels, i), &keys[i]);
    if (!good) {
        Py_XDECREF(labels);
        PyMem_Free(keys);
        return false;
    }
    PyMem_Free(self->keys);
    *before = self->labels;
    self->labels = labels, self->keys = keys, self->policy = policy;
    return true;
}

/* Count the keys of the rules that refuse in a decision of the C core: a rule once, however many limits it has. */
static bool count_parts(rk_sketch_object *self, const rk_parts *parts)
{
    Py_ssize_t counted = -1;
    for (Py_ssize_t i = 0; i < parts->count; i++) {
        const rk_rule_answer *one = &parts->answers[i];
        const rk_match *match = &one->match;
        if (one->answer.allowed || one->shadow || match->rule == counted)
            continue;
        counted = match->rule;
        if (counted >= PyTuple_GET_SIZE(self->labels))
            return PyErr_Format(PyExc_IndexError, "rule %zd has no label", counted), false;
        if (!count_key(self, RK_AT(self->labels, counted), self->keys[counted], parts->keys + match->begin,
                       match->end - match->begin))
            return false;
    }
    return true;
}

RK_COLD static bool add(rk_sketch_object *self, PyObject *label, PyObject *key)
{
    rk_text text;
    rk_key of_label;
    if (!key_of_label(self, label, &of_label) || !rk_read_key(key, &text))
        return false;
    bool counted = count_key(self, label, of_label, text.bytes, (size_t)text.length);
    Py_XDECREF(text.owner);
    return counted;
}

/* Count the keys of another decision: Python tells them, as a list of pairs. */
RK_COLD static bool count_told(rk_sketch_object *self, PyObject *asked, PyObject *decision)
{
    PyObject *args[] = {asked, decision}, *told = PyObject_Vectorcall(self->told, args, 2, NULL);
    bool good = told && PyList_Check(told);
    if (told && !good)
        PyErr_Format(PyExc_TypeError, "keys are told as a list, not %s", rk_type_name(told));
    for (Py_ssize_t i = 0; good && i < PyList_GET_SIZE(told); i++) {
        PyObject *pair = PyList_GET_ITEM(told, i);
        good = PyTuple_Check(pair) && PyTuple_GET_SIZE(pair) == 2 && add(self, RK_AT(pair, 0), RK_AT(pair, 1));
        if (!good && !PyErr_Occurred())
            PyErr_SetString(PyExc_TypeError, "keys are told as pairs of a label and a key");
    }
    Py_XDECREF(told);
    return good;
}

static PyObject *sketch_refused(rk_sketch_object *self, PyObject *const *args, Py_ssize_t count)
{
    rk_parts parts;
    PyObject *before = NULL;
    if (count != 2)
        return PyErr_Format(PyExc_TypeError, "refused() takes a question and a decision"), NULL;
    bool good = !rk_read_parts(self->module, args[1], &parts)
                    ? count_told(self, args[0], args[1])
                    : (parts.policy.number == self->policy ||
                       learn_labels(self, args[0], parts.policy.number, &before)) &&
                          count_parts(self, &parts);
    Py_XDECREF(before); /* last: it may run Python code, which may count keys itself */
    return good ? Py_NewRef(Py_None) : NULL;
}

static PyObject *sketch_add(rk_sketch_object *self, PyObject *const *args, Py_ssize_t count)
{
    if (count != 2)
        return PyErr_Format(PyExc_TypeError, "add() takes a label and a key"), NULL;
    if (!add(self, args[0], args[1]))
        return NULL;
    Py_RETURN_NONE;
}

/* A new tuple may let the interpreter run other code, which may count keys or forget them. */
static PyObject *sketch_entries(rk_sketch_object *self, PyObject *Py_UNUSED(none))
{
    PyObject *entries = PyList_New(0);
    for (size_t i = 0; entries && i < self->sketch.used; i++) {
        const rk_hitter *hitter = &self->sketch.hitters[i];
        const rk_named *named = &self->names[i];
        PyObject *entry = Py_BuildValue("NNLL", Py_NewRef(named->label), Py_NewRef(named->key),
                                        (long long)hitter->count, (long long)hitter->error);
        if (!entry || PyList_Append(entries, entry) < 0)
            Py_CLEAR(entries);
        Py_XDECREF(entry);
    }
    return entries;
}

static rk_named *make_names(size_t places)
{
    return PyMem_Calloc(places, sizeof(rk_named));
}

/* Release names that the sketch does not have any more: that may run Python code, which may count keys itself. */
static void free_names(rk_named *names, size_t places)
{
    for (size_t i = 0; names && i < places; i++) {
        Py_XDECREF(names[i].label);
        Py_XDECREF(names[i].key);
    }
    PyMem_Free(names);
}

static PyObject *sketch_clear(rk_sketch_object *self, PyObject *Py_UNUSED(none))
{
    rk_named *before = self->names, *names = make_names(self->sketch.places);
    if (!names)
        return PyErr_NoMemory();
    rk_clear_sketch(&self->sketch);
    self->names = names;
    free_names(before, self->sketch.places);
    Py_RETURN_NONE;
}

static PyObject *sketch_new(PyTypeObject *type, PyObject *args, PyObject *Py_UNUSED(keywords))
{
    PyObject *labels_of, *told, *cut;
    const char *secret;
    Py_ssize_t length, places;
    if (!PyArg_ParseTuple(args, "ny#OOO", &places, &secret, &length, &labels_of, &told, &cut))
        return NULL;
    if (length < (Py_ssize_t)sizeof(rk_key) || places < 1 || places > MOST_PLACES)
        return PyErr_Format(PyExc_ValueError, "a sketch has 1 to 2^20 places, and a secret of 16 bytes or more"), NULL;
    rk_sketch_object *self = (rk_sketch_object *)type->tp_alloc(type, 0);
    if (!self)
        return NULL;
    self->module = PyType_GetModuleState(type);
    self->labels_of = Py_NewRef(labels_of), self->told = Py_NewRef(told), self->cut = Py_NewRef(cut);
    memcpy(&self->secret, secret, sizeof self->secret);
    void *memory = PyMem_Malloc(rk_sketch_bytes((size_t)places));
    if (memory)
        rk_open_sketch(&self->sketch, memory, (size_t)places);
    if (!memory || !(self->names = make_names((size_t)places))) {
        Py_DECREF(self);
        return PyErr_NoMemory();
    }
    return (PyObject *)self;
}

static int sketch_traverse(rk_sketch_object *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->labels_of);
    Py_VISIT(self->told);
    Py_VISIT(self->cut);
    return 0;
}

/* They become None, not NULL: code that runs while a cycle is collected may still find the sketch, and count keys. */
static int sketch_drop(rk_sketch_object *self)
{
    Py_XSETREF(self->labels_of, Py_NewRef(Py_None));
    Py_XSETREF(self->told, Py_NewRef(Py_None));
    Py_XSETREF(self->cut, Py_NewRef(Py_None));
    return 0;
}

static void sketch_dealloc(rk_sketch_object *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    Py_XDECREF(self->labels_of);
    Py_XDECREF(self->told);
    Py_XDECREF(self->cut);
    free_names(self->names, self->sketch.places);
    Py_XDECREF(self->labels);
    PyMem_Free(self->keys);
    PyMem_Free(self->sketch.hitters);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyMethodDef sketch_methods[] = {
    {"refused", (PyCFunction)(void (*)(void))sketch_refused, METH_FASTCALL, "Count a refusal for each rule that refused."},
    {"add", (PyCFunction)(void (*)(void))sketch_add, METH_FASTCALL, "Count a key once."},
    {"entries", (PyCFunction)sketch_entries, METH_NOARGS, "Return each key's label, text, count and error."},
    {"clear", (PyCFunction)sketch_clear, METH_NOARGS, "Forget all keys."},
    {NULL},
};

static PyType_Slot sketch_slots[] = {
    {Py_tp_doc, "Counts the keys that are refused most."},
    {Py_tp_new, sketch_new},
    {Py_tp_dealloc, sketch_dealloc},
    {Py_tp_traverse, sketch_traverse},
    {Py_tp_clear, sketch_drop},
    {Py_tp_methods, sketch_methods},
    {0, NULL},
};

PyType_Spec rk_sketch_spec = {
    .name = "ratekeeper.core._table.Sketch",
    .basicsize = sizeof(rk_sketch_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .slots = sketch_slots,
};
