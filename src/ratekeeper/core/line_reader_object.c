/* LineReader: reads a request's attributes from its header lines, where they are usual. Its twin is AttributeReader in
 * http/attributes.py. That is the definition: whatever is unusual is left to it.
 *
 * Each attribute is read from one header, by a step: see `Step` in http/line_steps.py.
 */
#include <string.h>

#include "headers.h"

enum { MOST_MORE = 2 };

typedef struct {
    PyObject *name, *header;
    int is_list, required;
    Py_ssize_t hops, most;
    PyObject *convert, *more; /* a callable or None, and a tuple of its further arguments */
} rk_step;

typedef struct {
    PyObject_VAR_HEAD
    PyObject *source; /* the tuple of steps, which owns all that they refer to */
    rk_step steps[];
} rk_line_reader_object;

static bool read_step(PyObject *from, rk_step *step)
{
    if (!PyTuple_Check(from))
        return PyErr_SetString(PyExc_TypeError, "a step is a tuple"), false;
    if (!PyArg_ParseTuple(from, "UUppnnOO!;a step is a Step", &step->name, &step->header, &step->is_list,
                          &step->required, &step->hops, &step->most, &step->convert, &PyTuple_Type, &step->more))
        return false;
    if (!PyUnicode_IS_COMPACT_ASCII(step->header) || PyTuple_GET_SIZE(step->more) > MOST_MORE)
        return PyErr_SetString(PyExc_ValueError, "a step has a header of ASCII, and two more arguments at most"), false;
    return true;
}

static PyObject *line_reader_new(PyTypeObject *type, PyObject *args, PyObject *Py_UNUSED(keywords))
{
    PyObject *steps;
    if (!PyArg_ParseTuple(args, "O!", &PyTuple_Type, &steps))
        return NULL;
    rk_line_reader_object *self = (rk_line_reader_object *)type->tp_alloc(type, PyTuple_GET_SIZE(steps));
    if (!self)
        return NULL;
    self->source = Py_NewRef(steps);
    for (Py_ssize_t i = 0; i < Py_SIZE(self); i++)
        if (!read_step(RK_AT(steps, i), &self->steps[i])) {
            Py_DECREF(self);
            return NULL;
        }
    return (PyObject *)self;
}

/* The entry of a list that the outermost of some proxies wrote, or the first: see client_address in attributes.py. */
static rk_ascii entry_of(rk_ascii list, Py_ssize_t hops)
{
    Py_ssize_t begin = list.length, end = begin;
    for (; hops > 0 && begin >= 0; hops--) {
        end = begin;
        do
            begin--;
        while (begin >= 0 && list.bytes[begin] != ',');
    }
    return rk_strip((rk_ascii){list.bytes + begin + 1, end - begin - 1});
}

/* The value of a step's header, as a new reference; NULL with no Python error if the attribute is missing. */
static PyObject *value_of(const rk_step *step, PyObject *lines, PyObject *peer, bool *unusual)
{
    rk_ascii text;
    rk_header header = rk_find_text(lines, step->header, &text);
    if (header == RK_MISSING && step->hops) {
        PyObject *address = peer == Py_None ? PyUnicode_New(0, 0) : Py_NewRef(peer);
        *unusual = address && (!PyUnicode_CheckExact(address) || PyUnicode_GET_LENGTH(address) > step->most);
        return address;
    }
    if (header == RK_MISSING && !step->required)
        return NULL;
    *unusual = header != RK_FOUND;
    if (!*unusual && step->hops)
        text = entry_of(text, step->hops);
    else if (!*unusual && step->is_list)
        *unusual = memchr(text.bytes, ',', (size_t)text.length) != NULL;
    *unusual = *unusual || text.length > step->most;
    return *unusual ? NULL : rk_string_of(text);
}

/* Read one attribute into `found`. False with a Python error set, or if the request is unusual. */
static bool take_step(const rk_step *step, PyObject *lines, PyObject *peer, PyObject *found, bool *unusual)
{
    PyObject *value = value_of(step, lines, peer, unusual);
    if (*unusual || !value) {
        Py_XDECREF(value);
        return !*unusual && !PyErr_Occurred();
    }
    if (step->convert != Py_None) {
        PyObject *arguments[1 + MOST_MORE] = {value};
        Py_ssize_t more = PyTuple_GET_SIZE(step->more);
        for (Py_ssize_t i = 0; i < more; i++)
            arguments[1 + i] = RK_AT(step->more, i);
        PyObject *converted = PyObject_Vectorcall(step->convert, arguments, 1 + (size_t)more, NULL);
        Py_DECREF(value);
        value = converted;
        *unusual = value == Py_None;
    }
    bool good = value && !*unusual && PyDict_SetItem(found, step->name, value) == 0;
    Py_XDECREF(value);
    return good;
}

static PyObject *line_reader_read(rk_line_reader_object *self, PyObject *const *args, Py_ssize_t count)
{
    bool unusual = false, good = true;
    if (count != 2)
        return PyErr_Format(PyExc_TypeError, "read takes 2 arguments, not %zd", count), NULL;
    PyObject *found = PyDict_New();
    for (Py_ssize_t i = 0; found && good && i < Py_SIZE(self); i++)
        good = take_step(&self->steps[i], args[0], args[1], found, &unusual);
    if (found && good)
        return found;
    Py_XDECREF(found);
    if (unusual)
        Py_RETURN_NONE;
    return NULL;
}

static int line_reader_traverse(rk_line_reader_object *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->source);
    return 0;
}

/* No tp_clear: as a Gate, it must keep what it asks. */
static void line_reader_dealloc(rk_line_reader_object *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    Py_XDECREF(self->source);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyMethodDef line_reader_methods[] = {
    {"read", (PyCFunction)(void (*)(void))line_reader_read, METH_FASTCALL,
     "read($self, lines, peer, /)\n--\n\nReturn the attributes of a request; None if it is unusual."},
    {NULL},
};

static PyType_Slot line_reader_slots[] = {
    {Py_tp_doc, "Reads a request's attributes from its header lines, where they are usual."},
    {Py_tp_new, line_reader_new},
    {Py_tp_dealloc, line_reader_dealloc},
    {Py_tp_traverse, line_reader_traverse},
    {Py_tp_methods, line_reader_methods},
    {0, NULL},
};

PyType_Spec rk_line_reader_spec = {
    .name = "ratekeeper.core._table.LineReader",
    .basicsize = sizeof(rk_line_reader_object),
    .itemsize = sizeof(rk_step),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .slots = line_reader_slots,
};
