"""Private. Foreign text made safe to keep and to show: names, messages and reprs of any program.

Everything that ends in an event passes through `clean`, at the moment the event
is made: the text is short, holds no lone surrogates (JSON in UTF-8 has no
place for them), and asking for it can neither raise nor run for long.

Everything that is shown, in a sentence, in a log, on a terminal, passes through
`escape_unprintable`: a name may come from whoever talks to the program, and hold a newline, an
escape sequence or a mark that turns the direction of writing.
"""

from __future__ import annotations

import sys

LIMIT = 200
"""Longest text kept, in characters, the mark not counted."""

MARK = "…"

MOST_SHOWN = 10_000
"""Characters that are shown of a text; what an event holds is a tenth of it, unless it is a lie."""


def clean(text: str, limit: int = LIMIT) -> str:
    """*text* as it may stand in an event: at most *limit* characters and a mark."""
    if type(text) is not str:
        text = str.__str__(text)  # of a class of its own, as an enum's: not all encoders take it
    if len(text) > limit:
        text = text[:limit] + MARK
    if text.isascii():
        return text
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def describe(error: BaseException) -> str:
    """``ClassName: message`` of *error*, whatever its ``__str__`` does.

    Ctrl-C and a signal handler's ``sys.exit()`` may come while it runs: they are the program's.
    """
    kind = type(error).__name__
    try:
        message = str(error)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:  # noqa: BLE001 - a program's own __str__ may raise anything at all
        return clean(f"{kind}: <its __str__ raised>")
    return clean(f"{kind}: {message}" if message else kind)


def words_of(error: BaseException) -> str:
    """What *error* says, without its class; `describe` where its ``__str__`` says nothing."""
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - an exporter's own __str__ may raise anything at all
        return describe(error)


def message_of(value: object) -> str | None:
    """The message given to ``cancel()`` as text; None where there is none."""
    if value is None:
        return None
    try:
        return clean(value if isinstance(value, str) else repr(value))
    except (KeyboardInterrupt, SystemExit):
        raise  # as in `describe`
    except BaseException:  # noqa: BLE001 - a program's own __repr__ may raise anything at all
        return f"<{type(value).__name__}, its __repr__ raised>"


def path_and_line(at: str | None) -> tuple[str, int] | None:
    """*at*, as events have it (``path:line``), in two; None where it is not of that form.

    Events may come from a log, and so from anybody: CPython counts lines in 32 bits (``co_lines``),
    and what is no such number is none, be it a digit of another script or 5,000 digits.
    """
    path, _, line = (at or "").rpartition(":")
    if path and len(line) < 11 and line.isascii() and line.isdigit():
        return path, int(line)
    return None


def in_package(place: str) -> str:
    """*place*, a ``path:line``, from the folder on in which packages are installed."""
    path = place.replace("\\", "/")
    folders = ("/site-packages/", "/dist-packages/")
    return place[max(path.rfind(each) + len(each) if each in path else 0 for each in folders) :]


def escape_unprintable(text: str) -> str:
    r"""*text* with every character that is not plainly visible escaped.

    ``escape_unprintable("a\nb")`` is ``a``, a backslash, ``n``, ``b``.  What is visible
    already comes back unchanged, in whatever alphabet, up to `MOST_SHOWN` characters.
    """
    if len(text) > MOST_SHOWN:
        text = text[:MOST_SHOWN] + MARK
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode("ascii")
        for each in text
    )


def one_line(text: str) -> str:
    """`escape_unprintable` *text* on one line, its words with a blank between them."""
    return escape_unprintable(" ".join(text.split()))


def say(message: str, more: str = "") -> None:
    """One harmless line on stderr; *more*, if there is any, on a second, indented.

    Whatever stands there: a closed file, nothing, an object of anybody's.
    """
    try:
        stderr = sys.stderr
        if stderr is not None:  # None under pythonw and the like
            text = f"aioaudit: {one_line(message)}\n"
            if more:
                text += f"    {one_line(more)}\n"
            stderr.write(text)
            stderr.flush()
    except Exception:  # noqa: BLE001, S110 - there is nobody to tell
        pass
