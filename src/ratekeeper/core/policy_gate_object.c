/* PolicyGate: a policy on one table. Attributes in, one decision out; no Python code runs, but for globs and odd costs. */
#include <string.h>

#include "policy.h"

typedef struct {
    rk_scope scope;
    rk_limit *limits; /* of its overrides, and last its own */
    Py_ssize_t last;
    int64_t wait; /* ticks that a request may wait: none, but for a rule in shadow */
    bool shadow;
} rk_policy_rule;

typedef struct {
    PyObject_VAR_HEAD
    rk_table_object *table;
    rk_matcher_object *matcher;
    rk_limit *limits;    /* of all rules */
    PyObject *asked;     /* asked for limits that are not known; NULL if all are fixed */
    rk_lookup **lookups; /* of each rule, or NULL: the limits that are looked up. NULL if all are fixed */
    uint64_t resets_seen;
    uint64_t number;     /* the policy's, in this interpreter */
    rk_policy_rule rules[];
} rk_policy_gate_object;

static const rk_limit *limit_of(const rk_policy_gate_object *self, const rk_match *match)
{
    const rk_policy_rule *rule = &self->rules[match->rule];
    return &rule->limits[match->limit < 0 ? rule->last : match->limit];
}

static bool is_looked_up(const rk_policy_gate_object *self, const rk_match *match)
{
    return match->limit < 0 && self->lookups && self->lookups[match->rule];
}

/* If a rule that is not in shadow refuses all, nothing else is charged, so nothing else is looked at. */
static void drop_if_refused(const rk_policy_gate_object *self, rk_found *found)
{
    for (Py_ssize_t i = 0; i < found->count; i++) {
        const rk_match *match = &found->matches[i];
        if (limit_of(self, match)->max_cost < 0 && !self->rules[match->rule].shadow && !is_looked_up(self, match)) {
            found->matches[0] = *match;
            found->count = 1;
        }
    }
}

/* As rk_renew_gate. */
RK_COLD static void renew(rk_policy_gate_object *self)
{
    const rk_table *table = &self->table->table;
    self->resets_seen = rk_read_resets(table, self->resets_seen);
    for (Py_ssize_t i = 0; i < Py_SIZE(self); i++) {
        rk_renew_scope(table, &self->rules[i].scope, self->resets_seen);
        for (int place = 0; self->lookups && self->lookups[i] && place < RK_MOST_LIMITS; place++)
            rk_renew_scope(table, &self->lookups[i]->scopes[place], self->resets_seen);
    }
}

/* Set the demand of one limit of a rule that matches. */
static inline void set_demand(rk_policy_gate_object *self, const rk_found *found, const rk_match *match,
                              rk_key scope_key, const rk_limit *limit, rk_demand *demand, rk_rule_answer *answer)
{
    const rk_policy_rule *rule = &self->rules[match->rule];
    demand->fingerprint = rk_fingerprint(scope_key, found->bytes + match->begin, match->end - match->begin);
    rk_prefetch(&self->table->table, demand->fingerprint);
    answer->limit = *limit;
    answer->match = *match;
    answer->shadow = rule->shadow;
    rk_set_terms(&answer->limit, match->cost, rule->wait, demand);
    demand->shadow = rule->shadow;
}

/* Set the demands of all limits that were looked up for a rule. Return their number. */
static Py_ssize_t set_demands(rk_policy_gate_object *self, const rk_found *found, const rk_match *match,
                              rk_known_limits_object *known, rk_demand *demands, rk_rule_answer *answers)
{
    const rk_lookup *lookup = self->lookups[match->rule];
    for (Py_ssize_t i = 0; i < Py_SIZE(known); i++) {
        set_demand(self, found, match, lookup->scopes[i].key, &known->numbers[i], &demands[i], &answers[i]);
        answers[i].known = known;
        answers[i].place = (int)i;
    }
    return Py_SIZE(known);
}

