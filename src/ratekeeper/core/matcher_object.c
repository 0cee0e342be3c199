/* Matcher: finds the rules of a policy that charge a request, each with its limit. Knows no table and no time.
 *
 * It reads the program that policy/program.py makes. Its twin is PythonMatcher, in policy/compiled.py. Functions that return an
 * int return 1 for yes, 0 for no, and -1 with a Python error set.
 */
#include <string.h>

#include "matcher.h"

enum { TIER_SLOT, TIER_BY, TIER_BY_VALUE, TIER_DEFAULT }; /* the fields of policy/program.TierOf */

/* ---- requests ---- */

/* A new reference to an attribute's value; NULL, without an error, if the request lacks it. */
static PyObject *value_of(PyObject *attributes, PyObject *get, PyObject *name)
{
    PyObject *value = get ? PyObject_CallOneArg(get, name) : PyDict_GetItemWithError(attributes, name);
    if (!get)
        Py_XINCREF(value);
    if (value == Py_None)
        Py_CLEAR(value);
    return value;
}

/* A value as a plain string, unless it has readings. Takes the reference, also if it fails. */
static PyObject *plain(const rk_matcher_object *self, PyObject *name, PyObject *value)
{
    if (PyUnicode_CheckExact(value) || rk_has_readings(self, value))
        return value;
    PyObject *text = NULL;
    if (PyUnicode_Check(value)) {
        text = PyUnicode_FromObject(value);
    } else {
        PyErr_Format(PyExc_TypeError, "attribute %R must be a str, not %s", name, rk_type_name(value));
    }
    Py_DECREF(value);
    return text;
}

/* A method in upper case, if it is ASCII. Takes the reference. */
static PyObject *upper(PyObject *method)
{
    bool lower = !PyUnicode_CheckExact(method);
    const char *text = PyUnicode_DATA(method);
    if (!PyUnicode_IS_ASCII(method))
        return method;
    for (Py_ssize_t i = 0; !lower && i < PyUnicode_GET_LENGTH(method); i++)
        lower = text[i] >= 'a' && text[i] <= 'z';
    PyObject *result = lower ? PyObject_CallMethod(method, "upper", NULL) : Py_NewRef(method);
    Py_DECREF(method);
    return result;
}

/* Add the digest of each attribute that the policy lists hashes of. */
static bool add_digests(const rk_matcher_object *self, rk_found *found)
{
    PyObject *hashed = RK_AT(self->program, RK_HASHED);
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(hashed); i++) {
        PyObject *value = found->values[rk_number_at(hashed, i)];
        PyObject *digest = value ? PyObject_CallOneArg(RK_AT(self->program, RK_DIGEST), value) : NULL;
        found->values[found->slots++] = digest;
        if (value && !digest)
            return false;
    }
    return true;
}

bool rk_read_values(const rk_matcher_object *self, PyObject *attributes, rk_found *found)
{
    PyObject *names = RK_AT(self->program, RK_NAMES), *tier = RK_AT(self->program, RK_TIER), *get = NULL;
    Py_ssize_t count = PyTuple_GET_SIZE(names), method = rk_number_at(self->program, RK_METHOD);
    if (!PyDict_CheckExact(attributes) && !(get = PyObject_GetAttrString(attributes, "get"))) {
        if (PyErr_ExceptionMatches(PyExc_AttributeError))
            PyErr_Format(PyExc_TypeError, "a request is a mapping of attributes, such as a dict, not %s",
                         rk_type_name(attributes));
        return false;
    }
    for (; found->slots < count; found->slots++) {
        PyObject *name = RK_AT(names, found->slots), *value = value_of(attributes, get, name);
        if (value)
            value = plain(self, name, value);
        if (value && found->slots == method)
            value = upper(value);
        found->values[found->slots] = value;
        if (!value && PyErr_Occurred())
            break;
    }
    Py_XDECREF(get);
    if (found->slots < count || !add_digests(self, found))
        return false;
    if (tier == Py_None)
        return true;
    PyObject *of_request = NULL, *by = found->values[rk_number_at(tier, TIER_SLOT)];
    if (by)
        of_request = PyDict_GetItemWithError(RK_AT(tier, TIER_BY_VALUE), by);
    if (!of_request && PyErr_Occurred())
        return false;
    found->values[found->slots++] = Py_NewRef(of_request ? of_request : RK_AT(tier, TIER_DEFAULT));
    return true;
}

/* ---- rules ---- */

/* The first missing attribute of a rule's key, borrowed; NULL if the request has all. */
static PyObject *lacking(const rk_matcher_object *self, PyObject *rule, PyObject *const *values)
{
    PyObject *slots = RK_AT(rule, RULE_SLOTS), *names = RK_AT(self->program, RK_NAMES);
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(slots); i++) {
        Py_ssize_t slot = rk_number_at(slots, i);
        if (!values[slot])
            return RK_AT(names, slot);
    }
    return NULL;
}

