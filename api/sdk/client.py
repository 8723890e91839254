"""A small typed client of the REST interface."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from certify.errors import AssayError, Problem

ENDED = ("succeeded", "failed", "cancelled")
_RETRIES = 30


class ServiceError(AssayError):
    """The service refused a request or cannot be reached."""

    code = "service-error"

    def __init__(self, *problems: Problem, status: int = 0) -> None:
        super().__init__(*problems)
        self.status = status


class Client:
    """One service, one key.

    Args:
        url: for example http://127.0.0.1:8000.
        key: `assay_<id>_<secret>`.

    Raises (every method):
        ServiceError: the service refused; the sentence names the field and the mend.
    """

    def __init__(self, url: str, key: str) -> None:
        self.url = url.rstrip("/")
        self._http = httpx.Client(base_url=self.url, headers={"Authorization": f"Bearer {key}"}, timeout=60.0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._http.close()

    def upload_blob(self, path: Path) -> str:
        """Send a file unless the service has it; returns its SHA-256."""
        try:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise ServiceError.at("file", f"cannot read {path}: {error.strerror}", "check the path") from None
        target = f"/v1/blobs/sha256/{digest}"
        if self._send("HEAD", target, missing_ok=True).status_code == 404:
            self._send("PUT", target, content=_chunks(path))
        return digest

    def add_model(self, name: str, path: Path, value_range: tuple[float, float] | None = None) -> dict[str, Any]:
        return self.post("/v1/models", {"name": name, "blob": self.upload_blob(path), "range": value_range})

    def add_dataset(self, name: str, path: Path) -> dict[str, Any]:
        return self.post("/v1/datasets", {"name": name, "blob": self.upload_blob(path)})

    def inspected(self, noun: str, artifact_id: str) -> dict[str, Any]:
        """Wait until a worker has looked at a model or dataset (`noun` is models or datasets)."""
        return self._wait(f"/v1/{noun}/{artifact_id}", lambda found: found["state"] != "inspecting", lambda found: None)

    def submit(self, model: str, dataset: str, spec: Mapping[str, Any], name: str = "") -> dict[str, Any]:
        return self.post("/v1/jobs", {"model": model, "dataset": dataset, "spec": spec, "name": name})

    def predict(
        self,
        model: str,
        dataset: str,
        *,
        sigma: float,
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
            n: votes for each example.
            alpha: error level of each answer.
            noise: as in a spec.
            examples: `start`, `stop` and `step`; all of them when None.
            seed: another one is another question.
            name: what to call it.

        Raises:
            ServiceError: the service refused, or it ended without all answers.
        """
        body = {"model": model, "dataset": dataset, "sigma": sigma, "n": n, "alpha": alpha, "noise": noise, "seed": seed, "name": name}
        job = self.post("/v1/predictions", {**body, "examples": dict(examples or {})})
        job = self.watch(job["id"], lambda job: None)
        if job["state"] != "succeeded":
            unsaid = Problem(field="", detail=f"{job['id']} {job['state']}", mend="submit it again")
            raise ServiceError(*([Problem(**problem) for problem in job["error"]] or [unsaid]))
        return list(self._items(f"/v1/predictions/{job['id']}"))

    def watch(self, job_id: str, tell: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
        """Follow a job to its end; a lost connection is waited out."""
        return self._wait(f"/v1/jobs/{job_id}", lambda job: job["state"] in ENDED, tell)

    def results(self, job_id: str) -> Iterator[str]:
        """All certificates and attack results of a job as JSON lines; `kind` tells them apart."""
        yield from self._send("GET", f"/v1/jobs/{job_id}/results", params={"format": "ndjson"}).text.splitlines()

    def report_html(self, job_id: str) -> str:
        return self._send("GET", f"/v1/jobs/{job_id}/report", params={"format": "html"}).text

    def get(self, path: str, **params: Any) -> dict[str, Any]:
        found: dict[str, Any] = self._send("GET", path, params={k: v for k, v in params.items() if v is not None}).json()
        return found

    def post(self, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        found: dict[str, Any] = self._send("POST", path, json=body).json()
        return found

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

    def _send(self, method: str, path: str, *, missing_ok: bool = False, **request: Any) -> httpx.Response:
        try:
            response = self._http.request(method, path, **request)
        except httpx.TransportError as error:
            raise ServiceError.at("url", f"no service answers at {self.url} ({error})", "start one with: assay up") from None
        if response.is_success or (missing_ok and response.status_code == 404):
            return response
        raise _refusal(response)


def _refusal(response: httpx.Response) -> ServiceError:
    try:
        body = response.json()
        problems = [Problem(field=e["field"], detail=e["detail"], mend=e["mend"]) for e in body["errors"]]
        return ServiceError(*(problems or [Problem(field="", detail=body["detail"])]), status=response.status_code)
    except (ValueError, KeyError, TypeError):
        return ServiceError(Problem(field="", detail=f"the service answered {response.status_code}"), status=response.status_code)


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(2**20):
            yield chunk
