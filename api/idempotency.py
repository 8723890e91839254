"""POST requests with an `Idempotency-Key` happen once: sent again, they get the answer of the first time."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import structlog
from fastapi import Request
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api import problems
from certify.errors import AssayError, InputError
from storage.database import Database
from storage.errors import Busy, Conflict
from storage.idempotency import RENEW_SECONDS, Claim, KeyReused, StillRunning, StoredAnswer, claim, give_back, keep_answer, renew

log = structlog.get_logger()
HEADER = "Idempotency-Key"
_FORM = re.compile(r"[\x21-\x7e]{1,255}")


class AnswerNotKept(Conflict):
    """The request was carried out, but its answer held a secret, which is shown only once."""

    code = "answer-not-kept"


class Idempotency:
    """Stands behind the gatekeeper. An answer of 2xx is kept for a day, but for one that must not be stored (it shows a secret); a refusal
    had no effect and frees the key at once, a process that died within a minute.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        caller = scope["state"].get("key") if scope["type"] == "http" and scope["method"] == "POST" else None
        if caller is None or HEADER not in Headers(scope=scope):
            await self.app(scope, receive, send)
            return
        request = Request(scope, receive)
        db: Database = request.app.state.db
        try:
            body = await request.body()
            found = await run_in_threadpool(claim, db, caller.tenant_id, _key(request), _digest(request, body, caller.id))
        except ClientDisconnect:  # while it sent: nobody waits for an answer
            return
        except (AssayError, HTTPException, KeyReused) as error:
            await _refusal(request, error)(scope, receive, send)
            return
        if isinstance(found, StoredAnswer):
            await _replay(request, found)(scope, receive, send)
            return
        answer = await _carried_out(self.app, scope, body, receive, _Lease(db, found))
        for message in answer.messages:
            await send(message)


@dataclass
class _Answer:
    """A response on its way, held back until it is stored."""

    messages: list[Message] = field(default_factory=list)

    async def hold(self, message: Message) -> None:
        self.messages.append(message)

    @property
    def status(self) -> int:
        return int(self.messages[0]["status"])

    def kept(self) -> StoredAnswer:
        headers = tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in self.messages[0]["headers"])
        secret = any(name.lower() == "cache-control" and "no-store" in value for name, value in headers)
        body = b"".join(message.get("body", b"") for message in self.messages[1:])
        return StoredAnswer(status=self.status, headers=headers, body=None if secret else body.decode())


@dataclass
class _Lease:
    """A claim that is kept alive while its request runs."""

    db: Database
    claimed: Claim
    # A renewal that is under way ends before the claim does, else it would end one that is no longer its own.
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def alive(self) -> None:
        while True:
            await asyncio.sleep(RENEW_SECONDS)
            try:
                async with self.turn:
                    self.claimed = await run_in_threadpool(renew, self.db, self.claimed)
            except Busy:
                log.warning("claim not renewed", action="claim_not_renewed", key=self.claimed.key)

    async def end(self, renewing: asyncio.Task[None], found: StoredAnswer | None) -> None:
        """Store the answer, or give the key back. When that cannot be done now the key is free after a minute."""
        try:
            async with self.turn:
                renewing.cancel()
                if found is not None:
                    await run_in_threadpool(keep_answer, self.db, self.claimed, found)
                else:
                    await run_in_threadpool(give_back, self.db, self.claimed)
        except Busy:
            log.warning("claim not ended", action="claim_not_ended", key=self.claimed.key)


async def _carried_out(app: ASGIApp, scope: Scope, body: bytes, receive: Receive, lease: _Lease) -> _Answer:
    answer, unread = _Answer(), [body]

    async def again() -> Message:
        return {"type": "http.request", "body": unread.pop(), "more_body": False} if unread else await receive()

    renewing, found = asyncio.create_task(lease.alive()), None
    try:
        await app(scope, again, answer.hold)
        found = answer.kept() if answer.status < 300 else None
    finally:
        await lease.end(renewing, found)
    return answer


def _key(request: Request) -> str:
    sent = request.headers.getlist(HEADER)
    if len(sent) != 1 or not _FORM.fullmatch(sent[0]):
        raise InputError.at(HEADER, "is not one word of 1 to 255 visible ASCII characters", "send a random one, such as a UUID")
    return sent[0]


def _digest(request: Request, body: bytes, caller: str) -> str:
    # The API key belongs to it: what one key may do and see another may not.
    parts = (caller, request.method, request.url.path, request.url.query, request.headers.get("content-type", ""))
    return hashlib.sha256("\n".join(parts).encode() + b"\n" + body).hexdigest()


def _replay(request: Request, found: StoredAnswer) -> Response:
    headers = {name: value for name, value in found.headers if name.lower() != "content-length"}
    if found.body is None:
        seen = {name: value for name, value in headers.items() if name.lower() == "location"}
        shown = AnswerNotKept.at(HEADER, "belongs to a request that was carried out and showed a secret, which is not kept", "see Location")
        return problems.answer(request, shown, seen)
    return Response(found.body, found.status, {**headers, "Idempotent-Replayed": "true"})


def _refusal(request: Request, error: Exception) -> Response:
    if isinstance(error, HTTPException):
        return problems.refusal(request, error)
    if isinstance(error, KeyReused):
        reused = InputError.at(HEADER, "came with another request before", "send a new key with each new request")
        return problems.answer(request, reused)
    assert isinstance(error, AssayError)
    wait: Mapping[str, str] = {"Retry-After": "1"} if isinstance(error, StillRunning) else {}
    return problems.answer(request, error, wait)
