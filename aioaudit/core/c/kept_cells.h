/* Kept: what a recorder keeps.  Here: cells, what of them is lost, and blocks.
 *
 * What is kept is cells: all that a line needs, without an object of Python's for each.  Those of
 * lives, and of what goes before requests, lie in blocks, which are thrown away as a whole; those
 * of a story lie in the story.  `exporters/recorder/kept.py` is the same in Python, and says what
 * goes first.
 *
 * It is for one thread.  While it is at work, the GIL may be let go of: whoever calls then is told
 * so by an exception (`busy`).
 *
 * For `exporters/recorder/ring.py`, together with the other `kept_*.h`.
 */
#pragma once

#include "lines.h"

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
