"""Exporters, one module per sink.

In a source tree the modules live in the top-level ``exporters/`` folder and
this package only points there; a wheel holds them next to this file.
"""

from pathlib import Path

# The .pyi aliases exist in a source tree only: wheels leave them out.
if Path(__file__).with_name("jsonl.pyi").exists():
    __path__.append(str(Path(__file__).parents[2] / "exporters"))
