"""Write `docs/events.schema.json` anew from the event classes.

Usage: python tools/events_schema.py
"""

from __future__ import annotations

import inspect
import json
import sys
from pathlib import Path
from typing import cast

sys.path.insert(0, str(Path(__file__).parents[1]))

from aioaudit.events import json_schema

FILE = Path(__file__).parents[1] / "docs" / "events.schema.json"


def text() -> str:
    """The file as it ought to be."""
    return json.dumps(tidy(json_schema()), indent=2, ensure_ascii=False) + "\n"


def tidy(schema: object) -> object:
    """*schema* with descriptions as Python 3.13 has them; older ones keep the indentation."""
    if isinstance(schema, str):
        return inspect.cleandoc(schema)
    if isinstance(schema, list):
        return [tidy(each) for each in cast("list[object]", schema)]
    if isinstance(schema, dict):
        return {key: tidy(value) for key, value in cast("dict[str, object]", schema).items()}
    return schema


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8")
    print(f"wrote {FILE}")
