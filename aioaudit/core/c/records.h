/* Site, Created and Returned: the records of the two events that every task has.
 *
 * `births.h` and `returns.h` make them, `lines.h` and the recorder's `kept_*.h` read them, and so
 * does Python, most of all `delivery/records.py`.
 */
#pragma once

#include "tables.h"

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
