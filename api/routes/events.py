"""What happens to a job, as it happens: server-sent events that a client takes up again where it lost them."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Annotated

from fastapi import APIRouter, Header, Response
from fastapi.responses import StreamingResponse
from fastapi.sse import KEEPALIVE_COMMENT, EventSourceResponse, format_sse_event
from starlette.concurrency import run_in_threadpool

from api.openapi import event_stream
from api.schemas import ProgressOut
from api.security import CanRead, Db
from storage import events
from storage.database import Database
from storage.errors import Busy
from storage.events import Watched
from storage.records import Progress

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])
LastEventId = Annotated[
    str | None,
    Header(
        alias="Last-Event-ID",
        pattern=r"^[0-9]{1,18}$",
        description="`id` of the last event seen; the stream goes on behind it",
        examples=["17"],
    ),
]

# A client that watches holds no thread and no connection to the database: one short look each second.
LOOK_SECONDS = 1.0
_KEEP_ALIVE_SECONDS = 15.0
# Then the client connects again by itself, with a key that is checked again.
_LONGEST_SECONDS = 900.0
_RECONNECT_MS = 2000


@router.get(
    "/{job_id}/events",
    response_class=StreamingResponse,
    responses={200: {"content": event_stream("events")}, 204: {"description": "the job has ended and all its events were seen"}},
)
async def watch_job(job_id: str, db: Db, tenant: CanRead, last_event_id: LastEventId = None) -> Response:
    """Server-sent events from the job's first to its last, which ends the stream: `queued`, `running`, `condition`, `cancelling`,
    `finalizing`, `ended`, each with an `id`; and between them, at most once a second and without one, `progress`.

    Send the `id` of the last event as `Last-Event-ID` to go on behind it. 204: the job has ended and all its events were seen.
    """
    after = int(last_event_id or 0)
    first = await run_in_threadpool(events.watch, db, tenant, job_id, after)
    if after and first.state.ended and not first.events:
        return Response(status_code=204)
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}  # proxies must pass each event on at once
    return EventSourceResponse(_stream(db, tenant, job_id, after, first), headers=headers)


async def _stream(db: Database, tenant: str, job_id: str, after: int, first: Watched) -> AsyncIterator[bytes]:
    told, look = _Told(job_id, after), first
    began = spoke = time.monotonic()
    yield format_sse_event(retry=_RECONNECT_MS)
    while True:
        for news in told.of(look):
            yield news
            spoke = time.monotonic()
        now = time.monotonic()
        if told.all or now - began > _LONGEST_SECONDS:
            return
        if now - spoke >= _KEEP_ALIVE_SECONDS:
            yield KEEPALIVE_COMMENT
            spoke = now
        await asyncio.sleep(0 if look.more else LOOK_SECONDS)
        with suppress(Busy):  # the next look may find it free again
            look = await run_in_threadpool(events.watch, db, tenant, job_id, told.after)


class _Told:
    """What one client was told: `after` is the last event, `all` that no other will come."""

    def __init__(self, job_id: str, after: int) -> None:
        self.job_id, self.after, self.all = job_id, after, False
        self._progress: Progress | None = None

    def of(self, look: Watched) -> Iterator[bytes]:
        """What of a look is news."""
        fresh = [event for event in look.events if event.seq > self.after]
        for event in fresh:
            self.after = event.seq
            yield format_sse_event(event=event.event, id=str(event.seq), data_str=event.body)
        if look.state.ended and not look.more:
            self.all = True
            if not fresh or fresh[-1].event != "ended":  # it ended before events were written down
                yield format_sse_event(event="ended", data_str=json.dumps({"job": self.job_id, "state": look.state}))
        elif not look.state.ended and self._counts(look.progress) != self._counts(self._progress):
            self._progress = look.progress
            yield format_sse_event(event="progress", data_str=ProgressOut.model_validate(look.progress).model_dump_json())

    def _counts(self, progress: Progress | None) -> Progress | None:
        # The rate and the time left change with every look; alone they are no news.
        return progress and replace(progress, rate=None, eta_seconds=None)
