/* Births: a task is made.
 *
 * It stands in the place of `__init__` of the classes of tasks, for `probes/tasks.py`, and puts a
 * `Created` into the queue.
 */
#pragma once

#include "queue.h"
#include "records.h"

typedef struct Births Births;

/* What stands for one class of tasks.  It stays for good, and the class with it: somebody
 * may keep the `__init__` that was there for a while, and a class that comes to have the
 * address of one that went is another. */
typedef struct Slot {
    struct Slot *next;
    PyTypeObject *cls;
    initproc original;
    Births *active; /* borrowed; NULL while nobody wants to know */
} Slot;

static Slot *slots;

struct Births {
    PyObject_HEAD
    Table *born;
    Table *sites;
    Table *direct_sites;
    Counter *next_number;
    Counter *next_seq;
    PyObject *python_tasks; /* a dict */
    PyObject *makers;       /* a frozenset, as the next */
    PyObject *loops;
    PyObject *current_task; /* functions, from here on */
    PyObject *get_name;
    PyObject *name_of;
    PyObject *put;
    PyObject *note;
    PyObject *construct;
    PyObject *elsewhere;
    PyObject *fault;
};

static Slot *
slot_of(PyTypeObject *cls)
{
    for (Slot *slot = slots; slot != NULL; slot = slot->next) {
        if (slot->cls == cls) {
            return slot;
        }
    }
    Slot *found = NULL; /* the nearest, where one of them is derived from another */
    for (Slot *slot = slots; slot != NULL; slot = slot->next) {
        if (PyType_IsSubtype(cls, slot->cls)
            && (found == NULL || PyType_IsSubtype(slot->cls, found->cls))) {
            found = slot;
        }
    }
    return found;
}

static int
put_record(PyObject *put, PyObject *record)
{
    Queue *queue = queue_of(put);
    return queue != NULL ? queue_put(queue, record) : call_and_forget(put, record);
}

/* An exception of ours: told, and then forgotten, so that the task is made all the same.
 * What is no `Exception`, as Ctrl-C, is the program's: -1 for that. */
static int
tell_fault(PyObject *fault)
{
    if (!PyErr_ExceptionMatches(PyExc_Exception)) {
        return -1;
    }
    PyObject *error = take_exception();
    int result = error == NULL ? -1 : call_and_forget(fault, error);
    Py_XDECREF(error);
    return result;
}

/* Whether the module that FRAME runs code of is one of NAMES; -1 with an exception. */
static int
is_of(PyFrameObject *frame, PyObject *names)
{
    PyObject *globals = PyFrame_GetGlobals(frame);
    PyObject *name = NULL;
    if (globals != NULL && PyDict_Check(globals)) {
        name = Py_XNewRef(PyDict_GetItemWithError(globals, str_dunder_name));
    }
    int result = name == NULL ? 0 : PySet_Contains(names, name);
    Py_XDECREF(name);
    Py_XDECREF(globals);
    return result < 0 || PyErr_Occurred() ? -1 : result;
}

/* Go one frame outwards; FRAME is given up. */
static PyFrameObject *
further_out(PyFrameObject *frame)
{
    PyFrameObject *back = PyFrame_GetBack(frame);
    Py_DECREF(frame);
    return back;
}

/* Where FRAME is, as the address of an instruction: those lie inside of their code. */
static uintptr_t
instruction(PyFrameObject *frame)
{
    PyCodeObject *code = PyFrame_GetCode(frame);
    uintptr_t at = (uintptr_t)code + (uintptr_t)PyFrame_GetLasti(frame);
    Py_DECREF(code);
    return at;
}

/* The frame that had the task made that FRAME makes, FRAME given up; NULL, without an
 * exception, where this is not one of the usual ways. */
static PyFrameObject *
maker_of(Births *self, PyFrameObject *frame)
{
    PyFrameObject *out = PyFrame_GetBack(frame);
    if (out == NULL) {
        Py_DECREF(frame);
        return NULL;
    }
    int known = is_of(out, self->makers); /* of `asyncio.create_task()` and its like... */
    if (known == 0) {
        known = is_of(frame, self->makers); /* ... uvloop's own `create_task()` has no frame */
    }
    Py_DECREF(frame);
    if (known <= 0) {
        Py_DECREF(out);
        return NULL;
    }
    while (out != NULL && (known = is_of(out, self->makers)) == 1) {
        out = further_out(out);
    }
    if (known < 0) {
        Py_CLEAR(out);
    }
    return out;
}

