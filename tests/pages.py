"""Reads what a real worker, or `upsertq metrics`, serves about itself."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.error import HTTPError
from urllib.request import ProxyHandler, Request, build_opener

from prometheus_client.parser import text_string_to_metric_families

from waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path

_OPENER = build_opener(ProxyHandler({}))


@dataclass(frozen=True)
class Pages:
    """The pages at a URL."""

    url: str
    token: str = ""

    @classmethod
    def named_in(cls, log: Path, token: str = "") -> Pages:
        """Those of the process that logs there, once it has said where they are."""

        def found() -> re.Match[str] | None:
            return re.search(r"health and metrics are at (http://\S+)", log.read_text() if log.exists() else "")

        match = wait_until(found, 60, "the log says where health and metrics are")
        assert match is not None
        return cls(match[1], token)

    def get(self, path: str) -> tuple[int, str]:
        """Status and body."""
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        try:
            with _OPENER.open(Request(self.url + path, headers=headers), timeout=30) as answer:  # noqa: S310 - of ours
                return answer.status, answer.read().decode()
        except HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def figures(self) -> dict[str, float]:
        """Every sample of /metrics, by name and by the value of its label, as `upsertq_requests_total ok`."""
        status, text = self.get("/metrics")
        assert status == 200, text
        found = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                label = "".join(f" {value}" for name, value in sample.labels.items() if name != "queue")
                assert sample.name + label not in found
                found[sample.name + label] = sample.value
        return found
