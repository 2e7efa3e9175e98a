"""The two cores, part by part, against each other; and what only one in C can get wrong."""

from __future__ import annotations

import copy
import gc
import pickle
import random
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from types import CodeType, FrameType, SimpleNamespace
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from aioaudit.core import python
from aioaudit.core.choice import PYTHONS
from aioaudit.cpython.behaviour import FREE_THREADED, RELEASE

if sys.implementation.name != "cpython" or FREE_THREADED or not PYTHONS[0] <= RELEASE <= PYTHONS[1]:
    pytest.skip("the native core is not for this interpreter", allow_module_level=True)
native: Any = pytest.importorskip(
    "aioaudit.core.native", reason="there is no native core here", exc_type=ImportError
)
_core: Any = native._core

CORES: tuple[Any, Any] = (python, native)
both = pytest.mark.parametrize("core", CORES, ids=["python", "native"])


# -- tables --------------------------------------------------------------------------------


def _place(key: int) -> int:
    """Where *key* stands in the smallest table, by `place_of` of the C code."""
    return (key * 0x9E3779B97F4A7C15 % 2**64 >> 20) & 63


CROWDED = [key for key in range(0, 2**20, 16) if _place(key) in (62, 63, 0)][:90]
"""Addresses that all want the last places of a table, or the first: runs that go round."""

keys = st.sampled_from(CROWDED) | st.integers(0, 2**64 - 1) | st.sampled_from([0, 1, 2**64 - 1])
steps = st.lists(
    st.tuples(st.sampled_from(["set", "set", "set", "pop", "del", "get", "in", "items"]), keys)
    | st.tuples(st.just("clear"), st.just(0)),
    max_size=300,
)


def ask(table: Any, what: str, key: int, value: object) -> object:
    """What doing *what* with *table* gives; two tables that do the same give the same."""
    try:
        if what == "set":
            table[key] = value
        elif what == "pop":
            return table.pop(key, None)
        elif what == "del":
            del table[key]
        elif what == "get":
            return (table.get(key), table[key])
        elif what == "in":
            return key in table
        elif what == "items":
            return (sorted(table.items()), sorted(table.values()))
        else:
            table.clear()
    except KeyError as error:
        return ("KeyError", error.args)
    return None


@given(steps)
def test_a_table_does_what_a_dict_does(sequence: list[tuple[str, int]]) -> None:
    one, other = (core.new_table() for core in CORES)
    for value, (what, key) in enumerate(sequence):
        assert ask(one, what, key, value) == ask(other, what, key, value), (value, what, key)
        assert len(one) == len(other)
    assert dict(one.items()) == dict(other.items())


def test_a_table_of_many_that_come_and_go_keeps_each(monkeypatch: pytest.MonkeyPatch) -> None:
    chance = random.Random(7)
    table, meant = native.new_table(collected=False), dict[int, int]()
    addresses = [chance.randrange(2**44) * 16 for _ in range(100_000)]
    for number, address in enumerate(addresses):
        table[address] = meant[address] = number
        if number % 3 == 0:
            gone = addresses[chance.randrange(number + 1)]
            assert table.pop(gone, None) == meant.pop(gone, None)
    assert dict(table.items()) == meant
    assert len(table) == len(meant)
    for address in addresses:
        assert table.pop(address, None) == meant.pop(address, None)
    assert (len(table), table.items(), table.values()) == (0, [], [])


class Last:
    """Does something when it is let go of."""

    def __init__(self, act: Callable[[], object]) -> None:
        self.act = act

    def __del__(self) -> None:
        self.act()


@pytest.mark.parametrize("how", ["set", "del", "pop", "clear", "forget"])
def test_what_an_entry_does_to_its_table_when_it_goes_is_done(how: str) -> None:
    table = native.new_table()

    def act() -> None:
        done.append(len(table))
        for key in CROWDED:
            table[key] = key
        for key in CROWDED[::2]:
            table.pop(key, None)
        table.items()
        if len(done) == 2:
            table.clear()

    done: list[int] = []
    for key in CROWDED[:6]:
        table[key] = Last(act)
    if how == "set":
        table[CROWDED[0]] = None
    elif how == "del":
        del table[CROWDED[0]]
    elif how == "pop":
        table.pop(CROWDED[0], None)
    elif how == "clear":
        table.clear()
    else:
        table = native.new_table()
        table[0] = table  # which only the collector takes apart
        del table
        gc.collect()
        return
    assert done
    for key, value in table.items():
        assert table.get(key) is value


