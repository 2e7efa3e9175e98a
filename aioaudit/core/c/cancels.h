/* `cancel` of tasks and of futures, and `uncancel`: the methods that stand in their place.
 *
 * For `probes/install.py`.  They note what is plain in an `Asks`, and hand the rest to the probe in
 * Python.
 */
#pragma once

#include "asks.h"

/* What stands for the method of one class; it stays for good, and the class with it, as the
 * `Slot` of an `__init__`. */
typedef struct Method {
    struct Method *next;
    PyTypeObject *cls;
    PyObject *original;
    PyObject *otherwise; /* the probe in Python */
    Asks *asks;          /* borrowed; NULL while nobody wants to know */
    PyMethodDef def;
} Method;

static Method *methods;

static PyObject *task_cancel(PyObject *, PyObject *const *, Py_ssize_t, PyObject *);
static PyObject *future_cancel(PyObject *, PyObject *const *, Py_ssize_t, PyObject *);
static PyObject *task_uncancel(PyObject *, PyObject *const *, Py_ssize_t, PyObject *);

typedef PyObject *(*MethodFunction)(PyObject *, PyObject *const *, Py_ssize_t, PyObject *);

static Method *
method_of(PyTypeObject *cls, MethodFunction function)
{
    PyCFunction wanted = (PyCFunction)(void (*)(void))function;
    for (Method *each = methods; each != NULL; each = each->next) {
        if (each->cls == cls && each->def.ml_meth == wanted) {
            return each;
        }
    }
    for (Method *each = methods; each != NULL; each = each->next) {
        if (each->def.ml_meth == wanted && PyType_IsSubtype(cls, each->cls)) {
            return each;
        }
    }
    PyErr_Format(PyExc_TypeError, "%.200s has no such method", cls->tp_name);
    return NULL;
}

#define FEW 8

/* Call FUNCTION as the method that was called on SELF with the rest. */
static PyObject *
call_with(PyObject *function, PyObject *self, PyObject *const *args, Py_ssize_t count,
          PyObject *names)
{
    PyObject *few[FEW], **all = few;
    Py_ssize_t given = count + (names == NULL ? 0 : PyTuple_GET_SIZE(names));
    if (given >= FEW) {
        all = PyMem_Malloc((size_t)(given + 1) * sizeof(PyObject *));
        if (all == NULL) {
            return PyErr_NoMemory();
        }
    }
    all[0] = self;
    if (given > 0) {
        memcpy(all + 1, args, (size_t)given * sizeof(PyObject *));
    }
    PyObject *result = PyObject_Vectorcall(function, all, (size_t)count + 1, names);
    if (all != few) {
        PyMem_Free(all);
    }
    return result;
}

static PyObject *
task_cancel(PyObject *task, PyObject *const *args, Py_ssize_t count, PyObject *names)
{
    Method *method = method_of(Py_TYPE(task), task_cancel);
    if (method == NULL) {
        return NULL;
    }
    Asks *asks = method->asks;
    if (asks == NULL || !asks->on || count != 0 || names != NULL
        || !Py_IS_TYPE(task, method->cls)) {
        return call_with(method->otherwise, task, args, count, names);
    }
    PyObject *result, *future = NULL;
    Py_INCREF(asks); /* it may be done with meanwhile */
    int plain = ask(asks, method->cls, task, &future);
    if (plain < 0) {
        plain = tell_given(asks);
    }
    if (plain < 0) {
        result = NULL;
    }
    else if (plain == 0) {
        result = call_with(method->otherwise, task, args, count, names);
    }
    else {
        PyObject *before = asks->inside;
        uint64_t before_thread = asks->inside_thread;
        asks->inside = future;
        asks->inside_thread = PyThreadState_GetID(PyThreadState_Get());
        result = call_with(method->original, task, args, count, names);
        asks->inside = before;
        asks->inside_thread = before_thread;
        Py_DECREF(future);
    }
    Py_DECREF(asks);
    return result;
}

static PyObject *
future_cancel(PyObject *future, PyObject *const *args, Py_ssize_t count, PyObject *names)
{
    Method *method = method_of(Py_TYPE(future), future_cancel);
    if (method == NULL) {
        return NULL;
    }
    Asks *asks = method->asks;
    PyObject *function = method->otherwise;
    if (asks != NULL && asks->inside == future
        && asks->inside_thread == PyThreadState_GetID(PyThreadState_Get())) {
        asks->inside = NULL; /* once: this is the call that its task makes */
        function = method->original;
    }
    return call_with(function, future, args, count, names);
}

