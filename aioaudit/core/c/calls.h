/* Calls of functions of ours, taken by C: how, and then Timeouts and Passed, which take them.
 *
 * `Timeouts` is for `probes/timeouts.py`, `Passed` for `probes/futures.py` and `probes/loops.py`.
 */
#pragma once

#include "births.h"
#include "notes.h"

#if PY_VERSION_HEX >= 0x030C0000 /* there `PyFunction_SetVectorcall` came */

/* -- Calls of functions of ours, taken by C -------------------------------------------------- */

/* A function of Python stands where a method was, and looks like it; what a call of it runs is
 * one of the functions below.  What these need is in a cell of that function's: so it lives as
 * long as it, and there is nothing to be found out by an address.  C has no frame: whoever is
 * called from there sees the caller of the function one frame out, as from its own body. */

/* What any function of Python runs, by which the body of one of ours is reached. */
static vectorcallfunc run_body;

/* The object of TYPE in a cell of FUNCTION, borrowed; NULL where there is none any more. */
static PyObject *
in_cell_of(PyObject *function, PyTypeObject *type)
{
    PyObject *cells = PyFunction_GET_CLOSURE(function);
    Py_ssize_t count = cells == NULL ? 0 : PyTuple_GET_SIZE(cells);
    for (Py_ssize_t at = 0; at < count; at++) {
        PyObject *content = PyCell_GET(PyTuple_GET_ITEM(cells, at));
        if (content != NULL && Py_IS_TYPE(content, type)) {
            return content;
        }
    }
    return NULL;
}

/* Have CALL run where FUNCTION is called, in a cell of which OWNER is. */
static int
take_calls(PyObject *function, PyObject *owner, vectorcallfunc call)
{
    if (!PyFunction_Check(function) || in_cell_of(function, Py_TYPE(owner)) != owner) {
        PyErr_SetString(PyExc_TypeError, "it takes the calls of a function that refers to it");
        return -1;
    }
    vectorcallfunc before = ((PyFunctionObject *)function)->vectorcall;
    if (run_body == NULL) {
        run_body = before;
    }
    if (before != run_body) {
        PyErr_SetString(PyExc_TypeError, "the calls of this function are taken");
        return -1;
    }
    PyFunction_SetVectorcall((PyFunctionObject *)function, call);
    return 0;
}

/* Whether NAMES are none, or the one name ONLY. */
static int
is_none_or(PyObject *names, const char *only)
{
    return names == NULL || PyTuple_GET_SIZE(names) == 0
        || (PyTuple_GET_SIZE(names) == 1
            && PyUnicode_CompareWithASCIIString(PyTuple_GET_ITEM(names, 0), only) == 0);
}

/* -- Timeouts: they are made, entered, and given another time -------------------------------- */

typedef struct {
    PyObject_HEAD
    PyTypeObject *cls;
    PyObject *original; /* `reschedule` */
    PyObject *maker;    /* the function that makes one of so many seconds, or None */
    Notes *notes;
    Table *sites;    /* by the address of an instruction: seconds, note, and what drops it */
    PyObject *aenter; /* the code that calls `reschedule` at an entry */
    PyObject *time;  /* functions, from here on */
    PyObject *enter;
    PyObject *again;
    PyObject *fault;
    PyObject *made;    /* the weak reference of the timeout that was made last, or NULL... */
    PyObject *seconds; /* ... and how many were given then */
} Timeouts;

static Timeouts *noting; /* borrowed: who wants to know what the maker makes; NULL for nobody */

/* The function that makes timeouts was called: as `asyncio.timeout` is, with one argument. */
static PyObject *
maker_call(PyObject *function, PyObject *const *args, size_t flags, PyObject *names)
{
    PyObject *timeout = run_body(function, args, flags, names);
    Timeouts *self = noting;
    if (timeout == NULL || self == NULL || !Py_IS_TYPE(timeout, self->cls)) {
        return timeout;
    }
    Py_INCREF(self);
    Py_CLEAR(self->made);
    /* None is given where somebody gave the function a default, or other code. */
    Py_ssize_t count = PyVectorcall_NARGS(flags) + (names == NULL ? 0 : PyTuple_GET_SIZE(names));
    PyObject *seconds = count == 1 ? args[0] : Py_None;
    if (PyFloat_CheckExact(seconds) || PyLong_CheckExact(seconds)) {
        PyObject *ref = PyWeakref_NewRef(timeout, NULL);
        if (ref != NULL) {
            Py_XSETREF(self->made, ref);
            Py_XSETREF(self->seconds, Py_NewRef(seconds));
        }
        else if (tell_fault(self->fault) < 0) {
            Py_CLEAR(timeout);
        }
    }
    Py_DECREF(self);
    return timeout;
}

