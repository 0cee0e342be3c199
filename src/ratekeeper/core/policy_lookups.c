/* The limits of a request's rules that are looked up: read from the known limits of each bucket (policy/lookups/cache.py).
 *
 * Python is asked only for a bucket of which nothing is known, or whose limits are to be looked up again.
 */
#include "policy.h"

bool rk_bind_lookup(const rk_table *table, PyObject *rule, rk_lookup **bound)
{
    PyObject *cache = RK_AT(rule, RULE_KNOWN);
    if (cache == Py_None)
        return true;
    rk_lookup *lookup = *bound = PyMem_Calloc(1, sizeof *lookup);
    if (!lookup)
        return PyErr_NoMemory(), false;
    lookup->entries = PyObject_GetAttrString(cache, "entries");
    PyObject *hits = lookup->entries ? PyObject_GetAttrString(cache, "hits") : NULL;
    int failed = hits ? PyObject_GetBuffer(hits, &lookup->hits, PyBUF_WRITABLE) : -1;
    Py_XDECREF(hits);
    if (failed)
        return false;
    if (!PyDict_CheckExact(lookup->entries) || lookup->hits.len < (Py_ssize_t)sizeof(int64_t))
        return PyErr_SetString(PyExc_TypeError, "the known limits must be a dict, and their hits a number"), false;
    for (int i = 0; i < RK_MOST_LIMITS; i++) {
        PyObject *scope = PyUnicode_FromFormat("%U/%d", RK_AT(rule, RULE_NAME), i); /* scope_of in decision.py */
        Py_ssize_t length;
        const char *text = scope ? PyUnicode_AsUTF8AndSize(scope, &length) : NULL;
        if (text)
            lookup->scopes[i] = rk_bind_scope(table, text, (size_t)length, rk_read_resets(table, 0));
        Py_XDECREF(scope);
        if (!text)
            return false;
    }
    return true;
}

void rk_free_lookup(rk_lookup *lookup)
{
    if (!lookup)
        return;
    Py_XDECREF(lookup->entries);
    if (lookup->hits.obj)
        PyBuffer_Release(&lookup->hits);
    PyMem_Free(lookup);
}

/* The known limits of a bucket, a new reference; NULL if they are to be looked up, or with a Python error set. */
static PyObject *fresh(rk_lookup *lookup, PyTypeObject *type, PyObject *bucket, int64_t now)
{
    PyObject *entry = PyDict_GetItemWithError(lookup->entries, bucket);
    rk_known_limits_object *known = (rk_known_limits_object *)entry;
    if (!entry || Py_TYPE(entry) != type || !Py_SIZE(entry) || now >= known->stale_at)
        return NULL;
    ++*(int64_t *)lookup->hits.buf;
    return Py_NewRef(entry);
}

/* (place, bucket, values of the key), the question to Python; the reference to the bucket is taken */
static PyObject *wanted(const rk_matcher_object *matcher, const rk_found *found, Py_ssize_t place, PyObject *bucket)
{
    PyObject *rule = RK_AT(matcher->rules, place), *slots = RK_AT(rule, RULE_SLOTS);
    PyObject *values = PyTuple_New(PyTuple_GET_SIZE(slots));
    for (Py_ssize_t i = 0; values && i < PyTuple_GET_SIZE(slots); i++) {
        Py_ssize_t slot = rk_number_at(slots, i);
        bool given = found->values[slot] != NULL;
        PyObject *value =
            given ? rk_keyed_value(matcher, RK_AT(rule, RULE_TESTS), slot, found->values) : Py_NewRef(Py_None);
        if (value)
            PyTuple_SET_ITEM(values, i, value);
        else
            Py_CLEAR(values);
    }
    if (!values) {
        Py_DECREF(bucket);
        return NULL;
    }
    return Py_BuildValue("(nNN)", place, bucket, values);
}

static bool ask(PyObject *asked, PyTypeObject *type, PyObject *list, const Py_ssize_t *places, PyObject **known)
{
    PyObject *answer = PyObject_CallOneArg(asked, list);
    bool right = answer && PyList_Check(answer) && PyList_GET_SIZE(answer) == PyList_GET_SIZE(list);
    for (Py_ssize_t i = 0; right && i < PyList_GET_SIZE(list); i++) {
        PyObject *one = PyList_GET_ITEM(answer, i);
        right = Py_TYPE(one) == type && Py_SIZE(one) > 0;
        if (right)
            known[places[i]] = Py_NewRef(one);
    }
    if (answer && !right)
        PyErr_Format(PyExc_TypeError, "limits must be known after they were asked for, not %R", answer);
    Py_XDECREF(answer);
    return right;
}

bool rk_find_limits(rk_table_object *table, const rk_matcher_object *matcher, PyObject *asked,
                    rk_lookup *const *lookups, const rk_found *found, PyObject **known, Py_ssize_t *places, int64_t *now)
{
    PyTypeObject *type = table->module->known_limits;
    PyObject *list = NULL;
    bool right = rk_read_clock(table, now);
    for (Py_ssize_t i = 0; right && i < found->count; i++) {
        const rk_match *match = &found->matches[i];
        rk_lookup *lookup = lookups[match->rule];
        if (!lookup || match->limit >= 0)
            continue;
        PyObject *bucket = rk_text_of(found->bytes + match->begin, match->end - match->begin);
        known[i] = bucket ? fresh(lookup, type, bucket, *now) : NULL;
        if (!bucket || known[i] || PyErr_Occurred()) {
            right = bucket && known[i];
            Py_XDECREF(bucket);
            continue;
        }
        if (!list && !(list = PyList_New(0))) {
            Py_DECREF(bucket);
            right = false;
            continue;
        }
        places[PyList_GET_SIZE(list)] = i;
        PyObject *question = wanted(matcher, found, match->rule, bucket);
        right = question && PyList_Append(list, question) == 0;
        Py_XDECREF(question);
    }
    if (list) {
        right = right && ask(asked, type, list, places, known);
        *now = RK_NOT_READ;
        Py_DECREF(list);
    }
    return right;
}
