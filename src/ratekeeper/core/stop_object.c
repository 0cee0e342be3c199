/* Answered: the StopIteration that ends an await. Since Python 3.12 `await` calls an iterator's `__next__`, not am_send. An
 * exception that is made and raised in the general way would cost as much as the decision.
 *
 * It is soon gone. The garbage collector does not see it.
 */
#include <string.h>

#include "glue.h"

typedef struct {
    PyStopIterationObject stop;
    rk_module *module; /* lives as long as the type */
} rk_stop_object;

/* Raise StopIteration with a value, as an iterator ends. */
void rk_stop_with(rk_module *module, PyObject *value)
{
#if PY_VERSION_HEX >= 0x030C0000
    rk_stop_object *stop = rk_take_spare(&module->spares.stop, module->stop);
    if (!stop)
        return;
    memset((char *)stop + sizeof(PyObject), 0, sizeof *stop - sizeof(PyObject));
    stop->stop.args = PyTuple_New(0);
    stop->stop.value = Py_NewRef(value);
    stop->module = module;
    PyErr_SetRaisedException((PyObject *)stop);
#else
    PyErr_SetObject(PyExc_StopIteration, value);
#endif
}

static void stop_dealloc(rk_stop_object *self)
{
    PyStopIterationObject *stop = &self->stop;
    if (stop->dict || stop->notes || stop->traceback || stop->context || stop->cause) /* Python code saw it */
        Py_TYPE(self)->tp_base->tp_clear((PyObject *)self);
    Py_CLEAR(stop->value);
    Py_CLEAR(stop->args);
    rk_keep_spare(&self->module->spares.stop, (PyObject *)self);
}

static int stop_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    return Py_TYPE(self)->tp_base->tp_traverse(self, visit, arg);
}

static PyType_Slot stop_slots[] = {
    {Py_tp_doc, "The end of an await."},
    {Py_tp_dealloc, stop_dealloc},
    {Py_tp_traverse, stop_traverse},
    {0, NULL},
};

static PyType_Spec stop_spec = {
    .name = "ratekeeper.core._table.Answered",
    .basicsize = sizeof(rk_stop_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = stop_slots,
};

PyTypeObject *rk_add_stop_type(PyObject *module)
{
    return rk_add_type(module, &stop_spec, PyExc_StopIteration);
}
