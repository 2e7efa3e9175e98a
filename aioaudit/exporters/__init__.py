"""Exporters, one module per sink.

In a source tree the modules live in the top-level ``exporters/`` folder and
this package only points there; a wheel holds them next to this file.
"""

import os

# The .pyi aliases exist in a source tree only: wheels leave them out.
if os.path.exists(f"{__path__[0]}/jsonl.pyi"):  # noqa: PTH110 - pathlib takes its time to import
    __path__.append(f"{__file__.rsplit(os.sep, 3)[0]}{os.sep}exporters")
