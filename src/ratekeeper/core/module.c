/* The extension module ratekeeper.core._table. */
#include "glue.h"

PyTypeObject *rk_add_type(PyObject *module, PyType_Spec *spec, PyObject *base)
{
    PyObject *type = PyType_FromModuleAndSpec(module, spec, base);
    if (type && PyModule_AddType(module, (PyTypeObject *)type) < 0)
        Py_CLEAR(type);
    return (PyTypeObject *)type;
}

static int module_exec(PyObject *module)
{
    rk_module *state = PyModule_GetState(module);
    state->held = RK_NOT_HELD;
    PyObject *decisions = PyImport_ImportModule("ratekeeper.decision");
    PyObject *base = decisions ? PyObject_GetAttrString(decisions, "Decision") : NULL;
    Py_XDECREF(decisions);
    if (!base)
        return -1;
    state->decision = rk_add_decision_type(module, (PyTypeObject *)base);
    Py_DECREF(base);
    state->table = rk_add_type(module, &rk_table_spec, NULL);
    state->gate = rk_add_type(module, &rk_gate_spec, NULL);
    return state->decision && state->table && state->gate ? 0 : -1;
}

static int module_traverse(PyObject *module, visitproc visit, void *arg)
{
    rk_module *state = PyModule_GetState(module);
    Py_VISIT(state->decision);
    Py_VISIT(state->table);
    Py_VISIT(state->gate);
    return 0;
}

static int module_clear(PyObject *module)
{
    rk_module *state = PyModule_GetState(module);
    Py_CLEAR(state->decision);
    Py_CLEAR(state->table);
    Py_CLEAR(state->gate);
    return 0;
}

static PyObject *hold_time(PyObject *module, PyObject *args)
{
    rk_module *state = PyModule_GetState(module);
    long long held, ahead;
    if (!PyArg_ParseTuple(args, "LL", &held, &ahead))
        return NULL;
    __atomic_store_n(&state->ahead, ahead, __ATOMIC_RELAXED);
    __atomic_store_n(&state->held, held, __ATOMIC_RELAXED);
    Py_RETURN_NONE;
}

static PyMethodDef module_methods[] = {
    {"hold_time", hold_time, METH_VARARGS, NULL},
    {NULL},
};

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, module_exec},
#if PY_VERSION_HEX >= 0x030C0000
    {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED}, /* all state is the module's own */
#endif
    {0, NULL},
};

static PyModuleDef module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "ratekeeper.core._table",
    .m_doc = "The C core of ratekeeper.",
    .m_size = sizeof(rk_module),
    .m_methods = module_methods,
    .m_slots = module_slots,
    .m_traverse = module_traverse,
    .m_clear = module_clear,
};

PyMODINIT_FUNC PyInit__table(void)
{
    return PyModuleDef_Init(&module);
}
