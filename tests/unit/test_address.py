"""What a server's URL may be, what of it is shown, and how a login and files complete it."""

from __future__ import annotations

import pytest

from upsertq.contract.address import MALFORMED, Address, completed, shown_url
from upsertq.contract.errors import UsageError


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://h:6379/0", "redis://h:6379/0"),
        ("rediss://u:p@h/1?ssl_keyfile=x", "rediss://h/1"),
        ("unix:///tmp/s?password=p", "unix:///tmp/s"),
        ("redis+sentinel://u:p@h1:1,h2:2/name/0?sentinel_password=x", "redis+sentinel://h1:1,h2:2/name/0"),
        ("redis+sentinel://[::1]:5,h/name", "redis+sentinel://::1:5,h/name"),
        ("redis://u:p/q@h:1/0", MALFORMED),
        ("redis://u:p@h:port/0", MALFORMED),
        ("redis:u:p@h", MALFORMED),
    ],
)
def test_what_is_shown_has_no_secret(url: str, shown: str) -> None:
    """User, password and query are left out."""
    assert shown_url(url) == shown


def test_a_url_of_sentinels() -> None:
    """Hosts and name are taken out of it; login, database and options stay."""
    found = Address.of("rediss+sentinel://u:p%40@h1:1,h2/my%2Dname/3?ssl_ca_certs=f")
    assert (found.sentinels, found.service) == ((("h1", 1), ("h2", 26379)), "my-name")
    assert found.url == "rediss://u:p%40@sentinel/3?ssl_ca_certs=f"
    assert Address.of("redis+sentinel://[::1]:5/name").sentinels == (("::1", 5),)
    assert "p%40" not in repr(found)


@pytest.mark.parametrize(
    "url", ["http://h", "h:6379", "redis+sentinel://h:1", "redis+sentinel:///name", "redis+sentinel://h/n/x"]
)
def test_what_is_no_url_of_a_server(url: str) -> None:
    """It is refused with the forms that there are."""
    with pytest.raises(UsageError, match="use redis"):
        Address.of(url)


@pytest.mark.parametrize(
    ("url", "whole"),
    [
        ("redis://h:1/0", "redis://us%40er:p%2F@h:1/0"),
        ("redis://a:b@h:1/0", "redis://a:b@h:1/0"),
        ("unix:///tmp/s?db=1", "unix://us%40er:p%2F@/tmp/s?db=1"),
        ("redis+sentinel://h1,h2/n", "redis+sentinel://us%40er:p%2F@h1,h2/n"),
        ("nonsense", "nonsense"),
    ],
)
def test_a_login_completes_a_url_without_one(url: str, whole: str) -> None:
    """One that has a login is left as it is."""
    assert completed(url, "us@er", "p/", {}) == whole


def test_files_complete_a_url_of_tls_alone() -> None:
    """As options in its query."""
    files = {"ssl_ca_certs": "/a b", "ssl_keyfile": "k"}
    assert completed("rediss://h/0?x=1", "", "", files) == "rediss://h/0?x=1&ssl_ca_certs=%2Fa+b&ssl_keyfile=k"
    with pytest.raises(UsageError, match="use rediss://") as error:
        completed("redis://u:p@h", "", "", files)
    assert "u:p" not in str(error.value)
