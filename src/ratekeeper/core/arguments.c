/* Reads the arguments of Python callers: keys, costs, ticks. Its errors have the words of limits.py. */
#include <string.h>

#include "glue.h"

bool rk_read_other_key(PyObject *key, rk_text *text)
{
    text->owner = NULL;
    if (PyUnicode_Check(key)) {
        text->bytes = PyUnicode_AsUTF8AndSize(key, &text->length);
        if (text->bytes)
            return true;
        PyErr_Clear(); /* a lone surrogate: an attacker may send one, and it is as good a key as any */
        text->owner = PyUnicode_AsEncodedString(key, "utf-8", "surrogatepass");
        if (!text->owner)
            return false;
        key = text->owner;
    } else if (!PyBytes_Check(key)) {
        const char *mend = PyLong_Check(key) ? ": write str(key)" : "";
        PyErr_Format(PyExc_TypeError, "a key must be str or bytes, not %s%s", rk_type_name(key), mend);
        return false;
    }
    text->bytes = PyBytes_AS_STRING(key);
    text->length = PyBytes_GET_SIZE(key);
    return true;
}

/* A cost that does not fit 64 bits is as good as infinite. */
bool rk_read_cost(PyObject *cost, int64_t *value)
{
    int overflow = 0;
    PyObject *whole = PyNumber_Index(cost);
    if (!whole) {
        if (PyErr_ExceptionMatches(PyExc_TypeError))
            PyErr_Format(PyExc_TypeError, "cost must be a whole number of tokens, not %R", cost);
        return false;
    }
    *value = PyLong_AsLongLongAndOverflow(whole, &overflow);
    Py_DECREF(whole);
    if (overflow > 0)
        *value = INT64_MAX;
    if (overflow < 0 || *value < 0) {
        PyErr_Format(PyExc_ValueError, "cost must be 0 or more tokens, not %R: to give tokens back, use refund", cost);
        return false;
    }
    return true;
}

bool rk_read_ticks(PyObject *number, int64_t *ticks)
{
    *ticks = PyLong_AsLongLong(number);
    return !(*ticks == -1 && PyErr_Occurred());
}

bool rk_read_wait(PyObject *timeout, int64_t *ticks)
{
    *ticks = RK_MAX_AHEAD;
    if (timeout == Py_None)
        return true;
    if (!PyFloat_Check(timeout) && !PyLong_Check(timeout)) { /* a Decimal too: only what limits.wait_ticks takes */
        PyErr_Format(PyExc_TypeError, "timeout must be a number of seconds, or None, not %R", timeout);
        return false;
    }
    double seconds = PyFloat_AsDouble(timeout);
    if (seconds == -1.0 && PyErr_Occurred() && PyErr_ExceptionMatches(PyExc_OverflowError)) {
        PyErr_Clear(); /* more seconds than a float can tell: as long as it takes, or a negative number */
        PyObject *zero = PyLong_FromLong(0);
        int more = zero ? PyObject_RichCompareBool(timeout, zero, Py_GT) : -1;
        Py_XDECREF(zero);
        if (more != 0)
            return more > 0;
        seconds = -1;
    }
    if (seconds == -1.0 && PyErr_Occurred())
        return false;
    if (!(seconds >= 0)) {
        PyErr_Format(PyExc_ValueError,
                     "timeout must be 0 or more seconds, or None to wait as long as it takes, not %R", timeout);
        return false;
    }
    if (seconds * RK_TICKS_PER_SECOND < (double)RK_MAX_AHEAD)
        *ticks = (int64_t)(seconds * RK_TICKS_PER_SECOND);
    return true;
}

bool rk_read_int64_attribute(PyObject *object, const char *name, int64_t *value)
{
    PyObject *number = PyObject_GetAttrString(object, name);
    bool read = number && rk_read_ticks(number, value);
    Py_XDECREF(number);
    return read;
}

static bool keyword_is(PyObject *keyword, const char *name)
{
    return PyUnicode_CompareWithASCIIString(keyword, name) == 0;
}

