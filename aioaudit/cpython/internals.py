"""Every name of CPython that is relied on here without a promise: what for, and what is lost.

Nothing outside of `aioaudit.cpython` reads one of them.  The modules beside this one do, each
through a function with a name of its own, and where a name is not there any more that function
answers `UNKNOWN`, or with what its docstring says: whoever asked then does not know, and never
takes what is missing for "no".  What is lost thereby is said once, on stderr and in the
``coverage`` of ``process.start`` (`missing`), and ``aioaudit doctor`` checks all of it
(`aioaudit.doctor.internals`), on each Python that the tests run on.

``since`` and ``until`` are the first version of CPython that has a name, and the first that has
it no more.  The names of libraries stand in the modules of `aioaudit.recognisers`, in the same
form.
"""

from __future__ import annotations

import enum
import functools
import sys
from collections.abc import Callable
from importlib import import_module
from operator import attrgetter
from types import CodeType
from typing import Any, Final, Literal, NamedTuple

Version = tuple[int, ...]

_HERE: Final[Version] = sys.version_info[:3]


class Unknown(enum.Enum):
    """The type of `UNKNOWN`, for types' sake."""

    UNKNOWN = "not known"


UNKNOWN: Final = Unknown.UNKNOWN
"""What is answered where the name is missing that would tell: neither yes nor no, nor None."""

Sort = Literal["attribute", "variable", "function"]


class Internal(NamedTuple):
    """One name that is relied on without a promise.

    ``where`` is ``module``, ``module:Class`` or ``module:function``.  An attribute may be one
    that the methods of the class set.  A variable is one of the function; functions inside of
    others have names of the form ``outer.<locals>.inner``.  ``lost`` says what is not
    told, or what shows, where the name is missing.  ``since`` and ``until`` are of CPython, in a
    recogniser's table of its library.
    """

    name: str
    where: str
    use: str
    lost: str
    since: Version = ()
    until: Version | None = None
    sort: Sort = "attribute"

    @property
    def full(self) -> str:
        """How a person is told of it: ``asyncio.Task._fut_waiter``."""
        inside = " of " if self.sort == "variable" else "."
        owner = self.where.replace(":", ".")
        return f"{self.name}{inside}{owner}" if self.sort == "variable" else f"{owner}.{self.name}"

    @property
    def loses(self) -> bool:
        """Whether anything is lost without it that somebody would be told."""
        return not self.lost.startswith("nothing")

    def is_meant(self, version: Version = _HERE) -> bool:
        """Whether *version* of CPython is one of those that have it."""
        return self.since <= version and (self.until is None or version < self.until)

    def is_there(self) -> bool:
        """Whether the interpreter that runs has it; imports the module that it is in."""
        module, _, path = self.where.partition(":")
        return has(self, _resolve(import_module(module), path))


def has(each: Internal, owner: Any) -> bool:
    """Whether *owner*, a module, a class, a function or a code, has what *each* names."""
    if owner is None:
        return False
    if each.sort == "variable":
        return has_variable(_code_of(owner), each.name)
    if each.sort == "function":
        return _inner(_code_of(owner), each.name) is not None or hasattr(owner, each.name)
    return has_attribute(owner, each.name)


def has_variable(code: CodeType | None, name: str) -> bool:
    """Whether *name* is a variable of *code*, also one that a function around it has."""
    return code is not None and name in (*code.co_varnames, *code.co_cellvars, *code.co_freevars)


def has_attribute(owner: Any, name: str) -> bool:
    """Whether *owner* has the attribute, or is a function or has a method that names it."""
    if hasattr(owner, name):
        return True
    code = _code_of(owner)
    if code is not None:
        return name in code.co_names
    if not isinstance(owner, type):
        return False
    for cls in owner.__mro__:
        for value in vars(cls).values():
            code = _code_of(value)
            if code is not None and name in code.co_names:
                return True
    return False


def _code_of(function: Any) -> CodeType | None:
    if isinstance(function, CodeType):
        return function
    code = getattr(function, "__code__", None)
    return code if isinstance(code, CodeType) else None


def _inner(code: CodeType | None, name: str) -> CodeType | None:
    """The code of the function *name* that is defined inside of *code*."""
    for each in () if code is None else code.co_consts:
        if isinstance(each, CodeType) and each.co_name == name:
            return each
    return None


