"""What the shop of `service.py` depends on, and how it can go wrong.

    python upstream.py [--host HOST] [--port PORT]
        [--hang NAME] [--reset NAME] [--slow NAME=SECONDS]

Any path is answered; NAME is the first part of one, ``reviews`` of
``/reviews/teapot``.  What hangs is never answered; what is reset is not either,
and a moment later its connection is reset.
"""

from __future__ import annotations

import argparse
import asyncio
import socket
import struct

USUALLY = 0.02
"""Seconds that an answer takes."""

BEFORE_RESET = 0.1
"""Seconds until a connection is reset."""


class Upstream:
    """Answers on one port, as well as *args* lets it."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.hang: list[str] = args.hang
        self.reset: list[str] = args.reset
        self.slow: dict[str, float] = dict(args.slow)

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer what comes over one connection, until the other side closes it."""
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                name = head.split(b" ")[1].decode().split("/")[1]
                await self.answer_one(name, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def answer_one(self, name: str, writer: asyncio.StreamWriter) -> None:
        """Answer one request for *name*, or fail to."""
        if name in self.hang:
            await asyncio.get_running_loop().create_future()
        if name in self.reset:
            await asyncio.sleep(BEFORE_RESET)
            # Closing without lingering sends a reset instead of an orderly end.
            writer.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
            )
            raise ConnectionResetError(name)
        await asyncio.sleep(self.slow.get(name, USUALLY))
        body = f"the {name}".encode()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        await writer.drain()


def name_and_seconds(text: str) -> tuple[str, float]:
    """``stock=0.5`` as a pair."""
    name, _, seconds = text.partition("=")
    return name, float(seconds)


async def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--hang", metavar="NAME", action="append", default=[])
    parser.add_argument("--reset", metavar="NAME", action="append", default=[])
    parser.add_argument(
        "--slow", metavar="NAME=SECONDS", type=name_and_seconds, action="append", default=[]
    )
    args = parser.parse_args()
    upstream = Upstream(args)
    server = await asyncio.start_server(upstream.answer, args.host, args.port)
    print(f"listening on http://{args.host}:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
