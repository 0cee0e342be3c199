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
    PyObject *asked; /* the name */
} rk_recorder_object;

/* A value's hash; 0 for a missing one. False with a Python error set. */
static bool hash_of(const rk_recorder_object *self, PyObject *value, int64_t *hash)
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

/* The tokens that an attribute tells: -1 if it is missing, -2 if it is not a number. */
static int64_t number_of(PyObject *value)
{
    if (!value)
        return RK_NO_COST;
    Py_ssize_t length = PyUnicode_GET_LENGTH(value);
    int64_t number = 0;
    if (!PyUnicode_IS_ASCII(value) || length < 1 || length > RK_COST_DIGITS)
        return RK_BAD_COST;
    for (Py_ssize_t i = 0; i < length; i++) {
        Py_UCS4 digit = PyUnicode_READ_CHAR(value, i);
        if (digit < '0' || digit > '9')
            return RK_BAD_COST;
        number = 10 * number + (int64_t)(digit - '0');
    }
    return number;
}

/* Take the rules from a decision, if it tells all. A rule that denies hides others, as a missing attribute does. */
static bool take_facts(const rk_recorder_object *self, const rk_parts *parts, rk_found *found)
{
    Py_ssize_t rules = PyTuple_GET_SIZE(((const rk_matcher_object *)self->matcher)->rules); /* the room for matches */
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(self->optional); i++)
        if (!found->values[rk_number_at(self->optional, i)])
            return false;
    for (Py_ssize_t i = 0; i < parts->count; i++) {
        const rk_rule_answer *one = &parts->answers[i];
        if (one->limit.max_cost < 0 || found->count == rules)
            return false;
        if (!one->place)
            found->matches[found->count++] = one->match;
    }
    return parts->count > 0;
}