/* Whether RECORD, which its task is about to be done with, took too long for Python not to look. */
static int
took_long(Asks *self, Asked *record)
{
    int failed = 0;
    if (!self->findings) {
        return 0;
    }
    PyObject *limit = PyObject_GetAttr(self->given[RULES], str_slow_after);
    double seconds = limit == NULL ? -1.0 : PyFloat_AsDouble(limit);
    Py_XDECREF(limit);
    if (PyErr_Occurred()) {
        return -1;
    }
    double now = seconds_now(self, &failed);
    if (failed) {
        return -1;
    }
    return record->requested_at == 0.0 || now - record->requested_at > seconds;
}

/* `uncancel()` is called on TASK, of which RECORD, that is a timeout's, is known: whether the timeout
 * itself calls it, as its block is left by the error that delivered it, and nothing else was
 * asked.  Then FOUND is what Python says of that place, a new reference.  -1 with an exception. */
static int
is_plainly_left(Asks *self, PyObject *task, Asked *record, PyObject **found)
{
#if PY_VERSION_HEX >= 0x030C0000
    PyThreadState *thread = PyThreadState_Get();
    if (!record->delivered || record->left != NULL || record->ended
        || PyDict_GET_SIZE(self->given[PYTHON_TASKS]) != 0
        || record->thread != PyThreadState_GetID(thread)
        || created_at(self->born, (uintptr_t)task) != record->born || !is_named(record->born)) {
        return 0;
    }
    int no = is_muted(self);
    if (no == 0) {
        no = took_long(self, record);
    }
    if (no != 0) {
        return no < 0 ? -1 : 0;
    }
    int result = -1, learned = 0;
    PyObject *current = call_given(self, CURRENT_TASK, NULL, NULL);
    PyFrameObject *frame = current == NULL ? NULL : PyThreadState_GetFrame(thread), *back = NULL;
    PyObject *timeout = NULL, *error = NULL, *count = NULL, *said = NULL;
    if (current == NULL && PyErr_ExceptionMatches(PyExc_RuntimeError)) {
        PyErr_Clear(); /* no loop runs, or none of which C knows: it is no block that calls */
        return 0;
    }
    if (frame == NULL) {
        result = current == NULL ? -1 : 0;
        goto done;
    }
    if (current != task || !runs_alone(frame, self->given[LEAVE])) {
        result = 0;
        goto done;
    }
    timeout = PyFrame_GetVar(frame, str_self);
    error = timeout == NULL ? NULL : PyFrame_GetVar(frame, str_exc_val);
    count = error == NULL ? NULL : PyObject_CallMethodNoArgs(task, str_cancelling);
    if (count == NULL) {
        goto done;
    }
    back = PyFrame_GetBack(frame);
    if (back == NULL || record->owner != (uintptr_t)timeout
        || !Py_IS_TYPE(timeout, (PyTypeObject *)self->given[TIMEOUT])
        || !Py_IS_TYPE(error, (PyTypeObject *)self->given[CANCELLED])
        || !refers_to(record->error_ref, error) || PyLong_AsLong(count) != 1) {
        result = PyErr_Occurred() ? -1 : 0;
        goto done;
    }
    Path path;
    path.count = 0;
    path.hash = record->thread;
    mix(&path, (uintptr_t)record->born->site->place);
    if (add_step(&path, frame) < 0 || add_step(&path, back) < 0) {
        result = 0;
        goto done;
    }
    said = said_of(self, self->lines, &path, record->thread, LEARN_LEAVING, (PyObject *)frame, NULL,
                   &learned);
    if (said == NULL || learned || PyTuple_GET_ITEM(said, 0) != record->born->site->place) {
        result = PyErr_Occurred() ? -1 : 0;
        goto done;
    }
    *found = Py_NewRef(said);
    result = 1;
done:
    Py_XDECREF(current);
    Py_XDECREF(frame);
    Py_XDECREF(back);
    Py_XDECREF(timeout);
    Py_XDECREF(error);
    Py_XDECREF(count);
    Py_XDECREF(said);
    return result;
#else
    (void)self, (void)task, (void)record, (void)found;
    return 0;
#endif
}

