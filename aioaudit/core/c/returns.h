/* Returns: a task returns.
 *
 * The callback of `PY_RETURN` in `sys.monitoring`, for `probes/ends.py`; it puts a `Returned` into
 * the queue.
 */
#pragma once

#include "asks.h"
#include "births.h"
#include "monitoring.h"

/* The callback of `PY_RETURN`. */
typedef struct {
    PyObject_HEAD
    vectorcallfunc call;
    Table *born;
    Counter *next_seq;
    PyObject *states;  /* a dict */
    Asks *asks;
    PyObject *outside; /* a frozenset */
    PyObject *one;
    PyObject *current_task; /* functions, from here on */
    PyObject *module_at;
    PyObject *put;
    PyObject *remember;
    PyObject *otherwise;
} Returns;

/* Whether no other frame of the task is around the one that returns: without a look at frames,
 * which would have to be made for it.  -1 with an exception. */
static int
is_called_from_outside(Returns *self)
{
    PyObject *module = PyObject_CallOneArg(self->module_at, self->one);
    if (module == NULL) {
        return -1;
    }
    int known = PySet_Contains(self->outside, module);
    Py_DECREF(module);
    return known;
}

/* The same of a task that runs inside of its own making: MAKER is right around it. */
static int
is_called_by(PyFrameObject *maker)
{
    PyFrameObject *frame = PyThreadState_GetFrame(PyThreadState_Get());
    if (frame == NULL) {
        return 0;
    }
    PyFrameObject *out = further_out(frame);
    Py_XDECREF(out); /* only compared */
    return out == maker;
}

/* The record that the task that runs now returns from CODE, its entry taken out of the table;
 * NULL, perhaps with an exception, where Python has to look at it, and then nothing changed,
 * or where TOLD is set, and then it is told already. */
static Returned *
ended_here(Returns *self, PyObject *code, int *told)
{
    PyObject *task = PyObject_CallNoArgs(self->current_task);
    if (task == NULL) {
        return NULL;
    }
    uintptr_t key = (uintptr_t)task;
    Py_DECREF(task); /* it runs, so it stays */
    Created *made = created_at(self->born, key);
    if (made == NULL) {
        return NULL;
    }
    Py_INCREF(made); /* a program's audit hook may be called, and do anything */
    int plain = 0;
    if (made->site->code == (uintptr_t)code) {
        plain = made->maker != NULL ? is_called_by(made->maker) : is_called_from_outside(self);
    }
    if (plain == 1 && PyDict_GET_SIZE(self->states) != 0) {
        PyObject *number = PyLong_FromVoidPtr((void *)key);
        int asked = number == NULL ? -1 : PyDict_Contains(self->states, number);
        Py_XDECREF(number);
        plain = asked == 0;
    }
    Asked *record = plain == 1 ? asked_of(self->asks, (PyObject *)key) : NULL;
    if (record != NULL) { /* it was asked to cancel, and returns */
        Py_INCREF(record);
        int after = created_at(self->born, key) == made && record->born == made
            ? return_after(self->asks, record) : 0;
        if (after == 0 && record->asks != NULL) {
            (void)hand_over(self->asks, record);
        }
        if (after < 0) {
            after = tell_given(self->asks) < 0 ? -1 : record->ended;
        }
        Py_DECREF(record);
        *told = after > 0;
        plain = 0;
    }
    Returned *ended = NULL;
    if (plain == 1 && created_at(self->born, key) == made) {
        ended = returned_make(0, 0, made, key);
    }
    if (ended != NULL) {
        Py_DECREF(table_pop(self->born, key));
    }
    Py_DECREF(made);
    return ended;
}

