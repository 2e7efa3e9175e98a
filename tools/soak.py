"""Traffic of every kind for minutes, and whether a table of ours grows meanwhile.

    python tools/soak.py --minutes 20

Many short loops and one that lives for long, in the main thread and in others; cancels of
all kinds, failing groups, timeouts, anyio's scopes where it is installed, code that is
compiled as it runs, recordings that come and go.  After each tenth of the time the sizes of
all tables that can be reached from the package are printed, by the path to them, and the
memory of the process.  The end is status 1 if one has grown since the first tenth.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.soaking import grown, measured, memory, traffic


def main() -> int:
    """Soak, and tell."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=20, help="how long (default: 20)")
    tenth = parser.parse_args().minutes * 6
    start = time.monotonic()
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    rounds = tenths = rounds_then = 0

    def goes_on(number: int) -> bool:
        nonlocal first, last, rounds, tenths, rounds_then
        rounds = number
        if time.monotonic() - start < (tenths + 1) * tenth:
            return True
        tenths += 1
        last = measured()
        if tenths == 1:
            first, rounds_then = last, number
        print(f"\n== {tenths} of 10: {number:,} rounds, {memory():.1f} MB, {len(last)} tables")
        for path, size in last.items():
            if size:
                print(f"{size:9,} {path}")
        sys.stdout.flush()
        return tenths < 10

    traffic(goes_on)
    # One entry for every hundredth round would be a leak.
    told = grown(first, last, most=max((rounds - rounds_then) // 100, 20))
    print(f"\n{'grown:' if told else 'no table has grown since the first tenth'}")
    for line in told:
        print(line)
    return 1 if told else 0


if __name__ == "__main__":
    sys.exit(main())
