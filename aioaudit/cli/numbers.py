"""The number of a process, as commands take it."""

from __future__ import annotations

from typing import Any

import click


class Pid(click.IntRange):
    """A process's number, from 1 on; what is none is told in words that say what would be right."""

    def __init__(self) -> None:
        super().__init__(min=1)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """*value* as a number.

        Raises:
            click.BadParameter: it is none, or below 1.
        """
        try:
            return int(super().convert(value, param, ctx))
        except click.BadParameter:
            wrong = f"{str(value)!r} is no number of a process; aioaudit ps lists those that are audited"
            raise click.BadParameter(wrong, ctx, param) from None
