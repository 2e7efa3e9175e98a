"""Keeps the last events in memory, in a ring of so many bytes, and writes them when asked.

The modules in here are private: `RecorderExporter` is made and looked after by `exporter`, what
is kept and what goes first is `ring`'s, and a file is written by `writing`.
"""

from aioaudit.exporters.recorder.exporter import RecorderExporter

__all__ = ["RecorderExporter"]
