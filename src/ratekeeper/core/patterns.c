/* The tests of a policy's patterns on values, its exemptions and its overrides. Knows no rule.
 *
 * It reads what policy/patterns.py and policy/compiled_rule.py make: named tuples, whose fields are listed here in their
 * order. They never change, so what is borrowed from them stays. Functions that return an int return 1 for yes, 0 for no,
 * and -1 with a Python error set.
 */
#include <string.h>

#include "matcher.h"

enum { OVERRIDES_ENTRIES, OVERRIDES_RANKS, OVERRIDES_NAMES, OVERRIDES_SLOTS };
enum { INDEX_EXACT, INDEX_HEADS, INDEX_TAILS, INDEX_NETWORKS };
enum { NETWORK_STARTS, NETWORK_SPANS, NETWORK_KEY_OF, NETWORK_JOINED };
enum { ENTRIES_ALWAYS, ENTRIES_TABLES, ENTRIES_LOOKUPS, ENTRIES_TESTS };
enum { ADDRESS_BYTES = 17 };

/* Called with the places of the entries that a value may match. 1 ends the search. */
typedef int (*visitor)(void *context, PyObject *places);

/* ---- one value ---- */

static int visit_key(PyObject *dictionary, PyObject *key, visitor visit, void *context)
{
    PyObject *places = PyDict_GetItemWithError(dictionary, key);
    return places ? visit(context, places) : PyErr_Occurred() ? -1 : 0;
}

/* Prefixes, or suffixes if `tail`: for each length a dictionary, often of one. */
static int visit_literals(PyObject *literals, PyObject *value, bool tail, visitor visit, void *context)
{
    Py_ssize_t size = PyUnicode_GET_LENGTH(value);
    int result = 0;
    for (Py_ssize_t i = 0; !result && i < PyTuple_GET_SIZE(literals); i++) {
        Py_ssize_t length = rk_number_at(RK_AT(literals, i), 0), next = 0;
        PyObject *dictionary = RK_AT(RK_AT(literals, i), 1), *only, *places;
        if (length > size)
            continue;
        if (PyDict_GET_SIZE(dictionary) == 1 && PyDict_Next(dictionary, &next, &only, &places)) {
            Py_ssize_t same = PyUnicode_Tailmatch(value, only, 0, size, tail ? 1 : -1);
            result = same > 0 ? visit(context, places) : (int)same;
            continue;
        }
        PyObject *part = PyUnicode_Substring(value, tail ? size - length : 0, tail ? size : length);
        result = part ? visit_key(dictionary, part, visit, context) : -1;
        Py_XDECREF(part);
    }
    return result;
}

/* The key of an IPv4 address in its usual form, as Bits.key in policy/addresses.py. */
static bool read_ipv4(PyObject *value, unsigned char *key)
{
    Py_ssize_t size = PyUnicode_GET_LENGTH(value), at = 0;
    if (!PyUnicode_IS_ASCII(value) || size < 7 || size > 15)
        return false;
    const unsigned char *text = PyUnicode_DATA(value);
    memset(key, 0, ADDRESS_BYTES);
    key[0] = 4;
    for (int part = 0; part < 4; part++) {
        unsigned number = 0;
        Py_ssize_t begin = at;
        for (; at < size && text[at] >= '0' && text[at] <= '9' && at - begin < 3; at++)
            number = number * 10 + (text[at] - '0');
        if (at == begin || number > 255 || (text[begin] == '0' && at - begin > 1) || (part < 3 && (at == size || text[at++] != '.')))
            return false;
        key[ADDRESS_BYTES - 4 + part] = (unsigned char)number;
    }
    return at == size;
}

