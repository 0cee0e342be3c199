/* Gate: the limits of one limiter bound to one table. Its methods are the hot path: no Python code runs on them. */
#include "gate.h"

/* A scope has been reset: bring our keys up to date. Seldom called, so out of the way of the hot path. */
RK_COLD void rk_renew_gate(rk_gate_object *self)
{
    const rk_table *table = &self->table->table;
    self->resets_seen = rk_read_resets(table, self->resets_seen);
    for (Py_ssize_t i = 0; i < Py_SIZE(self); i++)
        rk_renew_scope(table, &self->limits[i].scope, self->resets_seen);
}

static void set_fingerprints(rk_gate_object *self, const rk_text *text, rk_demand *demands)
{
    if (rk_was_reset(&self->table->table, self->resets_seen))
        rk_renew_gate(self);
    for (Py_ssize_t i = 0; i < Py_SIZE(self); i++)
        demands[i].fingerprint = rk_fingerprint(self->limits[i].scope.key, text->bytes, (size_t)text->length);
}

/* The limit that speaks for all: the longest to wait for when refused, or else the least left. As most_restrictive(). */
static Py_ssize_t most_restrictive(const rk_gate_object *self, const rk_demand *demands, bool allowed)
{
    Py_ssize_t binding = -1;
    int64_t worst = 0;
    for (Py_ssize_t i = 0; i < Py_SIZE(self); i++) {
        const rk_answer *answer = &demands[i].answer;
        if (!allowed && answer->allowed)
            continue;
        int64_t left = answer->debt < self->limits[i].is.full ? (self->limits[i].is.full - answer->debt) : 0;
        int64_t badness = allowed ? -(left / self->limits[i].is.interval) : answer->retry_after;
        if (binding < 0 || badness > worst)
            binding = i, worst = badness;
    }
    return binding;
}

/* One request against all the gate's limits. `wait` is how long its caller would wait, in ticks. */
PyObject *rk_ask_gate(rk_gate_object *self, const rk_request *request, int64_t wait)
{
    rk_table_object *table = self->table;
    rk_demand demands[RK_MANY];
    rk_text text;
    int64_t now;
    if (!rk_read_key(request->key, &text))
        return NULL;
    set_fingerprints(self, &text, demands);
    Py_XDECREF(text.owner);
    for (Py_ssize_t i = 0; i < Py_SIZE(self); i++)
        rk_prefetch(&table->table, demands[i].fingerprint);
    for (Py_ssize_t i = 0; i < Py_SIZE(self); i++)
        rk_set_terms(&self->limits[i].is, request->cost, wait, &demands[i]);
    if (!rk_read_clock(table, &now))
        return NULL;
    if (Py_SIZE(self) == 1 && !demands->impossible && !rk_may_block(&table->table, now)) { /* the hot path */
        rk_answer only = rk_charge(&table->table, demands->fingerprint, now, demands->terms, true, &table->later);
        if (table->clock && PyErr_Occurred())
            return NULL;
        return rk_make_decision(table->module, self->limits->limit, request->key, request->cost, &only, only.allowed);
    }
    bool allowed = rk_charge_all(&table->table, demands, (size_t)Py_SIZE(self), now, true, &table->later);
    if (table->clock && PyErr_Occurred())
        return NULL;
    Py_ssize_t binding = 0;
    rk_answer answer = demands[0].answer;
    if (Py_SIZE(self) > 1) {
        binding = most_restrictive(self, demands, allowed);
        answer = demands[binding].answer;
        for (Py_ssize_t i = 0; i < Py_SIZE(self); i++) {
            if (demands[i].answer.delay > answer.delay) /* a caller goes ahead when the last limit lets it */
                answer.delay = demands[i].answer.delay;
            if (demands[i].answer.at < answer.at) /* the first charge's: a refund must not give back what refilled since */
                answer.at = demands[i].answer.at;
        }
    }
    return rk_make_decision(table->module, self->limits[binding].limit, request->key, request->cost, &answer, allowed);
}

