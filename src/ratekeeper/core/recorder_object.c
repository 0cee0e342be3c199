/* Recorder: writes requests into a ring of memory, as hashes, for other processes to read. Its twin is recorder.py. An
 * observer of decisions: it changes none, and if it cannot record one, it counts it as left out. */
#include "policy.h"
#include "recording.h"

typedef struct {
    PyObject_HEAD
    const rk_module *module;
    Py_buffer memory;
    rk_key key;
    rk_ring ring;
    int64_t left_out;
    PyObject *changed, *told, *now; /* callables: see recorder.py */
    PyObject *keeper, *matcher, *schema, *costs, *optional;
} rk_recorder_object;

/* The facts of a request. */
typedef struct {
    PyObject *const *values; /* of each slot */
    Py_ssize_t slots;
    int64_t cost;
    const rk_match *matches; /* of the rules whose tests it passes: each `stride` bytes after the last one */
    size_t stride;
    Py_ssize_t count;
    PyObject *others; /* its other readings: see rk_other_readings */
} rk_facts;

/* A value's hash; 0 for a missing one. False with a Python error set. */
RK_INLINE bool hash_of(const rk_recorder_object *self, PyObject *value, int64_t *hash)
{
    rk_text text;
    *hash = 0;
    if (!value)
        return true;
    if (!rk_read_key(value, &text))
        return false;
    uint64_t found = rk_siphash(self->key, text.bytes, (size_t)text.length);
    *hash = (int64_t)(found ? found : 1);
    Py_XDECREF(text.owner);
    return true;
}

/* Whether a decision tells all facts of its request. It does not if a rule denies, which hides others, if a key lacks
 * an attribute, if a value has other readings, or if several limits were looked up for a rule. */
static bool tells_all(const rk_recorder_object *self, const rk_parts *parts)
{
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(self->optional); i++)
        if (!parts->values[rk_number_at(self->optional, i)])
            return false;
    for (Py_ssize_t i = 0; i < parts->slots; i++)
        if (rk_has_readings(parts->policy.matcher, parts->values[i]))
            return false;
    for (Py_ssize_t i = 0; i < parts->count; i++)
        if (parts->answers[i].limit.max_cost < 0 || parts->answers[i].place)
            return false;
    return parts->count > 0;
}

/* Write a record. False with a Python error set. */
RK_INLINE bool write_record(rk_recorder_object *self, const rk_facts *facts, int64_t time, int64_t flags)
{
    PyObject *others = facts->others, *schema = self->schema;
    Py_ssize_t costs = PyTuple_GET_SIZE(self->costs), extra = others == Py_None ? 0 : PyList_GET_SIZE(others) / 2;
    size_t words = RK_RECORD_HEAD + (size_t)(facts->slots + costs + 2 * extra + facts->count);
    int64_t *record = rk_record_room(&self->ring, words, PyBytes_AS_STRING(schema), (size_t)PyBytes_GET_SIZE(schema));
    if (!record)
        return self->left_out++, true;
    int64_t *next = record + RK_RECORD_HEAD;
    for (Py_ssize_t i = 0; i < facts->slots; i++)
        if (!hash_of(self, facts->values[i], next++))
            return false;
    for (Py_ssize_t i = 0; i < costs; i++)
        *next++ = rk_told_cost(facts->values[rk_number_at(self->costs, i)]);
    for (Py_ssize_t i = 0; i < 2 * extra; i += 2) {
        *next++ = PyLong_AsLongLong(PyList_GET_ITEM(others, i));
        if (!hash_of(self, PyList_GET_ITEM(others, i + 1), next++))
            return false;
    }
    for (Py_ssize_t i = 0; i < facts->count; i++) {
        const rk_match *match = (const rk_match *)((const char *)facts->matches + (size_t)i * facts->stride);
        *next++ = (int64_t)match->rule | (int64_t)(match->limit + 1) << 32;
    }
    record[0] = time;
    record[1] = (int64_t)words | (int64_t)extra << 16 | (int64_t)facts->count << 32 | flags << 48;
    record[2] = facts->cost;
    rk_commit_record(&self->ring, words, time);
    return true;
}

/* Whether a decision is by the policy that is recorded: then its values are those of the schema's slots. */
static bool is_of_policy(const rk_recorder_object *self, const rk_parts *parts)
{
    return self->keeper && (PyObject *)parts->policy.matcher == self->matcher;
}

