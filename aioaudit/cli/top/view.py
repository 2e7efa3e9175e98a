"""The screen on a terminal, by prompt_toolkit: the only module that knows of one.

The terminal is given back as it was however the command ends: by a key, by a signal, or because it
is gone.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import TextIO

from prompt_toolkit.application import Application
from prompt_toolkit.buffer import Buffer
from prompt_toolkit.filters import Condition
from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.input import create_input
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.layout import (
    BufferControl,
    ConditionalContainer,
    FormattedTextControl,
    HSplit,
    Layout,
    UIContent,
    UIControl,
    VSplit,
    Window,
)
from prompt_toolkit.output import ColorDepth, create_output
from prompt_toolkit.styles import Style
from prompt_toolkit.utils import get_cwidth

from aioaudit.cli.terminal import say
from aioaudit.cli.top.model import Model
from aioaudit.cli.top.screen import Screen
from aioaudit.cli.top.sources import Source, Turns

LEFT, BAD, INTERRUPTED = 0, 2, 130
"""Exit statuses: it was left by a key, there is no keyboard, Ctrl-C."""

AT_A_TIME = 0.03
"""Seconds that are read at a time, before keys are looked at again."""

REDRAW = 0.25
"""Seconds between two looks at the model while something comes."""

TICK = 1.0
"""Seconds after which the clock goes on where nothing comes."""

IDLE = 0.1
"""Seconds after which sources are looked at again where nothing came."""

LATE = 2.0
"""Seconds for which there may be more to read than was read until it is said."""

ESCAPE = 0.1
"""Seconds after which a lone escape is that key, and not the begin of another one."""

_STYLE = Style.from_dict(
    {
        "bar": "reverse",
        "head": "bold underline",
        "chosen": "reverse",
        "bad": "bold ansired",
        "dim": "",
        "warn": "bold",
    }
)


def show(sources: Sequence[Source], title: str) -> int:
    """Show what *sources* tell until somebody leaves; the exit status.

    Args:
        sources: What is read.
        title: What they are called together.
    """
    try:
        keyboard = _keyboard()
    except OSError as error:
        say(f"top has no keyboard: standard input is a pipe, and /dev/tty: {error.strerror}")
        return BAD
    view = View(sources, title, keyboard)
    try:
        status = asyncio.run(view.run())
    except EOFError:  # the keyboard is gone
        status = -signal.SIGHUP
    except OSError:
        _leave_stdout()  # so is the screen, and nobody is there to be told
        status = -signal.SIGHUP
    if status < 0:  # whoever started it is to see that a signal ended it
        signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    return status


def _keyboard() -> TextIO:
    """Where keys come from: standard input, else the terminal itself."""
    if sys.stdin is not None and sys.stdin.isatty():
        return sys.stdin
    fd = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC)
    return os.fdopen(fd, encoding="utf-8", errors="surrogateescape")


def _leave_stdout() -> None:
    """Give what is left in its buffer to nobody: else the interpreter complains at its end."""
    with suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _colours() -> ColorDepth | None:
    """No colour where the user wants none or the terminal has none; None: as it is told."""
    if os.environ.get("NO_COLOR") or _known_colours() in (-1, 0, 1, 2):
        return ColorDepth.DEPTH_1_BIT
    return ColorDepth.DEPTH_4_BIT


def _known_colours() -> int:
    """How many colours the system says that the terminal has; 8 where it does not know it."""
    try:
        import curses

        curses.setupterm(fd=sys.stdout.fileno())
        return curses.tigetnum("colors")
    except Exception:  # noqa: BLE001 - curses may be missing, and raises an error of its own class
        return 8


class _Body(UIControl):
    """Draws the lines of a screen."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen

    def is_focusable(self) -> bool:
        """Keys go here where nobody types."""
        return True

    def create_content(self, width: int, height: int) -> UIContent:
        """All lines, which are as many as there are rows."""
        lines = self._screen.lines(width, height)
        pieces: list[StyleAndTextTuples] = [
            [(f"class:{style}" if style else "", text) for style, text in line] for line in lines
        ]
        return UIContent(lambda at: pieces[at], line_count=len(pieces), show_cursor=False)