def _resolve(owner: Any, path: str) -> Any:
    """What ``owner.path`` is; of functions inside of others their code; None without it."""
    for step in filter(None, path.split(".")):
        if step == "<locals>":
            owner = _code_of(owner)
        else:
            owner = _inner(owner, step) if isinstance(owner, CodeType) else vars(owner).get(step)
    return owner


def reader(each: Internal, owner: Any, without: Any = UNKNOWN) -> Callable[[Any], Any]:
    """A function that reads *each* from an object.

    It answers *without* where *owner*, the class that asyncio uses, has no such name, and for
    the object of a stranger that has none.
    """
    if not has(each, owner):
        return lambda _object: without
    name = each.name

    def read(target: Any) -> Any:
        return getattr(target, name, without)

    return read


def own_reader(each: Internal, owner: Any) -> Callable[[Any], Any]:
    """The same for objects of *owner* alone, without a frame: it raises for a stranger's."""
    return attrgetter(each.name) if has(each, owner) else lambda _object: UNKNOWN


# -- tasks and futures: Lib/asyncio/futures.py, tasks.py, Modules/_asynciomodule.c -----

FUT_WAITER = Internal(
    "_fut_waiter",
    "asyncio:Task",
    "the future that a task waits for",
    "before 3.12, which cancellation has reached a task already; cancellations that C code"
    " hands on from a task that runs are native",
)
CORO = Internal(
    "_coro",
    "asyncio:Task",
    "what a task runs, where get_coro() may end the process",
    "whether a task that is asked about after its end is one that was told of; findings of what"
    " a task does after its end",
    until=(3, 13),
)
MUST_CANCEL = Internal(
    "_must_cancel",
    "asyncio:Task",
    "a task was cancelled and has not felt it yet",
    "the end of a task that returned after its last request is told a moment later; some"
    " findings of lost and swallowed cancellations",
)
CALLBACKS = Internal(
    "_callbacks",
    "asyncio:Future",
    "who waits for a future, or for a task",
    "future.cancel; why a task was cancelled whose future or gather was; who awaits at exit",
)
EXCEPTION = Internal(
    "_exception",
    "asyncio:Future",
    "what a task failed with, without having retrieved it",
    "which task failed first with an error; the ends of tasks of compiled coroutines, before"
    " 3.12 of all",
)
RESULT = Internal(
    "_result",
    "asyncio:Future",
    "what a task returned, without having retrieved it",
    "a finding where a task of a compiled coroutine (before 3.12: any) keeps a cancellation and"
    " returns a value is only a note",
)
CANCELLED_EXC = Internal(
    "_cancelled_exc",
    "asyncio.futures:_PyFuture",
    "the CancelledError that ended a task of the Python class",
    "whether such a task of a compiled coroutine (before 3.12: any) cancelled itself by hand",
)
SOURCE_TRACEBACK = Internal(
    "_source_traceback",
    "asyncio:Future",
    "taking our frames out of what debug mode says of a task's or a handle's origin",
    "nothing; debug mode shows frames of aioaudit",
)
LOOP = Internal(
    "_loop",
    "asyncio:Future",
    "whether a task or a future was begun at all",
    "nothing; get_loop() is asked, which takes longer",
)
LOG_DESTROY_PENDING = Internal(
    "_log_destroy_pending",
    "asyncio:Task",
    "whether a task that is destroyed while pending tells its loop so",
    "a task that its loop left behind may be told of a second time when it is destroyed",
)
PY_TASK = Internal(
    "_PyTask",
    "asyncio.tasks",
    "the class in Python beside the one in C: nest_asyncio makes all tasks of it",
    "tasks of the Python class",
)
PY_FUTURE = Internal(
    "_PyFuture",
    "asyncio.futures",
    "the class in Python beside the one in C",
    "futures of the Python class",
)
C_CURRENT_TASK = Internal(
    "current_task",
    "_asyncio",
    "the current task, asked without a frame",
    "nothing; it takes longer",
    since=(3, 12),
)
CURRENT_TASKS = Internal(
    "_current_tasks",
    "asyncio.tasks",
    "the current task of the Python class: since 3.14 C's current_task() knows only C's",
    "tasks of the Python class are not seen as the current one",
    since=(3, 14),
)
PY_ALL_TASKS = Internal(
    "_py_all_tasks",
    "asyncio.tasks",
    "all tasks of the Python class: since 3.14 all_tasks() knows only C's",
    "tasks of the Python class that a loop leaves behind",
    since=(3, 14),
)
ALL_TASKS = Internal(
    "_all_tasks",
    "asyncio.tasks",
    "which tasks live, to forget the others",
    "nothing; what is known of tasks that are lost is kept",
    until=(3, 12),
)
UNREGISTER_TASK = Internal(
    "_unregister_task",
    "asyncio.tasks",
    "a task of a test that does not let itself be ended is not waited for when its loop ends",
    "nothing: such a test does not end by itself",
)
SCHEDULED_TASKS = Internal(
    "_scheduled_tasks",
    "asyncio.tasks",
    "which tasks live, to forget the others",
    "nothing; what is known of tasks that are lost is kept",
    since=(3, 12),
)
EAGER_TASKS = Internal(
    "_eager_tasks",
    "asyncio.tasks",
    "which tasks live, to forget the others: those in their first step",
    "nothing; what is known of tasks that are lost is kept",
    since=(3, 12),
)
CHILDREN = Internal(
    "_children",
    "asyncio.tasks:_GatheringFuture",
    "whom a gather waits for",
    "before 3.12, on loops that show no queue: why a task was cancelled whose gather was",
)