static PyObject *gate_try_acquire(rk_gate_object *self, PyObject *const *args, Py_ssize_t count, PyObject *keywords)
{
    rk_request request;
    if (!rk_read_request("try_acquire", args, count, keywords, 2, &request))
        return NULL;
    return rk_ask_gate(self, &request, 0);
}

/* The turn has come already: no Python code runs. It has not: `wait` does the rest, with the same arguments. */
static PyObject *gate_acquire(rk_gate_object *self, PyObject *const *args, Py_ssize_t count, PyObject *keywords)
{
    rk_request request;
    int64_t wait;
    if (!rk_read_request("acquire", args, count, keywords, 3, &request) ||
        (request.timeout && !rk_read_wait(request.timeout, &wait)))
        return NULL;
    PyObject *decision = rk_ask_gate(self, &request, 0);
    if (!decision || rk_is_allowed(decision))
        return decision;
    Py_DECREF(decision);
    return PyObject_Vectorcall(self->wait, args, (size_t)count, keywords);
}

static PyObject *gate_reserve(rk_gate_object *self, PyObject *const *args, Py_ssize_t count, PyObject *keywords)
{
    rk_request request;
    int64_t wait = RK_MAX_AHEAD;
    if (!rk_read_request("reserve", args, count, keywords, 3, &request) ||
        (request.timeout && !rk_read_wait(request.timeout, &wait)))
        return NULL;
    return rk_ask_gate(self, &request, wait);
}

/* The verbs to await: the same questions, asked when they are awaited. */
static PyObject *gate_try_acquire_pending(rk_gate_object *self, PyObject *const *args, Py_ssize_t count,
                                          PyObject *keywords)
{
    PyObject *given[3] = {count ? args[0] : NULL, NULL, NULL};
    if ((count != 1 || keywords) && !rk_read_names("try_acquire", args, count, keywords, 2, given))
        return NULL;
    return rk_make_pending(self, false, given);
}

static PyObject *gate_acquire_pending(rk_gate_object *self, PyObject *const *args, Py_ssize_t count, PyObject *keywords)
{
    PyObject *given[3] = {count ? args[0] : NULL, NULL, NULL};
    if ((count != 1 || keywords) && !rk_read_names("acquire", args, count, keywords, 3, given))
        return NULL;
    return rk_make_pending(self, true, given);
}

static bool bind_limit(rk_gate_object *self, Py_ssize_t i, PyObject *scope, PyObject *limit)
{
    rk_gate_limit *bound = &self->limits[i];
    Py_ssize_t length;
    const char *name = PyUnicode_AsUTF8AndSize(scope, &length);
    if (!name)
        return false;
    bound->scope = rk_bind_scope(&self->table->table, name, (size_t)length, self->resets_seen);
    bound->limit = Py_NewRef(limit);
    return rk_read_limit(limit, &bound->is);
}

PyObject *rk_make_gate(rk_table_object *table, PyObject *scopes, PyObject *limits, PyObject *wait)
{
    Py_ssize_t count = PyTuple_GET_SIZE(limits);
    if (count < 1 || count > RK_MANY || PyTuple_GET_SIZE(scopes) != count)
        return PyErr_Format(PyExc_ValueError, "a limiter takes 1 to %d limits, each with its scope", RK_MANY);
    PyTypeObject *type = table->module->gate;
    rk_gate_object *self = (rk_gate_object *)type->tp_alloc(type, count);
    if (!self)
        return NULL;
    self->table = (rk_table_object *)Py_NewRef((PyObject *)table);
    self->wait = Py_NewRef(wait);
    self->resets_seen = rk_read_resets(&table->table, 0);
    for (Py_ssize_t i = 0; i < count; i++)
        if (!bind_limit(self, i, PyTuple_GET_ITEM(scopes, i), PyTuple_GET_ITEM(limits, i))) {
            Py_DECREF(self);
            return NULL;
        }
    return (PyObject *)self;
}

