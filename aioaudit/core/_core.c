/* The core in C: what happens for every task, and the lines that tell of it.
 *
 * `aioaudit/core/python.py` is the same in Python, and says what each part is for.  Here are
 * only reasons that C has of its own.  Three rules hold for all of it:
 *
 * - Public API only: no internal header, no copied struct.  What there is no API for is asked
 *   of the object as Python would, or left to Python.
 * - It knows addresses, numbers and bytes that are ready to be written.  Whatever has to be
 *   thought about is handed to Python, through a function that was given when a part was made.
 * - Everything in a table is owned by it.  Where an address is looked up, what is found says
 *   itself whether it is meant; what may be another object at the same address is asked.
 *
 * All of it runs under the GIL, but for the middle of `lines`, and of those of a `Kept`, which
 * look at nothing that anybody can change.  Memory that cannot be had is an exception, as everywhere: what calls us
 * counts the event as lost, or tells the fault, and the program goes on.
 */

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

/* -- Table: objects by addresses ------------------------------------------------------ */

typedef struct {
    uintptr_t key;
    PyObject *value; /* NULL where the place is free */
} Entry;

typedef struct {
    PyObject_HEAD
    Entry *entries;
    size_t mask; /* number of places less one; a power of two */
    size_t used;
} Table;

#define FEWEST 64

static size_t
place_of(const Table *self, uintptr_t key)
{
    /* Addresses differ in their middle bits most; the multiplication spreads them. */
    return (size_t)(((uint64_t)key * UINT64_C(0x9E3779B97F4A7C15)) >> 20) & self->mask;
}

/* The entry of KEY, or the free one where it would stand. */
static Entry *
table_find(const Table *self, uintptr_t key)
{
    size_t at = place_of(self, key);
    while (self->entries[at].value != NULL && self->entries[at].key != key) {
        at = (at + 1) & self->mask;
    }
    return &self->entries[at];
}

/* What stands at KEY, borrowed; NULL, without an exception, where nothing does. */
static PyObject *
table_get(const Table *self, uintptr_t key)
{
    return table_find(self, key)->value;
}

static int
table_resize(Table *self, size_t places)
{
    Entry *before = self->entries;
    size_t count = before == NULL ? 0 : self->mask + 1;
    Entry *entries = PyMem_Calloc(places, sizeof(Entry));
    if (entries == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    self->entries = entries;
    self->mask = places - 1;
    for (size_t at = 0; at < count; at++) {
        if (before[at].value != NULL) {
            *table_find(self, before[at].key) = before[at];
        }
    }
    PyMem_Free(before);
    return 0;
}

/* Set KEY to VALUE; -1 with an exception where there is no memory, and then nothing changed. */
static int
table_set(Table *self, uintptr_t key, PyObject *value)
{
    if ((self->used + 1) * 3 > (self->mask + 1) * 2 && table_resize(self, (self->mask + 1) * 2) < 0) {
        return -1;
    }
    Entry *entry = table_find(self, key);
    PyObject *before = entry->value;
    entry->key = key;
    entry->value = Py_NewRef(value);
    if (before == NULL) {
        self->used++;
    }
    Py_XDECREF(before); /* last: this may run anything, and lead back here */
    return 0;
}

/* Take out what stands at KEY; gives the reference of the table, NULL where nothing stood. */
static PyObject *
table_pop(Table *self, uintptr_t key)
{
    Entry *entry = table_find(self, key);
    PyObject *value = entry->value;
    if (value == NULL) {
        return NULL;
    }
    /* No place is marked as left: what stands behind moves up, so that a table in which
     * tasks come and go for a year is as fast as on the first day. */
    size_t hole = (size_t)(entry - self->entries);
    size_t at = hole;
    for (;;) {
        at = (at + 1) & self->mask;
        if (self->entries[at].value == NULL) {
            break;
        }
        size_t home = place_of(self, self->entries[at].key);
        if (((at - home) & self->mask) >= ((at - hole) & self->mask)) {
            self->entries[hole] = self->entries[at];
            hole = at;
        }
    }
    self->entries[hole].value = NULL;
    self->used--;
    size_t places = self->mask + 1;
    if (places > FEWEST && self->used * 8 < places && table_resize(self, places / 2) < 0) {
        PyErr_Clear(); /* it stays as large as it is */
    }
    return value;
}

static PyObject *
table_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"collected", NULL};
    int collected = 1;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|$p:Table", names, &collected)) {
        return NULL;
    }
    Table *self = (Table *)type->tp_alloc(type, 0);
    if (self == NULL) {
        return NULL;
    }
    if (table_resize(self, FEWEST) < 0) {
        Py_DECREF(self);
        return NULL;
    }
    if (!collected) {
        PyObject_GC_UnTrack(self);
    }
    return (PyObject *)self;
}

static int
table_traverse(PyObject *op, visitproc visit, void *arg)
{
    Table *self = (Table *)op;
    Py_VISIT(Py_TYPE(op));
    if (self->entries != NULL) {
        for (size_t at = 0; at <= self->mask; at++) {
            Py_VISIT(self->entries[at].value);
        }
    }
    return 0;
}

static int
table_empty(PyObject *op)
{
    Table *self = (Table *)op;
    Entry *entries = self->entries;
    if (entries == NULL) {
        return 0;
    }
    size_t places = self->mask + 1;
    self->entries = NULL;
    self->used = 0;
    int result = table_resize(self, FEWEST);
    if (result < 0) { /* then the one that there was is used on */
        self->entries = PyMem_Calloc(1, sizeof(Entry));
        self->mask = 0;
        if (self->entries == NULL) {
            self->entries = entries;
            self->mask = places - 1;
            for (size_t at = 0; at < places; at++) {
                self->used += entries[at].value != NULL;
            }
            return -1;
        }
        PyErr_Clear();
    }
    for (size_t at = 0; at < places; at++) {
        Py_XDECREF(entries[at].value);
    }
    PyMem_Free(entries);
    return 0;
}

static int
table_clear_gc(PyObject *op)
{
    if (table_empty(op) < 0) {
        PyErr_Clear();
    }
    return 0;
}

static void
table_dealloc(PyObject *op)
{
    Table *self = (Table *)op;
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    Entry *entries = self->entries;
    if (entries != NULL) {
        for (size_t at = 0; at <= self->mask; at++) {
            Py_XDECREF(entries[at].value);
        }
        PyMem_Free(entries);
    }
    type->tp_free(op);
    Py_DECREF(type);
}

/* The address that OP, an int, is; 0 with an exception where it is none. */
static uintptr_t
address(PyObject *op)
{
    return (uintptr_t)PyLong_AsVoidPtr(op);
}

static PyObject *
table_method_get(PyObject *op, PyObject *key)
{
    uintptr_t at = address(key);
    if (at == 0 && PyErr_Occurred()) {
        return NULL;
    }
    PyObject *value = table_get((Table *)op, at);
    return Py_NewRef(value == NULL ? Py_None : value);
}

static PyObject *
table_method_pop(PyObject *op, PyObject *const *args, Py_ssize_t count)
{
    if (count < 1 || count > 2) {
        PyErr_SetString(PyExc_TypeError, "pop() takes a key, and what is given without one");
        return NULL;
    }
    uintptr_t at = address(args[0]);
    if (at == 0 && PyErr_Occurred()) {
        return NULL;
    }
    PyObject *value = table_pop((Table *)op, at);
    return value == NULL ? Py_NewRef(count == 2 ? args[1] : Py_None) : value;
}

static PyObject *
table_list(Table *self, int with_keys)
{
    /* Making objects may have the collector run, and a finalizer change the table: what is
     * in it is copied first, where nothing can come between. */
    Entry *copy = PyMem_Calloc(self->used + 1, sizeof(Entry));
    if (copy == NULL) {
        return PyErr_NoMemory();
    }
    size_t count = 0;
    for (size_t at = 0; at <= self->mask; at++) {
        if (self->entries[at].value != NULL) {
            copy[count] = self->entries[at];
            Py_INCREF(copy[count].value);
            count++;
        }
    }
    PyObject *found = PyList_New((Py_ssize_t)count);
    for (size_t at = 0; at < count; at++) {
        PyObject *item = copy[at].value;
        if (found != NULL && with_keys) {
            item = Py_BuildValue("(NN)", PyLong_FromVoidPtr((void *)copy[at].key), item);
            if (item == NULL) {
                Py_CLEAR(found);
            }
        }
        if (found == NULL) {
            Py_XDECREF(item);
        }
        else {
            PyList_SET_ITEM(found, (Py_ssize_t)at, item);
        }
    }
    PyMem_Free(copy);
    return found;
}

static PyObject *
table_method_items(PyObject *op, PyObject *Py_UNUSED(none))
{
    return table_list((Table *)op, 1);
}

static PyObject *
table_method_values(PyObject *op, PyObject *Py_UNUSED(none))
{
    return table_list((Table *)op, 0);
}

static PyObject *
table_method_clear(PyObject *op, PyObject *Py_UNUSED(none))
{
    if (table_empty(op) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static Py_ssize_t
table_length(PyObject *op)
{
    return (Py_ssize_t)((Table *)op)->used;
}

static int
table_contains(PyObject *op, PyObject *key)
{
    uintptr_t at = address(key);
    if (at == 0 && PyErr_Occurred()) {
        return -1;
    }
    return table_get((Table *)op, at) != NULL;
}

static PyObject *
table_subscript(PyObject *op, PyObject *key)
{
    uintptr_t at = address(key);
    if (at == 0 && PyErr_Occurred()) {
        return NULL;
    }
    PyObject *value = table_get((Table *)op, at);
    if (value == NULL) {
        PyErr_SetObject(PyExc_KeyError, key);
        return NULL;
    }
    return Py_NewRef(value);
}

static int
table_assign(PyObject *op, PyObject *key, PyObject *value)
{
    uintptr_t at = address(key);
    if (at == 0 && PyErr_Occurred()) {
        return -1;
    }
    if (value != NULL) {
        return table_set((Table *)op, at, value);
    }
    PyObject *before = table_pop((Table *)op, at);
    if (before == NULL) {
        PyErr_SetObject(PyExc_KeyError, key);
        return -1;
    }
    Py_DECREF(before);
    return 0;
}

static PyMethodDef table_methods[] = {
    {"get", table_method_get, METH_O, NULL},
    {"pop", (PyCFunction)(void (*)(void))table_method_pop, METH_FASTCALL, NULL},
    {"items", table_method_items, METH_NOARGS, NULL},
    {"values", table_method_values, METH_NOARGS, NULL},
    {"clear", table_method_clear, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot table_slots[] = {
    {Py_tp_doc, (void *)"Objects by addresses."},
    {Py_tp_new, table_new},
    {Py_tp_dealloc, table_dealloc},
    {Py_tp_traverse, table_traverse},
    {Py_tp_clear, table_clear_gc},
    {Py_tp_methods, table_methods},
    {Py_mp_length, table_length},
    {Py_mp_subscript, table_subscript},
    {Py_mp_ass_subscript, table_assign},
    {Py_sq_contains, table_contains},
    {0, NULL},
};

static PyType_Spec table_spec = {
    "aioaudit.core._core.Table",
    sizeof(Table),
    0,
    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    table_slots,
};

/* -- Counter: numbers that rise ------------------------------------------------------- */

typedef struct {
    PyObject_HEAD
    vectorcallfunc call;
    int64_t next;
} Counter;

static PyObject *
counter_call(PyObject *op, PyObject *const *Py_UNUSED(args), size_t flags, PyObject *names)
{
    if (PyVectorcall_NARGS(flags) != 0 || (names != NULL && PyTuple_GET_SIZE(names) != 0)) {
        PyErr_SetString(PyExc_TypeError, "a counter takes no arguments");
        return NULL;
    }
    return PyLong_FromLongLong(((Counter *)op)->next++);
}

static PyObject *
counter_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {NULL};
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, ":Counter", names)) {
        return NULL;
    }
    Counter *self = (Counter *)type->tp_alloc(type, 0);
    if (self != NULL) {
        self->call = counter_call;
        self->next = 1;
    }
    return (PyObject *)self;
}

static void
counter_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    type->tp_free(op);
    Py_DECREF(type);
}

static PyMemberDef counter_members[] = {
    {"__vectorcalloffset__", T_PYSSIZET, offsetof(Counter, call), READONLY, NULL},
    {"next", T_LONGLONG, offsetof(Counter, next), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot counter_slots[] = {
    {Py_tp_doc, (void *)"Gives 1, 2, 3, ... , one at each call."},
    {Py_tp_new, counter_new},
    {Py_tp_dealloc, counter_dealloc},
    {Py_tp_call, PyVectorcall_Call},
    {Py_tp_members, counter_members},
    {0, NULL},
};

static PyType_Spec counter_spec = {
    "aioaudit.core._core.Counter",
    sizeof(Counter),
    0,
    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_VECTORCALL,
    counter_slots,
};

/* -- Site: what the tasks have in common that one line makes --------------------------- */

typedef struct {
    PyObject_HEAD
    PyObject *place;
    PyObject *runs;   /* an int or None, as Python sees it... */
    uintptr_t code;   /* ... and as an address, 0 for none */
    PyObject *loop_id;
    uintptr_t loop;
    PyObject *pieces; /* a tuple of four bytes, once there was a line */
    char by_application;
} Site;

static int
site_init(PyObject *op, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"place", "loop_id", "runs", "by_application", NULL};
    Site *self = (Site *)op;
    PyObject *place, *loop_id, *runs;
    int by_application;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OO!Op:Site", names, &place, &PyLong_Type,
                                     &loop_id, &runs, &by_application)) {
        return -1;
    }
    uintptr_t code = runs == Py_None ? 0 : address(runs);
    uintptr_t loop = address(loop_id);
    if (PyErr_Occurred()) {
        return -1;
    }
    self->code = code;
    self->loop = loop;
    self->by_application = (char)by_application;
    Py_XSETREF(self->place, Py_NewRef(place));
    Py_XSETREF(self->loop_id, Py_NewRef(loop_id));
    Py_XSETREF(self->runs, Py_NewRef(runs));
    Py_XSETREF(self->pieces, Py_NewRef(Py_None));
    return 0;
}

static int
site_traverse(PyObject *op, visitproc visit, void *arg)
{
    Site *self = (Site *)op;
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(self->place);
    Py_VISIT(self->runs);
    Py_VISIT(self->pieces);
    return 0;
}

static int
site_clear(PyObject *op)
{
    Site *self = (Site *)op;
    Py_CLEAR(self->place);
    Py_CLEAR(self->loop_id);
    Py_CLEAR(self->runs);
    Py_CLEAR(self->pieces);
    return 0;
}

static void
site_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    (void)site_clear(op);
    type->tp_free(op);
    Py_DECREF(type);
}

static PyMemberDef site_members[] = {
    {"place", T_OBJECT_EX, offsetof(Site, place), READONLY, NULL},
    {"runs", T_OBJECT_EX, offsetof(Site, runs), READONLY, NULL},
    {"loop_id", T_OBJECT_EX, offsetof(Site, loop_id), READONLY, NULL},
    {"pieces", T_OBJECT_EX, offsetof(Site, pieces), READONLY, NULL},
    {"by_application", T_BOOL, offsetof(Site, by_application), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot site_slots[] = {
    {Py_tp_doc, (void *)"What the tasks have in common that one line makes."},
    {Py_tp_new, PyType_GenericNew},
    {Py_tp_init, site_init},
    {Py_tp_dealloc, site_dealloc},
    {Py_tp_traverse, site_traverse},
    {Py_tp_clear, site_clear},
    {Py_tp_members, site_members},
    {0, NULL},
};

static PyType_Spec site_spec = {
    "aioaudit.core._core.Site",
    sizeof(Site),
    0,
    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE,
    site_slots,
};

/* -- Created and Returned: the records of the two events that every task has ------------ */

typedef struct {
    PyObject_HEAD
    int64_t seq;
    int64_t task;
    int64_t ns;
    int64_t parent; /* 0: none, tasks are counted from 1 */
    Site *site;
    PyObject *name_or_task;
    PyFrameObject *maker; /* borrowed, while the task runs inside of its own making; else NULL */
} Created;

typedef struct {
    PyObject_HEAD
    int64_t seq;
    int64_t ns;
    Created *born;
    uintptr_t key;
} Returned;

/* Neither is seen by the garbage collector: they refer to nothing that refers back, and
 * thousands of them in a queue must not make it run. */

static Created *
created_make(int64_t seq, int64_t task, int64_t ns, int64_t parent, Site *site, PyObject *name)
{
    Created *self = PyObject_New(Created, CreatedType);
    if (self != NULL) {
        self->seq = seq;
        self->task = task;
        self->ns = ns;
        self->parent = parent;
        self->site = (Site *)Py_NewRef((PyObject *)site);
        self->name_or_task = Py_NewRef(name);
        self->maker = NULL;
    }
    return self;
}

/* What BORN has at KEY, borrowed; NULL where it has nothing, or what is none of these. */
static Created *
created_at(const Table *born, uintptr_t key)
{
    PyObject *found = table_get(born, key);
    return found != NULL && Py_IS_TYPE(found, CreatedType) ? (Created *)found : NULL;
}

static PyObject *
created_new(PyTypeObject *Py_UNUSED(type), PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"seq", "task", "ns", "site", "name_or_task", "parent", NULL};
    long long seq, task, ns, parent = 0;
    PyObject *site, *name, *given;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "LLLO!OO:Created", names, &seq, &task, &ns,
                                     SiteType, &site, &name, &given)) {
        return NULL;
    }
    if (given != Py_None) {
        parent = PyLong_AsLongLong(given);
        if (parent == -1 && PyErr_Occurred()) {
            return NULL;
        }
    }
    return (PyObject *)created_make(seq, task, ns, parent, (Site *)site, name);
}

