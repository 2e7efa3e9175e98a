/* Table: objects by addresses.  Counter: numbers that rise.
 *
 * A `Table` is what `state/tasks.py` and `native.py` keep tasks and sites in, and what most parts
 * look things up in; a `Counter` numbers tasks and events (`identity.py`).
 */
#pragma once

#include "common.h"

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
