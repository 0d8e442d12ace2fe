"""Owns how long the fuzz targets of `tests/fuzz` run and from which seed: a few seconds each, longer by `make fuzz`."""

import os
from collections.abc import Callable, Iterable
from typing import Any, Final, TypeVar

from hypothesis import HealthCheck, Phase, seed, settings

T = TypeVar("T")
FACTOR: Final = float(os.environ.get("FUZZ_FACTOR", "0.1"))
"""How many times its usual number of inputs each target tries."""
SEED: Final = int(os.environ.get("FUZZ_SEED", "20261128"))


def sampled(values: Iterable[T], one_in: float) -> list[T]:
    """Return one of so many values, more by `FUZZ_FACTOR`, spread over all of them and others with each `FUZZ_SEED`."""
    step = max(1, round(one_in / FACTOR))
    return [value for at, value in enumerate(values) if (at + SEED) % step == at // step % step]


def fuzzed(examples: int) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a `@given` test `examples` inputs, times `FUZZ_FACTOR`, the same ones in each run with a `FUZZ_SEED`."""
    chosen = settings(
        max_examples=max(1, round(examples * FACTOR)),
        deadline=None,
        database=None,
        phases=(Phase.explicit, Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )

    def decorate(test: Callable[..., Any]) -> Callable[..., Any]:
        return seed(SEED)(chosen(test))

    return decorate