# -- what asyncio puts among the callbacks of a future ---------------------------------

WAKEUP = Internal(
    "_Task__wakeup",
    "asyncio.tasks:_PyTask",
    "the callback by which a task of the Python class waits; C's has a name with the same end",
    "why a task of the Python class was cancelled that waited for what was cancelled",
)
GATHER_DONE = Internal(
    "_done_callback",
    "asyncio.tasks:gather",
    "the callback by which a gather waits",
    "why a task was cancelled that waited in a gather",
    sort="function",
)
GATHER_OUTER = Internal(
    "outer",
    "asyncio.tasks:gather.<locals>._done_callback",
    "the future of a gather",
    "why a task was cancelled that waited in a gather",
    sort="variable",
)
GATHER_RETURNS = Internal(
    "return_exceptions",
    "asyncio.tasks:gather.<locals>._done_callback",
    "whether what is cancelled in a gather cancels the gather",
    "why a task was cancelled that waited in a gather",
    sort="variable",
)
RELEASE_WAITER = Internal(
    "_release_waiter",
    "asyncio.tasks",
    "the callback by which wait_for waited",
    "why a task was cancelled whose wait_for was on what was cancelled",
    until=(3, 12),
)
WAIT_FOR_FUT = Internal(
    "fut",
    "asyncio.tasks:wait_for",
    "what wait_for waits for",
    "who waits where on loops that show no queue, before 3.12; who stops a server of grpc",
    sort="variable",
)
WAIT = Internal(
    "_wait",
    "asyncio.tasks",
    "what asyncio.wait() waits in",
    "that a task cancelled others because one failed that it had waited for with them",
)
WAIT_COMPLETED = Internal(
    "_on_completion",
    "asyncio.tasks:_wait",
    "the callback by which asyncio.wait() waits",
    "that a task cancelled others because one failed that it had waited for with them",
    sort="function",
)
WAIT_WAITER = Internal(
    "waiter",
    "asyncio.tasks:_wait.<locals>._on_completion",
    "what wakes the task that called asyncio.wait()",
    "that a task cancelled others because one failed that it had waited for with them",
    sort="variable",
)
WAIT_RETURNS_WHEN = Internal(
    "return_when",
    "asyncio.tasks:_wait.<locals>._on_completion",
    "when asyncio.wait() comes back",
    "that a task cancelled others because one failed that it had waited for with them",
    sort="variable",
)
WAIT_FS = Internal(
    "fs",
    "asyncio.tasks:_wait",
    "what asyncio.wait() waits for",
    "that a task cancelled others because one failed that it had waited for with them",
    sort="variable",
)
EVENT_WAITERS = Internal(
    "_waiters",
    "asyncio:Event",
    "the futures that wait for an event",
    "that a task was woken by the handler of a signal",
)
CHAIN_FUTURE = Internal(
    "_chain_future",
    "asyncio.futures",
    "ties a future of a loop to one of concurrent.futures",
    "why a future was cancelled that is chained to another (executors, other threads)",
)
CHAIN_SET_STATE = Internal(
    "_set_state",
    "asyncio.futures:_chain_future",
    "is handed to the other's loop where a chained future ends",
    "why a future was cancelled that is chained to another (executors, other threads)",
    sort="function",
)
CHAIN_CHECK_CANCEL = Internal(
    "_call_check_cancel",
    "asyncio.futures:_chain_future",
    "cancels what a cancelled future is chained to",
    "why a future was cancelled that is chained to another (executors, other threads)",
    sort="function",
)
SHIELD_INNER_DONE = Internal(
    "_inner_done_callback",
    "asyncio.tasks:shield",
    "cancels the outer future of a shield",
    "who cancelled the plain future that a shield waits for",
    sort="function",
)
SHIELD_OUTER = Internal(
    "outer",
    "asyncio.tasks:shield.<locals>._inner_done_callback",
    "the future of a shield",
    "which task waits for a living one by way of a shield",
    sort="variable",
)
CHAIN_CALL_SET_STATE = Internal(
    "_call_set_state",
    "asyncio.futures:_chain_future",
    "the callback by which a thread waits for a task",
    "that a thread awaited a task when the process shut down",
    sort="function",
)
CHAIN_DESTINATION = Internal(
    "destination",
    "asyncio.futures:_chain_future.<locals>._call_set_state",
    "the future in which a thread waits for a task",
    "that a thread awaited a task when the process shut down",
    sort="variable",
)
FUTURE_CONDITION = Internal(
    "_condition",
    "concurrent.futures:Future",
    "what a thread that waits for a future waits on",
    "that a thread awaited a task when the process shut down",
)
CONDITION_WAITERS = Internal(
    "_waiters",
    "threading:Condition",
    "whether a thread waits",
    "that a thread awaited a task when the process shut down",
)

