"""Rough handling of a client's connection: reset it, cut an answer short, or wait until it is gone."""

import asyncio
import socket
import struct

from upsertq_emulator.answer import Answer

_LINGER_ZERO = struct.pack("ii", 1, 0)
_POLL_SECONDS = 0.02


class Connection:
    """The client's connection; None stands for one that is lost already."""

    def __init__(self, transport: asyncio.Transport | None) -> None:
        self._transport = transport

    @property
    def gone(self) -> bool:
        """Whether the connection is closed."""
        return self._transport is None or self._transport.is_closing()

    def reset(self) -> None:
        """Close at once with a TCP reset; what was written and not yet sent is lost."""
        if self._transport is None or self._transport.is_closing():
            return
        plain = self._transport.get_extra_info("socket")
        if plain is not None:
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO)
        self._transport.abort()

    def send_half(self, answer: Answer) -> None:
        """Announce the whole body, send half of it and close."""
        if self._transport is None or self._transport.is_closing():
            return
        head = (
            f"HTTP/1.1 {answer.status} Cut\r\nContent-Type: {answer.content_type}\r\n"
            f"Content-Length: {len(answer.body)}\r\n\r\n"
        )
        self._transport.write(head.encode() + answer.body[: len(answer.body) // 2])
        self._transport.close()

    async def until_gone(self) -> None:
        """Return once the client has closed the connection.

        Polled: the HTTP library tells a handler of a lost connection only by cancelling it, which would give up
        writes that the real service would still apply.
        """
        while not self.gone:  # noqa: ASYNC110 - no event tells it, see above
            await asyncio.sleep(_POLL_SECONDS)