/* The last span that begins at the key or before it; -1 if there is none. */
static Py_ssize_t span_of(PyObject *joined, const void *key)
{
    const char *keys = PyBytes_AS_STRING(joined);
    Py_ssize_t low = 0, high = PyBytes_GET_SIZE(joined) / ADDRESS_BYTES;
    while (low < high) {
        Py_ssize_t middle = low + (high - low) / 2;
        if (memcmp(keys + middle * ADDRESS_BYTES, key, ADDRESS_BYTES) <= 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low - 1;
}

static int visit_networks(PyObject *networks, PyObject *value, visitor visit, void *context)
{
    unsigned char own[ADDRESS_BYTES];
    const void *key = own;
    Py_ssize_t known = 32;
    PyObject *other = NULL;
    int result = 0;
    if (!read_ipv4(value, own)) {
        other = PyObject_CallOneArg(RK_AT(networks, NETWORK_KEY_OF), value);
        if (!other || other == Py_None) {
            Py_XDECREF(other);
            return other ? 0 : -1;
        }
        key = PyBytes_AS_STRING(RK_AT(other, 0));
        known = rk_number_at(other, 1);
    }
    Py_ssize_t place = span_of(RK_AT(networks, NETWORK_JOINED), key);
    PyObject *span = place < 0 ? NULL : RK_AT(RK_AT(networks, NETWORK_SPANS), place);
    for (Py_ssize_t i = 0; span && !result && i < PyTuple_GET_SIZE(span); i++)
        if (rk_number_at(RK_AT(span, i), 0) <= known)
            result = visit(context, RK_AT(RK_AT(span, i), 1));
    Py_XDECREF(other);
    return result;
}

static int visit_index(PyObject *index, PyObject *value, visitor visit, void *context)
{
    PyObject *exact = RK_AT(index, INDEX_EXACT), *networks = RK_AT(index, INDEX_NETWORKS);
    int result = PyDict_GET_SIZE(exact) ? visit_key(exact, value, visit, context) : 0;
    if (!result)
        result = visit_literals(RK_AT(index, INDEX_HEADS), value, false, visit, context);
    if (!result)
        result = visit_literals(RK_AT(index, INDEX_TAILS), value, true, visit, context);
    if (!result && networks != Py_None)
        result = visit_networks(networks, value, visit, context);
    return result;
}

/* ---- tests ---- */

static int end_search(void *Py_UNUSED(context), PyObject *Py_UNUSED(places))
{
    return 1;
}

int rk_accepts(PyObject *test, PyObject *value)
{
    PyObject *glob = RK_AT(test, TEST_GLOB);
    if (RK_AT(test, TEST_ALWAYS) == Py_True)
        return 1;
    int result = visit_index(RK_AT(test, TEST_KNOWN), value, end_search, NULL);
    if (result || glob == Py_None)
        return result;
    PyObject *found = PyObject_CallOneArg(glob, value);
    Py_XDECREF(found);
    return found ? found != Py_None : -1;
}

PyObject *rk_readings_of(PyObject *value)
{
    PyObject *all = PyObject_GetAttrString(value, "all");
    bool right = all && PyTuple_Check(all) && PyTuple_GET_SIZE(all) > 0;
    for (Py_ssize_t i = 0; right && i < PyTuple_GET_SIZE(all); i++)
        right = PyUnicode_Check(RK_AT(all, i));
    if (all && !right) {
        PyErr_SetString(PyExc_TypeError, "readings must be a tuple of strings");
        Py_CLEAR(all);
    }
    return all;
}

int rk_fit(const rk_matcher_object *self, PyObject *tests, PyObject *const *values, bool each)
{
    int result = 1;
    for (Py_ssize_t i = 0; result > 0 && i < PyTuple_GET_SIZE(tests); i++) {
        PyObject *test = RK_AT(tests, i), *value = values[rk_number_at(test, TEST_SLOT)];
        if (!rk_has_readings(self, value)) {
            result = value ? rk_accepts(test, value) : 0;
            continue;
        }
        PyObject *all = rk_readings_of(value);
        result = all ? each : -1;
        for (Py_ssize_t r = 0; result == each && r < PyTuple_GET_SIZE(all); r++)
            result = rk_accepts(test, RK_AT(all, r));
        Py_XDECREF(all);
    }
    return result;
}

/* ---- exemptions and overrides ---- */

typedef struct {
    const rk_matcher_object *matcher;
    PyObject *tests; /* of each entry */
    PyObject *const *values;
    bool each;
    Py_ssize_t first; /* the first entry that fits, or -1 */
} entry_search;

static int visit_entries(void *context, PyObject *places)
{
    entry_search *search = context;
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(places); i++) {
        Py_ssize_t place = rk_number_at(places, i);
        if (search->first >= 0 && place >= search->first)
            return 0; /* places are in order */
        int result = rk_fit(search->matcher, RK_AT(search->tests, place), search->values, search->each);
        if (result < 0)
            return -1;
        if (result)
            search->first = place;
    }
    return 0;
}

/* A table of entries by the exact values of some attributes. */
static int visit_table(PyObject *table, entry_search *search)
{
    PyObject *slots = RK_AT(table, 1), *entries = RK_AT(table, 2);
    Py_ssize_t count = PyTuple_GET_SIZE(slots);
    for (Py_ssize_t i = 0; i < count; i++)
        if (!search->values[rk_number_at(slots, i)])
            return 0;
    if (count == 1)
        return visit_key(entries, search->values[rk_number_at(slots, 0)], visit_entries, search);
    PyObject *key = PyTuple_New(count);
    for (Py_ssize_t i = 0; key && i < count; i++)
        PyTuple_SET_ITEM(key, i, Py_NewRef(search->values[rk_number_at(slots, i)]));
    int result = key ? visit_key(entries, key, visit_entries, search) : -1;
    Py_XDECREF(key);
    return result;
}

static int first_entry(entry_search *search, PyObject *entries)
{
    PyObject *tables = RK_AT(entries, ENTRIES_TABLES), *lookups = RK_AT(entries, ENTRIES_LOOKUPS);
    int result = visit_entries(search, RK_AT(entries, ENTRIES_ALWAYS));
    for (Py_ssize_t i = 0; !result && i < PyTuple_GET_SIZE(tables); i++)
        result = visit_table(RK_AT(tables, i), search);
    for (Py_ssize_t i = 0; !result && i < PyTuple_GET_SIZE(lookups); i++) {
        PyObject *value = search->values[rk_number_at(RK_AT(lookups, i), 1)];
        if (value)
            result = visit_index(RK_AT(RK_AT(lookups, i), 2), value, visit_entries, search);
    }
    return result;
}

int rk_is_exempt(const rk_matcher_object *self, PyObject *exempt, PyObject *const *values)
{
    if (exempt == Py_None)
        return 0;
    entry_search search = {self, RK_AT(exempt, ENTRIES_TESTS), values, true, -1};
    return first_entry(&search, exempt) < 0 ? -1 : search.first >= 0;
}

static Py_ssize_t rank_of(PyObject *ranks, Py_ssize_t place)
{
    return rk_number_at(ranks, place < 0 ? PyTuple_GET_SIZE(ranks) - 1 : place);
}

/* The slot after place `k` whose value takes the same reading, as one of both is the digest of the other; -1 if none. */
static Py_ssize_t paired_slot(const rk_matcher_object *self, PyObject *slots, PyObject *const *values, Py_ssize_t k)
{
    Py_ssize_t one = rk_number_at(slots, k);
    for (k++; k < PyTuple_GET_SIZE(slots); k++) {
        Py_ssize_t other = rk_number_at(slots, k);
        if (rk_has_readings(self, values[other]) && (rk_is_slot_of(self, one, other) || rk_is_slot_of(self, other, one)))
            return other;
    }
    return -1;
}

/* Called for each choice of readings. */
int rk_find_override(const rk_matcher_object *self, PyObject *overrides, PyObject **values, Py_ssize_t k,
                     Py_ssize_t *place)
{
    PyObject *slots = RK_AT(overrides, OVERRIDES_SLOTS), *ranks = RK_AT(overrides, OVERRIDES_RANKS);
    for (; k < PyTuple_GET_SIZE(slots); k++) {
        Py_ssize_t slot = rk_number_at(slots, k);
        PyObject *value = values[slot];
        if (!rk_has_readings(self, value))
            continue;
        Py_ssize_t pair = paired_slot(self, slots, values, k);
        PyObject *paired = pair < 0 ? NULL : values[pair];
        PyObject *all = rk_readings_of(value), *each = all && paired ? rk_readings_of(paired) : NULL;
        int result = all && (each || !paired) ? 0 : -1;
        for (Py_ssize_t r = 0; !result && r < PyTuple_GET_SIZE(all) && !(each && r >= PyTuple_GET_SIZE(each)); r++) {
            values[slot] = RK_AT(all, r);
            if (each)
                values[pair] = RK_AT(each, r);
            result = rk_find_override(self, overrides, values, k + 1, place);
        }
        values[slot] = value;
        if (each)
            values[pair] = paired;
        Py_XDECREF(all);
        Py_XDECREF(each);
        return result;
    }
    PyObject *entries = RK_AT(overrides, OVERRIDES_ENTRIES);
    entry_search search = {self, RK_AT(entries, ENTRIES_TESTS), values, false, -1};
    if (first_entry(&search, entries) < 0)
        return -1;
    if (*place == RK_NONE_YET || rank_of(ranks, search.first) < rank_of(ranks, *place))
        *place = search.first;
    return 0;
}