# -- loops and handles: Lib/asyncio/events.py, base_events.py, unix_events.py ----------

GET_RUNNING_LOOP = Internal(
    "_get_running_loop",
    "asyncio",
    "the loop that runs in this thread, without an exception where none does",
    "nothing; it takes longer",
)
SET_RUNNING_LOOP = Internal(
    "_set_running_loop",
    "asyncio.events",
    "by its call a loop of asyncio's begins to run",
    "loop.start of asyncio's own loops",
)
SELECTOR_TRANSPORT = Internal(
    "_SelectorTransport",
    "asyncio.selector_events",
    "a connection is closed",
    "connection.close",
)
SSL_TRANSPORT = Internal(
    "_SSLProtocolTransport",
    "asyncio.sslproto",
    "the same of one with TLS",
    "connection.close with TLS",
)
CALLS_CONNECTION_LOST = Internal(
    "_call_connection_lost",
    "asyncio.selector_events:_SelectorTransport",
    "a protocol is told that its connection is lost",
    "the addresses of a connection whose peer went away, where a protocol cancels because of that",
)
READS_EOF = Internal(
    "_read_ready__on_eof",
    "asyncio.selector_events:_SelectorSocketTransport",
    "a connection is closed because its peer has closed it",
    "the same, where the peer did not reset it",
)
WROTE_EOF = Internal(
    "_eof",
    "asyncio.selector_events:_SelectorSocketTransport",
    "this end has said that it sends nothing more",
    "that a peer has not gone away by itself",
)
STREAM_TRANSPORT = Internal(
    "_transport",
    "asyncio:StreamReader",
    "which connection a stream reads from",
    "the addresses of a connection whose peer went away, where a task group ends by that",
)
READY = Internal(
    "_ready",
    "asyncio:BaseEventLoop",
    "who is about to wake up because a task has ended",
    "before 3.12, ends that a loop did not come to when it stopped",
)
THREAD_ID = Internal(
    "_thread_id",
    "asyncio:BaseEventLoop",
    "the thread that a loop runs in",
    "nothing, but of a forked child whose loop ran already",
)
SIGNAL_HANDLERS = Internal(
    "_signal_handlers",
    "asyncio:SelectorEventLoop",
    "the handle that runs for a signal",
    "nothing; the collector is asked instead",
)
RUN_HANDLE = Internal(
    "_run",
    "asyncio:Handle",
    "the function that calls what a loop calls: beyond it the stack says no more",
    "who called, where a callback of the loop did",
)
HANDLE_CALLBACK = Internal(
    "_callback",
    "asyncio:Handle",
    "what a loop calls: a bound cancel that somebody gave it",
    "who gave a cancel() to the loop is inferred, not observed",
)
HANDLE_ARGS = Internal(
    "_args",
    "asyncio:Handle",
    "with which arguments a loop calls it",
    "who gave a cancel() inside of something else to the loop is inferred, not observed",
)
HANDLE_CONTEXT = Internal(
    "_context",
    "asyncio:Handle",
    "the context that a signal's callback runs in: whether it runs now",
    "nothing; the collector is asked instead",
)
RUN_ONCE = Internal(
    "_run_once",
    "asyncio:BaseEventLoop",
    "one round of a loop: beyond it the stack says no more",
    "nothing, as long as the other functions that run a loop are there",
)
FORMAT_CALLBACKS = Internal(
    "_format_callbacks",
    "asyncio.base_futures",
    "keeping our callback out of repr()",
    "nothing; before 3.12 repr() of a task shows a callback of aioaudit",
)
FUTURE_REPR_INFO = Internal(
    "_future_repr_info",
    "asyncio.base_futures",
    "keeping our callback out of repr()",
    "nothing; before 3.12 repr() of a task shows a callback of aioaudit",
)

