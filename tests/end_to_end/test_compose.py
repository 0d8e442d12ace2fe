"""The containers' files: the composition is valid, and the very commands of its services work together."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import servers
from processes import COMMAND, books, call, emulated, start
from waiting import wait_until

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "docker-compose.yml"


@pytest.fixture
def services() -> dict[str, Any]:
    """Provide the services of the composition."""
    found: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())["services"]
    return found


def test_the_composition_is_valid() -> None:
    """It fits the schema of the compose specification."""
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(COMPOSE)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_target_that_is_built_exists(services: dict[str, Any]) -> None:
    """Each service builds a stage of the Dockerfile, and each stage installs an extra that exists."""
    dockerfile = (ROOT / "Dockerfile").read_text()
    stages = set(re.findall(r"^FROM \S+ AS (\w+)$", dockerfile, re.MULTILINE))
    built = {service["build"]["target"] for service in services.values() if "build" in service}
    assert built == {"producer", "worker", "emulator"} <= stages
    extras = re.findall(r"pip install '\.\[([\w,]+)\]'", dockerfile)
    declared = (ROOT / "pyproject.toml").read_text()
    assert all(re.search(rf"^{name} = \[", declared, re.MULTILINE) for extra in extras for name in extra.split(","))


def test_the_services_commands_work_together(
    services: dict[str, Any], redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Emulator, worker and producer, run as their services say, land the sample; two workers share the queue."""
    monkeypatch.chdir(ROOT)
    key = services["worker"]["environment"]["PINECONE_API_KEY"]
    assert key == services["emulator"]["environment"]["PINECONE_API_KEY"]
    given = {"PINECONE_API_KEY": "local-key"}
    monkeypatch.setenv("PINECONE_API_KEY", "local-key")
    emulator = services["emulator"]["command"]
    assert emulator[:1] == ["emulate"]
    # the port is any free one here: the machine's own may be taken
    options = [*emulator[1 : emulator.index("--port")], *emulator[emulator.index("--port") + 2 :]]
    options[options.index("--host") + 1] = "127.0.0.1"
    with emulated(*options) as index:
        log = tmp_path / "worker.log"
        workers = [
            start(*services["worker"]["command"], url=redis_url, log=log, UPSERTQ_INDEX_HOST=index.url, **given)
            for _ in range(2)
        ]
        call(*services["producer"]["command"], url=redis_url)
        wait_until(lambda: log.read_text().count("; workers: 2") >= 2, 60, "the workers share the queue")
        assert books(redis_url, "sample", "sample")["acked"] == 250
        for worker in workers:
            worker.terminate()
        assert [worker.wait(30) for worker in workers] == [0, 0]


def test_workers_can_be_scaled(services: dict[str, Any]) -> None:
    """Nothing of a worker may be there once alone: no name, no address, no port of the host."""
    assert not services["worker"].keys() & {"container_name", "hostname", "ports", "network_mode", "volumes"}
    assert services["worker"]["environment"]["UPSERTQ_HTTP"].startswith("127.0.0.1:")


def test_the_health_check_of_a_worker_tells_whether_it_is_ready(
    services: dict[str, Any], redis_url: str, tmp_path: Path
) -> None:
    """The very command, against a worker at another port: it fails before, and succeeds once the worker is ready."""
    worker, port = services["worker"], servers.free_port()
    http = f"127.0.0.1:{port}"
    check = [
        sys.executable if word == "python" else word.replace(worker["environment"]["UPSERTQ_HTTP"], http)
        for word in worker["healthcheck"]["test"][1:]
    ]
    assert subprocess.run(check, capture_output=True, check=False).returncode == 1
    with emulated() as index:
        given = {"UPSERTQ_INDEX_HOST": index.url, "UPSERTQ_HTTP": http}
        start(*worker["command"], url=redis_url, log=tmp_path / "log", **given)
        healthy = lambda: subprocess.run(check, capture_output=True, check=False).returncode == 0  # noqa: E731 - once
        wait_until(healthy, 60, "it is healthy")


def test_the_images_own_commands_are_commands() -> None:
    """What an image runs when nothing is said is a subcommand with the options given."""
    for line in re.findall(r"^CMD (\[.*\])$", (ROOT / "Dockerfile").read_text(), re.MULTILINE):
        words = shlex.split(line.strip("[]").replace(",", " "))
        done = subprocess.run([*COMMAND, words[0], "--help"], capture_output=True, text=True, check=True)
        assert all(word in done.stdout for word in words[1:] if word.startswith("--") and word != "--help")
