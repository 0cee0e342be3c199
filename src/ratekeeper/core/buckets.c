/* The bucket and the cost of a rule for one request: the twin of Rule.bucket and Rule.cost_of in policy/model.py. */
#include <string.h>

#include "matcher.h"

enum { COST_DIGITS = 18 };

static bool append(rk_found *found, const char *bytes, size_t length)
{
    if (length > found->room - found->length) {
        size_t room = 2 * (found->length + length);
        char *more = PyMem_Malloc(room);
        if (!more)
            return PyErr_NoMemory(), false;
        memcpy(more, found->bytes, found->length);
        if (found->bytes != found->short_bytes)
            PyMem_Free(found->bytes);
        found->bytes = more;
        found->room = room;
    }
    memcpy(found->bytes + found->length, bytes, length);
    found->length += length;
    return true;
}

static bool append_value(rk_found *found, PyObject *value)
{
    char digits[24], *first = digits + sizeof digits;
    rk_text text;
    if (!rk_read_key(value, &text))
        return false;
    *--first = ':';
    size_t length = (size_t)PyUnicode_GET_LENGTH(value);
    do
        *--first = (char)('0' + length % 10);
    while (length /= 10);
    bool done = append(found, first, (size_t)(digits + sizeof digits - first)) &&
                append(found, text.bytes, (size_t)text.length);
    Py_XDECREF(text.owner);
    return done;
}

bool rk_is_slot_of(const rk_matcher_object *self, Py_ssize_t tested, Py_ssize_t slot)
{
    PyObject *hashed = RK_AT(self->program, RK_HASHED);
    Py_ssize_t place = tested - PyTuple_GET_SIZE(RK_AT(self->program, RK_NAMES));
    return tested == slot || (place >= 0 && place < PyTuple_GET_SIZE(hashed) && rk_number_at(hashed, place) == slot);
}

PyObject *rk_keyed_value(const rk_matcher_object *self, PyObject *tests, Py_ssize_t slot, PyObject *const *values)
{
    PyObject *test = NULL, *tested = NULL, *chosen = values[slot];
    if (!rk_has_readings(self, chosen))
        return Py_NewRef(chosen);
    for (Py_ssize_t i = 0; !test && i < PyTuple_GET_SIZE(tests); i++) {
        Py_ssize_t of = rk_number_at(RK_AT(tests, i), TEST_SLOT);
        if (rk_is_slot_of(self, of, slot))
            test = RK_AT(tests, i), tested = values[of];
    }
    if (!test)
        return Py_NewRef(chosen);
    PyObject *all = rk_readings_of(chosen), *each = all ? rk_readings_of(tested) : NULL; /* in the same order */
    int result = each ? 0 : -1;
    for (Py_ssize_t r = 0; !result && r < PyTuple_GET_SIZE(each) && r < PyTuple_GET_SIZE(all); r++)
        if ((result = rk_accepts(test, RK_AT(each, r))))
            chosen = RK_AT(all, r);
    Py_XINCREF(result < 0 ? NULL : chosen);
    Py_XDECREF(all);
    Py_XDECREF(each);
    return result < 0 ? NULL : chosen;
}

bool rk_append_bucket(const rk_matcher_object *self, PyObject *rule, rk_found *found)
{
    PyObject *slots = RK_AT(rule, RULE_SLOTS);
    bool done = true;
    for (Py_ssize_t i = 0; done && i < PyTuple_GET_SIZE(slots); i++) {
        Py_ssize_t slot = rk_number_at(slots, i);
        PyObject *keyed = NULL;
        if (found->values[slot] && !(keyed = rk_keyed_value(self, RK_AT(rule, RULE_TESTS), slot, found->values)))
            return false;
        done = keyed ? append_value(found, keyed) : append(found, "-", 1);
        Py_XDECREF(keyed);
    }
    return done;
}

bool rk_read_own_cost(PyObject *rule, PyObject *const *values, int64_t *cost)
{
    if (RK_AT(rule, RULE_FIXED) == Py_True)
        return rk_read_cost(RK_AT(rule, RULE_COST), cost);
    PyObject *value = values[rk_number_at(rule, RULE_COST)];
    *cost = value ? 0 : 1;
    if (!value)
        return true;
    Py_ssize_t size = PyUnicode_GET_LENGTH(value), i = 0;
    if (PyUnicode_IS_ASCII(value) && size <= COST_DIGITS)
        for (const char *text = PyUnicode_DATA(value); i < size && text[i] >= '0' && text[i] <= '9'; i++)
            *cost = *cost * 10 + (text[i] - '0');
    if (i == size && size > 0)
        return true;
    PyObject *number = PyObject_CallOneArg(RK_AT(rule, RULE_COST_OF), value); /* it raises the error */
    bool read = number && rk_read_cost(number, cost);
    Py_XDECREF(number);
    return read;
}