/* `known` is what is known for each match, or NULL if all limits are fixed. */
static PyObject *decide(rk_policy_gate_object *self, rk_found *found, PyObject *const *known, int64_t now,
                        rk_demand *demands, rk_rule_answer *answers)
{
    rk_table_object *table = self->table;
    Py_ssize_t count = 0;
    if (rk_was_reset(&table->table, self->resets_seen))
        renew(self);
    for (Py_ssize_t i = 0; i < found->count; i++) {
        rk_match *match = &found->matches[i];
        if (__builtin_mul_overflow(match->cost, found->cost, &match->cost))
            match->cost = INT64_MAX;
        if (known && known[i]) {
            count += set_demands(self, found, match, (rk_known_limits_object *)known[i], demands + count, answers + count);
            continue;
        }
        rk_key scope_key = self->rules[match->rule].scope.key;
        set_demand(self, found, match, scope_key, limit_of(self, match), &demands[count], &answers[count]);
        answers[count].known = NULL;
        answers[count++].place = 0;
    }
    for (Py_ssize_t i = 0; known && i < count; i++) /* as drop_if_refused, of limits that were looked up */
        if (answers[i].limit.max_cost < 0 && !answers[i].shadow) {
            answers[0] = answers[i];
            demands[0] = demands[i];
            count = 1;
        }
    if (now == RK_NOT_READ && !rk_read_clock(table, &now))
        return NULL;
    bool allowed = rk_charge_all(&table->table, demands, (size_t)count, now, true, &table->later);
    if (table->clock && PyErr_Occurred())
        return NULL;
    for (Py_ssize_t i = 0; i < count; i++)
        answers[i].answer = answers[i].limit.max_cost < 0 ? RK_REFUSED : demands[i].answer;
    rk_policy policy = {self->matcher, self->number};
    return rk_make_policy_decision(table->module, policy, found, answers, count, allowed && !found->missing, allowed);
}

/* Decide a request by `most` limits at most. */
static PyObject *decide_with_room(rk_policy_gate_object *self, rk_found *found, PyObject *const *known, Py_ssize_t most,
                                  int64_t now)
{
    rk_demand few_demands[RK_FEW], *demands = few_demands;
    rk_rule_answer few_answers[RK_FEW], *answers = few_answers;
    PyObject *decision = NULL;
    if (most > RK_FEW) {
        demands = PyMem_New(rk_demand, most);
        answers = PyMem_New(rk_rule_answer, most);
    }
    if (demands && answers)
        decision = decide(self, found, known, now, demands, answers);
    else
        PyErr_NoMemory();
    if (demands != few_demands) {
        PyMem_Free(demands);
        PyMem_Free(answers);
    }
    return decision;
}

/* Decide a request by a policy with limits that are looked up. */
static PyObject *decide_looked_up(rk_policy_gate_object *self, rk_found *found)
{
    PyObject *few_known[RK_FEW] = {NULL}, **known = few_known, *decision = NULL;
    Py_ssize_t few_places[RK_FEW], *places = few_places, most = 0;
    int64_t now;
    if (found->count > RK_FEW) {
        known = PyMem_Calloc((size_t)found->count, sizeof *known);
        places = PyMem_New(Py_ssize_t, found->count);
    }
    if (!known || !places) {
        PyErr_NoMemory();
    } else if (rk_find_limits(self->table, self->matcher, self->asked, self->lookups, found, known, places, &now)) {
        for (Py_ssize_t i = 0; i < found->count; i++)
            most += known[i] ? Py_SIZE(known[i]) : 1;
        decision = decide_with_room(self, found, known, most, now);
    }
    for (Py_ssize_t i = 0; known && i < found->count; i++)
        Py_XDECREF(known[i]);
    if (known != few_known)
        PyMem_Free(known);
    if (places != few_places)
        PyMem_Free(places);
    return decision;
}

/* Reads (attributes, cost=1), by position or by name. */
static bool read_arguments(PyObject *const *args, Py_ssize_t count, PyObject *keywords, PyObject **attributes,
                           int64_t *cost)
{
    static const char *const names[2] = {"attributes", "cost"};
    PyObject *given[2] = {NULL, NULL};
    return rk_read_arguments("try_acquire", args, count, keywords, names, 2, given) &&
           (*attributes = given[0], !given[1] || rk_read_cost(given[1], cost));
}

static PyObject *policy_gate_try_acquire(rk_policy_gate_object *self, PyObject *const *args, Py_ssize_t count,
                                         PyObject *keywords)
{
    rk_found found;
    PyObject *attributes, *decision = NULL;
    found.cost = 1;
    if (!read_arguments(args, count, keywords, &attributes, &found.cost))
        return NULL;
    bool read = rk_find_rules(self->matcher, attributes, &found);
    if (read && found.missing)
        found.count = 0, found.length = 0; /* what matched before is not charged */
    else if (read)
        drop_if_refused(self, &found);
    if (read && self->asked)
        decision = decide_looked_up(self, &found);
    else if (read)
        decision = decide_with_room(self, &found, NULL, found.count, RK_NOT_READ);
    rk_release_found(&found);
    return decision;
}

