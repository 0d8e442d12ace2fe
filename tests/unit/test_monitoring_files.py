"""The dashboard and the alerts ask for nothing that is not exported."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import promql_parser
import pytest
import yaml

from standings import METRICS, series
from upsertq_worker.metrics import table
from upsertq_worker.metrics.counts import OUTCOMES

if TYPE_CHECKING:
    from collections.abc import Iterator

DEPLOY = Path(__file__).parents[2] / "deploy"
DASHBOARD = json.loads((DEPLOY / "grafana" / "upsertq.json").read_text())
ALERTS = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yaml").read_text())
OURS = set().union(*map(series, METRICS))
PROCESS = {"process_resident_memory_bytes"}
"""What prometheus_client exports of a process, as far as it is used."""
LABELS = {name: {"queue", *metric.labels} for metric in METRICS for name in series(metric)}
GIVEN = {"instance", "job", "le"}
"""Labels that Prometheus adds."""
VALUES = {"outcome": set(OUTCOMES), "state": {"enqueued", "acked", "superseded", "discarded", "dead", "draining"}}


def expressions() -> Iterator[tuple[str, str]]:
    """Every expression, with where it stands; Grafana's variables are replaced as Grafana does."""
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            yield f"panel {panel['title']}", target["expr"].replace("$__rate_interval", "1m").replace("$queue", "q")
    for group in ALERTS["groups"]:
        for rule in group["rules"]:
            yield f"alert {rule['alert']}", rule["expr"]


def selectors(node: Any) -> Iterator[promql_parser.VectorSelector]:
    """Every selector in an expression."""
    if isinstance(node, promql_parser.VectorSelector):
        yield node
    for name in ("expr", "lhs", "rhs", "param", "vector_selector", "args"):
        inner = getattr(node, name, None)
        for one in inner if isinstance(inner, list) else [inner]:
            if one is not None:
                yield from selectors(one)


@pytest.mark.parametrize(("where", "expression"), list(expressions()))
def test_an_expression_names_what_is_exported(where: str, expression: str) -> None:
    """It parses; each metric in it is exported, with the labels and values that it is asked by."""
    found = list(selectors(promql_parser.parse(expression)))
    assert {one.name for one in found} <= OURS | PROCESS, where
    assert len(found) == len(re.findall(r"\b(?:upsertq|process)_\w+", expression)), where
    for one in found:
        for matcher in one.matchers.matchers:
            assert matcher.name in LABELS.get(one.name or "", set()) | GIVEN, (where, one.name)
            if matcher.name in VALUES:
                assert set(matcher.value.split("|")) <= VALUES[matcher.name], (where, matcher.value)
    labels = re.findall(r"by \(([^)]*)\)", expression)
    known = set().union(*(LABELS.get(one.name or "", set()) for one in found)) | GIVEN
    assert {name.strip() for group in labels for name in group.split(",")} <= known, where


def test_the_parser_sees_every_selector() -> None:
    """What the test above rests on."""
    nested = "quantile(0.9, sum by (le) (rate(a_bucket[1m]))) / on () (b > 0) and -c unless max_over_time(d[5m:1m])"
    assert [one.name for one in selectors(promql_parser.parse(nested))] == ["a_bucket", "b", "c", "d"]


def test_the_guide_has_the_table() -> None:
    """Every metric, and none that is not exported."""
    told = set(re.findall(r"`(upsertq_\w+)`", (DEPLOY.parent / "docs" / "metrics.md").read_text()))
    assert told == {metric.name for metric in METRICS}


def test_every_metric_is_on_the_dashboard() -> None:
    """Or is only of use beside others."""
    shown = " ".join(expression for where, expression in expressions() if where.startswith("panel"))
    assert {metric.name for metric in METRICS if metric.name not in shown} == {table.RUNS.name}


def test_panels_have_places_of_their_own() -> None:
    """None lies upon another one, or beyond the 24 columns; ids are unique."""
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells


def test_the_variables_are_those_that_are_used() -> None:
    """A data source, and the queue by its label."""
    variables = {one["name"]: one for one in DASHBOARD["templating"]["list"]}
    text = json.dumps(DASHBOARD)
    assert set(re.findall(r"\$\{?([a-z]\w+)", text)) == variables.keys() == {"datasource", "queue"}
    asked = re.fullmatch(r"label_values\((\w+), queue\)", variables["queue"]["query"]["query"])
    assert asked is not None
    assert asked[1] in OURS


def test_alerts_are_rules_as_prometheus_reads_them() -> None:
    """Names are unique, each has a severity and a summary, and durations are durations."""
    rules = [rule for group in ALERTS["groups"] for rule in group["rules"]]
    assert len({rule["alert"] for rule in rules}) == len(rules)
    for rule in rules:
        assert rule.keys() <= {"alert", "expr", "for", "labels", "annotations"}
        assert rule["labels"]["severity"] in {"page", "ticket"}
        assert rule["annotations"].keys() <= {"summary", "description"}
        assert re.fullmatch(r"\d+[smh]", rule.get("for", "0s"))
        labels = set(re.findall(r"\$labels\.(\w+)", json.dumps(rule["annotations"])))
        kept = re.search(r"by \(([^)]*)\)", rule["expr"])
        assert kept is not None
        assert labels <= {name.strip() for name in kept[1].split(",")}