/* TIMEOUT, whose weak reference REF is, was armed by the frame that is on top: note it where
 * that enters it.  GIVEN is how many seconds, or NULL, and NOW the time, where there is need. */
static int
note_entry(Timeouts *self, PyObject *timeout, PyObject *ref, PyObject *given, PyObject *now)
{
    PyFrameObject *frame = PyThreadState_GetFrame(PyThreadState_Get());
    if (frame == NULL) {
        return 0;
    }
    PyCodeObject *code = PyFrame_GetCode(frame);
    int enters = (PyObject *)code == self->aenter
        || PyUnicode_CompareWithASCIIString(code->co_name, "__aenter__") == 0;
    Py_DECREF(code);
    if (!enters) {
        Py_DECREF(frame);
        return 0;
    }
    PyFrameObject *outer = further_out(frame);
    int result = -1;
    if (outer != NULL && given != NULL && ref != NULL) {
        PyObject *known = table_get(self->sites, instruction(outer));
        if (known != NULL && PyTuple_CheckExact(known) && PyTuple_GET_SIZE(known) == 3
            && PyTuple_GET_ITEM(known, 0) == given) {
            Py_INCREF(known);
            result = notes_put(self->notes, timeout, ref, PyTuple_GET_ITEM(known, 1));
            Py_DECREF(known);
            Py_DECREF(outer);
            return result;
        }
    }
    PyObject *zero = now == NULL ? PyFloat_FromDouble(0.0) : Py_NewRef(now);
    if (zero != NULL) {
        PyObject *told = PyObject_CallFunctionObjArgs(
            self->enter, timeout, outer == NULL ? Py_None : (PyObject *)outer, zero,
            given == NULL ? Py_None : given, NULL);
        result = told == NULL ? -1 : 0;
        Py_XDECREF(told);
        Py_DECREF(zero);
    }
    Py_XDECREF(outer);
    return result;
}

/* `reschedule` was called. */
static PyObject *
reschedule_call(PyObject *function, PyObject *const *args, size_t flags, PyObject *names)
{
    Timeouts *self = (Timeouts *)in_cell_of(function, TimeoutsType);
    if (self == NULL) {
        return run_body(function, args, flags, names);
    }
    Py_INCREF(self); /* the original may let it go */
    Py_ssize_t count = PyVectorcall_NARGS(flags);
    if (count < 1 || count + (names == NULL ? 0 : PyTuple_GET_SIZE(names)) != 2
        || !is_none_or(names, "when")) {
        PyObject *refused = PyObject_Vectorcall(self->original, args, flags, names);
        Py_DECREF(self);
        return refused;
    }
    PyObject *timeout = args[0], *note = NULL, *given = NULL, *now = NULL, *result = NULL;
    PyObject *ref = PyWeakref_NewRef(timeout, NULL);
    if (ref == NULL) {
        PyErr_Clear(); /* whatever this is: Python is told, and says what is wrong */
    }
    else {
        note = Py_XNewRef(notes_find(self->notes, timeout, ref));
        given = ref == self->made ? Py_XNewRef(self->seconds) : NULL;
    }
    int known = 1;
    if (note != NULL || given == NULL) {
        now = PyObject_CallNoArgs(self->time); /* first: a clock may move on in the original */
        if (now == NULL) { /* the clock of a loop that is not made */
            if (!PyErr_ExceptionMatches(PyExc_Exception)) {
                goto done;
            }
            PyErr_Clear();
            known = 0;
        }
    }
    result = PyObject_Vectorcall(self->original, args, flags, names);
    if (result == NULL || !known) {
        goto done;
    }
    int noted = -1;
    if (note == NULL) {
        noted = note_entry(self, timeout, ref, given, now);
    }
    else {
        PyObject *told = PyObject_CallFunctionObjArgs(self->again, timeout, note, now, NULL);
        noted = told == NULL ? -1 : 0;
        Py_XDECREF(told);
    }
    if (noted < 0 && tell_fault(self->fault) < 0) {
        Py_CLEAR(result);
    }
done:
    Py_XDECREF(ref);
    Py_XDECREF(note);
    Py_XDECREF(given);
    Py_XDECREF(now);
    Py_DECREF(self);
    return result;
}

/* `take_calls_of(reschedule)`: from now on, and of the maker. */
static PyObject *
timeouts_take_calls_of(PyObject *op, PyObject *function)
{
    Timeouts *self = (Timeouts *)op;
    if (take_calls(function, op, reschedule_call) < 0) {
        return NULL;
    }
    if (self->maker != Py_None) {
        PyFunctionObject *maker = (PyFunctionObject *)self->maker;
        /* Others may take the calls of a function, too: then the seconds are measured. */
        if (maker->vectorcall == run_body) {
            PyFunction_SetVectorcall(maker, maker_call);
        }
        noting = self;
    }
    Py_RETURN_NONE;
}