static bool bind_rule(rk_policy_gate_object *self, Py_ssize_t place, rk_limit *limits)
{
    rk_policy_rule *rule = &self->rules[place];
    PyObject *compiled = RK_AT(self->matcher->rules, place), *of_rule = RK_AT(compiled, RULE_LIMITS);
    Py_ssize_t length;
    const char *scope = PyUnicode_AsUTF8AndSize(RK_AT(compiled, RULE_SCOPE), &length);
    if (!scope || !rk_read_ticks(RK_AT(compiled, RULE_WAIT), &rule->wait))
        return false;
    rule->scope = rk_bind_scope(&self->table->table, scope, (size_t)length, self->resets_seen);
    rule->shadow = RK_AT(compiled, RULE_SHADOW) == Py_True;
    rule->limits = limits;
    rule->last = PyTuple_GET_SIZE(of_rule) - 1;
    for (Py_ssize_t i = 0; i <= rule->last; i++)
        if (!rk_read_limit(RK_AT(of_rule, i), &limits[i]))
            return false;
    return !self->lookups || rk_bind_lookup(&self->table->table, compiled, &self->lookups[place]);
}

PyObject *rk_make_policy_gate(rk_table_object *table, rk_matcher_object *matcher, PyObject *asked)
{
    Py_ssize_t count = PyTuple_GET_SIZE(matcher->rules), limits = 0;
    PyTypeObject *type = table->module->policy_gate;
    rk_policy_gate_object *self = (rk_policy_gate_object *)type->tp_alloc(type, count);
    if (!self)
        return NULL;
    self->table = (rk_table_object *)Py_NewRef((PyObject *)table);
    self->matcher = (rk_matcher_object *)Py_NewRef((PyObject *)matcher);
    self->resets_seen = rk_read_resets(&table->table, 0);
    self->number = ++table->module->policies;
    for (Py_ssize_t i = 0; i < count; i++)
        limits += PyTuple_GET_SIZE(RK_AT(RK_AT(matcher->rules, i), RULE_LIMITS));
    self->limits = PyMem_New(rk_limit, limits);
    self->asked = Py_XNewRef(asked);
    self->lookups = asked ? PyMem_Calloc((size_t)count, sizeof *self->lookups) : NULL;
    bool bound = self->limits && (self->lookups || !asked);
    if (!bound)
        PyErr_NoMemory();
    rk_limit *next = self->limits;
    for (Py_ssize_t i = 0; bound && i < count; i++) {
        bound = bind_rule(self, i, next);
        next += self->rules[i].last + 1;
    }
    if (!bound)
        Py_CLEAR(self);
    return (PyObject *)self;
}

static int policy_gate_traverse(rk_policy_gate_object *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->table);
    Py_VISIT(self->matcher);
    Py_VISIT(self->asked);
    return 0;
}

/* No tp_clear: as a Gate, it must keep what it asks. */
static void policy_gate_dealloc(rk_policy_gate_object *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    PyMem_Free(self->limits);
    for (Py_ssize_t i = 0; self->lookups && i < Py_SIZE(self); i++)
        rk_free_lookup(self->lookups[i]);
    PyMem_Free(self->lookups);
    Py_XDECREF(self->asked);
    Py_XDECREF(self->matcher);
    Py_XDECREF(self->table);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyMethodDef policy_gate_methods[] = {
    {"try_acquire", (PyCFunction)(void (*)(void))policy_gate_try_acquire, METH_FASTCALL | METH_KEYWORDS,
     "try_acquire($self, attributes, cost=1)\n--\n\n"
     "Decide one request and charge it if it is allowed: true if it may go ahead at this moment. Never blocks."},
    {NULL},
};

static PyType_Slot policy_gate_slots[] = {
    {Py_tp_doc, "A policy on one table."},
    {Py_tp_dealloc, policy_gate_dealloc},
    {Py_tp_traverse, policy_gate_traverse},
    {Py_tp_methods, policy_gate_methods},
    {0, NULL},
};

PyType_Spec rk_policy_gate_spec = {
    .name = "ratekeeper.core._table.PolicyGate",
    .basicsize = sizeof(rk_policy_gate_object),
    .itemsize = sizeof(rk_policy_rule),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = policy_gate_slots,
};
