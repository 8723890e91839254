"""Requests that survive a lost connection, and the events of a job as they come."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx

from certify.errors import AssayError, Problem

_PAUSES = (0.5, 1.0, 2.0, 4.0)
_LONGEST_WAIT = 10.0
# A comment comes every 15 seconds when nothing happens; a stream that is silent for longer is dead.
_SILENCE_SECONDS = 40.0


class ServiceError(AssayError):
    """The service refused a request or cannot be reached. `status` is 0 when it cannot be reached."""

    code = "service-error"

    def __init__(self, *problems: Problem, status: int = 0) -> None:
        super().__init__(*problems)
        self.status = status


@dataclass(frozen=True, kw_only=True)
class Event:
    """One server-sent event; `id` is empty for those that are not numbered."""

    name: str
    id: str
    data: dict[str, Any]


class Connection:
    """One service, one key."""

    def __init__(self, url: str, key: str) -> None:
        self.url = url.rstrip("/")
        self.http = httpx.Client(base_url=self.url, headers={"Authorization": f"Bearer {key}"}, timeout=60.0)

    def send(self, method: str, path: str, *, missing_ok: bool = False, **request: Any) -> httpx.Response:
        """A request and its answer. A read, and a POST, which carries an Idempotency-Key, is sent again when the connection was lost or
        the service was busy: it happens once all the same.

        Raises:
            ServiceError: refused, or no service answers.
        """
        if method == "POST":
            request["headers"] = {"Idempotency-Key": str(uuid.uuid4()), **request.get("headers", {})}
        pauses = list(_PAUSES) if method in ("POST", "GET", "HEAD") else []
        reached = False
        while True:
            try:
                response = self.http.request(method, path, **request)
            except httpx.TransportError as error:
                reached = reached or not isinstance(error, httpx.ConnectError)
                if not pauses or not reached:  # nobody was ever there
                    raise self._unreachable(error) from None
                wait = 0.0
            else:
                if response.is_success or (missing_ok and response.status_code == 404):
                    return response
                found = _later(response)
                if found is None or not pauses:
                    raise refusal(response)
                reached, wait = True, found
            time.sleep(max(wait, pauses.pop(0)))

    def lines(self, path: str, params: dict[str, Any]) -> Iterator[str]:
        """The lines of an answer, as they come.

        Raises:
            ServiceError: refused, or the connection was lost: what came so far is not all.
        """
        try:
            with self.http.stream("GET", path, params=params) as response:
                if not response.is_success:
                    response.read()
                    raise refusal(response)
                yield from response.iter_lines()
        except httpx.TransportError as error:
            raise self._unreachable(error) from None

    def events(self, path: str, last: str = "") -> Iterator[Event]:
        """Server-sent events behind the one with the id `last`, until the stream ends.

        Raises:
            ServiceError: refused, or the connection was lost.
        """
        headers = {"Accept": "text/event-stream", **({"Last-Event-ID": last} if last else {})}
        try:
            with self.http.stream("GET", path, headers=headers, timeout=httpx.Timeout(60.0, read=_SILENCE_SECONDS)) as response:
                if not response.is_success:
                    response.read()
                    raise refusal(response)
                if response.headers.get("content-type", "").startswith("text/event-stream"):
                    yield from _parsed(response.iter_lines())
        except httpx.TransportError as error:
            raise self._unreachable(error) from None

    def _unreachable(self, error: httpx.TransportError) -> ServiceError:
        return ServiceError.at("url", f"no service answers at {self.url} ({error})", "start one with: assay up")


def refusal(response: httpx.Response) -> ServiceError:
    """What the service said, as an error."""
    try:
        body = response.json()
        problems = [Problem(field=e["field"], detail=e["detail"], mend=e["mend"]) for e in body["errors"]]
        return ServiceError(*(problems or [Problem(field="", detail=body["detail"])]), status=response.status_code)
    except (ValueError, KeyError, TypeError):
        return ServiceError(Problem(field="", detail=f"the service answered {response.status_code}"), status=response.status_code)


def _later(response: httpx.Response) -> float | None:
    """In how many seconds the same request may do better; None when it will not, or not soon."""
    running = response.status_code == 409 and '"still-running"' in response.text
    if response.status_code not in (429, 502, 503, 504) and not running:
        return None
    told = response.headers.get("Retry-After", "")
    wait = float(told) if told.isdecimal() else 0.0
    return wait if wait <= _LONGEST_WAIT else None


def _parsed(lines: Iterator[str]) -> Iterator[Event]:
    """The fields of each event; what carries no data is none. Source: WHATWG HTML, 9.2.6."""
    fields: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        if line:
            fields[name] = value.removeprefix(" ")  # our service writes each field on one line
        elif "data" in fields:
            yield Event(name=fields.get("event", "message"), id=fields.get("id", ""), data=json.loads(fields["data"]))
            fields = {}
        else:
            fields = {}