static PyObject *
timeouts_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"cls",  "original", "maker", "notes", "sites", "aenter",
                            "time", "enter",    "again", "fault", NULL};
    PyObject *cls, *original, *maker, *notes, *sites, *aenter, *time, *enter, *again, *fault;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "$O!OOO!O!OOOOO:Timeouts", names, &PyType_Type,
                                     &cls, &original, &maker, NotesType, &notes, TableType, &sites,
                                     &aenter, &time, &enter, &again, &fault)) {
        return NULL;
    }
    if (maker != Py_None
        && (!PyFunction_Check(maker)
            || ((PyCodeObject *)PyFunction_GET_CODE(maker))->co_argcount != 1)) {
        PyErr_SetString(PyExc_TypeError, "what makes a timeout is a function of one argument");
        return NULL;
    }
    Timeouts *self = (Timeouts *)type->tp_alloc(type, 0);
    if (self == NULL) {
        return NULL;
    }
    self->cls = (PyTypeObject *)Py_NewRef(cls);
    self->original = Py_NewRef(original);
    self->maker = Py_NewRef(maker);
    self->notes = (Notes *)Py_NewRef(notes);
    self->sites = (Table *)Py_NewRef(sites);
    self->aenter = Py_NewRef(aenter);
    self->time = Py_NewRef(time);
    self->enter = Py_NewRef(enter);
    self->again = Py_NewRef(again);
    self->fault = Py_NewRef(fault);
    return (PyObject *)self;
}

static int
timeouts_traverse(PyObject *op, visitproc visit, void *arg)
{
    Timeouts *self = (Timeouts *)op;
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(self->cls);
    Py_VISIT(self->original);
    Py_VISIT(self->maker);
    Py_VISIT(self->notes);
    Py_VISIT(self->sites);
    Py_VISIT(self->aenter);
    Py_VISIT(self->time);
    Py_VISIT(self->enter);
    Py_VISIT(self->again);
    Py_VISIT(self->fault);
    return 0;
}

static void
timeouts_dealloc(PyObject *op)
{
    Timeouts *self = (Timeouts *)op;
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    if (noting == self) {
        noting = NULL;
        PyFunctionObject *maker = (PyFunctionObject *)self->maker;
        if (maker->vectorcall == maker_call) {
            PyFunction_SetVectorcall(maker, run_body);
        }
    }
    Py_XDECREF(self->cls);
    Py_XDECREF(self->original);
    Py_XDECREF(self->maker);
    Py_XDECREF(self->notes);
    Py_XDECREF(self->sites);
    Py_XDECREF(self->aenter);
    Py_XDECREF(self->time);
    Py_XDECREF(self->enter);
    Py_XDECREF(self->again);
    Py_XDECREF(self->fault);
    Py_XDECREF(self->made);
    Py_XDECREF(self->seconds);
    type->tp_free(op);
    Py_DECREF(type);
}