bool rk_read_arguments(const char *verb, PyObject *const *args, Py_ssize_t count, PyObject *keywords,
                       const char *const *names, int max_args, PyObject **given)
{
    if (count > max_args) {
        PyErr_Format(PyExc_TypeError, "%s() takes at most %d arguments (%zd given)", verb, max_args, count);
        return false;
    }
    for (Py_ssize_t i = 0; i < count; i++)
        given[i] = args[i];
    for (Py_ssize_t k = 0; keywords && k < PyTuple_GET_SIZE(keywords); k++) {
        PyObject *keyword = PyTuple_GET_ITEM(keywords, k);
        int i = 0;
        while (i < max_args && !keyword_is(keyword, names[i]))
            i++;
        if (i == max_args || given[i]) {
            PyErr_Format(PyExc_TypeError, "%s() got %s argument %R", verb, i == max_args ? "an unknown" : "a second", keyword);
            return false;
        }
        given[i] = args[count + k];
    }
    if (!given[0])
        PyErr_Format(PyExc_TypeError, "%s() needs %s", verb, names[0]);
    return given[0] != NULL;
}

bool rk_read_names(const char *verb, PyObject *const *args, Py_ssize_t count, PyObject *keywords, int max_args,
                   PyObject *given[3])
{
    static const char *const names[3] = {"key", "cost", "timeout"};
    given[0] = given[1] = given[2] = NULL;
    return rk_read_arguments(verb, args, count, keywords, names, max_args, given);
}

bool rk_read_other_request(const char *verb, PyObject *const *args, Py_ssize_t count, PyObject *keywords, int max_args,
                           rk_request *request)
{
    PyObject *given[3];
    if (!rk_read_names(verb, args, count, keywords, max_args, given))
        return false;
    *request = (rk_request){given[0], 1, given[2]};
    return !given[1] || rk_read_cost(given[1], &request->cost);
}

/* The exact seconds of a limit's ticks, if the numbers fit. */
static bool read_second(PyObject *limit, rk_limit *value)
{
    int too_long = 0, also = 0;
    PyObject *pair = PyObject_GetAttrString(limit, "_exact_second");
    if (!pair || !PyTuple_Check(pair) || PyTuple_GET_SIZE(pair) != 2) {
        Py_XDECREF(pair);
        return PyErr_Occurred() ? false : PyErr_Format(PyExc_TypeError, "%R is not a limit", limit) != NULL;
    }
    value->second = PyLong_AsLongLongAndOverflow(PyTuple_GET_ITEM(pair, 0), &too_long);
    value->parts = PyLong_AsLongLongAndOverflow(PyTuple_GET_ITEM(pair, 1), &also);
    Py_DECREF(pair);
    if (too_long || also)
        value->second = 0;
    return !PyErr_Occurred();
}

bool rk_read_limit(PyObject *limit, rk_limit *value)
{
    PyObject *queues = PyObject_GetAttrString(limit, "queues");
    if (!queues)
        return false;
    value->queues = PyObject_IsTrue(queues) == 1;
    Py_DECREF(queues);
    if (!rk_read_int64_attribute(limit, "interval", &value->interval) ||
        !rk_read_int64_attribute(limit, "full", &value->full) ||
        !rk_read_int64_attribute(limit, "max_cost", &value->max_cost))
        return false;
    if (!read_second(limit, value))
        return false;
    bool sane = value->interval > 0 && value->full >= 0 && value->max_cost <= value->full / value->interval;
    if (!sane)
        PyErr_Format(PyExc_ValueError, "%R is not a limit that adds up", limit);
    return sane;
}

PyObject *rk_text_of(const char *bytes, size_t length)
{
    unsigned char others = 0;
    for (size_t i = 0; i < length; i++)
        others |= (unsigned char)bytes[i];
    if (others >= 128)
        return PyUnicode_DecodeUTF8(bytes, (Py_ssize_t)length, "surrogatepass");
    PyObject *text = PyUnicode_New((Py_ssize_t)length, 127); /* at half the price of the decoder */
    if (text)
        memcpy(PyUnicode_DATA(text), bytes, length);
    return text;
}

const char *rk_type_name(PyObject *value)
{
    const char *name = Py_TYPE(value)->tp_name, *dot = strrchr(name, '.');
    return dot ? dot + 1 : name;
}