/* Learn the time and the outcome of a decision of the C core. False with a Python error set. */
static bool read_parts(const rk_recorder_object *self, const rk_parts *parts, int64_t *time, int64_t *outcome)
{
    *outcome = parts->allowed ? RK_ADMITTED : RK_REJECTED;
    *time = parts->count ? parts->answers[0].answer.at : 0;
    if (*time)
        return true;
    PyObject *now = PyObject_CallNoArgs(self->now);
    *time = now ? PyLong_AsLongLong(now) : -1;
    Py_XDECREF(now);
    return !PyErr_Occurred();
}

/* Learn those of another decision, which Python tells. */
static bool read_told(const rk_recorder_object *self, PyObject *decision, int64_t *time, int64_t *outcome)
{
    PyObject *told = PyObject_CallOneArg(self->told, decision);
    bool good = told && PyArg_ParseTuple(told, "LL", (long long *)time, (long long *)outcome);
    Py_XDECREF(told);
    return good;
}

/* Find the facts of a request by the policy of this moment, and record them: see rk_find_facts. */
RK_COLD static bool record_found(rk_recorder_object *self, const rk_parts *parts, PyObject *asked, int64_t time,
                                 int64_t outcome)
{
    rk_matcher_object *matcher = (rk_matcher_object *)Py_NewRef(self->matcher);
    rk_found found;
    int exempt = 0;
    bool good = rk_find_facts(matcher, parts, asked, &found, &exempt);
    PyObject *others = good ? rk_other_readings(matcher, &found) : NULL;
    rk_facts facts = {found.values, found.slots, found.cost, found.matches, sizeof *found.matches, found.count, others};
    good = others && (PyObject *)matcher == self->matcher && /* Python code may have begun another policy meanwhile */
           write_record(self, &facts, time, outcome | (exempt ? RK_EXEMPT_FLAG : 0));
    Py_XDECREF(others);
    rk_release_found(&found);
    Py_DECREF((PyObject *)matcher);
    return good;
}

/* Record a request as its decision of the C core tells it. */
RK_INLINE bool record_told(rk_recorder_object *self, const rk_parts *parts, int64_t time, int64_t outcome)
{
    size_t stride = sizeof *parts->answers;
    rk_facts facts = {parts->values, parts->slots, parts->cost, &parts->answers->match, stride, parts->count, Py_None};
    return write_record(self, &facts, time, outcome);
}

/* Whether a question's keeper is recorded, perhaps from now on. False, perhaps without an error, if it is not. */
static bool is_recorded(rk_recorder_object *self, PyObject *asked)
{
    if (!PyTuple_Check(asked) || PyTuple_GET_SIZE(asked) != 3)
        return false;
    PyObject *keeper = RK_AT(asked, 0);
    if (keeper == self->keeper)
        return true;
    PyObject *done = PyObject_CallOneArg(self->changed, keeper);
    bool good = done && keeper == self->keeper;
    Py_XDECREF(done);
    return good;
}

static bool observe(rk_recorder_object *self, PyObject *asked, PyObject *decision)
{
    rk_parts parts;
    int64_t time, outcome;
    bool native = rk_read_parts(self->module, decision, &parts);
    if (!(native && is_of_policy(self, &parts)) && !is_recorded(self, asked))
        return false;
    bool good = native ? read_parts(self, &parts, &time, &outcome) : read_told(self, decision, &time, &outcome);
    return good && (!native || is_of_policy(self, &parts)) &&
           (native && tells_all(self, &parts) ? record_told(self, &parts, time, outcome)
                                              : record_found(self, native ? &parts : NULL, asked, time, outcome));
}

static PyObject *recorder_decided(rk_recorder_object *self, PyObject *const *args, Py_ssize_t count)
{
    /* Without callables it is being collected in a cycle, but other code that runs meanwhile may still find it. */
    if (count == 2 && self->changed && observe(self, args[0], args[1]))
        Py_RETURN_NONE;
    if (PyErr_Occurred() && !PyErr_ExceptionMatches(PyExc_Exception))
        return NULL; /* an interrupt, and not an error of the recording */
    PyErr_Clear();
    self->left_out++;
    Py_RETURN_NONE;
}

/* Whether a schema is that of the present segment; -1 with a Python error set. To compare may run Python code. */
static int goes_on_with(const rk_recorder_object *self, PyObject *schema)
{
    PyObject *before = Py_XNewRef(self->schema);
    int equal = self->keeper ? PyObject_RichCompareBool(schema, before, Py_EQ) : 0;
    bool same = self->keeper && self->schema == before; /* or else that code began another policy */
    Py_XDECREF(before);
    return equal > 0 ? same : equal;
}