/* RECORD was taken back, as LEFT says, which is told by TOLD. */
static int
note_taken_back(Asks *self, Asked *record, PyObject *left, TakenBack *told)
{
    told->left = Py_NewRef(left);
    Py_XSETREF(record->left, Py_NewRef(left));
    self->changes++;
    told->ns = now_ns();
    told->seq = ((Counter *)self->given[NEXT_SEQ])->next++;
    return put_given(self, (PyObject *)told);
}

static PyObject *
task_uncancel(PyObject *task, PyObject *const *args, Py_ssize_t count, PyObject *names)
{
    Method *method = method_of(Py_TYPE(task), task_uncancel);
    if (method == NULL) {
        return NULL;
    }
    Asks *asks = method->asks;
    Asked *record = NULL;
    if (asks != NULL && asks->on && count == 0 && names == NULL && Py_IS_TYPE(task, method->cls)) {
        record = asked_of(asks, task);
    }
    if (record == NULL || record->owner == 0) {
        return call_with(method->otherwise, task, args, count, names);
    }
    PyObject *left = NULL, *result = NULL;
    TakenBack *told = NULL;
    Py_INCREF(asks); /* it may be done with meanwhile, and so may this */
    Py_INCREF(record);
    int plain = is_plainly_left(asks, task, record, &left);
    if (plain > 0) {
        told = outcome_make(TakenBackType, record);
        plain = told == NULL ? -1 : 1;
    }
    if (plain < 0) {
        plain = tell_given(asks);
    }
    if (plain == 0 || (plain > 0 && record->asks == NULL)) {
        result = call_with(method->otherwise, task, args, count, names);
    }
    else if (plain > 0) {
        result = call_with(method->original, task, args, count, names);
        if (result != NULL && note_taken_back(asks, record, left, told) < 0 && tell_given(asks) < 0) {
            Py_CLEAR(result);
        }
    }
    Py_XDECREF(left);
    Py_XDECREF(told);
    Py_DECREF(record);
    Py_DECREF(asks);
    return result;
}

/* So many kinds of methods there are. */
enum { METHODS = 3 };

/* `method(cls, original, otherwise, kind)`: what is to stand where ORIGINAL, `cls.cancel` of a class
 * of futures (0) or tasks (1), or the `uncancel` of those (2), is. */
static PyObject *
asks_method(PyObject *op, PyObject *args)
{
    PyTypeObject *cls;
    PyObject *original, *otherwise;
    int kind;
    if (!PyArg_ParseTuple(args, "O!O!Oi:method", &PyType_Type, &cls, &PyMethodDescr_Type, &original,
                          &otherwise, &kind)) {
        return NULL;
    }
    static const MethodFunction functions_of[METHODS] = {future_cancel, task_cancel, task_uncancel};
    if (kind < 0 || kind >= METHODS) {
        PyErr_Format(PyExc_ValueError, "there is no method %d", kind);
        return NULL;
    }
    PyCFunction function = (PyCFunction)(void (*)(void))functions_of[kind];
    PyMethodDef *like = ((PyMethodDescrObject *)original)->d_method;
    if (like->ml_meth == function) {
        PyErr_Format(PyExc_TypeError, "%R is not what a class came with", original);
        return NULL;
    }
    Method *method = methods;
    while (method != NULL && (method->cls != cls || method->def.ml_meth != function)) {
        method = method->next;
    }
    if (method == NULL) {
        method = PyMem_Calloc(1, sizeof(Method));
        if (method == NULL) {
            return PyErr_NoMemory();
        }
        method->cls = (PyTypeObject *)Py_NewRef((PyObject *)cls);
        method->def.ml_name = like->ml_name;
        method->def.ml_doc = like->ml_doc;
        method->def.ml_flags = METH_FASTCALL | METH_KEYWORDS;
        method->def.ml_meth = function;
        method->next = methods;
        methods = method;
    }
    Py_XSETREF(method->original, Py_NewRef(original));
    Py_XSETREF(method->otherwise, Py_NewRef(otherwise));
    method->asks = (Asks *)op;
    return PyDescr_NewMethod(cls, &method->def);
}
