/* The core in C: what happens for every task, and the lines that tell of it.
 *
 * `aioaudit/core/python.py` is the same in Python, and says what each part is for.  Here are
 * only reasons that C has of its own.  Three rules hold for all of it:
 *
 * - Public API only: no internal header, no copied struct.  What there is no API for is asked
 *   of the object as Python would, or left to Python.
 * - It knows addresses, numbers and bytes that are ready to be written.  Whatever has to be
 *   thought about is handed to Python, through a function that was given when a part was made.
 * - Everything in a table is owned by it.  Where an address is looked up, what is found says
 *   itself whether it is meant; what may be another object at the same address is asked.
 *
 * All of it runs under the GIL, but for the middle of `lines`, and of those of a `Kept`, which
 * look at nothing that anybody can change.  Memory that cannot be had is an exception, as
 * everywhere: what calls us counts the event as lost, or tells the fault, and the program goes on.
 *
 * It is one unit of compilation: the parts in `c/` are included here, in this order, and all that
 * they have is static, so that the compiler sees the whole.  Hence their names end with `.h`.
 * Each says for whom it is, and includes what it builds on, for editors and readers.
 */

#include "c/common.h"       /* what all parts use */
#include "c/tables.h"       /* objects by addresses; numbers that rise */
#include "c/records.h"      /* what the two events are that every task has */
#include "c/queue.h"        /* what waits for an exporter */
#include "c/births.h"       /* a task is made */
#include "c/notes.h"        /* what is known of objects, as long as they live */
#include "c/known.h"        /* what was found out about a row of frames */
#include "c/requests.h"     /* records of a plain request, and of what it led to */
#include "c/asks.h"         /* a plain request is noted, by a line or by a timeout */
#include "c/cancels.h"      /* the methods `cancel` and `uncancel` */
#include "c/monitoring.h"   /* what becomes of a request */
#include "c/asks_object.h"  /* what Python asks of those requests */
#include "c/returns.h"      /* a task returns */
#include "c/calls.h"        /* calls of our functions, taken by C: of timeouts, and of callbacks */
#include "c/lines.h"        /* what is queued, as lines of JSON */
#include "c/kept_cells.h"   /* what a recorder keeps: its cells, and the blocks that they lie in */
#include "c/kept_stories.h" /* ... tasks that live, and stories of those that were asked to cancel */
#include "c/kept_events.h"  /* ... what comes in, and what goes first */
#include "c/kept_lines.h"   /* ... what is told of it, and the object itself */

/* -- the module ----------------------------------------------------------------------------- */

static PyMethodDef functions[] = {
    {"lines", lines, METH_VARARGS, NULL},
    {"in_order", in_order, METH_VARARGS, NULL},
    {"odd_names", odd_names, METH_O, NULL},
    {"set_name_of_new", set_name_of_new, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

static int
add_type(PyObject *module, PyTypeObject **type, PyType_Spec *spec)
{
    if (*type == NULL) { /* else the module was dropped and is imported anew */
        *type = (PyTypeObject *)PyType_FromModuleAndSpec(module, spec, NULL);
    }
    return *type == NULL ? -1 : PyModule_AddType(module, *type);
}

static int
exec_module(PyObject *module)
{
    /* What is static here is of one interpreter, and is not begun anew: the classes of tasks
     * keep our function for as long as somebody keeps an `__init__` of theirs. */
    if (PyInterpreterState_Get() != PyInterpreterState_Main()) {
        PyErr_SetString(PyExc_ImportError, "it is for the main interpreter");
        return -1;
    }
    static const struct {
        PyObject **name;
        const char *text;
    } names[] = {
        {&str_coro, "coro"},
        {&str_loop, "loop"},
        {&str_name, "name"},
        {&str_context, "context"},
        {&str_eager_start, "eager_start"},
        {&str_cr_code, "cr_code"},
        {&str_dunder_name, "__name__"},
        {&str_seq, "seq"},
        {&str_unknown, "?"},
        {&str_cancel, "cancel"},
        {&str_hidden_signals, "hidden_signals"},
        {&str_cr_frame, "cr_frame"},
        {&str_cr_await, "cr_await"},
        {&str_fut_waiter, "_fut_waiter"},
        {&str_callbacks, "_callbacks"},
        {&str_slow_after, "slow_after"},
        {&str_cancelling, "cancelling"},
        {&str_when, "when"},
        {&str_self, "self"},
        {&str_exc_val, "exc_val"},
    };
    for (size_t at = 0; at < sizeof(names) / sizeof(names[0]); at++) {
        if (*names[at].name == NULL) {
            *names[at].name = PyUnicode_InternFromString(names[at].text);
        }
        if (*names[at].name == NULL) {
            return -1;
        }
    }
    if (add_type(module, &CounterType, &counter_spec) < 0
        || add_type(module, &SiteType, &site_spec) < 0
        || add_type(module, &CreatedType, &created_spec) < 0
        || add_type(module, &ReturnedType, &returned_spec) < 0
        || add_type(module, &KnownType, &known_spec) < 0
        || add_type(module, &AskedType, &asked_spec) < 0
        || add_type(module, &ObeyedType, &obeyed_spec) < 0
        || add_type(module, &TakenBackType, &taken_back_spec) < 0
        || add_type(module, &AsksType, &asks_spec) < 0
        || add_type(module, &CallbackType, &callback_spec) < 0
        || add_type(module, &QueueType, &queue_spec) < 0
        || add_type(module, &BirthsType, &births_spec) < 0
        || add_type(module, &ReturnsType, &returns_spec) < 0
        || add_type(module, &NoteType, &note_spec) < 0
        || add_type(module, &NotesType, &notes_spec) < 0
        || add_type(module, &KeptType, &kept_spec) < 0
        || add_type(module, &KeptLinesType, &kept_lines_spec) < 0
#if PY_VERSION_HEX >= 0x030C0000
        || add_type(module, &TimeoutsType, &timeouts_spec) < 0
        || add_type(module, &PassedType, &passed_spec) < 0
#endif
        || add_type(module, &TableType, &table_spec) < 0) {
        return -1;
    }
    return 0;
}

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, exec_module},
#if PY_VERSION_HEX >= 0x030C0000
    {Py_mod_multiple_interpreters, Py_MOD_MULTIPLE_INTERPRETERS_NOT_SUPPORTED},
#endif
    {0, NULL},
};

static struct PyModuleDef module_def = {
    .m_base = PyModuleDef_HEAD_INIT,
    .m_name = "aioaudit.core._core",
    .m_doc = "The core in C, see `aioaudit.core.python`.",
    .m_size = 0,
    .m_methods = functions,
    .m_slots = module_slots,
};

PyMODINIT_FUNC
PyInit__core(void)
{
    return PyModuleDef_Init(&module_def);
}