/* Write a record whose parts are known. False with a Python error set. */
static bool write_record(rk_recorder_object *self, const rk_found *found, PyObject *others, int64_t time, int64_t flags)
{
    Py_ssize_t costs = PyTuple_GET_SIZE(self->costs), extra = others == Py_None ? 0 : PyList_GET_SIZE(others) / 2;
    size_t words = RK_RECORD_HEAD + (size_t)(found->slots + costs + 2 * extra + found->count);
    Py_ssize_t length = PyBytes_GET_SIZE(self->schema);
    int64_t *next = rk_record_room(&self->ring, words, PyBytes_AS_STRING(self->schema), (size_t)length), *record = next;
    if (!next)
        return self->left_out++, true;
    next += RK_RECORD_HEAD;
    for (Py_ssize_t i = 0; i < found->slots; i++)
        if (!hash_of(self, found->values[i], next++))
            return false;
    for (Py_ssize_t i = 0; i < costs; i++)
        *next++ = number_of(found->values[rk_number_at(self->costs, i)]);
    for (Py_ssize_t i = 0; i < 2 * extra; i += 2) {
        *next++ = PyLong_AsLongLong(PyList_GET_ITEM(others, i));
        if (!hash_of(self, PyList_GET_ITEM(others, i + 1), next++))
            return false;
    }
    for (Py_ssize_t i = 0; i < found->count; i++)
        *next++ = (int64_t)found->matches[i].rule | (int64_t)(found->matches[i].limit + 1) << 32;
    record[0] = time;
    record[1] = (int64_t)words | (int64_t)extra << 16 | (int64_t)found->count << 32 | flags << 48;
    record[2] = found->cost;
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

/* Read the cost and the values of a request. */
static bool read_request(const rk_matcher_object *matcher, PyObject *asked, rk_found *found)
{
    int overflow;
    found->cost = PyLong_AsLongLongAndOverflow(RK_AT(asked, 2), &overflow);
    if (overflow) /* more than any limit has */
        found->cost = INT64_MAX;
    return !PyErr_Occurred() && rk_read_values(matcher, RK_AT(asked, 1), found);
}

/* Record a request by the policy of this moment: by the values of its decision, which live as long, or else read again. */
static bool record(rk_recorder_object *self, const rk_parts *parts, PyObject *asked, int64_t time, int64_t outcome)
{
    rk_matcher_object *matcher = (rk_matcher_object *)Py_NewRef(self->matcher);
    rk_found found;
    int exempt = 0;
    bool good = rk_open_found(matcher, &found);
    PyObject **own = found.values;
    if (good && parts)
        found.values = (PyObject **)parts->values, found.slots = parts->slots, found.cost = parts->cost;
    else
        good = good && read_request(matcher, asked, &found);
    if (good && !(parts && take_facts(self, parts, &found))) {
        found.count = 0;
        good = rk_find_facts(matcher, &found, &exempt);
    }
    PyObject *others = good ? rk_other_readings(matcher, &found) : NULL;
    good = others && (PyObject *)matcher == self->matcher && /* Python code may have begun another policy meanwhile */
           write_record(self, &found, others, time, outcome | (exempt ? RK_EXEMPT_FLAG : 0));
    Py_XDECREF(others);
    if (parts)
        found.values = own, found.slots = 0;
    rk_release_found(&found);
    Py_DECREF((PyObject *)matcher);
    return good;
}

/* Ask the exchange for its question: a new reference. NULL, perhaps without an error, if its keeper is not recorded. */
static PyObject *read_asked(rk_recorder_object *self, PyObject *exchange)
{
    PyObject *asked = PyObject_GetAttr(exchange, self->asked);
    bool good = asked && PyTuple_Check(asked) && PyTuple_GET_SIZE(asked) == 3;
    if (good && RK_AT(asked, 0) != self->keeper) {
        PyObject *done = PyObject_CallOneArg(self->changed, RK_AT(asked, 0));
        good = done && RK_AT(asked, 0) == self->keeper;
        Py_XDECREF(done);
    }
    if (!good)
        Py_CLEAR(asked);
    return asked;
}

static bool observe(rk_recorder_object *self, PyObject *exchange, PyObject *decision)
{
    rk_parts parts;
    PyObject *asked = NULL;
    int64_t time, outcome;
    bool native = rk_read_parts(self->module, decision, &parts);
    if (!(native && is_of_policy(self, &parts)) && !(asked = read_asked(self, exchange)))
        return false;
    bool good = native ? read_parts(self, &parts, &time, &outcome) : read_told(self, decision, &time, &outcome);
    good = good && (!native || is_of_policy(self, &parts)) && record(self, native ? &parts : NULL, asked, time, outcome);
    Py_XDECREF(asked);
    return good;
}

static PyObject *recorder_decided(rk_recorder_object *self, PyObject *const *args, Py_ssize_t count)
{
    if (count == 2 && observe(self, args[0], args[1]))
        Py_RETURN_NONE;
    if (PyErr_Occurred() && !PyErr_ExceptionMatches(PyExc_Exception))
        return NULL; /* an interrupt, and not an error of the recording */
    PyErr_Clear();
    self->left_out++;
    Py_RETURN_NONE;
}

static PyObject *recorder_begin(rk_recorder_object *self, PyObject *args)
{
    PyObject *keeper, *matcher, *schema, *costs, *optional;
    if (!PyArg_ParseTuple(args, "OO!SO!O!", &keeper, self->module->matcher, &matcher, &schema, &PyTuple_Type, &costs,
                          &PyTuple_Type, &optional))
        return NULL;
    bool goes_on = self->keeper && PyObject_RichCompareBool(schema, self->schema, Py_EQ) > 0;
    bool fits = goes_on || rk_begin_segment(&self->ring, PyBytes_AS_STRING(schema), (size_t)PyBytes_GET_SIZE(schema));
    Py_XSETREF(self->keeper, fits ? Py_NewRef(keeper) : NULL);
    Py_XSETREF(self->matcher, Py_NewRef(matcher));
    Py_XSETREF(self->schema, Py_NewRef(schema));
    Py_XSETREF(self->costs, Py_NewRef(costs));
    Py_XSETREF(self->optional, Py_NewRef(optional));
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
    if (!(self->asked = PyUnicode_InternFromString("asked")) ||
        PyObject_GetBuffer(memory, &self->memory, PyBUF_WRITABLE) < 0) {
        Py_DECREF(self);
        return NULL;
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
                        &self->costs, &self->optional, &self->asked};
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
