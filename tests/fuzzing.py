"""Owns how long the fuzz targets of `tests/fuzz` run and from which seed: a minute each, longer by `make fuzz`."""

import os
from collections.abc import Callable
from typing import Any, Final

from hypothesis import HealthCheck, Phase, seed, settings

FACTOR: Final = float(os.environ.get("FUZZ_FACTOR", "1"))
"""How many times its usual number of inputs each target tries."""
SEED: Final = int(os.environ.get("FUZZ_SEED", "20261128"))


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