static PyMethodDef timeouts_methods[] = {
    {"take_calls_of", timeouts_take_calls_of, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef timeouts_members[] = {
    {"original", T_OBJECT_EX, offsetof(Timeouts, original), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

/* No tp_clear, as of the next one, too: the functions and their cells break the circle. */
static PyType_Slot timeouts_slots[] = {
    {Py_tp_doc, (void *)"Notes the timeouts that are entered, as long as it lives."},
    {Py_tp_new, timeouts_new},
    {Py_tp_dealloc, timeouts_dealloc},
    {Py_tp_traverse, timeouts_traverse},
    {Py_tp_methods, timeouts_methods},
    {Py_tp_members, timeouts_members},
    {0, NULL},
};

static PyType_Spec timeouts_spec = {
    "aioaudit.core._core.Timeouts",
    sizeof(Timeouts),
    0,
    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    timeouts_slots,
};

/* -- Passed: callbacks of which there is nothing to note -------------------------------------- */

typedef struct {
    PyObject_HEAD
    PyObject *original;
    Py_ssize_t at;     /* which of the arguments is the callback */
    PyObject *partial; /* the class of callbacks of which something may be noted, or NULL */
    PyObject *watch;   /* has `hidden_signals`, or is None */
    PyObject *hide;
    PyObject *origin;
    PyObject *fault;
} Passed;

/* Whether there may be something to note of CALLBACK. */
static int
is_notable(const Passed *self, PyObject *callback)
{
    if (PyMethod_Check(callback)) {
        PyObject *function = PyMethod_GET_FUNCTION(callback);
        return !PyFunction_Check(function)
            || PyUnicode_Compare(((PyFunctionObject *)function)->func_name, str_cancel) == 0;
    }
    if (PyCFunction_CheckExact(callback)) { /* as that of a task, see `asks_method` */
        return strcmp(((PyCFunctionObject *)callback)->m_ml->ml_name, "cancel") == 0;
    }
    return (PyObject *)Py_TYPE(callback) == self->partial;
}

/* Call the original, which may let SELF go. */
static PyObject *
pass_on(Passed *self, PyObject *const *args, size_t flags, PyObject *names)
{
    PyObject *original = Py_NewRef(self->original);
    PyObject *result = PyObject_Vectorcall(original, args, flags, names);
    Py_DECREF(original);
    return result;
}

/* What passes callbacks on was called. */
static PyObject *
passed_call(PyObject *function, PyObject *const *args, size_t flags, PyObject *names)
{
    Passed *self = (Passed *)in_cell_of(function, PassedType);
    if (self == NULL) {
        return run_body(function, args, flags, names);
    }
    Py_ssize_t count = PyVectorcall_NARGS(flags);
    int named = is_none_or(names, "context");
    if (self->hide == Py_None && (count != self->at + 1 || !named)) {
        return pass_on(self, args, flags, names); /* which says what is wrong with it */
    }
    if (count <= self->at || !named || is_notable(self, args[self->at])) {
        return run_body(function, args, flags, names);
    }
    if (self->watch != Py_None) {
        PyObject *hidden = PyObject_GetAttr(self->watch, str_hidden_signals);
        if (hidden != Py_False) {
            PyErr_Clear();
            Py_XDECREF(hidden);
            return run_body(function, args, flags, names);
        }
        Py_DECREF(hidden);
    }
    if (self->hide == Py_None) {
        return pass_on(self, args, flags, names);
    }
    Py_INCREF(self); /* as `pass_on` does */
    PyObject *result = PyObject_Vectorcall(self->original, args, flags, names);
    if (result != NULL) {
        PyObject *origin = PyObject_GetAttr(result, self->origin);
        int hidden = 0;
        if (origin == NULL) {
            if (PyErr_ExceptionMatches(PyExc_AttributeError)) {
                PyErr_Clear(); /* a stranger's handle */
            }
            else {
                hidden = -1;
            }
        }
        else if (origin != Py_None) {
            hidden = call_and_forget(self->hide, result);
        }
        Py_XDECREF(origin);
        if (hidden < 0 && tell_fault(self->fault) < 0) {
            Py_CLEAR(result);
        }
    }
    Py_DECREF(self);
    return result;
}

/* `take_calls_of(function)`: from now on; gives the function. */
static PyObject *
passed_take_calls_of(PyObject *op, PyObject *function)
{
    return take_calls(function, op, passed_call) < 0 ? NULL : Py_NewRef(function);
}

static PyObject *
passed_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"original", "at", "partial", "watch", "hide", "origin", "fault", NULL};
    PyObject *original, *partial, *watch, *hide, *origin, *fault;
    Py_ssize_t at;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "$OnOOOUO:Passed", names, &original, &at,
                                     &partial, &watch, &hide, &origin, &fault)) {
        return NULL;
    }
    Passed *self = (Passed *)type->tp_alloc(type, 0);
    if (self == NULL) {
        return NULL;
    }
    self->original = Py_NewRef(original);
    self->at = at;
    self->partial = Py_NewRef(partial);
    self->watch = Py_NewRef(watch);
    self->hide = Py_NewRef(hide);
    self->origin = Py_NewRef(origin);
    self->fault = Py_NewRef(fault);
    return (PyObject *)self;
}

static int
passed_traverse(PyObject *op, visitproc visit, void *arg)
{
    Passed *self = (Passed *)op;
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(self->original);
    Py_VISIT(self->partial);
    Py_VISIT(self->watch);
    Py_VISIT(self->hide);
    Py_VISIT(self->fault);
    return 0;
}

static void
passed_dealloc(PyObject *op)
{
    Passed *self = (Passed *)op;
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    Py_XDECREF(self->original);
    Py_XDECREF(self->partial);
    Py_XDECREF(self->watch);
    Py_XDECREF(self->hide);
    Py_XDECREF(self->origin);
    Py_XDECREF(self->fault);
    type->tp_free(op);
    Py_DECREF(type);
}

static PyMethodDef passed_methods[] = {
    {"take_calls_of", passed_take_calls_of, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef passed_members[] = {
    {"original", T_OBJECT_EX, offsetof(Passed, original), READONLY, NULL},
    {"fault", T_OBJECT_EX, offsetof(Passed, fault), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot passed_slots[] = {
    {Py_tp_doc, (void *)"Passes callbacks on of which there is nothing to note."},
    {Py_tp_new, passed_new},
    {Py_tp_dealloc, passed_dealloc},
    {Py_tp_traverse, passed_traverse},
    {Py_tp_methods, passed_methods},
    {Py_tp_members, passed_members},
    {0, NULL},
};

static PyType_Spec passed_spec = {
    "aioaudit.core._core.Passed",
    sizeof(Passed),
    0,
    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    passed_slots,
};

#endif
