"""Which proxy is taken, and that one which cannot work is refused by its variable's name, its login never shown."""

from __future__ import annotations

import pytest

from upsertq.contract.errors import UsageError
from upsertq_worker.cli.config import WorkConfig
from upsertq_worker.edge.proxies import Proxy, proxy_for

HOST = "index.example"


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        ({"HTTPS_PROXY": ""}, None),
        ({"HTTPS_PROXY": "http://p:3128"}, Proxy("http://p:3128", "HTTPS_PROXY")),
        ({"HTTPS_PROXY": "p:3128"}, Proxy("http://p:3128", "HTTPS_PROXY")),
        ({"https_proxy": "p"}, Proxy("http://p:80", "https_proxy")),
        ({"HTTPS_PROXY": "p:1", "https_proxy": "q:2"}, Proxy("http://q:2", "https_proxy")),
        ({"all_proxy": "p:1"}, Proxy("http://p:1", "all_proxy")),
        ({"HTTP_PROXY": "p:1"}, None),
        ({"HTTPS_PROXY": "http://u:p%40w@[::1]:1/"}, Proxy("http://[::1]:1", "HTTPS_PROXY", "u", "p@w")),
        ({"HTTPS_PROXY": "u:pw@p:1"}, Proxy("http://p:1", "HTTPS_PROXY", "u", "pw")),
        ({"HTTPS_PROXY": "p:1", "NO_PROXY": "a, .example"}, None),
        ({"HTTPS_PROXY": "p:1", "no_proxy": "INDEX.example:443"}, None),
        ({"HTTPS_PROXY": "socks5://p:1", "NO_PROXY": "*"}, None),
        ({"HTTPS_PROXY": "p:1", "NO_PROXY": "dex.example"}, Proxy("http://p:1", "HTTPS_PROXY")),
    ],
)
def test_the_proxy(environment: dict[str, str], expected: Proxy | None) -> None:
    """The variables as other tools read them."""
    assert proxy_for("https", HOST, 443, environment) == expected


@pytest.mark.parametrize(
    "value",
    [
        "socks5://user:s3cret@p:1",
        "socks5h://user:s3cret@p",
        "https://user:s3cret@p:1",
        "s3cret://user@p",
        "http://user:s3cret@p:99999",
        "http://user:s3cret@",
        "http://[user:s3cret",
        "http://user:s3cret@a b",
    ],
)
@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "ALL_PROXY", "https_proxy"])
def test_what_is_refused_names_the_variable_alone(value: str, variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the login; and with the other faults of the command line."""
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, value)
    with pytest.raises(UsageError) as raised:
        WorkConfig(index_host=HOST, api_key="key", batch_size=0).checked()
    said = str(raised.value)
    assert variable in said
    assert "--batch-size" in said
    assert "s3cret" not in said
    assert "user" not in said
    WorkConfig(index_host="http://localhost:1").checked()


def test_a_login_is_in_no_repr() -> None:
    """Of the proxy."""
    proxy = Proxy("http://p:1", "HTTPS_PROXY", "user", "s3cret")
    assert "user" not in repr(proxy)
    assert "s3cret" not in repr(proxy)
    assert set(proxy.secrets) == {"user", "s3cret", "user:s3cret"}
    assert proxy.place == "p:1"
