"""What the process tells the client when it is done."""

from __future__ import annotations

import msgspec


class Told(msgspec.Struct, omit_defaults=True):
    """How it stands in the process now.

    Attributes:
        version: Of the aioaudit that is there.
        size: Bytes that the recorder may take.
        beside: Other exporters that are on.
        elsewhere: Whether no loop of the main thread could be asked, so nothing was done there.
        tasks: How many tasks were found that are older.
        timeouts: How many timeouts they are in.
        groups: How many task groups.
        unseen: How many loops did not come to having their tasks looked at.
    """

    version: str = ""
    size: int = 0
    beside: list[str] = []
    elsewhere: bool = False
    tasks: int = 0
    timeouts: int = 0
    groups: int = 0
    unseen: int = 0

    def encoded(self) -> str:
        """As text, for `decoded`."""
        return msgspec.json.encode(self).decode()


def decoded(text: str) -> Told:
    """What was `encoded`; where it is something else, nothing is known."""
    try:
        return msgspec.json.decode(text, type=Told)
    except msgspec.MsgspecError:
        return Told()