class View:
    """The screen, the keys and what is read, in one loop.

    Args:
        sources: What is read.
        title: What they are called together.
        keyboard: Where keys come from.
    """

    def __init__(self, sources: Sequence[Source], title: str, keyboard: TextIO) -> None:
        self._turns = Turns(sources)
        self._model = Model()
        self._screen = Screen(self._model, title, get_cwidth)
        self._typed = Buffer(multiline=False, on_text_changed=self._on_typed)
        self._body = Window(_Body(self._screen))
        self._field = Window(BufferControl(self._typed), height=1)
        self._late_since: float | None = None
        self._drawn = (-1, 0.0)
        self._application: Application[int] = Application(
            layout=Layout(self._layout(), focused_element=self._body),
            key_bindings=self._keys(),
            style=_STYLE,
            include_default_pygments_style=False,
            full_screen=True,
            color_depth=_colours(),
            input=create_input(keyboard),
            output=create_output(sys.stdout),
        )
        self._application.ttimeoutlen = ESCAPE

    async def run(self) -> int:
        """Until somebody leaves: the exit status, or a signal with a minus before it."""
        loop = asyncio.get_running_loop()
        ended_by = 0

        def leave(number: int) -> None:
            nonlocal ended_by
            ended_by = number
            self._leave(-number)

        for number in (signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, partial(leave, number))
        reading = asyncio.create_task(self._read(), name="reading")
        try:
            return await self._application.run_async(set_exception_handler=False)
        except (EOFError, OSError):
            if ended_by:  # the terminal went with it
                _leave_stdout()
                return -ended_by
            raise
        finally:
            reading.cancel()
            with suppress(asyncio.CancelledError):
                await reading
            self._turns.close()

    def _leave(self, status: int) -> None:
        if self._application.is_running and not self._application.is_done:
            self._application.exit(result=status)

    # -- reading -------------------------------------------------------------------------------

    async def _read(self) -> None:
        try:
            while True:
                began = time.monotonic()
                came = True
                while came and time.monotonic() - began < AT_A_TIME:
                    came = self._turns.read(self._model)
                if not came:
                    self._model.caught_up(ended=self._turns.ended)
                    self._late_since = None
                elif self._late_since is None:
                    self._late_since = began
                self._redraw()
                await asyncio.sleep(0 if came else IDLE)
        except Exception as error:
            # Nobody awaits this task while the screen is there: it ends with the error.
            if not self._application.is_done:
                self._application.exit(exception=error)
            raise

    def _redraw(self, *, now: bool = False) -> None:
        """Look at the model, where it has changed, or the clock has gone on."""
        changes, when = self._drawn
        passed = time.monotonic() - when
        due = passed >= REDRAW if self._model.changes != changes else passed >= TICK
        ticks = self._model.following or self._model.changes != changes or when == 0
        if now or (due and (ticks or self._state() != self._screen.board.state)):
            self._screen.refresh(self._state(), self._turns.notes(), anyway=now)
            self._drawn = (self._model.changes, time.monotonic())
            self._application.invalidate()

    def _state(self) -> str:
        """How far reading is."""
        late = self._late_since is not None and time.monotonic() - self._late_since > LATE
        left = self._turns.behind()
        if not self._turns.read_once:
            return f"reading, {_size(left)} left" if left else "reading"
        if late:
            return f"BEHIND by {_size(left)}" if left else "BEHIND"
        if self._turns.ended or self._model.over:
            return "ended"
        return "live" if self._model.following else "waiting"

    # -- keys ----------------------------------------------------------------------------------

    def _layout(self) -> HSplit:
        searching = Condition(lambda: self._screen.searching)
        ask = Window(FormattedTextControl("/ "), width=2, height=1)
        keys = Window(
            FormattedTextControl(lambda: f" {self._screen.keys}"), height=1, style="class:bar"
        )
        return HSplit(
            [self._body, ConditionalContainer(VSplit([ask, self._field]), searching), keys]
        )

    def _keys(self) -> KeyBindings:
        screen = self._screen
        keys = KeyBindings()
        typing = Condition(lambda: screen.searching)
        plain = ~typing

        def bind(what: object, *names: str) -> None:
            for name in names:

                @keys.add(name, filter=plain)
                def pressed(_event: KeyPressEvent, what: object = what) -> None:
                    assert callable(what)
                    what()

        bind(partial(screen.move, -1), "up", "k")
        bind(partial(screen.move, 1), "down", "j")
        bind(partial(screen.page, -1), "pageup")
        bind(partial(screen.page, 1), "pagedown", "space")
        bind(partial(screen.end, last=False), "home", "g")
        bind(partial(screen.end, last=True), "end", "G")
        bind(screen.part, "tab")
        bind(screen.enter, "enter")
        bind(partial(screen.task, 1), "right")
        bind(partial(screen.task, -1), "left")
        bind(partial(screen.incident, 1), "n")
        bind(partial(screen.incident, -1), "b")
        bind(screen.help, "?")
        bind(self._pause, "p")
        bind(self._everything, "h")
        bind(self._search, "/")
        bind(partial(self._back, leave=False), "escape")
        bind(partial(self._back, leave=True), "q")
        bind(self._application_suspend, "c-z")

        @keys.add("enter", filter=typing)
        def typed(_event: KeyPressEvent) -> None:
            self._searched()

        @keys.add("escape", filter=typing, eager=True)
        def given_up(_event: KeyPressEvent) -> None:
            self._searched(no_more=True)

        @keys.add("c-c")
        @keys.add("<sigint>")
        def interrupted(_event: KeyPressEvent) -> None:
            self._leave(INTERRUPTED)

        @keys.add("c-l")
        def redrawn(_event: KeyPressEvent) -> None:
            self._application.renderer.clear()

        del typed, given_up, interrupted, redrawn  # they are known by their keys
        return keys

    def _application_suspend(self) -> None:
        self._application.suspend_to_background()

    def _pause(self) -> None:
        self._screen.pause()
        self._redraw(now=True)

    def _everything(self) -> None:
        self._screen.everything = not self._screen.everything
        self._redraw(now=True)

    def _back(self, *, leave: bool) -> None:
        if not self._screen.back():
            if leave:
                self._leave(LEFT)
            return
        self._typed.text = self._screen.search
        self._redraw(now=True)

    def _search(self) -> None:
        if self._screen.open is not None or self._screen.helping:
            return
        self._screen.searching = True
        self._typed.text = self._screen.search
        self._application.layout.focus(self._field)

    def _searched(self, *, no_more: bool = False) -> None:
        if no_more:
            self._typed.text = ""
        self._screen.searching = False
        self._application.layout.focus(self._body)
        self._redraw(now=True)

    def _on_typed(self, buffer: Buffer) -> None:
        self._screen.search = buffer.text
        self._redraw(now=True)


def _size(count: int) -> str:
    return f"{count / 1e6:,.1f} MB" if count >= 100_000 else f"{count / 1e3:,.1f} kB"
