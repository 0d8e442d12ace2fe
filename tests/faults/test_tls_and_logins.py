"""TLS with an authority of one's own, client certificates, logins and credential providers; no secret is ever shown."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pytest
from redis.credentials import CredentialProvider

import upsertq
from certificates import Certificates, tls_server
from processes import books, call, complaint, emulated
from upsertq import AsyncProducer, Producer, ServerRefused, UsageError
from upsertq_worker.edge.http_index import IndexAddress
from upsertq_worker.edge.process import work
from upsertq_worker.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from servers import RealServer

Q: Final = ("--queue", "q")
SECRET: Final = "s3cr/t@ é:"  # noqa: S105 - the test's own
SESAME: Final = "sesame"


@pytest.fixture(scope="session")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Certificates]]:
    """Keep a server that speaks TLS, with a password."""
    directory = tmp_path_factory.mktemp("tls")
    certificates = Certificates.made(directory / "certificates")
    server, url = tls_server(directory / "server", certificates, SESAME)
    with server:
        yield url, certificates


@pytest.fixture
def records(tmp_path: Path) -> Path:
    """Provide a file of records."""
    file = tmp_path / "r.jsonl"
    file.write_text("".join(f'{{"id": "id{i}", "values": [1, {i}]}}\n' for i in range(50)))
    return file


def given(certificates: Certificates) -> tuple[str | Path, ...]:
    """The options for TLS."""
    files = {"ca": certificates.ca, "cert": certificates.cert, "key": certificates.key}
    return tuple(part for name, file in files.items() for part in (f"--redis-{name}-file", file))


def test_the_main_job_over_tls(secure: tuple[str, Certificates], records: Path) -> None:
    """By options and by environment, the worker beside a load included; the password comes by the environment alone."""
    url, certificates = secure
    by_environment: dict[str, Any] = {
        "UPSERTQ_REDIS_CA_FILE": str(certificates.ca),
        "UPSERTQ_REDIS_CERT_FILE": str(certificates.cert),
        "UPSERTQ_REDIS_KEY_FILE": str(certificates.key),
    }
    with emulated() as index:
        job = ("run", records, *Q, "--run", "r", "--index-host", index.url)
        done = call(*job, *given(certificates), url=url, UPSERTQ_REDIS_PASSWORD=SESAME)
        assert len(index.fetch([f"id{i}" for i in range(50)])) == 50
    again = call("audit", *Q, url=url, UPSERTQ_REDIS_PASSWORD=SESAME, **by_environment)
    assert "sesame" not in done.stdout + done.stderr + again.stdout + again.stderr


def test_a_producer_over_tls(secure: tuple[str, Certificates]) -> None:
    """The files stand in the query of the URL, by redis-py's names."""
    url, files = secure
    query = f"?ssl_ca_certs={files.ca}&ssl_certfile={files.cert}&ssl_keyfile={files.key}"
    with Producer("p", url=url.replace("//", "//:sesame@") + query, timeout=5) as producer:
        producer.put("a", [1.0])


def test_certificates_that_do_not_agree(secure: tuple[str, Certificates], records: Path, tmp_path: Path) -> None:
    """Another authority, no certificate of the client, a file that is no certificate: one line each."""
    url, right = secure
    wrong = Certificates.made(tmp_path / "others")
    load = ("load", records, *Q, "--timeout", "5")
    said = complaint(*load, *given(wrong), url=url, expect=1, UPSERTQ_REDIS_PASSWORD=SESAME)
    assert "CERTIFICATE_VERIFY_FAILED" in said
    assert "--redis-ca-file" in said
    said = complaint(*load, "--redis-ca-file", right.ca, url=url, expect=1, UPSERTQ_REDIS_PASSWORD=SESAME)
    assert "wants a certificate of the client" in said
    assert "--redis-cert-file" in said
    said = complaint(
        *load, *given(Certificates(records, right.cert, right.key)), url=url, expect=1, UPSERTQ_REDIS_PASSWORD=SESAME
    )
    assert "check the certificates" in said


