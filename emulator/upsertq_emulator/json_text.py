"""JSON to values and back; the only module that names orjson."""

from typing import Any

import orjson

_OPTIONS = orjson.OPT_SERIALIZE_NUMPY


def read_json(text: bytes | str) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: the text is no JSON; NaN, infinities and lone surrogates are none either.
    """
    return orjson.loads(text)


def write_json(value: Any) -> bytes:
    """The compact UTF-8 JSON text of `value`; float32 arrays get their shortest exact digits."""
    return orjson.dumps(value, option=_OPTIONS)


def ready_json(text: bytes) -> orjson.Fragment:
    """JSON text made earlier, for `write_json` to embed as it is."""
    return orjson.Fragment(text)