# -- timeouts and task groups: Lib/asyncio/timeouts.py, taskgroups.py ------------------

CANCELLING = Internal(
    "_cancelling",
    "asyncio:Timeout",
    "how many requests had reached the task when the timeout was entered",
    "which request a timeout took back, where it had not asked alone",
)
PARENT_TASK = Internal(
    "_parent_task",
    "asyncio:TaskGroup",
    "the task that a group belongs to",
    "why a task group cancelled its tasks when its body failed",
)
GROUP_ERRORS = Internal(
    "_errors",
    "asyncio:TaskGroup",
    "whether a group was ended by a failure, or by its cancel()",
    "the finding that a cancelled group kept a cancellation from outside (gh-155433)",
)
GROUP_ENTERED = Internal(
    "_entered",
    "asyncio:TaskGroup",
    "whether a group was entered",
    "who cancelled a group before it was entered",
)
GROUP_AEXIT = Internal(
    "_aexit",
    "asyncio:TaskGroup",
    "the function that ends a group",
    "the finding that a cancelled group kept a cancellation from outside (gh-155433)",
    since=(3, 13, 1),
)
GROUP_PROPAGATES = Internal(
    "propagate_cancellation_error",
    "asyncio.taskgroups:TaskGroup._aexit",
    "the CancelledError that a group will raise",
    "the finding that a cancelled group kept a cancellation from outside (gh-155433)",
    since=(3, 13, 1),
    sort="variable",
)
GROUP_PENDING = Internal(
    "pending_cancellation_error",
    "asyncio.taskgroups:TaskGroup._aexit",
    "the CancelledError that a group will raise",
    "the finding that a cancelled group kept a cancellation from outside (gh-155433)",
    since=(3, 15),
    sort="variable",
)
CANCEL_ON_ENTER = Internal(
    "_cancel_on_enter",
    "asyncio:TaskGroup",
    "whether a group was cancelled before it was entered",
    "who cancelled a group before it was entered",
    since=(3, 15),
)

# -- threads, signals, imports, frames --------------------------------------------------

THREADS = Internal(
    "_active",
    "threading",
    "a thread's name, without making a Thread of a foreign one",
    "names of threads other than the main one",
)
MAIN_THREAD_IDENT = Internal(
    "_get_main_thread_ident",
    "_thread",
    "which thread is the main one, whatever gevent says",
    "nothing on Linux; elsewhere gevent's answer is taken",
    since=(3, 13),
)
BEFORE_EXIT = Internal(
    "_register_atexit",
    "threading",
    "being told of the interpreter's end before what atexit calls, whoever registered last",
    "spans at the end of a process that ends with its provider before our thread had a turn",
)
RELEASE_SAVE = Internal(
    "_release_save",
    "_thread:RLock",
    "waiting on a condition of our own while a lock is held twice",
    "nothing; a lock held twice is let go of step by step",
)
ACQUIRE_RESTORE = Internal(
    "_acquire_restore",
    "_thread:RLock",
    "waiting on a condition of our own while a lock is held twice",
    "nothing; a lock held twice is let go of step by step",
)
GETSIGNAL = Internal(
    "getsignal",
    "_signal",
    "a signal's handler, without making an enum of each answer",
    "nothing; it takes longer",
)
INITIALIZING = Internal(
    "_initializing",
    "importlib._bootstrap:_load_unlocked",
    "whether a module is still being imported",
    "a library that another thread is importing may be probed too early, and is not then",
)
GETFRAME = Internal(
    "_getframe",
    "sys",
    "the frame that called",
    "everything: nothing can be audited without it",
)
CURRENT_FRAMES = Internal(
    "_current_frames",
    "sys",
    "what each thread runs just now, looked at from another one",
    "what blocked a loop, and which line of a thread gave anyio's portal a cancel()",
)
GETFRAMEMODULENAME = Internal(
    "_getframemodulename",
    "sys",
    "the module that called, without making a frame",
    "nothing; making a task takes longer",
    since=(3, 12),
)


