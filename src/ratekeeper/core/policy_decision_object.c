/* NativePolicyDecision: the decision of a policy, as the numbers that its rules' decisions are made of when asked for.
 *
 * All else it inherits from ratekeeper.policy.decision.PolicyDecision. Like a decision, it is allocated as collectable
 * but never tracked. It refers to a compiled policy, strings and decisions, which do not refer to it. (A user's own limit
 * that holds a decision would not be collected.)
 */
#include <string.h>

#include "policy.h"

enum { PYTHON_SLOTS = 2 };

typedef struct {
    PyObject_HEAD
    PyObject *slots[PYTHON_SLOTS]; /* the base's: empty here */
    rk_policy policy;
    PyObject *rules, *missing; /* `rules`: the decision of each rule that matched, or NULL until somebody asks */
    int64_t cost;
    rk_rule_answer *answers; /* and the values of the slots, and the bytes of the keys */
    Py_ssize_t count, values; /* their numbers */
    char allowed, charged;
} rk_policy_decision_object;

static PyObject **values_of(const rk_policy_decision_object *self)
{
    return (PyObject **)(self->answers + self->count);
}

static char *keys_of(const rk_policy_decision_object *self)
{
    return (char *)(values_of(self) + self->values);
}

PyTypeObject *rk_add_policy_decision_type(PyObject *module, PyTypeObject *base)
{
    if (base->tp_basicsize != offsetof(rk_policy_decision_object, policy))
        return PyErr_SetString(PyExc_ImportError, "the C core was built for another ratekeeper: reinstall it"), NULL;
    return rk_add_type(module, &rk_policy_decision_spec, (PyObject *)base);
}

PyObject *rk_make_policy_decision(rk_module *module, rk_policy policy, rk_found *found, const rk_rule_answer *answers,
                                  Py_ssize_t count, bool allowed, bool charged)
{
    size_t size = (size_t)count * sizeof *answers, of_values = (size_t)found->slots * sizeof *found->values;
    rk_rule_answer *own = PyMem_Malloc(size + of_values + found->length);
    if (!own)
        return PyErr_NoMemory();
    rk_policy_decision_object *self = PyObject_GC_New(rk_policy_decision_object, module->policy_decision);
    if (!self) {
        PyMem_Free(own);
        return NULL;
    }
    memcpy(own, answers, size);
    for (Py_ssize_t i = 0; i < count; i++)
        Py_XINCREF(own[i].known);
    memset(self->slots, 0, sizeof self->slots);
    self->policy = policy;
    Py_INCREF((PyObject *)policy.matcher);
    self->rules = NULL;
    self->missing = Py_NewRef(found->missing ? found->missing : Py_None);
    self->cost = found->cost;
    self->answers = own;
    self->count = count;
    self->values = found->slots;
    memcpy(values_of(self), found->values, of_values);
    found->slots = 0;
    memcpy(keys_of(self), found->bytes, found->length);
    self->allowed = allowed;
    self->charged = charged;
    return (PyObject *)self;
}

bool rk_read_parts(const rk_module *module, PyObject *decision, rk_parts *parts)
{
    if (Py_TYPE(decision) != module->policy_decision)
        return false;
    const rk_policy_decision_object *self = (rk_policy_decision_object *)decision;
    *parts = (rk_parts){
        .policy = self->policy, .cost = self->cost, .values = values_of(self), .slots = self->values,
        .answers = self->answers, .count = self->count, .keys = keys_of(self), .allowed = self->allowed,
    };
    return true;
}

