"""The Kubernetes files are valid, agree with one another, and say what the commands take and serve."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
import yaml

from standings import FINE
from upsertq.cli.options import URL_VARIABLES
from upsertq_worker.cli.http_options import FILE_VARIABLE, http_address
from upsertq_worker.cli.metrics import metrics
from upsertq_worker.cli.work import work
from upsertq_worker.edge.monitor import QueueMonitor
from upsertq_worker.edge.queue_reader import QueueReader
from upsertq_worker.metrics import books

if TYPE_CHECKING:
    import click

    from upsertq_worker.edge.http_server import Route

FOLDER = Path(__file__).parents[2] / "deploy" / "kubernetes"
SCHEMAS = Path(__file__).parents[1] / "schemas"
KUSTOMIZATION = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
RESOURCES = [one for name in KUSTOMIZATION["resources"] for one in yaml.safe_load_all((FOLDER / name).read_text())]
SETTINGS = dict(line.split("=", 1) for line in (FOLDER / "settings.env").read_text().splitlines())
SECONDS_AFTER_GRACE = 15
"""What a worker may take after its grace period: to settle what was answered, to release its leases."""


def resource(kind: str, name: str) -> Any:
    """One resource."""
    (found,) = [one for one in RESOURCES if (one["kind"], one["metadata"]["name"]) == (kind, name)]
    return found


def pod(name: str) -> Any:
    """What a Deployment runs."""
    return resource("Deployment", name)["spec"]["template"]["spec"]


PODS = ("upsertq-worker", "upsertq-metrics")


def container(name: str) -> Any:
    """The only container of a Deployment."""
    (found,) = pod(name)["containers"]
    return found


def arguments(name: str) -> list[str]:
    """What its command is called with, after its name, with variables filled in as Kubernetes does."""
    return [re.sub(r"\$\((\w+)\)", lambda found: SETTINGS[found[1]], word) for word in container(name)["args"][1:]]


def parsed(command: click.Command, name: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The options that a command takes from the arguments and the environment of its container."""
    for variable, value in SETTINGS.items():
        monkeypatch.setenv(variable, value)
    assert command.name == container(name)["args"][0]
    return command.make_context(command.name or "", arguments(name)).params


@pytest.fixture
async def routes() -> dict[str, Route]:
    """Provide what is served."""
    async with QueueReader("redis://127.0.0.1:1/0", "q", sample=1) as reader:
        return dict(QueueMonitor(reader, 1).routes)


def test_what_kubernetes_knows_fits_its_schemas() -> None:
    """Strictly: a field that it does not know is an error."""
    files = [str(FOLDER / name) for name in KUSTOMIZATION["resources"] if name != "scaling.yaml"]
    command = [sys.executable, "-m", "kubernetes_validate", "--strict", *files]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    told = re.findall(r"passed for resource (\S+)", done.stdout + done.stderr)
    assert len(told) == len([one for one in RESOURCES if "keda" not in one["apiVersion"]])


@pytest.mark.parametrize(
    "document", [KUSTOMIZATION, *(one for one in RESOURCES if "keda" in one["apiVersion"])], ids=lambda one: one["kind"]
)
def test_what_others_define_fits_ours(document: Any, tmp_path: Path) -> None:
    """KEDA's kinds and the Kustomization; a field that is misspelled is an error."""
    schema = SCHEMAS / f"{document['kind']}.json"

    def fits() -> bool:
        path = tmp_path / "document.json"
        path.write_text(json.dumps(document))
        command = [sys.executable, "-m", "check_jsonschema", "--schemafile", str(schema), str(path)]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    assert fits()
    document = {**document, "spek": {}}
    assert not fits()


def test_every_file_is_used() -> None:
    """And every one that is named is there."""
    named = {*KUSTOMIZATION["resources"], "kustomization.yaml", *KUSTOMIZATION["configMapGenerator"][0]["envs"]}
    assert named == {path.name for path in FOLDER.iterdir()}


