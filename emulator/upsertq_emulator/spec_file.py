"""Reads a fault spec from where the user keeps it: a TOML or JSON file, or the text itself."""

import tomllib
from pathlib import Path

from upsertq_emulator.json_text import read_json
from upsertq_emulator.spec import FaultSpec, FaultSpecError, parse_faults


def load_faults(source: str) -> FaultSpec:
    """The spec in the file `source` where that ends in `.toml` or `.json`, else of the compact text itself.

    Raises:
        FaultSpecError: the file cannot be read, or the spec cannot be used.
    """
    path = Path(source)
    if path.suffix not in (".toml", ".json"):
        return parse_faults(source)
    try:
        text = path.read_bytes().decode()
        document = tomllib.loads(text) if path.suffix == ".toml" else read_json(text)
    except OSError as error:
        raise FaultSpecError([f"cannot read {path}: {error.strerror}"]) from None
    except ValueError as error:
        raise FaultSpecError([f"{path} is no {path.suffix[1:].upper()}: {error}"]) from None
    if not isinstance(document, dict):
        raise FaultSpecError([f"{path}: expected a table with seed and faults"])
    return parse_faults(document)
