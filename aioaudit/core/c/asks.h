/* Asks: plain requests, till they are obeyed or somebody wants to know.
 *
 * What is known of them, and how one comes to be noted.  What happens then is in `cancels.h` and
 * `monitoring.h`, and what Python makes and asks of it in `asks_object.h`.  For
 * `state/cancellations.py`; `probes/install.py` gives it what it takes of Python.
 */
#pragma once

#include "births.h"
#include "known.h"
#include "notes.h"
#include "requests.h"

/* What Python gives: names of `begin`, in the order of `given_names`. */
enum {
    NEXT_SEQ,
    PYTHON_TASKS,
    CODES,
    HANDLERS,
    EXPORTING,
    OUTSIDE,
    FUTURE,
    CANCELLED,
    CURRENT_TASK,
    GET_CORO,
    MODULE_AT,
    MONOTONIC,
    PUT,
    URGE,
    LEARN_LINE,
    LEARN_WAIT,
    LEARN_HANDLER,
    REACHES_NOBODY,
    TRACK,
    RULES,
    FAULT,
    TIMEOUT,
    NOTES,
    EXPIRE,
    RUN,
    LEAVE,
    LOOP_TIME,
    LEARN_EXPIRY,
    LEARN_LEAVING,
    GIVEN
};

static const char *const given_names[GIVEN] = {
    "next_seq",   "python_tasks", "codes",         "handlers",       "exporting", "outside",
    "future",     "cancelled",    "current_task",  "get_coro",       "module_at", "monotonic",
    "put",        "urge",         "learn_line",    "learn_wait",     "learn_handler",
    "reaches_nobody", "track",    "rules",         "fault",          "timeout",   "notes",
    "expire",     "run",          "leave",         "loop_time",      "learn_expiry",
    "learn_leaving",
};

struct Asks {
    PyObject_HEAD
    Table *asked;  /* by the task's address */
    Table *flying; /* by that of the error that delivers it */
    Table *lines;
    Table *waits;
    Table *born;
    PyObject *states; /* dicts, of Python's: who has no entry there... */
    PyObject *ties;
    PyObject *active;
    PyObject *doubts; /* while there are any, nothing is plain */
    PyObject *adopt; /* functions */
    PyObject *released;
    PyObject *one;
    PyObject *given[GIVEN]; /* NULL before `begin` */
    PyObject *traced; /* a function that says in which trace a task is; NULL where there is none */
    PyObject *nobody; /* a weak reference to the callback that was found to reach nobody last */
    PyObject *inside; /* borrowed: the future that is cancelled with its task just now... */
    uint64_t inside_thread;
    size_t room;
    int64_t changes;
    char on;
    char findings;
};

/* Call what was given as NUMBER with what is not NULL; other things may be given while it runs. */
static PyObject *
call_given(Asks *self, int number, PyObject *argument, PyObject *more)
{
    PyObject *function = Py_NewRef(self->given[number]);
    PyObject *result = PyObject_CallFunctionObjArgs(function, argument, more, NULL);
    Py_DECREF(function);
    return result;
}

static int
call_given_and_forget(Asks *self, int number, PyObject *argument)
{
    PyObject *result = call_given(self, number, argument, NULL);
    Py_XDECREF(result);
    return result == NULL ? -1 : 0;
}

static int
put_given(Asks *self, PyObject *record)
{
    PyObject *put = Py_NewRef(self->given[PUT]);
    int result = put_record(put, record);
    Py_DECREF(put);
    return result;
}

/* As `tell_fault`. */
static int
tell_given(Asks *self)
{
    PyObject *fault = Py_NewRef(self->given[FAULT]);
    int result = tell_fault(fault);
    Py_DECREF(fault);
    return result;
}

static double
seconds_now(Asks *self, int *failed)
{
#if PY_VERSION_HEX >= 0x030D0000
    (void)self;
    PyTime_t now;
    if (PyTime_Monotonic(&now) < 0) {
        *failed = 1;
        return 0.0;
    }
    return PyTime_AsSecondsDouble(now);
#else
    PyObject *now = call_given(self, MONOTONIC, NULL, NULL);
    double found = now == NULL ? -1.0 : PyFloat_AsDouble(now);
    Py_XDECREF(now);
    if (now == NULL || PyErr_Occurred()) {
        *failed = 1;
    }
    return found;
#endif
}