_KEPT_BY_GROUP = "the finding that a cancelled group kept a cancellation from outside (gh-155433)"


def _variables(function: str, lost: str, *names: str, **versions: Any) -> tuple[Internal, ...]:
    use = "read where it cancels"
    return tuple(Internal(name, function, use, lost, sort="variable", **versions) for name in names)


_LOCALS = (
    *_variables(
        "asyncio.taskgroups:TaskGroup._on_task_done",
        "why a task group cancelled its tasks when one of them failed",
        "task",
        "exc",
    ),
    *_variables(
        "asyncio.taskgroups:TaskGroup.__aexit__",
        "why a task group cancelled its tasks when its body failed",
        "exc",
    ),
    *_variables(
        "asyncio.taskgroups:TaskGroup.create_task",
        "why a task was cancelled that joined a group which its own first step had ended",
        "task",
    ),
    *_variables(
        "asyncio.taskgroups:TaskGroup.__aexit__",
        _KEPT_BY_GROUP,
        "propagate_cancellation_error",
        until=(3, 13, 1),
    ),
    *_variables(
        "asyncio.timeouts:Timeout.__aexit__",
        "which timeout a TimeoutError comes from; that a block went on behind its timeout",
        "exc_type",
        "exc_val",
    ),
    *_variables("asyncio.tasks:wait_for", "how long a wait_for was to last", "timeout"),
    *_variables(
        "asyncio.tasks:wait_for",
        "how late a wait_for ran out, and what blocked the loop",
        "timeout_handle",
        until=(3, 12),
    ),
    *_variables(
        "asyncio.timeouts:timeout",
        "how long a timeout was to last, to the last digit: a little less is told",
        "delay",
    ),
    *_variables(
        "asyncio.tasks:shield",
        "why a shield was cancelled",
        "inner",
    ),
    *_variables(
        "asyncio.futures:_copy_future_state",
        "why a future was cancelled that is chained to another (executors, other threads)",
        "source",
    ),
    *_variables(
        "asyncio.futures:_set_concurrent_future_state",
        "why a future was cancelled that is chained to another (executors, other threads)",
        "source",
    ),
    *_variables("asyncio.runners:Runner._on_sigint", "which signal came", "signum"),
    *_variables(
        "asyncio:BaseEventLoop._run_once",
        "what blocked a loop",
        "end_time",
        "i",
    ),
)
"""The variables that `aioaudit.recognisers.stdlib` and the findings read."""

OF_WINDOWS: Final = (
    Internal(
        "_ProactorBasePipeTransport",
        "asyncio.proactor_events",
        "a connection of its loop is closed",
        "connection.close on Windows",
    ),
)
"""What is nowhere else: elsewhere nobody has imported it."""

TABLE: Final[tuple[Internal, ...]] = (
    *(each for each in list(globals().values()) if isinstance(each, Internal)),
    *_LOCALS,
    *(OF_WINDOWS if sys.platform == "win32" else ()),
)
"""All of them, in the order of this file."""


@functools.cache
def missing() -> list[Internal]:
    """Those that this version of CPython should have and has not: looked for once."""
    return [each for each in TABLE if each.is_meant() and not _is_there(each)]


def _is_there(each: Internal) -> bool:
    """Whether *each* is there; also where its module is not, or is another's."""
    try:
        return each.is_there()
    except Exception:  # noqa: BLE001 - a module in asyncio's place may do anything when it is asked
        return False
