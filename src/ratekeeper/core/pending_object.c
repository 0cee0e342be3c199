/* Pending: a request that is decided when it is awaited. For code on asyncio it is a coroutine that costs less: its class
 * passes for a collections.abc.Coroutine, which tasks take. The twin in Python is ratekeeper.coroutines.Pending.
 *
 * It asks the gate once, at the await. An `acquire` whose turn has not come goes on in `inner`, the coroutine that waits.
 */
#include "gate.h"

enum { NEW, AWAITED, ASKED };

typedef struct {
    PyObject_HEAD
    rk_gate_object *gate;
    PyObject *given[3]; /* key, cost and timeout; NULL is the default */
    PyObject *inner;    /* or NULL */
    char state;
    bool waits;
    bool tracked; /* by the garbage collector: from when it has an `inner`, which may refer to it */
} rk_pending_object;

static const char *verb_of(const rk_pending_object *self)
{
    return self->waits ? "acquire" : "try_acquire";
}

PyObject *rk_make_pending(rk_gate_object *gate, bool waits, PyObject *const given[3])
{
    rk_module *module = gate->table->module;
    rk_pending_object *self = rk_take_spare(&module->spares.pending, module->pending);
    if (!self)
        return NULL;
    self->gate = (rk_gate_object *)Py_NewRef((PyObject *)gate);
    for (int i = 0; i < 3; i++)
        self->given[i] = Py_XNewRef(given[i]);
    self->inner = NULL;
    self->state = NEW;
    self->waits = waits;
    self->tracked = false;
    return (PyObject *)self;
}

/* As for a coroutine: nobody asked, so a caller that goes ahead is not limited. */
static void warn_never_awaited(const rk_pending_object *self)
{
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    if (PyErr_WarnFormat(PyExc_RuntimeWarning, 1, "%s was never awaited, so it asked nothing", verb_of(self)) < 0)
        PyErr_WriteUnraisable(NULL);
    PyErr_Restore(type, value, traceback);
}

static void pending_dealloc(rk_pending_object *self)
{
    rk_gate_object *gate = self->gate;
    if (self->tracked)
        PyObject_GC_UnTrack(self);
    if (self->state == NEW)
        warn_never_awaited(self);
    for (int i = 0; i < 3; i++)
        Py_XDECREF(self->given[i]);
    Py_XDECREF(self->inner);
    if (self->tracked) /* the collector may have taken the module before: see rk_spare */
        rk_free_dead((PyObject *)self);
    else
        rk_keep_spare(&gate->table->module->spares.pending, (PyObject *)self);
    Py_DECREF(gate);
}

static int pending_traverse(rk_pending_object *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->gate);
    for (int i = 0; i < 3; i++)
        Py_VISIT(self->given[i]);
    Py_VISIT(self->inner);
    return 0;
}

static int pending_clear(rk_pending_object *self)
{
    Py_CLEAR(self->inner);
    return 0;
}

/* ---- asking ---- */

static bool refuse_second_await(const rk_pending_object *self)
{
    PyErr_Format(PyExc_RuntimeError, "this %s was awaited already: call it again to ask again", verb_of(self));
    return false;
}

/* The coroutine that waits for the turn. */
static PyObject *start_wait(const rk_pending_object *self)
{
    PyObject *const *given = self->given, *one = given[1] ? NULL : PyLong_FromLong(1);
    if (!given[1] && !one)
        return NULL;
    PyObject *inner = PyObject_CallFunctionObjArgs(self->gate->wait, given[0], one ? one : given[1],
                                                   given[2] ? given[2] : Py_None, NULL);
    Py_XDECREF(one);
    return inner;
}

/* Return the decision, or NULL: with a Python error set, or with `inner` set. */
static PyObject *ask(rk_pending_object *self)
{
    rk_request request = {self->given[0], 1, self->given[2]};
    int64_t wait;
    self->state = ASKED; /* from now on, also if Python code of the caller runs */
    if ((self->given[1] && !rk_read_cost(self->given[1], &request.cost)) ||
        (request.timeout && !rk_read_wait(request.timeout, &wait)))
        return NULL;
    PyObject *decision = rk_ask_gate(self->gate, &request, 0);
    if (!decision || !self->waits || rk_is_allowed(decision))
        return decision;
    Py_DECREF(decision);
    self->inner = start_wait(self);
    if (self->inner) {
        self->tracked = true;
        PyObject_GC_Track((PyObject *)self);
    }
    return NULL;
}

static PySendResult pending_send(rk_pending_object *self, PyObject *value, PyObject **result)
{
    *result = NULL;
    if (self->state == ASKED && !self->inner)
        return refuse_second_await(self), PYGEN_ERROR;
    if (self->state != ASKED) {
        if (value != Py_None)
            return PyErr_SetString(PyExc_TypeError, "can't send non-None value to a just-started coroutine"), PYGEN_ERROR;
        *result = ask(self);
        if (!self->inner)
            return *result ? PYGEN_RETURN : PYGEN_ERROR;
    }
    PyObject *inner = Py_NewRef(self->inner); /* it may close its own Pending */
    PySendResult sent = PyIter_Send(inner, value, result);
    Py_DECREF(inner);
    if (sent != PYGEN_NEXT)
        Py_CLEAR(self->inner);
    return sent;
}

