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
 * All of it runs under the GIL, but for the middle of `lines`, which looks at nothing that
 * anybody can change.  Memory that cannot be had is an exception, as everywhere: what calls us
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

/* What SITES knows of tasks that are made at AT, where a task of CORO in LOOP, made by PARENT,
 * is one of them, as a new reference.  NULL, perhaps with an exception. */
static Site *
fitting_site(Table *sites, uintptr_t at, PyObject *coro, PyObject *loop, Created *parent)
{
    PyObject *found = table_get(sites, at);
    if (found == NULL || !PyObject_TypeCheck(found, SiteType)) {
        return NULL;
    }
    Site *site = (Site *)found;
    if (site->place != parent->site->place || site->loop != (uintptr_t)loop || site->code == 0) {
        return NULL;
    }
    Py_INCREF(site); /* the coroutine may be anybody's, and do anything when it is asked */
    PyObject *code = PyObject_GetAttr(coro, str_cr_code);
    Py_XDECREF(code); /* only compared */
    if ((uintptr_t)code != site->code) {
        Py_CLEAR(site);
    }
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
        site = fitting_site(self->direct_sites, instruction(frame), coro, loop, *parent);
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
            site = fitting_site(self->sites, instruction(maker), coro, loop, *parent);
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
                            "name_of",  "put",   "note",         "construct",    "fault",
                            NULL};
    PyObject *born, *sites, *direct, *number, *seq, *python, *makers, *loops, *current, *get_name;
    PyObject *name_of, *put, *note, *construct, *fault;
    if (!PyArg_ParseTupleAndKeywords(
            args, kwargs, "$O!O!O!O!O!O!O!O!OOOOOOO:Births", names, TableType, &born, TableType,
            &sites, TableType, &direct, CounterType, &number, CounterType, &seq, &PyDict_Type,
            &python, &PyFrozenSet_Type, &makers, &PyFrozenSet_Type, &loops, &current, &get_name,
            &name_of, &put, &note, &construct, &fault)) {
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

/* -- Returns: a task returns ------------------------------------------------------------- */

/* The callback of `PY_RETURN`. */
typedef struct {
    PyObject_HEAD
    vectorcallfunc call;
    Table *born;
    Counter *next_seq;
    PyObject *states;  /* a dict */
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
 * NULL, perhaps with an exception, where Python has to look at it, and then nothing changed. */
static Returned *
ended_here(Returns *self, PyObject *code)
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
    Returned *ended = ended_here(self, args[0]);
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
    static char *names[] = {"born",      "next_seq", "states",   "outside",   "current_task",
                            "module_at", "put",      "remember", "otherwise", NULL};
    PyObject *born, *seq, *states, *outside, *current, *module_at, *put, *remember, *otherwise;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "$O!O!O!O!OOOOO:Returns", names, TableType,
                                     &born, CounterType, &seq, &PyDict_Type, &states,
                                     &PyFrozenSet_Type, &outside, &current, &module_at, &put,
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

/* One line to write, as far as it takes Python to know it: what `format` needs. */
typedef struct {
    const Created *made; /* NULL for a line that is there already, in `text` */
    int64_t seq;
    int64_t ns;
    int64_t lived; /* nanoseconds, -1 for one that was made */
    PyObject *owned; /* a reference to what `text` is in... */
    PyObject *kept;  /* ... and to what the pieces are in */
    char *text;      /* the name, or all of the line */
    Py_ssize_t length;
    int quotes; /* to be written around the name */
    const char *pieces[PIECES];
    Py_ssize_t lengths[PIECES];
} Line;

#define MOST_OF_NUMBERS 160 /* bytes of a line that are neither name nor piece, amply */

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

/* Write COUNT lines from TO on; gives where they end.  Without the GIL: what it reads is owned
 * by whoever calls, and is not changed by anybody. */
static char *
format(char *to, const Line *lines, size_t count)
{
    int64_t known = INT64_MIN; /* the second that `second` is the text of */
    char second[19];
    for (size_t at = 0; at < count; at++) {
        const Line *line = &lines[at];
        if (line->made == NULL) {
            to = append(to, line->text, (size_t)line->length);
            continue;
        }
        int created = line->lived < 0;
        to = created ? APPEND(to, "{\"event\":\"task.create\",\"ts\":\"")
                     : APPEND(to, "{\"event\":\"task.done\",\"ts\":\"");
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
        to = append(to, line->pieces[PLACE], (size_t)line->lengths[PLACE]);
        to = APPEND(to, ",\"task\":");
        to = append_number(to, line->made->task);
        to = APPEND(to, ",\"name\":");
        if (line->quotes) {
            *to++ = '"';
        }
        to = append(to, line->text, (size_t)line->length);
        if (line->quotes) {
            *to++ = '"';
        }
        if (created) {
            to = append(to, line->pieces[CORO], (size_t)line->lengths[CORO]);
            if (line->made->parent != 0) {
                to = APPEND(to, ",\"parent\":");
                to = append_number(to, line->made->parent);
            }
            to = append(to, line->pieces[SOURCE], (size_t)line->lengths[SOURCE]);
        }
        else {
            to = append(to, line->pieces[OUTCOME], (size_t)line->lengths[OUTCOME]);
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
    PyObject *quote;       /* a task's name as JSON, with its quotes; given what was made */
    PyObject *encode;      /* another event as its line */
    Py_ssize_t limit;      /* longest name that is written whole */
} Ways;

/* Fill in LINE for RECORD; gives how many bytes it takes at most, -1 with an exception.  What
 * may go while it is written is owned by the line. */
static Py_ssize_t
prepare(Line *line, PyObject *record, const Ways *ways)
{
    const Created *made;
    if (Py_IS_TYPE(record, CreatedType)) {
        made = (const Created *)record;
        line->seq = made->seq;
        line->ns = made->ns;
        line->lived = -1;
    }
    else if (Py_IS_TYPE(record, ReturnedType)) {
        const Returned *ended = (const Returned *)record;
        made = ended->born;
        line->seq = ended->seq;
        line->ns = ended->ns;
        /* Of two times that nobody can have read the difference may be none of 64 bits. */
        uint64_t lived = ended->ns > made->ns ? (uint64_t)ended->ns - (uint64_t)made->ns : 0;
        line->lived = lived < INT64_MAX ? (int64_t)lived : INT64_MAX;
    }
    else {
        line->owned = PyObject_CallOneArg(ways->encode, record);
        if (line->owned == NULL || PyBytes_AsStringAndSize(line->owned, &line->text, &line->length)) {
            return -1;
        }
        return line->length;
    }
    PyObject *pieces = line->kept = pieces_of(made->site, ways->make_pieces);
    if (pieces == NULL) {
        return -1;
    }
    /* It may be another at any time (`Task.set_name`), so it is taken now. */
    line->owned = Py_NewRef(made->name_or_task);
    if (is_plain(line->owned, ways->limit)) {
        line->text = (char *)PyUnicode_1BYTE_DATA(line->owned);
        line->length = PyUnicode_GET_LENGTH(line->owned);
        line->quotes = 1;
    }
    else {
        Py_SETREF(line->owned, PyObject_CallOneArg(ways->quote, (PyObject *)made));
        if (line->owned == NULL || PyBytes_AsStringAndSize(line->owned, &line->text, &line->length)) {
            return -1;
        }
    }
    line->made = made;
    Py_ssize_t size = line->length + MOST_OF_NUMBERS;
    for (int at = 0; at < PIECES; at++) {
        PyObject *piece = PyTuple_GET_ITEM(pieces, at);
        line->pieces[at] = PyBytes_AS_STRING(piece);
        line->lengths[at] = PyBytes_GET_SIZE(piece);
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
        Py_XDECREF(prepared[at].owned);
        Py_XDECREF(prepared[at].kept);
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
        if (Py_IS_TYPE(record, CreatedType)) {
            seq = ((Created *)record)->seq;
        }
        else if (Py_IS_TYPE(record, ReturnedType)) {
            seq = ((Returned *)record)->seq;
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

/* `set_name_of_new(function)`: what waits for the name of a task that is being made. */
static PyObject *
set_name_of_new(PyObject *Py_UNUSED(module), PyObject *function)
{
    Py_XSETREF(name_of_new, Py_NewRef(function));
    Py_RETURN_NONE;
}

/* -- the module ----------------------------------------------------------------------------- */

static PyMethodDef functions[] = {
    {"lines", lines, METH_VARARGS, NULL},
    {"in_order", in_order, METH_VARARGS, NULL},
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
        || add_type(module, &QueueType, &queue_spec) < 0
        || add_type(module, &BirthsType, &births_spec) < 0
        || add_type(module, &ReturnsType, &returns_spec) < 0
        || add_type(module, &NoteType, &note_spec) < 0
        || add_type(module, &NotesType, &notes_spec) < 0
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
