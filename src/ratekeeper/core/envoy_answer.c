/* The answer to Envoy, a message of protobuf with the prefix that gRPC puts before it. Its twins are python_write_response in service/grpc/codec.py, and
 * python_answer in service/grpc/answers.py. */
#include <string.h>

#include "gate.h"
#include "policy.h"

enum { OK = 1, OVER_LIMIT = 2 }; /* the codes of a status */
enum { PREFIX = 5 }; /* the bytes before a message: that it is not compressed, and its length */
enum { MOST_OTHER = 64 }; /* more bytes than the tags, the lengths and the numbers of a status or a header have */

typedef struct {
    const char *bytes;
    Py_ssize_t length;
} rk_bytes;

typedef struct {
    long code;
    rk_bytes limit;
    unsigned long long remaining, seconds;
} rk_status;

static char *put_varint(char *next, uint64_t number)
{
    for (; number > 127; number >>= 7)
        *next++ = (char)((number & 127) | 128);
    *next++ = (char)number;
    return next;
}

static Py_ssize_t varint_length(uint64_t number)
{
    Py_ssize_t length = 1;
    for (; number > 127; number >>= 7)
        length++;
    return length;
}

static char *put_bytes(char *next, char tag, rk_bytes value)
{
    *next++ = tag;
    next = put_varint(next, (uint64_t)value.length);
    memcpy(next, value.bytes, (size_t)value.length);
    return next + value.length;
}

static char *put_number(char *next, char tag, uint64_t number)
{
    if (!number)
        return next;
    *next++ = tag;
    return put_varint(next, number);
}

static bool read_bytes(PyObject *from, rk_bytes *value)
{
    if (!PyBytes_Check(from))
        return PyErr_Format(PyExc_TypeError, "an answer is made of bytes, not %s", Py_TYPE(from)->tp_name), false;
    *value = (rk_bytes){PyBytes_AS_STRING(from), PyBytes_GET_SIZE(from)};
    return true;
}

static bool read_status(PyObject *from, rk_status *status)
{
    if (!PyTuple_Check(from) || PyTuple_GET_SIZE(from) != 4)
        return PyErr_SetString(PyExc_TypeError, "a status is a Status"), false;
    for (int i = 0; i < 4; i++)
        if (i != 1 && !PyLong_Check(RK_AT(from, i))) /* to convert it would run Python code */
            return PyErr_SetString(PyExc_TypeError, "the numbers of a status are ints"), false;
    status->code = PyLong_AsLong(RK_AT(from, 0));
    status->remaining = PyLong_AsUnsignedLongLong(RK_AT(from, 2));
    status->seconds = PyErr_Occurred() ? 0 : PyLong_AsUnsignedLongLong(RK_AT(from, 3));
    if (PyErr_Occurred())
        return false;
    if (status->code != OK && status->code != OVER_LIMIT)
        return PyErr_Format(PyExc_ValueError, "%ld is not the code of a status", status->code), false;
    return read_bytes(RK_AT(from, 1), &status->limit);
}

static bool read_header(PyObject *from, rk_bytes *name, rk_bytes *value)
{
    if (!PyTuple_Check(from) || PyTuple_GET_SIZE(from) != 2)
        return PyErr_SetString(PyExc_TypeError, "a header is a pair"), false;
    return read_bytes(RK_AT(from, 0), name) && read_bytes(RK_AT(from, 1), value);
}

static char *put_status(char *next, const rk_status *status)
{
    char numbers[MOST_OTHER], *end = put_number(numbers, 0x18, status->remaining);
    if (status->seconds) {
        *end++ = 0x22;
        end = put_varint(end, 1 + (uint64_t)varint_length(status->seconds));
        end = put_number(end, 0x08, status->seconds);
    }
    *next++ = 0x12;
    next = put_varint(next, 2 + (uint64_t)(status->limit.length + (end - numbers)));
    *next++ = 0x08;
    *next++ = (char)status->code;
    memcpy(next, status->limit.bytes, (size_t)status->limit.length);
    next += status->limit.length;
    memcpy(next, numbers, (size_t)(end - numbers));
    return next + (end - numbers);
}

static char *put_header(char *next, rk_bytes name, rk_bytes value)
{
    Py_ssize_t of_lengths = varint_length((uint64_t)name.length) + varint_length((uint64_t)value.length);
    *next++ = 0x1a;
    next = put_varint(next, 2 + (uint64_t)(of_lengths + name.length + value.length));
    return put_bytes(put_bytes(next, 0x0a, name), 0x12, value);
}

/* Begin an answer of at most so many bytes: its code. NULL with a Python error set. */
static PyObject *begin_answer(Py_ssize_t most, bool over, char **next)
{
    PyObject *answer = PyBytes_FromStringAndSize(NULL, PREFIX + most);
    if (answer) {
        *next = PyBytes_AS_STRING(answer) + PREFIX;
        *(*next)++ = 0x08;
        *(*next)++ = over ? OVER_LIMIT : OK;
    }
    return answer;
}

static char *put_raw(char *next, rk_bytes value)
{
    memcpy(next, value.bytes, (size_t)value.length);
    return next + value.length;
}

static PyObject *end_answer(PyObject *answer, const char *next)
{
    char *first = PyBytes_AS_STRING(answer);
    uint32_t length = (uint32_t)(next - first - PREFIX);
    *first = 0;
    for (int i = 1; i < PREFIX; i++)
        first[i] = (char)(length >> 8 * (PREFIX - 1 - i));
    _PyBytes_Resize(&answer, next - first);
    return answer;
}

