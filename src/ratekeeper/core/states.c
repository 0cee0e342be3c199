/* The numbers of a policy's decision: its most binding rule, the seconds until a retry, and the states. The states are
 * the tokens left for each rule, and the seconds until there is one more; as numbers, or written into a template. The
 * twin is PolicyDecision in policy/decision.py, which also answers where a limit's own rate does not fit 64 bits.
 */
#include <string.h>

#include "policy.h"

enum { DIGITS = 20, SHORT = 1024 };

/* The number of rules that are not in shadow; -1 if only Python can tell their states. */
static Py_ssize_t shown_of(const rk_rule_answer *answers, Py_ssize_t count)
{
    Py_ssize_t shown = 0;
    for (Py_ssize_t i = 0; i < count; i++) {
        if (!answers[i].limit.second)
            return -1;
        shown += !answers[i].shadow;
    }
    return shown;
}

static void read_state(const rk_rule_answer *answer, int64_t *tokens, int64_t *seconds)
{
    const rk_limit *limit = &answer->limit;
    int64_t left = limit->full - answer->answer.debt;
    *tokens = rk_tokens_left(limit, answer->answer.debt);
    *seconds = rk_whole_seconds(limit, limit->interval - ((rk_wide)left - *tokens * limit->interval));
}

Py_ssize_t rk_most_binding(const rk_rule_answer *answers, Py_ssize_t count)
{
    Py_ssize_t binding = -1;
    bool refused = false;
    int64_t worst = 0;
    for (Py_ssize_t i = 0; i < count; i++) {
        const rk_answer *answer = &answers[i].answer;
        if (answers[i].shadow || (refused && answer->allowed))
            continue;
        bool first = binding < 0 || refused == answer->allowed; /* a refusal is worse than all that allow */
        int64_t badness = answer->allowed ? -rk_tokens_left(&answers[i].limit, answer->debt) : answer->retry_after;
        if (first || badness > worst)
            binding = i, worst = badness;
        refused = !answer->allowed;
    }
    return binding;
}

PyObject *rk_retry_after_seconds(PyObject *decision, const rk_rule_answer *answers, Py_ssize_t count)
{
    int64_t longest = 0;
    for (Py_ssize_t i = 0; i < count; i++) {
        const rk_rule_answer *one = &answers[i];
        const rk_limit *limit = &one->limit;
        if (one->shadow || one->answer.allowed)
            continue;
        if (one->answer.retry_after == INT64_MAX)
            Py_RETURN_NONE;
        if (!limit->second)
            return PyObject_CallMethod(decision, "_retry_after_seconds", NULL);
        int64_t seconds = rk_whole_seconds(limit, one->answer.retry_after);
        seconds = seconds > 1 ? seconds : 1;
        longest = seconds > longest ? seconds : longest;
    }
    if (!longest)
        Py_RETURN_NONE;
    return PyLong_FromLongLong(longest);
}

PyObject *rk_states(PyObject *decision, const rk_rule_answer *answers, Py_ssize_t count)
{
    Py_ssize_t shown = shown_of(answers, count), next = 0;
    if (shown < 0)
        return PyObject_CallMethod(decision, "_states", NULL);
    PyObject *states = PyTuple_New(2 * shown);
    for (Py_ssize_t i = 0; states && i < count; i++) {
        int64_t tokens, seconds;
        if (answers[i].shadow)
            continue;
        read_state(&answers[i], &tokens, &seconds);
        PyObject *whole = PyLong_FromLongLong(tokens), *wait = PyLong_FromLongLong(seconds);
        PyTuple_SET_ITEM(states, next++, whole);
        PyTuple_SET_ITEM(states, next++, wait);
        if (!whole || !wait)
            Py_CLEAR(states);
    }
    return states;
}

bool rk_find_binding(const rk_rule_answer *answers, Py_ssize_t count, rk_binding *binding)
{
    Py_ssize_t place = shown_of(answers, count) < 0 ? -1 : rk_most_binding(answers, count);
    if (place < 0)
        return false;
    const rk_limit *limit = &answers[place].limit;
    int64_t debt = answers[place].answer.debt;
    *binding = (rk_binding){place, rk_tokens_left(limit, debt), rk_whole_seconds(limit, debt)};
    return true;
}

char *rk_put_number(char *next, int64_t number)
{
    char digits[DIGITS];
    int place = DIGITS;
    do
        digits[--place] = (char)('0' + number % 10);
    while (number /= 10);
    memcpy(next, digits + place, (size_t)(DIGITS - place));
    return next + DIGITS - place;
}

/* Put a piece of a template and a number, at most `most`; nothing if the piece is None. */
static char *put_part(char *next, PyObject *piece, int64_t number, int64_t most)
{
    if (piece == Py_None)
        return next;
    memcpy(next, PyBytes_AS_STRING(piece), (size_t)PyBytes_GET_SIZE(piece));
    return rk_put_number(next + PyBytes_GET_SIZE(piece), number < most ? number : most);
}

/* The most bytes that a template can become with two numbers for each of some rules; -1 if it is not for so many. */
static Py_ssize_t filled_length(PyObject *template, Py_ssize_t rules)
{
    Py_ssize_t length = 0, parts = PyTuple_GET_SIZE(template);
    if (parts != 2 * rules + 1 || RK_AT(template, parts - 1) == Py_None)
        return -1;
    for (Py_ssize_t i = 0; i < parts; i++)
        if (PyBytes_CheckExact(RK_AT(template, i)))
            length += PyBytes_GET_SIZE(RK_AT(template, i)) + DIGITS;
        else if (RK_AT(template, i) != Py_None)
            return -1;
    return length;
}

PyObject *rk_fill(PyObject *decision, const rk_rule_answer *answers, Py_ssize_t count, PyObject *template, PyObject *most)
{
    Py_ssize_t shown = shown_of(answers, count), part = 0;
    char few[SHORT], *bytes = few;
    if (!PyTuple_Check(template))
        return PyErr_SetString(PyExc_TypeError, "a template is a tuple"), NULL;
    int64_t largest = PyLong_AsLongLong(most);
    if (largest == -1 && PyErr_Occurred())
        return NULL;
    if (shown < 0)
        return PyObject_CallMethod(decision, "_fill", "OO", template, most);
    Py_ssize_t length = filled_length(template, shown);
    if (length < 0 || largest < 0)
        return PyErr_SetString(PyExc_ValueError, "the template is for other rules"), NULL;
    if (length > SHORT && !(bytes = PyMem_Malloc((size_t)length)))
        return PyErr_NoMemory();
    char *next = bytes;
    for (Py_ssize_t i = 0; i < count; i++) {
        int64_t tokens, seconds;
        if (answers[i].shadow)
            continue;
        read_state(&answers[i], &tokens, &seconds);
        next = put_part(next, RK_AT(template, part++), tokens, largest);
        next = put_part(next, RK_AT(template, part++), seconds, largest);
    }
    PyObject *last = RK_AT(template, part);
    memcpy(next, PyBytes_AS_STRING(last), (size_t)PyBytes_GET_SIZE(last));
    PyObject *filled = PyBytes_FromStringAndSize(bytes, next + PyBytes_GET_SIZE(last) - bytes);
    if (bytes != few)
        PyMem_Free(bytes);
    return filled;
}
