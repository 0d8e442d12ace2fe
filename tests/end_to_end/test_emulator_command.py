"""The command `upsertq emulate` as a process: what it prints, refuses and how it ends."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

COMMAND = [sys.executable, "-c", "from upsertq_emulator.command import emulate; emulate()"]
DEADLINE = 20


def environment(**extra: str) -> dict[str, str]:
    """This process's environment without a key, plus `extra`."""
    return {name: value for name, value in os.environ.items() if name != "PINECONE_API_KEY"} | extra


@contextmanager
def emulating(*options: str, **variables: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A running command and the first line it printed."""
    with subprocess.Popen(
        [*COMMAND, *options], stdout=subprocess.PIPE, text=True, env=environment(**variables)
    ) as process:
        assert process.stdout is not None
        try:
            yield process, process.stdout.readline()
        finally:
            process.kill()


def call(url: str, body: bytes | None = None, *, key: str | None = None) -> tuple[int, bytes]:
    """Status and body of one request."""
    headers = {"Content-Type": "application/json"} | ({} if key is None else {"Api-Key": key})
    request = urllib.request.Request(url, body, headers)  # noqa: S310 - the emulator's own URL
    try:
        with urllib.request.urlopen(request, timeout=DEADLINE) as response:  # noqa: S310 - the same
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def refused(*options: str, **variables: str) -> tuple[int, str]:
    """Exit code and error text of a command that must not start."""
    done = subprocess.run(
        [*COMMAND, *options],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
        env=environment(**variables),
    )
    assert done.stdout == ""
    return done.returncode, done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_prints_where_it_listens_and_stops_on_a_signal(number: signal.Signals) -> None:
    """One line names the URL and the dimension; a signal ends it with 0 although a client stays connected."""
    with emulating("--port", "0", "--dimension", "3") as (process, line):
        said = re.fullmatch(r"upsertq emulator listening on (http://127\.0\.0\.1:(\d+)) \(dimension 3\)\n", line)
        assert said
        body = b'{"vectors":[{"id":"a","values":[1,2,3]}]}'
        assert call(said[1] + "/vectors/upsert", body) == (200, b'{"upsertedCount":1}')
        status, stats = call(said[1] + "/describe_index_stats", b"{}")
        assert (status, json.loads(stats)["totalVectorCount"]) == (200, 1)
        assert call(said[1] + "/describe_index_stats") == (200, stats)
        assert call(said[1] + "/nowhere")[0] == 404
        assert call(said[1] + "/vectors/upsert")[0] == 405
        with socket.create_connection(("127.0.0.1", int(said[2]))):
            process.send_signal(number)
            assert process.wait(DEADLINE) == 0


def test_json_output_is_one_document() -> None:
    """With --json the first line is a JSON document with the URL and the port."""
    with emulating("--port", "0", "--json") as (_, line):
        document = json.loads(line)
        assert document["url"] == f"http://127.0.0.1:{document['port']}"
        assert call(document["url"] + "/vectors/list")[0] == 200


def test_a_required_key_is_read_from_the_environment() -> None:
    """Without the key or with a wrong one every request is a 401; with it the request is answered."""
    options = ("--port", "0", "--json", "--require-api-key")
    with emulating(*options, PINECONE_API_KEY="s3cret-key") as (_, line):
        url = json.loads(line)["url"] + "/describe_index_stats"
        assert call(url) == (401, b'"Unauthorized"')
        assert call(url, key="wrong") == (401, b"Invalid API Key")
        assert call(url, key="s3cret-key")[0] == 200


def test_it_stays_on_loopback_unless_a_key_is_required() -> None:
    """An address that other machines reach needs a key: one line says so, exit code 2."""
    code, error = refused("--host", "0.0.0.0", "--port", "0")  # noqa: S104 - must be refused
    assert (code, error.count("\n")) == (2, 1)
    assert "--require-api-key" in error
    code, error = refused("--require-api-key")
    assert (code, error.count("\n")) == (2, 1)
    assert "PINECONE_API_KEY" in error


def test_a_taken_port_is_one_clear_line() -> None:
    """A port in use ends the command with 1 and a line that names the port and what to do."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, error = refused("--port", str(port))
    assert (code, error.count("\n")) == (1, 1)
    assert f"port {port}" in error
    assert "--port" in error


def test_faults_come_from_the_command_line() -> None:
    """`--faults` works from the first request on, and a faulty spec ends the command with 2 and one line."""
    with emulating("--port", "0", "--json", "--faults", "error=503;first=1", "--journal") as (_, line):
        url = json.loads(line)["url"]
        body = b'{"vectors":[{"id":"a","values":[1,2,3]}]}'
        assert call(url + "/vectors/upsert", body)[0] == 503
        assert call(url + "/vectors/upsert", body)[0] == 200
        assert json.loads(call(url + "/_emulator/journal?id=a")[1])[0]["sequence"] == 1
    code, error = refused("--faults", "eror=503")
    assert (code, error.count("\n")) == (2, 1)
    assert "unknown kind 'eror'" in error
