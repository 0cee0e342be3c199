/* The requests of a Redis client with which a piece begins, as far as they are whole and in their usual form. The twin,
 * `RequestReader` in service/resp/requests.py, is the definition: whatever follows is left to it.
 */
#include "glue.h"

/* As in requests.py. */
enum { MOST_ARGUMENTS = 99, MOST_BYTES = 131072 };

/* The bytes of a piece that are not read yet. */
typedef struct {
    const char *at, *end;
} rk_rest;

/* Read a header: its kind, a number of at most `most`, and the line's end. Return the number; -1 if it is another. */
static int read_header(rk_rest *rest, char kind, int most)
{
    const char *next = rest->at, *digits = next + 1;
    int number = 0;
    if (next == rest->end || *next != kind)
        return -1;
    for (next = digits; next < rest->end && *next >= '0' && *next <= '9' && number <= most; next++)
        number = 10 * number + (*next - '0');
    if (next == digits || (*digits == '0' && next > digits + 1) || number > most || rest->end - next < 2 ||
        next[0] != '\r' || next[1] != '\n')
        return -1;
    rest->at = next + 2;
    return number;
}

/* NULL if the rest does not begin with a whole usual request; or with a Python error set. */
static PyObject *read_request(rk_rest *rest)
{
    int count = read_header(rest, '*', MOST_ARGUMENTS), room = MOST_BYTES;
    PyObject *request = count > 0 ? PyList_New(count) : NULL;
    for (int i = 0; request && i < count; i++) {
        int length = read_header(rest, '$', room);
        PyObject *argument = NULL;
        if (length >= 0 && rest->end - rest->at >= length + 2)
            argument = PyBytes_FromStringAndSize(rest->at, length);
        if (!argument) {
            Py_CLEAR(request);
            break;
        }
        PyList_SET_ITEM(request, i, argument);
        rest->at += length + 2; /* any two bytes, as in Redis */
        room -= length;
    }
    return request;
}

PyObject *rk_read_requests(PyObject *Py_UNUSED(module), PyObject *piece)
{
    if (!PyBytes_Check(piece))
        return PyErr_Format(PyExc_TypeError, "requests are bytes, not %s", rk_type_name(piece)), NULL;
    rk_rest rest = {PyBytes_AS_STRING(piece), PyBytes_AS_STRING(piece) + PyBytes_GET_SIZE(piece)};
    PyObject *requests = PyList_New(0), *request;
    Py_ssize_t length = 0; /* of those that are read */
    while (requests && (request = read_request(&rest))) {
        if (PyList_Append(requests, request) < 0)
            Py_CLEAR(requests);
        Py_DECREF(request);
        length = rest.at - PyBytes_AS_STRING(piece);
    }
    PyObject *number = requests && !PyErr_Occurred() ? PyLong_FromSsize_t(length) : NULL;
    PyObject *found = number ? PyTuple_Pack(2, requests, number) : NULL;
    Py_XDECREF(requests);
    Py_XDECREF(number);
    return found;
}
