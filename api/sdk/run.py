"""What came of a job, as numbers, tables and pages."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import Any

from api.sdk.client import Client
from certify.findings import ATTACK


class Run:
    """A job that has ended, with all its rows. Radii are in raw-input units and rounded down; one certifier is looked at at a time.

    Args:
        client: the service it ran on.
        job: as the service describes it.
    """

    def __init__(self, client: Client, job: dict[str, Any]) -> None:
        self._client, self.job, self.id = client, job, str(job["id"])

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """Certificates and attack results, by certifier, then example, as the service keeps them."""
        return [json.loads(line) for line in self._client.results(self.id)]

    @cached_property
    def report(self) -> dict[str, Any]:
        """Curves, verdicts and statements; see `GET /v1/jobs/{id}/report`."""
        found: dict[str, Any] = self._client.get(f"/v1/jobs/{self.id}/report")["report"]
        return found

    def arrays(self, certifier: int = 0) -> dict[str, Any]:
        """One certifier's rows as numpy arrays by name: example, label, prediction (-1 for none), correct, verdict, radius, ..."""
        from certify.arrays import columns

        return columns([row for row in self.rows if row["certifier"] == certifier])

    def radii(self, certifier: int = 0) -> Any:
        """float64 of one entry for each example: the certified radius, 0 where nothing is certified.

        Rows decided at given `radii` are decisions: a radius here says which of them holds, and no more.
        """
        return self.arrays(certifier)["radius"]

    def certified_accuracy(self, radius: float, certifier: int = 0) -> float:
        """The share of all examples proved correct at least that far."""
        mine = [row for row in self.rows if row["certifier"] == certifier and row["kind"] != ATTACK]
        held: int = sum(row["verdict"] == "certified" and row["correct"] and row["radius"] >= radius for row in mine)
        return held / max(1, len(mine))

    def frame(self, certifier: int | None = None) -> Any:
        """The rows as a pandas DataFrame, evidence and provenance left out; pandas must be installed."""
        import pandas as pd  # type: ignore[import-untyped, import-not-found, unused-ignore]

        from certify.arrays import columns

        return pd.DataFrame(columns([row for row in self.rows if certifier in (None, row["certifier"])]))

    def html(self, path: str | Path) -> Path:
        """Write the report as one page that needs nothing else."""
        target = Path(path)
        target.write_text(self._client.report_html(self.id), encoding="utf-8")
        return target

    def gates(self) -> dict[str, Any]:
        """What became of it at its gates, once all of them have judged it."""
        return self._client.judged(self.id)

    def __repr__(self) -> str:
        state, reused = self.job["state"], " (the answer was there already)" if self.job.get("reused") else ""
        return f"Run({self.id!r}, {state}{reused})"
