"""How long is borne with a server depends on whether it answers at all."""

from __future__ import annotations

import random

from upsertq.contract.errors import QueueFull, ServerUnavailable
from upsertq.contract.protocol import Failed, Patience, Trouble, ask_all, persistently


def waited(trouble: Trouble, seconds: float, silent: float) -> tuple[float, str]:
    """How long `persistently` waits for a server that stays so, and what it says in the end."""
    now = 0.0
    conversation = persistently(
        ask_all([["PING"]]), Patience(seconds, lambda: now, random.Random(1), silent=silent), "ask"
    )
    next(conversation)
    try:
        while True:
            effect = conversation.send([Failed(trouble, "no")])
            now += getattr(effect, "seconds", 0.0)
            if now > 1_000:
                return now, ""
            if hasattr(effect, "seconds"):
                conversation.send([])
    except (ServerUnavailable, QueueFull) as error:
        return now, str(error)


def test_a_server_that_does_not_answer_is_given_up_soon() -> None:
    """The address may be wrong."""
    seconds, said = waited(Trouble.AWAY, 60.0, 10.0)
    assert round(seconds) == 10
    assert "tried for 10 s" in said


def test_a_server_that_answers_is_waited_for_as_long_as_was_asked() -> None:
    """Its address is right; also for ever."""
    assert round(waited(Trouble.NOT_READY, 60.0, 10.0)[0]) == 60
    assert waited(Trouble.FULL, float("inf"), 10.0)[1] == ""