static void
created_dealloc(PyObject *op)
{
    Created *self = (Created *)op;
    PyTypeObject *type = Py_TYPE(op);
    PyObject *site = (PyObject *)self->site, *name = self->name_or_task;
    PyObject_Free(op);
    Py_DECREF(type);
    Py_XDECREF(site);
    Py_XDECREF(name);
}

static PyObject *
created_parent(PyObject *op, void *Py_UNUSED(closure))
{
    int64_t parent = ((Created *)op)->parent;
    return parent == 0 ? Py_NewRef(Py_None) : PyLong_FromLongLong(parent);
}

static PyObject *name_of_new; /* the function of Python that waits for a name */

static PyObject *
created_name(PyObject *op, void *Py_UNUSED(closure))
{
    PyObject *name = Py_NewRef(((Created *)op)->name_or_task);
    if (PyUnicode_CheckExact(name)) {
        return name;
    }
    if (name_of_new == NULL) {
        Py_DECREF(name);
        PyErr_SetString(PyExc_RuntimeError, "nobody has said how to ask for a name");
        return NULL;
    }
    PyObject *function = Py_NewRef(name_of_new); /* another may be set while it waits */
    PyObject *found = PyObject_CallOneArg(function, name);
    Py_DECREF(function);
    Py_DECREF(name);
    return found;
}

static int
created_set_name(PyObject *op, PyObject *value, void *Py_UNUSED(closure))
{
    if (value == NULL) {
        PyErr_SetString(PyExc_AttributeError, "a task has a name");
        return -1;
    }
    Py_SETREF(((Created *)op)->name_or_task, Py_NewRef(value));
    return 0;
}

static PyObject *
created_name_or_task(PyObject *op, void *Py_UNUSED(closure))
{
    return Py_NewRef(((Created *)op)->name_or_task);
}

static PyObject *
created_of_site(PyObject *op, void *closure)
{
    return PyObject_GetAttrString((PyObject *)((Created *)op)->site, (const char *)closure);
}

static PyGetSetDef created_getset[] = {
    {"parent", created_parent, NULL, NULL, NULL},
    {"name", created_name, created_set_name, NULL, NULL},
    {"name_or_task", created_name_or_task, created_set_name, NULL, NULL},
    {"place", created_of_site, NULL, NULL, (void *)"place"},
    {"coro", created_of_site, NULL, NULL, (void *)"coro"},
    {"runs_at", created_of_site, NULL, NULL, (void *)"runs_at"},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef created_members[] = {
    {"seq", T_LONGLONG, offsetof(Created, seq), READONLY, NULL},
    {"task", T_LONGLONG, offsetof(Created, task), READONLY, NULL},
    {"ns", T_LONGLONG, offsetof(Created, ns), READONLY, NULL},
    {"site", T_OBJECT_EX, offsetof(Created, site), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot created_slots[] = {
    {Py_tp_doc, (void *)"A task was made."},
    {Py_tp_new, created_new},
    {Py_tp_dealloc, created_dealloc},
    {Py_tp_members, created_members},
    {Py_tp_getset, created_getset},
    {0, NULL},
};

static PyType_Spec created_spec = {
    "aioaudit.core._core.Created",
    sizeof(Created),
    0,
    Py_TPFLAGS_DEFAULT,
    created_slots,
};

static Returned *
returned_make(int64_t seq, int64_t ns, Created *born, uintptr_t key)
{
    Returned *self = PyObject_New(Returned, ReturnedType);
    if (self != NULL) {
        self->seq = seq;
        self->ns = ns;
        self->born = (Created *)Py_NewRef((PyObject *)born);
        self->key = key;
    }
    return self;
}

static PyObject *
returned_new(PyTypeObject *Py_UNUSED(type), PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"seq", "ns", "born", "key", NULL};
    long long seq, ns;
    PyObject *born, *key;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "LLO!O:Returned", names, &seq, &ns, CreatedType,
                                     &born, &key)) {
        return NULL;
    }
    uintptr_t at = address(key);
    if (at == 0 && PyErr_Occurred()) {
        return NULL;
    }
    return (PyObject *)returned_make(seq, ns, (Created *)born, at);
}

static void
returned_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    PyObject *born = (PyObject *)((Returned *)op)->born;
    PyObject_Free(op);
    Py_DECREF(type);
    Py_XDECREF(born);
}

static PyObject *
returned_key(PyObject *op, void *Py_UNUSED(closure))
{
    return PyLong_FromVoidPtr((void *)((Returned *)op)->key);
}

