"""Secrets are taken out of what others say, however they are spelled, and nothing else is."""

from __future__ import annotations

import base64

import pytest

from upsertq_worker.edge.redact import MASK, Redactor

KEY = "pcsk_4x/Ty+Zk=19aQ"


@pytest.mark.parametrize(
    "spelled",
    [
        KEY,
        KEY.upper(),
        "pcsk_4x%2FTy%2BZk%3D19aQ",
        "pcsk_4x%252fTy%252bZk%253d19aQ",
        r"pcsk_4x\/Ty+Zk=19aQ",
        "".join(f"\\u{ord(one):04x}" for one in KEY),
        "pcsk_4x&#47;Ty&#x2B;Zk=19aQ",
        base64.b64encode(KEY.encode()).decode(),
        KEY.encode().hex(),
        KEY[:12],
    ],
)
def test_each_spelling_is_taken_out(spelled: str) -> None:
    """And what stands around it stays."""
    assert Redactor([KEY]).text(f"the key {spelled} is wrong") == f"the key {MASK} is wrong"
    assert Redactor([KEY]).body(f'{{"a":"{spelled}"}}'.encode()) == f'{{"a":"{MASK}"}}'.encode()


@pytest.mark.parametrize("user", ["u", "us", "use", "user"])
def test_a_login_is_found_in_base64_at_any_place(user: str) -> None:
    """The text before it shifts how it is written."""
    header = base64.b64encode(f"{user}:{KEY}".encode()).decode()
    clean = Redactor([KEY]).text(f"Basic {header}")
    assert MASK in clean
    shown = clean.removeprefix("Basic ").split(MASK)[0]
    assert KEY[:3].encode() not in base64.b64decode(shown + "=" * (-len(shown) % 4))


def test_keys_of_the_past_stay_secret() -> None:
    """A service may speak of the one before."""
    redactor = Redactor(["an-old-key"])
    redactor.learn(["the-new-key"])
    assert redactor.text("an-old-key the-new-key") == f"{MASK} {MASK}"


def test_a_password_beyond_ascii() -> None:
    """In the bytes of a body as well."""
    redactor = Redactor(["pässwörter"])
    assert redactor.body("so pässwörter p%C3%A4ssw%C3%B6rter".encode()) == f"so {MASK} {MASK}".encode()
    assert redactor.text("so pässwörter p\\u00e4ssw\\u00f6rter") == f"so {MASK} {MASK}"


def test_short_secrets_are_taken_out_as_words_only() -> None:
    """A password of a few letters is found in other words, too."""
    redactor = Redactor(["pass", "ab", ""])
    assert redactor.text("passing pass ab") == f"passing {MASK} ab"
    assert Redactor([""]).text("text") == "text"
    assert Redactor().body(b"\xff") == b"\xff"
