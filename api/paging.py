"""Pages of lists: `?limit=&cursor=`, and a Link header to the next one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, TypeVar

from fastapi import Query, Request, Response

from api.schemas import PageOut
from storage.records import Page

Found = TypeVar("Found")
Shown = TypeVar("Shown")

Limit = Annotated[int, Query(ge=1, le=1000)]
Cursor = Annotated[str | None, Query(max_length=500)]


def page(found: Page[Found], make: Callable[[Found], Shown], request: Request, response: Response) -> PageOut[Shown]:
    if found.next_cursor:
        response.headers["Link"] = f'<{request.url.include_query_params(cursor=found.next_cursor)}>; rel="next"'
    return PageOut(items=[make(item) for item in found.items], next_cursor=found.next_cursor)