/* The plain request to TASK, borrowed; NULL, without an exception, where there is none. */
static Asked *
asked_of(Asks *self, PyObject *task)
{
    Asked *found = (Asked *)table_get(self->asked, (uintptr_t)task);
    return found != NULL && refers_to(found->task_ref, task) ? found : NULL;
}

/* The same of the one that ERROR delivers. */
static Asked *
flying_with(Asks *self, PyObject *error)
{
    Asked *found = (Asked *)table_get(self->flying, (uintptr_t)error);
    return found != NULL && refers_to(found->error_ref, error) ? found : NULL;
}

static int
has_key(PyObject *dict, uintptr_t key)
{
    if (PyDict_GET_SIZE(dict) == 0) {
        return 0;
    }
    PyObject *number = PyLong_FromVoidPtr((void *)key);
    int known = number == NULL ? -1 : PyDict_Contains(dict, number);
    Py_XDECREF(number);
    return known;
}

/* Take RECORD, of which the caller has a reference, out of TABLE, if it stands at KEY. */
static void
take_out(Table *table, uintptr_t key, Asked *record)
{
    if (table_get(table, key) == (PyObject *)record) {
        Py_XDECREF(table_pop(table, key));
    }
}

/* RECORD may stand in no table any more: it is to know. */
static void
settle(Asks *self, Asked *record)
{
    if (table_get(self->asked, record->task_at) != (PyObject *)record
        && table_get(self->flying, record->error_at) != (PyObject *)record) {
        record->asks = NULL;
    }
}

/* Forget requests to tasks that are gone, once they may be many. */
static int
sweep(Asks *self)
{
    if (self->asked->used < self->room) {
        return 0;
    }
    PyObject *all = table_list(self->asked, 0);
    if (all == NULL) {
        return -1;
    }
    for (Py_ssize_t at = 0; at < PyList_GET_SIZE(all); at++) {
        Asked *each = (Asked *)PyList_GET_ITEM(all, at);
        PyObject *task = referent(each->task_ref);
        if (task == NULL) {
            take_out(self->asked, each->task_at, each);
            settle(self, each);
        }
        Py_XDECREF(task);
    }
    Py_DECREF(all);
    self->room = self->asked->used < FEWEST ? 2 * FEWEST : 2 * self->asked->used;
    return 0;
}

/* Hand RECORD, of which the caller has a reference, over to Python. */
static int
hand_over(Asks *self, Asked *record)
{
    return call_and_forget(self->adopt, (PyObject *)record);
}

/* Whether nothing is heard of what happens in this thread. */
static int
is_muted(Asks *self)
{
    PyObject *exporting = self->given[EXPORTING];
    if (PySet_GET_SIZE(exporting) == 0) {
        return 0;
    }
    PyObject *ident = PyLong_FromUnsignedLong(PyThread_get_thread_ident());
    int muted = ident == NULL ? -1 : PySet_Contains(exporting, ident);
    Py_XDECREF(ident);
    return muted;
}

#define UNSHARED 2 /* references to a frame that nobody was given: its own, and ours */

/* Fill in PATH from FRAME out to the outermost frame of CORO; whether that was found, and no
 * frame on the way was given to anybody, as the handler of a signal is given one.  -1 with an
 * exception. */
static int
walk_out(PyFrameObject *frame, PyObject *coro, Path *path)
{
    Py_INCREF(frame);
    while (frame != NULL) {
        PyObject *runs = PyFrame_GetGenerator(frame);
        Py_XDECREF(runs); /* only compared */
        if (add_step(path, frame) < 0) {
            break;
        }
        if (runs == coro) {
            Py_DECREF(frame);
            return 1;
        }
        PyFrameObject *back = further_out(frame);
        frame = back;
        if (back != NULL && Py_REFCNT(back) > UNSHARED) {
            break;
        }
    }
    Py_XDECREF(frame);
    return PyErr_Occurred() ? -1 : 0; /* a frame that there is no memory for looks like none */
}