static PyObject *recorder_begin(rk_recorder_object *self, PyObject *args)
{
    PyObject *keeper, *matcher, *schema, *costs, *optional;
    if (!PyArg_ParseTuple(args, "OO!SO!O!", &keeper, self->module->matcher, &matcher, &schema, &PyTuple_Type, &costs,
                          &PyTuple_Type, &optional))
        return NULL;
    if (!rk_are_slots((rk_matcher_object *)matcher, costs) || !rk_are_slots((rk_matcher_object *)matcher, optional))
        return NULL;
    int goes_on = goes_on_with(self, schema);
    if (goes_on < 0)
        return NULL;
    bool fits = goes_on || rk_begin_segment(&self->ring, PyBytes_AS_STRING(schema), (size_t)PyBytes_GET_SIZE(schema));
    PyObject *before[] = {self->keeper, self->matcher, self->schema, self->costs, self->optional};
    self->keeper = fits ? Py_NewRef(keeper) : NULL;
    self->matcher = Py_NewRef(matcher), self->schema = Py_NewRef(schema);
    self->costs = Py_NewRef(costs), self->optional = Py_NewRef(optional);
    for (size_t i = 0; i < sizeof before / sizeof *before; i++)
        Py_XDECREF(before[i]); /* last: it may run Python code, which may decide, and the parts belong together */
    return PyBool_FromLong(fits);
}

static PyObject *recorder_new(PyTypeObject *type, PyObject *args, PyObject *Py_UNUSED(keywords))
{
    PyObject *memory, *changed, *told, *now;
    const char *secret;
    Py_ssize_t length;
    if (!PyArg_ParseTuple(args, "Oy#OOO", &memory, &secret, &length, &changed, &told, &now))
        return NULL;
    if (length < (Py_ssize_t)sizeof(rk_key))
        return PyErr_Format(PyExc_ValueError, "a secret has 16 bytes or more"), NULL;
    rk_recorder_object *self = (rk_recorder_object *)type->tp_alloc(type, 0);
    if (!self)
        return NULL;
    self->module = PyType_GetModuleState(type);
    self->changed = Py_NewRef(changed), self->told = Py_NewRef(told), self->now = Py_NewRef(now);
    if (PyObject_GetBuffer(memory, &self->memory, PyBUF_WRITABLE) < 0) {
        Py_DECREF(self);
        return NULL;
    }
    if ((uintptr_t)self->memory.buf % sizeof(int64_t)) {
        Py_DECREF(self);
        return PyErr_Format(PyExc_ValueError, "the memory of a recording must begin at a multiple of 8"), NULL;
    }
    memcpy(&self->key, secret, sizeof self->key);
    rk_open_ring(&self->ring, self->memory.buf, (size_t)self->memory.len);
    return (PyObject *)self;
}

static int recorder_traverse(rk_recorder_object *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->changed);
    Py_VISIT(self->told);
    Py_VISIT(self->now);
    Py_VISIT(self->keeper);
    Py_VISIT(self->matcher);
    return 0;
}

static int recorder_clear(rk_recorder_object *self)
{
    PyObject **all[] = {&self->changed, &self->told, &self->now, &self->keeper, &self->matcher, &self->schema,
                        &self->costs, &self->optional};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        Py_CLEAR(*all[i]);
    return 0;
}

static void recorder_dealloc(rk_recorder_object *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    recorder_clear(self);
    if (self->memory.obj)
        PyBuffer_Release(&self->memory);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyMethodDef recorder_methods[] = {
    {"decided", (PyCFunction)(void (*)(void))recorder_decided, METH_FASTCALL, "Record a decision on a request."},
    {"begin", (PyCFunction)recorder_begin, METH_VARARGS, "Begin to record by another policy, if it fits."},
    {NULL},
};

static PyMemberDef recorder_members[] = {
    {"left_out", T_LONGLONG, offsetof(rk_recorder_object, left_out), READONLY, NULL},
    {NULL},
};

static PyType_Slot recorder_slots[] = {
    {Py_tp_doc, "Writes requests into a ring of memory, as hashes."},
    {Py_tp_new, recorder_new},
    {Py_tp_dealloc, recorder_dealloc},
    {Py_tp_traverse, recorder_traverse},
    {Py_tp_clear, recorder_clear},
    {Py_tp_methods, recorder_methods},
    {Py_tp_members, recorder_members},
    {0, NULL},
};

PyType_Spec rk_recorder_spec = {
    .name = "ratekeeper.core._table.Recorder",
    .basicsize = sizeof(rk_recorder_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .slots = recorder_slots,
};
