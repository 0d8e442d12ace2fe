"""The key is exchanged while a worker runs; one that cannot be read leaves the key as it was, and is told once."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from upsertq.contract.errors import UsageError
from upsertq_worker.cli.options import api_key
from upsertq_worker.edge.credential import Credential

if TYPE_CHECKING:
    from pathlib import Path

OLD, NEW = "old-secret", "new-secret"


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Provide a key's file that the environment names."""
    path = tmp_path / "key"
    path.write_text(OLD + "\n")
    monkeypatch.setenv("PINECONE_API_KEY_FILE", str(path))
    return path


def test_another_key_is_taken(file: Path) -> None:
    """And the same one is no news."""
    credential = Credential(api_key(), api_key)
    assert not credential.renew()
    file.write_text(NEW)
    assert credential.renew()
    assert credential.key == NEW
    assert not credential.renew()


def test_a_key_of_the_environment_stays() -> None:
    """There is nothing to read anew."""
    assert not Credential(OLD).renew()


@pytest.mark.parametrize("content", [b"", b" \n", b"two words", b"\xff\xfe", b"k" * 9_000, "clé".encode(), None])
def test_what_is_no_key_leaves_the_one_there_was(
    content: bytes | None, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is told once, with the file's name; and again only after it was right."""
    credential = Credential(api_key(), api_key)
    if content is None:
        file.unlink()
    else:
        file.write_bytes(content)
    for _ in range(3):
        assert not credential.renew()
    assert credential.key == OLD
    assert len(caplog.records) == 1
    assert "key" in caplog.text
    assert OLD not in caplog.text
    file.write_text(NEW)
    assert credential.renew()
    file.unlink()
    assert not credential.renew()
    assert len([record for record in caplog.records if record.levelname == "ERROR"]) == 2


def test_a_pipe_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would block the worker."""
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.setenv("PINECONE_API_KEY_FILE", str(tmp_path / "pipe"))
    with pytest.raises(UsageError, match="no file"):
        api_key()
