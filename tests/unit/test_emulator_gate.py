"""Who is let in: clients of this machine or with the key, and no page that a browser shows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from upsertq_emulator.app import Emulator
from upsertq_emulator.gate import LARGEST_BODY, Gate

if TYPE_CHECKING:
    from collections.abc import Mapping

OPEN = Gate(local=True, key=None)
JSON = "application/json"


def status(
    gate: Gate = OPEN,
    method: str = "POST",
    headers: Mapping[str, str] | CIMultiDict[str] | None = None,
    *,
    host: str = "127.0.0.1:5081",
    length: int | None = 10,
) -> int | None:
    """The status of the refusal, `None` for a request that is let in."""
    given = CIMultiDict({"Host": host, "Content-Type": JSON})
    given.update(headers or {})
    refusal = gate.refusal(method, given, has_body=length != 0, length=length)
    return None if refusal is None else refusal.status


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:80", "127.0.0.1:5081", "127.9.9.9", "[::1]:5081", "[::1]"])
def test_names_of_this_machine_are_let_in(host: str) -> None:
    """Whatever port they name, for it may be forwarded."""
    assert status(host=host) is None


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("evil.example", 403),
        ("evil.example:5081", 403),
        ("127.0.0.1.evil.example", 403),
        ("localhost.evil.example", 403),
        ("localhost.", 403),
        ("0.0.0.0", 403),  # noqa: S104 - must be refused
        ("192.168.0.7:5081", 403),
        ("[::]", 403),
        ("evil@127.0.0.1", 400),
        ("127.0.0.1/x", 400),
        ("127.0.0.1:5081:5081", 400),
        ("", 400),
        ("127.0.0.1\t", 400),
    ],
)
def test_any_other_name_is_rebound(host: str, expected: int) -> None:
    """A name that leads here without being ours is a page's."""
    assert status(host=host) == expected


def test_the_host_is_named_once() -> None:
    """None and two are refused: which one a proxy heeds is not ours to guess."""
    two = CIMultiDict([("Host", "127.0.0.1"), ("Host", "evil.example")])
    assert OPEN.refusal("GET", two, has_body=False, length=None) is not None
    assert OPEN.refusal("GET", CIMultiDict(), has_body=False, length=None) is not None


def test_other_machines_may_name_it_as_they_like_with_the_key() -> None:
    """Where it listens beyond loopback the key decides, which no page has."""
    gate = Gate(local=False, key=b"k")
    assert status(gate, host="emulator:5081") == 401
    assert status(gate, headers={"Api-Key": "k"}, host="emulator:5081") is None
    assert status(gate, headers={"Api-Key": "kk"}, host="emulator:5081") == 401
    assert status(gate, headers={"Api-Key": "\udcff"}, host="emulator:5081") == 401


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://localhost:3000", "file://", ""])
def test_pages_of_other_origins_are_refused(origin: str) -> None:
    """With the key, too."""
    assert status(headers={"Origin": origin}) == 403
    assert status(Gate(local=False, key=b"k"), headers={"Origin": origin, "Api-Key": "k"}) == 403


@pytest.mark.parametrize("site", ["cross-site", "same-site", "x"])
def test_what_a_browser_says_of_itself_is_believed(site: str) -> None:
    """A GET has no Origin, but browsers say from where it comes."""
    assert status(method="GET", headers={"Sec-Fetch-Site": site}, length=0) == 403


def test_its_own_origin_is_let_in() -> None:
    """What is opened by hand in a browser may look at it."""
    assert status(headers={"Origin": "http://127.0.0.1:5081", "Sec-Fetch-Site": "same-origin"}) is None
    assert status(method="GET", headers={"Sec-Fetch-Site": "none"}, length=0) is None


@pytest.mark.parametrize(
    "kind",
    ["text/plain", "text/plain;charset=UTF-8", "TEXT/PLAIN", "multipart/form-data; boundary=x",
     "application/x-www-form-urlencoded", "", " "],
)  # fmt: skip
def test_bodies_that_a_form_could_send_are_refused(kind: str) -> None:
    """Browsers send them to any site without asking it."""
    assert status(headers={"Content-Type": kind}) == 415
    assert status(headers={"Content-Type": kind}, length=None) == 415
    assert status(method="PUT", headers={"Content-Type": kind}) is None
    assert status(headers={"Content-Type": kind}, length=0) is None


def test_the_key_comes_before_the_type_and_the_size() -> None:
    """A stranger learns nothing but that there is a key."""
    gate = Gate(local=True, key=b"k")
    assert status(gate, headers={"Content-Type": "text/plain"}, length=LARGEST_BODY + 1) == 401
    assert status(gate, headers={"Api-Key": "k"}, length=LARGEST_BODY + 1) == 413
    assert status(gate, headers={"Api-Key": "k"}, length=LARGEST_BODY) is None


@given(host=st.text(max_size=30), origin=st.text(max_size=30), kind=st.text(max_size=30), key=st.text(max_size=9))
def test_no_header_is_an_exception(host: str, origin: str, kind: str, key: str) -> None:
    """Whatever a head holds, there is an answer."""
    headers = {"Origin": origin, "Content-Type": kind, "Api-Key": key}
    assert status(Gate(local=True, key=b"k"), "POST", headers, host=host) in {400, 401, 403, 415, None}


@pytest.mark.parametrize("key", [None, ""])
def test_beyond_loopback_it_needs_a_key(key: str | None) -> None:
    """As an object as well as by the command."""
    with pytest.raises(ValueError, match=r"0\.0\.0\.0 is reachable from other machines"):
        Emulator(host="0.0.0.0", api_key=key)  # noqa: S104 - must be refused
