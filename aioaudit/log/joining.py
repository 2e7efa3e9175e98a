"""Private. Which close of a connection, in one process, was the loss that another one tells of.

A pure function over what logs say.  Both ends of a connection name the same two addresses, where
nothing between them changes those.  That alone is no proof, since ports are used again.  But there
is only one connection between two addresses at a time: a task that served one before the close and
heard of its end after it served the one that was closed.

What has to hold, then, for a close and a loss:

- what is one's own address is the other's peer's, and the other way round;
- an address that means something else in each network (127.0.0.1) was told in the same network,
  and one of Docker's default bridge on the same machine;
- the task that lost its peer was there before the close, and was asked to cancel after it;
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

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from ipaddress import ip_address, ip_network
from typing import NamedTuple

SECOND = 1_000_000_000
SPREAD = SECOND // 2
"""The times from closes to their losses differ by at most this much, where clocks are measured by them."""
AGREE = SECOND // 10
"""Clocks of two machines agree if they differ by at most this much."""
FEWEST = 3
"""So many connections measure a clock."""

_BRIDGE = ip_network("172.17.0.0/16")
"""What Docker gives its default bridge on every machine (docs.docker.com/engine/network)."""


class Close(NamedTuple):
    """A task closed a connection: a line ``connection.close``.

    ``request`` is the ``seq`` of the request because of which it did; times are in nanoseconds.
    """

    run: str
    seq: int
    request: int
    at: int
    local: str
    peer: str


class Loss(NamedTuple):
    """A task was asked to cancel because its peer went away; ``since`` when it was surely there."""

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
    by_addresses: dict[tuple[str, str], list[Close]] = {}
    for close in closes:
        by_addresses.setdefault((close.local, close.peer), []).append(close)
    pairs: dict[tuple[str, str], list[Pair]] = {}
    for loss in losses:
        for close in by_addresses.get((loss.peer, loss.local), ()):
            there, here = hosts.get(close.run, _NOWHERE), hosts.get(loss.run, _NOWHERE)
            if _in_one_network(close, there, here):
                clocks = there.clock or close.run, here.clock or loss.run
                pairs.setdefault(clocks, []).append((loss, close))
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


def _in_one_network(close: Close, there: Host, here: Host) -> bool:
    """Whether the addresses of *close* mean the same in both networks."""
    for each in (close.local, close.peer):
        try:
            address = ip_address(each.rpartition(":")[0].strip("[]"))
        except ValueError:
            return False  # of a log that was tampered with
        if address.is_loopback or address.is_link_local or address.is_unspecified:
            if there.network is None or there.network != here.network:
                return False
        elif address in _BRIDGE and (there.clock is None or there.clock != here.clock):
            return False
    return True


def _by_one_clock(pairs: Iterable[Pair]) -> list[tuple[Loss, Match]]:
    return [(loss, Match(close)) for loss, close in pairs if loss.since <= close.at <= loss.at]


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
            if loss.since <= close.at + ahead
        ]
    near = [
        (loss, close)
        for loss, close in ordered
        if -AGREE <= _delay((loss, close)) <= SPREAD and loss.since <= close.at
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
