"""What `upsertq work` may be told: every fault at once, no way to send the key in the clear, no key in any text."""

from typing import Any

import pytest

from upsertq.contract.errors import UsageError
from upsertq_worker.cli.config import WorkConfig
from upsertq_worker.edge.http_index import is_loopback

KEY = "pcsk_very-secret"
HOST = "my-index-abc123.svc.pinecone.io"


def config(**options: Any) -> WorkConfig:
    """A configuration that is right but for what is given."""
    return WorkConfig(**{"index_host": HOST, "api_key": KEY, **options})


def fault(**options: Any) -> str:
    """What is said about a wrong configuration."""
    with pytest.raises(UsageError) as raised:
        config(**options).checked()
    return str(raised.value)


@pytest.mark.parametrize(
    ("host", "url"),
    [
        (HOST, f"https://{HOST}"),
        (f"https://{HOST}", f"https://{HOST}"),
        (f"https://{HOST}/", f"https://{HOST}"),
        (f"{HOST}:443", f"https://{HOST}:443"),
        ("HTTPS://Index.Example", "https://index.example"),
        ("http://localhost:5081", "http://localhost:5081"),
        ("http://127.0.0.1:5081/", "http://127.0.0.1:5081"),
        ("http://[::1]:5081", "http://[::1]:5081"),
        ("https://[2001:db8::1]", "https://[2001:db8::1]"),
        ("https://gw.example/pinecone/idx", "https://gw.example/pinecone/idx"),
        ("gw.example:8443/pinecone/idx//", "https://gw.example:8443/pinecone/idx"),
        (" gw.example/a%20b/ü ", "https://gw.example/a%20b/%C3%BC"),
        ("http://127.0.0.1:1/x/", "http://127.0.0.1:1/x"),
        ("https://gw.example/a@b", "https://gw.example/a@b"),
    ],
)
def test_hosts_as_people_give_them(host: str, url: str) -> None:
    """With and without scheme, port and slash; IPv6 in brackets."""
    address, _ = config(index_host=host).checked()
    assert address.url == url


@pytest.mark.parametrize(
    "host",
    [
        "",
        "https://",
        "ftp://x",
        "redis://localhost",
        "http://x:99999",
        "http://[::1",
        f"{HOST}/vectors/upsert",
        f"{HOST}?x=1",
        f"{HOST}#top",
        f"{HOST}/p/describe_index_stats/",
        f"{HOST}/p?api_key={KEY}",
        f"{HOST}/p#{KEY}",
        f"{HOST}/a b",
        f"{HOST}/a%",
        "a b",
        f"@{HOST}",
        f":{KEY}@{HOST}/p",
        f"ftp://user:{KEY}@{HOST}",
        f"user:{KEY}@{HOST}",
        f"https://{KEY}@{HOST}",
        f"https://a:{KEY}@x:99999",
    ],
)
def test_what_is_no_host_is_told_without_repeating_a_password(host: str) -> None:
    """One line, that names the option."""
    said = fault(index_host=host)
    assert "--index-host" in said
    assert KEY not in said
    assert "\n" not in said


def test_every_fault_at_once() -> None:
    """Numbers, address, key and encryption in one message."""
    said = fault(
        index_host="http://far.example",
        api_key="",
        api_version="",
        batch_size=1001,
        batch_bytes=0,
        linger=-1,
        concurrency=0,
        request_timeout=0,
        grace=-1,
        lease=0.5,
        quarantine=9,
        read_ahead=0,
        seconds=0,
    )
    for part in (
        *("--batch-size", "--batch-bytes", "--linger", "--concurrency", "--timeout", "--grace", "--lease"),
        *("--quarantine", "--read-ahead", "--seconds", "--api-version", "PINECONE_API_KEY", "--allow-http"),
    ):
        assert part in said
    assert "--index-host" in fault(index_host="ftp://x", batch_size=0)
    assert "--batch-size" in fault(index_host="ftp://x", batch_size=0)


@pytest.mark.parametrize("option", ["linger", "request_timeout", "handover", "grace", "lease", "quarantine", "seconds"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
def test_times_are_real_numbers(option: str, value: float) -> None:
    """Neither endless nor no number at all."""
    assert f"--{'timeout' if option == 'request_timeout' else option}" in fault(**{option: value})


@pytest.mark.parametrize("key", ["two words", "line\nbreak", "tab\t", "clé", " "])
def test_a_key_that_cannot_travel_is_told_and_not_shown(key: str) -> None:
    """Such a key would fail in every request."""
    said = fault(api_key=key)
    assert "API key" in said
    assert key not in said.replace("API key", "") or not key.strip()


def test_beyond_this_machine_a_key_is_needed() -> None:
    """On loopback it is not."""
    assert "PINECONE_API_KEY" in fault(api_key="")
    assert config(api_key="", index_host="http://[::1]:1").checked()[0].api_key == ""


def test_plain_http_is_for_this_machine_unless_allowed() -> None:
    """The key and the data would travel unencrypted."""
    assert "--allow-http" in fault(index_host="http://far.example")
    address, _ = config(index_host="http://far.example", allow_http=True).checked()
    assert address.url == "http://far.example"
    assert "--allow-http" in fault(index_host="http://0.0.0.0:80")
    assert "--allow-http" in fault(index_host="http://127.0.0.1.example.com")


def test_the_key_is_in_no_repr() -> None:
    """Of neither what was given nor what was made of it."""
    given = config()
    address, settings = given.checked()
    assert address.api_key == KEY
    assert KEY not in repr(given) + str(given) + repr(address) + repr(settings) + str([address])


def test_options_reach_the_settings() -> None:
    """Each under its own name."""
    _, settings = config(
        batch_size=7,
        batch_bytes=8,
        linger=0.5,
        concurrency=3,
        grace=4,
        lease=6,
        quarantine=2,
        read_ahead=9,
        until_empty=True,
        seconds=11,
    ).checked()
    assert (settings.batch.records, settings.batch.bytes, settings.batch.linger) == (7, 8, 0.5)
    assert (settings.concurrency, settings.grace, settings.lease, settings.quarantine) == (3, 4, 6, 2)
    assert (settings.read_ahead, settings.until_empty, settings.stop_after) == (9, True, 11)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("localhost", True),
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("0.0.0.0", False),  # noqa: S104 - every address of this machine, those beyond loopback included
        ("10.0.0.1", False),
        ("localhost.example.com", False),
        ("", False),
    ],
)
def test_what_is_this_machine(host: str, expected: bool) -> None:  # noqa: FBT001
    """Loopback alone."""
    assert is_loopback(host) is expected
