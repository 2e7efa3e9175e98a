"""Draw docs/trace.svg: a cancelled request as a trace view shows it, from a real trace.

    python tools/trace_picture.py [FILE]

Runs `examples/traced_service.py` with auditing on and an upstream that hangs,
asks it for a page, takes the spans that arrive at a collector, and draws the
trace of that request: the bars, and the attributes of the task that was
cancelled.  Needs what the tests need.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from textwrap import wrap
from typing import Any, NamedTuple
from xml.sax.saxutils import escape

from opentelemetry.proto.collector.trace.v1 import trace_service_pb2

ROOT = Path(__file__).resolve().parent.parent
PICTURE = ROOT / "docs" / "trace.svg"

PAGE = "/page/teapot"
WIDTH = 1000
NAMES = 330
"""Where the names end and time begins."""
ROW = 30
LINE = 18
SHOWN = (
    "aioaudit.task.name",
    "aioaudit.task.outcome",
    "aioaudit.cancel.reason",
    "aioaudit.cancel.summary",
    "aioaudit.cancel.chain",
    "aioaudit.cancel.root.what",
    "aioaudit.cancel.root.at",
    "aioaudit.cancel.root.seconds",
)
"""The attributes that are shown, of more than twenty."""


class Span(NamedTuple):
    """What is drawn of a span; times are nanoseconds."""

    trace: bytes
    id: bytes
    parent: bytes
    name: str
    start: int
    end: int
    attributes: dict[str, Any]
    links: list[str]

    @property
    def about(self) -> str:
        """Which task, for a reader who sees several of one name."""
        of_task = self.attributes.get("aioaudit.task.name")
        if of_task is not None:
            return str(of_task)
        reason = self.attributes.get("aioaudit.cancel.reason")
        target = self.attributes.get("aioaudit.cancel.target.task.name")
        return "" if reason is None else f"{reason}, of {target}"


def main(argv: list[str]) -> int:
    """Make the picture; returns the exit status."""
    path = Path(argv[0]) if argv else PICTURE
    with collector() as (url, spans):
        stage(url)
    path.write_text(draw(trace_of(spans)))
    print(f"{path}: {path.stat().st_size:,} bytes")
    return 0


@contextmanager
def collector() -> Generator[tuple[str, list[Span]]]:
    """The URL of a collector, and the list that it fills."""
    spans: list[Span] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            """Take a request of the OTLP exporter."""
            body = self.rfile.read(int(self.headers["Content-Length"]))
            spans.extend(read(body))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as the base class has it
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", spans
    server.shutdown()
    server.server_close()


def read(body: bytes) -> Generator[Span]:
    """The spans in a request to a collector."""
    request: Any = trace_service_pb2.ExportTraceServiceRequest.FromString(body)
    for group in request.resource_spans:
        for scoped in group.scope_spans:
            for span in scoped.spans:
                yield Span(
                    span.trace_id,
                    span.span_id,
                    span.parent_span_id,
                    span.name,
                    span.start_time_unix_nano,
                    span.end_time_unix_nano,
                    {each.key: value(each.value) for each in span.attributes},
                    [each.span_id.hex() for each in span.links],
                )


def value(found: Any) -> Any:
    """What an attribute holds."""
    kind = found.WhichOneof("value")
    inner = getattr(found, kind)
    return [value(each) for each in inner.values] if kind == "array_value" else inner


def stage(collector_url: str) -> None:
    """Ask the service for a page while the upstream with the reviews hangs."""
    variables = {
        "AIOAUDIT": "otel",
        "OTEL_SERVICE_NAME": "shop",
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector_url,
    }
    run = ["-m", "aioaudit", "run"]
    with (
        started("upstream.py", "--hang", "reviews") as upstream,
        started(*run, "traced_service.py", upstream, **variables) as shop,
    ):
        # The first page is not drawn: much is imported for it.
        for method, path in (("GET", "/page/cup"), ("GET", PAGE), ("POST", "/drain")):
            try:
                urllib.request.urlopen(urllib.request.Request(shop + path, method=method)).close()  # noqa: S310 - ours
            except urllib.error.HTTPError as error:
                error.close()  # the page is a 504, that is what this is about


@contextmanager
def started(*args: str, **variables: str) -> Generator[str]:
    """The URL of a Python program among the examples; at the end it is given time to end."""
    with subprocess.Popen(
        [sys.executable, *args],
        cwd=ROOT / "examples",
        env=os.environ | {"PYTHONPATH": str(ROOT)} | variables,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().split()[-1]
            if variables:
                process.wait(30)
        finally:
            process.kill()


def trace_of(spans: list[Span]) -> list[Span]:
    """The trace of the page, each span after its parent."""
    [root] = [span for span in spans if PAGE in span.attributes.values()]
    inside = sorted((span for span in spans if span.trace == root.trace), key=lambda s: s.start)
    ordered = [root]

    def add_children(parent: Span) -> None:
        for span in inside:
            if span.parent == parent.id:
                ordered.append(span)
                add_children(span)

    add_children(root)
    return ordered


def draw(spans: list[Span]) -> str:
    """The trace *spans* as SVG."""
    root = spans[0]
    victim = next(s for s in spans if s.attributes.get("aioaudit.task.outcome") == "cancelled")
    length = root.end - root.start
    parts: list[str] = []
    y = 44
    parts += heading(f"shop: {root.name}", f"{length / 1e6:.0f} ms, {len(spans)} spans", length)
    depths = {root.id: 0}
    for span in spans:
        depths[span.id] = depths.get(span.parent, -1) + 1
        parts += row(span, depths[span.id], y, root.start, length)
        y += ROW
        if span is victim:
            rows, height = details(span, y)
            parts += rows
            y += height
    body = "\n".join(parts)
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y + 8}" \
font-family="system-ui, 'DejaVu Sans', sans-serif" font-size="13" fill="#222">
<title>The trace of a request whose upstream hung, drawn by tools/trace_picture.py</title>
<rect width="{WIDTH}" height="{y + 8}" fill="#fff"/>
{body}
</svg>
"""


