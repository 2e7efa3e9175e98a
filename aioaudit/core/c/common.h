/* What all parts use: the types and names of the module, the time, and exceptions that wait.
 *
 * For every other file here.  The module fills in types and names as it is imported, see
 * `exec_module` in `_core.c`.
 */
#pragma once

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <structmember.h>
#include <time.h>

/* The types, of one interpreter (see `exec_module`). */
static PyTypeObject *TableType;
static PyTypeObject *CounterType;
static PyTypeObject *SiteType;
static PyTypeObject *CreatedType;
static PyTypeObject *ReturnedType;
static PyTypeObject *QueueType;
static PyTypeObject *BirthsType;
static PyTypeObject *ReturnsType;
static PyTypeObject *NoteType;
static PyTypeObject *NotesType;
#if PY_VERSION_HEX >= 0x030C0000
static PyTypeObject *TimeoutsType;
static PyTypeObject *PassedType;
#endif
static PyTypeObject *KnownType;
static PyTypeObject *AskedType;
static PyTypeObject *ObeyedType;
static PyTypeObject *TakenBackType;
static PyTypeObject *AsksType;
static PyTypeObject *CallbackType;
static PyTypeObject *KeptType;
static PyTypeObject *KeptLinesType;

/* Names that are looked up for every task. */
static PyObject *str_coro;
static PyObject *str_loop;
static PyObject *str_name;
static PyObject *str_context;
static PyObject *str_eager_start;
static PyObject *str_cr_code;
static PyObject *str_dunder_name;
static PyObject *str_seq;
static PyObject *str_unknown; /* the name of what has none */
static PyObject *str_cancel;
static PyObject *str_hidden_signals;
static PyObject *str_cr_frame;
static PyObject *str_cr_await;
static PyObject *str_fut_waiter;
static PyObject *str_callbacks;
static PyObject *str_slow_after;
static PyObject *str_cancelling;
static PyObject *str_when;
static PyObject *str_self;
static PyObject *str_exc_val; /* of `Timeout.__aexit__`: the error that ends the block */

/* Nanoseconds since the epoch, as `time.time_ns` counts them. */
static int64_t
now_ns(void)
{
    struct timespec now;
    (void)timespec_get(&now, TIME_UTC);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* The exception that is set, taken away; `put_back` sets it again. */
static PyObject *
take_exception(void)
{
#if PY_VERSION_HEX >= 0x030C0000
    return PyErr_GetRaisedException();
#else
    PyObject *type, *error, *trace;
    PyErr_Fetch(&type, &error, &trace);
    PyErr_NormalizeException(&type, &error, &trace);
    if (error != NULL && trace != NULL) {
        (void)PyException_SetTraceback(error, trace);
    }
    Py_XDECREF(type);
    Py_XDECREF(trace);
    return error;
#endif
}

/* Set ERROR, a reference that is given away, again. */
static void
put_back(PyObject *error)
{
#if PY_VERSION_HEX >= 0x030C0000
    PyErr_SetRaisedException(error);
#else
    PyErr_Restore(Py_NewRef((PyObject *)Py_TYPE(error)), error, PyException_GetTraceback(error));
#endif
}
