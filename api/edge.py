"""What happens to every request before a route sees it: it gets a name, and what no route could take is refused."""

from __future__ import annotations

import secrets
from urllib.parse import unquote_to_bytes

from fastapi import Request
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api import problems
from certify.errors import AssayError, InputError

MAX_JSON_BYTES = 4 * 2**20
_STREAMED = "/v1/blobs/"  # uploads have a limit of their own, and are never held in memory


class Edge:
    """Each response names its request in X-Request-ID; a body of more than 4 MiB is refused before it is read (413), a NUL character,
    which no id or name has and PostgreSQL cannot store, before it is looked up.

    A plain ASGI layer: it hands streams through without touching them.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id = f"req_{secrets.token_hex(8)}"
        scope.setdefault("state", {})["request_id"] = request_id

        async def named(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["X-Request-ID"] = request_id
            await send(message)

        refusal = _refusal(scope)
        if refusal is not None:
            await problems.answer(Request(scope), refusal)(scope, receive, named)
        else:
            await self.app(scope, receive if scope["path"].startswith(_STREAMED) else _limited(receive), named)


def _refusal(scope: Scope) -> AssayError | None:
    if "\0" in scope["path"] or b"\0" in unquote_to_bytes(scope["query_string"]):
        return InputError.at("url", "holds a NUL character", "leave it out")
    length = Headers(scope=scope).get("content-length", "0")
    if not scope["path"].startswith(_STREAMED) and length.isdecimal() and int(length[:20]) > MAX_JSON_BYTES:
        return problems.TooLarge.at("body", f"has more than {MAX_JSON_BYTES} bytes", "send less; files are uploaded with PUT /v1/blobs")
    return None


def _limited(receive: Receive) -> Receive:
    """Counts what arrives when no length was announced."""
    total = 0

    async def counted() -> Message:
        nonlocal total
        message = await receive()
        total += len(message.get("body", b""))
        if total > MAX_JSON_BYTES:
            raise HTTPException(413, f"the body has more than {MAX_JSON_BYTES} bytes")  # what FastAPI passes on while it reads
        return message

    return counted