/* The same inwards, from the outermost frame of CORO, which is suspended, to where it waits;
 * whether that is a future, and all that waits are coroutines.  -1 with an exception. */
static int
walk_in(PyObject *coro, Path *path)
{
    int result = 0;
    Py_INCREF(coro);
    while (PyCoro_CheckExact(coro)) {
        PyObject *frame = PyObject_GetAttr(coro, str_cr_frame);
        if (frame == NULL) {
            result = -1;
            break;
        }
        int right = PyFrame_Check(frame) && add_step(path, (PyFrameObject *)frame) == 0;
        Py_DECREF(frame);
        if (!right) {
            break;
        }
        PyObject *inner = PyObject_GetAttr(coro, str_cr_await);
        Py_SETREF(coro, inner);
        if (coro == NULL) {
            return -1;
        }
        if (strcmp(Py_TYPE(coro)->tp_name, "_asyncio.FutureIter") == 0) {
            result = 1;
            break;
        }
    }
    Py_DECREF(coro);
    return result;
}

/* What Python says of PATH, as a new reference; NULL, perhaps with an exception, where it says
 * nothing.  Where it is not in TABLE, it is asked about ABOUT and perhaps MORE, and LEARNED is set:
 * whatever was looked at before may be another now, for Python has run. */
static PyObject *
said_of(Asks *self, Table *table, const Path *path, uint64_t thread, int learn, PyObject *about,
        PyObject *more, int *learned)
{
    uintptr_t key = (uintptr_t)path->hash;
    PyObject *found = table_get(table, key);
    if (found != NULL && is_about((Known *)found, path, thread)) {
        return Py_NewRef(((Known *)found)->said);
    }
    PyObject *number = PyLong_FromVoidPtr((void *)key);
    if (number == NULL) {
        return NULL;
    }
    *learned = 1;
    PyObject *function = Py_NewRef(self->given[learn]);
    PyObject *said = PyObject_CallFunctionObjArgs(function, number, about, more, NULL);
    Py_DECREF(function);
    Py_DECREF(number);
    if (said == NULL || said == Py_None) {
        Py_XDECREF(said);
        return NULL;
    }
    Known *known = NULL;
    if (!PyTuple_CheckExact(said) || PyTuple_GET_SIZE(said) < 1) {
        PyErr_SetString(PyExc_TypeError, "what is known of frames is a tuple");
    }
    else {
        known = known_make(path, thread, said);
    }
    if (known == NULL || table_set(table, key, (PyObject *)known) < 0) {
        Py_CLEAR(said);
    }
    Py_XDECREF(known);
    return said;
}

/* Whether FUTURE, a plain one, is awaited by TASK and by nobody else; -1 with an exception. */
static int
is_only_awaited_by(PyObject *future, PyObject *task)
{
    PyObject *callbacks = PyObject_GetAttr(future, str_callbacks);
    if (callbacks == NULL) {
        return -1;
    }
    int only = 0;
    if (PyList_CheckExact(callbacks) && PyList_GET_SIZE(callbacks) == 1) {
        PyObject *entry = PyList_GET_ITEM(callbacks, 0);
        if (PyTuple_CheckExact(entry) && PyTuple_GET_SIZE(entry) > 0) {
            PyObject *callback = PyTuple_GET_ITEM(entry, 0);
            only = PyCFunction_Check(callback) && PyCFunction_GET_SELF(callback) == task;
        }
    }
    Py_DECREF(callbacks);
    return only;
}

static PyObject *asked_call(PyObject *op, PyObject *const *args, size_t flags, PyObject *names);

