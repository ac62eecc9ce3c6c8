"""`make test-faults`: try every kind of fault; print how often it was tried and handled wrongly.

python -m faults [short|long] [--only WORD ...] [--command NAME ...] [--table FILE]
"""

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ["TQDM_DISABLE"] = "1"

from . import command_lines, damage, disks, kills
from .commands import commands

# How often each fault is tried for each command or format.
LONG = {"kills": 20, "pairs": 5, "signals": 9, "disks": 10, "damage": 40, "lines": 1000}
SHORT = {"kills": 2, "pairs": 1, "signals": 3, "disks": 1, "damage": 8, "lines": 20}

Trial = tuple[str, str | None]


def trials(work: Path, short: bool, only: list[str], names: list[str]) -> Iterator[Trial]:
    """Run all trials; yield the kind of each, and the fault or None."""
    counts = SHORT if short else LONG
    chosen = [c for c in commands(work, short=short) if set(only) & set(c.kinds)]
    if names:
        chosen = [c for c in chosen if c.name in names]

    for command in chosen:
        folder = work / "runs"
        folder.mkdir()
        reference = kills.run_uninterrupted(command, folder / "reference")
        print(f"  {command.name}: {reference[1]:.1f} s without faults", file=sys.stderr)
        kinds = [kind for kind in command.kinds if kind in only]
        if "kills" in kinds:
            yield from kills.kills(command, folder, counts["kills"], reference)
        if "disks" in kinds:
            yield from disks.disks(command, folder, counts["disks"])
        if "pairs" in kinds:
            yield from kills.pairs(command, folder, counts["pairs"], reference)
        if "signals" in kinds:
            yield from kills.signals(command, folder, counts["signals"], reference)
        shutil.rmtree(folder)
    if "damage" in only:
        yield from damage.damage(work, counts["damage"])
    if "lines" in only:
        yield from command_lines.command_lines(work, counts["lines"])


def main() -> None:
    """Run all trials, print a table, and exit with 1 if any failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("form", nargs="?", choices=["short", "long"], default="long")
    parser.add_argument("--only", nargs="*", choices=list(LONG), default=list(LONG))
    parser.add_argument("--command", nargs="*", help="only these, such as 'tvlens vectors'")
    parser.add_argument("--table", type=Path, help="write the table there, as Markdown")
    options = parser.parse_args()
    tried: Counter = Counter()
    failed: Counter = Counter()
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        for kind, fault in trials(
            Path(folder).resolve(), options.form == "short", options.only, options.command or []
        ):
            tried[kind] += 1
            failed[kind] += fault is not None
            if fault is not None:
                print(f"FAILED {kind}: {fault}", file=sys.stderr, flush=True)
    rows = [(kind, tried[kind], failed[kind]) for kind in tried]
    rows.append(("all", sum(tried.values()), sum(failed.values())))
    table = "| fault | tried | failed |\n|---|---|---|\n"
    table += "".join(f"| {kind} | {n} | {wrong} |\n" for kind, n, wrong in rows)
    print(table + f"\n{time.perf_counter() - began:.0f} s")
    if options.table:
        options.table.write_text(table)
    sys.exit(sum(failed.values()) > 0)


if __name__ == "__main__":
    main()