/* The entry of the task that runs now, as a new reference; NULL, perhaps with an exception. */
static Created *
parent_of(Births *self)
{
    PyObject *current = PyObject_CallNoArgs(self->current_task);
    if (current == NULL) {
        return NULL;
    }
    Created *parent = created_at(self->born, (uintptr_t)current);
    Py_XINCREF(parent);
    Py_DECREF(current); /* behind that: nobody need hold it but we */
    return parent;
}

/* The same as SITE, which stands at AT in SITES, in the place of PARENT: a new reference, and SITE
 * is given up.  NULL, perhaps with an exception, where Python has to find out. */
static Site *
site_elsewhere(Births *self, Table *sites, uintptr_t at, Site *site, Created *parent)
{
    PyObject *found = PyObject_CallFunctionObjArgs(self->elsewhere, (PyObject *)site,
                                                   parent->site->place, NULL);
    Py_DECREF(site);
    if (found != NULL
        && (!PyObject_TypeCheck(found, SiteType) || table_set(sites, at, found) < 0)) {
        Py_CLEAR(found);
    }
    return (Site *)found;
}

/* What SITES knows of tasks that are made at AT, where a task of CORO in LOOP, made by PARENT,
 * is one of them, as a new reference.  NULL, perhaps with an exception. */
static Site *
fitting_site(Births *self, Table *sites, uintptr_t at, PyObject *coro, PyObject *loop,
             Created *parent)
{
    PyObject *found = table_get(sites, at);
    if (found == NULL || !PyObject_TypeCheck(found, SiteType)) {
        return NULL;
    }
    Site *site = (Site *)found;
    if (parent->site->loop != (uintptr_t)loop || site->code == 0) {
        return NULL;
    }
    Py_INCREF(site); /* the coroutine may be anybody's, and do anything when it is asked */
    PyObject *code = PyObject_GetAttr(coro, str_cr_code);
    if ((uintptr_t)code != site->code) {
        Py_CLEAR(site);
    }
    else if (site->place != parent->site->place) {
        site = site_elsewhere(self, sites, at, site, parent);
    }
    Py_XDECREF(code);
    return site;
}

/* Whether an exception is set that says that something is not as usual; else it is another. */
static int
is_unusual(void)
{
    return PyErr_ExceptionMatches(PyExc_LookupError)
        || PyErr_ExceptionMatches(PyExc_AttributeError)
        || PyErr_ExceptionMatches(PyExc_RuntimeError)
        || PyErr_ExceptionMatches(PyExc_ValueError);
}

/* The site of a task that FRAME makes, and the entry of its PARENT, both as new references;
 * NULL, perhaps with an exception, where Python has to look at it.  EAGER says that who
 * makes it calls the class itself, and that it is about to run inside of its making. */
static Site *
site_for(Births *self, PyFrameObject *frame, PyObject *coro, PyObject *loop, int eager,
         Created **parent)
{
    if (loop == NULL || frame == NULL || PyDict_GET_SIZE(self->python_tasks) != 0) {
        return NULL;
    }
    *parent = parent_of(self);
    if (*parent == NULL) {
        return NULL;
    }
    Site *site = NULL;
    if (eager) {
        site = fitting_site(self, self->direct_sites, instruction(frame), coro, loop, *parent);
        if (site != NULL && !site->by_application) {
            /* A library's line: only where no line of an application is behind it. */
            PyFrameObject *out = PyFrame_GetBack(frame);
            if (out == NULL || is_of(out, self->loops) != 1) {
                Py_CLEAR(site);
            }
            Py_XDECREF(out);
        }
    }
    else {
        PyFrameObject *maker = maker_of(self, (PyFrameObject *)Py_NewRef((PyObject *)frame));
        if (maker != NULL) {
            site = fitting_site(self, self->sites, instruction(maker), coro, loop, *parent);
            Py_DECREF(maker);
        }
    }
    if (site == NULL) {
        Py_CLEAR(*parent);
    }
    return site;
}

/* Note that TASK was made, or is about to be: a number, an entry, a record. */
static int
enter(Births *self, PyObject *task, Created *made)
{
    made->task = self->next_number->next++;
    if (table_set(self->born, (uintptr_t)task, (PyObject *)made) < 0) {
        return -1;
    }
    /* Drawn last: a number that is drawn has to be put. */
    made->ns = now_ns();
    made->seq = self->next_seq->next++;
    return put_record(self->put, (PyObject *)made);
}

