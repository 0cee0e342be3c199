/* Head: the head of a usual HTTP request, and where its lines stand in its piece. RequestParser in
 * service/http/parser.py is the definition: whatever is unusual is left to it.
 *
 * Usual is one whole GET, with nothing behind it, and of a few printable lines: none of them says anything of a body, of
 * the connection or of another protocol. So it ends where its head ends, however its lines are read.
 */
#include <string.h>

#include "headers.h"

enum { MOST_BYTES = 8192, MOST_LINES = 64, FRAMING = 5 };

typedef struct {
    uint16_t name, name_end, value, value_end;
} rk_line;

typedef struct {
    PyObject_VAR_HEAD
    PyObject *piece;
    Py_ssize_t target_end;
    rk_line lines[];
} rk_head_object;

static const char begin[] = "GET /", end_of_target[] = " HTTP/1.1\r\n";

/* Whether a byte may be in a name. */
static inline bool is_token(unsigned char byte)
{
    static const char others[] = "!#$%&'*+-.^_`|~";
    unsigned char letter = byte | 0x20;
    return (letter >= 'a' && letter <= 'z') || (byte >= '0' && byte <= '9') || byte == '-' ||
           (byte && memchr(others, byte, sizeof others - 1));
}

static inline bool is_visible(unsigned char byte)
{
    return byte > ' ' && byte < 0x7f;
}

/* Whether a line is about the framing of the request, or the connection. */
static bool is_framing(rk_ascii name)
{
    static const char *const all[FRAMING] = {
        "connection", "content-length", "proxy-connection", "transfer-encoding", "upgrade",
    };
    for (int i = 0; i < FRAMING; i++)
        if ((size_t)name.length == strlen(all[i]) && rk_is_name(name, (const unsigned char *)all[i]))
            return true;
    return false;
}

/* Read a line. Return the place behind its end, or 0 if it is unusual. */
static Py_ssize_t read_line(const unsigned char *bytes, Py_ssize_t at, Py_ssize_t size, rk_line *line)
{
    Py_ssize_t first = at, value;
    while (at < size && is_token(bytes[at]))
        at++;
    if (at == first || at == size || bytes[at] != ':' || is_framing((rk_ascii){bytes + first, at - first}))
        return 0;
    line->name = (uint16_t)first;
    line->name_end = (uint16_t)at++;
    while (at < size && bytes[at] == ' ')
        at++;
    value = at;
    while (at < size && (is_visible(bytes[at]) || bytes[at] == ' '))
        at++;
    line->value = (uint16_t)value;
    line->value_end = (uint16_t)at;
    if (at == value || bytes[at - 1] == ' ' || size - at < 2 || bytes[at] != '\r' || bytes[at + 1] != '\n')
        return 0;
    return at + 2;
}

/* Read all lines. Return their number, or -1 if the head is unusual. */
static Py_ssize_t read_lines(const unsigned char *bytes, Py_ssize_t at, Py_ssize_t size, Py_ssize_t most, rk_line *lines)
{
    for (Py_ssize_t count = 0; at; count++) {
        if (size - at == 2 && bytes[at] == '\r' && bytes[at + 1] == '\n')
            return count;
        at = count < most ? read_line(bytes, at, size, &lines[count]) : 0;
    }
    return -1;
}

PyObject *rk_read_head(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    const rk_module *state = PyModule_GetState(module);
    const Py_ssize_t method = sizeof begin - 2, tail = sizeof end_of_target - 1;
    rk_line lines[MOST_LINES];
    if (count != 2 || !PyBytes_CheckExact(args[0]))
        return PyErr_Format(PyExc_TypeError, "read_head takes bytes and a number"), NULL;
    Py_ssize_t most = PyLong_AsSsize_t(args[1]), size = PyBytes_GET_SIZE(args[0]), at = method;
    if (most == -1 && PyErr_Occurred())
        return NULL;
    const unsigned char *bytes = (const unsigned char *)PyBytes_AS_STRING(args[0]);
    if (size > MOST_BYTES || size < method + tail || memcmp(bytes, begin, sizeof begin - 1) != 0)
        Py_RETURN_NONE;
    while (at < size && is_visible(bytes[at]) && bytes[at] != '#')
        at++;
    if (size - at < tail || memcmp(bytes + at, end_of_target, (size_t)tail) != 0)
        Py_RETURN_NONE;
    Py_ssize_t found = read_lines(bytes, at + tail, size, most < MOST_LINES ? most : MOST_LINES, lines);
    if (found < 0)
        Py_RETURN_NONE;
    rk_head_object *self = PyObject_NewVar(rk_head_object, state->head, found);
    if (!self)
        return NULL;
    self->piece = Py_NewRef(args[0]);
    self->target_end = at;
    memcpy(self->lines, lines, (size_t)found * sizeof *lines);
    return (PyObject *)self;
}

static void head_dealloc(rk_head_object *self)
{
    PyTypeObject *type = Py_TYPE(self);
    Py_DECREF(self->piece);
    PyObject_Free(self);
    Py_DECREF(type);
}

bool rk_is_head(PyObject *object)
{
    return Py_TYPE(object)->tp_dealloc == (destructor)head_dealloc; /* of any interpreter */
}

static Py_ssize_t head_length(PyObject *self)
{
    return Py_SIZE(self);
}

void rk_head_line(PyObject *head, Py_ssize_t place, rk_ascii *name, rk_ascii *value)
{
    const rk_head_object *self = (const rk_head_object *)head;
    const unsigned char *bytes = (const unsigned char *)PyBytes_AS_STRING(self->piece);
    const rk_line *line = &self->lines[place];
    *name = (rk_ascii){bytes + line->name, line->name_end - line->name};
    *value = (rk_ascii){bytes + line->value, line->value_end - line->value};
}

static PyObject *head_line(PyObject *self, Py_ssize_t place)
{
    rk_ascii name, value;
    if (place < 0 || place >= Py_SIZE(self))
        return PyErr_Format(PyExc_IndexError, "line %zd is out of range", place), NULL;
    rk_head_line(self, place, &name, &value);
    return Py_BuildValue("(y#y#)", name.bytes, name.length, value.bytes, value.length);
}

static PyObject *get_target(rk_head_object *self, void *Py_UNUSED(closure))
{
    const Py_ssize_t method = sizeof begin - 2;
    return PyBytes_FromStringAndSize(PyBytes_AS_STRING(self->piece) + method, self->target_end - method);
}

static PyGetSetDef head_getters[] = {
    {"target", (getter)get_target, NULL, "The path and query of the request line.", NULL},
    {NULL},
};

static PyType_Slot head_slots[] = {
    {Py_tp_doc, "The header lines of a usual request: pairs of a name and a value, as they came."},
    {Py_tp_dealloc, head_dealloc},
    {Py_tp_getset, head_getters},
    {Py_sq_length, head_length},
    {Py_sq_item, head_line},
    {0, NULL},
};

PyType_Spec rk_head_spec = {
    .name = "ratekeeper.core._table.Head",
    .basicsize = sizeof(rk_head_object),
    .itemsize = sizeof(rk_line),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = head_slots,
};
