"""How close to a service's limit a fleet sends: real workers, an emulator with token buckets, and what came of it.

Each trial has a limit for each namespace, a token bucket of `--burst` seconds' worth, which 429s name or not; it halves
and then doubles. Prints what was accepted of what was allowed and the share of 429s: of each phase, and of what is left
of it 10 s after the start or 15 s after a change.

    python benchmarks/pace.py --seconds 120 --chart docs/pace.svg
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.request import ProxyHandler, Request, build_opener

import click
import numpy as np
from drain import redis_server

from upsertq import Producer

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

QUEUE: Final = "pace"
RECORDS: Final = 25
"""Records of a request: an entry."""
EVERY: Final = 0.5
"""Seconds between two looks."""
UPSERTQ: Final = (sys.executable, "-m", "upsertq")
OPENER: Final = build_opener(ProxyHandler({}))


@dataclass(frozen=True)
class Look:
    """What was to be seen at a time: totals, and requests in flight then."""

    at: float
    accepted: int
    refused: int
    in_flight: int


@dataclass
class Trial:
    """One service with its limits: `phases` are (requests a second and namespace, seconds)."""

    burst: float
    named: bool
    phases: Sequence[tuple[float, float]]
    looks: list[Look] = field(default_factory=list)

    def faults(self, rate: float) -> dict[str, Any]:
        """The limits as the emulator takes them: requests, and 50 MB a second."""
        throttle = {"kind": "throttle", "requests": rate, "bytes": 50_000_000, "burst": self.burst, "named": self.named}
        return {"faults": [{"kind": "latency", "distribution": "constant", "seconds": 0.1}, throttle]}

    def between(self, start: float, end: float, allowed: float) -> dict[str, float]:
        """What was accepted of `allowed` requests a second, and the share of 429s, from the first to the last look."""
        first, *_, last = (look for look in self.looks if start <= look.at <= end)
        accepted, refused = last.accepted - first.accepted, last.refused - first.refused
        return {"accepted": accepted / allowed / (last.at - first.at), "refused": refused / (accepted + refused)}

    def spans(self) -> Iterator[tuple[float, float, float]]:
        """Rate, start and end of each phase."""
        start = 0.0
        for rate, seconds in self.phases:
            yield rate, start, start + seconds
            start += seconds

    def figures(self, namespaces: int) -> list[dict[str, Any]]:
        """What came of each phase: of all of it, and of what is left after it may take to settle."""
        found = []
        for number, (rate, start, end) in enumerate(self.spans()):
            settled = start + (15 if number else 10)
            whole = self.between(start, end, rate * namespaces)
            later = self.between(min(settled, end - 5), end, rate * namespaces)
            found.append(
                {"burst": self.burst * rate, "named": self.named, "limit": rate}
                | whole
                | {f"{name}_settled": value for name, value in later.items()}
            )
        return found


def talk(url: str, path: str, document: Any = None) -> Any:
    """Ask the emulator, or tell it."""
    data = None if document is None else json.dumps(document).encode()
    headers = {"Content-Type": "application/json"}
    request = Request(f"{url}{path}", data, headers, method="PUT" if data else "GET")  # noqa: S310 - the emulator's
    with OPENER.open(request) as answer:
        return json.loads(answer.read())


@contextlib.contextmanager
def process(*arguments: str, told: bool = False) -> Iterator[subprocess.Popen[str]]:
    """A command of upsertq that runs meanwhile."""
    stdout = subprocess.PIPE if told else subprocess.DEVNULL
    running = subprocess.Popen([*UPSERTQ, *arguments], stdout=stdout, stderr=subprocess.DEVNULL, text=True)
    try:
        yield running
    finally:
        running.kill()
        running.wait()


def fill(url: str, namespaces: int, records: int) -> None:
    """Put as many records into each namespace as will be needed."""
    values = np.ones((1_000, 2), np.float32)
    with Producer(QUEUE, url=url) as producer:
        for namespace in range(namespaces):
            for start in range(0, records, 1_000):
                names = [f"id-{number}" for number in range(start, start + 1_000)]
                producer.put_many(names, values, namespace=f"tenant-{namespace}")


def run(trial: Trial, workers: int, namespaces: int, redis_url: str | None) -> None:
    """Fill a queue, drain it by so many workers, and look on."""
    needed = sum(rate * seconds for rate, seconds in trial.phases) * 1.15 + 500
    with contextlib.ExitStack() as stack:
        url = redis_url or stack.enter_context(redis_server())
        fill(url, namespaces, int(needed) * RECORDS)
        emulator = stack.enter_context(process("emulate", "--port", "0", "--discard", "--json", told=True))
        index = json.loads(emulator.stdout.readline())["url"]  # type: ignore[union-attr]
        talk(index, "/_emulator/faults", trial.faults(trial.phases[0][0]))
        options = ["--redis-url", url, "--queue", QUEUE, "--index-host", index, "--batch-size", str(RECORDS)]
        for _ in range(workers):
            stack.enter_context(process("work", *options))
        while not talk(index, "/_emulator/counters")["upserts"]:
            time.sleep(0.05)
        began = time.monotonic()
        for rate, start, end in trial.spans():
            if start:
                talk(index, "/_emulator/faults", trial.faults(rate))
            while (now := time.monotonic() - began) < end:
                counted = talk(index, "/_emulator/counters")
                accepted, refused = (counted["outcomes"].get(status, 0) for status in ("200", "429"))
                trial.looks.append(Look(now, accepted, refused, counted["in_flight"]))
                time.sleep(EVERY)


def chart(trials: Sequence[Trial], namespaces: int) -> str:
    """The trials as an SVG: allowed, accepted, refused and in flight, a panel each."""
    width, height, left = 760, 190, 60
    size = f'viewBox="0 0 {width} {height * len(trials) + 30}"'
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="12">']
    parts.append('<rect width="100%" height="100%" fill="white"/>')
    colours = {"allowed": "#999999", "accepted": "#1a7f37", "refused": "#cf222e", "in flight": "#0969da"}
    for place, (name, colour) in enumerate(colours.items()):
        parts.append(f'<text x="{left + 130 * place}" y="18" fill="{colour}">{name}</text>')
    for number, trial in enumerate(trials):
        top, end = 30 + number * height, trial.looks[-1].at
        most = 1.3 * namespaces * max(rate for rate, _ in trial.phases)
        at = [look.at for look in trial.looks]
        pairs = list(zip(trial.looks[:-2], trial.looks[2:], strict=True))
        lines = {
            "allowed": [(time, namespaces * rate) for rate, *span in trial.spans() for time in span],
            "accepted": [((a.at + b.at) / 2, (b.accepted - a.accepted) / (b.at - a.at)) for a, b in pairs],
            "refused": [((a.at + b.at) / 2, (b.refused - a.refused) / (b.at - a.at)) for a, b in pairs],
            "in flight": [(time, look.in_flight) for time, look in zip(at, trial.looks, strict=True)],
        }
        told = f"burst {trial.burst * trial.phases[0][0]:g}, limit {'named' if trial.named else 'not named'}"
        parts.append(f'<text x="{width - 10}" y="{top + 12}" text-anchor="end">{told}; a second</text>')
        for level in range(0, int(most), 200):
            y = top + height - 25 - level / most * (height - 40)
            parts.append(f'<path d="M{left} {y:.1f}H{width - 10}" stroke="#eeeeee"/>')
            parts.append(f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{level}</text>')
        for second in range(0, int(end) + 1, 20):
            x = left + second / end * (width - left - 10)
            parts.append(f'<text x="{x:.1f}" y="{top + height - 8}" text-anchor="middle">{second} s</text>')
        for name, points in lines.items():
            drawn = " ".join(
                f"{left + min(x, end) / end * (width - left - 10):.1f},"
                f"{top + height - 25 - min(y, most) / most * (height - 40):.1f}"
                for x, y in points
            )
            parts.append(f'<polyline points="{drawn}" fill="none" stroke="{colours[name]}" stroke-width="1.5"/>')
    return "\n".join([*parts, "</svg>", ""])


@click.command()
@click.option("--seconds", default=120.0, show_default=True, help="Seconds of the first limit.")
@click.option("--after", default=40.0, show_default=True, help="Of the halved and of the doubled limit; 0: none.")
@click.option("--limit", default=100.0, show_default=True, help="Requests a second and namespace.")
@click.option("--burst", "bursts", type=float, multiple=True, default=(1.0, 0.1), show_default=True, help="Seconds.")
@click.option("--named/--unnamed", default=None, help="Whether 429s name the limit; both unless given.")
@click.option("--workers", default=4, show_default=True)
@click.option("--namespaces", default=3, show_default=True)
@click.option("--redis-url", help="An empty server, for one trial; one is started for each unless given.")
@click.option("--chart", "drawing", type=click.Path(path_type=Path), help="Draw the trials into this file.")
def main(
    seconds: float, after: float, limit: float, bursts: tuple[float, ...], named: bool | None, workers: int,  # noqa: FBT001
    namespaces: int, redis_url: str | None, drawing: Path | None,
) -> None:  # fmt: skip
    """Run the trials; prints a JSON object for each phase of each."""
    phases = [(limit, seconds), *([(limit / 2, after), (limit, after)] if after else [])]
    trials = [Trial(burst, one, phases) for burst in bursts for one in ((True, False) if named is None else (named,))]
    for trial in trials:
        run(trial, workers, namespaces, redis_url)
        for phase in trial.figures(namespaces):
            print(json.dumps({name: round(value, 4) for name, value in phase.items()}), flush=True)
    if drawing is not None:
        drawing.write_text(chart(trials, namespaces), encoding="utf-8")


if __name__ == "__main__":
    main()
