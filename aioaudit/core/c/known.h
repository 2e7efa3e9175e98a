/* Known: what was found out about a row of frames.
 *
 * Where the same code asks again to cancel, or waits again, Python need not look at the frames once
 * more.  For `asks.h` and `cancels.h`, which keep it in tables.
 */
#pragma once

#include "common.h"

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
