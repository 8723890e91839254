"""No request to /v1 goes further without a valid key, nor more often than the key may: whatever the route, and before its body is read."""

from __future__ import annotations

from dataclasses import dataclass, field

import structlog
from fastapi import Request
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api import problems
from api.limits import Limiter, RateLimited, network
from certify.errors import AssayError
from storage.database import Database
from storage.errors import Busy
from storage.keys import authenticate, note_use
from storage.records import ApiKey
from storage.settings import Settings

problems.STATUS[RateLimited] = 429
log = structlog.get_logger()


@dataclass
class Rates:
    """What is counted in this process: requests of each key, and failed attempts from each address."""

    settings: Settings
    keys: Limiter = field(init=False)
    failures: Limiter = field(init=False)

    def __post_init__(self) -> None:
        self.keys, self.failures = Limiter(self.settings.rate_per_minute), Limiter(self.settings.failures_per_minute)


class Gatekeeper:
    """Finds the key of each request to /v1 and leaves it at `request.state.key`; answers 401 or 429 itself.

    Failed attempts are counted by address, and beyond the limit get 429 instead of 401. A valid key is never shut out by the
    failures of others who share its address. A plain ASGI layer: bodies and streams pass untouched.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not _path(scope).startswith("/v1/"):
            await self.app(scope, receive, send)
            return
        request = Request(scope)
        db: Database = request.app.state.db
        rates: Rates = request.app.state.rates
        headers: dict[str, str] = {}
        try:
            key = await _caller(request, db, rates, headers)
        except AssayError as error:
            await problems.answer(request, error, headers)(scope, receive, send)
            return
        request.state.key = key

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(headers)
            await send(message)

        await self.app(scope, receive, counted)
        await _noted(db, key)


async def _caller(request: Request, db: Database, rates: Rates, headers: dict[str, str]) -> ApiKey:
    """The key of a request that may pass. Fills in the headers that its response gets in either case."""
    kind, _, token = request.headers.get("authorization", "").partition(" ")
    key = await run_in_threadpool(authenticate, db, token.strip()) if kind.lower() == "bearer" else None
    if key is None:
        failed = rates.failures.take(network(request.client.host if request.client else None))
        if failed.wait:
            headers["Retry-After"] = str(failed.wait)
            raise RateLimited.at(
                "Authorization", f"more than {failed.limit} requests in a minute had no valid key", f"wait {failed.wait} s"
            )
        raise problems.Unauthorized.at(
            "Authorization", "no valid key was sent", "send 'Authorization: Bearer assay_...', made with: assay key create"
        )
    allowance = rates.keys.take(key.id)
    headers |= allowance.headers
    if allowance.wait:
        detail = f"the key has asked more than {allowance.limit} times in a minute"
        raise RateLimited.at("Authorization", detail, f"wait {allowance.wait} s, or use a key for each client")
    return key


async def _noted(db: Database, key: ApiKey) -> None:
    """After the response, so that nobody waits for it; a database too busy to be told is told the next time."""
    try:
        await run_in_threadpool(note_use, db, key)
    except Busy:
        log.warning("use of a key was not noted", action="key_use_not_noted", key=key.id)


def _path(scope: Scope) -> str:
    return str(scope["path"]).removeprefix(scope.get("root_path", ""))