def test_files_and_urls_that_do_not_agree(records: Path) -> None:
    """A file for TLS with a URL that is not of TLS, without one, or that is not there: usage errors."""
    ca = ("--redis-ca-file", records)
    assert "use rediss://" in complaint("status", *ca, url="redis://:sesame@127.0.0.1:1", expect=2)
    assert "no server: name one as rediss://" in complaint("status", *ca, url=None, expect=2)
    assert "does not exist" in complaint("status", "--redis-ca-file", "/none", url="rediss://127.0.0.1:1", expect=2)


def test_a_login_by_the_environment(make_server: Callable[..., RealServer]) -> None:
    """It completes a URL without one, whatever the password is made of; a URL that has one is left as it is."""
    server = make_server(port=0)
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", "etl", "on", f">{SECRET}", "~*", "+@all")
        client.execute_command("ACL", "SETUSER", "default", "off")
    login: dict[str, Any] = {"UPSERTQ_REDIS_USERNAME": "etl", "UPSERTQ_REDIS_PASSWORD": SECRET}
    assert "there is no queue" in complaint("status", *Q, url=server.url, expect=1, **login)
    wrong = complaint("status", *Q, url=server.url.replace("//", "//etl:other@"), expect=1, **login)
    assert "give the right user and password" in wrong
    assert SECRET not in wrong


class Vault(CredentialProvider):
    """Gives a login that may change, and counts how often it is asked."""

    def __init__(self, password: str) -> None:
        self.password = password
        self.asked = 0

    def get_credentials(self) -> tuple[str, str]:
        """The login as it is now."""
        self.asked += 1
        return "iam", self.password


@pytest.fixture
def guarded(make_server: Callable[..., RealServer]) -> str:
    """Provide the URL of a server that lets the user `iam` in alone."""
    server = make_server(port=0)
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", "iam", "on", ">token", "~*", "+@all")
        client.execute_command("ACL", "SETUSER", "default", "off")
    return server.url


async def test_a_credential_provider(guarded: str, records: Path) -> None:
    """It logs in producers of both kinds, `load`, and a worker that is started from Python."""
    vault: Any = Vault("token")
    async with AsyncProducer("q", url=guarded, timeout=5, credential_provider=vault) as producer:
        await producer.put_many(["a", "b"], np.ones((2, 2), np.float32))
    with Producer("q", url=guarded, timeout=5, credential_provider=vault) as blocking:
        blocking.put("c", [1.0, 2.0])
        assert "token" not in repr(blocking) + repr(vars(blocking))
    done = await asyncio.to_thread(upsertq.load, records, queue="q", url=guarded, credential_provider=vault)
    assert done.loaded == 50
    with emulated() as index:
        address, settings = IndexAddress(index.url, "2025-04"), Settings(until_empty=True)
        tally, found = await work(guarded, "q", address, settings, timeout=5, credential_provider=vault)
    assert (tally.acked, found.pending) == (53, 0)
    assert vault.asked >= 4


def test_a_login_that_is_refused(guarded: str) -> None:
    """The error has no part of it; the next connection asks for another one."""
    vault: Any = Vault("expired")
    producer = Producer("q", url=guarded, timeout=0, credential_provider=vault)
    with pytest.raises(ServerRefused) as refused:
        producer.put("a", [1.0])
    assert "expired" not in str(refused.value)
    vault.password = "token"  # noqa: S105 - the test's own
    producer.put("a", [1.0])
    assert producer.flush() == 1
    producer.close()
    with pytest.raises(UsageError, match="give one of them"):
        Producer("q", url=guarded.replace("//", "//iam:token@"), credential_provider=vault)


def test_books_are_read_by_url_login(guarded: str) -> None:
    """The same server with a login in its URL."""
    url = guarded.replace("//", "//iam:token@")
    with Producer("q", url=url, timeout=5) as producer:
        producer.put("a", [1.0])
    assert books(url, "q")["enqueued"] == 1