/* Check all statuses and headers, and return the most bytes that they can become; -1 with a Python error set. */
static Py_ssize_t most_bytes(PyObject *statuses, PyObject *headers, bool *over)
{
    Py_ssize_t most = MOST_OTHER;
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(statuses); i++) {
        rk_status status;
        if (!read_status(PyList_GET_ITEM(statuses, i), &status))
            return -1;
        *over = *over || status.code == OVER_LIMIT;
        most += MOST_OTHER + status.limit.length;
    }
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(headers); i++) {
        rk_bytes name, value;
        if (!read_header(PyList_GET_ITEM(headers, i), &name, &value))
            return -1;
        most += MOST_OTHER + name.length + value.length;
    }
    return most;
}

PyObject *rk_write_envoy_answer(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count)
{
    rk_bytes end;
    bool over = false;
    char *next;
    if (count != 3 || !PyList_Check(args[0]) || !PyList_Check(args[1]))
        return PyErr_SetString(PyExc_TypeError, "an answer has two lists, and an end of bytes"), NULL;
    Py_ssize_t most = most_bytes(args[0], args[1], &over);
    PyObject *answer = most < 0 || !read_bytes(args[2], &end) ? NULL : begin_answer(most + end.length, over, &next);
    if (!answer)
        return NULL;
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(args[0]); i++) {
        rk_status status = {0};
        read_status(PyList_GET_ITEM(args[0], i), &status);
        next = put_status(next, &status);
    }
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(args[1]); i++) {
        rk_bytes name = {0}, value = {0};
        read_header(PyList_GET_ITEM(args[1], i), &name, &value);
        next = put_header(next, name, value);
    }
    return end_answer(answer, put_raw(next, end));
}

/* Set `*end` to the fields of a refusal after the headers about limits: the entry of `ends` for (key, seconds to wait).
 * Otherwise return what answers in their place: the seconds whose entry is missing, None, or NULL with a Python error set. */
static PyObject *find_end(PyObject *decision, const rk_rule_answer *answers, Py_ssize_t rules, PyObject *ends,
                          PyObject *key, rk_bytes *end)
{
    PyObject *wait = rk_retry_after_seconds(decision, answers, rules);
    if (!wait || wait == Py_None)
        return wait;
    PyObject *pair = PyTuple_Pack(2, key, wait);
    PyObject *found = pair ? PyDict_GetItemWithError(ends, pair) : NULL;
    Py_XDECREF(pair);
    if (!found && !PyErr_Occurred())
        return wait;
    Py_DECREF(wait);
    if (found)
        read_bytes(found, end); /* no code in Python runs until it is copied */
    return NULL;
}

/* Answer by decisions of rules: `args` are the limits of all rules, the headers before RateLimit, its template, the largest
 * number, the ends of refusals, and the first part of their keys. If the end is missing, the seconds to wait; None if only
 * Python can tell. */
static PyObject *answer_of(PyObject *decision, const rk_rule_answer *answers, Py_ssize_t rules, bool allowed,
                           PyObject *const *args, Py_ssize_t count)
{
    rk_binding binding;
    rk_bytes limit, head, end = {"", 0}, name = {"ratelimit", 9}, value;
    char *next;
    if (count != 6 || !PyTuple_Check(args[0]) || !read_bytes(args[1], &head) || !PyLong_Check(args[3]) ||
        !PyDict_CheckExact(args[4])) /* a number of another type would run Python code: see find_end */
        return PyErr_Occurred() ? NULL : (PyErr_SetString(PyExc_TypeError, "an answer is made of seven parts"), NULL);
    if (!rk_find_binding(answers, rules, &binding))
        Py_RETURN_NONE;
    if (PyTuple_GET_SIZE(args[0]) != rules)
        return PyErr_SetString(PyExc_ValueError, "the limits are those of other rules"), NULL;
    if (!allowed) {
        PyObject *instead = find_end(decision, answers, rules, args[4], args[5], &end);
        if (instead || PyErr_Occurred())
            return instead;
    }
    PyObject *states = read_bytes(RK_AT(args[0], binding.place), &limit)
                           ? rk_fill(decision, answers, rules, args[2], args[3])
                           : NULL;
    if (!states)
        return NULL;
    read_bytes(states, &value);
    Py_ssize_t most = 2 * MOST_OTHER + limit.length + head.length + name.length + value.length + end.length;
    PyObject *answer = begin_answer(most, !allowed, &next);
    if (answer) {
        uint64_t left = binding.remaining < UINT32_MAX ? (uint64_t)binding.remaining : UINT32_MAX;
        rk_status status = {allowed ? OK : OVER_LIMIT, limit, left, (uint64_t)binding.reset};
        next = put_header(put_raw(put_status(next, &status), head), name, value);
        answer = end_answer(answer, put_raw(next, end));
    }
    Py_DECREF(states);
    return answer;
}

PyObject *rk_fill_envoy_answer(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    rk_parts parts = {0};
    if (count && !rk_read_parts(PyModule_GetState(module), args[0], &parts))
        Py_RETURN_NONE;
    return answer_of(count ? args[0] : NULL, parts.answers, parts.count, parts.allowed, args + 1, count - 1);
}

PyObject *rk_gate_fill_envoy_answer(rk_gate_object *gate, PyObject *const *args, Py_ssize_t count)
{
    if (!count || Py_TYPE(args[0]) != gate->table->module->decision || Py_SIZE(gate) != 1)
        return PyErr_SetString(PyExc_TypeError, "an answer is made of a decision of a gate of one limit"), NULL;
    rk_rule_answer only = {.answer = rk_answer_of(args[0]), .limit = gate->limits[0].is};
    return answer_of(args[0], &only, 1, only.answer.allowed, args + 1, count - 1);
}