/* The keyword NAME, borrowed; NULL where it is not given, or None. */
static PyObject *
keyword(PyObject *kwargs, PyObject *name)
{
    PyObject *value = kwargs == NULL ? NULL : PyDict_GetItemWithError(kwargs, name);
    return value == Py_None ? NULL : value;
}

static int
note_slowly(Births *self, PyObject *task, PyObject *coro, PyObject *kwargs, PyFrameObject *frame)
{
    PyObject *loop = keyword(kwargs, str_loop), *name = keyword(kwargs, str_name);
    PyObject *result = PyObject_CallFunctionObjArgs(
        self->note, task, coro, loop == NULL ? Py_None : loop, name == NULL ? Py_None : name,
        frame == NULL ? Py_None : (PyObject *)frame, NULL);
    Py_XDECREF(result);
    return result == NULL ? -1 : 0;
}

/* TASK is made: have it noted. */
static int
note(Births *self, PyObject *task, PyObject *coro, PyObject *kwargs)
{
    PyFrameObject *frame = PyThreadState_GetFrame(PyThreadState_Get());
    Created *parent = NULL, *made = NULL;
    Site *site = site_for(self, frame, coro, keyword(kwargs, str_loop), 0, &parent);
    int result = -1;
    if (site == NULL) {
        if (PyErr_Occurred()) {
            if (!is_unusual()) {
                goto done;
            }
            PyErr_Clear();
        }
        result = note_slowly(self, task, coro, kwargs, frame);
        goto done;
    }
    PyObject *name = keyword(kwargs, str_name);
    name = name != NULL && PyUnicode_CheckExact(name) ? Py_NewRef(name)
                                                      : PyObject_CallOneArg(self->get_name, task);
    if (name != NULL) {
        made = created_make(0, 0, 0, parent->task, site, name);
        Py_DECREF(name);
    }
    if (made != NULL) {
        result = enter(self, task, made);
    }
    if (result < 0 && (made == NULL || created_at(self->born, (uintptr_t)task) != made)) {
        /* Not noted, so what is known of an earlier one at its address is not about it. */
        PyObject *error = take_exception();
        Py_XDECREF(table_pop(self->born, (uintptr_t)task));
        put_back(error);
    }
done:
    Py_XDECREF(frame);
    Py_XDECREF(parent);
    Py_XDECREF(site);
    Py_XDECREF(made);
    return result;
}

/* KWARGS as `Making.construct` takes them: without the coroutine, with what was not given. */
static PyObject *
keywords_of(PyObject *kwargs)
{
    PyObject *all = Py_BuildValue("{OOOOOO}", str_loop, Py_None, str_name, Py_None, str_context,
                                  Py_None);
    if (all == NULL || PyDict_Update(all, kwargs) < 0
        || (PyDict_GetItemWithError(all, str_coro) != NULL && PyDict_DelItem(all, str_coro) < 0)
        || PyErr_Occurred()) {
        Py_CLEAR(all);
    }
    return all;
}

/* The same of one that runs inside of its own making: it is noted first. */
static int
make_eagerly(Births *self, initproc original, PyObject *task, PyObject *coro, PyObject *args,
             PyObject *kwargs)
{
    PyFrameObject *frame = PyThreadState_GetFrame(PyThreadState_Get());
    Created *parent = NULL, *made = NULL;
    Site *site = site_for(self, frame, coro, keyword(kwargs, str_loop), 1, &parent);
    int result = -1;
    if (site != NULL) {
        PyObject *name = keyword(kwargs, str_name);
        if (name == NULL || !PyUnicode_CheckExact(name)) {
            name = task;
        }
        if (!PyErr_Occurred()) {
            made = created_make(0, 0, 0, parent->task, site, name);
        }
    }
    if (made == NULL) {
        if (PyErr_Occurred() && !is_unusual()) {
            goto done;
        }
        PyErr_Clear();
        PyObject *keywords = keywords_of(kwargs);
        PyObject *given = keywords == NULL ? NULL
            : PyObject_CallFunctionObjArgs(self->construct, task, coro, keywords,
                                           frame == NULL ? Py_None : (PyObject *)frame, NULL);
        result = given == NULL ? -1 : 0;
        Py_XDECREF(given);
        Py_XDECREF(keywords);
        goto done;
    }
    result = enter(self, task, made);
    if (result == 0) {
        made->maker = frame;
        result = original(task, args, kwargs);
        made->maker = NULL;
    }
    PyObject *error = result < 0 ? take_exception() : NULL;
    if (result < 0 && table_get(self->born, (uintptr_t)task) == (PyObject *)made) {
        Py_XDECREF(table_pop(self->born, (uintptr_t)task));
    }
    if (made->name_or_task == task) {
        /* Where it was not made it has a name, perhaps, or has none for good.  In no case it
         * stays here itself: nobody but the collector could see that it is not needed. */
        PyObject *name = PyObject_CallOneArg(result < 0 ? self->name_of : self->get_name, task);
        if (name == NULL && result == 0 && !PyErr_ExceptionMatches(PyExc_Exception)) {
            result = -1; /* Ctrl-C */
            error = take_exception();
        }
        if (name == NULL || name == Py_None) {
            PyErr_Clear();
            Py_XSETREF(name, Py_NewRef(str_unknown));
        }
        Py_SETREF(made->name_or_task, name);
    }
    if (error != NULL) {
        put_back(error);
    }
done:
    Py_XDECREF(frame);
    Py_XDECREF(parent);
    Py_XDECREF(site);
    Py_XDECREF(made);
    return result;
}

