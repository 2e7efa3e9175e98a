"""Sets of numbers that take little room: the ids of a million tasks, the ``seq`` of ten million lines."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

_BITS = 12
"""So many of a number's bits say where in its page it is."""

_PAGE = 1 << _BITS


class Numbers:
    """A set of whole numbers, a bit for each: what is close together shares a page."""

    __slots__ = ("_pages",)

    def __init__(self) -> None:
        self._pages: dict[int, int] = {}

    def __contains__(self, number: int) -> bool:
        page = self._pages.get(number >> _BITS)
        return page is not None and page >> (number & (_PAGE - 1)) & 1 == 1

    def __len__(self) -> int:
        return sum(page.bit_count() for page in self._pages.values())

    def add(self, number: int) -> None:
        """Add *number*."""
        page = number >> _BITS
        self._pages[page] = self._pages.get(page, 0) | 1 << (number & (_PAGE - 1))

    def add_stretch(self, first: int, last: int) -> int:
        """Add all from *first* to *last*; how many of them were not there before."""
        new = 0
        while first <= last:
            page = first >> _BITS
            end = min(last, ((page + 1) << _BITS) - 1)
            bits = ((1 << (end - first + 1)) - 1) << (first & (_PAGE - 1))
            before = self._pages.get(page, 0)
            self._pages[page] = before | bits
            new += (before | bits).bit_count() - before.bit_count()
            first = end + 1
        return new


def stretches(numbers: Iterable[int]) -> list[int]:
    """*numbers*, sorted, as the first and the last of each stretch without a gap, one after the other."""
    found: list[int] = []
    for number in numbers:
        if found and number == found[-1] + 1:
            found[-1] = number
        else:
            found += (number, number)
    return found


def pairs(found: list[int]) -> Iterator[tuple[int, int]]:
    """The first and the last number of each of `stretches`."""
    each = iter(found)
    return zip(each, each, strict=True)
