"""The emulator's faults as a client on a real socket meets them, and what the index holds afterwards."""

import asyncio
import time
from collections.abc import AsyncIterator
from email.utils import parsedate_to_datetime
from typing import Any

import aiohttp
import orjson
import pytest

from upsertq_emulator.app import Emulator
from waiting import wait_until_async

DEADLINE = 30.0


@pytest.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    """An HTTP client that never retries."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(DEADLINE)) as session:
        yield session


def body_of(*ids: str, **metadata: Any) -> bytes:
    """An upsert of the given ids."""
    records = [{"id": record_id, "values": [1.0, 2.0], "metadata": metadata} for record_id in ids]
    return orjson.dumps({"vectors": records})


async def upsert(client: aiohttp.ClientSession, emulator: Emulator, body: bytes) -> tuple[int, bytes, Any]:
    """Status, body and headers of the answer to an upsert; POSTs are not repeated by the client."""
    async with client.post(emulator.url + "/vectors/upsert", data=body) as response:
        return response.status, await response.read(), response.headers


@pytest.mark.parametrize(("when", "applied"), [("before", 0), ("after", 1)])
async def test_a_reset_comes_before_or_after_the_write(client: aiohttp.ClientSession, when: str, applied: int) -> None:
    """The client sees its connection break; only a reset `after` leaves the record behind. The next one lands."""
    async with Emulator(faults=f"reset={when};first=1") as emulator:
        with pytest.raises(aiohttp.ClientConnectionError):
            await upsert(client, emulator, body_of("a"))
        assert emulator.plane.count() == applied
        assert (await upsert(client, emulator, body_of("b")))[0] == 200
        assert emulator.counters.outcomes == {"reset": 1, "200": 1}


async def test_a_truncated_answer_breaks_off(client: aiohttp.ClientSession) -> None:
    """The status is 200, the body ends before its announced length, and the write was applied."""
    async with Emulator(faults="truncate") as emulator:
        with pytest.raises(aiohttp.ClientPayloadError):
            await upsert(client, emulator, body_of("a"))
        assert emulator.plane.ids() == ["a"]
        assert emulator.counters.outcomes == {"truncated": 1}


async def test_a_stall_lasts_until_the_client_gives_up(client: aiohttp.ClientSession) -> None:
    """No answer comes, nothing is applied, and the stalled request ends with its client."""
    async with Emulator(faults="stall") as emulator:
        waiting = asyncio.create_task(upsert(client, emulator, body_of("a")))
        await wait_until_async(lambda: emulator.counters.in_flight == 1, DEADLINE, "the request has arrived")
        assert not waiting.done()
        waiting.cancel()
        await wait_until_async(lambda: emulator.counters.outcomes["stall"] == 1, DEADLINE, "the stall has ended")
        assert (emulator.plane.count(), emulator.counters.in_flight) == (0, 0)


async def test_stalled_requests_do_not_keep_it_from_closing(client: aiohttp.ClientSession) -> None:
    """Closing gives up what is being handled, at once."""
    async with Emulator(faults="stall") as emulator:
        waiting = asyncio.create_task(upsert(client, emulator, body_of("a")))
        await wait_until_async(lambda: emulator.counters.in_flight == 1, DEADLINE, "the request has arrived")
        started = time.monotonic()
    assert time.monotonic() - started < 20
    with pytest.raises(aiohttp.ClientConnectionError):
        await waiting


async def test_a_late_write_lands_after_its_connection_broke(client: aiohttp.ClientSession) -> None:
    """The client sees a reset, a newer version lands, and then the old one overwrites it, as the journal shows."""
    async with Emulator(faults="late=2;first=1", journal=True) as emulator:
        with pytest.raises(aiohttp.ClientConnectionError):
            await upsert(client, emulator, body_of("a", version=1))
        assert emulator.plane.count() == 0
        assert (await upsert(client, emulator, body_of("a", version=2)))[0] == 200
        journal = emulator.plane.journal
        assert journal is not None
        await wait_until_async(lambda: len(journal) == 2, DEADLINE, "the late write has landed")
        assert [entry.version for entry in journal.versions("", "a")] == [2, 1]


@pytest.mark.parametrize(("lose", "held"), [("false", ["a", "b", "c"]), ("true", ["a"])])
async def test_a_short_ack_reports_fewer(client: aiohttp.ClientSession, lose: str, held: list[str]) -> None:
    """The count is short by two, and the two are missing from the index only where they were lost."""
    async with Emulator(faults=f"short=2;lose={lose}") as emulator:
        status, body, _ = await upsert(client, emulator, body_of("a", "b", "c"))
        assert (status, body) == (200, b'{"upsertedCount":1}')
        assert emulator.plane.ids() == held


async def test_poison_refuses_its_batch_only(client: aiohttp.ClientSession) -> None:
    """A batch with a poisoned id is refused as a whole, the others land."""
    async with Emulator(faults="poison=bad-*") as emulator:
        status, body, _ = await upsert(client, emulator, body_of("a", "bad-1"))
        assert status == 400
        assert "bad-1" in orjson.loads(body)["message"]
        assert (await upsert(client, emulator, body_of("a")))[0] == 200
        assert emulator.plane.ids() == ["a"]


@pytest.mark.parametrize("form", ["seconds", "date"])
async def test_a_throttle_says_when_to_come_back(client: aiohttp.ClientSession, form: str) -> None:
    """The 429 carries Retry-After in seconds or as a date, and nothing is applied."""
    async with Emulator(faults=f"throttle=0.01;retry_after=20;retry_form={form}") as emulator:
        assert (await upsert(client, emulator, body_of("a")))[0] == 200
        before = time.time()
        status, body, headers = await upsert(client, emulator, body_of("b"))
        assert status == 429
        assert b"upsert QPS limit for namespace __default__ (0.01 QPS)" in body
        if form == "seconds":
            assert headers["Retry-After"] == "20"
        else:
            assert before + 19 <= parsedate_to_datetime(headers["Retry-After"]).timestamp() <= time.time() + 21
        assert emulator.plane.ids() == ["a"]


async def test_latency_delays_an_answer_that_is_applied_all_the_same(client: aiohttp.ClientSession) -> None:
    """A client that gives up on a slow request cannot stop it: the write is applied when its time comes."""
    async with Emulator(faults="latency=constant:0.2") as emulator:
        started = time.monotonic()
        assert (await upsert(client, emulator, body_of("a")))[0] == 200
        assert time.monotonic() - started >= 0.2
        waiting = asyncio.create_task(upsert(client, emulator, body_of("b")))
        await wait_until_async(lambda: emulator.counters.in_flight == 1, DEADLINE, "the request has arrived")
        waiting.cancel()
        await wait_until_async(lambda: emulator.plane.ids() == ["a", "b"], DEADLINE, "the slow write has landed")


async def test_faulty_bodies(client: aiohttp.ClientSession) -> None:
    """A bare 413, an HTML 502 and an unreadable 200 arrive as they are told, the last one applied."""
    async with Emulator(faults="toolarge=200") as emulator:
        large = body_of(*[f"id-{number}" for number in range(9)])
        status, body, _ = await upsert(client, emulator, large)
        assert (status, body, emulator.plane.count()) == (413, b"", 0)
        emulator.set_faults("error=502;body=<html></html>;content_type=text/html")
        status, body, headers = await upsert(client, emulator, body_of("a"))
        assert (status, body, headers["Content-Type"]) == (502, b"<html></html>", "text/html")
        assert emulator.plane.count() == 0
        emulator.set_faults("unreadable")
        status, body, _ = await upsert(client, emulator, body_of("a"))
        assert (status, emulator.plane.count()) == (200, 1)
        with pytest.raises(orjson.JSONDecodeError):
            orjson.loads(body)
        emulator.set_faults("error=503;applied=true")
        assert (await upsert(client, emulator, body_of("b")))[0] == 503
        assert emulator.plane.ids() == ["a", "b"]


async def test_faults_are_switched_while_it_runs(client: aiohttp.ClientSession) -> None:
    """PUT replaces the faults, GET tells them, DELETE ends them, and a faulty spec changes nothing."""
    async with Emulator() as emulator:
        path = emulator.url + "/_emulator/faults"
        document = {"seed": 3, "faults": [{"kind": "deny", "status": 401, "on": "any"}]}
        async with client.put(path, json=document) as response:
            assert (response.status, await response.json()) == (200, document)
        assert (await upsert(client, emulator, body_of("a")))[:2] == (401, b'"Unauthorized"')
        async with client.get(emulator.url + "/describe_index_stats") as response:
            assert response.status == 401
        async with client.put(path, json={"faults": [{"kind": "nonsense"}]}) as response:
            assert response.status == 400
            assert "unknown kind 'nonsense'" in (await response.json())["message"]
        async with client.get(path) as response:
            assert await response.json() == document
        async with client.put(path, json="error=500") as response:
            assert response.status == 200
        assert (await upsert(client, emulator, body_of("a")))[0] == 500
        async with client.delete(path) as response:
            assert await response.json() == {"seed": 0, "faults": []}
        assert (await upsert(client, emulator, body_of("a")))[0] == 200
        async with client.get(emulator.url + "/_emulator/nothing") as response:
            assert response.status == 404


async def test_the_journal_and_the_counters_are_served(client: aiohttp.ClientSession) -> None:
    """One id's versions come as an array, all of them as JSON lines, and the counters add up."""
    async with Emulator(journal=True) as emulator:
        many = [f"id-{number}" for number in range(1_000)]
        await upsert(client, emulator, body_of(*many, version=1))
        await upsert(client, emulator, body_of("id-7", version=2))
        await upsert(client, emulator, b"{}")
        path = emulator.url + "/_emulator/journal"
        async with client.get(path, params={"id": "id-7", "namespace": "__default__"}) as response:
            entries = await response.json()
        assert [(entry["sequence"], entry["lsn"], entry["version"]) for entry in entries] == [(8, 1, 1), (1001, 2, 2)]
        async with client.get(path) as response:
            lines = [orjson.loads(line) for line in (await response.read()).splitlines()]
        assert [line["sequence"] for line in lines] == list(range(1, 1_002))
        assert lines[7] == entries[0]
        async with client.get(path, params={"namespace": "other"}) as response:
            assert await response.read() == b""
        async with client.get(emulator.url + "/_emulator/counters") as response:
            counters = await response.json()
        assert (counters["requests"], counters["records"], counters["overlaps"]) == (3, 1_001, 0)
        assert counters["outcomes"] == {"200": 2, "400": 1}
        assert counters["largest_request_records"] == 1_000
        assert counters["bytes"] > counters["largest_request_bytes"] > 30_000
        assert counters["first_request_at"] <= counters["last_request_at"]
        assert emulator.requests == 3


