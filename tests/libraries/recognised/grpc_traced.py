"""A call of grpc.aio whose client is cancelled while the span that sent it is current.

Usage: ``python grpc_traced.py (unary | stream)``.
"""

from __future__ import annotations

import asyncio
import importlib
import sys
from collections.abc import AsyncIterator
from typing import Any

grpc: Any = importlib.import_module("grpc")  # it has no types
aio: Any = importlib.import_module("grpc.aio")
propagate: Any = importlib.import_module("opentelemetry.propagate")
trace: Any = importlib.import_module("opentelemetry.trace")
sdk: Any = importlib.import_module("opentelemetry.sdk.trace")

begun = asyncio.Event()
received = asyncio.Event()
ended = asyncio.Event()


class Handlers(grpc.GenericRpcHandler):  # type: ignore[misc]  # of no known type
    """Handlers that wait until they are cancelled, in a span of the server's."""

    def service(self, handler_call_details: Any) -> Any:
        """The handler of ``/traced/unary`` or ``/traced/stream``."""

        async def unary(_request: bytes, context: Any) -> bytes:
            task = asyncio.current_task()
            assert task is not None
            task.set_name("handler")
            sent = propagate.extract(dict(context.invocation_metadata()))
            tracer = trace.get_tracer("server")
            kind = trace.SpanKind.SERVER
            try:
                with tracer.start_as_current_span("serve", context=sent, kind=kind):
                    begun.set()
                    await asyncio.sleep(3600)
            finally:
                ended.set()
            return b""

        async def stream(request: bytes, context: Any) -> AsyncIterator[bytes]:
            yield b"one"
            await unary(request, context)

        if handler_call_details.method.endswith("stream"):
            return grpc.unary_stream_rpc_method_handler(stream)
        return grpc.unary_unary_rpc_method_handler(unary)


async def client(port: int, kind: str) -> None:
    """Call, and wait for the answer."""
    tracer = trace.get_tracer("client")
    async with aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        with tracer.start_as_current_span("call", kind=trace.SpanKind.CLIENT):
            headers: dict[str, str] = {}
            propagate.inject(headers)
            metadata = tuple(headers.items())
            if kind == "stream":
                async for _ in channel.unary_stream("/traced/stream")(b"", metadata=metadata):
                    received.set()
            else:
                received.set()
                await channel.unary_unary("/traced/unary")(b"", metadata=metadata)


async def main(kind: str) -> None:
    """Serve one call, and wait until its handler has heard of the client's end."""
    server = aio.server()
    server.add_generic_rpc_handlers((Handlers(),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    task = asyncio.create_task(client(port, kind), name="client")
    await asyncio.wait_for(begun.wait(), 30)
    await asyncio.wait_for(received.wait(), 30)
    task.cancel()  # LINE cancels
    await asyncio.wait([task])
    await asyncio.wait_for(ended.wait(), 30)
    await server.stop(None)


trace.set_tracer_provider(sdk.TracerProvider())
asyncio.run(main(sys.argv[1]))