/* The decision of one rule: a RuleDecision, which is a named tuple. */
static PyObject *rule_decision(const rk_policy_decision_object *self, rk_module *module, Py_ssize_t i)
{
    const rk_rule_answer *answer = &self->answers[i];
    const char *bytes = keys_of(self);
    PyObject *rule = RK_AT(self->policy.matcher->rules, answer->match.rule), *limits = RK_AT(rule, RULE_LIMITS);
    Py_ssize_t place = answer->match.limit < 0 ? PyTuple_GET_SIZE(limits) - 1 : answer->match.limit;
    PyObject *limit = answer->known ? RK_AT(answer->known->limits, answer->place) : RK_AT(limits, place);
    PyObject *key = rk_text_of(bytes + answer->match.begin, answer->match.end - answer->match.begin);
    PyObject *decision = !key ? NULL
                              : rk_make_decision(module, limit, key, answer->match.cost, &answer->answer,
                                                 self->charged && answer->answer.allowed);
    Py_XDECREF(key);
    PyObject *made = decision ? module->rule_decision->tp_alloc(module->rule_decision, 5) : NULL;
    if (!made) {
        Py_XDECREF(decision);
        return NULL;
    }
#if PY_VERSION_HEX >= 0x030E0000
    ((PyTupleObject *)made)->ob_hash = -1; /* not known yet; the type's allocator leaves it 0, a hash */
#endif
    PyTuple_SET_ITEM(made, 0, Py_NewRef(RK_AT(rule, RULE_NAME)));
    PyTuple_SET_ITEM(made, 1, decision);
    PyTuple_SET_ITEM(made, 2, Py_NewRef(RK_AT(rule, RULE_SHADOW)));
    PyTuple_SET_ITEM(made, 3, Py_NewRef(RK_AT(rule, RULE_MESSAGE)));
    PyTuple_SET_ITEM(made, 4, PyLong_FromLong(answer->place));
    return made;
}

static PyObject *get_rules(rk_policy_decision_object *self, void *Py_UNUSED(closure))
{
    if (!self->rules) {
        rk_module *module = PyType_GetModuleState(Py_TYPE(self));
        PyObject *rules = PyTuple_New(self->count);
        for (Py_ssize_t i = 0; rules && i < self->count; i++) {
            PyObject *one = rule_decision(self, module, i);
            if (one)
                PyTuple_SET_ITEM(rules, i, one);
            else
                Py_CLEAR(rules);
        }
        if (!rules)
            return NULL;
        if (self->rules) /* another thread was faster: all must see the same decisions, which remember their refunds */
            Py_DECREF(rules);
        else
            self->rules = rules;
    }
    return Py_NewRef(self->rules);
}

/* As PolicyDecision.rule. */
static PyObject *get_rule(rk_policy_decision_object *self, void *Py_UNUSED(closure))
{
    Py_ssize_t binding = rk_most_binding(self->answers, self->count);
    if (binding < 0)
        Py_RETURN_NONE;
    PyObject *rules = get_rules(self, NULL), *rule = rules ? Py_NewRef(RK_AT(rules, binding)) : NULL;
    Py_XDECREF(rules);
    return rule;
}

/* Bytes that are equal for decisions alike but for numbers: the policy's number, and of each rule its place, that of its
 * limit, and whether it allowed. A limit that was looked up has no place there, so its numbers tell it. */
static PyObject *get_combination(rk_policy_decision_object *self, void *Py_UNUSED(closure))
{
    Py_ssize_t numbers = 1 + 2 * self->count, next = 0;
    for (Py_ssize_t i = 0; i < self->count; i++) {
        if (!self->answers[i].known)
            continue;
        if (!self->answers[i].limit.second)
            return PyObject_CallMethod((PyObject *)self, "_combination", NULL);
        numbers += 4;
    }
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, numbers * (Py_ssize_t)sizeof(int64_t));
    if (!bytes)
        return NULL;
    int64_t *all = (int64_t *)PyBytes_AS_STRING(bytes);
    all[next++] = (int64_t)self->policy.number;
    for (Py_ssize_t i = 0; i < self->count; i++) {
        const rk_rule_answer *answer = &self->answers[i];
        const rk_limit *limit = &answer->limit;
        int64_t place = answer->known ? -2 - 2 * answer->place - limit->queues : answer->match.limit;
        all[next++] = answer->match.rule;
        all[next++] = 2 * place + answer->answer.allowed;
        if (answer->known) {
            int64_t of_limit[4] = {limit->interval, limit->max_cost, limit->second, limit->parts};
            memcpy(all + next, of_limit, sizeof of_limit);
            next += 4;
        }
    }
    return bytes;
}

/* As PolicyDecision.tally: the policy's number, and of each limit its rule, its outcome and whether it is nearly used. */
static PyObject *get_tally(rk_policy_decision_object *self, void *Py_UNUSED(closure))
{
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, (1 + self->count) * (Py_ssize_t)sizeof(int64_t));
    if (!bytes)
        return NULL;
    int64_t *all = (int64_t *)PyBytes_AS_STRING(bytes);
    *all++ = 2 * (int64_t)self->policy.number + (self->missing != Py_None);
    for (Py_ssize_t i = 0; i < self->count; i++) {
        const rk_rule_answer *one = &self->answers[i];
        bool allowed = one->answer.allowed, delayed = allowed && !one->shadow && one->answer.delay;
        bool nearly = allowed && one->answer.debt > one->limit.full / 5 * 4;
        *all++ = 8 * (int64_t)one->match.rule + 4 * allowed + 2 * delayed + nearly;
    }
    return bytes;
}

