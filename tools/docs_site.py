"""What `mkdocs.yml` cannot say: pages and files of the site that lie outside of ``docs/``.

Pages are written to be read in the repository, where they link to each other by path.
In the site the README and its neighbours are pages at the top, and any other file that
a page links to (an example, a benchmark) is copied beside them, so that every link of a
page leads somewhere there, too.  The reference of the API is made of docstrings.
"""

from __future__ import annotations

import os
import re
from importlib import import_module
from pathlib import Path
from typing import Any

# mkdocs calls this and is there then; the environment that checks the sources does without it.
ROOT = Path(__file__).resolve().parent.parent
PAGES = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")
"""Pages of the repository's own folder, which are pages of the site."""

API = "api.md"
"""The page that lists the public names; docstrings follow it in the site."""

_BLOCK = re.compile(r"^( *)```.*?^\1```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(\]\()([^)#:]+)((?:#[^)]*)?\))")


def on_files(files: Any, config: Any) -> Any:
    """Add what lies outside: the pages, and the files that a page links to."""
    file_class = import_module("mkdocs.structure.files").File
    for name in PAGES:
        files.append(file_class.generated(config, name, content=(ROOT / name).read_text()))
    wanted = {
        target
        for file in list(files.documentation_pages())
        for target in _outside(_where(file.src_uri), file.content_string)
    }
    for target in sorted(wanted):
        name = target.relative_to(ROOT).as_posix()
        files.append(file_class.generated(config, name, abs_src_path=str(target)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: object) -> str:
    """Let each link lead to where its target is in the site."""
    here = _where(page.file.src_uri)
    start = Path(page.file.src_uri).parent

    def in_site(link: re.Match[str]) -> str:
        target = (here.parent / link[2]).resolve()
        if not target.is_relative_to(ROOT):
            return link[0]
        place = _place(target)
        return f"{link[1]}{os.path.relpath(place, start)}{link[3]}"

    parts: list[str] = []
    end = 0
    for block in _BLOCK.finditer(markdown):
        parts += [_LINK.sub(in_site, markdown[end : block.start()]), block[0]]
        end = block.end()
    parts.append(_LINK.sub(in_site, markdown[end:]))
    if page.file.src_uri == API:
        parts.append(_reference(markdown))
    return "".join(parts)


def _reference(markdown: str) -> str:
    """What docstrings say of each name that the page lists, for mkdocstrings to describe."""
    found: dict[str, None] = {}
    for section in markdown.split("\n## ")[1:]:
        module = section.partition("`")[2].partition("`")[0]
        for row in re.findall(r"^\| (`.+?) \|", section, re.MULTILINE):
            found.update(dict.fromkeys(f"{module}.{name}" for name in re.findall(r"`(\w+)`", row)))
    names = [name for name in found if not name.endswith("__")]
    return "\n\n".join(["\n\n## In detail", *(f"::: {name}" for name in names)])


def _where(name: str) -> Path:
    """The file that is the page *name* of the site."""
    return ROOT / name if name in PAGES else ROOT / "docs" / name


def _place(target: Path) -> str:
    """Where *target* is in the site."""
    inside = target.is_relative_to(ROOT / "docs")
    return target.relative_to(ROOT / "docs" if inside else ROOT).as_posix()


def _outside(page: Path, markdown: str) -> set[Path]:
    """The files outside of ``docs/`` that *page* links to, apart from `PAGES`."""
    found = {(page.parent / link[2]).resolve() for link in _LINK.finditer(_BLOCK.sub("", markdown))}
    return {
        target
        for target in found
        if target.is_file()
        and not target.is_relative_to(ROOT / "docs")
        and target not in {ROOT / name for name in PAGES}
    }
