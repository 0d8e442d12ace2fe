"""Lives through many histories on all processors, or through one with its trace: the command behind `make soak`.

python tests/simulation/soak.py --seeds 10000 --start 0
python tests/simulation/soak.py --seed 4711 --trace
"""
# ruff: noqa: T201 - a command speaks by printing

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from collections import Counter
from typing import TYPE_CHECKING

from history import live

if TYPE_CHECKING:
    from history import Report


def main() -> int:
    """Return 0 when every promise held, else 1."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10_000, help="how many histories (default 10000)")
    parser.add_argument("--start", type=int, default=0, help="the first seed (default 0)")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="how many at a time")
    parser.add_argument("--seed", type=int, help="only this history")
    parser.add_argument("--trace", action="store_true", help="with --seed: print all that happened")
    wanted = parser.parse_args()
    if wanted.seed is not None:
        return _show(live(wanted.seed, traced=wanted.trace))
    return _soak(range(wanted.start, wanted.start + wanted.seeds), wanted.processes)


def _show(report: Report) -> int:
    print("\n".join(report.history))
    for violation in report.violations:
        print(f"seed {report.seed}: {violation}")
    events = ", ".join(f"{count} {kind}" for kind, count in sorted(report.seen.items()))
    print(
        f"seed {report.seed}: {len(report.violations)} violations in {report.seconds:.1f} s of virtual time; {events}"
    )
    return int(bool(report.violations))


def _soak(seeds: range, processes: int) -> int:
    started = time.monotonic()
    failed: list[int] = []
    seen: Counter[str] = Counter()
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        for done, report in enumerate(pool.imap_unordered(live, seeds, chunksize=10), start=1):
            seen.update(report.seen)
            if report.violations:
                failed.append(report.seed)
                print(f"seed {report.seed}: {report.violations[0]}", flush=True)
            if done % 1000 == 0:
                print(f"{done} histories, {len(failed)} failed, {time.monotonic() - started:.0f} s", flush=True)
    events = ", ".join(f"{count} {kind}" for kind, count in sorted(seen.items()))
    print(f"{len(seeds)} histories in {time.monotonic() - started:.0f} s: {events}")
    if failed:
        print(f"FAILED: seeds {' '.join(map(str, sorted(failed)))}; see one with --seed N --trace")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