/* Nobody is CURRENT, NULL, where a timeout asks. */
static Asked *
asked_make(Asks *self, PyObject *task, Created *victim, Created *current, PyObject *line,
           PyObject *wait, uint64_t thread)
{
    PyObject *ref = PyWeakref_NewRef(task, NULL);
    Asked *record = ref == NULL ? NULL : PyObject_New(Asked, AskedType);
    if (record == NULL) {
        Py_XDECREF(ref);
        return NULL;
    }
    memset((char *)record + offsetof(Asked, call), 0, sizeof(Asked) - offsetof(Asked, call));
    record->call = asked_call;
    record->task_ref = ref;
    record->task_at = (uintptr_t)task;
    record->by = current == NULL ? 0 : current->task;
    record->thread = thread;
    record->born = (Created *)Py_NewRef((PyObject *)victim);
    record->name = Py_NewRef(victim->name_or_task);
    record->by_name = Py_NewRef(current == NULL ? Py_None : current->name_or_task);
    record->line = Py_NewRef(line);
    record->wait = Py_NewRef(wait);
    record->asks = self;
    return record;
}

/* Note the request of which all is known, and have it told. */
static int
enter_request(Asks *self, Asked *record)
{
    int failed = 0;
    if (self->findings) {
        record->requested_at = seconds_now(self, &failed);
    }
    if (failed || sweep(self) < 0) {
        return -1;
    }
    Asked *before = (Asked *)table_get(self->asked, record->task_at);
    Py_XINCREF(before); /* of an earlier task at that address */
    if (table_set(self->asked, record->task_at, (PyObject *)record) < 0) {
        Py_XDECREF(before);
        return -1;
    }
    if (before != NULL) {
        settle(self, before);
        Py_DECREF(before);
    }
    record->ns = now_ns();
    record->seq = ((Counter *)self->given[NEXT_SEQ])->next++;
    return put_given(self, (PyObject *)record) < 0 ? -1 : call_given_and_forget(self, URGE, NULL);
}

/* The same; 1, or -1 with an exception, and then it is as if there were no such request. */
static int
enter_or_forget(Asks *self, Asked *record)
{
    if (enter_request(self, record) == 0) {
        return 1;
    }
    PyObject *error = take_exception();
    take_out(self->asked, record->task_at, record);
    settle(self, record);
    put_back(error);
    return -1;
}

static int
is_named(const Created *made)
{
    return made != NULL && made->maker == NULL && PyUnicode_CheckExact(made->name_or_task);
}

/* Whether a request to TASK may be a plain one, by what is known of it and of what goes on here; then
 * VICTIM is what is known of it, borrowed.  -1 with an exception. */
static int
may_be_asked(Asks *self, PyObject *task, Created **victim)
{
    if (PyDict_GET_SIZE(self->active) != 0 || PyDict_GET_SIZE(self->doubts) != 0
        || PyDict_GET_SIZE(self->given[PYTHON_TASKS]) != 0) {
        return 0;
    }
    *victim = created_at(self->born, (uintptr_t)task);
    if (!is_named(*victim) || (*victim)->site->code == 0 || asked_of(self, task) != NULL) {
        return 0;
    }
    PyObject *handled = PyErr_GetHandledException();
    Py_XDECREF(handled); /* only compared */
    if (handled != NULL) {
        return 0;
    }
    int no = has_key(self->states, (uintptr_t)task);
    if (no == 0) {
        no = is_muted(self);
    }
    return no < 0 ? -1 : no == 0;
}

/* In which trace TASK is: a new reference to what Python says of it, a piece of the line of a request
 * to it, one of the line of its end, and more; NULL in IDS where it is in none.  What was looked at
 * before is looked at again, since a span may be of anybody's make: the result is as that of
 * `may_be_asked`, and VICTIM still what was found. */
static int
look_for_trace(Asks *self, PyObject *task, Created *victim, PyObject **ids)
{
    PyObject *function = Py_NewRef(self->traced);
    PyObject *found = PyObject_CallOneArg(function, task);
    Py_DECREF(function);
    if (found == NULL) {
        return -1;
    }
    if (found == Py_None) {
        Py_DECREF(found);
    }
    else if (PyTuple_CheckExact(found) && PyTuple_GET_SIZE(found) == 3
             && PyBytes_CheckExact(PyTuple_GET_ITEM(found, 0))
             && PyBytes_CheckExact(PyTuple_GET_ITEM(found, 1))) {
        *ids = found;
    }
    else {
        Py_DECREF(found);
        PyErr_SetString(PyExc_TypeError, "what is known of a trace is a tuple of three");
        return -1;
    }
    Created *still = NULL;
    int may = may_be_asked(self, task, &still);
    return may > 0 ? still == victim && self->on : may;
}