def test_the_commands_take_what_they_are_given(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Every option exists; the address needs the token that is mounted; the queue is one for both."""
    token = tmp_path / "token"
    token.write_text("0123456789abcdef")
    queues = set()
    for command, name in zip((work, metrics), PODS, strict=True):
        given = parsed(command, name, monkeypatch)
        address = http_address(given["http"], str(token))
        assert address is not None
        assert address.port == container(name)["ports"][0]["containerPort"]
        assert container(name)["ports"][0]["name"] == "http"
        queues.add(given["queue_name"])
    assert queues == {SETTINGS["QUEUE"]}


def test_a_worker_has_time_to_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    """More than its own grace period and what follows it."""
    grace = parsed(work, "upsertq-worker", monkeypatch)["grace"]
    assert pod("upsertq-worker")["terminationGracePeriodSeconds"] >= grace + SECONDS_AFTER_GRACE


@pytest.mark.parametrize("name", PODS)
def test_pods_may_do_nothing(name: str) -> None:
    """No root, no writing, no capabilities, no access to the cluster; memory is limited."""
    context, own = pod(name)["securityContext"], container(name)["securityContext"]
    assert context["runAsNonRoot"] is True
    assert context["runAsUser"] > 0
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    assert own == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod(name)["automountServiceAccountToken"] is False
    assert container(name)["resources"]["limits"].keys() == {"memory"}


@pytest.mark.parametrize("name", PODS)
async def test_probes_ask_what_is_open(name: str, routes: dict[str, Route]) -> None:
    """Liveness never asks for more than life: Redis that is away is no reason to restart a worker."""
    probes = {key: probe for key, probe in container(name).items() if key.endswith("Probe")}
    for probe in probes.values():
        assert routes[probe["httpGet"]["path"]].open
        assert probe["httpGet"]["port"] == "http"
    assert probes["livenessProbe"]["httpGet"]["path"] == "/healthz"
    assert name != "upsertq-worker" or probes["readinessProbe"]["httpGet"]["path"] == "/readyz"


@pytest.mark.parametrize("name", PODS)
def test_secrets_come_from_one_secret(name: str) -> None:
    """As files where the command takes a file; nothing secret stands in these files."""
    mounted = {mount["name"]: mount for mount in container(name)["volumeMounts"]}
    (volume,) = pod(name)["volumes"]
    files = {f"{mounted[volume['name']]['mountPath']}/{item['path']}" for item in volume["secret"]["items"]}
    by_file = {one["name"]: one["value"] for one in container(name)["env"] if "value" in one}
    assert set(by_file.values()) == files
    assert by_file.keys() <= {"PINECONE_API_KEY_FILE", FILE_VARIABLE}
    by_value = {one["name"]: one["valueFrom"]["secretKeyRef"] for one in container(name)["env"] if "valueFrom" in one}
    assert by_value.keys() == {URL_VARIABLES[0]}
    keys = {item["key"] for item in volume["secret"]["items"]} | {one["key"] for one in by_value.values()}
    told = re.search(r"create secret generic (\S+)((?: --from-file=\S+)+)", (FOLDER / "kustomization.yaml").read_text())
    assert told is not None
    assert keys <= set(re.findall(r"--from-file=(\S+)", told[2]))
    assert {volume["secret"]["secretName"], *(one["name"] for one in by_value.values())} == {told[1]}


async def test_the_autoscaler_asks_what_is_served(routes: dict[str, Route]) -> None:
    """The Service, its port, the path, the field, the token's name; no more workers than a new queue has shards."""
    spec = resource("ScaledObject", "upsertq-worker")["spec"]
    (trigger,) = spec["triggers"]
    url = urlsplit(trigger["metadata"]["url"])
    service = resource("Service", url.hostname or "")["spec"]
    labels = resource("Deployment", "upsertq-metrics")["spec"]["template"]["metadata"]["labels"]
    assert service["selector"].items() <= labels.items()
    assert [(port["port"], port["targetPort"]) for port in service["ports"]] == [(url.port, "http")]
    assert url.path in routes
    assert trigger["metadata"]["valueLocation"] in books.scale(FINE, 1)
    assert float(trigger["metadata"]["targetValue"]) == 1
    assert spec["scaleTargetRef"]["name"] == resource("Deployment", "upsertq-worker")["metadata"]["name"]
    assert "replicas" not in resource("Deployment", "upsertq-worker")["spec"]
    assert spec["minReplicaCount"] == 0  # the one that is asked is no worker
    authentication = resource("TriggerAuthentication", trigger["authenticationRef"]["name"])
    (target,) = authentication["spec"]["secretTargetRef"]
    assert (target["parameter"], target["key"]) == ("token", "http-token")


def test_the_budget_is_of_the_workers() -> None:
    """One at a time may be evicted."""
    budget = resource("PodDisruptionBudget", "upsertq-worker")["spec"]
    deployment = resource("Deployment", "upsertq-worker")["spec"]
    assert budget["selector"] == deployment["selector"]
    assert budget["maxUnavailable"] == 1
