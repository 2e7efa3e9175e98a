"""Which close of a connection was which loss: worlds whose truth is known, and plain cases."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aioaudit.log.joining import MOST, SECOND, Close, Host, Joined, Loss, Match, Misfit, join

pytestmark = pytest.mark.any_python

MILLISECOND = SECOND // 1000
CLIENT, SERVER = "10.0.0.1:50000", "10.0.0.2:80"


# -- plain cases --------------------------------------------------------------------------


def closed(
    at: float,
    *,
    run: str = "a",
    seq: int = 1,
    request: int = 7,
    asked: float | None = None,
    **where: str,
) -> Close:
    ends = {"local": CLIENT, "peer": SERVER} | where
    since = int((at if asked is None else asked) * SECOND)
    return Close(run, seq, request, since, int(at * SECOND), **ends)


def lost(since: float, at: float, *, run: str = "b", seq: int = 1, **where: str) -> Loss:
    ends = {"local": SERVER, "peer": CLIENT} | where
    return Loss(run, seq, int(since * SECOND), int(at * SECOND), **ends)


ONE_MACHINE = {"a": Host("m1-1", "m1"), "b": Host("m1-2", "m1"), "c": Host("m1-3", "m1")}
TWO_MACHINES = {"a": Host("m1-1", "m1"), "b": Host("m2-1", "m2")}


def found(
    closes: list[Close], losses: list[Loss], hosts: dict[str, Host] = ONE_MACHINE
) -> dict[tuple[str, int], tuple[str, int]]:
    joined = join(closes, losses, hosts)
    return {key: (match.close.run, match.close.seq) for key, match in joined.of.items()}


def test_a_loss_is_joined_to_the_close_between_its_tasks_making_and_its_request() -> None:
    assert found([closed(2)], [lost(1, 2.5)]) == {("b", 1): ("a", 1)}
    assert found([closed(2)], [lost(2.1, 2.5)]) == {}  # a task of the next connection
    assert found([closed(2)], [lost(1, 1.9)]) == {}


def test_what_began_after_the_request_to_cancel_did_not_end_because_of_it() -> None:
    """Who ran out of time asks another server instead, and has enough of the answer in the middle."""
    assert found([closed(3, asked=2)], [lost(2.5, 3.1)]) == {}
    assert found([closed(3, asked=2)], [lost(1.5, 3.1)]) == {("b", 1): ("a", 1)}
    assert found([closed(3, asked=2)], [lost(2.5, 3.1)], TWO_MACHINES) == {}
    assert found([closed(3, asked=2)], [lost(1.5, 3.1)], TWO_MACHINES) == {("b", 1): ("a", 1)}
    closes, losses = connections(4, 30)
    closes[0] = closes[0]._replace(asked=closes[0].asked - 2 * SECOND)
    assert set(found(closes, losses, TWO_MACHINES)) == {("b", each.seq) for each in losses[1:]}


def test_both_addresses_have_to_be_the_same() -> None:
    assert found([closed(2, local="10.0.0.1:50001")], [lost(1, 2.5)]) == {}
    assert found([closed(2)], [lost(1, 2.5, local="10.0.0.3:80")]) == {}  # behind a proxy


@pytest.mark.parametrize("hidden", ["***", "10.0.0.1:***", "***:50000"])
def test_an_address_that_is_hidden_in_part_is_none(hidden: str) -> None:
    """Another connection may have the same part."""
    assert found([closed(2, local=hidden)], [lost(1, 2.5, peer=hidden)]) == {}


def test_several_tasks_may_have_lost_one_peer() -> None:
    assert found([closed(2)], [lost(1, 2.5), lost(1.5, 2.6, seq=2)]) == {
        ("b", 1): ("a", 1),
        ("b", 2): ("a", 1),
    }


def test_two_that_fit_are_one_too_many() -> None:
    two = [closed(2), closed(2.1, seq=2, request=8)]
    assert found(two, [lost(1, 2.5)]) == {}
    assert found([closed(2), closed(2.1, seq=2)], [lost(1, 2.5)]) == {("b", 1): ("a", 1)}
    assert found([closed(2), closed(2, run="c")], [lost(1, 2.5)]) == {}
    assert found([closed(2)], [lost(1, 2.5), lost(1, 2.5, run="c")]) == {}


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "169.254.0.1", "[fe80::1]"])
def test_an_address_of_ones_own_counts_within_one_network_only(host: str) -> None:
    close = closed(2, local=f"{host}:50000", peer=f"{host}:80")
    loss = lost(1, 2.5, local=f"{host}:80", peer=f"{host}:50000")
    assert found([close], [loss]) == {}
    same = {"a": Host("m1-1", "m1"), "b": Host("m1-1", "m1")}
    assert found([close], [loss], same) == {("b", 1): ("a", 1)}
    unknown = {"a": Host(None, None), "b": Host(None, None)}
    assert found([close], [loss], unknown) == {}
    assert found([close], [loss], {}) == {}


@pytest.mark.parametrize(
    ("network", "many"),
    [
        ("172.17.0", True),
        ("172.18.0", True),  # of Compose
        ("172.30.5", True),
        ("172.31.0", False),  # a VPC
        ("10.88.0", True),
        ("10.0.2", True),
        ("10.244.0", False),
        ("192.168.122", True),
        ("192.168.1", False),
    ],
)
def test_what_every_machine_gives_its_containers_counts_on_one_machine_only(
    network: str, many: bool
) -> None:
    client, server = f"{network}.2:50000", f"{network}.3:80"
    close = closed(2, local=client, peer=server)
    loss = lost(1, 2.01, local=server, peer=client)
    one = {("b", 1): ("a", 1)}
    assert found([close], [loss]) == one
    assert found([close], [loss], TWO_MACHINES) == ({} if many else one)
    nowhere = {"a": Host(None, None), "b": Host(None, None)}
    assert found([close], [loss], nowhere) == ({} if many else one)


def test_what_is_no_address_is_joined_to_nothing() -> None:
    close = closed(2, local="nowhere", peer="")
    assert found([close], [lost(1, 2.5, local="", peer="nowhere")]) == {}
    for hidden in ("10.0.0.1:***", "***:50000", "10.0.0.1:", "***"):  # by AIOAUDIT_REDACT
        assert found([closed(2, local=hidden)], [lost(1, 2.5, peer=hidden)]) == {}


def test_addresses_that_were_used_all_the_time_are_no_work() -> None:
    """A client that binds its port: each connection is compared with those of its time only."""
    count = 3 * MOST
    closes = [closed(10 * number, seq=number) for number in range(1, count)]
    losses = [lost(10 * each.seq - 1, 10 * each.seq + 0.1, seq=each.seq) for each in closes]
    compared: list[int] = []

    class Counting(dict[str, Host]):
        def get(self, *key: Any) -> Any:
            compared.append(1)
            return super().get(*key)

    of = join(closes, losses, Counting(ONE_MACHINE)).of
    assert {key: match.close.seq for key, match in of.items()} == {
        ("b", each.seq): each.seq for each in closes
    }
    assert len(compared) < 10 * count
    assert join(closes, losses, TWO_MACHINES) == Joined({}, [])
    assert found(closes, [lost(1, 10 * count)]) == {}


def connections(count: int, ahead: float) -> tuple[list[Close], list[Loss]]:
    """Connections whose loss is told by a clock that is *ahead*."""
    closes: list[Close] = []
    losses: list[Loss] = []
    for number in range(1, count + 1):
        client, at = f"10.0.0.1:{50_000 + number}", 10.0 * number
        closes.append(closed(at, seq=number, local=client))
        after = at + ahead + number / 1000
        losses.append(lost(after - 1, after, seq=number, peer=client))
    return closes, losses


def test_without_enough_connections_two_clocks_have_to_agree() -> None:
    for count in (1, 2):
        assert len(found(*connections(count, 0.05), TWO_MACHINES)) == count
        assert len(found(*connections(count, -0.05), TWO_MACHINES)) == count
        joined = join(*connections(count, 30), TWO_MACHINES)
        assert joined == Joined({}, [Misfit("b", "a", count)])


def test_three_connections_measure_a_clock() -> None:
    closes, losses = connections(3, -3600)
    joined = join(closes, losses, TWO_MACHINES)
    ahead = -3600 * SECOND + MILLISECOND
    assert joined.of == {("b", close.seq): Match(close, ahead, 3) for close in closes}
    assert joined.misfits == []


def test_a_clock_that_is_measured_in_two_ways_is_not_known() -> None:
    closes, losses = connections(3, 30)
    more_closes, more_losses = connections(2, 77)
    closes += [each._replace(seq=each.seq + 10, peer="10.0.0.2:81") for each in more_closes]
    losses += [each._replace(seq=each.seq + 10, local="10.0.0.2:81") for each in more_losses]
    joined = join(closes, losses, TWO_MACHINES)
    assert joined == Joined({}, [Misfit("b", "a", 5)])


# -- worlds ---------------------------------------------------------------------------------


@dataclass
class World:
    """Services on several machines, what happened between them, and what their logs have of it."""

    random: Random
    keeps: float
    """How many of the lines are in the logs."""
    closes: list[Close] = field(default_factory=list)
    losses: list[Loss] = field(default_factory=list)
    truth: dict[tuple[str, int], tuple[str, int]] = field(default_factory=dict)
    hosts: dict[str, Host] = field(default_factory=dict)
    clocks: dict[str, int] = field(default_factory=dict)
    seq: int = 0

    def live(self) -> None:
        machines = self.random.randint(1, 3)
        for machine in range(machines):
            ahead = self.random.choice([0, 0, self.random.randint(-9_000, 9_000)]) * SECOND
            ahead += self.random.randint(-20, 20) * MILLISECOND
            for number in range(2):
                run = f"m{machine}r{number}"
                known = self.random.random() < 0.9
                network = f"m{machine}-{self.random.choice('12')}"
                self.hosts[run] = Host(network, f"m{machine}") if known else Host(None, None)
                self.clocks[run] = ahead
        runs = list(self.hosts)
        for _ in range(self.random.randint(1, 4)):
            client, server = self.random.choice(runs), self.random.choice(runs)
            if self.random.random() < 0.3:
                client = server
            own = (
                self.hosts[client].network == self.hosts[server].network
                and client[:2] == server[:2]
            )
            if own and self.random.random() < 0.7:
                here = there = "127.0.0.1"
            else:
                here, there = (f"10.0.0.{runs.index(each) + 1}" for each in (client, server))
            for port in range(self.random.randint(1, 6)):
                self.use(client, server, f"{here}:{50_000 + port}", f"{there}:80")

    def use(self, client: str, server: str, local: str, peer: str) -> None:
        """One connection after the other between two addresses, as TCP has it: never two at once."""
        used = self.used
        now = max(used.get((local, peer, self.place(client)), 0), self.moment(100))
        for _ in range(self.random.randint(1, 8)):
            begins = now + self.moment(20)
            ends = begins + 1 + self.moment(5)
            self.connect(client, server, local, peer, begins, ends)
            now = ends + SECOND + self.moment(self.random.choice([1, 3000]))
        used[local, peer, self.place(client)] = now

    def place(self, run: str) -> str:
        """What tells two networks with the same addresses apart, whatever the logs know of it."""
        return run[:2]

    used: dict[tuple[str, str, str], int] = field(default_factory=dict)

    def connect(
        self, client: str, server: str, local: str, peer: str, begins: int, ends: int
    ) -> None:
        self.seq += 10
        told = self.random.random() < self.keeps
        if told and self.random.random() < 0.7:  # else it was no cancellation that closed it
            at = ends + self.clocks[client]
            self.closes.append(Close(client, self.seq, self.seq - 1, at, at, local, peer))
            source: tuple[str, int] | None = (client, self.seq)
        else:
            source = None
        heard = ends + self.moment(0.2)
        for number in range(self.random.randint(0, 3)):  # tasks that served it to its end
            since = self.random.randint(begins, ends)
            if self.random.random() < self.keeps:
                key = server, self.seq + 1 + number
                ahead = self.clocks[server]
                at = heard + number * MILLISECOND
                self.losses.append(Loss(*key, since + ahead, at + ahead, peer, local))
                if source is not None:
                    self.truth[key] = source

    def moment(self, seconds: float) -> int:
        return self.random.randint(0, int(seconds * SECOND))


@st.composite
def worlds(draw: st.DrawFn, keeps: float | None = None) -> World:
    """Worlds from one number: nothing looks for one in which chance misleads on purpose."""
    random = Random(draw(st.integers(0, 2**64)))
    world = World(random, random.choice([0.3, 0.7, 1.0]) if keeps is None else keeps)
    world.live()
    return world


@given(worlds())
def test_a_join_is_never_wrong(world: World) -> None:
    assert set(joins(world)) <= set(world.truth.items())


@given(worlds(keeps=1.0))
def test_by_one_clock_everything_is_joined(world: World) -> None:
    expected = {
        (key, source)
        for key, source in world.truth.items()
        if key[0][:2] == source[0][:2]
        and all(world.hosts[run].clock for run in (key[0], source[0]))
    }
    assert expected <= set(joins(world))


@given(worlds())
def test_the_order_of_lines_does_not_matter(world: World) -> None:
    before = join(world.closes, world.losses, world.hosts)
    world.random.shuffle(world.closes)
    world.random.shuffle(world.losses)
    after = join(world.closes, world.losses, world.hosts)
    assert (after.of, sorted(after.misfits)) == (before.of, sorted(before.misfits))


def joins(world: World) -> Iterator[tuple[tuple[str, int], tuple[str, int]]]:
    for key, match in join(world.closes, world.losses, world.hosts).of.items():
        yield key, (match.close.run, match.close.seq)
