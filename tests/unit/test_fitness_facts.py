"""What a server says of itself, as far as it may be believed."""

import pytest

from upsertq.contract.fitness import facts_of


@pytest.mark.parametrize(
    ("said", "append_only"),
    [
        ("loading:0\r\naof_enabled:0", False),
        ("loading:0\r\naof_enabled:1", True),
        ("loading:1\r\naof_enabled:0", None),
        ("aof_enabled:odd", None),
    ],
)
def test_a_server_that_loads_does_not_know_of_its_append_only_file(said: str, *, append_only: bool | None) -> None:
    """It says that it keeps none until it has read it: no reason to warn."""
    facts = facts_of(f"redis_version:7.0.15\r\nrole:master\r\nconnected_slaves:0\r\n{said}\r\n".encode())
    assert facts.append_only is append_only
    assert len(facts.warnings) == (append_only is False)
