"""A small typed client of the REST interface."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from api.sdk.connection import Connection, ServiceError
from certify.errors import DatasetRejected, ModelRejected, Problem

__all__ = ["ENDED", "Client", "ServiceError"]
ENDED = ("succeeded", "failed", "cancelled")
PART_BYTES = 16 * 2**20
_RETRIES = 30
# So many streams of events that break before the first one, and they are given up.
_SILENT = 3
# A lost connection, a part that another client sent meanwhile, a service that starts or is busy.
_PASSING = (0, 409, 429, 502, 503, 504)


class Client:
    """One service, one key.

    Args:
        url: for example http://127.0.0.1:8000.
        key: `assay_<id>_<secret>`.

    Raises (every method):
        ServiceError: the service refused; the sentence names the field and the mend.
    """

    def __init__(self, url: str, key: str) -> None:
        self._connection = Connection(url, key)
        self.url, self._send = self._connection.url, self._connection.send

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._connection.http.close()

    def upload_blob(self, path: Path) -> str:
        """Send a file unless the service has it; returns its SHA-256. After a lost connection it goes on where it was."""
        try:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise ServiceError.at("file", f"cannot read {path}: {error.strerror}", "check the path") from None
        target, lost = f"/v1/blobs/sha256/{digest}", 0
        offset = self._offset(target)
        while offset is not None:
            try:
                self._send_from(target, path, offset)
                return digest
            except ServiceError as error:
                lost += 1
                if error.status not in _PASSING or lost > _RETRIES:
                    raise
            time.sleep(1.0)
            before, offset = offset, self._offset_again(target)
            lost = lost if offset == before else 0
        return digest

    def _offset(self, target: str) -> int | None:
        """From which byte to go on with an upload; None when all of it is there."""
        head = self._send("HEAD", target, missing_ok=True)
        return int(head.headers.get("Upload-Offset", "0")) if head.status_code == 404 else None

    def _offset_again(self, target: str) -> int | None:
        for _ in range(_RETRIES):
            try:
                return self._offset(target)
            except ServiceError as error:
                if error.status not in _PASSING:
                    raise
            time.sleep(1.0)
        return self._offset(target)

    def _send_from(self, target: str, path: Path, offset: int) -> None:
        """The rest of a file, in parts that are resumed one by one; a small file at once."""
        total, patient = path.stat().st_size, httpx.Timeout(60.0, read=900.0)  # the last part waits until all were put together
        with path.open("rb") as file:
            file.seek(offset)
            while offset < total or total == 0:
                part = file.read(PART_BYTES)
                place = {"Content-Range": f"bytes {offset}-{offset + len(part) - 1}/{total}"} if len(part) < total else {}
                self._send("PUT", target, content=part, headers=place, timeout=patient)
                offset += len(part)
                if len(part) >= total:
                    return

    def add_model(self, name: str, path: Path, value_range: tuple[float, float] | None = None) -> dict[str, Any]:
        return self.post("/v1/models", {"name": name, "blob": self.upload_blob(path), "range": value_range})

    def add_dataset(self, name: str, path: Path) -> dict[str, Any]:
        return self.post("/v1/datasets", {"name": name, "blob": self.upload_blob(path)})

    def inspected(self, noun: str, artifact_id: str) -> dict[str, Any]:
        """A model or dataset (`noun` is models or datasets) once it is ready; waits for a worker to look at it.

        Raises:
            ModelRejected, DatasetRejected: it cannot be used, and why.
            ServiceError: it could not be inspected, which says nothing about it; `inspect_again` asks once more.
        """
        found = self._wait(f"/v1/{noun}/{artifact_id}", lambda found: found["state"] != "inspecting", lambda found: None)
        if found["state"] == "rejected":
            rejected = ModelRejected if noun == "models" else DatasetRejected
            raise rejected(*(Problem(**problem) for problem in found["rejection"]))
        if found["state"] == "failed":
            raise ServiceError.at(noun.removesuffix("s"), found["condition"])
        return found

    def inspect_again(self, noun: str, artifact_id: str) -> dict[str, Any]:
        """Have a rejected or failed model or dataset inspected once more, and wait for what becomes of it; raises as `inspected`."""
        return self.inspected(noun, self.post(f"/v1/{noun}/{artifact_id}/inspect")["id"])

    def submit(self, model: str, dataset: str, spec: Mapping[str, Any], name: str = "") -> dict[str, Any]:
        return self.post("/v1/jobs", {"model": model, "dataset": dataset, "spec": spec, "name": name})

    def predict(
        self,
        model: str,
        dataset: str,
        *,
        sigma: float | None = None,
        ledger: str | None = None,
        n: int = 1000,
        alpha: float = 0.001,
        noise: str = "gaussian",
        examples: Mapping[str, Any] | None = None,
        seed: int = 0,
        name: str = "",
    ) -> list[dict[str, Any]]:
        """What the smoothed classifier answers, one row for each example; waits until all are there.

        With probability at least 1 - alpha a row's `prediction` is not a class other than the smoothed classifier's; it is None where
        the votes did not single one out. No radius is claimed. An unchanged question gets the same answers.

        Args:
            model: id.
            dataset: id.
            sigma: standard deviation of the noise in each coordinate, raw-input units.
            ledger: in place of sigma, the id of a ledger: its regions answer for the inputs in them, and elsewhere the votes do, at the
                level that is found for the input.
            n: votes for each example.
            alpha: error level of each answer.
            noise: as in a spec.
            examples: `start`, `stop` and `step`; all of them when None.
            seed: another one is another question.
            name: what to call it.

        Raises:
            ServiceError: the service refused, or it ended without all answers.
        """
        which = {"sigma": sigma} if ledger is None else {"ledger": ledger}
        body = {"model": model, "dataset": dataset, **which, "n": n, "alpha": alpha, "noise": noise, "seed": seed, "name": name}
        job = self.post("/v1/predictions", {**body, "examples": dict(examples or {})})
        job = self.watch(job["id"], lambda job: None)
        if job["state"] != "succeeded":
            unsaid = Problem(field="", detail=f"{job['id']} {job['state']}", mend="submit it again")
            raise ServiceError(*([Problem(**problem) for problem in job["error"]] or [unsaid]))
        return list(self._items(f"/v1/predictions/{job['id']}"))

    def watch(self, job_id: str, tell: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
        """Follow a job to its end, and tell of it whenever something has happened; a lost connection is waited out."""
        path = f"/v1/jobs/{job_id}"
        job = self._wait(path, lambda found: True, tell)
        last, silent = "", 0
        while job["state"] not in ENDED and silent < _SILENT:
            silent += 1
            try:
                for event in self._connection.events(f"{path}/events", last):
                    last, silent = event.id or last, 0
                    job |= {"progress": event.data} if event.name == "progress" else {"condition": "", **event.data}
                    tell(job)
            except ServiceError as error:
                if error.status:
                    break
                job = self._wait(path, lambda found: True, tell)
        # The whole job; and where events do not come through, asking again and again does.
        return self._wait(path, lambda found: found["state"] in ENDED, tell)

    def results(self, job_id: str) -> Iterator[str]:
        """All certificates and attack results of a job as JSON lines; `kind` tells them apart."""
        yield from self._send("GET", f"/v1/jobs/{job_id}/results", params={"format": "ndjson"}).text.splitlines()

    def lines(self, path: str, **params: Any) -> Iterator[str]:
        """The lines of an answer, as they come; nothing of it is held."""
        yield from self._connection.lines(path, {k: v for k, v in params.items() if v is not None})

    def report_html(self, job_id: str) -> str:
        return self._send("GET", f"/v1/jobs/{job_id}/report", params={"format": "html"}).text

    def judged(self, job_id: str) -> dict[str, Any]:
        """What became of a job at its gates, once all of them have judged it; `judgement` is None where there is no gate."""
        return self._wait(f"/v1/jobs/{job_id}/gates", lambda found: not found["waiting"], lambda found: None)

    def junit(self, job_id: str) -> str:
        """The same as JUnit XML."""
        return self._send("GET", f"/v1/jobs/{job_id}/gates", params={"format": "junit"}).text

    def last_run(self, schedule_id: str) -> dict[str, Any] | None:
        """The latest run of a schedule, once it has started or it is known why it does not; None when there is none."""
        found = self._wait(f"/v1/schedules/{schedule_id}/runs?limit=1", _decided, lambda found: None)
        return next(iter(found["items"]), None)

    def get(self, path: str, **params: Any) -> dict[str, Any]:
        found: dict[str, Any] = self._send("GET", path, params={k: v for k, v in params.items() if v is not None}).json()
        return found

    def post(self, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        found: dict[str, Any] = self._send("POST", path, json=body).json()
        return found

    def put(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = self._send("PUT", path, json=body).json()
        return found

    def patch(self, path: str, body: Mapping[str, Any], *, revision: int) -> dict[str, Any]:
        """Change what was read at this revision; refused when somebody has changed it since."""
        found: dict[str, Any] = self._send("PATCH", path, json=body, headers={"If-Match": f'"{revision}"'}).json()
        return found

    def delete(self, path: str) -> None:
        self._send("DELETE", path)

    def _items(self, path: str) -> Iterator[dict[str, Any]]:
        cursor = None
        while True:
            page = self.get(path, limit=1000, cursor=cursor)
            yield from page["items"]
            cursor = page["next_cursor"]
            if cursor is None:
                return

    def _wait(self, path: str, done: Callable[[dict[str, Any]], bool], tell: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
        lost = 0
        while True:
            try:
                found, lost = self.get(path), 0
            except ServiceError as error:
                lost += 1
                if error.status or lost > _RETRIES:  # only a lost connection is waited out
                    raise
                time.sleep(1.0)
                continue
            tell(found)
            if done(found):
                return found
            time.sleep(0.4)


def _decided(runs: dict[str, Any]) -> bool:
    return all(run["state"] != "waiting" for run in runs["items"])
