/* The value of a header of a request, in its usual form. The twin, `defined_value` in http/header_lines.py, is the
 * definition: whatever is unusual is left to it.
 */
#include <string.h>

#include "headers.h"

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
static bool find_line(PyObject *lines, PyObject *name, PyObject **found)
{
    const unsigned char *wanted = PyUnicode_1BYTE_DATA(name), *key = NULL;
    Py_ssize_t length = PyUnicode_GET_LENGTH(name), count = PySequence_Fast_GET_SIZE(lines);
    *found = NULL;
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *line = PySequence_Fast_GET_ITEM(lines, i);
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

rk_ascii rk_strip(rk_ascii text)
{
    while (text.length && is_space(*text.bytes))
        text.bytes++, text.length--;
    while (text.length && is_space(text.bytes[text.length - 1]))
        text.length--;
    return text;
}

/* Set `*text` to the value, of ASCII, without spaces at its ends. Return RK_UNUSUAL, or whether it is empty. */
static rk_header stripped(PyObject *value, rk_ascii *text)
{
    const unsigned char *bytes = (const unsigned char *)PyBytes_AS_STRING(value);
    Py_ssize_t begin = 0, end = PyBytes_GET_SIZE(value);
    if (end > MOST_BYTES)
        return RK_UNUSUAL;
    for (Py_ssize_t i = 0; i < end; i++)
        if (bytes[i] >= 0x80)
            return RK_UNUSUAL;
    while (begin < end && (bytes[begin] == ' ' || bytes[begin] == '\t'))
        begin++;
    if (begin == end)
        return RK_MISSING;
    *text = rk_strip((rk_ascii){bytes + begin, end - begin});
    return text->length ? RK_FOUND : RK_UNUSUAL; /* unusual: it is of spaces that are not all blanks */
}

PyObject *rk_string_of(rk_ascii text)
{
    PyObject *string = PyUnicode_New(text.length, 0x7f);
    if (string && text.length) /* the empty string is shared */
        memcpy(PyUnicode_1BYTE_DATA(string), text.bytes, (size_t)text.length);
    return string;
}

rk_header rk_find_text(PyObject *lines, PyObject *name, rk_ascii *text)
{
    PyObject *value;
    if (!(PyList_CheckExact(lines) || PyTuple_CheckExact(lines)) || PySequence_Fast_GET_SIZE(lines) > MOST_LINES ||
        !find_line(lines, name, &value))
        return RK_UNUSUAL;
    return value ? stripped(value, text) : RK_MISSING;
}

PyObject *rk_find_header(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count)
{
    rk_ascii text;
    if (count != 3)
        return PyErr_Format(PyExc_TypeError, "find_header takes 3 arguments, not %zd", count), NULL;
    if (!PyUnicode_Check(args[1]) || !PyUnicode_IS_COMPACT_ASCII(args[1]))
        Py_RETURN_NOTIMPLEMENTED;
    rk_header header = rk_find_text(args[0], args[1], &text);
    if (header == RK_MISSING)
        Py_RETURN_NONE;
    if (header == RK_UNUSUAL || (args[2] == Py_True && memchr(text.bytes, ',', (size_t)text.length)))
        Py_RETURN_NOTIMPLEMENTED;
    return rk_string_of(text);
}
