/* The extension module ratekeeper.core._table. */
#include "gate.h"
#include "headers.h"
#include "policy.h"

PyTypeObject *rk_add_type(PyObject *module, PyType_Spec *spec, PyObject *base)
{
    PyObject *type = PyType_FromModuleAndSpec(module, spec, base);
    if (type && PyModule_AddType(module, (PyTypeObject *)type) < 0)
        Py_CLEAR(type);
    return (PyTypeObject *)type;
}

/* A class of a Python module, or NULL with a Python error set. */
static PyTypeObject *imported(const char *name, const char *type)
{
    PyObject *of = PyImport_ImportModule(name);
    PyObject *found = of ? PyObject_GetAttrString(of, type) : NULL;
    Py_XDECREF(of);
    return (PyTypeObject *)found;
}

static int module_exec(PyObject *module)
{
    rk_module *state = PyModule_GetState(module);
    state->held = RK_NOT_HELD;
    PyTypeObject *decision = imported("ratekeeper.decision", "Decision");
    PyTypeObject *policy_decision = imported("ratekeeper.policy.decision", "PolicyDecision");
    state->rule_decision = imported("ratekeeper.decision", "RuleDecision");
    if (decision)
        state->decision = rk_add_decision_type(module, decision);
    if (policy_decision)
        state->policy_decision = rk_add_policy_decision_type(module, policy_decision);
    Py_XDECREF(decision);
    Py_XDECREF(policy_decision);
    if (!state->rule_decision || !state->decision || !state->policy_decision)
        return -1;
    state->table = rk_add_type(module, &rk_table_spec, NULL);
    state->gate = rk_add_type(module, &rk_gate_spec, NULL);
    state->matcher = rk_add_type(module, &rk_matcher_spec, NULL);
    state->policy_gate = rk_add_type(module, &rk_policy_gate_spec, NULL);
    state->pending = rk_add_pending_type(module);
    state->stop = rk_add_stop_type(module);
    state->known_limits = rk_add_type(module, &rk_known_limits_spec, NULL);
    state->counts = rk_add_type(module, &rk_counts_spec, NULL);
    state->recorder = rk_add_type(module, &rk_recorder_spec, NULL);
    state->sketch = rk_add_type(module, &rk_sketch_spec, NULL);
    state->line_reader = rk_add_type(module, &rk_line_reader_spec, NULL);
    state->head = rk_add_type(module, &rk_head_spec, NULL);
    state->throttle = rk_add_type(module, &rk_throttle_spec, NULL);
    for (int i = 0; i < RK_TYPES; i++)
        if (!state->types[i])
            return -1;
    return 0;
}

static void drop_spares(rk_module *state)
{
    for (int i = 0; i < RK_SPARES; i++) {
        rk_spare *spare = &state->spares.places[i];
        spare->closed = true;
        PyObject *dead = spare->dead;
        spare->dead = NULL;
        if (dead)
            rk_free_dead(dead);
    }
}

/* All of the module's types, in the order of its struct. */
static int module_traverse(PyObject *module, visitproc visit, void *arg)
{
    rk_module *state = PyModule_GetState(module);
    for (int i = 0; i < RK_TYPES; i++)
        Py_VISIT(state->types[i]);
    for (int i = 0; i < RK_SPARES; i++)
        if (state->spares.places[i].dead)
            Py_VISIT(Py_TYPE(state->spares.places[i].dead));
    return 0;
}

static int module_clear(PyObject *module)
{
    rk_module *state = PyModule_GetState(module);
    drop_spares(state);
    for (int i = 0; i < RK_TYPES; i++)
        Py_CLEAR(state->types[i]);
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
    {"find_header", (PyCFunction)(void (*)(void))rk_find_header, METH_FASTCALL,
     "find_header($module, lines, name, is_list, /)\n--\n\n"
     "Return the value of a header, None if it is missing or empty, or NotImplemented if its lines are unusual."},
    {"read_head", (PyCFunction)(void (*)(void))rk_read_head, METH_FASTCALL,
     "read_head($module, piece, most_lines, /)\n--\n\n"
     "Return the head of the request that a piece is, or None if it is unusual."},
    {"read_requests", rk_read_requests, METH_O,
     "read_requests($module, piece, /)\n--\n\n"
     "Return the usual requests of a Redis client with which a piece begins, and how many bytes they take."},
    {"write_envoy_answer", (PyCFunction)(void (*)(void))rk_write_envoy_answer, METH_FASTCALL,
     "write_envoy_answer($module, statuses, headers, end, /)\n--\n\nAs python_write_response in service/grpc/codec.py."},
    {"fill_envoy_answer", (PyCFunction)(void (*)(void))rk_fill_envoy_answer, METH_FASTCALL,
     "fill_envoy_answer($module, decision, limits, head, states, most, ends, key, /)\n--\n\n"
     "As python_answer in service/grpc/answers.py, for one decision; None if only Python can tell."},
    {NULL},
};

/* There is no Py_mod_gil, so a free-threaded interpreter takes its lock again when it loads this module. The table needs no
 * lock, but the places for spare objects do (see rk_spare), and so do the limits that a policy gate knows. */
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
