/* Notes: what is known of objects, as long as they live.
 *
 * For `state/handoffs.py`: who entered which timeout.  `timeouts.h` writes such notes, `asks.h`
 * reads them.
 */
#pragma once

#include "tables.h"

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
