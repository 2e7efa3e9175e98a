"""The hook of hatchling: a wheel holds the native core where there is a C compiler for it.

Where there is none, or it fails, the wheel is of pure Python and for any Python, and one line
says so.  ``AIOAUDIT_BUILD_CORE=0`` makes that wheel on purpose.  An editable install stays a path
to the tree; ``tools/build_core.py`` puts the core there.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

VARIABLE = "AIOAUDIT_BUILD_CORE"


class CoreHook(BuildHookInterface[Any]):
    """Compiles the core for a wheel."""

    PLUGIN_NAME = "custom"
    _scratch: str | None = None

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Before a wheel is made: add the core to what it holds, and say what it is for."""
        if version == "editable" or os.environ.get(VARIABLE, "").strip() == "0":
            return
        builder = _build_core()
        self._scratch = tempfile.mkdtemp(prefix="aioaudit-wheel-")
        try:
            made: Path = builder.build(Path(self._scratch))
        except builder.NoCoreError as error:
            self.app.display_warning(f"aioaudit: a wheel of pure Python, no native core: {error}")
            return
        build_data["force_include"][str(made)] = f"aioaudit/core/{made.name}"
        build_data["pure_python"] = False
        build_data["infer_tag"] = True

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:  # noqa: ARG002 - as the interface has it
        """After it was made: leave nothing behind."""
        if self._scratch is not None:
            shutil.rmtree(self._scratch, ignore_errors=True)


def _build_core() -> ModuleType:
    """``build_core.py`` beside this file, which hatchling loads by its path and from no package."""
    path = Path(__file__).with_name("build_core.py")
    spec = importlib.util.spec_from_file_location("aioaudit_build_core", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
