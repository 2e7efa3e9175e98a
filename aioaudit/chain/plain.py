"""Foreign text made safe to show: in a sentence, in a log, on a terminal.

Names and messages come from the program that was audited, and so perhaps from
whoever talks to that program.  A name may hold a newline, an escape sequence
or a mark that turns the direction of writing: none of them may reach a
terminal, or break the one line of a summary.
"""

from __future__ import annotations

MOST = 10_000
"""Characters that are shown of a text; what an event holds is a tenth of it, unless it is a lie."""


def harmless(text: str) -> str:
    r"""*text* on one line, with every character that is not plainly visible escaped.

    ``harmless("a\nb")`` is ``a``, a backslash, ``n``, ``b``.  What is visible
    already comes back unchanged, in whatever alphabet, up to `MOST` characters.
    """
    if len(text) > MOST:
        text = text[:MOST] + "…"
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode("ascii")
        for each in text
    )
