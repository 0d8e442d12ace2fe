"""Real Sentinels for tests: one that watches a primary of `servers`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from servers import RealServer
from waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from servers import ServerKind

SERVICE: Final = "queues"
SECONDS: Final = 60.0


class RealSentinel(RealServer):
    """A Sentinel that watches `primary` as the service `queues`; a context manager that starts and stops it.

    With `tls`, settings of a server that speaks it, the port of the primary for that is `primary_port`.
    """

    def __init__(
        self,
        kind: ServerKind,
        directory: Path,
        primary: RealServer,
        *,
        primary_port: int | None = None,
        tls: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(kind, directory, port=None if tls else 0, arguments=("--sentinel",))
        self._settings += [f'{name} "{value}"' for name, value in (tls or {}).items()]
        self._settings += [
            f"sentinel monitor {SERVICE} 127.0.0.1 {primary_port or primary.port} 1",
            f"sentinel down-after-milliseconds {SERVICE} 1000",
            f"sentinel failover-timeout {SERVICE} 5000",
        ]

    @property
    def service_url(self) -> str:
        """The address of the service."""
        return f"redis+sentinel://127.0.0.1:{self.port}/{SERVICE}"

    def await_replica(self) -> None:
        """Return once it knows a replica that could take over."""
        wait_until(lambda: self._told("num-slaves") == "1", SECONDS, "the Sentinel knows the replica")

    def await_primary(self, port: int | None) -> None:
        """Return once it names the server at this port as the primary."""
        wait_until(lambda: self._told("port") == str(port), SECONDS, "the Sentinel names another primary")

    def _told(self, field: str) -> str:
        with self.client() as client:
            told: Any = client.execute_command("SENTINEL", "MASTER", SERVICE)
        found: dict[Any, Any] = told if isinstance(told, dict) else dict(zip(told[::2], told[1::2], strict=True))
        value = found.get(field, found.get(field.encode(), b""))
        return value.decode() if isinstance(value, bytes) else str(value)
