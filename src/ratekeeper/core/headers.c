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

bool rk_is_name(rk_ascii name, const unsigned char *wanted)
{
    for (Py_ssize_t i = 0; i < name.length; i++)
        if (lower(name.bytes[i]) != wanted[i])
            return false;
    return true;
}

/* What `str.strip` removes, of ASCII. */
static inline bool is_space(unsigned char byte)
{
    return byte == ' ' || (byte >= '\t' && byte <= '\r') || (byte >= 0x1c && byte <= 0x1f);
}

static bool is_pair(PyObject *line)
{
    return PyTuple_CheckExact(line) && PyTuple_GET_SIZE(line) == 2 && PyBytes_CheckExact(RK_AT(line, 0)) &&
           PyBytes_CheckExact(RK_AT(line, 1));
}

static inline rk_ascii characters_of(PyObject *bytes)
{
    return (rk_ascii){(const unsigned char *)PyBytes_AS_STRING(bytes), PyBytes_GET_SIZE(bytes)};
}

/* Find the only line of a header. Return whether there is at most one, and nothing unusual; `found->bytes` is NULL if
 * there is none. */
static bool find_line(PyObject *lines, PyObject *name, rk_ascii *found)
{
    const unsigned char *wanted = PyUnicode_1BYTE_DATA(name);
    bool is_head = rk_is_head(lines);
    Py_ssize_t length = PyUnicode_GET_LENGTH(name), count = Py_SIZE(lines);
    rk_ascii key = {NULL, 0}, other, value;
    found->bytes = NULL;
    for (Py_ssize_t i = 0; i < count; i++) {
        if (is_head) {
            rk_head_line(lines, i, &other, &value);
        } else {
            PyObject *line = PySequence_Fast_GET_ITEM(lines, i);
            if (!is_pair(line))
                return false;
            other = characters_of(RK_AT(line, 0));
            value = characters_of(RK_AT(line, 1));
        }
        if (other.length != length || !is_like(other.bytes, wanted, length))
            continue;
        if (found->bytes)
            return false;
        *found = value;
        key = other;
    }
    return !found->bytes || rk_is_name(key, wanted);
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
static rk_header stripped(rk_ascii value, rk_ascii *text)
{
    const unsigned char *bytes = value.bytes;
    Py_ssize_t begin = 0, end = value.length;
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
    rk_ascii value;
    if (!(PyList_CheckExact(lines) || PyTuple_CheckExact(lines) || rk_is_head(lines)) || Py_SIZE(lines) > MOST_LINES ||
        !find_line(lines, name, &value))
        return RK_UNUSUAL;
    return value.bytes ? stripped(value, text) : RK_MISSING;
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