/* `__init__` of a class of tasks. */
static int
task_init(PyObject *task, PyObject *args, PyObject *kwargs)
{
    Slot *slot = slot_of(Py_TYPE(task));
    if (slot == NULL) {
        PyErr_Format(PyExc_TypeError, "%.200s is no class of tasks", Py_TYPE(task)->tp_name);
        return -1;
    }
    Births *self = slot->active;
    if (self == NULL) {
        return slot->original(task, args, kwargs);
    }
    PyObject *coro = keyword(kwargs, str_coro);
    if (PyTuple_GET_SIZE(args) != 0) {
        coro = PyTuple_GET_SIZE(args) == 1 && coro == NULL ? PyTuple_GET_ITEM(args, 0) : NULL;
    }
    PyObject *given = keyword(kwargs, str_eager_start);
    int eager = given == NULL ? 0 : PyObject_IsTrue(given);
    if (eager < 0 || PyErr_Occurred()) {
        return -1;
    }
    if (coro == NULL || slot->active != self) { /* it was asked, and may have done anything */
        return slot->original(task, args, kwargs); /* which says what is wrong with it */
    }
    int result;
    Py_INCREF(self); /* it may be replaced meanwhile, and the coroutine may be let go */
    Py_INCREF(coro);
    if (eager) {
        result = make_eagerly(self, slot->original, task, coro, args, kwargs);
    }
    else {
        result = slot->original(task, args, kwargs);
        if (result == 0 && note(self, task, coro, kwargs) < 0) {
            result = tell_fault(self->fault);
        }
    }
    Py_DECREF(coro);
    Py_DECREF(self);
    return result;
}

static int
births_traverse(PyObject *op, visitproc visit, void *arg)
{
    Births *self = (Births *)op;
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(self->born);
    Py_VISIT(self->sites);
    Py_VISIT(self->direct_sites);
    Py_VISIT(self->next_number);
    Py_VISIT(self->next_seq);
    Py_VISIT(self->python_tasks);
    Py_VISIT(self->makers);
    Py_VISIT(self->loops);
    Py_VISIT(self->current_task);
    Py_VISIT(self->get_name);
    Py_VISIT(self->name_of);
    Py_VISIT(self->put);
    Py_VISIT(self->note);
    Py_VISIT(self->construct);
    Py_VISIT(self->elsewhere);
    Py_VISIT(self->fault);
    return 0;
}

static int
births_clear(PyObject *op)
{
    Births *self = (Births *)op;
    for (Slot *slot = slots; slot != NULL; slot = slot->next) {
        if (slot->active == self) {
            slot->active = NULL; /* first: from here on nobody comes by */
        }
    }
    Py_CLEAR(self->born);
    Py_CLEAR(self->sites);
    Py_CLEAR(self->direct_sites);
    Py_CLEAR(self->next_number);
    Py_CLEAR(self->next_seq);
    Py_CLEAR(self->python_tasks);
    Py_CLEAR(self->makers);
    Py_CLEAR(self->loops);
    Py_CLEAR(self->current_task);
    Py_CLEAR(self->get_name);
    Py_CLEAR(self->name_of);
    Py_CLEAR(self->put);
    Py_CLEAR(self->note);
    Py_CLEAR(self->construct);
    Py_CLEAR(self->elsewhere);
    Py_CLEAR(self->fault);
    return 0;
}