def heading(title: str, summary: str, length: int) -> list[str]:
    """The name of the trace, and its clock."""
    parts = [
        text(12, 20, title, weight="bold"),
        text(NAMES, 20, summary, fill="#666"),
        f'<line x1="0" y1="44" x2="{WIDTH}" y2="44" stroke="#ccc"/>',
    ]
    for quarter in range(5):
        x = place(quarter * length // 4, length)
        anchor = "end" if quarter == 4 else "start"
        label = f"{quarter * length / 4e6:.0f} ms"
        parts.append(text(x, 39, label, fill="#888", size=11, anchor=anchor))
    return parts


def row(span: Span, depth: int, y: int, began: int, length: int) -> list[str]:
    """One span: its name on the left, its time on the right."""
    x = 12 + depth * 18
    middle = y + ROW // 2
    parts = [
        text(x, middle - 1 if span.about else middle + 5, span.name),
        text(x, middle + 11, span.about, fill="#777", size=10),
    ]
    left, right = place(span.start - began, length), place(span.end - began, length)
    cancelled = span.attributes.get("aioaudit.task.outcome") == "cancelled"
    if span.name == "asyncio.cancel":
        parts.append(
            f'<path d="M{left} {middle - 6} l6 6 l-6 6 l-6 -6 z" fill="#c0392b">'
            f"<title>{escape(relative(span.attributes['aioaudit.cancel.summary']))}</title></path>"
        )
    else:
        fill = "#e59866" if cancelled else "#7fb3d5"
        parts.append(
            f'<rect x="{left}" y="{middle - 6}" width="{max(right - left, 2)}" height="12" '
            f'rx="2" fill="{fill}"/>'
        )
    parts.append(f'<line x1="0" y1="{y + ROW}" x2="{WIDTH}" y2="{y + ROW}" stroke="#eee"/>')
    return parts


def details(span: Span, y: int) -> tuple[list[str], int]:
    """The attributes of *span*, as a viewer shows them when it is clicked; and their height."""
    lines: list[tuple[str, str]] = []
    for key in SHOWN:
        for number, line in enumerate(shown(span.attributes[key])):
            lines.append(("" if number else key, line))
    lines.append(("links", f"cancelled_by {span.links[0]} (asyncio.cancel)"))
    height = len(lines) * LINE + 14
    parts = [
        f'<rect x="30" y="{y + 3}" width="{WIDTH - 42}" height="{height - 6}" fill="#f6f6f6"/>'
    ]
    for number, (key, line) in enumerate(lines):
        at = y + 20 + number * LINE
        parts += [text(42, at, key, fill="#555", size=11.5), text(250, at, line, size=11.5)]
    return parts, height


def shown(found: Any) -> Iterable[str]:
    """The lines that a value takes."""
    for each in found if isinstance(found, list) else [found]:
        yield from wrap(relative(str(each)), 112, subsequent_indent="   ")


def relative(words: str) -> str:
    """*words* with their paths as seen from the tree."""
    return words.replace(f"{ROOT}{os.sep}", "")


def place(moment: int, length: int) -> int:
    """Where a moment is on the clock."""
    return NAMES + round((WIDTH - NAMES - 20) * min(max(moment / length, 0), 1))


def text(
    x: int,
    y: int,
    words: str,
    *,
    fill: str = "#222",
    size: float = 13,
    weight: str = "normal",
    anchor: str = "start",
) -> str:
    """*words* at a place."""
    style = f'fill="{fill}" font-size="{size:g}" font-weight="{weight}" text-anchor="{anchor}"'
    return f'<text x="{x}" y="{y}" xml:space="preserve" {style}>{escape(words)}</text>'


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