static int gate_traverse(rk_gate_object *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->table);
    Py_VISIT(self->wait);
    for (Py_ssize_t i = 0; i < Py_SIZE(self); i++)
        Py_VISIT(self->limits[i].limit);
    return 0;
}

/* No tp_clear: a gate must keep what it calls. A cycle through it would be broken at the table's clock. */
static void gate_dealloc(rk_gate_object *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    for (Py_ssize_t i = 0; i < Py_SIZE(self); i++)
        Py_XDECREF(self->limits[i].limit);
    Py_XDECREF(self->wait);
    Py_XDECREF(self->table);
    type->tp_free(self);
    Py_DECREF(type);
}

#define FAST(function) (PyCFunction)(void (*)(void))function, METH_FASTCALL | METH_KEYWORDS

static PyMethodDef gate_methods[] = {
    {"try_acquire", FAST(gate_try_acquire),
     "try_acquire($self, key, cost=1)\n--\n\n"
     "Ask for cost tokens for key. Returns a Decision, true if the caller may go ahead at this moment. Never blocks."},
    {"acquire", FAST(gate_acquire),
     "acquire($self, key, cost=1, timeout=None)\n--\n\n"
     "Wait for the turn of cost tokens for key; return the Decision when it has come.\n\n"
     "timeout is in seconds, as in queue.Queue.get: None waits as long as it takes, 0 not at all. Raises\n"
     "RateLimitExceeded at once if the turn would come later, if a leaky bucket's queue is full, or if cost can never\n"
     "pass. If the wait is interrupted, the place is given back, and those behind move up; see docs/waiting.md."},
    {"reserve", FAST(gate_reserve),
     "reserve($self, key, cost=1, timeout=None)\n--\n\n"
     "As try_acquire, for a caller who is willing to wait timeout seconds; the decision's delay says how long."},
    {"try_acquire_many", (PyCFunction)(void (*)(void))rk_try_acquire_many, METH_VARARGS | METH_KEYWORDS,
     "try_acquire_many($self, keys, cost=1)\n--\n\n"
     "Ask once for each key, in order, at one instant. Returns a list of bool: may it go ahead at this moment?"},
    {"try_acquire_pending", FAST(gate_try_acquire_pending),
     "try_acquire_pending($self, key, cost=1)\n--\n\n"
     "As try_acquire, to be awaited: asks, and raises for a bad key or cost, at the await."},
    {"acquire_pending", FAST(gate_acquire_pending),
     "acquire_pending($self, key, cost=1, timeout=None)\n--\n\n"
     "As acquire, to be awaited. A waiting task that is cancelled gives its place back."},
    {"throttle", (PyCFunction)rk_make_throttle, METH_VARARGS, "throttle($self, cost, heads, counts, places, /)\n--\n\n"
     "Return a Throttle of the only limit; None if its own rate does not fit 64 bits."},
    {"fill_envoy_answer", (PyCFunction)(void (*)(void))rk_gate_fill_envoy_answer, METH_FASTCALL,
     "fill_envoy_answer($self, decision, limits, head, states, most, ends, key, /)\n--\n\n"
     "As the function of this name, for a decision of this gate, which has one limit."},
    {NULL},
};

static PyType_Slot gate_slots[] = {
    {Py_tp_doc, "The limits of one limiter bound to one table."},
    {Py_tp_dealloc, gate_dealloc},
    {Py_tp_traverse, gate_traverse},
    {Py_tp_methods, gate_methods},
    {0, NULL},
};

PyType_Spec rk_gate_spec = {
    .name = "ratekeeper.core._table.Gate",
    .basicsize = sizeof(rk_gate_object),
    .itemsize = sizeof(rk_gate_limit),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = gate_slots,
};