static void
births_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    (void)births_clear(op);
    type->tp_free(op);
    Py_DECREF(type);
}

static PyObject *
births_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"born",     "sites", "direct_sites", "next_number",  "next_seq",
                            "python_tasks", "makers", "loops",    "current_task", "get_name",
                            "name_of",  "put",   "note",         "construct",    "elsewhere",
                            "fault",
                            NULL};
    PyObject *born, *sites, *direct, *number, *seq, *python, *makers, *loops, *current, *get_name;
    PyObject *name_of, *put, *note, *construct, *elsewhere, *fault;
    if (!PyArg_ParseTupleAndKeywords(
            args, kwargs, "$O!O!O!O!O!O!O!O!OOOOOOOO:Births", names, TableType, &born, TableType,
            &sites, TableType, &direct, CounterType, &number, CounterType, &seq, &PyDict_Type,
            &python, &PyFrozenSet_Type, &makers, &PyFrozenSet_Type, &loops, &current, &get_name,
            &name_of, &put, &note, &construct, &elsewhere, &fault)) {
        return NULL;
    }
    Births *self = (Births *)type->tp_alloc(type, 0);
    if (self == NULL) {
        return NULL;
    }
    self->born = (Table *)Py_NewRef(born);
    self->sites = (Table *)Py_NewRef(sites);
    self->direct_sites = (Table *)Py_NewRef(direct);
    self->next_number = (Counter *)Py_NewRef(number);
    self->next_seq = (Counter *)Py_NewRef(seq);
    self->python_tasks = Py_NewRef(python);
    self->makers = Py_NewRef(makers);
    self->loops = Py_NewRef(loops);
    self->current_task = Py_NewRef(current);
    self->get_name = Py_NewRef(get_name);
    self->name_of = Py_NewRef(name_of);
    self->put = Py_NewRef(put);
    self->note = Py_NewRef(note);
    self->construct = Py_NewRef(construct);
    self->elsewhere = Py_NewRef(elsewhere);
    self->fault = Py_NewRef(fault);
    return (PyObject *)self;
}

/* `init(cls, original)`: a slot wrapper to stand where ORIGINAL, `cls.__init__`, is.
 *
 * CPython puts what such a wrapper of a slot holds straight into the slot (`update_one_slot`
 * in Objects/typeobject.c), so that no call goes through Python, and `cls.__init__` shows
 * what it did before. */
static PyObject *
births_init(PyObject *op, PyObject *args)
{
    Births *self = (Births *)op;
    PyTypeObject *cls;
    PyObject *original;
    if (!PyArg_ParseTuple(args, "O!O!:init", &PyType_Type, &cls, &PyWrapperDescr_Type, &original)) {
        return NULL;
    }
    PyWrapperDescrObject *wrapper = (PyWrapperDescrObject *)original;
    if (strcmp(wrapper->d_base->name, "__init__") != 0 || wrapper->d_wrapped == (void *)task_init
        || !PyType_IsSubtype(cls, PyDescr_TYPE(wrapper)) || self->born == NULL) {
        PyErr_Format(PyExc_TypeError, "%R is not the __init__ that a class came with", original);
        return NULL;
    }
    Slot *slot = slots;
    while (slot != NULL && slot->cls != cls) {
        slot = slot->next;
    }
    if (slot == NULL) {
        slot = PyMem_Calloc(1, sizeof(Slot));
        if (slot == NULL) {
            return PyErr_NoMemory();
        }
        slot->cls = (PyTypeObject *)Py_NewRef((PyObject *)cls);
        slot->original = (initproc)wrapper->d_wrapped;
        slot->next = slots;
        slots = slot;
    }
    PyObject *made = PyDescr_NewWrapper(cls, wrapper->d_base, (void *)task_init);
    if (made != NULL) {
        slot->original = (initproc)wrapper->d_wrapped;
        slot->active = self;
    }
    return made;
}

static PyMethodDef births_methods[] = {
    {"init", births_init, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot births_slots[] = {
    {Py_tp_doc, (void *)"Notes the tasks that are made, as long as it lives."},
    {Py_tp_new, births_new},
    {Py_tp_dealloc, births_dealloc},
    {Py_tp_traverse, births_traverse},
    {Py_tp_clear, births_clear},
    {Py_tp_methods, births_methods},
    {0, NULL},
};

static PyType_Spec births_spec = {
    "aioaudit.core._core.Births",
    sizeof(Births),
    0,
    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    births_slots,
};
