"""What is found: one thing looked at, and whether it is as it should be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

State = Literal["ok", "none", "note", "warning", "problem"]
"""``none``: not there, and nothing is wrong with that.  ``note``: good to know.

``warning``: something that aioaudit could tell will not be told.  ``problem``: what
was asked for does not work.
"""

WRONG = frozenset({"warning", "problem"})

SiteState = Literal["there", "gone", "not in this version", "cannot be checked"]


class Diagnosis(msgspec.Struct, kw_only=True, omit_defaults=True, frozen=True):
    """One line of the doctor's answer.

    ``section`` groups findings, ``subject`` is what was looked at, ``text`` says what
    was seen.  ``version`` is that of a library or package, ``call_sites`` has what
    became of each place that a recogniser knows, as ``module:qualname``, and ``names`` what
    became of each private name that is relied on, as ``module.Class.name``.
    """

    section: str
    subject: str
    state: State
    text: str
    version: str | None = None
    call_sites: Mapping[str, SiteState] | None = None
    names: Mapping[str, SiteState] | None = None