async def test_without_a_journal_it_says_how_to_keep_one(client: aiohttp.ClientSession) -> None:
    """Asking for a journal that is not kept is a 404 that names the option."""
    async with Emulator() as emulator, client.get(emulator.url + "/_emulator/journal") as response:
        assert response.status == 404
        assert "--journal" in (await response.json())["message"]


async def test_overlaps_count_ids_in_two_requests_at_once(client: aiohttp.ClientSession) -> None:
    """An id that comes while a request that carries it is unanswered is counted; one after another is not."""
    async with Emulator(faults="latency=constant:0.1", journal=True) as emulator:
        await upsert(client, emulator, body_of("a", "b"))
        await upsert(client, emulator, body_of("a", "b"))
        assert emulator.counters.overlaps == 0
        both = [upsert(client, emulator, body_of("a", other)) for other in ("b", "c")]
        await asyncio.gather(*both)
        assert emulator.counters.overlaps == 1


async def test_admin_paths_need_the_key_too(client: aiohttp.ClientSession) -> None:
    """Where a key is required, faults cannot be switched without it."""
    async with Emulator(api_key="key") as emulator:
        path = emulator.url + "/_emulator/faults"
        async with client.put(path, json="stall") as response:
            assert response.status == 401
        async with client.put(path, json="stall", headers={"Api-Key": "key"}) as response:
            assert response.status == 200
