"""The admin paths below `/_emulator/`: read and switch faults, read the journal and the counters. No sockets."""

from collections.abc import Iterator

from upsertq_emulator.answer import Answer, RefusedError, answering
from upsertq_emulator.journal import Entry, Journal
from upsertq_emulator.json_text import read_json, write_json
from upsertq_emulator.routes import Call
from upsertq_emulator.service import Service
from upsertq_emulator.spec import FaultSpec, FaultSpecError, parse_faults

PREFIX = "/_emulator/"
_LINES_AT_ONCE = 500


@answering
def answer_admin(call: Call, service: Service) -> Answer:
    """Answer one admin request; a faulty spec is a 400 that names every problem and changes nothing."""
    match call.method, call.path.removeprefix(PREFIX):
        case "GET", "faults":
            document = service.fault_spec.document
        case "PUT", "faults":
            service.set_faults(_spec(call.body))
            document = service.fault_spec.document
        case "DELETE", "faults":
            service.set_faults(None)
            document = service.fault_spec.document
        case "GET", "counters":
            document = service.counters.document()
        case "GET", "journal":
            journal = _kept(service.plane.journal)
            entries = journal.versions(_namespace(call) or "", call.query.get("id", ""))
            return Answer(200, write_json([entry.document() for entry in entries]))
        case _:
            raise RefusedError(f"Path not found: {call.method} {call.path}", status=404)
    return Answer(200, write_json(document))


def journal_lines(call: Call, journal: Journal | None) -> Iterator[bytes] | None:
    """The journal as JSON lines where the request asks for all ids, of one namespace if it names one; else None."""
    asked = (call.method, call.path) == ("GET", PREFIX + "journal") and not call.query.get("id", "")
    return _lines(journal, _namespace(call)) if asked and journal is not None else None


def _kept(journal: Journal | None) -> Journal:
    if journal is None:
        raise RefusedError("The emulator keeps no journal: start it with --journal", status=404)
    return journal


def _lines(journal: Journal, namespace: str | None) -> Iterator[bytes]:
    """The journal as JSON lines, some hundred at once; only one namespace's unless it is None."""
    lines: list[bytes] = []
    for entry in journal.entries():
        if namespace is not None and entry.namespace != namespace:
            continue
        lines.append(_line(entry))
        if len(lines) == _LINES_AT_ONCE:
            yield b"".join(lines)
            lines.clear()
    yield b"".join(lines)


def _namespace(call: Call) -> str | None:
    """The namespace asked for in its one spelling, None where none is named."""
    named = call.query.getall("namespace", ())
    return None if not named else named[0].replace("__default__", "")


def _line(entry: Entry) -> bytes:
    return write_json(entry.document()) + b"\n"


def _spec(body: bytes) -> FaultSpec:
    try:
        document = read_json(body)
        if not isinstance(document, str | dict):
            raise RefusedError("A fault spec is a JSON object, or a JSON string in the compact form")
        return parse_faults(document)
    except FaultSpecError as error:
        raise RefusedError(str(error)) from None
    except ValueError as error:
        raise RefusedError(f"Invalid JSON in the request body: {error}") from None