class Ring:
    """Does something when the collector finds it."""

    def __init__(self, act: Callable[[], object]) -> None:
        self.act = act
        self.self = self

    def __del__(self) -> None:
        self.act()


@pytest.fixture
def eager_collector() -> Iterator[None]:
    """The collector runs at each object that is made (3.11), or soon behind it."""
    before = gc.get_threshold()
    gc.collect()
    gc.set_threshold(1)
    yield
    gc.set_threshold(*before)


@pytest.mark.usefixtures("eager_collector")
def test_a_table_that_changes_while_it_is_listed_is_listed_as_it_was() -> None:
    table = native.new_table()
    meant = [(key, [key]) for key in sorted(CROWDED)]
    less = [each for each in meant if each[0] != CROWDED[5]]
    for change in (table.clear, lambda: table.pop(CROWDED[5], None)):
        for listed in (table.items, lambda: [(value[0], value) for value in table.values()]):
            gc.disable()
            for key, value in meant:
                table[key] = value
            Ring(change)
            gc.enable()
            assert sorted(listed()) in (meant, less, [])
            gc.collect()


@pytest.mark.parametrize("key", ["x", 1.0, None, 2**64, -(2**63) - 1])
def test_what_is_no_address_is_refused(key: Any) -> None:
    table = _core.Table()
    for use in (
        lambda: table[key],
        lambda: table.get(key),
        lambda: table.pop(key, None),
        lambda: key in table,
        lambda: table.__setitem__(key, 1),
        lambda: table.__delitem__(key),
    ):
        with pytest.raises((TypeError, OverflowError)):
            use()
    assert len(table) == 0
    for count in (0, 3):
        with pytest.raises(TypeError):
            table.pop(*range(count))


# -- numbers -------------------------------------------------------------------------------


@both
def test_a_counter_counts(core: Any) -> None:
    count = core.new_counter()
    assert [count() for _ in range(4)] == [1, 2, 3, 4]
    with pytest.raises(TypeError):
        count(1)
    with pytest.raises(TypeError):
        count(step=1)
    assert count() == 5


@both
def test_threads_that_count_together_leave_nothing_out(core: Any) -> None:
    count = core.new_counter()
    found: list[list[int]] = [[] for _ in range(4)]

    def run(mine: list[int]) -> None:
        mine.extend(count() for _ in range(3000))

    threads = [threading.Thread(target=run, args=(mine,)) for mine in found]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(number for mine in found for number in mine) == list(range(1, 12_001))


# -- records and their lines -------------------------------------------------------------------

NS = 1_764_000_000_123_456_789
PLAIN = ("m:f", None, None)
PLACE = SimpleNamespace(fields=("r1", 77, 'MainThread "x"', 1), run=SimpleNamespace(id="r1"))


def make_site(core: Any, fields: tuple[str, str | None, str | None], place: Any = PLACE) -> Any:
    """A `Site` as the recorder makes them."""

    class Site(core.Site):  # type: ignore[misc]  # of whichever core
        pass

    site = Site(place, 1, 2, by_application=True)
    site.coro, site.runs_at, site.fields = fields[0], None, fields
    return site


texts = st.text(max_size=30) | st.text('ab"\\\x00\x1f\x20\x7f\x80é\ud800\U0001f600', max_size=12)
plain_texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
names = texts | st.integers(190, 210).map(lambda length: "n" * length) | st.just("é" * 201)
times = (
    st.integers(-(2**63), 2**63 - 1)
    | st.integers(NS, NS + 5_000_000)
    | st.sampled_from(
        [
            0,
            -1,
            -1_000_000_000,
            951_782_399_999_999_999,  # the end of February 2000...
            951_868_800_000_000_000,
            4_107_542_399_999_999_999,  # ... and of 2100, which has no 29th
            946_684_799_999_999_999,
            1_735_689_599_999_999_999,  # the end of a year
            -2_208_988_800_000_000_000,
        ]
    )
)
lives = st.integers(0, 20_000) | st.integers(-5, 10**18) | st.sampled_from([10**9, 10**10, 10**15])
numbers = st.integers(1, 2**63 - 1)
records_plan = st.lists(
    st.tuples(numbers, numbers, times, names, st.none() | numbers, lives, st.booleans()),
    max_size=40,
)


