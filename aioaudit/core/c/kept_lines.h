/* Kept: what is told of what is kept, in order, as lines; and the object itself.
 *
 * For `exporters/recorder/ring.py`, as somebody wants to read it.
 */
#pragma once

#include "kept_events.h"

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
