/* What becomes of a request: the callbacks of `sys.monitoring`.
 *
 * For `probes/ends.py`: an error is thrown into a task, is handled, is raised again, and ends the
 * task or not.
 */
#pragma once

#include "cancels.h"

/* The handler that RECORD's error was in, if it was in one, is left: `HandlerTimer.leave`. */
static int
leave_handler(Asks *self, Asked *record)
{
    int failed = 0;
    Py_CLEAR(record->swallowed_at);
    PyObject *line = record->entered;
    record->entered = NULL;
    if (line != NULL) {
        double now = seconds_now(self, &failed);
        if (!failed && now - record->since >= record->seconds) {
            record->seconds = now - record->since;
            Py_XSETREF(record->slow_at, line);
            line = NULL;
        }
    }
    Py_XDECREF(line);
    return failed ? -1 : 0;
}

typedef struct Callback Callback;

/* What answers to one event of `sys.monitoring`, called with a code, an offset and an exception. */
typedef PyObject *(*Answer)(Callback *self, PyObject *const *args);

struct Callback {
    PyObject_HEAD
    vectorcallfunc call;
    Answer answer;
    Asks *asks;
    PyObject *otherwise;
};

static PyObject *
not_plain(Callback *self, PyObject *const *args)
{
    return PyObject_Vectorcall(self->otherwise, args, 3, NULL);
}

