/* find_header: the value of a header of a request, in its usual form. Its twin, `header_value` in http/header_lines.py, is
 * the definition: whatever is unusual is left to it.
 */
#include <string.h>

#include "policy.h"

/* As in header_lines.py. */
enum { MOST_LINES = 1000, MOST_BYTES = 65536 };

static inline unsigned char lower(unsigned char byte)
{
    return byte >= 'A' && byte <= 'Z' ? (unsigned char)(byte + ('a' - 'A')) : byte;
}

static inline unsigned char folded(unsigned char byte)
{
    return byte == '_' ? '-' : lower(byte);
}

/* Whether two names are the same but for case, dashes and underscores. */
static bool is_like(const unsigned char *key, const unsigned char *name, Py_ssize_t length)
{
    for (Py_ssize_t i = 0; i < length; i++)
        if (folded(key[i]) != folded(name[i]))
            return false;
    return true;
}

static bool is_same(const unsigned char *key, const unsigned char *name, Py_ssize_t length)
{
    for (Py_ssize_t i = 0; i < length; i++)
        if (lower(key[i]) != name[i])
            return false;
    return true;
}

/* What `str.strip` removes, of ASCII. */
static inline bool is_space(unsigned char byte)
{
    return byte == ' ' || (byte >= '\t' && byte <= '\r') || (byte >= 0x1c && byte <= 0x1f);
}

/* Find the only line of a header. Return whether there is at most one, and nothing unusual; `*found` is NULL if none. */
static bool find_line(PyObject *const *lines, Py_ssize_t count, PyObject *name, PyObject **found)
{
    const unsigned char *wanted = PyUnicode_1BYTE_DATA(name), *key = NULL;
    Py_ssize_t length = PyUnicode_GET_LENGTH(name);
    *found = NULL;
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *line = lines[i];
        if (!PyTuple_CheckExact(line) || PyTuple_GET_SIZE(line) != 2 || !PyBytes_CheckExact(RK_AT(line, 0)) ||
            !PyBytes_CheckExact(RK_AT(line, 1)))
            return false;
        const unsigned char *other = (const unsigned char *)PyBytes_AS_STRING(RK_AT(line, 0));
        if (PyBytes_GET_SIZE(RK_AT(line, 0)) != length || !is_like(other, wanted, length))
            continue;
        if (*found)
            return false;
        *found = RK_AT(line, 1);
        key = other;
    }
    return !*found || is_same(key, wanted, length);
}

/* The value without spaces at its ends; None if it is empty. NotImplemented if it is unusual. */
static PyObject *text_of(PyObject *value, bool is_list)
{
    const unsigned char *bytes = (const unsigned char *)PyBytes_AS_STRING(value);
    Py_ssize_t begin = 0, end = PyBytes_GET_SIZE(value);
    bool odd = end > MOST_BYTES;
    for (Py_ssize_t i = 0; i < end && !odd; i++)
        odd = bytes[i] >= 0x80 || (is_list && bytes[i] == ',');
    if (odd)
        Py_RETURN_NOTIMPLEMENTED;
    while (begin < end && (bytes[begin] == ' ' || bytes[begin] == '\t'))
        begin++;
    if (begin == end)
        Py_RETURN_NONE;
    while (begin < end && is_space(bytes[begin]))
        begin++;
    if (begin == end) /* of spaces that are not all blanks */
        Py_RETURN_NOTIMPLEMENTED;
    while (is_space(bytes[end - 1]))
        end--;
    PyObject *text = PyUnicode_New(end - begin, 0x7f);
    if (text)
        memcpy(PyUnicode_1BYTE_DATA(text), bytes + begin, (size_t)(end - begin));
    return text;
}

PyObject *rk_find_header(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count)
{
    PyObject *value;
    if (count != 3)
        return PyErr_Format(PyExc_TypeError, "find_header takes 3 arguments, not %zd", count), NULL;
    PyObject *lines = args[0], *name = args[1];
    if (!(PyList_CheckExact(lines) || PyTuple_CheckExact(lines)) || PySequence_Fast_GET_SIZE(lines) > MOST_LINES ||
        !PyUnicode_Check(name) || !PyUnicode_IS_COMPACT_ASCII(name) ||
        !find_line(PySequence_Fast_ITEMS(lines), PySequence_Fast_GET_SIZE(lines), name, &value))
        Py_RETURN_NOTIMPLEMENTED;
    return value ? text_of(value, args[2] == Py_True) : Py_NewRef(Py_None);
}
