/* The memory of a table: its own, or memory that processes share. */
#include <sys/mman.h>

#include "glue.h"

/* The memory of a table is a line for the counters, then the word on blocks and the log of resets, and then its lines of
 * cells. The word is read at each decision, as the log's first entries are, and both are seldom written. */
bool rk_take_memory(rk_table_object *self, PyObject *memory, uint64_t lines)
{
    const size_t line = RK_LINE * sizeof(rk_cell), before = 1 + (1 + RK_RESETS) * sizeof(uint64_t) / line;
    size_t size = (lines + before) * line;
    char *begin = MAP_FAILED;
    if (memory == Py_None) {
        if (lines < SIZE_MAX / line - before) /* pages of zeros, which cost nothing until they are touched */
            begin = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (begin == MAP_FAILED)
            return PyErr_NoMemory(), false;
        self->mapped = size;
    } else {
        if (PyObject_GetBuffer(memory, &self->shared, PyBUF_WRITABLE) < 0)
            return false;
        begin = self->shared.buf;
        if ((uint64_t)self->shared.len / line != lines + before || self->shared.len % line || (uintptr_t)begin % line) {
            PyErr_SetString(PyExc_ValueError, "memory must begin at a line, and have one for each and those before them");
            return false;
        }
    }
    self->table.lines = lines;
    self->table.counters = (rk_counters *)begin;
    self->table.blocked_until = (uint64_t *)(begin + line);
    self->table.resets = self->table.blocked_until + 1;
    self->table.cells = (rk_cell *)(begin + before * line);
    return true;
}
