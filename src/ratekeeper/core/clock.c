/* A table's clock: the system's, a callable that gives ticks, or that of a closed table, which raises. The system's may
 * be held for tests. */
#include <time.h>

#include "glue.h"

bool rk_read_clock(rk_table_object *self, int64_t *now)
{
    if (!self->clock) {
        const rk_module *module = self->module;
        struct timespec time;
        *now = __atomic_load_n(&module->held, __ATOMIC_RELAXED);
        if (*now != RK_NOT_HELD)
            return true;
#ifdef CLOCK_BOOTTIME
        clock_gettime(CLOCK_BOOTTIME, &time); /* goes on while the machine sleeps, as buckets should */
#else
        clock_gettime(CLOCK_MONOTONIC, &time);
#endif
        *now = time.tv_sec * RK_TICKS_PER_SECOND + time.tv_nsec * RK_TICKS_PER_NS;
        *now += __atomic_load_n(&module->ahead, __ATOMIC_RELAXED);
        return true;
    }
    PyObject *clock = Py_NewRef(self->clock); /* it may close its own table */
    PyObject *ticks = PyObject_CallNoArgs(clock);
    Py_DECREF(clock);
    bool read = ticks && rk_read_ticks(ticks, now);
    Py_XDECREF(ticks);
    if (read && (*now < 0 || *now > RK_MAX_AHEAD)) {
        PyErr_SetString(PyExc_ValueError, "the clock must return ticks from 0 to 2**62 - 1");
        return false;
    }
    return read;
}

int64_t rk_later(void *table_object)
{
    rk_table_object *self = table_object;
    int64_t now = 0;
    if (self->clock && PyErr_Occurred())
        return 0; /* it has failed already: nothing may be called until that is told */
    return rk_read_clock(self, &now) ? now : 0;
}

static PyObject *read_closed_clock(PyObject *Py_UNUSED(self), PyObject *Py_UNUSED(ignored))
{
    PyErr_SetString(PyExc_ValueError, "this store is closed");
    return NULL;
}

PyObject *rk_make_closed_clock(void)
{
    static PyMethodDef closed = {"closed_clock", read_closed_clock, METH_NOARGS, NULL};
    return PyCFunction_New(&closed, NULL);
}
