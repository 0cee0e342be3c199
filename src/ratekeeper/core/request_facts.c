/* The facts of a request that only a recording needs: all its readings, and all rules whose tests it passes. */
#include "policy.h"
#include "recording.h"

bool rk_are_slots(const rk_matcher_object *matcher, PyObject *places)
{
    Py_ssize_t slots = PyTuple_GET_SIZE(RK_AT(matcher->program, RK_NAMES));
    slots += PyTuple_GET_SIZE(RK_AT(matcher->program, RK_HASHED)) + (RK_AT(matcher->program, RK_TIER) != Py_None);
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(places); i++) {
        PyObject *place = RK_AT(places, i);
        if (!PyLong_Check(place)) /* to convert it would run Python code, each time anew */
            return PyErr_SetString(PyExc_TypeError, "the places of slots are ints"), false;
        Py_ssize_t slot = PyLong_AsSsize_t(place);
        if (slot == -1 && PyErr_Occurred())
            return false;
        if (slot < 0 || slot >= slots)
            return PyErr_Format(PyExc_ValueError, "the policy has no slot %zd", slot), false;
    }
    return true;
}

int64_t rk_told_cost(PyObject *value)
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

PyObject *rk_other_readings(const rk_matcher_object *matcher, const rk_found *found)
{
    PyObject *others = NULL;
    for (Py_ssize_t slot = 0; slot < found->slots; slot++) {
        if (!rk_has_readings(matcher, found->values[slot]))
            continue;
        PyObject *all = PyObject_GetAttrString(found->values[slot], "all"), *place = PyLong_FromSsize_t(slot);
        bool good = all && place && PyTuple_Check(all) && (others || (others = PyList_New(0)));
        for (Py_ssize_t i = 1; good && i < PyTuple_GET_SIZE(all); i++)
            good = !PyList_Append(others, place) && !PyList_Append(others, RK_AT(all, i));
        Py_XDECREF(all);
        Py_XDECREF(place);
        if (!good) {
            Py_XDECREF(others);
            return NULL;
        }
    }
    return others ? others : Py_NewRef(Py_None);
}

/* Read the cost and the values of a request: those of its decision, or else those of its question. */
static bool read_request(const rk_matcher_object *matcher, const rk_parts *parts, PyObject *asked, rk_found *found)
{
    int overflow;
    if (parts) {
        found->cost = parts->cost;
        for (; found->slots < parts->slots; found->slots++)
            found->values[found->slots] = Py_XNewRef(parts->values[found->slots]);
        return true;
    }
    found->cost = PyLong_AsLongLongAndOverflow(RK_AT(asked, 2), &overflow);
    if (overflow) /* more than any limit has */
        found->cost = INT64_MAX;
    return !PyErr_Occurred() && rk_read_values(matcher, RK_AT(asked, 1), found);
}

bool rk_find_facts(const rk_matcher_object *matcher, const rk_parts *parts, PyObject *asked, rk_found *found,
                   int *exempt)
{
    if (!rk_open_found(matcher, found) || !read_request(matcher, parts, asked, found))
        return false;
    *exempt = rk_is_exempt(matcher, RK_AT(matcher->program, RK_EXEMPT), found->values);
    for (Py_ssize_t i = 0; *exempt >= 0 && i < PyTuple_GET_SIZE(matcher->rules); i++) {
        PyObject *rule = RK_AT(matcher->rules, i), *overrides = RK_AT(rule, RULE_OVERRIDES);
        int fits = rk_fit(matcher, RK_AT(rule, RULE_TESTS), found->values, false);
        Py_ssize_t limit = overrides == Py_None ? -1 : RK_NONE_YET;
        if (fits > 0 && limit == RK_NONE_YET && rk_find_override(matcher, overrides, found->values, 0, &limit) < 0)
            return false;
        if (fits < 0)
            return false;
        if (fits)
            found->matches[found->count++] = (rk_match){.rule = i, .limit = limit};
    }
    return *exempt >= 0;
}
