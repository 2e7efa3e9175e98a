/* Queue: what waits for an exporter.
 *
 * For `delivery/pipeline.py`, which takes out what those put that note something.
 */
#pragma once

#include "tables.h"

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