static PyObject *pending_iternext(rk_pending_object *self)
{
    PyObject *result;
    if (pending_send(self, Py_None, &result) == PYGEN_RETURN) {
        rk_stop_with(self->gate->table->module, result);
        Py_CLEAR(result);
    }
    return result;
}

static PyObject *pending_send_method(rk_pending_object *self, PyObject *value)
{
    PyObject *result;
    if (pending_send(self, value, &result) == PYGEN_RETURN) {
        PyErr_SetObject(PyExc_StopIteration, result);
        Py_CLEAR(result);
    }
    return result;
}

static PyObject *pending_await(rk_pending_object *self)
{
    if (self->state != NEW)
        return refuse_second_await(self), NULL;
    self->state = AWAITED;
    return Py_NewRef((PyObject *)self);
}

/* ---- throw and close ---- */

/* Raise what the arguments of throw() name: an exception, or a class, a value and a traceback. */
static PyObject *raise_given(PyObject *type, PyObject *value, PyObject *traceback)
{
    if (PyExceptionInstance_Check(type)) {
        value = type;
        type = (PyObject *)Py_TYPE(value);
    } else if (!PyExceptionClass_Check(type)) {
        return PyErr_Format(PyExc_TypeError, "exceptions must derive from BaseException, not %s", Py_TYPE(type)->tp_name);
    }
    PyErr_Restore(Py_NewRef(type), Py_XNewRef(value == Py_None ? NULL : value),
                  Py_XNewRef(traceback == Py_None ? NULL : traceback));
    return NULL;
}

static PyObject *pending_throw(rk_pending_object *self, PyObject *args)
{
    PyObject *type, *value = NULL, *traceback = NULL;
    if (!PyArg_ParseTuple(args, "O|OO:throw", &type, &value, &traceback))
        return NULL;
    if (!self->inner) {
        self->state = ASKED; /* by nobody: it charges nothing any more */
        return raise_given(type, value, traceback);
    }
    PyObject *inner = Py_NewRef(self->inner), *throw = PyObject_GetAttrString(inner, "throw");
    PyObject *result = throw ? PyObject_Call(throw, args, NULL) : NULL;
    Py_XDECREF(throw);
    Py_DECREF(inner);
    if (!result)
        Py_CLEAR(self->inner);
    return result;
}

static PyObject *pending_close(rk_pending_object *self, PyObject *Py_UNUSED(ignored))
{
    PyObject *inner = self->inner;
    self->state = ASKED;
    if (!inner)
        Py_RETURN_NONE;
    self->inner = NULL;
    PyObject *closed = PyObject_CallMethod(inner, "close", NULL);
    Py_DECREF(inner);
    return closed;
}

static int pending_bool(rk_pending_object *self)
{
    PyObject *globals = PyEval_GetGlobals(), *name = globals ? PyDict_GetItemString(globals, "__name__") : NULL;
    if (name && PyUnicode_Check(name) && PyUnicode_CompareWithASCIIString(name, "asyncio.base_tasks") == 0)
        return true; /* since Python 3.12, a task that is printed asks so whether it has a coroutine */
    PyErr_Format(PyExc_TypeError, "%s has no answer before it is awaited: write await limiter.%s(...)", verb_of(self),
                 verb_of(self));
    return -1;
}

/* For asyncio, which names a task's coroutine by it. */
static PyObject *pending_name(rk_pending_object *self, void *Py_UNUSED(closure))
{
    return PyUnicode_FromFormat("AsyncLimiter.%s", verb_of(self));
}

static PyMethodDef pending_methods[] = {
    {"send", (PyCFunction)pending_send_method, METH_O, NULL},
    {"throw", (PyCFunction)pending_throw, METH_VARARGS, NULL},
    {"close", (PyCFunction)pending_close, METH_NOARGS, NULL},
    {NULL},
};

static PyGetSetDef pending_names[] = {
    {"__name__", (getter)pending_name, NULL, NULL, NULL},
    {"__qualname__", (getter)pending_name, NULL, NULL, NULL},
    {NULL},
};

static PyType_Slot pending_slots[] = {
    {Py_tp_doc, "A request that is decided when it is awaited. Its truth is an error: nobody has asked yet."},
    {Py_tp_dealloc, pending_dealloc},
    {Py_tp_traverse, pending_traverse},
    {Py_tp_clear, pending_clear},
    {Py_tp_iternext, pending_iternext},
    {Py_am_await, pending_await},
    {Py_am_send, pending_send},
    {Py_nb_bool, pending_bool},
    {Py_tp_methods, pending_methods},
    {Py_tp_getset, pending_names},
    {0, NULL},
};

static PyType_Spec pending_spec = {
    .name = "ratekeeper.core._table.Pending",
    .basicsize = sizeof(rk_pending_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = pending_slots,
};

PyTypeObject *rk_add_pending_type(PyObject *module)
{
    return rk_add_type(module, &pending_spec, NULL);
}
