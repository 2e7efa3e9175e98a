"""Private. The two addresses of a connection as lines tell them: ``10.0.0.5:8080``, ``[2001:db8::1]:443``.

What one end calls its own address is what the other calls its peer's, letter for letter, where
nothing on the way changes addresses.  So an IPv4 address is written as such also where a socket of
IPv6 took the connection (``::ffff:10.0.0.5``), and without the zone, which is a host's own name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

_MAPPED = "::ffff:"


class Connection(NamedTuple):
    """The address at this end of a connection, and the one at its other end; None if not known."""

    local: str | None
    peer: str | None


def address(host: object, port: object) -> str | None:
    """*host* and *port* in one word, None where they are none of TCP's."""
    if type(host) is not str or type(port) is not int or not host or not 0 < port < 65536:
        return None
    host = host.partition("%")[0]
    if host.lower().startswith(_MAPPED) and "." in host:
        host = host[len(_MAPPED) :]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def of_pair(name: Any) -> str | None:
    """The address that *name* is, as a socket or an ASGI scope has it; None where it is none."""
    if not isinstance(name, tuple | list) or len(name) < 2:
        return None
    return address(name[0], name[1])


def both(local: Any, peer: Any) -> Connection | None:
    """The connection between two such names; None unless both are addresses."""
    here, there = of_pair(local), of_pair(peer)
    return None if here is None or there is None else Connection(here, there)


def of_transport(transport: Any) -> Connection | None:
    """The addresses of what *transport* is open to; None where it tells none, or is no TCP."""
    if hasattr(transport, "sendto"):
        return None  # of UDP: nobody at the other end notices that it is closed
    ask = transport.get_extra_info
    return both(ask("sockname"), ask("peername"))


def of_scope(scope: Any) -> Connection | None:
    """Those that an ASGI server gives the application, in *scope*; None where it does not.

    Something in between may have put there whom a proxy has named.
    """
    if not isinstance(scope, Mapping):
        return None
    return both(scope.get("server"), scope.get("client"))