static PyGetSetDef returned_getset[] = {
    {"key", returned_key, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef returned_members[] = {
    {"seq", T_LONGLONG, offsetof(Returned, seq), READONLY, NULL},
    {"ns", T_LONGLONG, offsetof(Returned, ns), READONLY, NULL},
    {"born", T_OBJECT_EX, offsetof(Returned, born), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot returned_slots[] = {
    {Py_tp_doc, (void *)"A task returned."},
    {Py_tp_new, returned_new},
    {Py_tp_dealloc, returned_dealloc},
    {Py_tp_members, returned_members},
    {Py_tp_getset, returned_getset},
    {0, NULL},
};

static PyType_Spec returned_spec = {
    "aioaudit.core._core.Returned",
    sizeof(Returned),
    0,
    Py_TPFLAGS_DEFAULT,
    returned_slots,
};

/* -- Queue: what waits for an exporter ------------------------------------------------- */

typedef struct {
    PyObject_HEAD
    PyObject **items; /* a ring */
    size_t places;    /* a power of two */
    size_t first;
    size_t used;
    size_t capacity;
    size_t room; /* `put` only appends where less waits than that, else it looks around */
    size_t step; /* so many are put before the next look... */
    double before; /* ... and this was the last one */
    size_t most_unseen;
    double often;
    PyObject *wake_up;
    PyObject *lose;
    PyObject *look;
    PyObject *monotonic;
    char idle;
    char closed;
} Queue;

static int
queue_grow(Queue *self)
{
    size_t places = self->places == 0 ? FEWEST : self->places * 2;
    PyObject **items = PyMem_Calloc(places, sizeof(PyObject *));
    if (items == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    for (size_t at = 0; at < self->used; at++) {
        items[at] = self->items[(self->first + at) & (self->places - 1)];
    }
    PyMem_Free(self->items);
    self->items = items;
    self->places = places;
    self->first = 0;
    return 0;
}

static int
call_and_forget(PyObject *function, PyObject *argument)
{
    PyObject *result = argument == NULL ? PyObject_CallNoArgs(function)
                                        : PyObject_CallOneArg(function, argument);
    if (result == NULL) {
        return -1;
    }
    Py_DECREF(result);
    return 0;
}

static int
queue_append(Queue *self, PyObject *item)
{
    if (self->used == self->places && queue_grow(self) < 0) {
        PyErr_Clear(); /* no memory: what cannot be kept is counted */
        return call_and_forget(self->lose, item);
    }
    self->items[(self->first + self->used) & (self->places - 1)] = Py_NewRef(item);
    self->used++;
    return self->idle ? call_and_forget(self->wake_up, NULL) : 0;
}

static int
queue_look_at(Queue *self, double now)
{
    PyObject *time = PyFloat_FromDouble(now);
    if (time == NULL) {
        return -1;
    }
    int result = call_and_forget(self->look, time);
    Py_DECREF(time);
    return result;
}

static int
queue_time(Queue *self, double *now)
{
    PyObject *time = PyObject_CallNoArgs(self->monotonic);
    if (time == NULL) {
        return -1;
    }
    *now = PyFloat_AsDouble(time);
    Py_DECREF(time);
    return *now == -1.0 && PyErr_Occurred() ? -1 : 0;
}

/* `put` where there is no room known to be left. */
static int
queue_look(Queue *self, PyObject *item)
{
    double now;
    if (self->closed || self->used >= self->capacity) {
        if (call_and_forget(self->lose, item) < 0) {
            return -1;
        }
        if (self->closed) {
            return 0;
        }
        /* Now of all times the thread has to come forward. */
        return queue_time(self, &now) < 0 ? -1 : queue_look_at(self, now);
    }
    if (queue_append(self, item) < 0 || queue_time(self, &now) < 0) {
        return -1;
    }
    if (now - self->before < self->often * (double)self->step) {
        self->step = 2 * self->step < self->most_unseen ? 2 * self->step : self->most_unseen;
    }
    else {
        self->step = 1;
    }
    self->before = now;
    self->room = self->used + self->step < self->capacity ? self->used + self->step : self->capacity;
    if (self->closed) { /* by another thread, meanwhile */
        self->room = 0;
    }
    return queue_look_at(self, now);
}

static int
queue_put(Queue *self, PyObject *item)
{
    return self->used < self->room ? queue_append(self, item) : queue_look(self, item);
}

static PyObject *
queue_method_put(PyObject *op, PyObject *item)
{
    if (queue_put((Queue *)op, item) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
queue_method_take(PyObject *op, PyObject *number)
{
    Queue *self = (Queue *)op;
    Py_ssize_t count = PyLong_AsSsize_t(number);
    if (count == -1 && PyErr_Occurred()) {
        return NULL;
    }
    PyObject *taken = NULL;
    do {
        /* Making the list may have the collector run, and a finalizer, or another thread
         * meanwhile: put, take, or clear.  More than there is, is not taken. */
        if (count < 0 || (size_t)count > self->used) {
            count = (Py_ssize_t)self->used;
        }
        Py_XSETREF(taken, PyList_New(count));
        if (taken == NULL) {
            return NULL;
        }
    } while ((size_t)count > self->used);
    for (Py_ssize_t at = 0; at < count; at++) {
        PyList_SET_ITEM(taken, at, self->items[self->first]);
        self->items[self->first] = NULL;
        self->first = (self->first + 1) & (self->places - 1);
    }
    self->used -= (size_t)count;
    return taken;
}

static PyObject *
queue_method_took(PyObject *op, PyObject *Py_UNUSED(none))
{
    ((Queue *)op)->room = 0;
    Py_RETURN_NONE;
}

static int
queue_empty(PyObject *op)
{
    Queue *self = (Queue *)op;
    PyObject **items = self->items;
    size_t first = self->first, used = self->used, places = self->places;
    self->items = NULL;
    self->places = self->first = self->used = 0;
    for (size_t at = 0; at < used; at++) {
        Py_DECREF(items[(first + at) & (places - 1)]);
    }
    PyMem_Free(items);
    return 0;
}

static PyObject *
queue_method_clear(PyObject *op, PyObject *Py_UNUSED(none))
{
    (void)queue_empty(op);
    Py_RETURN_NONE;
}

static PyObject *
queue_method_set_idle(PyObject *op, PyObject *value)
{
    int idle = PyObject_IsTrue(value);
    if (idle < 0) {
        return NULL;
    }
    ((Queue *)op)->idle = (char)idle;
    Py_RETURN_NONE;
}

static PyObject *
queue_method_set_open(PyObject *op, PyObject *value)
{
    int open = PyObject_IsTrue(value);
    if (open < 0) {
        return NULL;
    }
    ((Queue *)op)->closed = !open;
    ((Queue *)op)->room = 0;
    Py_RETURN_NONE;
}

static Py_ssize_t
queue_length(PyObject *op)
{
    return (Py_ssize_t)((Queue *)op)->used;
}

static PyObject *
queue_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"capacity", "wake_up", "lose",        "look",
                            "monotonic", "often",  "most_unseen", NULL};
    Py_ssize_t capacity, most_unseen;
    double often;
    PyObject *wake_up, *lose, *look, *monotonic;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "nOOOOdn:Queue", names, &capacity, &wake_up,
                                     &lose, &look, &monotonic, &often, &most_unseen)) {
        return NULL;
    }
    if (capacity < 0 || most_unseen < 1) {
        PyErr_SetString(PyExc_ValueError, "a queue holds no negative number of items");
        return NULL;
    }
    Queue *self = (Queue *)type->tp_alloc(type, 0);
    if (self == NULL) {
        return NULL;
    }
    self->capacity = (size_t)capacity;
    self->most_unseen = (size_t)most_unseen;
    self->often = often;
    self->step = 1;
    self->idle = 1;
    self->wake_up = Py_NewRef(wake_up);
    self->lose = Py_NewRef(lose);
    self->look = Py_NewRef(look);
    self->monotonic = Py_NewRef(monotonic);
    return (PyObject *)self;
}

static int
queue_traverse(PyObject *op, visitproc visit, void *arg)
{
    Queue *self = (Queue *)op;
    Py_VISIT(Py_TYPE(op));
    /* Not the items: records are not seen by the collector, and events refer to nothing. */
    Py_VISIT(self->wake_up);
    Py_VISIT(self->lose);
    Py_VISIT(self->look);
    Py_VISIT(self->monotonic);
    return 0;
}

static int
queue_clear_gc(PyObject *op)
{
    Queue *self = (Queue *)op;
    /* First: from here on nothing is taken, whatever the rest sets off.  The functions stay
     * callable, with one argument or with none: whoever holds `put` may still call it. */
    self->idle = 0;
    self->closed = 1;
    self->room = 0;
    Py_XSETREF(self->wake_up, Py_NewRef((PyObject *)&PyFrozenSet_Type));
    Py_XSETREF(self->lose, Py_NewRef((PyObject *)&PyType_Type));
    Py_XSETREF(self->look, Py_NewRef((PyObject *)&PyType_Type));
    Py_XSETREF(self->monotonic, Py_NewRef((PyObject *)&PyFloat_Type));
    return 0;
}

static void
queue_dealloc(PyObject *op)
{
    Queue *self = (Queue *)op;
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    (void)queue_empty(op);
    Py_XDECREF(self->wake_up);
    Py_XDECREF(self->lose);
    Py_XDECREF(self->look);
    Py_XDECREF(self->monotonic);
    type->tp_free(op);
    Py_DECREF(type);
}

static PyMethodDef queue_methods[] = {
    {"put", queue_method_put, METH_O, NULL},
    {"take", queue_method_take, METH_O, NULL},
    {"took", queue_method_took, METH_NOARGS, NULL},
    {"clear", queue_method_clear, METH_NOARGS, NULL},
    {"set_idle", queue_method_set_idle, METH_O, NULL},
    {"set_open", queue_method_set_open, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot queue_slots[] = {
    {Py_tp_doc, (void *)"What waits for an exporter."},
    {Py_tp_new, queue_new},
    {Py_tp_dealloc, queue_dealloc},
    {Py_tp_traverse, queue_traverse},
    {Py_tp_clear, queue_clear_gc},
    {Py_tp_methods, queue_methods},
    {Py_sq_length, queue_length},
    {0, NULL},
};

static PyType_Spec queue_spec = {
    "aioaudit.core._core.Queue",
    sizeof(Queue),
    0,
    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    queue_slots,
};

/* The queue whose `put` FUNCTION is, borrowed; NULL where it is something else. */
static Queue *
queue_of(PyObject *function)
{
    if (PyCFunction_CheckExact(function)
        && PyCFunction_GET_FUNCTION(function) == queue_method_put) {
        return (Queue *)PyCFunction_GET_SELF(function);
    }
    return NULL;
}

/* -- Births: a task is made -------------------------------------------------------------- */

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

/* -- Notes: what is known of objects, as long as they live ---------------------------------- */

/* A note, with what tells whether it is about an object that is asked for: the object's own
 * weak reference, of which there is one as long as we own it (`PyWeakref_NewRef`).  So a look
 * into the table is a comparison, and an address that is used again answers nothing. */
typedef struct {
    PyObject_HEAD
    PyObject *ref;
    PyObject *value;
} Note;

static void
note_dealloc(PyObject *op)
{
    Note *self = (Note *)op;
    PyTypeObject *type = Py_TYPE(op);
    PyObject *ref = self->ref, *value = self->value;
    PyObject_Free(op);
    Py_DECREF(type);
    Py_XDECREF(ref);
    Py_XDECREF(value);
}

static PyType_Slot note_slots[] = {
    {Py_tp_doc, (void *)"A note about an object."},
    {Py_tp_dealloc, note_dealloc},
    {0, NULL},
};

static PyType_Spec note_spec = {
    "aioaudit.core._core.Note",
    sizeof(Note),
    0,
    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    note_slots,
};

typedef struct {
    PyObject_HEAD
    Table *table; /* of notes */
    size_t room;  /* so many are kept before those are looked for that nobody needs */
} Notes;

#define FEWEST_NOTES 100

/* Whether what REF refers to is there no more. */
static int
is_gone(PyObject *ref)
{
#if PY_VERSION_HEX >= 0x030D0000
    PyObject *target = NULL;
    int found = PyWeakref_GetRef(ref, &target);
    Py_XDECREF(target); /* others have it, too, or it would be gone */
    return found == 0;
#else
    return PyWeakref_GetObject(ref) == Py_None;
#endif
}

/* Take out what is about objects that are gone: no callback of their references does. */
static int
notes_sweep(Notes *self)
{
    Table *table = self->table;
    uintptr_t *keys = PyMem_Malloc((table->used + 1) * sizeof(uintptr_t));
    if (keys == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    size_t count = 0;
    for (size_t at = 0; at <= table->mask; at++) {
        PyObject *note = table->entries[at].value;
        if (note != NULL && is_gone(((Note *)note)->ref)) {
            keys[count++] = table->entries[at].key;
        }
    }
    for (size_t at = 0; at < count; at++) {
        /* To let go of the one before may have run anything: it is asked once more. */
        PyObject *note = table_get(table, keys[at]);
        if (note != NULL && is_gone(((Note *)note)->ref)) {
            Py_XDECREF(table_pop(table, keys[at]));
        }
    }
    PyMem_Free(keys);
    self->room = 2 * (table->used < FEWEST_NOTES ? FEWEST_NOTES : table->used);
    return 0;
}

/* The note of TARGET, whose weak reference REF is; borrowed, NULL for none. */
static PyObject *
notes_find(Notes *self, PyObject *target, PyObject *ref)
{
    Note *note = (Note *)table_get(self->table, (uintptr_t)target);
    return note == NULL || note->ref != ref ? NULL : note->value;
}

static int
notes_put(Notes *self, PyObject *target, PyObject *ref, PyObject *value)
{
    if (self->table->used >= self->room && notes_sweep(self) < 0) {
        return -1;
    }
    Note *note = PyObject_New(Note, NoteType);
    if (note == NULL) {
        return -1;
    }
    note->ref = Py_NewRef(ref);
    note->value = Py_NewRef(value);
    int result = table_set(self->table, (uintptr_t)target, (PyObject *)note);
    Py_DECREF(note);
    return result;
}

static PyObject *
notes_method_get(PyObject *op, PyObject *const *args, Py_ssize_t count)
{
    if (count < 1 || count > 2) {
        PyErr_SetString(PyExc_TypeError, "get() takes an object, and what is given without a note");
        return NULL;
    }
    PyObject *value = NULL;
    PyObject *ref = PyWeakref_NewRef(args[0], NULL);
    if (ref != NULL) {
        value = Py_XNewRef(notes_find((Notes *)op, args[0], ref));
        Py_DECREF(ref);
    }
    else if (PyErr_ExceptionMatches(PyExc_TypeError)) {
        PyErr_Clear(); /* of such there are no notes */
    }
    else {
        return NULL;
    }
    return value != NULL ? value : Py_NewRef(count == 2 ? args[1] : Py_None);
}

static int
notes_contains(PyObject *op, PyObject *target)
{
    PyObject *value = notes_method_get(op, &target, 1);
    Py_XDECREF(value);
    return value == NULL ? -1 : value != Py_None;
}

static int
notes_assign(PyObject *op, PyObject *target, PyObject *value)
{
    if (value == NULL) {
        PyErr_SetString(PyExc_TypeError, "a note goes with what it is about");
        return -1;
    }
    PyObject *ref = PyWeakref_NewRef(target, NULL);
    int result = ref == NULL ? -1 : notes_put((Notes *)op, target, ref, value);
    Py_XDECREF(ref);
    return result;
}

static Py_ssize_t
notes_length(PyObject *op)
{
    return notes_sweep((Notes *)op) < 0 ? -1 : (Py_ssize_t)((Notes *)op)->table->used;
}

static PyObject *
notes_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {NULL};
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, ":Notes", names)) {
        return NULL;
    }
    PyObject *table = PyObject_CallNoArgs((PyObject *)TableType);
    if (table == NULL) {
        return NULL;
    }
    PyObject_GC_UnTrack(table); /* `notes_traverse` sees to what is in it */
    Notes *self = (Notes *)type->tp_alloc(type, 0);
    if (self == NULL) {
        Py_DECREF(table);
        return NULL;
    }
    self->table = (Table *)table;
    self->room = FEWEST_NOTES;
    return (PyObject *)self;
}

/* Notes belong to the table alone, and that to nobody else: what they refer to is as good as
 * in here. */
static int
notes_traverse(PyObject *op, visitproc visit, void *arg)
{
    Table *table = ((Notes *)op)->table;
    Py_VISIT(Py_TYPE(op));
    for (size_t at = 0; table != NULL && at <= table->mask; at++) {
        Note *note = (Note *)table->entries[at].value;
        if (note != NULL) {
            Py_VISIT(note->ref);
            Py_VISIT(note->value);
        }
    }
    return 0;
}

static int
notes_clear(PyObject *op)
{
    return table_clear_gc((PyObject *)((Notes *)op)->table);
}

static void
notes_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    Py_XDECREF(((Notes *)op)->table);
    type->tp_free(op);
    Py_DECREF(type);
}

static PyMethodDef notes_methods[] = {
    {"get", (PyCFunction)(void (*)(void))notes_method_get, METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot notes_slots[] = {
    {Py_tp_doc, (void *)"What is known of objects, as long as they live."},
    {Py_tp_new, notes_new},
    {Py_tp_dealloc, notes_dealloc},
    {Py_tp_traverse, notes_traverse},
    {Py_tp_clear, notes_clear},
    {Py_tp_methods, notes_methods},
    {Py_mp_length, notes_length},
    {Py_mp_ass_subscript, notes_assign},
    {Py_sq_contains, notes_contains},
    {0, NULL},
};

static PyType_Spec notes_spec = {
    "aioaudit.core._core.Notes",
    sizeof(Notes),
    0,
    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    notes_slots,
};

/* -- Known: what was found out about a row of frames ------------------------------------- */

typedef struct {
    uintptr_t code;
    int at;
} Step;

#define DEEPEST 64

/* Where a row of frames is: code and instruction of each. */
typedef struct {
    Step steps[DEEPEST];
    int count;
    uint64_t hash;
} Path;

/* It is asked for by the hash of the path, and says itself which path it is about. */
typedef struct {
    PyObject_HEAD
    PyObject *said; /* what Python says of it: a tuple */
    uint64_t thread;
    Step *steps;
    int count;
} Known;

static void
mix(Path *path, uint64_t number)
{
    path->hash = (path->hash ^ number) * UINT64_C(0x9E3779B97F4A7C15);
    path->hash ^= path->hash >> 29;
}

/* Add where FRAME is; -1, without an exception, where it is too far. */
static int
add_step(Path *path, PyFrameObject *frame)
{
    if (path->count == DEEPEST) {
        return -1;
    }
    PyCodeObject *code = PyFrame_GetCode(frame);
    Step *step = &path->steps[path->count++];
    step->code = (uintptr_t)code;
    step->at = PyFrame_GetLasti(frame);
    Py_DECREF(code);
    mix(path, step->code + (uintptr_t)(unsigned)step->at);
    return 0;
}

static Known *
known_make(const Path *path, uint64_t thread, PyObject *said)
{
    Known *self = PyObject_GC_New(Known, KnownType);
    if (self == NULL) {
        return NULL;
    }
    self->said = Py_NewRef(said);
    self->thread = thread;
    self->count = path->count;
    self->steps = PyMem_Malloc((size_t)path->count * sizeof(Step) + 1);
    if (self->steps == NULL) {
        Py_DECREF(self);
        return (Known *)PyErr_NoMemory();
    }
    memcpy(self->steps, path->steps, (size_t)path->count * sizeof(Step));
    PyObject_GC_Track(self);
    return self;
}

static int
is_about(const Known *self, const Path *path, uint64_t thread)
{
    if (self->count != path->count || self->thread != thread) {
        return 0;
    }
    for (int at = 0; at < path->count; at++) {
        if (self->steps[at].code != path->steps[at].code
            || self->steps[at].at != path->steps[at].at) {
            return 0;
        }
    }
    return 1;
}

static int
known_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(((Known *)op)->said);
    return 0;
}

static int
known_clear(PyObject *op)
{
    Py_CLEAR(((Known *)op)->said);
    return 0;
}

static void
known_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    (void)known_clear(op);
    PyMem_Free(((Known *)op)->steps);
    type->tp_free(op);
    Py_DECREF(type);
}

static PyType_Slot known_slots[] = {
    {Py_tp_doc, (void *)"What was found out about a row of frames."},
    {Py_tp_dealloc, known_dealloc},
    {Py_tp_traverse, known_traverse},
    {Py_tp_clear, known_clear},
    {0, NULL},
};

static PyType_Spec known_spec = {
    "aioaudit.core._core.Known",
    sizeof(Known),
    0,
    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    known_slots,
};

/* -- Asked, TakenBack and Obeyed: a plain request, and what it led to ------------------------ */

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

/* -- Asks: plain requests, till they are obeyed or somebody wants to know --------------------- */

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
 * frame on the way was given to anybody, as the handler of a signal is given one. */
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
    return 0;
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
        result = 0;
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
    if (!walk_out(frame, coro, &path)) {
        result = 0;
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

/* -- `cancel` of tasks and of futures */

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

/* -- what becomes of one: callbacks of `sys.monitoring` */

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

/* -- what Python asks */

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

/* -- Returns: a task returns ------------------------------------------------------------- */

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

/* -- lines: what is queued, as lines of JSON ----------------------------------------------- */

enum { PLACE, CORO, SOURCE, OUTCOME, PIECES };

/* The same of a line about a request: the first two are what Python says of who asked. */
enum { HEAD, REST, RUNS, WAIT };

/* Of a request that was taken back, where that was is in the place of the outcome; of a task that
 * ended after one, in which trace. */
enum { LEAVES = OUTCOME, TRACE = OUTCOME };

typedef enum { READY, CREATED, RETURNED, ASKED, EXPIRED, TAKEN_BACK, OBEYED, ABSORBED } Kind;

typedef struct {
    PyObject *owned; /* a reference to what `at` is in */
    char *at;
    Py_ssize_t length;
    int quotes; /* to be written around it */
} Text;

/* One line to write, as far as it takes Python to know it: what `format` needs. */
typedef struct {
    Kind kind;
    int64_t seq;
    int64_t task;
    int64_t parent; /* 0: none */
    int64_t ns;
    int64_t lived;  /* nanoseconds */
    int64_t number; /* of the task that asked, or of the request that was obeyed */
    PyObject *kept; /* a reference to what the pieces are in */
    Text text;      /* the name, or all of the line */
    Text by;        /* the name of who asked, or how late a timeout was */
    const char *pieces[PIECES];
    Py_ssize_t lengths[PIECES];
} Line;

#define MOST_OF_NUMBERS 320 /* bytes of a line that are neither name nor piece, amply */

static char *
append(char *to, const char *text, size_t length)
{
    memcpy(to, text, length);
    return to + length;
}

#define APPEND(to, literal) append(to, literal, sizeof(literal) - 1)

static char *
append_number(char *to, int64_t number)
{
    char digits[24];
    char *at = digits + sizeof(digits);
    uint64_t rest = number < 0 ? 0 - (uint64_t)number : (uint64_t)number;
    do {
        *--at = (char)('0' + rest % 10);
        rest /= 10;
    } while (rest != 0);
    if (number < 0) {
        *--at = '-';
    }
    return append(to, at, (size_t)(digits + sizeof(digits) - at));
}

/* NUMBER with leading zeros, WIDTH digits. */
static char *
append_digits(char *to, int64_t number, int width)
{
    for (int at = width - 1; at >= 0; at--) {
        to[at] = (char)('0' + number % 10);
        number /= 10;
    }
    return to + width;
}

/* A second since the epoch, `2026-11-22T19:20:20`: 19 characters.  The calendar is that of
 * Howard Hinnant's days_from_civil, turned round: eras of 400 years, years that begin in March. */
static void
write_second(char *to, int64_t second)
{
    int64_t days = second / 86400, left = second % 86400;
    if (left < 0) {
        left += 86400;
        days--;
    }
    days += 719468; /* since the first of March of the year 0 */
    int64_t era = (days >= 0 ? days : days - 146096) / 146097;
    int64_t of_era = days - era * 146097;
    int64_t year = (of_era - of_era / 1460 + of_era / 36524 - of_era / 146096) / 365;
    int64_t of_year = of_era - (365 * year + year / 4 - year / 100);
    int64_t shifted = (5 * of_year + 2) / 153; /* 0 for March */
    int64_t day = of_year - (153 * shifted + 2) / 5 + 1;
    int64_t month = shifted < 10 ? shifted + 3 : shifted - 9;
    year += era * 400 + (month <= 2);
    to = append_digits(to, year, 4);
    *to++ = '-';
    to = append_digits(to, month, 2);
    *to++ = '-';
    to = append_digits(to, day, 2);
    *to++ = 'T';
    to = append_digits(to, left / 3600, 2);
    *to++ = ':';
    to = append_digits(to, left / 60 % 60, 2);
    *to++ = ':';
    append_digits(to, left % 60, 2);
}

/* Seconds of a life, as the shortest number that is read as the same: what msgspec writes. */
static char *
append_lifetime(char *to, int64_t ns)
{
    int64_t micros = ns > 0 ? ns / 1000 : 0;
    if (micros > 0 && micros < 10) {
        *to++ = (char)('0' + micros);
        return APPEND(to, "e-6");
    }
    to = append_number(to, micros / 1000000);
    *to++ = '.';
    to = append_digits(to, micros % 1000000, 6);
    while (to[-1] == '0' && to[-2] != '.') {
        to--;
    }
    return to;
}

static char *
append_text(char *to, const Text *text)
{
    if (text->quotes) {
        *to++ = '"';
    }
    to = append(to, text->at, (size_t)text->length);
    if (text->quotes) {
        *to++ = '"';
    }
    return to;
}

static char *
append_piece(char *to, const Line *line, int number)
{
    return append(to, line->pieces[number], (size_t)line->lengths[number]);
}

/* Write COUNT lines from TO on; gives where they end.  Without the GIL: what it reads is owned
 * by whoever calls, and is not changed by anybody. */
static char *
format(char *to, const Line *lines, size_t count)
{
    int64_t known = INT64_MIN; /* the second that `second` is the text of */
    char second[19];
    for (size_t at = 0; at < count; at++) {
        const Line *line = &lines[at];
        if (line->kind == READY) {
            to = append(to, line->text.at, (size_t)line->text.length);
            continue;
        }
        switch (line->kind) {
        case CREATED:
            to = APPEND(to, "{\"event\":\"task.create\",\"ts\":\"");
            break;
        case ASKED:
        case EXPIRED:
            to = APPEND(to, "{\"event\":\"task.cancel\",\"ts\":\"");
            break;
        case TAKEN_BACK:
            to = APPEND(to, "{\"event\":\"task.uncancel\",\"ts\":\"");
            break;
        default:
            to = APPEND(to, "{\"event\":\"task.done\",\"ts\":\"");
        }
        int64_t now = line->ns / 1000000000, rest = line->ns % 1000000000;
        if (rest < 0) {
            rest += 1000000000;
            now--;
        }
        if (now != known) {
            write_second(second, now);
            known = now;
        }
        to = append(to, second, sizeof(second));
        *to++ = '.';
        to = append_digits(to, rest / 1000, 6);
        to = APPEND(to, "Z\",\"seq\":");
        to = append_number(to, line->seq);
        to = append_piece(to, line, 0); /* of a request its HEAD, else its PLACE */
        if (line->kind == ASKED) {
            to = APPEND(to, ",\"by\":");
            to = append_number(to, line->number);
            to = APPEND(to, ",\"by_name\":");
            to = append_text(to, &line->by);
            to = append_piece(to, line, REST);
            to = APPEND(to, ",\"origin_by_name\":");
            to = append_text(to, &line->by);
        }
        else if (line->kind == EXPIRED && line->by.length > 0) {
            to = APPEND(to, ",\"origin_detail\":");
            to = append_text(to, &line->by);
        }
        to = APPEND(to, ",\"task\":");
        to = append_number(to, line->task);
        to = APPEND(to, ",\"name\":");
        to = append_text(to, &line->text);
        switch (line->kind) {
        case CREATED:
            to = append_piece(to, line, CORO);
            if (line->parent != 0) {
                to = APPEND(to, ",\"parent\":");
                to = append_number(to, line->parent);
            }
            to = append_piece(to, line, SOURCE);
            break;
        case ASKED:
            to = append_piece(to, line, RUNS);
            to = APPEND(to, ",\"accepted\":true");
            to = append_piece(to, line, WAIT);
            break;
        case EXPIRED:
            to = append_piece(to, line, RUNS);
            to = APPEND(to, ",\"accepted\":true");
            to = append_piece(to, line, WAIT);
            to = APPEND(to, ",\"taken_back\":true");
            break;
        case TAKEN_BACK:
            to = append_piece(to, line, CORO);
            to = APPEND(to, ",\"remaining\":0,\"cancel\":");
            to = append_number(to, line->number);
            to = append_piece(to, line, LEAVES);
            break;
        case ABSORBED:
            to = append_piece(to, line, CORO);
            to = APPEND(to, ",\"outcome\":\"returned\",\"cancel\":");
            to = append_number(to, line->number);
            to = APPEND(to, ",\"cancel_outcome\":\"absorbed\",\"lifetime\":");
            to = append_lifetime(to, line->lived);
            to = append_piece(to, line, TRACE);
            break;
        case OBEYED:
            to = append_piece(to, line, CORO);
            to = APPEND(to, ",\"outcome\":\"cancelled\",\"cancel\":");
            to = append_number(to, line->number);
            to = APPEND(to, ",\"cancel_outcome\":\"obeyed\",\"lifetime\":");
            to = append_lifetime(to, line->lived);
            to = append_piece(to, line, TRACE);
            break;
        default:
            to = append_piece(to, line, OUTCOME);
            to = APPEND(to, ",\"lifetime\":");
            to = append_lifetime(to, line->lived);
        }
        to = APPEND(to, "}\n");
    }
    return to;
}

/* The pieces of SITE, made by MAKE where this is the first line of one of its tasks; a new
 * reference, since another thread may make them at the same time, and set others. */
static PyObject *
pieces_of(Site *site, PyObject *make)
{
    if (site->pieces != NULL && site->pieces != Py_None) {
        return Py_NewRef(site->pieces);
    }
    PyObject *made = PyObject_CallOneArg(make, (PyObject *)site);
    if (made == NULL) {
        return NULL;
    }
    int right = PyTuple_CheckExact(made) && PyTuple_GET_SIZE(made) == PIECES;
    for (Py_ssize_t at = 0; right && at < PIECES; at++) {
        right = PyBytes_CheckExact(PyTuple_GET_ITEM(made, at));
    }
    if (!right) {
        Py_DECREF(made);
        PyErr_SetString(PyExc_TypeError, "the pieces of a line are a tuple of four bytes");
        return NULL;
    }
    Py_XSETREF(site->pieces, Py_NewRef(made));
    return made;
}

/* Whether TEXT can stand between quotes as it is. */
static int
is_plain(PyObject *text, Py_ssize_t limit)
{
    if (!PyUnicode_CheckExact(text) || !PyUnicode_IS_COMPACT_ASCII(text)
        || PyUnicode_GET_LENGTH(text) > limit) {
        return 0;
    }
    const Py_UCS1 *at = PyUnicode_1BYTE_DATA(text);
    for (Py_ssize_t left = PyUnicode_GET_LENGTH(text); left > 0; left--, at++) {
        if (*at < 0x20 || *at == '"' || *at == '\\') {
            return 0;
        }
    }
    return 1;
}

/* What `lines` is told by Python. */
typedef struct {
    PyObject *make_pieces; /* of a site: a tuple of four bytes */
    PyObject *quote;       /* a name as JSON, with its quotes; given what was made, or the name */
    PyObject *encode;      /* another event as its line */
    Py_ssize_t limit;      /* longest name that is written whole */
} Ways;

/* What RECORD is; READY for what Python has to encode. */
static Kind
kind_of(PyObject *record)
{
    return Py_IS_TYPE(record, CreatedType)  ? CREATED
        : Py_IS_TYPE(record, ReturnedType)  ? RETURNED
        : Py_IS_TYPE(record, AskedType)     ? (((Asked *)record)->owner == 0 ? ASKED : EXPIRED)
        : Py_IS_TYPE(record, TakenBackType) ? TAKEN_BACK
        : Py_IS_TYPE(record, ObeyedType)    ? (((Obeyed *)record)->absorbed ? ABSORBED : OBEYED)
                                            : READY;
}

/* The `seq` of RECORD, which is one of ours. */
static int64_t
seq_of(PyObject *record, Kind kind)
{
    return kind == CREATED                   ? ((Created *)record)->seq
        : kind == RETURNED                   ? ((Returned *)record)->seq
        : kind == ASKED || kind == EXPIRED   ? ((Asked *)record)->seq
                                             : ((Obeyed *)record)->seq;
}

/* Let TEXT be the bytes OWNED, a reference that is given away and may be NULL. */
static int
set_bytes(Text *text, PyObject *owned)
{
    Py_XSETREF(text->owned, owned);
    return owned == NULL ? -1 : PyBytes_AsStringAndSize(owned, &text->at, &text->length);
}

/* Let TEXT be NAME, quoted by Python, which is given ASKED for it, where that takes more than quotes. */
static int
set_name(Text *text, PyObject *name, PyObject *asked, const Ways *ways)
{
    text->owned = Py_NewRef(name);
    if (!is_plain(name, ways->limit)) {
        return set_bytes(text, PyObject_CallOneArg(ways->quote, asked));
    }
    text->at = (char *)PyUnicode_1BYTE_DATA(name);
    text->length = PyUnicode_GET_LENGTH(name);
    text->quotes = 1;
    return 0;
}

static int
set_piece(Line *line, int number, PyObject *piece)
{
    if (!PyBytes_CheckExact(piece)) {
        PyErr_SetString(PyExc_TypeError, "a piece of a line is bytes");
        return -1;
    }
    line->pieces[number] = PyBytes_AS_STRING(piece);
    line->lengths[number] = PyBytes_GET_SIZE(piece);
    return 0;
}

/* Whether what is known of a wait, WAIT, says in which trace the task was. */
static int
is_traced(PyObject *wait)
{
    return PyTuple_GET_SIZE(wait) > 3;
}

static void
no_trace(Line *line)
{
    line->pieces[TRACE] = "";
    line->lengths[TRACE] = 0;
}

/* Let the TRACE of LINE be what WAIT says of it. */
static int
set_trace(Line *line, PyObject *wait)
{
    if (is_traced(wait)) {
        return set_piece(line, TRACE, PyTuple_GET_ITEM(wait, 2));
    }
    no_trace(line);
    return 0;
}

/* The nanoseconds from the time MADE to the time ENDED. */
static int64_t
life_of(int64_t made, int64_t ended)
{
    /* Of two times that nobody can have read the difference may be none of 64 bits. */
    uint64_t lived = ended > made ? (uint64_t)ended - (uint64_t)made : 0;
    return lived < INT64_MAX ? (int64_t)lived : INT64_MAX;
}

/* Fill in LINE for RECORD; gives how many bytes it takes at most, -1 with an exception.  What
 * may go while it is written is owned by the line. */
static Py_ssize_t
prepare(Line *line, PyObject *record, const Ways *ways)
{
    line->kind = kind_of(record);
    if (line->kind == READY) {
        return set_bytes(&line->text, PyObject_CallOneArg(ways->encode, record)) < 0
            ? -1 : line->text.length;
    }
    line->seq = seq_of(record, line->kind);
    const Created *made;
    /* The name of a task may be another at any time (`Task.set_name`), so it is taken now; that of
     * one that was cancelled was taken then. */
    PyObject *name, *asked;
    switch (line->kind) {
    case CREATED:
        made = (const Created *)record;
        line->ns = made->ns;
        name = made->name_or_task;
        asked = record;
        break;
    case RETURNED:
        made = ((const Returned *)record)->born;
        line->ns = ((const Returned *)record)->ns;
        name = made->name_or_task;
        asked = (PyObject *)made;
        break;
    case ASKED:
    case EXPIRED:
        made = ((const Asked *)record)->born;
        line->ns = ((const Asked *)record)->ns;
        name = asked = ((const Asked *)record)->name;
        break;
    default:
        made = ((const Obeyed *)record)->born;
        line->ns = ((const Obeyed *)record)->ns;
        line->number = ((const Obeyed *)record)->cancel;
        name = asked = ((const Obeyed *)record)->name;
    }
    line->lived = life_of(made->ns, line->ns);
    line->task = made->task;
    line->parent = made->parent;
    /* First: what comes next is Python's, and the name may be another after it. */
    if (set_name(&line->text, name, asked, ways) < 0) {
        return -1;
    }
    PyObject *pieces = line->kept = pieces_of(made->site, ways->make_pieces);
    if (pieces == NULL) {
        return -1;
    }
    Py_ssize_t size = line->text.length + MOST_OF_NUMBERS;
    if (line->kind == ASKED || line->kind == EXPIRED) {
        const Asked *request = (const Asked *)record;
        PyObject *by = line->kind == ASKED ? request->by_name : request->late;
        line->number = request->by;
        if (PyTuple_GET_SIZE(request->line) < 3
            || set_piece(line, HEAD, PyTuple_GET_ITEM(request->line, 1)) < 0
            || set_piece(line, REST, PyTuple_GET_ITEM(request->line, 2)) < 0
            || set_piece(line, RUNS, PyTuple_GET_ITEM(pieces, CORO)) < 0
            || set_piece(line, WAIT, PyTuple_GET_ITEM(request->wait, 0)) < 0
            || (by != NULL && set_name(&line->by, by, by, ways) < 0)) {
            return -1;
        }
        size += 2 * line->by.length;
    }
    else {
        for (int at = 0; at < PIECES; at++) {
            if (set_piece(line, at, PyTuple_GET_ITEM(pieces, at)) < 0) {
                return -1;
            }
        }
        if (line->kind == TAKEN_BACK) {
            PyObject *left = ((const TakenBack *)record)->left;
            if (left == NULL || PyTuple_GET_SIZE(left) < 2
                || set_piece(line, LEAVES, PyTuple_GET_ITEM(left, 1)) < 0) {
                return -1;
            }
        }
        else if ((line->kind == OBEYED || line->kind == ABSORBED)
                 && set_trace(line, ((const Obeyed *)record)->wait) < 0) {
            return -1;
        }
    }
    for (int at = 0; at < PIECES; at++) {
        size += line->lengths[at];
    }
    return size;
}

#define WORTH_LETTING_GO 16 /* so many lines take longer than to let go of the GIL */

/* `lines(records, make_pieces, quote, encode, limit)`: the list RECORDS as lines. */
static PyObject *
lines(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *records, *result = NULL;
    Ways ways;
    if (!PyArg_ParseTuple(args, "O!OOOn:lines", &PyList_Type, &records, &ways.make_pieces,
                          &ways.quote, &ways.encode, &ways.limit)) {
        return NULL;
    }
    /* A list of our own: each record stays, whatever becomes of the other one. */
    PyObject *own = PyList_AsTuple(records);
    if (own == NULL) {
        return NULL;
    }
    Py_ssize_t count = PyTuple_GET_SIZE(own), size = 0, done = 0;
    Line *prepared = PyMem_Calloc((size_t)count + 1, sizeof(Line));
    if (prepared == NULL) {
        PyErr_NoMemory();
        goto done;
    }
    while (done < count) {
        Py_ssize_t more = prepare(&prepared[done], PyTuple_GET_ITEM(own, done), &ways);
        done++;
        if (more < 0) {
            goto done;
        }
        size += more;
    }
    result = PyBytes_FromStringAndSize(NULL, size);
    if (result == NULL) {
        goto done;
    }
    char *begin = PyBytes_AS_STRING(result), *end;
    if (count < WORTH_LETTING_GO) {
        end = format(begin, prepared, (size_t)count);
    }
    else {
        Py_BEGIN_ALLOW_THREADS
        end = format(begin, prepared, (size_t)count);
        Py_END_ALLOW_THREADS
    }
    (void)_PyBytes_Resize(&result, end - begin);
done:
    for (Py_ssize_t at = 0; at < done; at++) {
        Py_XDECREF(prepared[at].kept);
        Py_XDECREF(prepared[at].text.owned);
        Py_XDECREF(prepared[at].by.owned);
    }
    PyMem_Free(prepared);
    Py_DECREF(own);
    return result;
}

/* `in_order(records, first)`: whether the numbers of the list RECORDS are FIRST, FIRST + 1, ... */
static PyObject *
in_order(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *records;
    long long first;
    if (!PyArg_ParseTuple(args, "O!L:in_order", &PyList_Type, &records, &first)) {
        return NULL;
    }
    for (Py_ssize_t at = 0; at < PyList_GET_SIZE(records); at++) {
        PyObject *record = PyList_GET_ITEM(records, at);
        int64_t seq;
        Kind kind = kind_of(record);
        if (kind != READY) {
            seq = seq_of(record, kind);
        }
        else {
            Py_INCREF(record);
            PyObject *number = PyObject_GetAttr(record, str_seq);
            Py_DECREF(record);
            if (number == NULL) {
                return NULL;
            }
            seq = PyLong_AsLongLong(number);
            Py_DECREF(number);
            if (seq == -1 && PyErr_Occurred()) {
                return NULL;
            }
        }
        if ((uint64_t)seq != (uint64_t)first + (uint64_t)at) {
            Py_RETURN_FALSE;
        }
    }
    Py_RETURN_TRUE;
}

#define TOKEN 16 /* so many letters, digits and '_' in a row may be a secret */

/* Whether NAME, of a task, is no plain name: it may hold a secret. */
static int
is_odd(PyObject *name)
{
    if (!PyUnicode_CheckExact(name) || !PyUnicode_IS_COMPACT_ASCII(name)) {
        return 1;
    }
    const Py_UCS1 *at = PyUnicode_1BYTE_DATA(name);
    int row = 0;
    for (Py_ssize_t left = PyUnicode_GET_LENGTH(name); left > 0; left--, at++) {
        if (*at == '=' || *at == ':' || *at == ' ') {
            return 1;
        }
        row = Py_ISALNUM(*at) || *at == '_' ? row + 1 : 0;
        if (row == TOKEN) {
            return 1;
        }
    }
    return 0;
}

/* Whether RECORD, which may be no record of ours, is of a task that has no plain name. */
static int
is_odd_record(PyObject *record)
{
    switch (kind_of(record)) {
    case CREATED:
        return is_odd(((const Created *)record)->name_or_task);
    case RETURNED:
        return is_odd(((const Returned *)record)->born->name_or_task);
    case ASKED:
    case EXPIRED:
        /* Nobody asked where a timeout ran out, or in no task. */
        return is_odd(((const Asked *)record)->name)
            || (((const Asked *)record)->by_name != Py_None
                && is_odd(((const Asked *)record)->by_name));
    case TAKEN_BACK:
    case ABSORBED:
    case OBEYED:
        return is_odd(((const Obeyed *)record)->name);
    default:
        return 1;
    }
}

/* `odd_names(records)`: where in the list RECORDS there is more than numbers, code and plain names. */
static PyObject *
odd_names(PyObject *Py_UNUSED(module), PyObject *records)
{
    if (!PyList_Check(records)) {
        PyErr_SetString(PyExc_TypeError, "odd_names takes a list");
        return NULL;
    }
    PyObject *found = PyList_New(0);
    for (Py_ssize_t at = 0; found != NULL && at < PyList_GET_SIZE(records); at++) {
        PyObject *record = Py_NewRef(PyList_GET_ITEM(records, at));
        if (is_odd_record(record)) {
            PyObject *number = PyLong_FromSsize_t(at);
            if (number == NULL || PyList_Append(found, number) < 0) {
                Py_CLEAR(found);
            }
            Py_XDECREF(number);
        }
        Py_DECREF(record);
    }
    return found;
}

/* `set_name_of_new(function)`: what waits for the name of a task that is being made. */
static PyObject *
set_name_of_new(PyObject *Py_UNUSED(module), PyObject *function)
{
    Py_XSETREF(name_of_new, Py_NewRef(function));
    Py_RETURN_NONE;
}

/* -- Kept: what a recorder keeps ----------------------------------------------------------- */

/* What is kept is cells: all that a line needs, without an object of Python's for each.  Those of
 * lives, and of what goes before requests, lie in blocks, which are thrown away as a whole; those
 * of a story lie in the story.  `exporters/recorder/kept.py` is the same in Python, and says what
 * goes first.
 *
 * It is for one thread.  While it is at work, the GIL may be let go of: whoever calls then is told
 * so by an exception (`busy`). */

/* Pointers by numbers from 1 on. */
typedef struct {
    int64_t key;
    void *value; /* NULL where the place is free */
} Seat;

typedef struct {
    Seat *slots;
    size_t mask; /* number of places less one; a power of two */
    size_t used;
} Map;

static size_t
map_place(const Map *map, int64_t key)
{
    /* Numbers that come one after the other are close together: they are looked for so, too. */
    uint64_t group = ((uint64_t)key >> 4) * UINT64_C(0x9E3779B97F4A7C15) >> 20;
    return (size_t)(group << 4 | ((uint64_t)key & 15)) & map->mask;
}

/* The seat of KEY, or the free one where it would stand; there are slots. */
static Seat *
map_find(const Map *map, int64_t key)
{
    size_t at = map_place(map, key);
    while (map->slots[at].value != NULL && map->slots[at].key != key) {
        at = (at + 1) & map->mask;
    }
    return &map->slots[at];
}

static void *
map_get(const Map *map, int64_t key)
{
    return map->used == 0 ? NULL : map_find(map, key)->value;
}

static int
map_resize(Map *map, size_t places)
{
    Seat *slots = PyMem_RawCalloc(places, sizeof(Seat));
    if (slots == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    Map bigger = {slots, places - 1, map->used};
    for (size_t at = 0; map->slots != NULL && at <= map->mask; at++) {
        if (map->slots[at].value != NULL) {
            *map_find(&bigger, map->slots[at].key) = map->slots[at];
        }
    }
    PyMem_RawFree(map->slots);
    *map = bigger;
    return 0;
}

static int
map_set(Map *map, int64_t key, void *value)
{
    if (map->slots == NULL || 3 * (map->used + 1) > 2 * (map->mask + 1)) {
        if (map_resize(map, map->slots == NULL ? FEWEST : 2 * (map->mask + 1)) < 0) {
            return -1;
        }
    }
    Seat *slot = map_find(map, key);
    map->used += slot->value == NULL;
    slot->key = key;
    slot->value = value;
    return 0;
}

static void *
map_pop(Map *map, int64_t key)
{
    if (map->used == 0) {
        return NULL;
    }
    Seat *slot = map_find(map, key);
    void *value = slot->value;
    if (value == NULL) {
        return NULL;
    }
    /* Move up what was put further along because this place was taken. */
    size_t hole = (size_t)(slot - map->slots), at = hole;
    for (;;) {
        at = (at + 1) & map->mask;
        if (map->slots[at].value == NULL) {
            break;
        }
        size_t home = map_place(map, map->slots[at].key);
        if (((at - home) & map->mask) >= ((at - hole) & map->mask)) {
            map->slots[hole] = map->slots[at];
            hole = at;
        }
    }
    map->slots[hole].value = NULL;
    map->used--;
    if (map->mask + 1 > FEWEST && 8 * map->used < map->mask + 1) {
        if (map_resize(map, (map->mask + 1) / 2) < 0) {
            PyErr_Clear(); /* it stays as large as it is */
        }
    }
    return value;
}

static void
map_free(Map *map)
{
    PyMem_RawFree(map->slots);
    memset(map, 0, sizeof(*map));
}

/* A tuple that holds pieces of lines, and how many cells refer to it. */
typedef struct {
    PyObject *pieces;
    size_t count;
    size_t size;
} Shape;

enum { LIFE = ABSORBED + 1 }; /* the kind of a cell that is two lines: made, and returned */

enum { QUOTED = 1, BY_QUOTED = 2, BIRTH = 4 }; /* the last: in a story, that a task of it was made */

#define MOST_SHAPES 3

typedef struct {
    uint8_t kind;
    uint8_t marks;  /* `QUOTED`, `BY_QUOTED`, `BIRTH` */
    uint32_t size;  /* of all of it */
    uint32_t text;  /* length of the name, or of all of the line */
    uint32_t by;    /* length of who asked, or how late; it stands behind the name */
    int64_t seq;
    int64_t ns;
    int64_t lived;  /* of a life: when it returned */
    int64_t number; /* of a life: the `seq` of its making */
    int64_t task;
    int64_t parent;
    Shape *shapes[]; /* as many as its kind has, then the text */
} Cell;

static int
shapes_of(int kind)
{
    return kind == READY                       ? 0
        : kind == ASKED || kind == EXPIRED     ? 3
        : kind == TAKEN_BACK || kind == OBEYED ? 2
        : kind == ABSORBED                     ? 2
                                               : 1;
}

static char *
text_of(const Cell *cell)
{
    return (char *)(cell->shapes + shapes_of(cell->kind));
}

typedef struct Block {
    struct Block *next;
    size_t used;
    size_t room;
    size_t cells;
    char data[];
} Block;

typedef struct {
    Block *first;
    Block *last;
    size_t cells;
} Blocks;

/* Numbers, or pointers, in a row; most rows have one. */
typedef struct {
    void *items; /* NULL where there is at most one */
    size_t used;
    size_t room;
    int64_t one;
} Row;

typedef struct Story {
    struct Story *before_it; /* in the order in which they go... */
    struct Story *after_it;
    struct Story *into; /* what it is a part of by now, a reference; itself if thrown away */
    struct Story *going; /* the next one that goes with it */
    size_t refs;
    uint64_t mark;
    size_t size;
    char *cells;
    size_t used;
    size_t room;
    size_t count;  /* of cells, without... */
    size_t births; /* ... those that have the mark */
    Row tasks;     /* numbers of those whose last story this is */
    Row led;       /* stories that what happened here came of, as references */
    Row before;    /* older ones of the same tasks, as references */
    char settled;
    char goes;
} Story;

typedef struct {
    PyObject_HEAD
    Ways ways;
    size_t block; /* bytes of a block */
    size_t size;
    Blocks lives;
    Blocks others;
    Map living; /* by task: a `Created`, or a cell, marked by its lowest bit */
    Map of_task;
    Map of_request;
    Map shapes;
    Shape *last; /* the one that was asked for last */
    Story *first;
    Story *last_story;
    size_t told; /* cells in stories */
    uint64_t round;
    uint64_t version; /* another one after each change */
    long long lost;
    long long unneeded;
    long long lost_at; /* the number of one of them, 0 for none */
    unsigned lost_kinds;
    PyObject *lost_names; /* a set: of those that have no kind */
    char busy;
} Kept;

/* What things take in bytes, beside what is allocated for them. */
#define OF_LIVING 220  /* a `Created` with a short name, and its place */
#define OF_STORY 64    /* what the allocator adds */
#define OF_USUAL 320   /* the cells of a story, as it is begun */
#define OF_NUMBER 48   /* the place of a task or of a request in a table */

#define LONG 200       /* so many lines of one task are enough for one story */
#define MOST_STEPS 100 /* so many stories are kept because of the last one of a chain */
#define AT_ONCE 200    /* living tasks that make room at once, at the least */

/* -- shapes and cells */

static size_t
size_of_pieces(PyObject *pieces)
{
    size_t size = sizeof(Shape) + 2 * sizeof(Seat) + 64;
    for (Py_ssize_t at = 0; at < PyTuple_GET_SIZE(pieces); at++) {
        PyObject *each = PyTuple_GET_ITEM(pieces, at);
        size += PyBytes_CheckExact(each) ? 48 + (size_t)PyBytes_GET_SIZE(each) : 400;
    }
    return size;
}

/* The shape of PIECES, one reference more to it. */
static Shape *
shape_of(Kept *self, PyObject *pieces)
{
    Shape *shape = self->last;
    if (shape == NULL || shape->pieces != pieces) {
        shape = map_get(&self->shapes, (int64_t)(uintptr_t)pieces);
        if (shape == NULL) {
            shape = PyMem_RawMalloc(sizeof(Shape));
            if (shape == NULL) {
                PyErr_NoMemory();
                return NULL;
            }
            shape->count = 0;
            shape->size = size_of_pieces(pieces);
            if (map_set(&self->shapes, (int64_t)(uintptr_t)pieces, shape) < 0) {
                PyMem_RawFree(shape);
                return NULL;
            }
            shape->pieces = Py_NewRef(pieces);
            self->size += shape->size;
        }
        self->last = shape;
    }
    shape->count++;
    return shape;
}

static void
shape_drop(Kept *self, Shape *shape)
{
    if (--shape->count == 0) {
        PyObject *pieces = shape->pieces;
        (void)map_pop(&self->shapes, (int64_t)(uintptr_t)pieces);
        self->size -= shape->size;
        if (self->last == shape) {
            self->last = NULL;
        }
        PyMem_RawFree(shape);
        Py_DECREF(pieces);
    }
}

static void
cell_drop(Kept *self, Cell *cell)
{
    for (int at = 0; at < shapes_of(cell->kind); at++) {
        shape_drop(self, cell->shapes[at]);
    }
}

/* Whether others may refer to the number of CELL, which is of a story. */
static int
is_request(const Cell *cell)
{
    return cell->kind == ASKED || cell->kind == EXPIRED
        || (cell->kind == READY && !(cell->marks & BIRTH));
}

static size_t
cell_size(int kind, size_t text, size_t by)
{
    size_t size = sizeof(Cell) + (size_t)shapes_of(kind) * sizeof(Shape *) + text + by;
    return (size + 7) & ~(size_t)7;
}

static size_t
size_of_line(const Line *line)
{
    return cell_size(line->kind, (size_t)line->text.length, (size_t)line->by.length);
}

/* Write LINE, which `prepare` made of RECORD, as a cell of SIZE at TO. */
static int
cell_write(Kept *self, void *to, size_t size, const Line *line, PyObject *record)
{
    Shape *shapes[MOST_SHAPES];
    PyObject *pieces[MOST_SHAPES] = {line->kept, NULL, NULL};
    int count = shapes_of(line->kind);
    if (line->kind == ASKED || line->kind == EXPIRED) {
        pieces[1] = ((Asked *)record)->line;
        pieces[2] = ((Asked *)record)->wait;
    }
    else if (line->kind == TAKEN_BACK) {
        pieces[1] = ((TakenBack *)record)->left;
    }
    else if (line->kind == OBEYED || line->kind == ABSORBED) {
        pieces[1] = ((Obeyed *)record)->wait;
    }
    for (int at = 0; at < count; at++) {
        shapes[at] = shape_of(self, pieces[at]);
        if (shapes[at] == NULL) {
            while (at-- > 0) {
                shape_drop(self, shapes[at]);
            }
            return -1;
        }
    }
    Cell *cell = to;
    cell->kind = (uint8_t)line->kind;
    cell->marks = (uint8_t)((line->text.quotes ? QUOTED : 0) | (line->by.quotes ? BY_QUOTED : 0));
    cell->size = (uint32_t)size;
    cell->text = (uint32_t)line->text.length;
    cell->by = (uint32_t)line->by.length;
    cell->seq = line->seq;
    cell->ns = line->ns;
    cell->lived = line->lived;
    cell->number = line->number;
    cell->task = line->task;
    cell->parent = line->parent;
    for (int at = 0; at < count; at++) {
        cell->shapes[at] = shapes[at];
    }
    char *text = append(text_of(cell), line->text.at, (size_t)line->text.length);
    if (line->by.length > 0) {
        append(text, line->by.at, (size_t)line->by.length);
    }
    return 0;
}

static void
line_piece(Line *line, int number, const Shape *shape, Py_ssize_t which)
{
    PyObject *piece = PyTuple_GET_ITEM(shape->pieces, which);
    line->pieces[number] = PyBytes_AS_STRING(piece);
    line->lengths[number] = PyBytes_GET_SIZE(piece);
}

/* Fill in LINE from CELL; of a life that it was MADE, or that it returned.  Gives how many bytes
 * it takes at most.  It needs no GIL: what it reads is owned by the cell. */
static size_t
line_of(Line *line, const Cell *cell, int made)
{
    memset(line, 0, sizeof(*line));
    line->kind = cell->kind == LIFE ? (made ? CREATED : RETURNED) : (Kind)cell->kind;
    line->text.at = text_of(cell);
    line->text.length = cell->text;
    line->text.quotes = cell->marks & QUOTED;
    if (line->kind == READY) {
        return cell->text;
    }
    line->by.at = line->text.at + cell->text;
    line->by.length = cell->by;
    line->by.quotes = cell->marks & BY_QUOTED;
    line->seq = cell->seq;
    line->ns = cell->ns;
    line->lived = cell->lived;
    line->number = cell->number;
    line->task = cell->task;
    line->parent = cell->parent;
    if (cell->kind == LIFE && made) {
        line->seq = cell->number;
    }
    else if (cell->kind == LIFE) {
        line->ns = cell->lived;
        line->lived = life_of(cell->ns, cell->lived);
    }
    if (line->kind == ASKED || line->kind == EXPIRED) {
        line_piece(line, HEAD, cell->shapes[1], 1);
        line_piece(line, REST, cell->shapes[1], 2);
        line_piece(line, RUNS, cell->shapes[0], CORO);
        line_piece(line, WAIT, cell->shapes[2], 0);
    }
    else {
        for (int at = 0; at < PIECES; at++) {
            line_piece(line, at, cell->shapes[0], at);
        }
        if (line->kind == TAKEN_BACK) {
            line_piece(line, LEAVES, cell->shapes[1], 1);
        }
        else if (line->kind == OBEYED || line->kind == ABSORBED) {
            if (is_traced(cell->shapes[1]->pieces)) {
                line_piece(line, TRACE, cell->shapes[1], 2);
            }
            else {
                no_trace(line);
            }
        }
    }
    size_t size = cell->text + 2 * (size_t)cell->by + MOST_OF_NUMBERS;
    for (int at = 0; at < PIECES; at++) {
        size += (size_t)line->lengths[at];
    }
    return size;
}

static void
line_done(Line *line)
{
    Py_XDECREF(line->kept);
    Py_XDECREF(line->text.owned);
    Py_XDECREF(line->by.owned);
}

/* LINE from RECORD, or an exception; `line_done` in either case. */
static int
line_from(Kept *self, Line *line, PyObject *record)
{
    memset(line, 0, sizeof(*line));
    return prepare(line, record, &self->ways) < 0 ? -1 : 0;
}

/* LINE as it is already, of TASK, 0 where that is of no interest. */
static void
line_ready(Line *line, int64_t seq, int64_t task, PyObject *text)
{
    memset(line, 0, sizeof(*line));
    line->kind = READY;
    line->seq = seq;
    line->task = task;
    line->text.at = PyBytes_AS_STRING(text);
    line->text.length = PyBytes_GET_SIZE(text);
}

/* A cell of LINE by itself. */
static Cell *
cell_new(Kept *self, const Line *line, PyObject *record)
{
    size_t size = size_of_line(line);
    Cell *cell = PyMem_RawMalloc(size);
    if (cell == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    if (cell_write(self, cell, size, line, record) < 0) {
        PyMem_RawFree(cell);
        return NULL;
    }
    return cell;
}

/* -- what is lost */

static void
lose(Kept *self, long long count, int64_t seq, int kind)
{
    self->lost += count;
    self->lost_kinds |= 1u << kind;
    if (self->lost_at == 0) {
        self->lost_at = seq;
    }
}

static const char *const names_of_kinds[] = {
    NULL, "task.create", "task.done", "task.cancel", "task.cancel", "task.uncancel", "task.done",
    "task.done",
};

/* The event's name in the line of CELL, which begins with it. */
static PyObject *
name_in(const Cell *cell)
{
    const char *begin = text_of(cell) + sizeof("{\"event\":\"") - 1;
    const char *end = text_of(cell) + cell->text;
    if (begin >= end) {
        return PyUnicode_FromString("?");
    }
    const char *quote = memchr(begin, '"', (size_t)(end - begin));
    return PyUnicode_DecodeUTF8(begin, (quote == NULL ? end : quote) - begin, "replace");
}

static void
lose_cell(Kept *self, const Cell *cell)
{
    if (cell->kind == LIFE) {
        lose(self, 1, cell->number, CREATED);
        lose(self, 1, cell->seq, RETURNED);
        return;
    }
    lose(self, 1, cell->seq, cell->kind);
    if (cell->kind == READY) {
        PyObject *name = name_in(cell);
        if (name == NULL || PySet_Add(self->lost_names, name) < 0) {
            PyErr_Clear(); /* no memory: it is counted, without its name */
        }
        Py_XDECREF(name);
    }
}

/* -- blocks */

/* Room for a cell of SIZE in BLOCKS. */
static Cell *
blocks_room(Kept *self, Blocks *blocks, size_t size)
{
    Block *block = blocks->last;
    if (block == NULL || block->room - block->used < size) {
        size_t room = self->block - sizeof(Block) > size ? self->block - sizeof(Block) : size;
        block = PyMem_RawMalloc(sizeof(Block) + room);
        if (block == NULL) {
            PyErr_NoMemory();
            return NULL;
        }
        block->next = NULL;
        block->used = block->cells = 0;
        block->room = room;
        if (blocks->last == NULL) {
            blocks->first = block;
        }
        else {
            blocks->last->next = block;
        }
        blocks->last = block;
        self->size += sizeof(Block) + room;
    }
    return (Cell *)(block->data + block->used);
}

/* What was written to `blocks_room` is there. */
static void
blocks_added(Blocks *blocks, size_t size)
{
    blocks->last->used += size;
    blocks->last->cells++;
    blocks->cells++;
}

static int
blocks_add(Kept *self, Blocks *blocks, const Line *line, PyObject *record)
{
    size_t size = size_of_line(line);
    Cell *cell = blocks_room(self, blocks, size);
    if (cell == NULL || cell_write(self, cell, size, line, record) < 0) {
        return -1;
    }
    blocks_added(blocks, size);
    return 0;
}

/* Throw the first block away; what was in it is LOST, or nobody wants to know. */
static void
blocks_pop(Kept *self, Blocks *blocks, int lost)
{
    Block *block = blocks->first;
    for (size_t at = 0; at < block->used;) {
        Cell *cell = (Cell *)(block->data + at);
        at += cell->size;
        if (lost) {
            lose_cell(self, cell);
        }
        cell_drop(self, cell);
    }
    blocks->cells -= block->cells;
    blocks->first = block->next;
    if (block->next == NULL) {
        blocks->last = NULL;
    }
    self->size -= sizeof(Block) + block->room;
    PyMem_RawFree(block);
}

/* -- those who live */

static int
is_cell(const void *made)
{
    return (int)((uintptr_t)made & 1);
}

static Cell *
as_cell(void *made)
{
    return (Cell *)((uintptr_t)made - 1);
}

static size_t
size_of_living(void *made)
{
    return is_cell(made) ? sizeof(Seat) * 2 + as_cell(made)->size : OF_LIVING;
}

/* MADE, which is in no table any more, goes. */
static void
living_drop(Kept *self, void *made)
{
    if (is_cell(made)) {
        cell_drop(self, as_cell(made));
        PyMem_RawFree(as_cell(made));
    }
    else {
        Py_DECREF((PyObject *)made);
    }
}

static void *
living_pop(Kept *self, int64_t task)
{
    void *made = map_pop(&self->living, task);
    if (made != NULL) {
        self->size -= size_of_living(made);
    }
    return made;
}

/* MADE, a reference that is given away, lives. */
static int
living_set(Kept *self, int64_t task, void *made)
{
    void *old = living_pop(self, task);
    if (old != NULL) {
        living_drop(self, old);
    }
    if (map_set(&self->living, task, made) < 0) {
        living_drop(self, made);
        return -1;
    }
    self->size += size_of_living(made);
    return 0;
}

/* -- stories */

static void
grow(Kept *self, Story *story, size_t size)
{
    story->size += size;
    self->size += size;
}

static void *
items_of(Row *row)
{
    return row->items == NULL ? &row->one : row->items;
}

static int
row_add(Kept *self, Story *story, Row *row, const void *item, size_t size)
{
    if (row->used >= 1 && row->used >= row->room) {
        size_t room = row->room == 0 ? 4 : 2 * row->room;
        void *items = PyMem_RawRealloc(row->items, room * size);
        if (items == NULL) {
            PyErr_NoMemory();
            return -1;
        }
        if (row->items == NULL) {
            memcpy(items, &row->one, size);
        }
        grow(self, story, (room - row->room) * size);
        row->items = items;
        row->room = room;
    }
    memcpy((char *)items_of(row) + row->used * size, item, size);
    row->used++;
    return 0;
}

static void
row_free(Row *row)
{
    PyMem_RawFree(row->items);
    memset(row, 0, sizeof(*row));
}

static void
story_unref(Story *story)
{
    while (story != NULL && --story->refs == 0) { /* it holds nothing: it was thrown away */
        Story *into = story->into == story ? NULL : story->into;
        PyMem_RawFree(story);
        story = into;
    }
}

/* STORY, or what it is a part of by now; NULL where that was thrown away. */
static Story *
story_found(Story *story)
{
    while (story->into != NULL) {
        if (story->into == story) {
            return NULL;
        }
        story = story->into;
    }
    return story;
}

static void
story_take_out(Kept *self, Story *story)
{
    *(story->before_it == NULL ? &self->first : &story->before_it->after_it) = story->after_it;
    *(story->after_it == NULL ? &self->last_story : &story->after_it->before_it)
        = story->before_it;
}

static void
story_put_last(Kept *self, Story *story)
{
    story->before_it = self->last_story;
    story->after_it = NULL;
    *(self->last_story == NULL ? &self->first : &self->last_story->after_it) = story;
    self->last_story = story;
}

static void
story_move_last(Kept *self, Story *story)
{
    if (self->last_story != story) {
        story_take_out(self, story);
        story_put_last(self, story);
    }
}

static Story *
story_new(Kept *self)
{
    Story *story = PyMem_RawCalloc(1, sizeof(Story));
    if (story == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    story->refs = 1; /* that it is among those that are kept */
    grow(self, story, sizeof(Story) + OF_STORY);
    story_put_last(self, story);
    return story;
}

/* STORY holds nothing any more, and is not among those that are kept: it is INTO, or thrown away. */
static void
story_leave(Kept *self, Story *story, Story *into)
{
    Row of_led = story->led, of_before = story->before;
    Story **led = items_of(&of_led), **before = items_of(&of_before);
    memset(&story->led, 0, sizeof(Row));
    memset(&story->before, 0, sizeof(Row));
    story_take_out(self, story);
    if (into != NULL) {
        into->refs++;
    }
    story->into = into == NULL ? story : into;
    PyMem_RawFree(story->cells);
    story->cells = NULL;
    story->used = story->room = story->count = story->births = story->size = 0;
    row_free(&story->tasks);
    for (size_t at = 0; at < of_led.used; at++) {
        story_unref(led[at]);
    }
    for (size_t at = 0; at < of_before.used; at++) {
        story_unref(before[at]);
    }
    row_free(&of_led);
    row_free(&of_before);
    story_unref(story);
}

static int
story_belong(Kept *self, int64_t task, Story *story)
{
    if (row_add(self, story, &story->tasks, &task, sizeof(task)) < 0) {
        return -1;
    }
    grow(self, story, OF_NUMBER);
    return map_set(&self->of_task, task, story);
}

/* Room for a cell of SIZE in STORY. */
static Cell *
story_room(Kept *self, Story *story, size_t size)
{
    if (story->room - story->used < size) {
        size_t more = story->room > size ? story->room : size;
        if (story->room == 0 && more < OF_USUAL) {
            more = OF_USUAL;
        }
        char *cells = PyMem_RawRealloc(story->cells, story->room + more);
        if (cells == NULL) {
            PyErr_NoMemory();
            return NULL;
        }
        grow(self, story, more);
        story->cells = cells;
        story->room += more;
    }
    return (Cell *)(story->cells + story->used);
}

/* What was written to `story_room` is there: that a task was made. */
static void
story_has_birth(Kept *self, Story *story, Cell *birth)
{
    birth->marks |= BIRTH;
    story->used += birth->size;
    story->births++;
    self->told++;
}

/* BIRTH is of STORY as well: what its shapes are counted for is that cell now. */
static int
story_take_birth(Kept *self, Story *story, const Cell *birth)
{
    Cell *to = story_room(self, story, birth->size);
    if (to == NULL) {
        return -1;
    }
    memcpy(to, birth, birth->size);
    story_has_birth(self, story, to);
    return 0;
}

/* That a task of STORY was made, as MADE says. */
static int
story_give_birth(Kept *self, Story *story, void *made)
{
    if (is_cell(made)) {
        if (story_take_birth(self, story, as_cell(made)) < 0) {
            cell_drop(self, as_cell(made));
            PyMem_RawFree(as_cell(made));
            return -1;
        }
        PyMem_RawFree(as_cell(made));
        return 0;
    }
    Line line;
    int done = line_from(self, &line, made);
    if (done == 0) {
        size_t size = size_of_line(&line);
        Cell *to = story_room(self, story, size);
        done = to == NULL ? -1 : cell_write(self, to, size, &line, made);
        if (done == 0) {
            story_has_birth(self, story, to);
        }
    }
    line_done(&line);
    Py_DECREF((PyObject *)made);
    return done;
}

/* The last story of TASK; a new one takes its making with it. */
static Story *
story_of(Kept *self, int64_t task)
{
    Story *story = map_get(&self->of_task, task);
    if (story != NULL) {
        return story;
    }
    story = story_new(self);
    if (story == NULL || story_belong(self, task, story) < 0) {
        return NULL;
    }
    void *made = living_pop(self, task);
    return made != NULL && story_give_birth(self, story, made) < 0 ? NULL : story;
}

static int
story_lead(Kept *self, Story *story, Story *other)
{
    if (other == NULL || other == story) {
        return 0;
    }
    Story **led = items_of(&story->led);
    for (size_t at = 0; at < story->led.used; at++) {
        if (led[at] == other) {
            return 0;
        }
    }
    if (row_add(self, story, &story->led, &other, sizeof(other)) < 0) {
        return -1;
    }
    other->refs++;
    return 0;
}

/* What happens in STORY came of REQUEST. */
static int
refer(Kept *self, Story *story, int64_t request)
{
    return request == 0 ? 0 : story_lead(self, story, map_get(&self->of_request, request));
}

/* What happens in STORY has to do with TASK, which is kept as long. */
static int
refer_to_task(Kept *self, Story *story, int64_t task)
{
    if (task == 0
        || (map_get(&self->of_task, task) == NULL && map_get(&self->living, task) == NULL)) {
        return 0;
    }
    Story *other = story_of(self, task);
    return other == NULL ? -1 : story_lead(self, story, other);
}

/* STORY and what it came of, and so on, are the last to go: the root the very last. */
static void
story_touch(Kept *self, Story *story)
{
    story_move_last(self, story);
    if (story->led.used == 0) {
        return;
    }
    Story *chain[MOST_STEPS] = {story};
    size_t steps = 1;
    uint64_t round = ++self->round;
    story->mark = round;
    for (size_t at = 0; at < steps; at++) { /* which grow meanwhile */
        Story **led = items_of(&chain[at]->led);
        for (size_t of = 0; of < chain[at]->led.used; of++) {
            Story *other = story_found(led[of]);
            if (other != NULL && other->mark != round && steps < MOST_STEPS) {
                other->mark = round;
                story_move_last(self, other);
                chain[steps++] = other;
            }
        }
    }
}

/* Add LINE to STORY, which is the last to go now, but for what it came of. */
static int
story_add(Kept *self, Story *story, const Line *line, PyObject *record)
{
    size_t size = size_of_line(line);
    Cell *to = story_room(self, story, size);
    if (to == NULL || cell_write(self, to, size, line, record) < 0) {
        return -1;
    }
    story->used += size;
    story->count++;
    self->told++;
    story_touch(self, story);
    return 0;
}

/* Another story of TASK, after STORY. */
static Story *
story_next(Kept *self, int64_t task, Story *story)
{
    Story *new = story_new(self);
    if (new == NULL || row_add(self, new, &new->before, &story, sizeof(story)) < 0) {
        return NULL;
    }
    story->refs++;
    int64_t *tasks = items_of(&story->tasks);
    for (size_t at = 0; at < story->tasks.used; at++) {
        if (tasks[at] == task) {
            tasks[at] = tasks[--story->tasks.used];
            break;
        }
    }
    for (size_t at = 0; at < story->used;) {
        Cell *cell = (Cell *)(story->cells + at);
        size_t size = cell->size;
        if ((cell->marks & BIRTH) && cell->task == task) {
            if (story_take_birth(self, new, cell) < 0) {
                return NULL;
            }
            memmove(cell, story->cells + at + size, story->used - at - size);
            story->used -= size;
            story->births--;
            self->told--;
            break;
        }
        at += size;
    }
    return story_belong(self, task, new) < 0 ? NULL : new;
}

/* STORY is one of both from now on: their tasks waited for the same. */
static int
story_join(Kept *self, Story *story, Story *other)
{
    if (other->used > 0 && story_room(self, story, other->used) == NULL) {
        return -1;
    }
    int64_t *tasks = items_of(&other->tasks);
    for (size_t at = 0; at < other->tasks.used; at++) {
        if (story_belong(self, tasks[at], story) < 0) {
            return -1;
        }
    }
    other->tasks.used = 0;
    Row *from[] = {&other->led, &other->before}, *to[] = {&story->led, &story->before};
    for (int which = 0; which < 2; which++) {
        Story **each = items_of(from[which]);
        while (from[which]->used > 0) {
            Story *one = each[from[which]->used - 1];
            if (row_add(self, story, to[which], &one, sizeof(one)) < 0) {
                return -1;
            }
            from[which]->used--;
        }
    }
    for (size_t at = 0; at < other->used;) {
        Cell *cell = (Cell *)(other->cells + at);
        at += cell->size;
        if (is_request(cell) && map_get(&self->of_request, cell->seq) != NULL) {
            map_find(&self->of_request, cell->seq)->value = story;
            grow(self, story, OF_NUMBER);
        }
    }
    if (other->used > 0) {
        memcpy(story->cells + story->used, other->cells, other->used);
    }
    self->size -= other->size;
    story->used += other->used;
    story->count += other->count;
    story->births += other->births;
    story_leave(self, other, story);
    return 0;
}

/* STORY and all that came before it goes. */
static void
throw_away(Kept *self, Story *story)
{
    Story *going = story;
    story->going = NULL;
    story->goes = 1;
    while (going != NULL) {
        Story *each = going;
        going = each->going;
        for (size_t at = 0; at < each->used;) {
            Cell *cell = (Cell *)(each->cells + at);
            at += cell->size;
            if (is_request(cell)) {
                (void)map_pop(&self->of_request, cell->seq);
            }
            lose_cell(self, cell);
            cell_drop(self, cell);
        }
        int64_t *tasks = items_of(&each->tasks);
        for (size_t at = 0; at < each->tasks.used; at++) {
            (void)map_pop(&self->of_task, tasks[at]);
        }
        Story **before = items_of(&each->before);
        for (size_t at = 0; at < each->before.used; at++) {
            Story *older = story_found(before[at]);
            if (older != NULL && !older->goes) {
                older->goes = 1;
                older->going = going;
                going = older;
            }
        }
        self->told -= each->count + each->births;
        self->size -= each->size;
        story_leave(self, each, NULL);
    }
}

/* -- what comes */

/* TASK was asked to cancel: by the task BY, because of the request CAUSE; 0 for none. */
static int
ask_kept(Kept *self, int64_t task, const Line *line, PyObject *record, int64_t by, int64_t cause,
         int begins, int64_t also)
{
    Story *story = story_of(self, task);
    if (story == NULL) {
        return -1;
    }
    if (begins && story->count > 0 && (story->settled || story->count >= LONG)) {
        story = story_next(self, task, story);
        if (story == NULL) {
            return -1;
        }
    }
    story->settled = 0;
    if (refer(self, story, cause) < 0 || refer_to_task(self, story, by) < 0
        || refer_to_task(self, story, also) < 0) {
        return -1;
    }
    if (map_set(&self->of_request, line->seq, story) < 0) {
        return -1;
    }
    grow(self, story, OF_NUMBER);
    if (story_add(self, story, line, record) < 0) {
        (void)map_pop(&self->of_request, line->seq);
        return -1;
    }
    return 0;
}

static int
end_kept(Kept *self, int64_t task, const Line *line, PyObject *record, int64_t cancel)
{
    Story *story = story_of(self, task);
    return story == NULL || refer(self, story, cancel) < 0 ? -1
        : story_add(self, story, line, record);
}

static int
take_back_kept(Kept *self, int64_t task, const Line *line, PyObject *record, int all)
{
    Story *story = story_of(self, task);
    if (story == NULL || story_add(self, story, line, record) < 0) {
        return -1;
    }
    story->settled = (char)(all && story->tasks.used == 1);
    return 0;
}

/* TASK returned, and its last request, if there was any, has nothing to do with it. */
static int
return_kept(Kept *self, int64_t task, const Line *line, PyObject *record)
{
    Story *story = map_get(&self->of_task, task);
    if (story != NULL) {
        return story_add(self, story, line, record);
    }
    void *made = living_pop(self, task);
    if (made != NULL) {
        Line born;
        int done = -1;
        if (is_cell(made)) {
            Cell *cell = as_cell(made);
            Cell *to = blocks_room(self, &self->lives, cell->size);
            if (to != NULL) { /* what its shapes are counted for is the new one now */
                memcpy(to, cell, cell->size);
                blocks_added(&self->lives, cell->size);
                PyMem_RawFree(cell);
                done = 0;
            }
            else {
                living_drop(self, made);
            }
        }
        else {
            if (line_from(self, &born, made) == 0) {
                done = blocks_add(self, &self->lives, &born, made);
            }
            line_done(&born);
            Py_DECREF((PyObject *)made);
        }
        if (done < 0) {
            return -1;
        }
    }
    return blocks_add(self, &self->lives, line, record);
}

/* The same of RECORD, by the shortest way there is where nothing is to be said of it. */
static int
keep_returned(Kept *self, Returned *record)
{
    Created *born = record->born;
    PyObject *name = born->name_or_task;
    void *made = map_get(&self->living, born->task);
    if ((PyObject *)born != made || !is_plain(name, self->ways.limit)) {
        Line line;
        int done = line_from(self, &line, (PyObject *)record);
        if (done == 0) {
            done = return_kept(self, born->task, &line, (PyObject *)record);
        }
        line_done(&line);
        return done;
    }
    PyObject *pieces = pieces_of(born->site, self->ways.make_pieces);
    Shape *shape = pieces == NULL ? NULL : shape_of(self, pieces);
    Py_XDECREF(pieces);
    if (shape == NULL) {
        return -1;
    }
    size_t length = (size_t)PyUnicode_GET_LENGTH(name), size = cell_size(LIFE, length, 0);
    Cell *cell = blocks_room(self, &self->lives, size);
    if (cell == NULL) {
        shape_drop(self, shape);
        return -1;
    }
    cell->kind = LIFE;
    cell->marks = QUOTED;
    cell->size = (uint32_t)size;
    cell->text = (uint32_t)length;
    cell->by = 0;
    cell->seq = record->seq;
    cell->ns = born->ns;
    cell->lived = record->ns;
    cell->number = born->seq;
    cell->task = born->task;
    cell->parent = born->parent;
    cell->shapes[0] = shape;
    memcpy(text_of(cell), PyUnicode_1BYTE_DATA(name), length);
    blocks_added(&self->lives, size);
    living_drop(self, living_pop(self, born->task));
    return 0;
}

/* Keep RECORD; gives 0 where it is not plain, 1 where it is kept. */
static int
keep(Kept *self, PyObject *record)
{
    Kind kind = kind_of(record);
    switch (kind) {
    case READY:
        return 0;
    case CREATED:
        return living_set(self, ((Created *)record)->task, Py_NewRef(record)) < 0 ? -1 : 1;
    case RETURNED:
        return keep_returned(self, (Returned *)record) < 0 ? -1 : 1;
    default:
        break;
    }
    Line line;
    int done = line_from(self, &line, record);
    if (done == 0) {
        switch (kind) {
        case ASKED:
        case EXPIRED:
            done = ask_kept(self, line.task, &line, record,
                            kind == ASKED ? ((Asked *)record)->by : 0, 0, 1, 0);
            break;
        case TAKEN_BACK:
            done = take_back_kept(self, line.task, &line, record, 1);
            break;
        default:
            done = end_kept(self, line.task, &line, record, line.number);
        }
    }
    line_done(&line);
    return done < 0 ? -1 : 1;
}

/* Whether it is free to be worked at, which it is not from then on; else an exception. */
static int
begin_work(Kept *self)
{
    if (self->busy) {
        PyErr_SetString(PyExc_RuntimeError, "what is kept is for one thread");
        return -1;
    }
    self->busy = 1;
    return 0;
}

static PyObject *
end_work(Kept *self, int done)
{
    self->busy = 0;
    self->version++;
    if (done < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
kept_take(PyObject *op, PyObject *args)
{
    Kept *self = (Kept *)op;
    PyObject *records;
    Py_ssize_t at;
    if (!PyArg_ParseTuple(args, "O!n:take", &PyList_Type, &records, &at) || begin_work(self) < 0) {
        return NULL;
    }
    int done = 1;
    for (at = at < 0 ? 0 : at; at < PyList_GET_SIZE(records); at++) {
        PyObject *record = Py_NewRef(PyList_GET_ITEM(records, at));
        done = keep(self, record);
        Py_DECREF(record);
        if (done <= 0) {
            break;
        }
    }
    Py_XDECREF(end_work(self, done));
    return done < 0 ? NULL : PyLong_FromSsize_t(at);
}

static PyObject *
kept_made(PyObject *op, PyObject *args)
{
    Kept *self = (Kept *)op;
    long long task, seq;
    PyObject *text;
    if (!PyArg_ParseTuple(args, "LLS:made", &task, &seq, &text) || begin_work(self) < 0) {
        return NULL;
    }
    Line line;
    line_ready(&line, seq, task, text);
    Story *story = map_get(&self->of_task, task);
    if (story != NULL) { /* it was found after it was asked */
        return end_work(self, story_add(self, story, &line, NULL));
    }
    Cell *cell = cell_new(self, &line, NULL);
    int done = cell == NULL ? -1 : living_set(self, task, (void *)((uintptr_t)cell + 1));
    return end_work(self, done);
}

static PyObject *
kept_returned(PyObject *op, PyObject *args)
{
    Kept *self = (Kept *)op;
    long long task, seq;
    PyObject *text;
    if (!PyArg_ParseTuple(args, "LLS:returned", &task, &seq, &text) || begin_work(self) < 0) {
        return NULL;
    }
    Line line;
    line_ready(&line, seq, task, text);
    return end_work(self, return_kept(self, task, &line, NULL));
}

static PyObject *
kept_ended(PyObject *op, PyObject *args)
{
    Kept *self = (Kept *)op;
    long long task, seq, cancel;
    PyObject *text;
    if (!PyArg_ParseTuple(args, "LLSL:ended", &task, &seq, &text, &cancel)
        || begin_work(self) < 0) {
        return NULL;
    }
    Line line;
    line_ready(&line, seq, task, text);
    return end_work(self, end_kept(self, task, &line, NULL, cancel));
}

static PyObject *
kept_asked(PyObject *op, PyObject *args)
{
    Kept *self = (Kept *)op;
    long long task, seq, by, cause, also;
    int begins;
    PyObject *text;
    if (!PyArg_ParseTuple(args, "LLSLLpL:asked", &task, &seq, &text, &by, &cause, &begins, &also)
        || begin_work(self) < 0) {
        return NULL;
    }
    Line line;
    line_ready(&line, seq, task, text);
    return end_work(self, ask_kept(self, task, &line, NULL, by, cause, begins, also));
}

static PyObject *
kept_took_back(PyObject *op, PyObject *args)
{
    Kept *self = (Kept *)op;
    long long task, seq;
    int all;
    PyObject *text;
    if (!PyArg_ParseTuple(args, "LLSp:took_back", &task, &seq, &text, &all)
        || begin_work(self) < 0) {
        return NULL;
    }
    Line line;
    line_ready(&line, seq, task, text);
    return end_work(self, take_back_kept(self, task, &line, NULL, all));
}

/* A future was asked to cancel that the tasks WAITERS, a tuple of numbers, wait for. */
static int
future_kept(Kept *self, PyObject *waiters, const Line *line, long long cause, long long by,
            long long also)
{
    Story *story = NULL;
    for (Py_ssize_t at = 0; at < PyTuple_GET_SIZE(waiters); at++) {
        long long task = PyLong_AsLongLong(PyTuple_GET_ITEM(waiters, at));
        if (task == -1 && PyErr_Occurred()) {
            return -1;
        }
        Story *other = story_of(self, task);
        if (other != NULL && other->count >= LONG) {
            other = story_next(self, task, other);
        }
        if (other == NULL) {
            return -1;
        }
        if (story == NULL) {
            story = other;
        }
        else if (story != other && story_join(self, story, other) < 0) {
            return -1;
        }
    }
    if (story == NULL) {
        story = story_new(self);
        if (story == NULL) {
            return -1;
        }
    }
    story->settled = 0;
    if (refer(self, story, cause) < 0 || refer_to_task(self, story, by) < 0
        || refer_to_task(self, story, also) < 0
        || map_set(&self->of_request, line->seq, story) < 0) {
        return -1;
    }
    grow(self, story, OF_NUMBER);
    if (story_add(self, story, line, NULL) < 0) {
        (void)map_pop(&self->of_request, line->seq);
        return -1;
    }
    return 0;
}

static PyObject *
kept_future(PyObject *op, PyObject *args)
{
    Kept *self = (Kept *)op;
    long long seq, cause, by, also;
    PyObject *waiters, *text;
    if (!PyArg_ParseTuple(args, "O!LSLLL:future", &PyTuple_Type, &waiters, &seq, &text, &cause,
                          &by, &also)
        || begin_work(self) < 0) {
        return NULL;
    }
    Line line;
    line_ready(&line, seq, 0, text);
    return end_work(self, future_kept(self, waiters, &line, cause, by, also));
}

static PyObject *
kept_found(PyObject *op, PyObject *args)
{
    Kept *self = (Kept *)op;
    long long seq, cancel, task, other_cancel, by, other_task;
    PyObject *text;
    if (!PyArg_ParseTuple(args, "LSLLLLL:found", &seq, &text, &cancel, &task, &other_cancel, &by,
                          &other_task)
        || begin_work(self) < 0) {
        return NULL;
    }
    Line line;
    line_ready(&line, seq, 0, text);
    Story *story = cancel == 0 ? NULL : map_get(&self->of_request, cancel);
    if (story == NULL) {
        story = task == 0 ? story_new(self) : story_of(self, task);
    }
    int done = story == NULL || refer(self, story, other_cancel) < 0
            || refer_to_task(self, story, by) < 0 || refer_to_task(self, story, other_task) < 0
            || story_add(self, story, &line, NULL) < 0
        ? -1 : 0;
    return end_work(self, done);
}

static PyObject *
kept_other(PyObject *op, PyObject *args)
{
    Kept *self = (Kept *)op;
    long long seq;
    PyObject *text;
    if (!PyArg_ParseTuple(args, "LS:other", &seq, &text) || begin_work(self) < 0) {
        return NULL;
    }
    Line line;
    line_ready(&line, seq, 0, text);
    return end_work(self, blocks_add(self, &self->others, &line, NULL));
}

/* -- what goes */

static int
compare_numbers(const void *one, const void *other)
{
    int64_t left = *(const int64_t *)one, right = *(const int64_t *)other;
    return (left > right) - (left < right);
}

/* Throw away the making of those living tasks that were made first, an eighth of them at once. */
static void
throw_away_living(Kept *self, size_t limit)
{
    size_t count = 0, some = self->living.used / 8 > AT_ONCE ? self->living.used / 8 : AT_ONCE;
    int64_t *tasks = PyMem_RawMalloc(self->living.used * sizeof(int64_t));
    int64_t any;
    if (tasks == NULL) { /* no memory: whichever comes first */
        tasks = &any;
    }
    for (size_t at = 0; at <= self->living.mask; at++) {
        if (self->living.slots[at].value != NULL) {
            tasks[count++] = self->living.slots[at].key;
            if (tasks == &any) {
                break;
            }
        }
    }
    qsort(tasks, count, sizeof(int64_t), compare_numbers);
    for (size_t at = 0; at < count && at < some && self->size > limit; at++) {
        void *made = living_pop(self, tasks[at]);
        if (is_cell(made)) {
            lose_cell(self, as_cell(made));
        }
        else {
            lose(self, 1, ((Created *)made)->seq, CREATED);
        }
        living_drop(self, made);
    }
    if (tasks != &any) {
        PyMem_RawFree(tasks);
    }
}

static PyObject *
kept_make_room(PyObject *op, PyObject *args)
{
    Kept *self = (Kept *)op;
    Py_ssize_t given;
    if (!PyArg_ParseTuple(args, "n:make_room", &given) || begin_work(self) < 0) {
        return NULL;
    }
    size_t limit = given < 0 ? 0 : (size_t)given;
    long long before = self->lost;
    while (self->size > limit && self->lives.first != NULL) {
        blocks_pop(self, &self->lives, 1);
    }
    while (self->size > limit && self->others.first != NULL) {
        blocks_pop(self, &self->others, 1);
    }
    while (self->size > limit && self->living.used > 0) {
        throw_away_living(self, limit);
    }
    self->unneeded += self->lost - before;
    while (self->size > limit && self->first != NULL) {
        throw_away(self, self->first);
    }
    return end_work(self, 0);
}

static void
kept_empty(Kept *self)
{
    while (self->lives.first != NULL) {
        blocks_pop(self, &self->lives, 0);
    }
    while (self->others.first != NULL) {
        blocks_pop(self, &self->others, 0);
    }
    Map living = self->living;
    memset(&self->living, 0, sizeof(Map));
    for (size_t at = 0; living.slots != NULL && at <= living.mask; at++) {
        if (living.slots[at].value != NULL) {
            living_drop(self, living.slots[at].value);
        }
    }
    map_free(&living);
    while (self->first != NULL) {
        throw_away(self, self->first);
    }
    map_free(&self->of_task);
    map_free(&self->of_request);
    self->size = 0;
    self->lost = self->unneeded = self->lost_at = 0;
    self->lost_kinds = 0;
    if (self->lost_names != NULL) {
        (void)PySet_Clear(self->lost_names);
    }
}

static PyObject *
kept_clear(PyObject *op, PyObject *Py_UNUSED(none))
{
    if (begin_work((Kept *)op) < 0) {
        return NULL;
    }
    kept_empty((Kept *)op);
    return end_work((Kept *)op, 0);
}

static PyObject *
kept_lose(PyObject *op, PyObject *args)
{
    Kept *self = (Kept *)op;
    long long count, seq;
    PyObject *names;
    if (!PyArg_ParseTuple(args, "LLO:lose", &count, &seq, &names)) {
        return NULL;
    }
    PyObject *done = PyObject_CallMethod(self->lost_names, "update", "O", names);
    if (done == NULL) {
        return NULL;
    }
    lose(self, count, seq, READY);
    return done;
}

static PyObject *
kept_names_of_lost(PyObject *op, PyObject *Py_UNUSED(none))
{
    Kept *self = (Kept *)op;
    PyObject *names = PySet_New(self->lost_names);
    for (int kind = CREATED; names != NULL && kind <= ABSORBED; kind++) {
        if (self->lost_kinds & 1u << kind) {
            PyObject *name = PyUnicode_FromString(names_of_kinds[kind]);
            if (name == NULL || PySet_Add(names, name) < 0) {
                Py_CLEAR(names);
            }
            Py_XDECREF(name);
        }
    }
    return names;
}

/* -- what is told */

/* One line to come: a cell, or what the two lowest bits of its address say. */
typedef struct {
    int64_t seq;
    uintptr_t at;
} Item;

enum { OF_MAKING = 1, OF_CREATED = 2 }; /* of a life: that it was made; a `Created` */

typedef struct {
    PyObject_HEAD
    Kept *kept;
    uint64_t version;
    PyObject *extra; /* a tuple of those that are in no cell of the other's... */
    Cell **own;      /* ... and their cells */
    size_t owned;
    Item *items;
    size_t count;
    size_t at;
    const Block *block; /* lives return in order, so they are walked along */
    size_t into;
    int64_t walked; /* the number of the last of these */
} KeptLines;

#define PORTION 1000 /* lines that are given away at once */

static int
compare_items(const void *one, const void *other)
{
    int64_t left = ((const Item *)one)->seq, right = ((const Item *)other)->seq;
    return (left > right) - (left < right);
}

static void
lines_add(KeptLines *self, int64_t seq, const void *at, int mark)
{
    self->items[self->count].seq = seq;
    self->items[self->count].at = (uintptr_t)at + (uintptr_t)mark;
    self->count++;
}

static void
lines_add_row(KeptLines *self, const char *cells, size_t used)
{
    for (size_t at = 0; at < used;) {
        const Cell *cell = (const Cell *)(cells + at);
        at += cell->size;
        lines_add(self, cell->seq, cell, 0);
    }
}

/* Whether the walk along lives comes by CELL, which is behind the number LAST. */
static int
is_walked(const Cell *cell, int64_t last)
{
    return cell->kind == LIFE && cell->seq > last;
}

/* Note all that is to be told, in order.  Without the GIL: nobody changes it meanwhile. */
static void
lines_collect(KeptLines *self)
{
    const Kept *kept = self->kept;
    int64_t last = 0;
    for (const Block *block = kept->lives.first; block != NULL; block = block->next) {
        for (size_t at = 0; at < block->used;) {
            const Cell *cell = (const Cell *)(block->data + at);
            at += cell->size;
            if (cell->kind == LIFE) {
                lines_add(self, cell->number, cell, OF_MAKING);
            }
            if (is_walked(cell, last)) {
                last = cell->seq;
            }
            else {
                lines_add(self, cell->seq, cell, 0);
            }
        }
    }
    for (const Block *block = kept->others.first; block != NULL; block = block->next) {
        lines_add_row(self, block->data, block->used);
    }
    for (size_t at = 0; kept->living.used > 0 && at <= kept->living.mask; at++) {
        void *made = kept->living.slots[at].value;
        if (made != NULL && is_cell(made)) {
            lines_add(self, as_cell(made)->seq, as_cell(made), 0);
        }
        else if (made != NULL) {
            lines_add(self, ((Created *)made)->seq, made, OF_CREATED);
        }
    }
    for (const Story *story = kept->first; story != NULL; story = story->after_it) {
        lines_add_row(self, story->cells, story->used);
    }
    for (size_t at = 0; at < self->owned; at++) {
        lines_add(self, self->own[at]->seq, self->own[at], 0);
    }
    qsort(self->items, self->count, sizeof(Item), compare_items);
}

static PyObject *
kept_lines(PyObject *op, PyObject *extra)
{
    Kept *kept = (Kept *)op;
    PyObject *own = PySequence_Tuple(extra);
    KeptLines *self = own == NULL ? NULL : PyObject_New(KeptLines, KeptLinesType);
    if (self == NULL) {
        Py_XDECREF(own);
        return NULL;
    }
    size_t more = (size_t)PyTuple_GET_SIZE(own);
    self->kept = (Kept *)Py_NewRef(op);
    self->extra = own;
    self->owned = self->count = self->at = self->into = 0;
    self->walked = 0;
    self->block = NULL;
    self->own = PyMem_RawCalloc(more + 1, sizeof(Cell *));
    self->items = PyMem_RawMalloc(
        (2 * kept->lives.cells + kept->others.cells + kept->living.used + kept->told + more + 1)
        * sizeof(Item));
    if (self->own == NULL || self->items == NULL) {
        PyErr_NoMemory();
        goto failed;
    }
    for (Py_ssize_t at = 0; at < (Py_ssize_t)more; at++) {
        long long seq;
        PyObject *text;
        Line line;
        if (!PyArg_ParseTuple(PyTuple_GET_ITEM(own, at), "LS:lines", &seq, &text)) {
            goto failed;
        }
        line_ready(&line, seq, 0, text);
        self->own[self->owned] = cell_new(kept, &line, NULL);
        if (self->own[self->owned] == NULL) {
            goto failed;
        }
        self->owned++;
    }
    if (begin_work(kept) < 0) {
        goto failed;
    }
    Py_BEGIN_ALLOW_THREADS
    lines_collect(self);
    Py_END_ALLOW_THREADS
    self->block = kept->lives.first;
    Py_DECREF(end_work(kept, 0));
    self->version = kept->version;
    return (PyObject *)self;
failed:
    Py_DECREF((PyObject *)self);
    return NULL;
}

/* The life that the walk stands at, NULL at its end. */
static const Cell *
lines_walk(KeptLines *self)
{
    while (self->block != NULL) {
        while (self->into < self->block->used) {
            const Cell *cell = (const Cell *)(self->block->data + self->into);
            if (is_walked(cell, self->walked)) {
                return cell;
            }
            self->into += cell->size;
        }
        self->block = self->block->next;
        self->into = 0;
    }
    return NULL;
}

/* Fill in the next LINES, at most PORTION; those that it takes Python for have only their record,
 * as `kept`.  Gives how many there are, and in SIZE what the others take. */
static size_t
lines_next(KeptLines *self, Line *lines, size_t *size)
{
    size_t count = 0;
    *size = 0;
    while (count < PORTION) {
        const Cell *life = lines_walk(self);
        const Item *item = self->at < self->count ? &self->items[self->at] : NULL;
        if (life != NULL && (item == NULL || life->seq < item->seq)) {
            *size += line_of(&lines[count], life, 0);
            self->walked = life->seq;
            self->into += life->size;
        }
        else if (item == NULL) {
            break;
        }
        else {
            self->at++;
            int mark = (int)(item->at & 3);
            void *at = (void *)(item->at - (uintptr_t)mark);
            if (mark == OF_CREATED) {
                memset(&lines[count], 0, sizeof(Line));
                lines[count].kept = at;
            }
            else {
                *size += line_of(&lines[count], at, mark == OF_MAKING);
            }
        }
        count++;
    }
    return count;
}

static PyObject *
lines_iternext(PyObject *op)
{
    KeptLines *self = (KeptLines *)op;
    Kept *kept = self->kept;
    if (begin_work(kept) < 0) {
        return NULL;
    }
    PyObject *result = NULL;
    size_t count = 0, size = 0;
    char *end;
    Line *lines = PyMem_RawMalloc(PORTION * sizeof(Line));
    if (kept->version != self->version) {
        PyErr_SetString(PyExc_RuntimeError, "what is kept has changed meanwhile");
        goto done;
    }
    if (lines == NULL) {
        PyErr_NoMemory();
        goto done;
    }
    Py_BEGIN_ALLOW_THREADS
    count = lines_next(self, lines, &size);
    Py_END_ALLOW_THREADS
    int failed = 0;
    for (size_t at = 0; at < count; at++) {
        PyObject *made = lines[at].kept;
        if (made != NULL) {
            lines[at].kept = NULL;
            Py_ssize_t more = failed ? 0 : prepare(&lines[at], made, &kept->ways);
            failed |= more < 0;
            size += more < 0 ? 0 : (size_t)more;
        }
    }
    if (count > 0 && !failed) {
        result = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)size);
    }
    if (result != NULL) {
        char *begin = PyBytes_AS_STRING(result);
        Py_BEGIN_ALLOW_THREADS
        end = format(begin, lines, count);
        Py_END_ALLOW_THREADS
        (void)_PyBytes_Resize(&result, end - begin);
    }
    for (size_t at = 0; at < count; at++) {
        line_done(&lines[at]);
    }
done:
    PyMem_RawFree(lines);
    kept->busy = 0;
    return result;
}

static void
lines_dealloc(PyObject *op)
{
    KeptLines *self = (KeptLines *)op;
    PyTypeObject *type = Py_TYPE(op);
    for (size_t at = 0; at < self->owned; at++) {
        PyMem_RawFree(self->own[at]);
    }
    PyMem_RawFree(self->own);
    PyMem_RawFree(self->items);
    Py_XDECREF(self->extra);
    Py_XDECREF((PyObject *)self->kept);
    PyObject_Free(op);
    Py_DECREF(type);
}

static PyType_Slot kept_lines_slots[] = {
    {Py_tp_doc, (void *)"What is kept, as portions of whole lines."},
    {Py_tp_dealloc, lines_dealloc},
    {Py_tp_iter, PyObject_SelfIter},
    {Py_tp_iternext, lines_iternext},
    {0, NULL},
};

static PyType_Spec kept_lines_spec = {
    "aioaudit.core._core.KeptLines",
    sizeof(KeptLines),
    0,
    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    kept_lines_slots,
};

/* -- the object */

static PyObject *
kept_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"size", "make_pieces", "quote", "encode", "limit", NULL};
    Py_ssize_t size;
    Ways ways;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "nOOOn:Kept", names, &size, &ways.make_pieces,
                                     &ways.quote, &ways.encode, &ways.limit)) {
        return NULL;
    }
    Kept *self = (Kept *)type->tp_alloc(type, 0);
    if (self == NULL) {
        return NULL;
    }
    self->ways.limit = ways.limit;
    self->ways.make_pieces = Py_NewRef(ways.make_pieces);
    self->ways.quote = Py_NewRef(ways.quote);
    self->ways.encode = Py_NewRef(ways.encode);
    size_t block = size < 0 ? 0 : (size_t)size / 64;
    self->block = block < 1024 ? 1024 : block > 65536 ? 65536 : block;
    self->lost_names = PySet_New(NULL);
    if (self->lost_names == NULL) {
        Py_DECREF((PyObject *)self);
        return NULL;
    }
    return (PyObject *)self;
}

static void
kept_dealloc(PyObject *op)
{
    Kept *self = (Kept *)op;
    PyTypeObject *type = Py_TYPE(op);
    self->busy = 1; /* whatever goes now and calls finds nothing */
    kept_empty(self);
    map_free(&self->shapes);
    Py_XDECREF(self->lost_names);
    Py_XDECREF(self->ways.make_pieces);
    Py_XDECREF(self->ways.quote);
    Py_XDECREF(self->ways.encode);
    type->tp_free(op);
    Py_DECREF(type);
}

static PyObject *
kept_lost_at(PyObject *op, void *Py_UNUSED(closure))
{
    long long at = ((Kept *)op)->lost_at;
    return at == 0 ? Py_NewRef(Py_None) : PyLong_FromLongLong(at);
}

static PyGetSetDef kept_getset[] = {
    {"lost_at", kept_lost_at, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef kept_members[] = {
    {"size", T_PYSSIZET, offsetof(Kept, size), READONLY, NULL},
    {"lost", T_LONGLONG, offsetof(Kept, lost), READONLY, NULL},
    {"unneeded", T_LONGLONG, offsetof(Kept, unneeded), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyMethodDef kept_methods[] = {
    {"take", kept_take, METH_VARARGS, NULL},
    {"made", kept_made, METH_VARARGS, NULL},
    {"returned", kept_returned, METH_VARARGS, NULL},
    {"ended", kept_ended, METH_VARARGS, NULL},
    {"asked", kept_asked, METH_VARARGS, NULL},
    {"took_back", kept_took_back, METH_VARARGS, NULL},
    {"future", kept_future, METH_VARARGS, NULL},
    {"found", kept_found, METH_VARARGS, NULL},
    {"other", kept_other, METH_VARARGS, NULL},
    {"lose", kept_lose, METH_VARARGS, NULL},
    {"names_of_lost", kept_names_of_lost, METH_NOARGS, NULL},
    {"make_room", kept_make_room, METH_VARARGS, NULL},
    {"clear", kept_clear, METH_NOARGS, NULL},
    {"lines", kept_lines, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot kept_slots[] = {
    {Py_tp_doc, (void *)"What a recorder keeps."},
    {Py_tp_new, kept_new},
    {Py_tp_dealloc, kept_dealloc},
    {Py_tp_methods, kept_methods},
    {Py_tp_members, kept_members},
    {Py_tp_getset, kept_getset},
    {0, NULL},
};

static PyType_Spec kept_spec = {
    "aioaudit.core._core.Kept",
    sizeof(Kept),
    0,
    Py_TPFLAGS_DEFAULT,
    kept_slots,
};

/* -- the module ----------------------------------------------------------------------------- */

static PyMethodDef functions[] = {
    {"lines", lines, METH_VARARGS, NULL},
    {"in_order", in_order, METH_VARARGS, NULL},
    {"odd_names", odd_names, METH_O, NULL},
    {"set_name_of_new", set_name_of_new, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

static int
add_type(PyObject *module, PyTypeObject **type, PyType_Spec *spec)
{
    if (*type == NULL) { /* else the module was dropped and is imported anew */
        *type = (PyTypeObject *)PyType_FromModuleAndSpec(module, spec, NULL);
    }
    return *type == NULL ? -1 : PyModule_AddType(module, *type);
}

static int
exec_module(PyObject *module)
{
    /* What is static here is of one interpreter, and is not begun anew: the classes of tasks
     * keep our function for as long as somebody keeps an `__init__` of theirs. */
    if (PyInterpreterState_Get() != PyInterpreterState_Main()) {
        PyErr_SetString(PyExc_ImportError, "it is for the main interpreter");
        return -1;
    }
    static const struct {
        PyObject **name;
        const char *text;
    } names[] = {
        {&str_coro, "coro"},
        {&str_loop, "loop"},
        {&str_name, "name"},
        {&str_context, "context"},
        {&str_eager_start, "eager_start"},
        {&str_cr_code, "cr_code"},
        {&str_dunder_name, "__name__"},
        {&str_seq, "seq"},
        {&str_unknown, "?"},
        {&str_cancel, "cancel"},
        {&str_hidden_signals, "hidden_signals"},
        {&str_cr_frame, "cr_frame"},
        {&str_cr_await, "cr_await"},
        {&str_fut_waiter, "_fut_waiter"},
        {&str_callbacks, "_callbacks"},
        {&str_slow_after, "slow_after"},
        {&str_cancelling, "cancelling"},
        {&str_when, "when"},
        {&str_self, "self"},
        {&str_exc_val, "exc_val"},
    };
    for (size_t at = 0; at < sizeof(names) / sizeof(names[0]); at++) {
        if (*names[at].name == NULL) {
            *names[at].name = PyUnicode_InternFromString(names[at].text);
        }
        if (*names[at].name == NULL) {
            return -1;
        }
    }
    if (add_type(module, &CounterType, &counter_spec) < 0
        || add_type(module, &SiteType, &site_spec) < 0
        || add_type(module, &CreatedType, &created_spec) < 0
        || add_type(module, &ReturnedType, &returned_spec) < 0
        || add_type(module, &KnownType, &known_spec) < 0
        || add_type(module, &AskedType, &asked_spec) < 0
        || add_type(module, &ObeyedType, &obeyed_spec) < 0
        || add_type(module, &TakenBackType, &taken_back_spec) < 0
        || add_type(module, &AsksType, &asks_spec) < 0
        || add_type(module, &CallbackType, &callback_spec) < 0
        || add_type(module, &QueueType, &queue_spec) < 0
        || add_type(module, &BirthsType, &births_spec) < 0
        || add_type(module, &ReturnsType, &returns_spec) < 0
        || add_type(module, &NoteType, &note_spec) < 0
        || add_type(module, &NotesType, &notes_spec) < 0
        || add_type(module, &KeptType, &kept_spec) < 0
        || add_type(module, &KeptLinesType, &kept_lines_spec) < 0
#if PY_VERSION_HEX >= 0x030C0000
        || add_type(module, &TimeoutsType, &timeouts_spec) < 0
        || add_type(module, &PassedType, &passed_spec) < 0
#endif
        || add_type(module, &TableType, &table_spec) < 0) {
        return -1;
    }
    return 0;
}

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, exec_module},
#if PY_VERSION_HEX >= 0x030C0000
    {Py_mod_multiple_interpreters, Py_MOD_MULTIPLE_INTERPRETERS_NOT_SUPPORTED},
#endif
    {0, NULL},
};

static struct PyModuleDef module_def = {
    .m_base = PyModuleDef_HEAD_INIT,
    .m_name = "aioaudit.core._core",
    .m_doc = "The core in C, see `aioaudit.core.python`.",
    .m_size = 0,
    .m_methods = functions,
    .m_slots = module_slots,
};

PyMODINIT_FUNC
PyInit__core(void)
{
    return PyModuleDef_Init(&module_def);
}
