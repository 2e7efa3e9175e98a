"""Private. Which close of a connection, in one process, was the loss that another one tells of.

A pure function over what logs say.  Both ends of a connection name the same two addresses, where
nothing between them changes those.  That alone is no proof, since ports are used again.  But there
is only one connection between two addresses at a time: a task that served one before the close and
heard of its end after it served the one that was closed.

What has to hold, then, for a close and a loss:

- what is one's own address is the other's peer's, and the other way round;
- an address that means something else in each network (127.0.0.1) was told in the same network,
  and one that every machine gives to its containers on the same machine;
- the task that lost its peer was there before the other one was asked to cancel, and was asked itself
  after the close; where it serves a connection, the task that it has for the request, too.  What was
  sent only then, over a connection of a pool or a new one, was no part of what was given up:
  somebody who ran out of time elsewhere asked another server;
- no other close fits the same loss, unless it came of the same request; and no loss in another
  process fits the same close.

Of one machine there is one clock.  Between two it is measured: the time from a close to its loss is
short, so where at least three connections say that the one clock is ahead by nearly the same,
and at most half as many say anything else, it is.  Without that many the clocks have to agree.
Whatever does not fit is not joined.

What is not known is how long a server kept its loss to itself, as gunicorn does for some seconds; a
port that is used again within that time, for a connection that was closed likewise, would mislead.
"""

from __future__ import annotations

import functools
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from ipaddress import ip_address, ip_network
from typing import Literal, NamedTuple

SECOND = 1_000_000_000
SPREAD = SECOND // 2
"""The times from closes to their losses differ by at most this much, where clocks are measured by them."""
AGREE = SECOND // 10
"""Clocks of two machines agree if they differ by at most this much."""
FEWEST = 3
"""So many connections measure a clock."""

MOST = 1_000
"""Closes between the same two addresses, while one task served them, or by another clock at any time,
that are compared with one loss: where there were more, they tell nothing."""

_OF_EACH_MACHINE = [
    *(ip_network(f"172.{number}.0.0/16") for number in range(17, 31)),
    *map(ip_network, ("10.88.0.0/15", "10.0.2.0/24", "10.0.3.0/24", "192.168.122.0/24")),
]
"""What is given to containers and guests on every machine alike: by Docker to its default bridge and, one
after the other, to further networks, as Compose makes them (``default-address-pools``; the last, 172.31,
is rather a default VPC of AWS), by Podman, slirp4netns and QEMU, LXC, and libvirt."""


class Close(NamedTuple):
    """A task closed a connection: a line ``connection.close``.

    ``request`` is the ``seq`` of the request because of which it did, ``asked`` when that was made;
    times are in nanoseconds.
    """

    run: str
    seq: int
    request: int
    asked: int
    at: int
    local: str
    peer: str


class Loss(NamedTuple):
    """A task was asked to cancel because its peer went away; ``since`` when all was surely there that
    was asked."""

    run: str
    seq: int
    since: int
    at: int
    local: str
    peer: str


class Host(NamedTuple):
    """Where a run was: in which network, and on which machine, which is by which clock."""

    network: str | None
    clock: str | None


class Match(NamedTuple):
    """The close that a loss came of.

    ``ahead`` is by how much the clock of the loss is ahead of that of the close, in
    nanoseconds, measured by so many ``connections``; 0 where it was not.
    """

    close: Close
    ahead: int = 0
    connections: int = 0


class Misfit(NamedTuple):
    """So many losses of a run seem to be closes of another one, and the times do not fit."""

    run: str
    other: str
    losses: int


class Joined(NamedTuple):
    """``of`` has the close by run and ``seq`` of the loss; ``misfits`` are what is not in it."""

    of: dict[tuple[str, int], Match]
    misfits: list[Misfit]


Pair = tuple[Loss, Close]

_NOWHERE = Host(None, None)


def join(closes: Iterable[Close], losses: Iterable[Loss], hosts: Mapping[str, Host]) -> Joined:
    """Which of *closes* each of *losses* came of; *hosts* has what is known of their runs."""
    used = _by_addresses(closes, hosts)
    pairs: dict[tuple[str, str], list[Pair]] = {}
    for loss in losses:
        here = hosts.get(loss.run, _NOWHERE)
        here_clock = here.clock or loss.run
        for there_clock, near in used.get((loss.peer, loss.local), {}).items():
            if there_clock == here_clock:
                first = bisect_left(near, loss.since, key=_at)
                near = near[first : bisect_right(near, loss.at, key=_at)]  # noqa: PLW2901
            if len(near) > MOST:
                continue
            of_pair = [
                (loss, close)
                for close in near
                if _in_one_network(close, hosts.get(close.run, _NOWHERE), here)
            ]
            if of_pair:
                pairs.setdefault((there_clock, here_clock), []).extend(of_pair)
    matches: dict[tuple[str, int], list[Match]] = {}
    unfit: dict[tuple[str, str], set[tuple[str, int]]] = {}
    for (there_clock, here_clock), each in pairs.items():
        fitting = _by_one_clock(each) if there_clock == here_clock else _by_two_clocks(each)
        fits = {(loss.run, loss.seq) for loss, _ in fitting}
        for loss, match in fitting:
            matches.setdefault((loss.run, loss.seq), []).append(match)
        if there_clock != here_clock:
            for loss, close in each:
                if (loss.run, loss.seq) not in fits:
                    unfit.setdefault((loss.run, close.run), set()).add((loss.run, loss.seq))
    found = _without_doubt(matches)
    misfits = [
        Misfit(run, other, len(seqs - matches.keys()))
        for (run, other), seqs in unfit.items()
        if seqs - matches.keys()
    ]
    return Joined(found, misfits)


