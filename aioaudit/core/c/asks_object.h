/* What Python asks of an `Asks`: its methods, and the type.
 *
 * For `state/cancellations.py`, and for `native.py`, which begins it.
 */
#pragma once

#include "cancels.h"
#include "monitoring.h"

static PyObject *
asks_of(PyObject *op, PyObject *task)
{
    Asked *found = asked_of((Asks *)op, task);
    return Py_NewRef(found == NULL ? Py_None : (PyObject *)found);
}

static PyObject *
asks_of_error(PyObject *op, PyObject *error)
{
    Asked *found = flying_with((Asks *)op, error);
    return Py_NewRef(found == NULL ? Py_None : (PyObject *)found);
}

/* `let_go(record)`: forget it; gives the error that delivers it, None where there is none. */
static PyObject *
asks_let_go(PyObject *op, PyObject *given)
{
    Asks *self = (Asks *)op;
    if (!Py_IS_TYPE(given, AskedType)) {
        PyErr_SetString(PyExc_TypeError, "that is no request");
        return NULL;
    }
    Asked *record = (Asked *)given;
    PyObject *error = referent(record->error_ref);
    take_out(self->asked, record->task_at, record);
    take_out(self->flying, record->error_at, record);
    Py_CLEAR(record->error_ref);
    record->asks = NULL;
    return error == NULL ? Py_NewRef(Py_None) : error;
}

/* The requests whose tasks have not ended by them. */
static PyObject *
asks_pending(PyObject *op, PyObject *Py_UNUSED(none))
{
    PyObject *all = table_list(((Asks *)op)->asked, 0);
    PyObject *found = all == NULL ? NULL : PyList_New(0);
    for (Py_ssize_t at = 0; found != NULL && at < PyList_GET_SIZE(all); at++) {
        PyObject *each = PyList_GET_ITEM(all, at);
        if (!((Asked *)each)->ended && PyList_Append(found, each) < 0) {
            Py_CLEAR(found);
        }
    }
    Py_XDECREF(all);
    return found;
}

static int
is_right(int number, PyObject *value)
{
    switch (number) {
    case NEXT_SEQ:
        return Py_IS_TYPE(value, CounterType);
    case PYTHON_TASKS:
    case CODES:
    case HANDLERS:
        return PyDict_Check(value);
    case EXPORTING:
    case OUTSIDE:
        return PyAnySet_Check(value);
    case FUTURE:
    case CANCELLED:
    case TIMEOUT:
        return PyType_Check(value);
    case RULES:
    case NOTES:
        return 1;
    case EXPIRE:
    case RUN:
    case LEAVE:
        return value == Py_None || PyCode_Check(value);
    default:
        return PyCallable_Check(value);
    }
}

/* What KWARGS has at NAME, borrowed; NULL with an exception where it has nothing. */
static PyObject *
named(PyObject *kwargs, const char *name)
{
    PyObject *key = PyUnicode_FromString(name);
    PyObject *value = key == NULL ? NULL : PyDict_GetItemWithError(kwargs, key);
    Py_XDECREF(key);
    if (value == NULL && !PyErr_Occurred()) {
        PyErr_Format(PyExc_TypeError, "begin() needs %s", name);
    }
    return value;
}

/* `begin(findings=..., **given)`: from now on requests are taken in. */
static PyObject *
asks_begin(PyObject *op, PyObject *args, PyObject *kwargs)
{
    Asks *self = (Asks *)op;
    if (PyTuple_GET_SIZE(args) != 0 || kwargs == NULL || PyDict_GET_SIZE(kwargs) != GIVEN + 1) {
        PyErr_SetString(PyExc_TypeError, "begin() takes what is given by name, all of it");
        return NULL;
    }
    PyObject *values[GIVEN], *findings = named(kwargs, "findings");
    int wanted = findings == NULL ? -1 : PyObject_IsTrue(findings);
    for (int at = 0; at < GIVEN && wanted >= 0; at++) {
        values[at] = named(kwargs, given_names[at]);
        if (values[at] != NULL && !is_right(at, values[at])) {
            PyErr_Format(PyExc_TypeError, "begin() needs another %s", given_names[at]);
            values[at] = NULL;
        }
        wanted = values[at] == NULL ? -1 : wanted;
    }
    if (wanted < 0) {
        return NULL;
    }
    for (int at = 0; at < GIVEN; at++) {
        PyObject *before = self->given[at];
        self->given[at] = Py_NewRef(values[at]);
        values[at] = before;
    }
    self->findings = (char)wanted;
    self->on = 1;
    for (int at = 0; at < GIVEN; at++) {
        Py_XDECREF(values[at]); /* last: this may run anything */
    }
    Py_RETURN_NONE;
}

/* What was given stays: a callback may be on its way. */
static PyObject *
asks_end(PyObject *op, PyObject *Py_UNUSED(none))
{
    ((Asks *)op)->on = 0;
    Py_RETURN_NONE;
}

