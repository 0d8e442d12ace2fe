"""Owns numbers written as text in other ways than JSON: arrays as NumPy, Python and Postgres print them, and base64."""

import base64
import binascii
import re
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

GAP: Final = re.compile(r"\.\.\.|…")
MISSING_NUMBERS: Final = (
    "was printed with '...': numbers are missing; write every one, such as by array.tolist() or "
    "numpy.set_printoptions(threshold=sys.maxsize)"
)
_PRINTED: Final = re.compile(
    r"(?:array\(\s*+)?(?:\[([^\[\](){}]*+)\]|\(([^\[\](){}]*+)\)|\{([^\[\](){}]*+)\})\s*+(?:,\s*+dtype=[\w.'<>]++\s*+)?\)?"
)
_NUMBER: Final = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_BASE64: Final = re.compile(r"[A-Za-z0-9+/]+={0,2}|[A-Za-z0-9_-]+={0,2}")
_SHORTEST: Final = 8
_FLOAT32: Final = 4
_SANE: Final = (1e-3, 1e5)
"""Between which the length of an embedding lies, and what other types read as float32 does not."""


def printed_numbers(text: str) -> list[float] | None:
    """The numbers of `[0. 0.5]`, `array([0.5, 1.])`, `(0.5, 1)`, `{0.5,1}`; `None` where the text is no such array."""
    match = _PRINTED.fullmatch(text.strip())
    if match is None:
        return None
    inner = next(group for group in match.groups() if group is not None)
    parts = [part.strip() for part in inner.strip().removesuffix(",").split(",")] if "," in inner else inner.split()
    if not all(map(_NUMBER.fullmatch, parts)):
        return None
    return list(map(float, parts))


def looks_like_base64(text: str) -> bool:
    """Whether the text is in base64's alphabet, and long enough to hold more than one number."""
    stripped = text.strip()
    return len(stripped) >= _SHORTEST and not stripped.isdigit() and _BASE64.fullmatch(stripped) is not None


def from_base64(text: str) -> Sequence[float] | npt.NDArray[np.float32] | None:
    """The little-endian float32 numbers in base64; `None` unless they can be nothing else, such as float64 or int8."""
    stripped = text.strip().rstrip("=").replace("-", "+").replace("_", "/")
    try:
        content = base64.b64decode(stripped + "=" * (-len(stripped) % 4), validate=True)
    except binascii.Error:
        return None
    if not content or len(content) % _FLOAT32:
        return None
    numbers: npt.NDArray[np.float32] = np.frombuffer(content, dtype="<f4")
    doubles = np.frombuffer(content, dtype="<f8") if len(content) % 8 == 0 else None
    if not _sane(numbers) or (doubles is not None and _sane(doubles)):
        return None
    return numbers


def _sane(numbers: npt.NDArray[Any]) -> bool:
    """Whether the numbers look like an embedding: finite, of a usual length, none of them vanishing beside it."""
    with np.errstate(all="ignore"):
        exact = numbers.astype(np.float64)
        length = float(np.sqrt(np.square(exact).sum()))
        small = np.abs(exact[exact != 0])
    usual = bool(np.isfinite(exact).all()) and _SANE[0] <= length <= _SANE[1]
    return usual and bool((small > length * 1e-9).all())
