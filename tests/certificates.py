"""Certificates for tests, made by the program `openssl`, and a server that speaks TLS with them."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from servers import RealServer, available_kinds, free_port

if TYPE_CHECKING:
    from pathlib import Path

    from servers import ServerKind


@dataclass(frozen=True)
class Certificates:
    """An authority, and what it vouches for: the server 127.0.0.1, or another one, and a client."""

    ca: Path
    cert: Path
    key: Path

    @classmethod
    def made(cls, directory: Path, server: str = "IP:127.0.0.1") -> Certificates:
        """Make them all anew."""
        if shutil.which("openssl") is None:
            pytest.skip("no openssl here: install it to test TLS")
        directory.mkdir(parents=True, exist_ok=True)
        ca, cert, key, wish, names = (directory / name for name in ("ca.crt", "one.crt", "one.key", "one.csr", "names"))
        names.write_text(f"subjectAltName={server}\n")
        ca_key = directory / "ca.key"
        own: list[str | Path] = ["-newkey", "rsa:2048", "-nodes", "-keyout"]
        _openssl("req", "-x509", *own, ca_key, "-subj", "/CN=Test CA", "-days", "2", "-out", ca)
        _openssl("req", *own, key, "-subj", "/CN=upsertq", "-out", wish)
        by: list[str | Path] = ["-CA", ca, "-CAkey", ca_key, "-CAcreateserial"]
        _openssl("x509", "-req", "-in", wish, *by, "-days", "2", "-extfile", names, "-out", cert)
        return cls(ca, cert, key)

    @property
    def environment(self) -> dict[str, Any]:
        """What tells commands of them."""
        files = {"CA": self.ca, "CERT": self.cert, "KEY": self.key}
        return {f"UPSERTQ_REDIS_{kind}_FILE": str(file) for kind, file in files.items()}

    def settings(self, port: int) -> dict[str, str]:
        """The settings of a server that speaks TLS at a port, with its peers, too; it wants a client's certificate."""
        files = {"cert": self.cert, "key": self.key, "ca-cert": self.ca}
        of_files = {f"tls-{kind}-file": str(file) for kind, file in files.items()}
        return {"tls-port": str(port), "tls-auth-clients": "yes", "tls-replication": "yes", **of_files}


def tls_kind() -> ServerKind:
    """The first kind of server that was built with TLS; skips the test where there is none."""
    kinds = [kind for kind in available_kinds() if b"tls-auth-clients" in kind.binary.read_bytes()]
    if not kinds:
        pytest.skip("no server here was built with TLS: install redis-server")
    return kinds[0]


def arguments(settings: dict[str, str]) -> tuple[str, ...]:
    """Settings as they stand on a server's command line."""
    return tuple(word for name, value in settings.items() for word in (f"--{name}", value))


def tls_server(directory: Path, certificates: Certificates, password: str) -> tuple[RealServer, str]:
    """A server of the first kind that can, which wants a client's certificate; and its URL without the password."""
    port = free_port()
    tls = arguments(certificates.settings(port))
    server = RealServer(tls_kind(), directory, appendonly="everysec", password=password, arguments=tls)
    return server, f"rediss://127.0.0.1:{port}/0"


def _openssl(*words: str | Path) -> None:
    subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True)