/* As PolicyDecision.retry_after_seconds. */
static PyObject *get_retry_after_seconds(rk_policy_decision_object *self, void *Py_UNUSED(closure))
{
    return rk_retry_after_seconds((PyObject *)self, self->answers, self->allowed ? 0 : self->count);
}

/* As PolicyDecision.source: a table always answers. */
static PyObject *get_source(rk_policy_decision_object *Py_UNUSED(self), void *Py_UNUSED(closure))
{
    return PyUnicode_InternFromString("exact");
}

/* As PolicyDecision.undecided. */
static PyObject *get_undecided(rk_policy_decision_object *Py_UNUSED(self), void *Py_UNUSED(closure))
{
    Py_RETURN_FALSE;
}

/* As PolicyDecision.states. */
static PyObject *get_states(rk_policy_decision_object *self, void *Py_UNUSED(closure))
{
    return rk_states((PyObject *)self, self->answers, self->count);
}

/* As PolicyDecision.fill. */
static PyObject *policy_decision_fill(rk_policy_decision_object *self, PyObject *const *args, Py_ssize_t count)
{
    if (count != 2)
        return PyErr_Format(PyExc_TypeError, "fill takes 2 arguments, not %zd", count), NULL;
    return rk_fill((PyObject *)self, self->answers, self->count, args[0], args[1]);
}

static void policy_decision_dealloc(rk_policy_decision_object *self)
{
    PyTypeObject *type = Py_TYPE(self);
    Py_DECREF((PyObject *)self->policy.matcher);
    Py_XDECREF(self->rules);
    Py_DECREF(self->missing);
    for (Py_ssize_t i = 0; i < self->count; i++)
        Py_XDECREF(self->answers[i].known);
    for (Py_ssize_t i = 0; i < self->values; i++)
        Py_XDECREF(values_of(self)[i]);
    PyMem_Free(self->answers);
    PyObject_GC_Del(self);
    Py_DECREF(type);
}

static int policy_decision_traverse(rk_policy_decision_object *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->policy.matcher);
    Py_VISIT(self->rules);
    Py_VISIT(self->missing);
    return 0;
}

static int policy_decision_bool(rk_policy_decision_object *self)
{
    return self->allowed;
}

static PyMemberDef policy_decision_members[] = {
    {"allowed", T_BOOL, offsetof(rk_policy_decision_object, allowed), READONLY, NULL},
    {"missing", T_OBJECT_EX, offsetof(rk_policy_decision_object, missing), READONLY, NULL},
    {NULL},
};

static PyMethodDef policy_decision_methods[] = {
    {"fill", (PyCFunction)(void (*)(void))policy_decision_fill, METH_FASTCALL, NULL},
    {NULL},
};

static PyGetSetDef policy_decision_getters[] = {
    {"rules", (getter)get_rules, NULL, NULL, NULL},
    {"rule", (getter)get_rule, NULL, NULL, NULL},
    {"combination", (getter)get_combination, NULL, NULL, NULL},
    {"tally", (getter)get_tally, NULL, NULL, NULL},
    {"states", (getter)get_states, NULL, NULL, NULL},
    {"retry_after_seconds", (getter)get_retry_after_seconds, NULL, NULL, NULL},
    {"source", (getter)get_source, NULL, NULL, NULL},
    {"undecided", (getter)get_undecided, NULL, NULL, NULL},
    {NULL},
};

static PyType_Slot policy_decision_slots[] = {
    {Py_tp_doc, "A policy's decision made by the C core."},
    {Py_tp_dealloc, policy_decision_dealloc},
    {Py_tp_traverse, policy_decision_traverse},
    {Py_tp_methods, policy_decision_methods},
    {Py_tp_members, policy_decision_members},
    {Py_tp_getset, policy_decision_getters},
    {Py_nb_bool, policy_decision_bool},
    {0, NULL},
};

PyType_Spec rk_policy_decision_spec = {
    .name = "ratekeeper.core._table.NativePolicyDecision",
    .basicsize = sizeof(rk_policy_decision_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = policy_decision_slots,
};