/* WAIT, a reference that is given away, with what is known of the trace: the first piece of both,
 * where the task waits, and the rest of IDS. */
static PyObject *
in_trace(PyObject *wait, PyObject *ids)
{
    if (ids == NULL || wait == NULL) {
        return wait;
    }
    PyObject *piece = PyTuple_GET_SIZE(wait) < 2 ? NULL : Py_NewRef(PyTuple_GET_ITEM(wait, 0));
    PyObject *both = NULL;
    if (piece != NULL && PyBytes_CheckExact(piece)) {
        PyBytes_Concat(&piece, PyTuple_GET_ITEM(ids, 0));
        both = piece == NULL ? NULL
            : PyTuple_Pack(4, piece, PyTuple_GET_ITEM(wait, 1), PyTuple_GET_ITEM(ids, 1),
                           PyTuple_GET_ITEM(ids, 2));
    }
    else {
        PyErr_SetString(PyExc_TypeError, "what is known of a wait is a piece and a place");
    }
    Py_XDECREF(piece);
    Py_DECREF(wait);
    return both;
}

#if PY_VERSION_HEX >= 0x030C0000

/* Whether FRAME runs CODE, and is as far as one can see ours and the interpreter's alone. */
static int
runs_alone(PyFrameObject *frame, PyObject *code)
{
    PyCodeObject *its = PyFrame_GetCode(frame);
    Py_DECREF(its); /* only compared */
    return (PyObject *)its == code && Py_REFCNT(frame) <= UNSHARED;
}

/* How late TIMEOUT runs out, in the words of `Call.by_timeout`: a new reference in LATE, NULL
 * where it is not worth a word.  -1 with an exception. */
static int
say_late(Asks *self, PyObject *timeout, PyObject **late)
{
    *late = NULL;
    PyObject *when = PyObject_CallMethodNoArgs(timeout, str_when);
    PyObject *now = when == NULL ? NULL : call_given(self, LOOP_TIME, NULL, NULL);
    int result = -1;
    if (now != NULL) {
        double seconds = PyFloat_AsDouble(now) - PyFloat_AsDouble(when);
        char *text = NULL;
        if (!PyErr_Occurred() && seconds >= 0.001) {
            text = PyOS_double_to_string(seconds, 'f', 3, 0, NULL);
            *late = text == NULL ? NULL : PyUnicode_FromFormat("%s s late", text);
            PyMem_Free(text);
        }
        result = PyErr_Occurred() ? -1 : 0;
    }
    Py_XDECREF(when);
    Py_XDECREF(now);
    return result;
}

/* As `ask`, where no task runs: it may be that a timeout of TASK has run out.  The timer of the
 * loop calls `_on_timeout`, which calls us: what that is all about says what was noted when
 * the timeout was entered, and Python has seen others of it that ran out. */
