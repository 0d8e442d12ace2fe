"""What happens to one request in time: counts it, waits, lets faults befall it, applies it. Knows no HTTP library."""

import asyncio
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any

from upsertq_emulator.answer import Answer, RefusedError
from upsertq_emulator.counters import Counters
from upsertq_emulator.faults import Facts, Fault, Faults, Late, Reset, Respond, Short, Stall, Truncate
from upsertq_emulator.plane import Plane
from upsertq_emulator.routes import Call, answer_to, retry_after
from upsertq_emulator.sockets import Connection
from upsertq_emulator.spec import FaultSpec, parse_faults
from upsertq_emulator.validate import Request

# stands where no answer can reach the client any more
_UNSENT = Answer(500, b"")


class Service:
    """A plane with faults and counters; `serve` is one request's life."""

    def __init__(self, plane: Plane) -> None:
        self.plane = plane
        self.counters = Counters()
        self._late: set[asyncio.TimerHandle] = set()
        self._carriers: dict[tuple[str, str], list[Connection]] = {}
        self.set_faults(None)

    def set_faults(self, faults: FaultSpec | str | Mapping[str, Any] | None) -> None:
        """Replace the faults from the next request on, and start their clock; None ends them.

        Raises:
            FaultSpecError: the spec cannot be used, and the faults stay as they were.
        """
        spec = faults if isinstance(faults, FaultSpec) else parse_faults(faults)
        self.fault_spec = spec
        self._faults = Faults(spec.rules, seed=spec.seed) if spec.rules else None
        self._faults_since = time.monotonic()

    def close(self) -> None:
        """Give up the writes that were still to be applied late."""
        for handle in self._late:
            handle.cancel()
        self._late.clear()

    async def serve(self, call: Call, connection: Connection, *, refusal: Answer | None = None) -> Answer:
        """Answer one request, or treat its connection as a fault demands; a `refusal` comes before all faults."""
        now = time.time()
        self.counters.arrived(size=len(call.body), upsert=call.operation == "upsert", now=now)
        outcome = "given up"
        try:
            if refusal is not None:
                answer, outcome = refusal, str(refusal.status)
            elif self._faults is None and self.plane.journal is None:
                answer = self._counted(answer_to(self.plane, call, now))
                outcome = str(answer.status)
            else:
                answer, outcome = await self._befall(call, connection)
        finally:
            self.counters.ended(outcome)
        return answer

    async def _befall(self, call: Call, connection: Connection) -> tuple[Answer, str]:
        upsert = self._read(call)
        if upsert is None:
            facts = Facts(call.operation, call.query.get("namespace", ""), (), len(call.body))
        else:
            facts = Facts(call.operation, upsert.namespace, upsert.ids, len(call.body))
        with self._carrying(facts, connection):
            if self._faults is None:
                answer = self._apply(call, upsert)
                return answer, str(answer.status)
            plan = self._faults.plan(facts, time.monotonic() - self._faults_since)
            if plan.latency:
                await asyncio.sleep(plan.latency)
            if plan.fault is None:
                answer = self._apply(call, upsert)
                return answer, str(answer.status)
            return await self._inflict(plan.fault, call, upsert, connection)

    async def _inflict(
        self, fault: Fault, call: Call, upsert: Request | None, connection: Connection
    ) -> tuple[Answer, str]:
        answer, outcome = _UNSENT, ""
        match fault:
            case Respond() | Short():
                answer = self._faulty_answer(fault, call, upsert)
                outcome = str(answer.status)
            case Truncate():
                connection.send_half(self._apply(call, upsert))
                outcome = "truncated"
            case Reset(when):
                if when == "after":
                    self._apply(call, upsert)
                connection.reset()
                outcome = "reset"
            case Late(delay, how):
                self._apply_late(delay, call, upsert)
                if how == "reset":
                    connection.reset()
                await connection.until_gone()
                outcome = "late"
            case Stall():
                await connection.until_gone()
                outcome = "stall"
        return answer, outcome

    def _faulty_answer(self, fault: Respond | Short, call: Call, upsert: Request | None) -> Answer:
        if isinstance(fault, Respond):
            if fault.applied:
                honest = self._apply(call, upsert)
                if honest.status >= HTTPStatus.BAD_REQUEST:
                    return honest
            return _response(fault)
        if upsert is None:
            return self._apply(call, upsert)
        counted = len(upsert.records) - fault.missing
        return self._counted(self.plane.apply(upsert, time.time(), skip=fault.skipped, counted=counted))

    def _read(self, call: Call) -> Request | None:
        """The upsert that a request carries, or None; the plane itself will say what is wrong with it."""
        if call.operation != "upsert":
            return None
        try:
            return self.plane.read(call.body)
        except RefusedError:
            return None

    def _apply(self, call: Call, upsert: Request | None) -> Answer:
        now = time.time()
        if upsert is None:
            return self._counted(answer_to(self.plane, call, now))
        return self._counted(self.plane.apply(upsert, now))

    def _apply_late(self, delay: float, call: Call, upsert: Request | None) -> None:
        def apply() -> None:
            self._late.discard(handle)
            self._apply(call, upsert)

        handle = asyncio.get_running_loop().call_later(delay, apply)
        self._late.add(handle)

    def _counted(self, answer: Answer) -> Answer:
        self.counters.applied(answer.records)
        return answer

    @contextmanager
    def _carrying(self, facts: Facts, connection: Connection) -> Iterator[None]:
        """Count the ids that another request, whose client still waits, carries at the same time."""
        keys = {(facts.namespace, record_id) for record_id in facts.ids} if self.plane.journal is not None else ()
        for key in keys:
            others = self._carriers.setdefault(key, [])
            self.counters.overlaps += any(not other.gone for other in others)
            others.append(connection)
        try:
            yield
        finally:
            self._put_down(keys, connection)

    def _put_down(self, keys: Iterable[tuple[str, str]], connection: Connection) -> None:
        for key in keys:
            others = self._carriers[key]
            others.remove(connection)
            if not others:
                del self._carriers[key]


def _response(fault: Respond) -> Answer:
    headers = {}
    if fault.retry_after is not None:
        headers["Retry-After"] = retry_after(fault.retry_after, fault.retry_form, time.time())
    return Answer(fault.status, fault.body, fault.content_type, headers)