def make_records(core: Any, plan: list[Any], sites: list[Any]) -> list[Any]:
    found: list[Any] = []
    for number, (seq, task, ns, name, parent, lived, ended) in enumerate(plan):
        made = core.Created(seq, task, ns, sites[number % len(sites)], name, parent)
        found.append(made)
        if ended and abs(ns + lived) < 2**63:
            found.append(core.Returned(seq, ns + lived, made, 16))
    return found


quick = [(1, 1, NS, "n", None, lived, True) for lived in (0, 999, 9999, 10_000, 123_456_789)]
sources = st.none() | st.tuples(plain_texts, plain_texts)


@given(records_plan, plain_texts, sources)
@example(quick, "m:f", ("/a.py:1", "f"))
def test_the_lines_of_both_are_the_same_bytes(
    plan: list[Any], coro: str, source: tuple[str, str] | None
) -> None:
    written = []
    for core in CORES:
        sites = [make_site(core, (coro, *(source or (None, None)))), make_site(core, PLAIN)]
        written.append(core.lines(make_records(core, plan, sites)))
    assert written[0] == written[1]
    assert written[0].count(b"\n") == len(make_records(python, plan, [None]))


@given(
    st.lists(st.integers(1, 6) | st.integers(-(2**63), 2**63 - 1), max_size=6), st.integers(1, 3)
)
@example([1, 2, 3], 1)
def test_both_see_the_same_order(seqs: list[int], first: int) -> None:
    def asked(core: Any) -> bool:
        site = make_site(core, PLAIN)
        made = [core.Created(seq, 1, NS, site, "n", None) for seq in seqs[::2]]
        records: list[Any] = [*made]
        for number, seq in enumerate(seqs[1::2]):
            records.insert(2 * number + 1, core.Returned(seq, NS, made[0], 16))
        records.extend(SimpleNamespace(seq=first + len(records) + n) for n in range(2))
        return bool(core.in_order(records, first))

    assert asked(python) == asked(native)


@both
def test_a_record_says_what_it_was_made_of(core: Any) -> None:
    site = make_site(core, PLAIN)
    made = core.Created(1, 2, NS, site, "name", None)
    ended = core.Returned(3, NS + 5, made, 2**63 + 16)
    assert (made.seq, made.task, made.ns, made.parent) == (1, 2, NS, None)
    assert (made.site, made.place, made.coro, made.runs_at) == (site, PLACE, "m:f", None)
    assert (made.name, made.name_or_task) == ("name", "name")
    assert (ended.seq, ended.ns, ended.key) == (3, NS + 5, 2**63 + 16)
    assert ended.born is made
    assert core.Created(1, 2, NS, site, "name", parent=7).parent == 7
    made.name = "other"
    assert (made.name, made.name_or_task) == ("other", "other")
    made.name_or_task = "third"
    assert made.name == "third"
    assert not gc.is_tracked(made)
    assert not gc.is_tracked(ended)
    for wrong in ((), (1, 2, NS, site), (1, 2, NS, site, "n", None, 0)):
        with pytest.raises(TypeError):
            core.Created(*wrong)
    with pytest.raises(AttributeError):
        made.coroutine  # noqa: B018 - the look is the test


@both
def test_a_site_says_what_it_was_made_of(core: Any) -> None:
    site = core.Site(PLACE, 2**63, None, by_application=False)
    assert (site.place, site.runs, site.loop_id) == (PLACE, None, 2**63)
    assert (site.by_application, site.pieces) == (False, None)


@pytest.mark.parametrize("name", ["name", "name_or_task"])
def test_a_record_always_has_a_name(name: str) -> None:
    made = _core.Created(1, 2, NS, _core.Site(PLACE, 1, 2, by_application=True), "n", None)
    with pytest.raises((AttributeError, TypeError)):
        delattr(made, name)
    assert made.name == "n"


@both
def test_a_name_of_a_class_of_its_own_is_a_name(core: Any) -> None:
    """As of Django's ``SafeString``, whose ``__str__`` gives itself: asyncio keeps what that gives."""

    class Text(str):
        __slots__ = ()

    made = core.Created(1, 2, NS, make_site(core, PLAIN), Text("<b>" * 100), None)
    name = made.name
    assert (type(name), name) == (str, ("<b>" * 100)[:200] + "…")
    assert b"<b>" in core.lines([made])


