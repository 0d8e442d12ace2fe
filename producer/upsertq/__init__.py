"""A durable queue between ETL jobs and a vector index: nothing lost, books that balance, no stale overwrite."""

from upsertq.client.async_producer import AsyncProducer, AsyncRun
from upsertq.client.enqueue import Limits
from upsertq.client.files import load
from upsertq.client.load import Loaded
from upsertq.client.producer import Producer, Run
from upsertq.client.receipt import Receipt
from upsertq.contract.books import Books
from upsertq.contract.errors import (
    InvalidRecord,
    LanePaused,
    LoadStopped,
    NotFound,
    QueueFull,
    QueueInUse,
    QueueLost,
    QueueMismatch,
    QueueReopened,
    RunOpen,
    ServerRefused,
    ServerUnavailable,
    ServerUnfit,
    SourceError,
    TooManyDead,
    UpsertqError,
    UsageError,
    WaitTimeout,
    WorldError,
)
from upsertq.contract.server import AsyncServer, Server
from upsertq.sources import Columns

__all__ = [
    "AsyncProducer",
    "AsyncRun",
    "AsyncServer",
    "Books",
    "Columns",
    "InvalidRecord",
    "LanePaused",
    "Limits",
    "LoadStopped",
    "Loaded",
    "NotFound",
    "Producer",
    "QueueFull",
    "QueueInUse",
    "QueueLost",
    "QueueMismatch",
    "QueueReopened",
    "Receipt",
    "Run",
    "RunOpen",
    "Server",
    "ServerRefused",
    "ServerUnavailable",
    "ServerUnfit",
    "SourceError",
    "TooManyDead",
    "UpsertqError",
    "UsageError",
    "WaitTimeout",
    "WorldError",
    "load",
]
__version__ = "0.1.0"
