"""Servers written on asyncio that lose their client: whose doing it was, where that is sure."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import aioaudit
from aioaudit.chain.summary import by_process
from aioaudit.cpython.transports import TELLS_LOSS
from aioaudit.events import TaskCancel
from aioaudit.exporters.memory import MemoryExporter
from aioaudit.recognisers import losses
from aioaudit.recognisers.losses import lost_with
from aioaudit.trail import Trail
from tests.loops import every_loop
from tests.recognising import hang
from tests.referee import DELIVERIES_ARE_SEEN
from tests.waiting import PATIENCE


@pytest.fixture
def noting() -> Iterator[None]:
    """As while auditing is on: who closes a connection is noted."""
    losses.note_closes(True)
    yield
    losses.note_closes(False)


Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Handle = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Server:
    """One connection, and what serves it: ``serving`` is set while it works."""

    def __init__(self) -> None:
        self.serving = asyncio.Event()
        self.over = asyncio.Event()

    async def work(self) -> None:
        self.serving.set()
        await hang()


class ByStreams(Server):
    """Works beside the one that reads: the group ends with that."""

    def __init__(self, meanwhile: Handle | None = None) -> None:
        super().__init__()
        self._meanwhile = meanwhile

    async def listen(self) -> asyncio.Server:
        return await asyncio.start_server(self.handle, "127.0.0.1", 0)

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self.work(), name="work")
                group.create_task(self.read(reader), name="read")
                if self._meanwhile is not None:
                    await self.serving.wait()
                    await self._meanwhile(reader, writer)
        except* (OSError, EOFError):
            pass
        finally:
            writer.close()
            self.over.set()

    async def read(self, reader: asyncio.StreamReader) -> None:
        await reader.readexactly(1000)


class ByWaiting(ByStreams):
    """The same without a group: what is left of two tasks is cancelled."""

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks = [
            asyncio.create_task(self.work(), name="work"),
            asyncio.create_task(self.read(reader), name="read"),
        ]
        _, left = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for each in left:
            each.cancel()
        await asyncio.wait(tasks)
        tasks[1].exception()
        writer.close()
        self.over.set()


class ByProtocol(Server):
    """Cancels the work when it is told that the connection is lost."""

    transport: asyncio.Transport

    async def listen(self) -> asyncio.Server:
        server = self

        class Connection(asyncio.Protocol):
            def connection_made(self, transport: Any) -> None:
                server.transport = transport
                self.task = asyncio.create_task(server.work(), name="work")
                self.task.add_done_callback(lambda _: server.over.set())

            def connection_lost(self, _error: Exception | None) -> None:
                self.task.cancel()

        return await asyncio.get_running_loop().create_server(Connection, "127.0.0.1", 0)


def close(writer: asyncio.StreamWriter) -> None:
    writer.close()


def reset(writer: asyncio.StreamWriter) -> None:
    """Close it so that the other end hears of an error."""
    end = writer.get_extra_info("socket")
    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def ask(server: Any, leave: Callable[[asyncio.StreamWriter], None]) -> set[tuple[Any, Any]]:
    """Connect to *server*, and *leave* when the time is up; the addresses as the server has them."""
    async with await server.listen() as listening:
        _, writer = await asyncio.open_connection(*listening.sockets[0].getsockname())
        ends = [writer.get_extra_info(name) for name in ("peername", "sockname")]

        async def client() -> None:
            await server.serving.wait()
            try:
                async with asyncio.timeout(0.01):
                    await hang()
            except TimeoutError:
                leave(writer)

        await asyncio.create_task(client(), name="client")
        await asyncio.wait_for(server.over.wait(), PATIENCE)
        writer.close()
        await asyncio.sleep(0.01)
    local, peer = (f"{host}:{port}" for host, port in ends)
    return {(local, peer)}


def told(trail: Trail | MemoryExporter) -> set[tuple[Any, Any]]:
    """The addresses that the requests to ``work`` have."""
    return {
        (each.local, each.peer)
        for each in trail.events
        if isinstance(each, TaskCancel) and each.name == "work"
    }


def kind_of_loop() -> str:
    return type(asyncio.get_running_loop()).__module__.partition(".")[0]


@every_loop
@pytest.mark.parametrize("leave", [close, reset])
@pytest.mark.parametrize("make", [ByStreams, ByWaiting, ByProtocol])
def test_a_task_that_its_servers_loss_of_a_client_ends_leads_to_what_cancelled_the_client(
    run: Any, tmp_path: Path, make: Any, leave: Any
) -> None:
    async def main() -> str:
        await ask(make(), leave)
        return kind_of_loop()

    log = tmp_path / "log.jsonl"
    with aioaudit.enable("jsonl", jsonl_path=log):
        loop = run(main())
    [answer] = aioaudit.load(log).why("work")
    # Its protocols are called by no frame that tells, and before 3.12 it does not show who woke up.
    unseen = (ByProtocol,) if DELIVERIES_ARE_SEEN else (ByProtocol, ByWaiting)
    if loop == "uvloop" and make in unseen:
        assert (answer.root.what, answer.root.reason) == ("called", "explicit")
        return
    assert (answer.root.what, answer.root.seconds) == ("deadline", 0.01)
    assert " was cancelled, probably because its peer left: " in answer.summary
    assert "since the timeout of 0.01 s at " in answer.summary
    own, _ = by_process(answer.chain)
    assert own[-1].what == ("called" if make is ByProtocol else "failed")


def test_an_error_that_whoever_runs_the_loop_handles_changes_nothing() -> None:
    async def main() -> tuple[Trail, Any]:
        with aioaudit.recording() as trail:
            expected = await ask(ByProtocol(), close)
        return trail, expected

    try:
        raise ValueError("before")
    except ValueError:
        trail, expected = asyncio.run(main())
    assert told(trail) == expected


@every_loop
@pytest.mark.parametrize("leave", [close, reset])
def test_the_request_has_both_addresses_and_its_own_reason(run: Any, leave: Any) -> None:
    async def main() -> tuple[Trail, Any]:
        with aioaudit.recording() as trail:
            expected = await ask(ByStreams(), leave)
        return trail, expected

    trail, expected = run(main())
    assert told(trail) == expected
    [reason] = {
        each.reason
        for each in trail.events
        if getattr(each, "name", None) == "work" and isinstance(each, TaskCancel)
    }
    assert reason == "task_group"


# -- where this end has closed it --------------------------------------------------------------


@every_loop
def test_who_closes_the_connection_itself_has_lost_nobody(run: Any) -> None:
    async def closes(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()
        await hang()

    async def aborts(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.abort()
        await hang()

    class Closing(ByProtocol):
        async def work(self) -> None:
            asyncio.get_running_loop().call_later(0.02, self.transport.close)
            await super().work()

    class Aborting(ByProtocol):
        async def work(self) -> None:
            asyncio.get_running_loop().call_later(0.02, self.transport.abort)
            await super().work()

    async def main() -> list[set[tuple[Any, Any]]]:
        found = []
        for server in (ByStreams(closes), ByStreams(aborts), Closing(), Aborting()):
            with aioaudit.recording() as trail:
                await ask(server, lambda _: None)
            found.append(told(trail))
        return found

    assert run(main()) == [{(None, None)}] * 4


def test_who_closes_first_has_lost_nobody_though_the_peer_closes_a_moment_later() -> None:
    """Both ran out of time: the server is told of a loss that it has made itself."""

    class Closing(ByProtocol):
        def leave(self, writer: asyncio.StreamWriter) -> None:
            self.transport.close()
            writer.transport.abort()

    async def main() -> Trail:
        server = Closing()
        with aioaudit.recording() as trail:
            await ask(server, server.leave)
        return trail

    assert told(asyncio.run(main())) == {(None, None)}


@every_loop
def test_who_closes_before_all_is_sent_has_lost_nobody_though_the_peer_resets_it(run: Any) -> None:
    async def closes(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(bytes(20_000_000))
        writer.close()
        await hang()

    class Closing(ByProtocol):
        async def work(self) -> None:
            self.transport.write(bytes(20_000_000))
            self.transport.close()
            await super().work()

    async def main() -> list[set[tuple[Any, Any]]]:
        found = []
        for server in (ByStreams(closes), Closing()):
            with aioaudit.recording() as trail:
                await ask(server, reset)
            found.append(told(trail))
        return found

    assert run(main()) == [{(None, None)}] * 2


@pytest.mark.parametrize("leaves_first", [True, False])
def test_where_nobody_hears_of_closes_no_loss_is_told(leaves_first: bool) -> None:
    async def closes(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(bytes(20_000_000))
        writer.close()
        await hang()

    exporter = MemoryExporter()
    with aioaudit.enable(exporter, events="task.cancel"):
        asyncio.run(ask(ByStreams(closes if leaves_first else None), reset))
    assert told(exporter) == {(None, None)}


def test_a_group_that_holds_itself_tells_of_no_connection() -> None:
    class Odd(ExceptionGroup[Exception]):
        @property
        def exceptions(self) -> tuple[Exception, ...]:
            return (self,)

    async def fail() -> None:
        raise Odd("odd", [ValueError()])

    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(hang(), name="work")
            group.create_task(fail())

    with aioaudit.recording() as trail:
        with pytest.raises(ExceptionGroup):
            asyncio.run(main())
        answer = trail.why("work")
        assert lost_with(Odd("odd", [ValueError()])) is None
    assert answer is not None
    assert (answer.root.what, answer.inferred) == ("failed", False)


@pytest.mark.parametrize("leave", [close, reset])
def test_who_says_first_that_nothing_more_comes_has_lost_nobody(leave: Any) -> None:
    """The peer may have left because of that."""

    async def says(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write_eof()
        await hang()

    class Saying(ByProtocol):
        async def work(self) -> None:
            self.transport.write_eof()
            await super().work()

    async def main() -> list[set[tuple[Any, Any]]]:
        found = []
        for server in (ByStreams(says), Saying()):
            with aioaudit.recording() as trail:
                await ask(server, leave)
            found.append(told(trail))
        return found

    assert asyncio.run(main()) == [{(None, None)}] * 2


@every_loop
def test_an_error_that_a_stream_is_given_by_hand_tells_of_no_connection(run: Any) -> None:
    async def gives(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        reader.set_exception(ConnectionResetError("by hand"))
        await hang()

    async def main() -> Trail:
        with aioaudit.recording() as trail:
            await ask(ByStreams(gives), lambda _: None)
        return trail

    assert told(run(main())) == {(None, None)}


@every_loop
def test_an_error_that_another_stream_is_given_tells_of_the_one_that_raised_it(run: Any) -> None:
    async def main() -> tuple[Trail, Any]:
        accepted: asyncio.Queue[Streams] = asyncio.Queue()

        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await accepted.put((reader, writer))

        async with await asyncio.start_server(handle, "127.0.0.1", 0) as listening:
            address = listening.sockets[0].getsockname()
            _, first = await asyncio.open_connection(*address)
            reader, writer = await accepted.get()
            _, second = await asyncio.open_connection(*address)
            other, beside = await accepted.get()
            names = [writer.get_extra_info(name) for name in ("sockname", "peername")]
            first.close()
            with pytest.raises(asyncio.IncompleteReadError) as caught:
                await reader.readexactly(1)
            other.set_exception(caught.value)
            with aioaudit.recording() as trail, contextlib.suppress(ExceptionGroup):
                async with asyncio.TaskGroup() as group:
                    group.create_task(hang(), name="work")
                    group.create_task(other.readexactly(1))
            for each in (writer, second, beside):
                each.close()
        return trail, {tuple(f"{host}:{port}" for host, port in names)}

    trail, expected = run(main())
    assert told(trail) == expected


def test_what_a_loop_runs_while_a_protocol_is_told_is_not_done_because_of_that() -> None:
    """As with nest_asyncio, which lets a loop run inside of a call that it makes."""

    class Nesting(ByProtocol):
        async def listen(self) -> asyncio.Server:
            server = self

            class Connection(asyncio.Protocol):
                def connection_made(self, _transport: Any) -> None:
                    self.task = asyncio.create_task(server.work(), name="work")
                    self.task.add_done_callback(lambda _: server.over.set())

                def connection_lost(self, _error: Exception | None) -> None:
                    run_inside(self.task.cancel)

            def run_inside(cancel: Callable[[], object]) -> None:
                loop = asyncio.get_running_loop()
                asyncio.Handle(lambda: cancel(), (), loop)._run()  # noqa: PLW0108 - a line of the application

            return await asyncio.get_running_loop().create_server(Connection, "127.0.0.1", 0)

    async def main() -> Trail:
        with aioaudit.recording() as trail:
            await ask(Nesting(), close)
        return trail

    assert told(asyncio.run(main())) == {(None, None)}


def test_a_method_that_is_called_as_asyncios_own_tells_of_no_connection() -> None:
    class Transport:
        def tell(self, exc: Exception, task: Any) -> None:  # noqa: ARG002 - a variable of asyncio's
            task.cancel()

    told_lost = Transport.tell
    told_lost.__code__ = told_lost.__code__.replace(co_qualname=TELLS_LOSS)

    async def main() -> Trail:
        with aioaudit.recording() as trail:
            task = asyncio.create_task(hang(), name="work")
            await asyncio.sleep(0)
            asyncio.get_running_loop().call_soon(Transport().tell, ConnectionResetError(), task)
            await asyncio.wait([task])
        return trail

    assert told(asyncio.run(main())) == {(None, None)}


def test_the_end_of_data_in_a_clean_up_is_no_reason() -> None:
    """What ends the group is the cancellation that its task was handling."""

    class CleaningUp(ByStreams):
        async def read(self, reader: asyncio.StreamReader) -> None:
            try:
                async with asyncio.timeout(0):
                    await hang()
            finally:
                await reader.readexactly(1000)

    async def main() -> Trail:
        with aioaudit.recording() as trail:
            await ask(CleaningUp(), close)
        return trail

    assert told(asyncio.run(main())) == {(None, None)}


# -- errors that say nothing -------------------------------------------------------------------


@pytest.mark.usefixtures("noting")
@pytest.mark.parametrize(
    "error",
    [
        ValueError("bad"),
        ConnectionResetError("raised by hand"),
        asyncio.IncompleteReadError(b"", 1),
        ExceptionGroup("two", [asyncio.IncompleteReadError(b"", 1), ValueError("bad")]),
        ExceptionGroup("one", [asyncio.IncompleteReadError(b"", 1)]),
    ],
    ids=repr,
)
def test_an_error_that_no_stream_has_raised_tells_of_no_connection(error: Exception) -> None:
    assert lost_with(error) is None


@pytest.mark.usefixtures("noting")
def test_a_stream_without_a_connection_tells_of_none() -> None:
    async def main() -> asyncio.IncompleteReadError:
        reader = asyncio.StreamReader()
        reader.feed_eof()
        with pytest.raises(asyncio.IncompleteReadError) as caught:
            await reader.readexactly(1)
        return caught.value

    assert lost_with(asyncio.run(main())) is None


@pytest.mark.usefixtures("noting")
def test_a_recogniser_that_fails_is_said_once_and_tells_of_no_connection(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class LostError(Exception):
        pass

    def fails(_error: BaseException) -> None:
        raise LookupError("no such attribute")

    monkeypatch.setattr(losses, "find_loss", lambda *_: fails)
    assert (
        losses.lost_with(LostError())
        is losses.lost_with(ExceptionGroup("one", [LostError()]))
        is None
    )
    said = capsys.readouterr().err
    assert said.count("its connection is not told: LookupError: no such attribute") == 1
