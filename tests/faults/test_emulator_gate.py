"""The emulator's gate on a real socket: what a page or a stranger sends is answered, not read and not applied."""

from __future__ import annotations

import asyncio
import gzip

import orjson
import pytest

from upsertq_emulator.app import Emulator
from upsertq_emulator.gate import LARGEST_BODY

DEADLINE = 20.0
BODY = orjson.dumps({"vectors": [{"id": "a", "values": [1.0, 2.0]}]})


async def ask(emulator: Emulator, head: str, body: bytes = b"") -> tuple[int, bytes]:
    """Send raw bytes and read the answer's status and all of it up to where the connection closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", emulator.port)
    try:
        writer.write(head.replace("\n", "\r\n").encode() + b"\r\n" + body)
        async with asyncio.timeout(DEADLINE):
            line = await reader.readline()
            return int(line.split()[1]), await reader.readuntil(b"\r\n\r\n")
    finally:
        writer.close()


def post(path: str = "/vectors/upsert", host: str = "127.0.0.1", more: str = "", length: int = len(BODY)) -> str:
    """The head of a POST."""
    kind = "" if "Content-Type" in more else "Content-Type: application/json\n"
    return f"POST {path} HTTP/1.1\nHost: {host}\n{kind}{more}Content-Length: {length}\n"


@pytest.mark.parametrize(
    ("host", "more", "expected"),
    [
        ("rebound.example", "", 403),
        ("127.0.0.1", "Origin: http://evil.example\n", 403),
        ("127.0.0.1", "Content-Type: text/plain\n", 415),
        ("127.0.0.1", "", 200),
    ],
)
@pytest.mark.parametrize("path", ["/vectors/upsert", "/_emulator/faults"])
async def test_a_page_changes_nothing(path: str, host: str, more: str, expected: int) -> None:
    """Neither the index nor the faults; the same request by a client is answered."""
    async with Emulator() as emulator:
        method = "PUT" if path.startswith("/_emu") and expected != 415 else "POST"
        body = b'"stall"' if method == "PUT" else BODY
        head = post(path, host, more, len(body)).replace("POST", method, 1)
        status, _ = await ask(emulator, head, body)
        assert status == expected
        assert emulator.plane.count() == (1 if expected == 200 and method == "POST" else 0)


@pytest.mark.parametrize("path", ["/vectors/upsert", "/_emulator/faults"])
@pytest.mark.parametrize("key", ["", "Api-Key: wrong\n"])
async def test_the_key_is_checked_before_the_body_is_read(path: str, key: str) -> None:
    """The answer comes though the body never does, and says that the connection ends."""
    async with Emulator(api_key="right") as emulator:
        status, rest = await ask(emulator, post(path, more=key, length=50_000_000))
        assert status == 401
        assert b"Connection: close" in rest


async def test_a_body_that_is_too_large_is_refused_unread() -> None:
    """By what it says of itself, or when it turns out: packed bodies count unpacked."""
    async with Emulator() as emulator:
        status, _ = await ask(emulator, post(length=LARGEST_BODY + 1))
        assert status == 413
        bomb = gzip.compress(b" " * (LARGEST_BODY + 1_000_000))
        status, _ = await ask(emulator, post(more="Content-Encoding: gzip\n", length=len(bomb)), bomb)
        assert status == 413
        assert (await ask(emulator, post(), BODY))[0] == 200
