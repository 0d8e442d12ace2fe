"""A durable queue between ETL jobs and a vector index: nothing lost, books that balance, no stale overwrite."""

from upsertq.async_client import AsyncProducer, AsyncRun
from upsertq.books import Books
from upsertq.client import Producer, Run
from upsertq.errors import (
    InvalidRecord,
    NotFound,
    QueueFull,
    QueueLost,
    QueueMismatch,
    ServerRefused,
    ServerUnavailable,
    ServerUnfit,
    TooManyDead,
    UpsertqError,
    UsageError,
    WaitTimeout,
    WorldError,
)
from upsertq.queue import Limits
from upsertq.receipt import Receipt
from upsertq.server import AsyncServer, Server

__all__ = [
    "AsyncProducer",
    "AsyncRun",
    "AsyncServer",
    "Books",
    "InvalidRecord",
    "Limits",
    "NotFound",
    "Producer",
    "QueueFull",
    "QueueLost",
    "QueueMismatch",
    "Receipt",
    "Run",
    "Server",
    "ServerRefused",
    "ServerUnavailable",
    "ServerUnfit",
    "TooManyDead",
    "UpsertqError",
    "UsageError",
    "WaitTimeout",
    "WorldError",
]
__version__ = "0.1.0"
