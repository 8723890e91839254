"""What happens to every request before a route sees it: it gets a name, and what no route could take is refused."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from fastapi import Request
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api import problems
from certify.errors import AssayError, InputError

MAX_JSON_BYTES = 4 * 2**20
_STREAMED = "/v1/blobs/"  # uploads have a limit of their own, and are never held in memory
# So much is read and thrown away for a client that was refused while it sends; beyond, hanging up is the only way to stop it.
_PATIENCE = 2**20


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
        body = _Body(receive, scope)

        async def named(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["X-Request-ID"] = request_id
                if body.unread > _PATIENCE:
                    headers["Connection"] = "close"
            await send(message)

        refusal = _refusal(scope, body)
        if refusal is not None:
            await problems.answer(Request(scope), refusal)(scope, body, named)
        else:
            await self.app(scope, body, named)


@dataclass
class _Body:
    """Counts what arrives of a body, which may have announced its length or not."""

    receive: Receive
    scope: Scope
    read: int = 0
    whole: bool = False

    def __post_init__(self) -> None:
        headers = Headers(scope=self.scope)
        length = headers.get("content-length", "")
        self.announced = int(length[:20]) if length.isdecimal() else None
        self.whole = self.announced is None and "transfer-encoding" not in headers
        self.streamed = self.scope["path"].startswith(_STREAMED)

    @property
    def unread(self) -> float:
        """Bytes that may still come."""
        if self.whole:
            return 0
        return float("inf") if self.announced is None else self.announced - self.read

    async def __call__(self) -> Message:
        message = await self.receive()
        self.read += len(message.get("body", b""))
        self.whole = self.whole or not message.get("more_body", False)
        if self.read > MAX_JSON_BYTES and not self.streamed:
            raise HTTPException(413, f"the body has more than {MAX_JSON_BYTES} bytes")  # what FastAPI passes on while it reads
        return message


def _refusal(scope: Scope, body: _Body) -> AssayError | None:
    if "\0" in scope["path"] or b"\0" in unquote_to_bytes(scope["query_string"]):
        return InputError.at("url", "holds a NUL character", "leave it out")
    if not body.streamed and (body.announced or 0) > MAX_JSON_BYTES:
        return problems.TooLarge.at("body", f"has more than {MAX_JSON_BYTES} bytes", "send less; files are uploaded with PUT /v1/blobs")
    return None
