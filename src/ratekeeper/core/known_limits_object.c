/* KnownLimits: the limits that were looked up for a bucket, and their numbers. Its twin is known_limits.py. Immutable. */
#include "policy.h"

static PyObject *known_limits_new(PyTypeObject *type, PyObject *args, PyObject *Py_UNUSED(keywords))
{
    PyObject *limits;
    long long stale_at;
    if (!PyArg_ParseTuple(args, "O!L", &PyTuple_Type, &limits, &stale_at))
        return NULL;
    Py_ssize_t count = PyTuple_GET_SIZE(limits);
    if (count > RK_MOST_LIMITS)
        return PyErr_Format(PyExc_ValueError, "a bucket has at most %d limits, not %zd", RK_MOST_LIMITS, count);
    rk_known_limits_object *self = (rk_known_limits_object *)type->tp_alloc(type, count);
    if (!self)
        return NULL;
    self->limits = Py_NewRef(limits);
    self->stale_at = stale_at;
    for (Py_ssize_t i = 0; i < count; i++)
        if (!rk_read_limit(RK_AT(limits, i), &self->numbers[i])) {
            Py_DECREF(self);
            return NULL;
        }
    return (PyObject *)self;
}

/* The collector does not see it: it refers only to limits, which refer to nothing. */
static void known_limits_dealloc(rk_known_limits_object *self)
{
    PyTypeObject *type = Py_TYPE(self);
    Py_XDECREF(self->limits);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyMemberDef known_limits_members[] = {
    {"limits", T_OBJECT_EX, offsetof(rk_known_limits_object, limits), READONLY, NULL},
    {"stale_at", T_LONGLONG, offsetof(rk_known_limits_object, stale_at), READONLY, NULL},
    {NULL},
};

static PyType_Slot known_limits_slots[] = {
    {Py_tp_doc, "The limits that were looked up for a bucket."},
    {Py_tp_new, known_limits_new},
    {Py_tp_dealloc, known_limits_dealloc},
    {Py_tp_members, known_limits_members},
    {0, NULL},
};

PyType_Spec rk_known_limits_spec = {
    .name = "ratekeeper.core._table.KnownLimits",
    .basicsize = sizeof(rk_known_limits_object),
    .itemsize = sizeof(rk_limit),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = known_limits_slots,
};