static int
ask_in_time(Asks *self, PyObject *task, Created *victim, PyThreadState *thread, PyObject *ids,
            PyObject **future)
{
    int result = -1, learned = 0;
    uint64_t thread_id = PyThreadState_GetID(thread);
    PyObject *timeout = NULL, *awaited = NULL, *ref = NULL, *coro = NULL, *line = NULL, *wait = NULL;
    PyObject *note = NULL, *late = NULL;
    PyFrameObject *back = NULL;
    Asked *record = NULL;
    Path path;
    PyFrameObject *frame = PyThreadState_GetFrame(thread);
    if (frame == NULL || !runs_alone(frame, self->given[EXPIRE])) {
        result = 0;
        goto done;
    }
    back = PyFrame_GetBack(frame);
    if (back == NULL || !runs_alone(back, self->given[RUN])) {
        result = PyErr_Occurred() ? -1 : 0;
        goto done;
    }
    timeout = PyFrame_GetVar(frame, str_self);
    if (timeout == NULL) {
        goto done;
    }
    if (!Py_IS_TYPE(timeout, (PyTypeObject *)self->given[TIMEOUT])
        || !Py_IS_TYPE(self->given[NOTES], NotesType)) {
        result = 0;
        goto done;
    }
    /* What is known of all that share the note of this one. */
    ref = PyWeakref_NewRef(timeout, NULL);
    if (ref == NULL) {
        goto done;
    }
    note = Py_XNewRef(notes_find((Notes *)self->given[NOTES], timeout, ref));
    if (note == NULL) {
        result = 0;
        goto done;
    }
    /* First: the clock of a loop, or a finalizer, may do anything, also to this task. */
    Created *still = NULL;
    int right = say_late(self, timeout, &late) < 0 ? -1 : may_be_asked(self, task, &still);
    if (right <= 0 || still != victim || !self->on) {
        result = right < 0 ? -1 : 0;
        goto done;
    }
    awaited = PyObject_GetAttr(task, str_fut_waiter);
    if (awaited == NULL) {
        goto done;
    }
    right = Py_IS_TYPE(awaited, (PyTypeObject *)self->given[FUTURE])
        ? is_only_awaited_by(awaited, task) : 0;
    if (right <= 0) {
        result = right;
        goto done;
    }
    path.count = 0;
    path.hash = thread_id;
    mix(&path, (uintptr_t)victim->site->place);
    if (add_step(&path, frame) < 0 || add_step(&path, back) < 0) {
        result = 0;
        goto done;
    }
    path.steps[path.count].code = (uintptr_t)note; /* what is known of it has a reference to it */
    path.steps[path.count++].at = 0;
    mix(&path, (uintptr_t)note);
    line = said_of(self, self->lines, &path, thread_id, LEARN_EXPIRY, (PyObject *)frame, note,
                   &learned);
    if (line == NULL || learned || PyTuple_GET_ITEM(line, 0) != victim->site->place) {
        result = PyErr_Occurred() ? -1 : 0;
        goto done;
    }
    /* Where it waits. */
    coro = call_given(self, GET_CORO, task, NULL);
    if (coro == NULL) {
        goto done;
    }
    path.count = 0;
    path.hash = 0;
    right = walk_in(coro, &path);
    if (right <= 0) {
        result = right;
        goto done;
    }
    wait = said_of(self, self->waits, &path, 0, LEARN_WAIT, coro, NULL, &learned);
    if (wait == NULL || learned) {
        result = PyErr_Occurred() ? -1 : 0;
        goto done;
    }
    wait = in_trace(wait, ids);
    if (wait == NULL) {
        goto done;
    }
    record = asked_make(self, task, victim, NULL, line, wait, thread_id);
    if (record == NULL) {
        goto done;
    }
    record->owner = (uintptr_t)timeout;
    record->late = Py_XNewRef(late);
    result = enter_or_forget(self, record);
    if (result > 0) {
        *future = Py_NewRef(awaited);
    }
done:
    Py_XDECREF(frame);
    Py_XDECREF(back);
    Py_XDECREF(timeout);
    Py_XDECREF(awaited);
    Py_XDECREF(ref);
    Py_XDECREF(note);
    Py_XDECREF(coro);
    Py_XDECREF(line);
    Py_XDECREF(wait);
    Py_XDECREF(late);
    Py_XDECREF(record);
    return result;
}

#endif

