"""Owns when a worker is ready: it reaches the server, has leases or stands by, and is not stopping. Pure."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class WorkerState:
    """How a worker stands.

    Attributes:
        stopping: it was told to stop, or has failed.
        away: calls to the server fail.
        valid: the last round of leases is not older than a lease lives.
        leases: shards that it holds.
        others: shards that other workers hold.
    """

    stopping: bool
    away: bool
    valid: bool
    leases: int
    others: int


def unready(state: WorkerState | None) -> str:
    """Why the worker is not ready, in a few fixed words that a stranger may read; "" when it is ready."""
    if state is None:
        return "starting"
    if state.stopping:
        return "stopping"
    if state.away or not state.valid:
        return "the queue's server does not answer"
    if not state.leases and not state.others:
        return "no shard can be had"
    return ""
