/* Asked, TakenBack and Obeyed: a plain request, and what it led to.
 *
 * The records that `asks.h`, `cancels.h` and `monitoring.h` make and `lines.h` writes; Python reads
 * them in `state/cancellations.py` and `delivery/records.py`.
 */
#pragma once

#include "records.h"

typedef struct Asks Asks;

/* Not seen by the garbage collector: it refers to nothing that refers back.  It is the callback
 * of the weak reference to the error that delivers it, and that circle ends with the error. */
typedef struct {
    PyObject_HEAD
    vectorcallfunc call;
    Asks *asks; /* borrowed; NULL once it is in no table of those any more */
    int64_t seq;
    int64_t ns;
    int64_t by;
    uint64_t thread;
    Created *born;
    PyObject *name;
    PyObject *by_name;
    PyObject *line; /* what Python says of who asked, a tuple... */
    PyObject *wait; /* ... and of where the task waited, and in which trace (`in_trace`) */
    PyObject *task_ref;
    uintptr_t task_at;
    PyObject *error_ref;
    uintptr_t error_at;
    PyObject *swallowed_at; /* the handler that has the error now, where it may keep it */
    PyObject *entered;      /* the one that was entered last, till it is left, since when... */
    PyObject *slow_at;      /* ... and the one that took longest, and how long */
    uintptr_t owner; /* where the timeout is that asked, because it ran out; 0 for a line */
    PyObject *late;  /* how late it ran out, NULL where that is not worth a word */
    PyObject *left;  /* what Python says of where that took it back, a tuple */
    double requested_at;
    double delivered_at;
    double since;
    double seconds;
    char delivered;
    char timed; /* whether a handler was entered at all */
    char ended;
} Asked;

typedef struct {
    PyObject_HEAD
    int64_t seq;
    int64_t ns;
    int64_t cancel;
    Created *born;
    PyObject *name;
    PyObject *wait; /* the same as of the `Asked`... */
    PyObject *left; /* ... and so is this, NULL but of a `TakenBack` */
    char absorbed;  /* of an `Obeyed`: whether it is none, for the task returned after a timeout */
} Obeyed;

/* The same fields: that a timeout took back its own request. */
typedef Obeyed TakenBack;

/* What REF, a weak reference, refers to, as a new reference; NULL, without an exception, if gone. */
static PyObject *
referent(PyObject *ref)
{
    PyObject *found = NULL;
    if (ref == NULL) {
        return NULL;
    }
#if PY_VERSION_HEX >= 0x030D0000
    if (PyWeakref_GetRef(ref, &found) < 0) {
        PyErr_Clear();
    }
#else
    found = PyWeakref_GetObject(ref);
    found = found == NULL || found == Py_None ? NULL : Py_NewRef(found);
#endif
    return found;
}

static int
refers_to(PyObject *ref, PyObject *target)
{
    PyObject *found = referent(ref);
    Py_XDECREF(found);
    return found == target;
}

static void
asked_dealloc(PyObject *op)
{
    Asked *self = (Asked *)op;
    PyTypeObject *type = Py_TYPE(op);
    PyObject *owned[] = {
        (PyObject *)self->born, self->name, self->by_name, self->line, self->wait,
        self->task_ref, self->error_ref, self->swallowed_at, self->entered, self->slow_at,
        self->late, self->left,
    };
    PyObject_Free(op);
    Py_DECREF(type);
    for (size_t at = 0; at < sizeof(owned) / sizeof(owned[0]); at++) {
        Py_XDECREF(owned[at]);
    }
}

static PyObject *
asked_task(PyObject *op, void *Py_UNUSED(closure))
{
    PyObject *task = referent(((Asked *)op)->task_ref);
    return task == NULL ? Py_NewRef(Py_None) : task;
}

static PyObject *
asked_key(PyObject *op, void *Py_UNUSED(closure))
{
    return PyLong_FromVoidPtr((void *)((Asked *)op)->task_at);
}

static PyObject *
asked_owner(PyObject *op, void *Py_UNUSED(closure))
{
    uintptr_t owner = ((Asked *)op)->owner;
    return owner == 0 ? Py_NewRef(Py_None) : PyLong_FromVoidPtr((void *)owner);
}

