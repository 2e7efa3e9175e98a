"""Notes on errors that say who cancelled: when they are there, on what, and on what not."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import pickle
import traceback
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

import aioaudit
from aioaudit.cpython.behaviour import HAS_MONITORING
from aioaudit.settings import SettingsError
from tests.loops import every_loop

Runs = Callable[[Coroutine[Any, Any, Any]], Any]

HERE = Path(__file__).name
NOTHING: dict[str, int] = {}

LINES = Path(__file__).read_text().splitlines()

sees_handlers = pytest.mark.skipif(
    not HAS_MONITORING, reason="what a handler raises is seen where it leaves the task"
)


@pytest.fixture(autouse=True)
def _off() -> Iterator[None]:
    yield
    aioaudit.disable()


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parent)  # paths are told as seen from there


def at(mark: str) -> str:
    """``path:line`` of the line that ends with the comment ``LINE mark``, as a note tells it."""
    [line] = [n for n, text in enumerate(LINES, 1) if text.endswith(f"# LINE {mark}")]
    return f"{HERE}:{line}"


def notes_of(error: BaseException | None) -> list[str]:
    return list(getattr(error, "__notes__", ()))


async def wait() -> None:
    await asyncio.sleep(60)  # LINE wait


async def ended(coro: Coroutine[Any, Any, Any], make: Any = None) -> Any:
    """The error with which a task of *coro* ends that is cancelled once it waits."""
    loop = asyncio.get_running_loop()
    asker = asyncio.current_task()
    assert asker is not None
    asker.set_name("asker")
    task = asyncio.create_task(coro, name="victim") if make is None else make(coro, loop=loop)
    for _ in range(3):
        await asyncio.sleep(0)
    task.cancel()  # LINE cancel
    await asyncio.wait([task])
    return error_of(task)


def error_of(task: asyncio.Task[Any]) -> BaseException | None:
    try:
        task.result()
    except BaseException as error:  # noqa: BLE001 - whatever it is
        return error
    return None


def asked() -> str:
    return (
        f"cancelled because {__name__}:ended called cancel() at {at('cancel')} in task asker;"
        f" it was waiting at {at('wait')}"
    )


def ran_out(seconds: float, mark: str, waiting: str = "wait") -> str:
    return (
        f"cancelled because the timeout of {seconds:g} s at {at(mark)} ran out;"
        f" it was waiting at {at(waiting)}"
    )


MADE = [
    pytest.param(asyncio.Task, id="C"),
    pytest.param(asyncio.tasks._PyTask, id="Python"),  # type: ignore[attr-defined]
]


def with_notes(run: Runs, main: Coroutine[Any, Any, Any]) -> Any:
    with aioaudit.enable(notes=True):
        return run(main)


# -- CancelledErrors -----------------------------------------------------------------------


@every_loop
@pytest.mark.parametrize("make", MADE)
def test_a_cancelled_error_has_its_note_before_the_program_sees_it(run: Runs, make: Any) -> None:
    seen: list[list[str]] = []

    async def victim() -> None:
        try:
            await wait()
        except asyncio.CancelledError as error:
            seen.append(notes_of(error))
            raise

    async def main() -> None:
        error = await ended(victim(), make)
        seen.append(notes_of(error))

    with_notes(run, main())
    [note], left = seen
    assert left == [note]
    assert note.startswith(f"cancelled because {__name__}:ended called cancel() at {at('cancel')}")
    assert note.endswith(f"; it was waiting at {at('wait')}")


def test_nothing_else_of_the_error_changes() -> None:
    def told(notes: bool) -> tuple[Any, ...]:
        found: list[BaseException] = []

        async def victim() -> None:
            try:
                await wait()
            except asyncio.CancelledError as error:
                found.append(error)
                raise

        async def main() -> None:
            task = asyncio.create_task(victim())
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            task.cancel("because")
            await asyncio.wait([task])

        with aioaudit.enable(notes=notes):
            asyncio.run(main())
        [error] = found
        copied = pickle.loads(pickle.dumps(error))
        kept = {key: value for key, value in vars(error).items() if key != "__notes__"}
        assert notes_of(copied) == notes_of(copy.copy(error)) == notes_of(error)
        assert len(notes_of(error)) == notes
        frames = [each.name for each in traceback.extract_tb(error.__traceback__)]
        return error.args, repr(error), str(error), kept, type(error), type(copied), frames

    assert told(True) == told(False)


def test_without_the_setting_there_are_none_and_nothing_is_left() -> None:
    before = dict(vars(asyncio.CancelledError)), dict(vars(asyncio.Future))
    with aioaudit.enable():
        error = asyncio.run(ended(wait()))
        assert not hasattr(error, "__notes__")
        with aioaudit.enable(notes=True):
            assert len(notes_of(asyncio.run(ended(wait())))) == 1
        assert not hasattr(asyncio.run(ended(wait())), "__notes__")
    assert (dict(vars(asyncio.CancelledError)), dict(vars(asyncio.Future))) == before
    assert not hasattr(asyncio.CancelledError(), "__notes__")


def test_notes_can_be_had_and_set_as_without_us() -> None:
    with aioaudit.enable(notes=True):
        error = asyncio.CancelledError()
        assert not hasattr(error, "__notes__")
        assert not hasattr(asyncio.CancelledError, "__notes__")
        with pytest.raises(AttributeError):
            del error.__notes__
        error.add_note("mine")
        assert error.__notes__ == ["mine"]
        del error.__notes__
        assert not hasattr(error, "__notes__")


def test_a_note_outlives_auditing() -> None:
    with aioaudit.enable(notes=True):
        error = asyncio.run(ended(wait()))
    assert notes_of(error) == [asked()]


def test_a_task_that_awaits_another_hands_on_the_note_of_that() -> None:
    async def outer() -> None:
        await asyncio.create_task(wait(), name="inner")

    with aioaudit.enable(notes=True):
        error = asyncio.run(ended(outer()))
    [note] = notes_of(error)
    assert note == asked().replace("asker;", "asker, by way of victim;")


def test_the_note_is_of_the_request_that_the_error_goes_on_for() -> None:
    before: list[list[str]] = []

    async def victim() -> None:
        async with asyncio.timeout(0.02) as scope:  # LINE first
            task, when = asyncio.current_task(), scope.when()
            assert task is not None
            assert when is not None
            # Both are due at once, and come one right after the other.
            asyncio.get_running_loop().call_at(when, task.cancel)  # LINE second
            try:
                await wait()
            except asyncio.CancelledError as error:
                before.append(notes_of(error))
                raise

    async def main() -> BaseException | None:
        task = asyncio.create_task(victim())
        await asyncio.wait([task])
        return error_of(task)

    with aioaudit.enable(notes=True):
        error = asyncio.run(main())
    assert isinstance(error, asyncio.CancelledError)
    [[first]] = before
    [second] = notes_of(error)
    if HAS_MONITORING:  # else nobody saw which of them was delivered
        assert first == ran_out(0.02, "first")
    assert at("second") in second
    assert at("first") not in second


# -- what replaces them ----------------------------------------------------------------


@every_loop
def test_the_error_of_a_timeout_has_a_note_where_it_is_caught(run: Runs) -> None:
    found: list[tuple[TimeoutError, list[str]]] = []

    async def main() -> None:
        try:
            async with asyncio.timeout(0.01):  # LINE timeout
                await wait()
        except TimeoutError as error:
            found.append((error, notes_of(error)))
        try:
            await asyncio.wait_for(wait(), 0.01)  # LINE wait_for
        except TimeoutError as error:
            found.append((error, notes_of(error)))

    with_notes(run, main())
    (first, there), (second, there_too) = found
    assert notes_of(first) == there == notes_of(first.__cause__) == [ran_out(0.01, "timeout")]
    assert notes_of(second) == there_too == [ran_out(0.01, "wait_for")]


@every_loop
def test_that_of_a_timeout_that_was_past_already_has_one(run: Runs) -> None:
    async def main() -> list[str]:
        task = asyncio.create_task(wait())
        for _ in range(3):
            await asyncio.sleep(0)
        try:
            await asyncio.wait_for(task, 0)  # LINE past
        except TimeoutError as error:
            return notes_of(error)
        return []

    assert with_notes(run, main()) == [ran_out(0, "past")]


@every_loop
@pytest.mark.parametrize("seconds", [0.01, 0])
def test_in_the_clean_up_of_a_cancelled_task_a_timeout_is_still_a_timeout(
    run: Runs, seconds: float
) -> None:
    found: list[list[str]] = []

    async def victim() -> None:
        inner = asyncio.create_task(wait(), name="inner")
        try:
            await wait()
        finally:
            try:
                await asyncio.wait_for(inner, seconds)  # LINE clean-up
            except TimeoutError as error:
                found.append(notes_of(error))

    with aioaudit.recording() as trail:
        error = with_notes(run, ended(victim()))
        answers = [trail.why(name) for name in ("inner", "victim")]
    assert [each and each.root.what for each in answers] == ["deadline", "called"]
    assert isinstance(error, asyncio.CancelledError)
    assert notes_of(error) == [asked()]
    [[note]] = found
    assert note.startswith(f"cancelled because the timeout of {seconds:g} s at {at('clean-up')} ")


@sees_handlers
@every_loop
def test_that_of_a_timeout_of_anyio_has_one(run: Runs) -> None:
    found: list[list[str]] = []

    async def main() -> None:
        try:
            with anyio.fail_after(0.01):  # LINE fail_after
                await wait()
        except TimeoutError as error:
            found.append(notes_of(error))

    with_notes(run, main())
    [[note]] = found
    assert f"the timeout of 0.01 s at {at('fail_after')} ran out" in note


async def replaced() -> None:
    try:
        await wait()
    except asyncio.CancelledError:
        raise ValueError("another") from None


async def failing_cleanup() -> None:
    try:
        await wait()
    finally:
        NOTHING["nothing"]


async def failing_exit() -> None:
    @contextlib.asynccontextmanager
    async def connection() -> AsyncIterator[None]:
        try:
            yield
        finally:
            raise OSError("gone")

    async with connection():
        await wait()


async def with_a_note() -> None:
    own = ValueError("own")
    own.add_note("mine")
    try:
        await wait()
    except asyncio.CancelledError:
        raise own from None


async def again() -> None:
    try:
        await replaced()
    except ValueError:
        raise


@every_loop
@pytest.mark.parametrize("victim", [replaced, failing_cleanup, failing_exit, again])
def test_an_error_that_replaces_a_cancellation_has_its_note(run: Runs, victim: Any) -> None:
    error = with_notes(run, ended(victim()))
    assert not isinstance(error, asyncio.CancelledError)
    assert notes_of(error) == [asked()]


def test_notes_of_the_program_come_first() -> None:
    with aioaudit.enable(notes=True):
        error = asyncio.run(ended(with_a_note()))
    assert notes_of(error) == ["mine", asked()]


@sees_handlers
@every_loop
def test_what_replaces_a_cancellation_has_its_note_where_it_is_caught(run: Runs) -> None:
    seen: list[list[str]] = []

    async def victim() -> None:
        try:
            await replaced()
        except ValueError as error:
            seen.append(notes_of(error))
        try:
            try:
                await wait()
            except asyncio.CancelledError as error:
                raise OSError from error
        except OSError as error:
            seen.append(notes_of(error))

    async def main() -> None:
        task = asyncio.create_task(victim(), name="victim")
        for _ in range(2):
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            task.cancel()  # LINE cancel twice
        await asyncio.wait([task])

    with_notes(run, main())
    for [note] in seen:
        assert at("cancel twice") in note
    assert len(seen) == 2


@sees_handlers
def test_an_error_raised_from_that_of_a_timeout_says_the_same() -> None:
    class ServiceError(Exception):
        pass

    async def main() -> None:
        try:
            async with asyncio.timeout(0.01):  # LINE service
                await wait()
        except TimeoutError as error:
            raise ServiceError from error

    with aioaudit.enable(notes=True), pytest.raises(ServiceError) as caught:
        asyncio.run(main())
    assert notes_of(caught.value) == [ran_out(0.01, "service")]


@every_loop
def test_errors_in_the_group_of_a_task_group_have_their_own(run: Runs) -> None:
    async def impatient() -> None:
        async with asyncio.timeout(0.01):  # LINE in a group
            await wait()

    async def untidy() -> None:
        try:
            await wait()
        finally:
            raise OSError("gone")

    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(impatient(), name="impatient")
            group.create_task(untidy(), name="untidy")

    with pytest.raises(ExceptionGroup) as caught:
        with_notes(run, main())
    first, second = caught.value.exceptions
    assert notes_of(first) == [ran_out(0.01, "in a group")]
    [note] = notes_of(second)
    assert f"the timeout of 0.01 s at {at('in a group')} ran out, by way of impatient" in note


# -- and what does not ------------------------------------------------------------------


async def swallowed() -> None:
    with contextlib.suppress(asyncio.CancelledError):
        await wait()
    raise ValueError("of something else")


async def fallback() -> None:
    try:
        async with asyncio.timeout(0.01):
            await wait()
    except TimeoutError:
        raise LookupError("the fallback has its own troubles")  # noqa: B904 - so it is meant


def test_an_error_after_a_request_that_was_swallowed_has_none() -> None:
    with aioaudit.enable(notes=True):
        error = asyncio.run(ended(swallowed()))
    assert isinstance(error, ValueError)
    assert notes_of(error) == []


def test_an_error_of_dealing_with_a_timeout_has_none() -> None:
    with aioaudit.enable(notes=True), pytest.raises(LookupError) as caught:
        asyncio.run(fallback())
    assert notes_of(caught.value) == []
    assert len(notes_of(caught.value.__context__)) == 1


@every_loop
def test_errors_that_a_clean_up_deals_with_itself_have_none(run: Runs) -> None:
    inside: list[BaseException] = []

    def clean_up() -> None:
        try:
            try:
                NOTHING["nothing"]
            except KeyError as error:
                inside.append(error)
                raise LookupError from error
        except LookupError as error:
            inside.append(error)

    async def victim() -> None:
        try:
            await wait()
        finally:
            clean_up()

    error = with_notes(run, ended(victim()))
    assert notes_of(error) == [asked()]
    assert [notes_of(each) for each in inside] == [[], []]


def test_an_error_in_another_task_that_runs_meanwhile_has_none() -> None:
    async def other() -> None:
        raise ValueError("mine alone")

    async def main() -> Any:
        left = asyncio.create_task(other())
        try:
            async with asyncio.timeout(0.01):
                await wait()
        except TimeoutError:
            return await asyncio.gather(left, return_exceptions=True)
        return None

    with aioaudit.enable(notes=True):
        [error] = asyncio.run(main())
    assert notes_of(error) == []


def test_one_raised_by_hand_has_none() -> None:
    async def victim() -> None:
        raise asyncio.CancelledError

    async def main() -> BaseException | None:
        task = asyncio.create_task(victim())
        await asyncio.wait([task])
        return error_of(task)

    with aioaudit.enable(notes=True):
        error = asyncio.run(main())
    assert notes_of(error) == []


def test_where_nobody_knows_why_there_is_none() -> None:
    async def main() -> BaseException | None:
        task = asyncio.create_task(wait())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        aioaudit.enable(notes=True)
        await asyncio.wait([task])
        return error_of(task)

    assert notes_of(asyncio.run(main())) == []


# -- hostile and odd ------------------------------------------------------------------------


def test_no_control_characters_come_from_names_and_messages() -> None:
    async def main() -> BaseException | None:
        task = asyncio.create_task(wait())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        asker = asyncio.current_task()
        assert asker is not None
        asker.set_name("evil\n\x1b[31mTraceback\u202e")
        task.cancel()
        await asyncio.wait([task])
        return error_of(task)

    with aioaudit.enable(notes=True):
        error = asyncio.run(main())
    [note] = notes_of(error)
    assert note.isprintable()
    assert r"evil\n\x1b[31mTraceback\u202e" in note


class OddError(Exception):
    """One that keeps others from changing it."""

    def __setattr__(self, name: str, value: object) -> None:
        raise TypeError("frozen")

    def add_note(self, _note: str) -> None:
        raise TypeError("no notes here")


class OwnError(Exception):
    """One that has notes of its own making."""

    @property
    def __notes__(self) -> list[str]:  # type: ignore[override]
        return ["own"]


class TupleError(Exception):
    """One whose notes are no list."""

    def __init__(self) -> None:
        self.__notes__ = ("mine",)  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("made", "expected"), [(OddError, None), (OwnError, ["own"]), (TupleError, ["mine"])]
)
def test_errors_that_are_not_as_others_stay_as_they_are(
    made: type[Exception], expected: list[str] | None, capsys: pytest.CaptureFixture[str]
) -> None:
    async def victim() -> None:
        try:
            await wait()
        finally:
            raise made

    with aioaudit.enable(notes=True):
        error = asyncio.run(ended(victim()))
    assert type(error) is made
    assert notes_of(error) == ([asked()] if expected is None else expected)
    assert capsys.readouterr().err == ""


@every_loop
def test_an_error_that_is_kept_and_raised_again_tells_of_the_last_request(run: Runs) -> None:
    kept = ConnectionError("the same each time")

    async def victim() -> None:
        try:
            await wait()
        finally:
            raise kept

    async def main() -> list[list[str]]:
        found: list[list[str]] = []
        for by in "first", "second":
            task = asyncio.create_task(victim())
            for _ in range(3):
                await asyncio.sleep(0)
            asker = asyncio.create_task(cancel(task), name=by)
            await asyncio.wait([task, asker])
            assert error_of(task) is kept
            found.append(notes_of(kept))
        return found

    async def cancel(task: asyncio.Task[None]) -> None:
        task.cancel()

    [first], [second] = with_notes(run, main())
    assert "in task first;" in first
    assert "in task second;" in second


class UnclearError(Exception):
    """One that does not say what it is, or what led to it."""

    def __getattribute__(self, name: str) -> Any:
        if name in ("__class__", "__dict__", "__notes__"):
            raise RuntimeError("not told")
        return super().__getattribute__(name)

    @property
    def __context__(self) -> BaseException | None:  # type: ignore[override]
        raise RuntimeError("not told")


@pytest.mark.parametrize("notes", [False, True])
def test_what_an_error_does_not_say_of_itself_does_not_become_the_programs(notes: bool) -> None:
    error = UnclearError()
    caught: list[bool] = []

    async def fails() -> None:
        raise error

    async def victim() -> None:
        try:
            await wait()
        except asyncio.CancelledError:
            raise error from None

    async def waits_for(task: asyncio.Task[None]) -> None:
        try:
            await task
        except UnclearError:
            caught.append(True)

    async def main() -> None:
        task = asyncio.create_task(victim())
        for _ in range(3):
            await asyncio.sleep(0)
        task.cancel()
        for each in task, asyncio.create_task(fails()):
            await waits_for(each)

    with aioaudit.enable(notes=notes):
        asyncio.run(main())
    assert caught == [True, True]


# -- the setting ------------------------------------------------------------------------


@pytest.mark.parametrize("given", ["maybe", "2"])
def test_another_word_than_on_or_off_is_an_error(given: Any) -> None:
    with pytest.raises(SettingsError, match=r"notes='\w+': '\w+' is neither on nor off; allowed"):
        aioaudit.enable(notes=given)
    with pytest.raises(TypeError):
        aioaudit.enable(notes=3.5)  # type: ignore[arg-type]


def test_a_call_that_knows_nothing_of_notes_does_not_end_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AIOAUDIT_NOTES", "on")
    aioaudit.enable()
    monkeypatch.delenv("AIOAUDIT_NOTES")
    with aioaudit.recording(), aioaudit.enable():
        assert len(notes_of(asyncio.run(ended(wait())))) == 1
        with aioaudit.enable(notes=False):
            assert notes_of(asyncio.run(ended(wait()))) == []
    assert len(notes_of(asyncio.run(ended(wait())))) == 1
