/* lines: what is queued, as lines of JSON.
 *
 * For `delivery/encoding.py`.  Here is also what else is asked of a list of records: whether they
 * are in order (`delivery/ordering.py`), and which have names that may hold a secret
 * (`delivery/redacting.py`).
 */
#pragma once

#include "requests.h"

enum { PLACE, CORO, SOURCE, OUTCOME, PIECES };

/* The same of a line about a request: the first two are what Python says of who asked. */
enum { HEAD, REST, RUNS, WAIT };

/* Of a request that was taken back, where that was is in the place of the outcome; of a task that
 * ended after one, in which trace. */
enum { LEAVES = OUTCOME, TRACE = OUTCOME };

typedef enum { READY, CREATED, RETURNED, ASKED, EXPIRED, TAKEN_BACK, OBEYED, ABSORBED } Kind;

typedef struct {
    PyObject *owned; /* a reference to what `at` is in */
    char *at;
    Py_ssize_t length;
    int quotes; /* to be written around it */
} Text;

/* One line to write, as far as it takes Python to know it: what `format` needs. */
typedef struct {
    Kind kind;
    int64_t seq;
    int64_t task;
    int64_t parent; /* 0: none */
    int64_t ns;
    int64_t lived;  /* nanoseconds */
    int64_t number; /* of the task that asked, or of the request that was obeyed */
    PyObject *kept; /* a reference to what the pieces are in */
    Text text;      /* the name, or all of the line */
    Text by;        /* the name of who asked, or how late a timeout was */
    const char *pieces[PIECES];
    Py_ssize_t lengths[PIECES];
} Line;

#define MOST_OF_NUMBERS 320 /* bytes of a line that are neither name nor piece, amply */

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

static char *
append_text(char *to, const Text *text)
{
    if (text->quotes) {
        *to++ = '"';
    }
    to = append(to, text->at, (size_t)text->length);
    if (text->quotes) {
        *to++ = '"';
    }
    return to;
}