/* The end of a callback that failed: an error of ours does not reach the program. */
static PyObject *
failed_in(Asks *asks)
{
    if (tell_given(asks) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

/* RECORD is for Python, and so is what happens. */
static PyObject *
hand_over_and_call(Callback *self, Asked *record, PyObject *const *args)
{
    Py_INCREF(record);
    int result = record->asks == NULL ? 0 : hand_over(self->asks, record);
    Py_DECREF(record);
    return result < 0 ? failed_in(self->asks) : not_plain(self, args);
}

static PyObject *
callback_call(PyObject *op, PyObject *const *args, size_t flags, PyObject *names)
{
    Callback *self = (Callback *)op;
    Asks *asks = self->asks;
    if (PyVectorcall_NARGS(flags) != 3 || names != NULL) {
        PyErr_SetString(PyExc_TypeError, "it is called with a code, an offset and an object");
        return NULL;
    }
    Asked *record = NULL;
    PyObject *result;
    Py_INCREF(op); /* who calls has not: it may be another's turn from now on */
    if (asks->on) {
        result = self->answer(self, args);
    }
    /* Nothing is taken in, or not any more: all that happens is for Python. */
    else if ((record = flying_with(asks, args[2])) != NULL) {
        result = hand_over_and_call(self, record, args);
    }
    else {
        result = not_plain(self, args);
    }
    Py_DECREF(op);
    return result;
}

/* ERROR is thrown into the task of RECORD, for the first time. */
static int
deliver(Asks *self, Asked *record, PyObject *error)
{
    int failed = 0;
    double now = seconds_now(self, &failed);
    PyObject *ref = failed ? NULL : PyWeakref_NewRef(error, (PyObject *)record);
    if (ref == NULL) {
        return -1;
    }
    Asked *before = (Asked *)table_get(self->flying, (uintptr_t)error);
    Py_XINCREF(before); /* of an earlier error at that address, which went without a call */
    if (table_set(self->flying, (uintptr_t)error, (PyObject *)record) < 0) {
        Py_XDECREF(before);
        Py_DECREF(ref);
        return -1;
    }
    if (before != NULL) {
        settle(self, before);
        Py_DECREF(before);
    }
    record->error_at = (uintptr_t)error;
    record->delivered = 1;
    record->delivered_at = now;
    Py_XSETREF(record->error_ref, ref);
    self->changes++;
    if (self->flying->used == 1 && PyDict_GET_SIZE(self->ties) == 0) {
        return call_given_and_forget(self, TRACK, Py_True);
    }
    return 0;
}

static PyObject *
thrown(Callback *self, PyObject *const *args)
{
    Asks *asks = self->asks;
    PyObject *error = args[2];
    if (asks->asked->used == 0
        || !PyObject_TypeCheck(error, (PyTypeObject *)asks->given[CANCELLED])) {
        return not_plain(self, args);
    }
    PyObject *task = call_given(asks, CURRENT_TASK, NULL, NULL);
    if (task == NULL) {
        PyErr_Clear();
        return not_plain(self, args);
    }
    Asked *record = asked_of(asks, task);
    Py_DECREF(task); /* it runs, so it stays */
    if (record == NULL || PyDict_GET_SIZE(asks->given[PYTHON_TASKS]) != 0) {
        return not_plain(self, args);
    }
    if (record->error_at == (uintptr_t)error && refers_to(record->error_ref, error)) {
        Py_RETURN_NONE; /* a frame further out */
    }
    int known = record->delivered || record->ended || flying_with(asks, error) != NULL
        ? 1 : has_key(asks->ties, (uintptr_t)error);
    if (known > 0) {
        return hand_over_and_call(self, record, args);
    }
    if (known < 0 || deliver(asks, record, error) < 0) {
        return failed_in(asks);
    }
    Py_RETURN_NONE;
}

/* Whether ERROR, which no plain request is delivered with, is Python's matter; -1 with an exception. */
static int
is_of_python(Asks *asks, PyObject *error)
{
    /* Where none is on its way at all, Python sees to it that nobody asks any more. */
    return asks->flying->used == 0 ? 1 : has_key(asks->ties, (uintptr_t)error);
}

static PyObject *
handled(Callback *self, PyObject *const *args)
{
    Asks *asks = self->asks;
    Asked *record = flying_with(asks, args[2]);
    if (record == NULL) {
        int its = is_of_python(asks, args[2]);
        if (its != 0) {
            return its < 0 ? failed_in(asks) : not_plain(self, args);
        }
        Py_RETURN_NONE;
    }
    if (record->ended) {
        Py_RETURN_NONE; /* of a task that awaits this one, whose matter it is not */
    }
    PyObject *offset = args[1];
    Py_ssize_t at = PyLong_AsSsize_t(offset);
    if (at == -1 && PyErr_Occurred()) {
        return failed_in(asks);
    }
    PyObject *number = PyLong_FromVoidPtr((void *)((uintptr_t)args[0] + (uintptr_t)at));
    PyObject *keeper = number == NULL
        ? NULL : PyDict_GetItemWithError(asks->given[HANDLERS], number);
    Py_XINCREF(keeper);
    Py_XDECREF(number);
    Py_INCREF(record);
    if (keeper == NULL && !PyErr_Occurred()) {
        keeper = call_given(asks, LEARN_HANDLER, args[0], offset);
    }
    PyObject *result = NULL;
    int failed = keeper == NULL;
    if (!failed && (!PyTuple_Check(keeper) || PyTuple_GET_SIZE(keeper) != 3
                    || PyTuple_GET_ITEM(keeper, 1) != Py_False || record->asks == NULL)) {
        result = hand_over_and_call(self, record, args);
        Py_DECREF(keeper);
        Py_DECREF(record);
        return result;
    }
    if (!failed) {
        PyObject *line = PyTuple_GET_ITEM(keeper, 2);
        if (line == Py_None) {
            Py_CLEAR(record->swallowed_at);
        }
        else {
            failed = leave_handler(asks, record) < 0;
            double now = failed ? 0.0 : seconds_now(asks, &failed);
            Py_XSETREF(record->swallowed_at, Py_NewRef(line));
            Py_XSETREF(record->entered, Py_NewRef(line));
            record->since = now;
            record->timed = 1;
        }
    }
    Py_XDECREF(keeper);
    Py_DECREF(record);
    if (failed) {
        return failed_in(asks);
    }
    Py_RETURN_NONE;
}

static PyObject *
reraised(Callback *self, PyObject *const *args)
{
    Asks *asks = self->asks;
    Asked *record = flying_with(asks, args[2]);
    if (record == NULL) {
        int its = has_key(asks->ties, (uintptr_t)args[2]);
        if (its != 0) {
            return its < 0 ? failed_in(asks) : not_plain(self, args);
        }
    }
    else if (!record->ended && leave_handler(asks, record) < 0) {
        return failed_in(asks);
    }
    Py_RETURN_NONE;
}

/* Whether nobody is reached by the end of TASK but those who are told of it in any case; -1 with
 * an exception. */
static int
reaches_nobody(Asks *self, PyObject *task)
{
    PyObject *callbacks = PyObject_GetAttr(task, str_callbacks);
    if (callbacks == NULL) {
        return -1;
    }
    int nobody = 1;
    if (callbacks != Py_None) {
        nobody = PyList_CheckExact(callbacks);
        for (Py_ssize_t at = 0; nobody > 0 && at < PyList_GET_SIZE(callbacks); at++) {
            PyObject *entry = PyList_GET_ITEM(callbacks, at);
            if (!PyTuple_CheckExact(entry) || PyTuple_GET_SIZE(entry) == 0) {
                nobody = 0;
                break;
            }
            PyObject *callback = PyTuple_GET_ITEM(entry, 0);
            if (self->nobody != NULL && refers_to(self->nobody, callback)) {
                continue;
            }
            /* Python says whether, and what to know it by again. */
            PyObject *answer = call_given(self, REACHES_NOBODY, callback, NULL);
            nobody = answer == NULL ? -1 : answer == Py_True || PyWeakref_Check(answer);
            if (answer != NULL && PyWeakref_Check(answer)) {
                Py_XSETREF(self->nobody, Py_NewRef(answer));
            }
            Py_XDECREF(answer);
        }
    }
    Py_DECREF(callbacks);
    return nobody;
}

/* The task of RECORD, of which all is known, ends by it, or returns after it: note and tell that. */
static int
end_after(Asks *self, Asked *record)
{
    Obeyed *ended = outcome_make(ObeyedType, record);
    if (ended == NULL) {
        return -1;
    }
    record->ended = 1;
    self->changes++;
    Py_XDECREF(table_pop(self->born, record->task_at));
    ended->ns = now_ns();
    ended->seq = ((Counter *)self->given[NEXT_SEQ])->next++;
    int result = put_given(self, (PyObject *)ended);
    Py_DECREF(ended);
    return result;
}

/* The task of RECORD returns, after its timeout took that back: as `end_by`. */
static int
return_after(Asks *self, Asked *record)
{
    if (!self->on || record->left == NULL || record->ended || !is_named(record->born)
        || record->thread != PyThreadState_GetID(PyThreadState_Get())) {
        return 0;
    }
    int no = is_muted(self);
    if (no != 0) {
        return no < 0 ? -1 : 0;
    }
    return end_after(self, record) < 0 ? -1 : 1;
}

/* The task of RECORD, TASK, ends by it: note it, and have it told.  1 if that was all; 0, if it is
 * for Python; -1 with an exception. */
static int
end_by(Asks *self, PyObject *task, Asked *record)
{
    Created *made = record->born;
    if (!self->on || record->owner != 0 || created_at(self->born, (uintptr_t)task) != made
        || !is_named(made) || record->thread != PyThreadState_GetID(PyThreadState_Get())) {
        return 0;
    }
    int no = took_long(self, record);
    if (no == 0) {
        no = is_muted(self);
    }
    if (no != 0) {
        return no < 0 ? -1 : 0;
    }
    int nobody = reaches_nobody(self, task);
    if (nobody <= 0 || record->asks == NULL) {
        return nobody < 0 ? -1 : 0;
    }
    return end_after(self, record) < 0 ? -1 : 1;
}

static PyObject *
unwound(Callback *self, PyObject *const *args)
{
    Asks *asks = self->asks;
    PyObject *code = args[0], *error = args[2];
    Asked *record = flying_with(asks, error);
    if (record != NULL && !record->ended && leave_handler(asks, record) < 0) {
        return failed_in(asks);
    }
    int watched = has_key(asks->given[CODES], (uintptr_t)code);
    if (watched == 0) {
        watched = record == NULL ? has_key(asks->ties, (uintptr_t)error) : 0;
        if (watched == 0) {
            Py_RETURN_NONE; /* no code that a task runs */
        }
    }
    if (watched < 0) {
        return failed_in(asks);
    }
    if (record == NULL) {
        return not_plain(self, args);
    }
    PyObject *task = call_given(asks, CURRENT_TASK, NULL, NULL);
    if (task == NULL) {
        PyErr_Clear();
        return hand_over_and_call(self, record, args);
    }
    PyObject *result = NULL;
    int plain = !record->ended && refers_to(record->task_ref, task)
        && PyDict_GET_SIZE(asks->given[PYTHON_TASKS]) == 0;
    if (plain && record->born->site->code != (uintptr_t)code) {
        Py_DECREF(task);
        Py_RETURN_NONE; /* code that other tasks run, and this one awaits */
    }
    Py_INCREF(record);
    if (plain) {
        PyObject *module = call_given(asks, MODULE_AT, asks->one, NULL);
        plain = module == NULL ? -1 : PySet_Contains(asks->given[OUTSIDE], module);
        Py_XDECREF(module);
        if (plain > 0) {
            plain = end_by(asks, task, record);
        }
    }
    if (plain < 0) {
        result = failed_in(asks);
    }
    else if (plain > 0) {
        result = Py_NewRef(Py_None);
    }
    else {
        result = hand_over_and_call(self, record, args);
    }
    Py_DECREF(record);
    Py_DECREF(task);
    return result;
}

/* The callback of the weak reference to the error that delivered it: that is gone. */
static PyObject *
asked_call(PyObject *op, PyObject *const *args, size_t flags, PyObject *Py_UNUSED(names))
{
    Asked *record = (Asked *)op;
    Asks *asks = record->asks;
    if (PyVectorcall_NARGS(flags) != 1 || args[0] != record->error_ref || asks == NULL) {
        Py_RETURN_NONE;
    }
    Py_INCREF(asks);
    Py_INCREF(record);
    take_out(asks->flying, record->error_at, record);
    Py_CLEAR(record->error_ref);
    settle(asks, record);
    int result = 0;
    if (asks->on && asks->flying->used == 0 && PyDict_GET_SIZE(asks->ties) == 0) {
        result = call_given_and_forget(asks, TRACK, Py_False);
    }
    /* One that was taken back has nothing more to be looked for. */
    if (!record->ended && record->left == NULL && result == 0 && record->asks != NULL) {
        result = call_and_forget(asks->released, op);
    }
    Py_DECREF(record);
    Py_DECREF(asks);
    if (result < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static int
callback_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(((Callback *)op)->asks);
    Py_VISIT(((Callback *)op)->otherwise);
    return 0;
}

static void
callback_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    Py_XDECREF(((Callback *)op)->asks);
    Py_XDECREF(((Callback *)op)->otherwise);
    type->tp_free(op);
    Py_DECREF(type);
}

static PyMemberDef callback_members[] = {
    {"__vectorcalloffset__", T_PYSSIZET, offsetof(Callback, call), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

/* No tp_clear, as `Returns`. */
static PyType_Slot callback_slots[] = {
    {Py_tp_doc, (void *)"A callback of `sys.monitoring`."},
    {Py_tp_dealloc, callback_dealloc},
    {Py_tp_traverse, callback_traverse},
    {Py_tp_call, PyVectorcall_Call},
    {Py_tp_members, callback_members},
    {0, NULL},
};

static PyType_Spec callback_spec = {
    "aioaudit.core._core.Callback",
    sizeof(Callback),
    0,
    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_HAVE_VECTORCALL
        | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    callback_slots,
};

/* `callback(event, otherwise)`: what is to be called for EVENT instead of OTHERWISE. */
static PyObject *
asks_callback(PyObject *op, PyObject *args)
{
    static const struct {
        const char *name;
        Answer answer;
    } answers[] = {
        {"PY_THROW", thrown},
        {"PY_UNWIND", unwound},
        {"EXCEPTION_HANDLED", handled},
        {"RERAISE", reraised},
    };
    const char *event;
    PyObject *otherwise;
    if (!PyArg_ParseTuple(args, "sO:callback", &event, &otherwise)) {
        return NULL;
    }
    for (size_t at = 0; at < sizeof(answers) / sizeof(answers[0]); at++) {
        if (strcmp(answers[at].name, event) == 0) {
            Callback *made = (Callback *)CallbackType->tp_alloc(CallbackType, 0);
            if (made != NULL) {
                made->call = callback_call;
                made->answer = answers[at].answer;
                made->asks = (Asks *)Py_NewRef(op);
                made->otherwise = Py_NewRef(otherwise);
            }
            return (PyObject *)made;
        }
    }
    PyErr_Format(PyExc_ValueError, "nothing is known of %s", event);
    return NULL;
}
