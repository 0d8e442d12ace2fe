"""The permissions that the guide lists suffice for everything; where one is missing, the error names the command."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from clusters import RealCluster
from conftest import first_kind
from processes import call, complaint, document, emulated, start
from servers import available_kinds
from waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from servers import RealServer, ServerKind

GUIDE: Final = Path(__file__).parents[2] / "docs" / "redis.md"
Q: Final = ("--queue", "q")
WORK: Final = ("work", *Q, "--linger", "0.02")


def permissions() -> list[str]:
    """The words of the line in the guide."""
    (line,) = re.findall(r"^ACL SETUSER .*$", GUIDE.read_text("utf-8"), re.MULTILINE)
    return [word.replace(">PASSWORD", ">open") for word in line.split()]


def let_in(server: RealServer, *more: str) -> None:
    """Make the user of the guide."""
    with server.client() as client:
        client.execute_command(*permissions(), *more)


def as_user(url: str) -> str:
    """The URL with the login of that user."""
    return url.replace("redis://", "redis://etl:open@")


def everything(url: str, tmp_path: Path) -> None:
    """Load, drain, die, replay, look and clean up."""
    file = tmp_path / "r.jsonl"
    file.write_text("".join(f'{{"id": "id{i}", "values": [1, {i}]}}\n' for i in range(30)))
    with emulated() as index:
        index.set_faults("poison=id7")
        call("load", file, *Q, "--run", "r", "--resume", url=url)
        call("pause", *Q, url=url)
        call("resume", *Q, url=url)
        call(*WORK, "--index-host", index.url, "--until-empty", url=url, expect=3)
        index.set_faults(None)
        call("dead", "replay", *Q, "--reason", "refused", "--yes", url=url)
        call(*WORK, "--index-host", index.url, "--until-empty", url=url)
        assert document("wait", *Q, "--run", "r", url=url)["acked"] == 30
    assert document("status", *Q, url=url)["server"]["told"]
    call("audit", *Q, url=url)
    call("reshard", *Q, "--shards", "32", url=url)
    call("runs", *Q, "--purge", "--older-than", "0", "--yes", url=url)
    assert len(json.loads(call("queues", "--json", url=url).stdout)["queues"]) == 1
    call("delete-queue", "q", "--yes", url=url)


@pytest.mark.slow
@pytest.mark.parametrize("kind", available_kinds()[1:] or available_kinds(), ids=lambda kind: kind.id)
def test_the_line_of_the_guide_suffices(
    kind: ServerKind, make_server: Callable[..., RealServer], tmp_path: Path
) -> None:
    """For producers, workers and every command, on every kind of server; on the first kind as a cluster, see below."""
    server = make_server(kind, port=0, appendonly="everysec")
    let_in(server)
    everything(as_user(server.url), tmp_path)


@pytest.mark.slow
def test_it_suffices_on_a_cluster(tmp_path: Path) -> None:
    """There the slots are asked for, too."""
    with RealCluster(first_kind(), tmp_path) as cluster:
        for node in cluster.nodes:
            let_in(node)
        everything(as_user(cluster.url), tmp_path)


@pytest.mark.parametrize("kind", available_kinds(), ids=lambda kind: kind.id)
def test_a_command_that_is_missing_is_named(
    kind: ServerKind, make_server: Callable[..., RealServer], tmp_path: Path
) -> None:
    """In a direct reply and inside a script, to the producer and to the worker."""
    server, log = make_server(kind, port=0, appendonly="everysec"), tmp_path / "worker.log"
    url, file = as_user(server.url), tmp_path / "r.jsonl"
    file.write_text('{"id": "a", "values": [1]}\n')
    for missing, words in (
        ("hmget", "'hmget' command"),
        ("evalsha", "'evalsha' command"),
        ("xadd", "'xadd' command|command: XADD"),  # in a script some servers tell its line alone
    ):
        let_in(server, f"-{missing}")
        said = complaint("load", file, *Q, "--timeout", "5", url=url, expect=1)
        assert re.search(words, said), said
        assert "ACL SETUSER" in said
    let_in(server, "-xread")
    with emulated() as index:
        worker = start(*WORK, "--index-host", index.url, url=url, log=log)
        wait_until(lambda: worker.poll() is not None, 60, "the worker ends")
    (said,) = [line for line in log.read_text().splitlines() if line.startswith("upsertq: ")]
    assert "'xread' command" in said
