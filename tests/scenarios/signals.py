"""Signals: the loop's own handlers, Python's, and who happened to run when one came."""

from __future__ import annotations

import asyncio
import os
import signal
from types import FrameType

from harness import (  # type: ignore[import-not-found]  # beside this file when it runs
    settle,
    spawn,
    start,
    steps,
)


def send(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)


async def bound_cancel() -> None:
    victim = spawn("bound_cancel.victim")
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, victim.cancel)  # LINE bound_cancel
    await steps()
    send(signal.SIGTERM)
    await settle(victim)
    loop.remove_signal_handler(signal.SIGTERM)


# WHY bound_cancel.victim: cancelled, obeyed
#   cancelled bound_cancel.victim signal @bound_cancel detail~
#   signal SIGTERM @bound_cancel detail~


async def function() -> None:
    victim = spawn("function.victim")
    loop = asyncio.get_running_loop()

    def stop() -> None:
        victim.cancel()  # LINE function

    loop.add_signal_handler(signal.SIGTERM, stop)
    await steps()
    send(signal.SIGTERM)
    await settle(victim)
    loop.remove_signal_handler(signal.SIGTERM)


# WHY function.victim: cancelled, obeyed
#   cancelled function.victim signal @function
#   signal SIGTERM @function


async def one_function_two_signals() -> None:
    loop = asyncio.get_running_loop()

    def stop() -> None:
        for victim in victims:
            victim.cancel()  # LINE two_signals

    loop.add_signal_handler(signal.SIGUSR1, stop)
    loop.add_signal_handler(signal.SIGUSR2, stop)
    victims = [spawn("two_signals.victim")]
    await steps()
    send(signal.SIGUSR1)
    await settle(*victims)
    loop.remove_signal_handler(signal.SIGUSR1)
    loop.remove_signal_handler(signal.SIGUSR2)


# WHY two_signals.victim: cancelled, obeyed (asyncio)
#   cancelled two_signals.victim signal @two_signals
#   signal SIGUSR1 @two_signals
# WHY two_signals.victim: cancelled, obeyed (uvloop)
#   cancelled two_signals.victim signal @two_signals
#   signal SIGUSR1|- @two_signals detail~


async def function_called_plainly() -> None:
    # A handler that is called by the program itself is no signal.
    victim = spawn("called_plainly.victim")
    loop = asyncio.get_running_loop()

    def stop() -> None:
        victim.cancel()  # LINE called_plainly

    loop.add_signal_handler(signal.SIGTERM, stop)
    await steps()
    stop()
    await settle(victim)
    loop.remove_signal_handler(signal.SIGTERM)


# WHY called_plainly.victim: cancelled, obeyed
#   cancelled called_plainly.victim explicit @called_plainly by=function_called_plainly
#   called explicit @called_plainly by=function_called_plainly


async def plain_handler() -> None:
    victim = spawn("plain_handler.victim")
    loop = asyncio.get_running_loop()

    def stop(number: int, frame: FrameType | None) -> None:
        victim.cancel()  # LINE plain_handler
        loop.call_soon_threadsafe(lambda: None)  # the loop does not wake up by itself

    before = signal.signal(signal.SIGUSR1, stop)
    await steps()
    # Nothing of the program runs when it comes.
    loop.call_later(0.02, send, signal.SIGUSR1)
    await settle(victim)
    signal.signal(signal.SIGUSR1, before)


# WHY plain_handler.victim: cancelled, obeyed
#   cancelled plain_handler.victim signal @plain_handler
#   signal SIGUSR1 @plain_handler


async def bystander() -> None:
    # The handler runs on top of a task that has nothing to do with it.
    victim = spawn("bystander.victim")
    heard = []

    def stop(number: int, frame: FrameType | None) -> None:
        heard.append(number)
        end()

    def end() -> None:
        victim.cancel()  # LINE bystander

    async def innocent() -> None:
        try:
            raise ValueError("the bystander's own")
        except ValueError:
            send(signal.SIGUSR1)
            while not heard:
                pass

    before = signal.signal(signal.SIGUSR1, stop)
    await steps()
    await settle(victim, spawn("bystander.not_listed", innocent()))
    signal.signal(signal.SIGUSR1, before)


# WHY bystander.victim: cancelled, obeyed
#   cancelled bystander.victim signal @bystander
#   signal SIGUSR1 @bystander


async def handler_called_plainly() -> None:
    victim = spawn("handler_called_plainly.victim")

    def stop(number: int, frame: FrameType | None) -> None:
        victim.cancel()  # LINE handler_called_plainly

    before = signal.signal(signal.SIGUSR1, stop)
    await steps()
    stop(0, None)
    await settle(victim)
    signal.signal(signal.SIGUSR1, before)


# WHY handler_called_plainly.victim: cancelled, obeyed
#   cancelled handler_called_plainly.victim explicit @handler_called_plainly by=handler_called_plainly
#   called explicit @handler_called_plainly by=handler_called_plainly


class Service:
    """Its method is the handler."""

    def __init__(self, task: asyncio.Task[None]) -> None:
        self.task = task

    def stop(self, *_: object) -> None:
        self.task.cancel()  # LINE method


async def method() -> None:
    victim = spawn("method.victim")
    before = signal.signal(signal.SIGUSR1, Service(victim).stop)
    await steps()
    send(signal.SIGUSR1)
    await settle(victim)
    signal.signal(signal.SIGUSR1, before)


# WHY method.victim: cancelled, obeyed
#   cancelled method.victim signal @method
#   signal SIGUSR1 @method


async def handed_to_the_loop() -> None:
    # What a handler that must not touch the loop does.
    victim = spawn("handed.victim")
    loop = asyncio.get_running_loop()

    def stop(number: int, frame: FrameType | None) -> None:
        tell()

    def tell() -> None:
        loop.call_soon_threadsafe(victim.cancel)  # LINE handed

    before = signal.signal(signal.SIGUSR1, stop)
    await steps()
    loop.call_later(0.02, send, signal.SIGUSR1)
    await settle(victim)
    signal.signal(signal.SIGUSR1, before)


# WHY handed.victim: cancelled, obeyed
#   cancelled handed.victim signal @handed
#   signal SIGUSR1 @handed


start(
    bound_cancel,
    function,
    one_function_two_signals,
    function_called_plainly,
    plain_handler,
    bystander,
    handler_called_plainly,
    method,
    handed_to_the_loop,
)