def _by_addresses(
    closes: Iterable[Close], hosts: Mapping[str, Host]
) -> dict[tuple[str, str], dict[str, list[Close]]]:
    """*closes* in order by local and peer address, and then by the clock that tells their times.

    Without those whose addresses are hidden, which would all be alike.
    """
    found: dict[tuple[str, str], dict[str, list[Close]]] = {}
    for close in closes:
        if not (_is_address(close.local) and _is_address(close.peer)):
            continue
        clock = hosts.get(close.run, _NOWHERE).clock or close.run
        found.setdefault((close.local, close.peer), {}).setdefault(clock, []).append(close)
    for of_clocks in found.values():
        for each in of_clocks.values():
            each.sort(key=_at)
    return found


def _at(close: Close) -> int:
    return close.at


def _is_address(text: str) -> bool:
    """Whether *text* is no address that is hidden, or of a log that was tampered with.

    A port that is hidden would make all connections of two hosts one.
    """
    host, _, port = text.rpartition(":")
    return _same_within(host) is not None and port.isascii() and port.isdecimal()


def _in_one_network(close: Close, there: Host, here: Host) -> bool:
    """Whether the addresses of *close* mean the same in both networks."""
    for each in (close.local, close.peer):
        within = _same_within(each.rpartition(":")[0])
        if within == "network" and (there.network is None or there.network != here.network):
            return False
        if within == "machine" and (there.clock is None or there.clock != here.clock):
            return False
    return True


@functools.lru_cache(10_000)
def _same_within(host: str) -> Literal["everywhere", "machine", "network"] | None:
    """Where *host* means the same to all; None for what is no address."""
    try:
        address = ip_address(host.strip("[]"))
    except ValueError:
        return None
    if address.is_loopback or address.is_link_local or address.is_unspecified:
        return "network"
    return "machine" if any(address in each for each in _OF_EACH_MACHINE) else "everywhere"


def _by_one_clock(pairs: Iterable[Pair]) -> list[tuple[Loss, Match]]:
    return [
        (loss, Match(close))
        for loss, close in pairs
        if loss.since <= close.asked and close.at <= loss.at
    ]


def _by_two_clocks(pairs: Sequence[Pair]) -> list[tuple[Loss, Match]]:
    """Those of *pairs* whose times fit, by what all of them say of the two clocks."""
    ordered = sorted(pairs, key=_delay)
    first, last, count = _most_agreeing(ordered)
    if count >= FEWEST:
        _, _, others = _most_agreeing(ordered[:first] + ordered[last:])
        if count < 2 * others:
            return []
        ahead = _delay(ordered[first])
        return [
            (loss, Match(close, ahead, count))
            for loss, close in ordered[first:last]
            if loss.since <= close.asked + ahead
        ]
    near = [
        (loss, close)
        for loss, close in ordered
        if -AGREE <= _delay((loss, close)) <= SPREAD and loss.since <= close.asked
    ]
    if _connections(near) < count:
        return []
    return [(loss, Match(close)) for loss, close in near]


def _most_agreeing(ordered: Sequence[Pair]) -> tuple[int, int, int]:
    """Where those of *ordered* begin and end that differ by `SPREAD` at most and are of the most
    connections; and of how many."""
    best = 0, 0, 0
    first = 0
    inside: Counter[tuple[str, int]] = Counter()
    for last, pair in enumerate(ordered):
        inside[_connection(pair)] += 1
        while _delay(pair) - _delay(ordered[first]) > SPREAD:
            gone = _connection(ordered[first])
            inside[gone] -= 1
            if not inside[gone]:
                del inside[gone]
            first += 1
        if len(inside) > best[2] or (len(inside) == best[2] and first == best[0]):
            best = first, last + 1, len(inside)
    return best


def _delay(pair: Pair) -> int:
    """From the close to the loss, each by its own clock."""
    loss, close = pair
    return loss.at - close.at


def _connections(pairs: Iterable[Pair]) -> int:
    """How many connections *pairs* are of: several tasks of one may have lost it."""
    return len({_connection(pair) for pair in pairs})


def _connection(pair: Pair) -> tuple[str, int]:
    _, close = pair
    return close.run, close.seq


def _without_doubt(
    matches: Mapping[tuple[str, int], Sequence[Match]],
) -> dict[tuple[str, int], Match]:
    """The matches that leave one candidate, in both directions."""
    found: dict[tuple[str, int], Match] = {}
    runs: dict[tuple[str, int], set[str]] = {}
    for key, each in matches.items():
        for match in each:
            runs.setdefault((match.close.run, match.close.seq), set()).add(key[0])
        if len({(match.close.run, match.close.request) for match in each}) == 1:
            found[key] = min(each, key=lambda match: match.close.at)
    return {
        key: match
        for key, match in found.items()
        if len(runs[match.close.run, match.close.seq]) == 1
    }
