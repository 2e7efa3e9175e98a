"""A report as one HTML file that loads nothing: what was drawn, a style and a script in one page.

The log is anybody's: names, messages and errors in it may be made to be read as HTML or as a
script.  Against that stands, each for itself: all text of the log passed through `escape_unprintable`;
jinja2 escapes whatever the template shows; the data stands in blocks of JSON that hold no ``<``; the
script puts text into the page as text; and the page's own policy (CSP) lets no script or style run
but the two whose hashes it names.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from importlib.resources import files

import jinja2
import msgspec
from markupsafe import Markup

from aioaudit.cli.report_model import Report
from aioaudit.cli.terminal import clock
from aioaudit.version import __version__

_IN_SCRIPT = {
    ord(each): f"\\u{ord(each):04x}" for each in ("<", ">", "&", "\u2028", "\u2029", "\x7f")
}
"""What could end a block of JSON, or a line of it, and how JSON says the same."""


def pages(report: Report) -> Iterator[bytes]:
    """The page that shows *report*, in parts."""
    style, script = _part("report.css"), _part("report.js")
    policy = "; ".join(
        (
            "default-src 'none'",
            f"script-src {_hashed(script)}",
            f"style-src {_hashed(style)}",
            "base-uri 'none'",
            "form-action 'none'",
        )
    )
    template = _environment().get_template("report.html")
    parts = template.generate(
        report=report,
        version=__version__,
        policy=policy,
        style=Markup(style),  # noqa: S704 - a file of this package
        script=Markup(script),  # noqa: S704 - as above
        data=_data,
        clock=clock,
    )
    return (part.encode() for part in parts)


def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        autoescape=True,
        loader=jinja2.FunctionLoader(_part),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _part(name: str) -> str:
    """A file of this package."""
    return (files("aioaudit.cli") / name).read_text(encoding="utf-8")


def _hashed(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return f"'sha256-{digest}'"


def _data(value: object) -> Markup:
    """*value* as JSON that may stand in a script element, whatever it holds."""
    text = msgspec.json.encode(value).decode()
    return Markup(text.translate(_IN_SCRIPT))  # noqa: S704 - no markup can be left in it