static PyObject *
returns_call(PyObject *op, PyObject *const *args, size_t flags, PyObject *names)
{
    Returns *self = (Returns *)op;
    if (PyVectorcall_NARGS(flags) != 3 || names != NULL) {
        PyErr_SetString(PyExc_TypeError, "it is called with a code, an offset and a value");
        return NULL;
    }
    int told = 0;
    Returned *ended = ended_here(self, args[0], &told);
    if (told) {
        Py_RETURN_NONE;
    }
    if (ended == NULL) {
        if (PyErr_Occurred()) {
            if (!PyErr_ExceptionMatches(PyExc_Exception)) {
                return NULL;
            }
            PyErr_Clear(); /* no loop, or one of which C does not know; or no memory */
        }
        return PyObject_Vectorcall(self->otherwise, args, 3, NULL);
    }
    ended->ns = now_ns();
    ended->seq = self->next_seq->next++; /* last: a number that is drawn has to be put */
    int result = put_record(self->put, (PyObject *)ended);
    if (result == 0) {
        result = call_and_forget(self->remember, (PyObject *)ended);
    }
    Py_DECREF(ended);
    if (result < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
returns_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"born",      "next_seq", "states",   "asks",      "outside", "current_task",
                            "module_at", "put",      "remember", "otherwise", NULL};
    PyObject *born, *seq, *states, *asks, *outside, *current, *module_at, *put, *remember;
    PyObject *otherwise;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "$O!O!O!O!O!OOOOO:Returns", names, TableType,
                                     &born, CounterType, &seq, &PyDict_Type, &states, AsksType,
                                     &asks, &PyFrozenSet_Type, &outside, &current, &module_at, &put,
                                     &remember, &otherwise)) {
        return NULL;
    }
    PyObject *one = PyLong_FromLong(1);
    Returns *self = one == NULL ? NULL : (Returns *)type->tp_alloc(type, 0);
    if (self == NULL) {
        Py_XDECREF(one);
        return NULL;
    }
    self->call = returns_call;
    self->one = one;
    self->born = (Table *)Py_NewRef(born);
    self->next_seq = (Counter *)Py_NewRef(seq);
    self->states = Py_NewRef(states);
    self->asks = (Asks *)Py_NewRef(asks);
    self->outside = Py_NewRef(outside);
    self->current_task = Py_NewRef(current);
    self->module_at = Py_NewRef(module_at);
    self->put = Py_NewRef(put);
    self->remember = Py_NewRef(remember);
    self->otherwise = Py_NewRef(otherwise);
    return (PyObject *)self;
}

static int
returns_traverse(PyObject *op, visitproc visit, void *arg)
{
    Returns *self = (Returns *)op;
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(self->born);
    Py_VISIT(self->next_seq);
    Py_VISIT(self->states);
    Py_VISIT(self->asks);
    Py_VISIT(self->outside);
    Py_VISIT(self->current_task);
    Py_VISIT(self->module_at);
    Py_VISIT(self->put);
    Py_VISIT(self->remember);
    Py_VISIT(self->otherwise);
    return 0;
}

static void
returns_dealloc(PyObject *op)
{
    Returns *self = (Returns *)op;
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    Py_XDECREF(self->one);
    Py_XDECREF(self->born);
    Py_XDECREF(self->next_seq);
    Py_XDECREF(self->states);
    Py_XDECREF(self->asks);
    Py_XDECREF(self->outside);
    Py_XDECREF(self->current_task);
    Py_XDECREF(self->module_at);
    Py_XDECREF(self->put);
    Py_XDECREF(self->remember);
    Py_XDECREF(self->otherwise);
    type->tp_free(op);
    Py_DECREF(type);
}

static PyMemberDef returns_members[] = {
    {"__vectorcalloffset__", T_PYSSIZET, offsetof(Returns, call), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

/* No tp_clear: whoever refers to it, functions and their cells, breaks the circle. */
static PyType_Slot returns_slots[] = {
    {Py_tp_doc, (void *)"The callback of `PY_RETURN`."},
    {Py_tp_new, returns_new},
    {Py_tp_dealloc, returns_dealloc},
    {Py_tp_traverse, returns_traverse},
    {Py_tp_call, PyVectorcall_Call},
    {Py_tp_members, returns_members},
    {0, NULL},
};

static PyType_Spec returns_spec = {
    "aioaudit.core._core.Returns",
    sizeof(Returns),
    0,
    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_HAVE_VECTORCALL,
    returns_slots,
};
