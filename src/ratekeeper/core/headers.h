/* The headers of a request, for the types that read them: see headers.c. */
#ifndef RATEKEEPER_HEADERS_H
#define RATEKEEPER_HEADERS_H

#include "glue.h"

/* Characters of ASCII. They belong to somebody else. */
typedef struct {
    const unsigned char *bytes;
    Py_ssize_t length;
} rk_ascii;

/* RK_MISSING: it is missing, or empty. RK_UNUSUAL: only the definition in Python knows. */
typedef enum { RK_FOUND, RK_MISSING, RK_UNUSUAL } rk_header;

/* Find a header in lines, which may be any object, by its name in lower case, of ASCII. No Python code runs. `*text` is
 * not empty if it is found, and belongs to the lines. */
rk_header rk_find_text(PyObject *lines, PyObject *name, rk_ascii *text);

/* Without the spaces at its ends, as `str.strip` removes them. */
rk_ascii rk_strip(rk_ascii text);

/* A string, or NULL with a Python error set. */
PyObject *rk_string_of(rk_ascii text);

PyObject *rk_find_header(PyObject *module, PyObject *const *args, Py_ssize_t count);

/* Whether a name is `wanted`, which is in lower case and as long. */
bool rk_is_name(rk_ascii name, const unsigned char *wanted);

/* head_object.c */
PyObject *rk_read_head(PyObject *module, PyObject *const *args, Py_ssize_t count);
bool rk_is_head(PyObject *object); /* it has Py_SIZE(head) lines */
void rk_head_line(PyObject *head, Py_ssize_t place, rk_ascii *name, rk_ascii *value); /* they belong to the head */

extern PyType_Spec rk_line_reader_spec, rk_head_spec; /* line_reader_object.c, head_object.c */

#endif
