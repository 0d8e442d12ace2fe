"""Certificates for tests, made by the program `openssl`, and a server that speaks TLS with them."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from servers import RealServer, available_kinds, free_port

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class Certificates:
    """An authority, and what it vouches for: the server 127.0.0.1 and a client."""

    ca: Path
    cert: Path
    key: Path

    @classmethod
    def made(cls, directory: Path) -> Certificates:
        """Make them all anew."""
        if shutil.which("openssl") is None:
            pytest.skip("no openssl here: install it to test TLS")
        directory.mkdir(parents=True, exist_ok=True)
        ca, cert, key, wish, names = (directory / name for name in ("ca.crt", "one.crt", "one.key", "one.csr", "names"))
        names.write_text("subjectAltName=IP:127.0.0.1\n")
        ca_key = directory / "ca.key"
        own: list[str | Path] = ["-newkey", "rsa:2048", "-nodes", "-keyout"]
        _openssl("req", "-x509", *own, ca_key, "-subj", "/CN=Test CA", "-days", "2", "-out", ca)
        _openssl("req", *own, key, "-subj", "/CN=upsertq", "-out", wish)
        by: list[str | Path] = ["-CA", ca, "-CAkey", ca_key, "-CAcreateserial"]
        _openssl("x509", "-req", "-in", wish, *by, "-days", "2", "-extfile", names, "-out", cert)
        return cls(ca, cert, key)


def tls_server(directory: Path, certificates: Certificates, password: str) -> tuple[RealServer, str]:
    """A server of the first kind that can, which wants a client's certificate; and its URL without the password."""
    kinds = [kind for kind in available_kinds() if b"tls-auth-clients" in kind.binary.read_bytes()]
    if not kinds:
        pytest.skip("no server here was built with TLS: install redis-server")
    port = free_port()
    files = (
        "--tls-cert-file",
        certificates.cert,
        "--tls-key-file",
        certificates.key,
        "--tls-ca-cert-file",
        certificates.ca,
    )
    arguments = ("--tls-port", str(port), "--tls-auth-clients", "yes", *map(str, files))
    server = RealServer(kinds[0], directory, appendonly="everysec", password=password, arguments=arguments)
    return server, f"rediss://127.0.0.1:{port}/0"


def _openssl(*words: str | Path) -> None:
    subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True)