/* Add a rule that matches. 0 if the request lacks an attribute that refuses it. */
static int add_rule(const rk_matcher_object *self, Py_ssize_t place, rk_found *found)
{
    PyObject *rule = RK_AT(self->rules, place), *overrides = RK_AT(rule, RULE_OVERRIDES);
    Py_ssize_t missing = rk_number_at(rule, RULE_MISSING), limit = overrides == Py_None ? -1 : RK_NONE_YET;
    PyObject *name = missing == RK_SHARED ? NULL : lacking(self, rule, found->values);
    if (name) {
        found->missing = missing == RK_REJECT ? name : NULL;
        return missing != RK_REJECT;
    }
    rk_match *match = &found->matches[found->count];
    if (limit == RK_NONE_YET && rk_find_override(self, overrides, found->values, 0, &limit) < 0)
        return -1;
    *match = (rk_match){.rule = place, .limit = limit, .begin = found->length};
    if (!rk_append_bucket(self, rule, found) || !rk_read_own_cost(rule, found->values, &match->cost))
        return -1;
    match->end = found->length;
    found->count++;
    return 1;
}

bool rk_open_found(const rk_matcher_object *self, rk_found *found)
{
    Py_ssize_t rules = PyTuple_GET_SIZE(self->rules), slots = 1;
    slots += PyTuple_GET_SIZE(RK_AT(self->program, RK_NAMES)) + PyTuple_GET_SIZE(RK_AT(self->program, RK_HASHED));
    found->values = found->few_values, found->matches = found->few_matches, found->bytes = found->short_bytes;
    found->slots = found->count = 0, found->length = 0, found->room = RK_SHORT, found->missing = NULL;
    if (slots > RK_FEW && !(found->values = PyMem_New(PyObject *, slots)))
        return PyErr_NoMemory(), false;
    if (rules > RK_FEW && !(found->matches = PyMem_New(rk_match, rules)))
        return PyErr_NoMemory(), false;
    return true;
}

bool rk_find_rules(const rk_matcher_object *self, PyObject *attributes, rk_found *found)
{
    if (!rk_open_found(self, found) || !rk_read_values(self, attributes, found))
        return false;
    Py_ssize_t rules = PyTuple_GET_SIZE(self->rules);
    int result = rk_is_exempt(self, RK_AT(self->program, RK_EXEMPT), found->values);
    for (Py_ssize_t i = 0; !result && i < rules; i++) {
        int matches = rk_fit(self, RK_AT(RK_AT(self->rules, i), RULE_TESTS), found->values, false);
        int added = matches > 0 ? add_rule(self, i, found) : 1;
        result = matches < 0 || added < 0 ? -1 : !added;
    }
    return result >= 0;
}

void rk_release_found(rk_found *found)
{
    for (Py_ssize_t i = 0; found->values && i < found->slots; i++)
        Py_XDECREF(found->values[i]);
    if (found->values != found->few_values)
        PyMem_Free(found->values);
    if (found->matches != found->few_matches)
        PyMem_Free(found->matches);
    if (found->bytes != found->short_bytes)
        PyMem_Free(found->bytes);
}

/* ---- the Python type ---- */

static PyObject *matches_of(const rk_found *found)
{
    if (found->missing)
        return Py_NewRef(found->missing);
    PyObject *list = PyList_New(found->count);
    for (Py_ssize_t i = 0; list && i < found->count; i++) {
        const rk_match *match = &found->matches[i];
        PyObject *key = rk_text_of(found->bytes + match->begin, match->end - match->begin);
        PyObject *one = key ? Py_BuildValue("nnNL", match->rule, match->limit, key, (long long)match->cost) : NULL;
        if (one)
            PyList_SET_ITEM(list, i, one);
        else
            Py_CLEAR(list);
    }
    return list;
}

static PyObject *matcher_match(rk_matcher_object *self, PyObject *attributes)
{
    rk_found found;
    PyObject *matches = rk_find_rules(self, attributes, &found) ? matches_of(&found) : NULL;
    rk_release_found(&found);
    return matches;
}

static PyObject *matcher_new(PyTypeObject *type, PyObject *args, PyObject *Py_UNUSED(keywords))
{
    PyObject *program;
    if (!PyArg_ParseTuple(args, "O!", &PyTuple_Type, &program))
        return NULL;
    if (PyTuple_GET_SIZE(program) != RK_PROGRAM_FIELDS || !PyTuple_Check(RK_AT(program, RK_RULES)))
        return PyErr_Format(PyExc_TypeError, "a matcher takes the program of a policy, not %R", program);
    rk_matcher_object *self = (rk_matcher_object *)type->tp_alloc(type, 0);
    if (self) {
        self->program = Py_NewRef(program);
        self->rules = RK_AT(program, RK_RULES);
    }
    return (PyObject *)self;
}

static int matcher_traverse(rk_matcher_object *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->program);
    return 0;
}

/* No tp_clear: its program refers to no matcher. */
static void matcher_dealloc(rk_matcher_object *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    Py_XDECREF(self->program);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyMethodDef matcher_methods[] = {
    {"match", (PyCFunction)matcher_match, METH_O, NULL},
    {NULL},
};

static PyType_Slot matcher_slots[] = {
    {Py_tp_doc, "Finds the rules of a policy that charge a request."},
    {Py_tp_new, matcher_new},
    {Py_tp_dealloc, matcher_dealloc},
    {Py_tp_traverse, matcher_traverse},
    {Py_tp_methods, matcher_methods},
    {0, NULL},
};

PyType_Spec rk_matcher_spec = {
    .name = "ratekeeper.core._table.Matcher",
    .basicsize = sizeof(rk_matcher_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .slots = matcher_slots,
};