/* `forget_lines()`: what was found out about lines is not so any more. */
static PyObject *
asks_forget_lines(PyObject *op, PyObject *Py_UNUSED(none))
{
    if (table_empty((PyObject *)((Asks *)op)->lines) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

/* `traced_by(function)`: who says in which trace a task is, None for nobody. */
static PyObject *
asks_traced_by(PyObject *op, PyObject *function)
{
    Py_XSETREF(((Asks *)op)->traced, function == Py_None ? NULL : Py_NewRef(function));
    Py_RETURN_NONE;
}

static PyObject *
asks_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"born", "states", "ties", "active", "doubts", "adopt", "released",
                            NULL};
    PyObject *born, *states, *ties, *active, *doubts, *adopt, *released;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "$O!O!O!O!O!OO:Asks", names, TableType, &born,
                                     &PyDict_Type, &states, &PyDict_Type, &ties, &PyDict_Type,
                                     &active, &PyDict_Type, &doubts, &adopt, &released)) {
        return NULL;
    }
    Asks *self = (Asks *)type->tp_alloc(type, 0);
    if (self == NULL) {
        return NULL;
    }
    self->born = (Table *)Py_NewRef(born);
    self->states = Py_NewRef(states);
    self->ties = Py_NewRef(ties);
    self->active = Py_NewRef(active);
    self->doubts = Py_NewRef(doubts);
    self->adopt = Py_NewRef(adopt);
    self->released = Py_NewRef(released);
    self->room = 2 * FEWEST;
    Table **tables[] = {&self->asked, &self->flying, &self->lines, &self->waits};
    for (size_t at = 0; at < sizeof(tables) / sizeof(tables[0]); at++) {
        *tables[at] = (Table *)PyObject_CallNoArgs((PyObject *)TableType);
        if (*tables[at] == NULL) {
            Py_DECREF(self);
            return NULL;
        }
    }
    /* Records are not seen by the collector. */
    PyObject_GC_UnTrack(self->asked);
    PyObject_GC_UnTrack(self->flying);
    self->one = PyLong_FromLong(1);
    if (self->one == NULL) {
        Py_CLEAR(self);
    }
    return (PyObject *)self;
}

static int
asks_traverse(PyObject *op, visitproc visit, void *arg)
{
    Asks *self = (Asks *)op;
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(self->lines);
    Py_VISIT(self->waits);
    Py_VISIT(self->states);
    Py_VISIT(self->ties);
    Py_VISIT(self->active);
    Py_VISIT(self->doubts);
    Py_VISIT(self->adopt);
    Py_VISIT(self->released);
    Py_VISIT(self->traced);
    Py_VISIT(self->nobody);
    for (int at = 0; at < GIVEN; at++) {
        Py_VISIT(self->given[at]);
    }
    return 0;
}

/* No request knows SELF any more. */
static void
disown(Table *table)
{
    if (table != NULL && table->entries != NULL) {
        for (size_t at = 0; at <= table->mask; at++) {
            if (table->entries[at].value != NULL) {
                ((Asked *)table->entries[at].value)->asks = NULL;
            }
        }
    }
}

/* No tp_clear, as `Returns`. */
static void
asks_dealloc(PyObject *op)
{
    Asks *self = (Asks *)op;
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    for (Method *each = methods; each != NULL; each = each->next) {
        if (each->asks == self) {
            each->asks = NULL;
        }
    }
    disown(self->asked);
    disown(self->flying);
    Py_XDECREF(self->asked);
    Py_XDECREF(self->flying);
    Py_XDECREF(self->lines);
    Py_XDECREF(self->waits);
    Py_XDECREF(self->born);
    Py_XDECREF(self->states);
    Py_XDECREF(self->ties);
    Py_XDECREF(self->active);
    Py_XDECREF(self->doubts);
    Py_XDECREF(self->adopt);
    Py_XDECREF(self->released);
    Py_XDECREF(self->traced);
    Py_XDECREF(self->one);
    Py_XDECREF(self->nobody);
    for (int at = 0; at < GIVEN; at++) {
        Py_XDECREF(self->given[at]);
    }
    type->tp_free(op);
    Py_DECREF(type);
}

static PyMemberDef asks_members[] = {
    {"changes", T_LONGLONG, offsetof(Asks, changes), READONLY, NULL},
    {"asked", T_OBJECT_EX, offsetof(Asks, asked), READONLY, NULL},
    {"flying", T_OBJECT_EX, offsetof(Asks, flying), READONLY, NULL},
    {"lines", T_OBJECT_EX, offsetof(Asks, lines), READONLY, NULL},
    {"waits", T_OBJECT_EX, offsetof(Asks, waits), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyMethodDef asks_methods[] = {
    {"of", asks_of, METH_O, NULL},
    {"of_error", asks_of_error, METH_O, NULL},
    {"let_go", asks_let_go, METH_O, NULL},
    {"pending", asks_pending, METH_NOARGS, NULL},
    {"begin", (PyCFunction)(void (*)(void))asks_begin, METH_VARARGS | METH_KEYWORDS, NULL},
    {"end", asks_end, METH_NOARGS, NULL},
    {"forget_lines", asks_forget_lines, METH_NOARGS, NULL},
    {"traced_by", asks_traced_by, METH_O, NULL},
    {"method", asks_method, METH_VARARGS, NULL},
    {"callback", asks_callback, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot asks_slots[] = {
    {Py_tp_doc, (void *)"Plain requests, till they are obeyed or somebody wants to know."},
    {Py_tp_new, asks_new},
    {Py_tp_dealloc, asks_dealloc},
    {Py_tp_traverse, asks_traverse},
    {Py_tp_methods, asks_methods},
    {Py_tp_members, asks_members},
    {0, NULL},
};

static PyType_Spec asks_spec = {
    "aioaudit.core._core.Asks",
    sizeof(Asks),
    0,
    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    asks_slots,
};
