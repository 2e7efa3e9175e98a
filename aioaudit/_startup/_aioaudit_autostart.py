"""What Python runs at its start where aioaudit is installed.

A wheel places this module at the root of site-packages, beside the file that
names it: the one line of ``aioaudit_autostart.pth`` tests the variables before
it imports anything.  Rejected: ``aioaudit_autostart.start`` (PEP 829, Python
3.15 and newer), which cannot test anything: to find this module alone, site
imports 31 others, 9 ms at each start of each program of the environment.
Python 3.18 is to run no import lines of ``.pth`` files any more; there
``python -m aioaudit run`` is what is left.

Python runs it twice in a virtual environment, and again in every
sub-interpreter.  Nothing may leave `main`: an exception here would be printed
at each start of Python, and SystemExit would end it.

PYTEST_DONT_REWRITE, for the reason that `aioaudit` gives.
"""

import os
import sys

_OFF = ("", "0", "off", "false", "no")  # as in `aioaudit.settings`, which must not be imported yet
_started = False


def main() -> None:
    """Start auditing if ``AIOAUDIT`` or ``AIOAUDIT_NOTES`` asks for it.

    ``-I``, ``-E`` and ``-S`` turn that off, and so does ``AIOAUDIT=off``.
    """
    global _started
    if _started or sys.flags.ignore_environment:
        return
    word = os.environ.get("AIOAUDIT", "").strip().lower()
    if word in _OFF and (word or os.environ.get("AIOAUDIT_NOTES", "").strip().lower() in _OFF):
        return
    _started = True
    try:
        from aioaudit.startup import start_from_environ

        start_from_environ()
    except BaseException as error:  # noqa: BLE001 - see above: nothing may leave this function
        try:
            text = " ".join(f"{type(error).__name__}: {error}".split())
            sys.stderr.write(f"aioaudit: cannot start: {text}; this program runs unaudited\n")
        except BaseException:  # noqa: BLE001, S110 - there is no stderr: nobody to tell
            pass
