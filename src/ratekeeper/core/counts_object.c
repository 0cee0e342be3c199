/* Counts: whole numbers in memory that processes may share, each raised in one step. Its twin is counts.py. */
#include "glue.h"

typedef struct {
    PyObject_HEAD
    Py_buffer memory;
} rk_counts_object;

static PyObject *counts_new(PyTypeObject *type, PyObject *args, PyObject *Py_UNUSED(keywords))
{
    PyObject *memory;
    if (!PyArg_ParseTuple(args, "O", &memory))
        return NULL;
    rk_counts_object *self = (rk_counts_object *)type->tp_alloc(type, 0);
    if (!self)
        return NULL;
    if (PyObject_GetBuffer(memory, &self->memory, PyBUF_WRITABLE) < 0) {
        Py_DECREF(self);
        return NULL;
    }
    if ((uintptr_t)self->memory.buf % sizeof(int64_t)) {
        Py_DECREF(self);
        return PyErr_Format(PyExc_ValueError, "the memory of counts must begin at a multiple of 8"), NULL;
    }
    return (PyObject *)self;
}

static bool raise_one(rk_counts_object *self, PyObject *place)
{
    Py_ssize_t at = PyNumber_AsSsize_t(place, PyExc_IndexError);
    if (at == -1 && PyErr_Occurred())
        return false;
    if (at < 0 || at >= self->memory.len / (Py_ssize_t)sizeof(int64_t))
        return PyErr_Format(PyExc_IndexError, "count %zd is out of range", at), false;
    __atomic_fetch_add((int64_t *)self->memory.buf + at, 1, __ATOMIC_RELAXED);
    return true;
}

bool rk_add_counts(PyObject *counts, PyObject *places)
{
    rk_counts_object *self = (rk_counts_object *)counts;
    if (!PyTuple_CheckExact(places))
        return raise_one(self, places);
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(places); i++)
        if (!raise_one(self, PyTuple_GET_ITEM(places, i)))
            return false;
    return true;
}

static PyObject *counts_add(PyObject *self, PyObject *places)
{
    if (!rk_add_counts(self, places))
        return NULL;
    Py_RETURN_NONE;
}

/* The collector does not see it: it refers only to memory, which refers to nothing. */
static void counts_dealloc(rk_counts_object *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyBuffer_Release(&self->memory);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyMethodDef counts_methods[] = {
    {"add", counts_add, METH_O, "Raise the count at a place, or at each place of a tuple, by 1."},
    {NULL},
};

static PyType_Slot counts_slots[] = {
    {Py_tp_doc, "Whole numbers in memory that processes may share."},
    {Py_tp_new, counts_new},
    {Py_tp_dealloc, counts_dealloc},
    {Py_tp_methods, counts_methods},
    {0, NULL},
};

PyType_Spec rk_counts_spec = {
    .name = "ratekeeper.core._table.Counts",
    .basicsize = sizeof(rk_counts_object),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = counts_slots,
};