def test_times_that_nobody_can_have_read_do_no_harm() -> None:
    for begin, end in ((-(2**63), 2**63 - 1), (2**63 - 1, -(2**63)), (-(2**63), -(2**63))):
        made = _core.Created(1, 1, begin, make_site(native, PLAIN), "n", None)
        assert native.lines([made, _core.Returned(2, end, made, 16)]).count(b"\n") == 2
    assert native.in_order([made, made], 2**63 - 1) is False


def test_what_a_line_is_made_of_stays_until_it_is_written() -> None:
    """Another thread may make the pieces of the same site at the same time, and set its own."""
    site = make_site(native, ("m:f", "/a.py:" + "1" * 900, None))
    made = [_core.Created(n, n, NS, site, f"name {n}", None) for n in range(1, 30)]
    meant = native.lines(made)

    def encode(_: object) -> bytes:
        site.__init__(PLACE, 1, 2, by_application=True)
        for each in made:
            each.name = "another"
        waste.extend(b"%d" % number * 900 for number in range(200))
        return b"other\n"

    waste: list[bytes] = []
    records = [*made, SimpleNamespace(seq=30)]
    written = _core.lines(records, native._pieces_of, native._quoted, encode, 200)
    assert written == meant + b"other\n"


def test_a_name_may_be_another_while_pieces_are_made() -> None:
    """Any thread may call ``set_name()``; pieces are made in that of the exporter."""
    made = _core.Created(1, 1, NS, make_site(native, PLAIN), "".join(["n"] * 40), None)

    def make_pieces(site: Any) -> object:
        made.name = "another"
        waste.extend(f"{number:040}" for number in range(200))
        return native._pieces_of(site)

    waste: list[str] = []
    kept = _core.Kept(30_000, make_pieces, native._quoted, native.encode_event, 200)
    assert kept.take([made, _core.Returned(2, NS, made, 16)], 0) == 2
    assert b"".join(kept.lines([])).count(b'"name":"another"') == 2


@pytest.mark.parametrize(
    "pieces",
    [None, (), (b"",) * 3, (b"",) * 5, [b""] * 4, ("",) * 4, (b"", b"", b"", None)],
    ids=repr,
)
def test_pieces_that_are_none_are_refused(pieces: Any) -> None:
    made = _core.Created(1, 1, NS, make_site(native, PLAIN), "n", None)
    with pytest.raises(TypeError, match="pieces"):
        _core.lines([made], lambda _: pieces, native._quoted, native.encode_event, 200)


@pytest.mark.parametrize("wrong", [None, "text", 5, bytearray(b"x")], ids=repr)
def test_a_line_that_is_none_is_refused(wrong: Any) -> None:
    made = _core.Created(1, 1, NS, make_site(native, PLAIN), "é", None)
    with pytest.raises(TypeError):
        _core.lines([made], native._pieces_of, lambda _: wrong, native.encode_event, 200)
    with pytest.raises(TypeError):
        _core.lines([5], native._pieces_of, native._quoted, lambda _: wrong, 200)


def test_a_list_of_records_may_change_while_it_is_looked_at() -> None:
    class Odd:
        @property
        def seq(self) -> int:
            records.clear()
            return 1

    records: list[Any] = [Odd(), Odd()]
    assert _core.in_order(records, 1) is True
    records = [Odd(), _core.Created(2, 2, NS, make_site(native, PLAIN), "n", None)]

    def encode(_: object) -> bytes:
        records.clear()
        gc.collect()
        return b"odd\n"

    assert _core.lines(records, native._pieces_of, native._quoted, encode, 9).count(b"\n") == 2


# -- the queue ---------------------------------------------------------------------------------

moves = st.lists(
    st.tuples(st.just("put"), st.integers(1, 5))
    | st.tuples(st.sampled_from(["take", "took", "clear"]), st.integers(0, 8))
    | st.tuples(st.sampled_from(["set_idle", "set_open"]), st.booleans())
    | st.tuples(st.just("pass"), st.floats(0, 2)),
    max_size=120,
)