static char *
append_piece(char *to, const Line *line, int number)
{
    return append(to, line->pieces[number], (size_t)line->lengths[number]);
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
        if (line->kind == READY) {
            to = append(to, line->text.at, (size_t)line->text.length);
            continue;
        }
        switch (line->kind) {
        case CREATED:
            to = APPEND(to, "{\"event\":\"task.create\",\"ts\":\"");
            break;
        case ASKED:
        case EXPIRED:
            to = APPEND(to, "{\"event\":\"task.cancel\",\"ts\":\"");
            break;
        case TAKEN_BACK:
            to = APPEND(to, "{\"event\":\"task.uncancel\",\"ts\":\"");
            break;
        default:
            to = APPEND(to, "{\"event\":\"task.done\",\"ts\":\"");
        }
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
        to = append_piece(to, line, 0); /* of a request its HEAD, else its PLACE */
        if (line->kind == ASKED) {
            to = APPEND(to, ",\"by\":");
            to = append_number(to, line->number);
            to = APPEND(to, ",\"by_name\":");
            to = append_text(to, &line->by);
            to = append_piece(to, line, REST);
            to = APPEND(to, ",\"origin_by_name\":");
            to = append_text(to, &line->by);
        }
        else if (line->kind == EXPIRED && line->by.length > 0) {
            to = APPEND(to, ",\"origin_detail\":");
            to = append_text(to, &line->by);
        }
        to = APPEND(to, ",\"task\":");
        to = append_number(to, line->task);
        to = APPEND(to, ",\"name\":");
        to = append_text(to, &line->text);
        switch (line->kind) {
        case CREATED:
            to = append_piece(to, line, CORO);
            if (line->parent != 0) {
                to = APPEND(to, ",\"parent\":");
                to = append_number(to, line->parent);
            }
            to = append_piece(to, line, SOURCE);
            break;
        case ASKED:
            to = append_piece(to, line, RUNS);
            to = APPEND(to, ",\"accepted\":true");
            to = append_piece(to, line, WAIT);
            break;
        case EXPIRED:
            to = append_piece(to, line, RUNS);
            to = APPEND(to, ",\"accepted\":true");
            to = append_piece(to, line, WAIT);
            to = APPEND(to, ",\"taken_back\":true");
            break;
        case TAKEN_BACK:
            to = append_piece(to, line, CORO);
            to = APPEND(to, ",\"remaining\":0,\"cancel\":");
            to = append_number(to, line->number);
            to = append_piece(to, line, LEAVES);
            break;
        case ABSORBED:
            to = append_piece(to, line, CORO);
            to = APPEND(to, ",\"outcome\":\"returned\",\"cancel\":");
            to = append_number(to, line->number);
            to = APPEND(to, ",\"cancel_outcome\":\"absorbed\",\"lifetime\":");
            to = append_lifetime(to, line->lived);
            to = append_piece(to, line, TRACE);
            break;
        case OBEYED:
            to = append_piece(to, line, CORO);
            to = APPEND(to, ",\"outcome\":\"cancelled\",\"cancel\":");
            to = append_number(to, line->number);
            to = APPEND(to, ",\"cancel_outcome\":\"obeyed\",\"lifetime\":");
            to = append_lifetime(to, line->lived);
            to = append_piece(to, line, TRACE);
            break;
        default:
            to = append_piece(to, line, OUTCOME);
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
    PyObject *quote;       /* a name as JSON, with its quotes; given what was made, or the name */
    PyObject *encode;      /* another event as its line */
    Py_ssize_t limit;      /* longest name that is written whole */
} Ways;

/* What RECORD is; READY for what Python has to encode. */
static Kind
kind_of(PyObject *record)
{
    return Py_IS_TYPE(record, CreatedType)  ? CREATED
        : Py_IS_TYPE(record, ReturnedType)  ? RETURNED
        : Py_IS_TYPE(record, AskedType)     ? (((Asked *)record)->owner == 0 ? ASKED : EXPIRED)
        : Py_IS_TYPE(record, TakenBackType) ? TAKEN_BACK
        : Py_IS_TYPE(record, ObeyedType)    ? (((Obeyed *)record)->absorbed ? ABSORBED : OBEYED)
                                            : READY;
}

/* The `seq` of RECORD, which is one of ours. */
static int64_t
seq_of(PyObject *record, Kind kind)
{
    return kind == CREATED                   ? ((Created *)record)->seq
        : kind == RETURNED                   ? ((Returned *)record)->seq
        : kind == ASKED || kind == EXPIRED   ? ((Asked *)record)->seq
                                             : ((Obeyed *)record)->seq;
}

/* Let TEXT be the bytes OWNED, a reference that is given away and may be NULL. */
static int
set_bytes(Text *text, PyObject *owned)
{
    Py_XSETREF(text->owned, owned);
    return owned == NULL ? -1 : PyBytes_AsStringAndSize(owned, &text->at, &text->length);
}

/* Let TEXT be NAME, quoted by Python, which is given ASKED for it, where that takes more than quotes. */
static int
set_name(Text *text, PyObject *name, PyObject *asked, const Ways *ways)
{
    text->owned = Py_NewRef(name);
    if (!is_plain(name, ways->limit)) {
        return set_bytes(text, PyObject_CallOneArg(ways->quote, asked));
    }
    text->at = (char *)PyUnicode_1BYTE_DATA(name);
    text->length = PyUnicode_GET_LENGTH(name);
    text->quotes = 1;
    return 0;
}

static int
set_piece(Line *line, int number, PyObject *piece)
{
    if (!PyBytes_CheckExact(piece)) {
        PyErr_SetString(PyExc_TypeError, "a piece of a line is bytes");
        return -1;
    }
    line->pieces[number] = PyBytes_AS_STRING(piece);
    line->lengths[number] = PyBytes_GET_SIZE(piece);
    return 0;
}

/* Whether what is known of a wait, WAIT, says in which trace the task was. */
static int
is_traced(PyObject *wait)
{
    return PyTuple_GET_SIZE(wait) > 3;
}

static void
no_trace(Line *line)
{
    line->pieces[TRACE] = "";
    line->lengths[TRACE] = 0;
}

/* Let the TRACE of LINE be what WAIT says of it. */
static int
set_trace(Line *line, PyObject *wait)
{
    if (is_traced(wait)) {
        return set_piece(line, TRACE, PyTuple_GET_ITEM(wait, 2));
    }
    no_trace(line);
    return 0;
}

/* The nanoseconds from the time MADE to the time ENDED. */
static int64_t
life_of(int64_t made, int64_t ended)
{
    /* Of two times that nobody can have read the difference may be none of 64 bits. */
    uint64_t lived = ended > made ? (uint64_t)ended - (uint64_t)made : 0;
    return lived < INT64_MAX ? (int64_t)lived : INT64_MAX;
}

/* Fill in LINE for RECORD; gives how many bytes it takes at most, -1 with an exception.  What
 * may go while it is written is owned by the line. */
static Py_ssize_t
prepare(Line *line, PyObject *record, const Ways *ways)
{
    line->kind = kind_of(record);
    if (line->kind == READY) {
        return set_bytes(&line->text, PyObject_CallOneArg(ways->encode, record)) < 0
            ? -1 : line->text.length;
    }
    line->seq = seq_of(record, line->kind);
    const Created *made;
    /* The name of a task may be another at any time (`Task.set_name`), so it is taken now; that of
     * one that was cancelled was taken then. */
    PyObject *name, *asked;
    switch (line->kind) {
    case CREATED:
        made = (const Created *)record;
        line->ns = made->ns;
        name = made->name_or_task;
        asked = record;
        break;
    case RETURNED:
        made = ((const Returned *)record)->born;
        line->ns = ((const Returned *)record)->ns;
        name = made->name_or_task;
        asked = (PyObject *)made;
        break;
    case ASKED:
    case EXPIRED:
        made = ((const Asked *)record)->born;
        line->ns = ((const Asked *)record)->ns;
        name = asked = ((const Asked *)record)->name;
        break;
    default:
        made = ((const Obeyed *)record)->born;
        line->ns = ((const Obeyed *)record)->ns;
        line->number = ((const Obeyed *)record)->cancel;
        name = asked = ((const Obeyed *)record)->name;
    }
    line->lived = life_of(made->ns, line->ns);
    line->task = made->task;
    line->parent = made->parent;
    /* First: what comes next is Python's, and the name may be another after it. */
    if (set_name(&line->text, name, asked, ways) < 0) {
        return -1;
    }
    PyObject *pieces = line->kept = pieces_of(made->site, ways->make_pieces);
    if (pieces == NULL) {
        return -1;
    }
    Py_ssize_t size = line->text.length + MOST_OF_NUMBERS;
    if (line->kind == ASKED || line->kind == EXPIRED) {
        const Asked *request = (const Asked *)record;
        PyObject *by = line->kind == ASKED ? request->by_name : request->late;
        line->number = request->by;
        if (PyTuple_GET_SIZE(request->line) < 3
            || set_piece(line, HEAD, PyTuple_GET_ITEM(request->line, 1)) < 0
            || set_piece(line, REST, PyTuple_GET_ITEM(request->line, 2)) < 0
            || set_piece(line, RUNS, PyTuple_GET_ITEM(pieces, CORO)) < 0
            || set_piece(line, WAIT, PyTuple_GET_ITEM(request->wait, 0)) < 0
            || (by != NULL && set_name(&line->by, by, by, ways) < 0)) {
            return -1;
        }
        size += 2 * line->by.length;
    }
    else {
        for (int at = 0; at < PIECES; at++) {
            if (set_piece(line, at, PyTuple_GET_ITEM(pieces, at)) < 0) {
                return -1;
            }
        }
        if (line->kind == TAKEN_BACK) {
            PyObject *left = ((const TakenBack *)record)->left;
            if (left == NULL || PyTuple_GET_SIZE(left) < 2
                || set_piece(line, LEAVES, PyTuple_GET_ITEM(left, 1)) < 0) {
                return -1;
            }
        }
        else if ((line->kind == OBEYED || line->kind == ABSORBED)
                 && set_trace(line, ((const Obeyed *)record)->wait) < 0) {
            return -1;
        }
    }
    for (int at = 0; at < PIECES; at++) {
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
        Py_XDECREF(prepared[at].kept);
        Py_XDECREF(prepared[at].text.owned);
        Py_XDECREF(prepared[at].by.owned);
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
        Kind kind = kind_of(record);
        if (kind != READY) {
            seq = seq_of(record, kind);
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

#define TOKEN 16 /* so many letters, digits and '_' in a row may be a secret */

/* Whether NAME, of a task, is no plain name: it may hold a secret. */
static int
is_odd(PyObject *name)
{
    if (!PyUnicode_CheckExact(name) || !PyUnicode_IS_COMPACT_ASCII(name)) {
        return 1;
    }
    const Py_UCS1 *at = PyUnicode_1BYTE_DATA(name);
    int row = 0;
    for (Py_ssize_t left = PyUnicode_GET_LENGTH(name); left > 0; left--, at++) {
        if (*at == '=' || *at == ':' || *at == ' ') {
            return 1;
        }
        row = Py_ISALNUM(*at) || *at == '_' ? row + 1 : 0;
        if (row == TOKEN) {
            return 1;
        }
    }
    return 0;
}

/* Whether RECORD, which may be no record of ours, is of a task that has no plain name. */
static int
is_odd_record(PyObject *record)
{
    switch (kind_of(record)) {
    case CREATED:
        return is_odd(((const Created *)record)->name_or_task);
    case RETURNED:
        return is_odd(((const Returned *)record)->born->name_or_task);
    case ASKED:
    case EXPIRED:
        /* Nobody asked where a timeout ran out, or in no task. */
        return is_odd(((const Asked *)record)->name)
            || (((const Asked *)record)->by_name != Py_None
                && is_odd(((const Asked *)record)->by_name));
    case TAKEN_BACK:
    case ABSORBED:
    case OBEYED:
        return is_odd(((const Obeyed *)record)->name);
    default:
        return 1;
    }
}

/* `odd_names(records)`: where in the list RECORDS there is more than numbers, code and plain names. */
static PyObject *
odd_names(PyObject *Py_UNUSED(module), PyObject *records)
{
    if (!PyList_Check(records)) {
        PyErr_SetString(PyExc_TypeError, "odd_names takes a list");
        return NULL;
    }
    PyObject *found = PyList_New(0);
    for (Py_ssize_t at = 0; found != NULL && at < PyList_GET_SIZE(records); at++) {
        PyObject *record = Py_NewRef(PyList_GET_ITEM(records, at));
        if (is_odd_record(record)) {
            PyObject *number = PyLong_FromSsize_t(at);
            if (number == NULL || PyList_Append(found, number) < 0) {
                Py_CLEAR(found);
            }
            Py_XDECREF(number);
        }
        Py_DECREF(record);
    }
    return found;
}

/* `set_name_of_new(function)`: what waits for the name of a task that is being made. */
static PyObject *
set_name_of_new(PyObject *Py_UNUSED(module), PyObject *function)
{
    Py_XSETREF(name_of_new, Py_NewRef(function));
    Py_RETURN_NONE;
}
