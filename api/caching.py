"""Answers worth keeping are sent once: they carry a strong ETag, and who has them already gets 304."""

from __future__ import annotations

import hashlib
from typing import Any

from fastapi import Request
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# For `responses=` of a route that calls `keepable`.
KEEPABLE: dict[int | str, dict[str, Any]] = {304: {"description": "the client has it: If-None-Match names its ETag"}}


def keepable(request: Request, now: bool = True) -> None:
    """Say, in a route, that its answer hardly changes any more. Not for streams: the answer is held back to be hashed."""
    request.state.keepable = now


class Revalidation:
    """Stands next to the routes. The ETag is the SHA-256 of the body, so it is the same from every replica."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "GET":
            await self.app(scope, receive, send)
            return
        held: list[Message] = []

        async def tagged(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] == 200 and scope["state"].get("keepable"):
                held.append(message)
            elif held:
                held.append(message)
                if not message.get("more_body", False):
                    for part in _answer(Headers(scope=scope), held):
                        await send(part)
            else:
                await send(message)

        await self.app(scope, receive, tagged)


def _answer(request: Headers, held: list[Message]) -> list[Message]:
    start, body = held[0], b"".join(part.get("body", b"") for part in held[1:])
    headers = MutableHeaders(scope=start)
    tag = f'"{hashlib.sha256(body).hexdigest()}"'
    headers["ETag"] = tag
    headers["Cache-Control"] = "private, no-cache"  # may be kept, but is asked for each time: a key can be revoked
    headers.add_vary_header("Accept")
    if not _known(request.getlist("if-none-match"), tag):
        return held
    del headers["content-length"]
    return [{**start, "status": 304}, {"type": "http.response.body", "body": b""}]


def _known(sent: list[str], tag: str) -> bool:
    tags = [part.strip().removeprefix("W/") for line in sent for part in line.split(",")]
    return "*" in tags or tag in tags