/* As `ask`, where all is known; KNOWN_NOW says that it was not, and is from now on. */
static int
ask_once(Asks *self, PyTypeObject *cls, PyObject *task, PyObject **future, int *known_now)
{
    Created *victim = NULL;
    int may = may_be_asked(self, task, &victim);
    if (may <= 0) {
        return may;
    }
    int result = -1, learned = 0;
    PyThreadState *thread = PyThreadState_Get();
    uint64_t thread_id = PyThreadState_GetID(thread);
    Created *asker = NULL;
    Asked *record = NULL;
    PyObject *coro = NULL, *line = NULL, *wait = NULL, *awaited = NULL, *ids = NULL;
    PyObject *current = NULL;
    PyFrameObject *frame = NULL;
    Path path;
    Py_INCREF(victim);
    if (self->traced != NULL) {
        may = look_for_trace(self, task, victim, &ids);
        if (may <= 0) {
            result = may;
            goto done;
        }
    }
    current = call_given(self, CURRENT_TASK, NULL, NULL);
    if (current == NULL) {
        if (PyErr_ExceptionMatches(PyExc_RuntimeError)) { /* no loop of which C knows */
            PyErr_Clear();
            result = 0;
        }
        goto done;
    }
#if PY_VERSION_HEX >= 0x030C0000
    if (current == Py_None) {
        result = ask_in_time(self, task, victim, thread, ids, future);
        goto done;
    }
#endif
    asker = created_at(self->born, (uintptr_t)current);
    Py_XINCREF(asker);
    if (current == task || !Py_IS_TYPE(current, cls) || !is_named(asker)
        || asker->site->place != victim->site->place || asker->site->loop != victim->site->loop) {
        result = 0;
        goto done;
    }
    /* What it waits for. */
    awaited = PyObject_GetAttr(task, str_fut_waiter);
    if (awaited == NULL) {
        goto done;
    }
    int right = Py_IS_TYPE(awaited, (PyTypeObject *)self->given[FUTURE])
        ? is_only_awaited_by(awaited, task) : 0;
    if (right <= 0) {
        result = right;
        goto done;
    }
    /* Who asks. */
    coro = call_given(self, GET_CORO, current, NULL);
    frame = coro == NULL ? NULL : PyThreadState_GetFrame(thread);
    if (frame == NULL) {
        result = PyErr_Occurred() ? -1 : 0;
        goto done;
    }
    path.count = 0;
    path.hash = thread_id;
    mix(&path, (uintptr_t)asker->site->place);
    right = walk_out(frame, coro, &path);
    if (right <= 0) {
        result = right;
        goto done;
    }
    line = said_of(self, self->lines, &path, thread_id, LEARN_LINE, (PyObject *)frame, current,
                   &learned);
    if (line == NULL || PyTuple_GET_ITEM(line, 0) != asker->site->place) {
        result = PyErr_Occurred() ? -1 : 0;
        goto done;
    }
    /* Where it waits. */
    Py_SETREF(coro, call_given(self, GET_CORO, task, NULL));
    if (coro == NULL) {
        goto done;
    }
    path.count = 0;
    path.hash = 0;
    right = walk_in(coro, &path);
    if (right <= 0) {
        result = right;
        goto done;
    }
    wait = said_of(self, self->waits, &path, 0, LEARN_WAIT, coro, NULL, &learned);
    if (wait == NULL || learned) { /* Python has run meanwhile: from the next time on it is known */
        result = PyErr_Occurred() ? -1 : 0;
        *known_now = wait != NULL;
        goto done;
    }
    wait = in_trace(wait, ids);
    if (wait == NULL) {
        goto done;
    }
    record = asked_make(self, task, victim, asker, line, wait, thread_id);
    if (record == NULL) {
        goto done;
    }
    result = enter_or_forget(self, record);
    if (result > 0) {
        *future = Py_NewRef(awaited);
    }
done:
    Py_XDECREF(ids);
    Py_XDECREF(current);
    Py_XDECREF(asker);
    Py_DECREF(victim);
    Py_XDECREF(awaited);
    Py_XDECREF(coro);
    Py_XDECREF(frame);
    Py_XDECREF(line);
    Py_XDECREF(wait);
    Py_XDECREF(record);
    return result;
}

/* `cancel()` is called on TASK, of the class CLS: note it, if it is a plain request.  1 if it is,
 * and then FUTURE is what the task waits for, a new reference; 0 if it is for Python; -1 with
 * an exception. */
static int
ask(Asks *self, PyTypeObject *cls, PyObject *task, PyObject **future)
{
    int known_now = 0;
    int result = ask_once(self, cls, task, future, &known_now);
    if (result == 0 && known_now && self->on) {
        /* As in each new loop of a program that has one after the other.  All is looked at anew. */
        result = ask_once(self, cls, task, future, &known_now);
    }
    return result;
}