class Recorded:
    """A queue, and what it called."""

    def __init__(self, core: Any, capacity: int, most_unseen: int) -> None:
        self.now = 100.0
        self.calls: list[Any] = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(core, "monotonic", lambda: self.now)  # the native one keeps it
            self.queue = core.Queue(
                capacity,
                lambda: self.calls.append("wake_up"),
                lambda item: self.calls.append(("lose", item)),
                lambda now: self.calls.append(("look", now)),
                often=0.01,
                most_unseen=most_unseen,
            )

    def move(self, what: str, value: Any) -> None:
        queue = self.queue
        if what == "put":
            for number in range(value):
                queue.put((len(self.calls), number))
                self.now += 0.001
        elif what == "take":
            self.calls.append(list(queue.take(min(value, len(queue)))))
        elif what == "pass":
            self.now += value
        elif what in ("set_idle", "set_open"):
            getattr(queue, what)(value)
        else:
            getattr(queue, what)()
        self.calls.append(len(queue))


@given(moves, st.integers(0, 100), st.sampled_from([1, 2, 16]))
def test_both_queues_call_the_same(sequence: list[Any], capacity: int, most: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        one, other = Recorded(python, capacity, most), Recorded(native, capacity, most)
        for recorded in (one, other):
            patch.setattr(python, "monotonic", lambda recorded=recorded: recorded.now)
            recorded.move("set_open", True)
            for what, value in sequence:
                recorded.move(what, value)
    assert one.calls == other.calls


def new_queue(**given: Any) -> Any:
    """A native queue, and whatever it may call does nothing."""
    calls: dict[str, Any] = {
        "wake_up": lambda: None,
        "lose": lambda _: None,
        "look": lambda _: None,
        "monotonic": lambda: 0.0,
        **given,
    }
    queue = _core.Queue(1000, often=0.01, most_unseen=8, **calls)
    queue.set_open(True)
    return queue


@pytest.mark.usefixtures("eager_collector")
@pytest.mark.parametrize("what", ["clear", "take", "put"])
def test_a_queue_may_change_while_items_are_taken(what: str) -> None:
    for _ in range(20):
        queue = new_queue()
        for number in range(70):
            queue.put(number)
        change: dict[str, Callable[[], object]] = {
            "clear": queue.clear,
            "take": lambda queue=queue: queue.take(60),  # type: ignore[misc]
            "put": lambda queue=queue: queue.put(70),  # type: ignore[misc]
        }
        Ring(change[what])
        taken = queue.take(70)
        assert taken in (list(range(70)), list(range(60, 70)), [])
        assert all(isinstance(each, int) for each in queue.take(100))


def test_errors_of_what_a_queue_calls_reach_whoever_puts() -> None:
    def fail(*_: object) -> Any:
        raise KeyboardInterrupt

    for which in ("wake_up", "look", "monotonic"):
        queue = new_queue(**{which: fail})
        with pytest.raises(KeyboardInterrupt):
            queue.put(1)
        assert queue.take(9) == [1]
    queue = new_queue(lose=fail)
    queue.set_open(False)
    with pytest.raises(KeyboardInterrupt):
        queue.put(1)
    with pytest.raises(TypeError):
        new_queue(monotonic=lambda: "late").put(1)


def test_a_queue_in_a_circle_is_collected() -> None:
    class Mark:
        pass

    def in_a_circle() -> weakref.ref[Any]:
        mark = Mark()
        queue: Any = new_queue(wake_up=lambda: (mark, queue))
        queue.put(1)
        return weakref.ref(mark)

    gone = in_a_circle()
    gc.collect()
    assert gone() is None


# -- a task is made ----------------------------------------------------------------------------


class Loop:
    """Stands for a loop: something with an address."""


class Coro:
    """Stands for a coroutine, which `dict` takes for one without entries."""

    def __init__(self, code: CodeType) -> None:
        self.cr_code = code

    def keys(self) -> tuple[()]:
        return ()


class Tasks(dict[str, Any]):
    """Stands for a class of tasks: its `__init__` is one of C, and takes what theirs takes."""


class World:
    """`Births` with all that it needs; what it left to Python is in `notes`."""

    def __init__(self, **changed: Any) -> None:
        self.notes: list[Any] = []
        self.put: list[Any] = []
        self.faults: list[BaseException] = []
        self.loop = Loop()
        self.coro = Coro(World.__init__.__code__)
        self.place = PLACE
        self.parent = Loop()
        self.born = _core.Table()
        self.sites, self.direct_sites = _core.Table(), _core.Table()
        self.site = _core.Site(
            self.place, id(self.loop), id(self.coro.cr_code), by_application=True
        )
        self.born[id(self.parent)] = _core.Created(1, 1, NS, self.site, "parent", None)
        self.taught = True

        def construct(task: Any, coro: Any, keywords: Any, frame: FrameType) -> None:
            self.notes.append((task, coro, keywords))
            if self.taught:
                self.direct_sites[id(frame.f_code) + frame.f_lasti] = self.site

        arguments: dict[str, Any] = {
            "born": self.born,
            "sites": self.sites,
            "direct_sites": self.direct_sites,
            "next_number": _core.Counter(),
            "next_seq": _core.Counter(),
            "python_tasks": {},
            "makers": frozenset({__name__}),
            "loops": frozenset(),
            "current_task": lambda: self.parent,
            "get_name": lambda _: "its name",
            "name_of": lambda _: None,
            "put": self.put.append,
            "note": lambda *given: self.notes.append(given),
            "construct": construct,
            "elsewhere": lambda *_: None,
            "fault": self.faults.append,
        }
        self.births = _core.Births(**{**arguments, **changed})
        self.init = self.births.init(Tasks, dict.__init__)

    def make(self, times: int = 1, **keywords: Any) -> Any:
        """Make tasks that run at once, at one line; from the second on C knows it."""
        keywords.setdefault("loop", self.loop)
        for _ in range(times):
            task = Tasks()
            self.init(task, self.coro, eager_start=True, **keywords)
        return task


def test_the_second_task_of_a_line_is_noted_in_c() -> None:
    world = World()
    task = world.make(2)
    [(_, coro, keywords)] = world.notes
    assert coro is world.coro
    assert keywords == {"loop": world.loop, "name": None, "context": None, "eager_start": True}
    [made] = world.put
    assert made is world.born[id(task)]
    assert (made.name, made.task, made.seq, made.parent) == ("its name", 1, 1, 1)


def test_a_line_in_another_place_has_its_site_from_python_once() -> None:
    asked: list[Any] = []

    def elsewhere(site: Any, place: Any) -> Any:
        asked.append((site, place))
        return answers[0]

    world = World(elsewhere=elsewhere)
    world.make(1)
    here = world.site
    answer = _core.Site(object(), id(world.loop), here.runs, by_application=True)
    answers: list[Any] = [answer]
    world.born[id(world.parent)] = _core.Created(1, 1, NS, answer, "parent", None)
    world.notes.clear()
    world.direct_sites.clear()
    world.make(3)
    assert len(world.notes) == 1
    assert asked == [(here, answer.place)]
    assert [made.site for made in world.put] == [answer, answer]
    for changed in (None, 1):  # Python is to find out
        answers[0] = changed
        world.notes.clear()
        world.direct_sites.clear()
        world.make(2)
        assert len(world.notes) == 2
    assert not world.faults


def test_what_stands_for_the_parent_may_be_anything() -> None:
    world = World()
    world.born[id(world.parent)] = "no record"
    world.make(3)
    assert len(world.notes) == 3
    assert world.put == []


def test_a_parent_that_goes_at_once_is_not_looked_at_behind_it() -> None:
    def current() -> Any:
        task = Last(world.born.clear)
        world.born[id(task)] = _core.Created(1, 5, NS, world.site, "short", None)
        return task

    world = World(current_task=current)
    world.make(2)
    assert [made.parent for made in world.put] == [5]


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_a_task_whose_making_fails_leaves_no_entry(error: type[BaseException]) -> None:
    def put(_: object) -> None:
        raise error

    world = World(put=put)
    with pytest.raises(error):
        world.make(2)
    assert world.born.items() == [(id(world.parent), world.born[id(world.parent)])]


def test_a_name_that_cannot_be_had_does_not_keep_the_task() -> None:
    def get_name(_: object) -> str:
        raise MemoryError

    world = World(get_name=get_name)
    task = world.make(2)
    [made] = world.put
    assert made.name == made.name_or_task == "?"
    assert world.born[id(task)] is made

    def interrupt(_: object) -> str:
        raise KeyboardInterrupt

    world = World(get_name=interrupt)
    with pytest.raises(KeyboardInterrupt):
        world.make(2)
    assert world.put[0].name_or_task == "?"


def test_a_coroutine_that_is_given_twice_is_for_the_class_to_complain_of() -> None:
    world = World()
    task = Tasks()
    for eager in (False, True):
        world.init(task, world.coro, coro=world.coro, eager_start=eager)
    assert (world.notes, world.put) == ([], [])


def test_one_that_notes_two_classes_leaves_both_when_it_goes() -> None:
    class Others(dict[str, Any]):
        pass

    world = World()
    init = world.births.init(Others, dict.__init__)
    init(Others(), world.coro)
    world.init(Tasks(), world.coro)
    assert len(world.notes) == 2
    first, second = world.init, init
    del world
    gc.collect()
    waste = [_core.Counter() for _ in range(1000)]  # where it was, if it is taken for there still
    first(Tasks(), Coro(Coro.__init__.__code__))
    second(Others(), Coro(Coro.__init__.__code__))
    assert waste


def test_the_nearest_class_is_the_one_that_is_meant() -> None:
    class Far(dict[str, Any]):
        pass

    class Near(Far):
        pass

    class Child(Near):
        pass

    near, far = World(), World()
    init = near.births.init(Near, dict.__init__)
    far.births.init(Far, dict.__init__)
    init(Child(), near.coro)
    assert (len(near.notes), len(far.notes)) == (1, 0)


def test_a_class_that_was_noted_stays() -> None:
    """Else another at its address would be taken for it."""

    class Short(dict[str, Any]):
        pass

    world = World()
    world.births.init(Short, dict.__init__)
    gone = weakref.ref(Short)
    del Short, world
    gc.collect()
    assert gone() is not None


@pytest.mark.parametrize(
    ("cls", "original"),
    [
        (int, dict.__init__),
        (dict, list.__init__),
        (Tasks, dict.__repr__),
        (Tasks, World.__init__),
        ("x", dict.__init__),
    ],
)
def test_only_the_init_that_a_class_came_with_is_replaced(cls: Any, original: Any) -> None:
    world = World()
    with pytest.raises(TypeError):
        world.births.init(cls, original)
    with pytest.raises(TypeError):
        world.births.init(Tasks, world.init)


def test_a_coroutine_may_do_anything_when_it_is_asked() -> None:
    class Odd(Coro):
        @property
        def cr_code(self) -> CodeType:
            world.sites.clear()
            world.direct_sites.clear()
            world.born.clear()
            gc.collect()
            raise act

        @cr_code.setter
        def cr_code(self, _: object) -> None:
            pass

    world = World()
    world.make()
    act: BaseException = ValueError()
    world.coro = Odd(Coro.__init__.__code__)
    world.make(2)
    assert len(world.notes) == 3
    world.born[id(world.parent)] = _core.Created(1, 1, NS, world.site, "parent", None)
    act = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        world.make(3)


# -- a task returns ----------------------------------------------------------------------------


def new_asks(born: Any) -> Any:
    """What takes in plain requests, where there are none."""

    def never(_record: object) -> None:
        raise AssertionError

    return _core.Asks(
        born=born, states={}, ties={}, active={}, doubts={}, adopt=never, released=never
    )


class Ends:
    """`Returns` with all that it needs."""

    def __init__(
        self, module_at: Callable[[int], str | None] = lambda _: "loop", **changed: Any
    ) -> None:
        self.task = Loop()
        self.code = Ends.__init__.__code__
        site = _core.Site(PLACE, 1, id(self.code), by_application=True)
        self.born = _core.Table()
        self.born[id(self.task)] = _core.Created(1, 1, NS, site, "n", None)
        self.put: list[Any] = []
        self.remembered: list[Any] = []
        self.otherwise: list[Any] = []
        arguments: dict[str, Any] = {
            "born": self.born,
            "next_seq": _core.Counter(),
            "states": {},
            "asks": new_asks(self.born),
            "outside": frozenset({"loop"}),
            "current_task": lambda: self.task,
            "module_at": module_at,
            "put": self.put.append,
            "remember": self.remembered.append,
            "otherwise": lambda *given: self.otherwise.append(given),
        }
        self.returns = _core.Returns(**{**arguments, **changed})


def test_a_plain_return_is_noted_in_c_and_only_once() -> None:
    ends = Ends()
    ends.returns(ends.code, 0, "value")
    [ended] = ends.put
    assert ends.remembered == [ended]
    assert (ended.key, ended.seq, ended.born.name) == (id(ends.task), 1, "n")
    ends.returns(ends.code, 0, "value")
    assert ends.otherwise == [(ends.code, 0, "value")]


@pytest.mark.parametrize("how", ["other", "asked", "outside", "nonsense", "error"])
def test_what_is_not_plain_is_left_to_python(how: str) -> None:
    def module_at(_: int) -> str:
        if how == "error":
            raise ValueError
        return "elsewhere" if how == "outside" else "loop"

    ends = Ends(module_at)
    if how == "nonsense":
        ends.born[id(ends.task)] = "no record"
    if how == "asked":
        ends = Ends(module_at, states={})
        states = {id(ends.task): None}
        ends = Ends(module_at, states=states)
        states[id(ends.task)] = None
    code = World.__init__.__code__ if how == "other" else ends.code
    ends.returns(code, 0, None)
    assert ends.otherwise == [(code, 0, None)]
    assert ends.put == []


def test_an_entry_that_goes_while_it_is_looked_at_is_not_told() -> None:
    def module_at(_: int) -> str:
        ends.born.clear()
        waste.extend(_core.Created(n, n, NS, other, "waste", None) for n in range(50))
        return "loop"

    waste: list[Any] = []
    other = _core.Site(PLACE, 1, 2, by_application=True)
    ends = Ends(module_at)
    ends.returns(ends.code, 0, None)
    assert (ends.put, len(ends.otherwise)) == ([], 1)

    def replace(_: int) -> str:
        ends.born[id(ends.task)] = _core.Created(9, 9, NS, other, "another", None)
        return "loop"

    ends = Ends(replace)
    ends.returns(ends.code, 0, None)
    assert (ends.put, len(ends.otherwise)) == ([], 1)


# -- nonsense ------------------------------------------------------------------------------------


def some_of_each() -> list[Any]:
    world, ends = World(), Ends()
    site = _core.Site(PLACE, 1, 2, by_application=True)
    made = _core.Created(1, 1, NS, site, "n", None)
    return [
        _core.Table(),
        _core.Counter(),
        site,
        made,
        _core.Returned(1, NS, made, 16),
        new_queue(),
        world.births,
        ends.returns,
        new_asks(_core.Table()),
    ]


@pytest.mark.parametrize("number", range(9))
def test_nothing_of_the_core_is_copied_or_pickled(number: int) -> None:
    thing = some_of_each()[number]
    for use in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError):
            use(thing)


