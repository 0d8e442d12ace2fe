"""`--http`: an address or one line about it; the token of it is never repeated."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from upsertq.contract.errors import UsageError
from upsertq_worker.cli.http_options import HttpAddress, http_address

if TYPE_CHECKING:
    from pathlib import Path

TOKEN = "a-token-of-this-test-4711"  # noqa: S105 - no secret


def fault(http: str, token_file: str | None = None) -> str:
    """What is said about it."""
    with pytest.raises(UsageError) as raised:
        http_address(http, token_file)
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize(
    ("given", "host", "port"),
    [
        ("127.0.0.1:9400", "127.0.0.1", 9400),
        ("LOCALHOST:0", "localhost", 0),
        ("[::1]:9400", "::1", 9400),
        (" 127.0.0.1:65535 ", "127.0.0.1", 65535),
    ],
)
def test_this_machine_needs_no_token(given: str, host: str, port: int) -> None:
    """Host and port as they were meant."""
    assert http_address(given, None) == HttpAddress(host, port)


def test_nothing_is_served_unless_asked_for() -> None:
    """Without an address."""
    assert http_address(None, None) is None
    assert http_address("", None) is None


@pytest.mark.parametrize(
    "given",
    [
        *("9400", "127.0.0.1", "127.0.0.1:", ":9400", "127.0.0.1:99999", "127.0.0.1:x", "::1:9400"),
        *(
            "http://127.0.0.1:9400",
            "127.0.0.1:9400/metrics",
            "a b:1",
            "127.0.0.1:-1",
            "[127.0.0.1:1",
            "*:9400",
            "a@b:1",
        ),
    ],
)
def test_what_is_no_address(given: str) -> None:
    """It is named, with one that is."""
    assert fault(given) == f"--http is '{given}': give HOST:PORT, like 127.0.0.1:9400 or [::1]:9400"


@pytest.mark.parametrize("host", ["0.0.0.0", "[::]", "10.1.2.3", "some.host", "127.0.0.1.example"])  # noqa: S104 - refused
def test_beyond_this_machine_a_token_is_needed(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the environment or a file; it is in no repr."""
    assert "reachable from other machines: give a token" in fault(f"{host}:9400")
    monkeypatch.setenv("UPSERTQ_HTTP_TOKEN", f" {TOKEN} ")
    found = http_address(f"{host}:9400", None)
    assert found == HttpAddress(host.strip("[]"), 9400, TOKEN)
    assert TOKEN not in repr(found)


def test_a_token_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Alone in it; it wins over the environment."""
    monkeypatch.setenv("UPSERTQ_HTTP_TOKEN", "another-token-0123456789")
    path = tmp_path / "token"
    path.write_text(f"{TOKEN}\n")
    assert http_address("127.0.0.1:0", str(path)) == HttpAddress("127.0.0.1", 0, TOKEN)


@pytest.mark.parametrize(
    "token", ["too-SHORT", "", "two words are no token", "no-ascii-0123456789é", "x" * 1_001, "line\nline-0123456789"]
)
def test_what_is_no_token(token: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it stands is told, and not what stands there."""
    path = tmp_path / "token"
    path.write_text(token)
    said = fault("127.0.0.1:0", str(path))
    assert said.startswith(f"{path} (--http-token-file) holds no token: 16 to 1,000 ASCII characters")
    assert not token or token not in said
    if token:
        monkeypatch.setenv("UPSERTQ_HTTP_TOKEN", token)
        assert fault("127.0.0.1:0").startswith("UPSERTQ_HTTP_TOKEN holds no token")


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    """None, a folder, a device: named."""
    assert fault("127.0.0.1:0", "/nowhere/t") == (
        "cannot read the token from /nowhere/t (--http-token-file): No such file or directory"
    )
    for other in (str(tmp_path), "/dev/zero"):
        assert fault("127.0.0.1:0", other) == f"{other} (--http-token-file) is no file"