static PyGetSetDef asked_getset[] = {
    {"task", asked_task, NULL, NULL, NULL},
    {"key", asked_key, NULL, NULL, NULL},
    {"owner", asked_owner, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef asked_members[] = {
    {"__vectorcalloffset__", T_PYSSIZET, offsetof(Asked, call), READONLY, NULL},
    {"seq", T_LONGLONG, offsetof(Asked, seq), READONLY, NULL},
    {"ns", T_LONGLONG, offsetof(Asked, ns), READONLY, NULL},
    {"by", T_LONGLONG, offsetof(Asked, by), READONLY, NULL},
    {"born", T_OBJECT_EX, offsetof(Asked, born), READONLY, NULL},
    {"name", T_OBJECT_EX, offsetof(Asked, name), READONLY, NULL},
    {"by_name", T_OBJECT_EX, offsetof(Asked, by_name), READONLY, NULL},
    {"line", T_OBJECT_EX, offsetof(Asked, line), READONLY, NULL},
    {"wait", T_OBJECT_EX, offsetof(Asked, wait), READONLY, NULL},
    {"task_ref", T_OBJECT_EX, offsetof(Asked, task_ref), READONLY, NULL},
    {"swallowed_at", T_OBJECT, offsetof(Asked, swallowed_at), READONLY, NULL},
    {"entered", T_OBJECT, offsetof(Asked, entered), READONLY, NULL},
    {"slow_at", T_OBJECT, offsetof(Asked, slow_at), READONLY, NULL},
    {"late", T_OBJECT, offsetof(Asked, late), READONLY, NULL},
    {"left", T_OBJECT, offsetof(Asked, left), READONLY, NULL},
    {"requested_at", T_DOUBLE, offsetof(Asked, requested_at), READONLY, NULL},
    {"delivered_at", T_DOUBLE, offsetof(Asked, delivered_at), READONLY, NULL},
    {"since", T_DOUBLE, offsetof(Asked, since), READONLY, NULL},
    {"seconds", T_DOUBLE, offsetof(Asked, seconds), READONLY, NULL},
    {"delivered", T_BOOL, offsetof(Asked, delivered), READONLY, NULL},
    {"timed", T_BOOL, offsetof(Asked, timed), READONLY, NULL},
    {"ended", T_BOOL, offsetof(Asked, ended), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot asked_slots[] = {
    {Py_tp_doc, (void *)"A plain request to cancel a task was made."},
    {Py_tp_dealloc, asked_dealloc},
    {Py_tp_call, PyVectorcall_Call},
    {Py_tp_members, asked_members},
    {Py_tp_getset, asked_getset},
    {0, NULL},
};

static PyType_Spec asked_spec = {
    "aioaudit.core._core.Asked",
    sizeof(Asked),
    0,
    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_HAVE_VECTORCALL,
    asked_slots,
};

static void
obeyed_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    PyObject *born = (PyObject *)((Obeyed *)op)->born, *name = ((Obeyed *)op)->name;
    PyObject *wait = ((Obeyed *)op)->wait, *left = ((Obeyed *)op)->left;
    PyObject_Free(op);
    Py_DECREF(type);
    Py_XDECREF(born);
    Py_XDECREF(name);
    Py_XDECREF(wait);
    Py_XDECREF(left);
}

/* A record, of TYPE, of what became of RECORD just now; it has no number and no time yet. */
static Obeyed *
outcome_make(PyTypeObject *type, const Asked *record)
{
    Obeyed *made = PyObject_New(Obeyed, type);
    if (made != NULL) {
        made->seq = made->ns = 0;
        made->cancel = record->seq;
        made->born = (Created *)Py_NewRef((PyObject *)record->born);
        made->name = Py_NewRef(record->born->name_or_task);
        made->wait = Py_NewRef(record->wait);
        made->left = NULL;
        made->absorbed = record->left != NULL;
    }
    return made;
}

static PyMemberDef obeyed_members[] = {
    {"seq", T_LONGLONG, offsetof(Obeyed, seq), READONLY, NULL},
    {"ns", T_LONGLONG, offsetof(Obeyed, ns), READONLY, NULL},
    {"cancel", T_LONGLONG, offsetof(Obeyed, cancel), READONLY, NULL},
    {"born", T_OBJECT_EX, offsetof(Obeyed, born), READONLY, NULL},
    {"name", T_OBJECT_EX, offsetof(Obeyed, name), READONLY, NULL},
    {"wait", T_OBJECT_EX, offsetof(Obeyed, wait), READONLY, NULL},
    {"left", T_OBJECT, offsetof(Obeyed, left), READONLY, NULL},
    {"absorbed", T_BOOL, offsetof(Obeyed, absorbed), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot taken_back_slots[] = {
    {Py_tp_doc, (void *)"A timeout took back the request that it made when it ran out."},
    {Py_tp_dealloc, obeyed_dealloc},
    {Py_tp_members, obeyed_members},
    {0, NULL},
};

static PyType_Spec taken_back_spec = {
    "aioaudit.core._core.TakenBack",
    sizeof(TakenBack),
    0,
    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    taken_back_slots,
};

static PyType_Slot obeyed_slots[] = {
    {Py_tp_doc, (void *)"A task ended cancelled, by a plain request, or returned after one."},
    {Py_tp_dealloc, obeyed_dealloc},
    {Py_tp_members, obeyed_members},
    {0, NULL},
};

static PyType_Spec obeyed_spec = {
    "aioaudit.core._core.Obeyed",
    sizeof(Obeyed),
    0,
    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    obeyed_slots,
};
