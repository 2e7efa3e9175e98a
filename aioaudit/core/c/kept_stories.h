/* Kept: those who live, and the stories of those that were asked to cancel.
 *
 * Which story an event belongs to, which stories are one, and which came of which.
 */
#pragma once

#include "kept_cells.h"

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
    if (map_set(&self->of_task, task, story) < 0) {
        story->tasks.used--;
        return -1;
    }
    grow(self, story, OF_NUMBER);
    return 0;
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
    /* First: whose last story it is, each story has to know, or that is looked for after it went. */
    if (story_belong(self, task, new) < 0) {
        return NULL;
    }
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
    return new;
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