@pytest.mark.parametrize("number", range(9))
@pytest.mark.parametrize(
    "given_",
    [(), (1,), (None,) * 5, ("x",) * 7, (2**70,) * 6, (object(),) * 9],
    ids=["nothing", "a number", "None", "text", "large numbers", "objects"],
)
def test_what_is_made_of_nonsense_is_refused_or_harmless(number: int, given_: Any) -> None:
    cls = type(some_of_each()[number])
    for keywords in ({}, {"x": 1}, {"born": 1, "put": 2}):
        try:
            made = cls(*given_, **keywords)
        except (TypeError, ValueError, OverflowError):
            continue
        assert type(made) in (_core.Table, _core.Counter)
    made = cls.__new__(cls) if cls is _core.Site else None
    for name in dir(made):
        getattr(made, name, None)
    assert gc.collect() >= 0


def test_a_site_that_was_never_filled_in_is_harmless() -> None:
    site = _core.Site.__new__(_core.Site)
    made = _core.Created(1, 1, NS, site, "n", None)
    for name in ("place", "coro", "runs_at"):
        with pytest.raises(AttributeError):
            getattr(made, name)
    with pytest.raises(AttributeError):
        native.lines([made])
    for wrong in ((1, "x", 2), (1, 2, "x"), (1, 2**70, 2), (1, 1, 2**70)):
        with pytest.raises((TypeError, OverflowError)):
            site.__init__(*wrong, by_application=True)


def test_who_imports_it_anew_gets_the_types_that_there_are() -> None:
    import importlib.util

    spec = importlib.util.find_spec("aioaudit.core._core")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.Table is _core.Table
    assert module.Created is _core.Created
