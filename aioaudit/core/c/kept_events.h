/* Kept: what comes, and what goes.
 *
 * The methods that `exporters/recorder/ring.py` calls for each portion of records, and where there
 * is no room.
 */
#pragma once

#include "kept_stories.h"

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
    /* First: Python makes them, and the name may be another after it. */
    PyObject *pieces = pieces_of(born->site, self->ways.make_pieces);
    if (pieces == NULL) {
        return -1;
    }
    PyObject *name = born->name_or_task;
    void *made = map_get(&self->living, born->task);
    if ((PyObject *)born != made || !is_plain(name, self->ways.limit)) {
        Py_DECREF(pieces);
        Line line;
        int done = line_from(self, &line, (PyObject *)record);
        if (done == 0) {
            done = return_kept(self, born->task, &line, (PyObject *)record);
        }
        line_done(&line);
        return done;
    }
    Shape *shape = shape_of(self, pieces);
    Py_DECREF(pieces);
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
