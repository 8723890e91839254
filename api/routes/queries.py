"""Questions across jobs: certificates by what they are about, and two runs side by side."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import AfterValidator, BaseModel, Field

from api import exports
from api.negotiation import choose
from api.openapi import also, text
from api.paging import Cursor, Limit, page
from api.routes.jobs import NDJSON
from api.schemas import PageOut
from api.schemas_queries import CompareOut, FoundOut
from api.security import CanRead, Db
from certify.norms import Norm
from certify.statement import Statement
from certify.verdict import Verdict
from storage import queries

router = APIRouter(prefix="/v1/reports", tags=["reports"])
CSV = "text/csv"


def _known(statement: str | None) -> str | None:
    return None if statement is None else str(Statement.parse(statement))


class Wanted(BaseModel):
    """What certificates must have; leave out what may be anything."""

    model: str | None = Field(default=None, description="id of a version; jobs on the same bytes count")
    dataset: str | None = Field(default=None, description="id of a version; jobs on the same bytes count")
    job: str | None = None
    example: Annotated[int | None, Field(ge=0, lt=2**31)] = Field(default=None, description="row in the dataset")
    example_digest: Annotated[str | None, Field(pattern=r"^[0-9a-f]{64}$")] = Field(
        default=None, description="SHA-256 of the input, little-endian float32 in its order"
    )
    kind: Annotated[str | None, Field(max_length=40)] = None
    statement: Annotated[str | None, Field(max_length=60), AfterValidator(_known)] = Field(
        default=None, description="what is proved, with all its conditions, such as float32-runtime-clipped"
    )
    norm: Norm | None = None
    verdict: Verdict | None = None
    correct: bool | None = None
    radius_min: Annotated[float | None, Field(ge=0, allow_inf_nan=False)] = None
    radius_max: Annotated[float | None, Field(ge=0, allow_inf_nan=False)] = None

    def filter(self) -> queries.Filter:
        statement = None if self.statement is None else Statement.parse(self.statement)
        return queries.Filter(**{**self.model_dump(mode="json"), "statement": statement})


@router.get(
    "/certificates",
    response_model=PageOut[FoundOut],
    responses={200: {"content": {**text(NDJSON, "certificates.ndjson"), **text(CSV, "certificates.csv")}}, **also(404)},
)
def find_certificates(
    wanted: Annotated[Wanted, Depends()],
    request: Request,
    response: Response,
    db: Db,
    tenant: CanRead,
    limit: Limit = 100,
    cursor: Cursor = None,
    format: Annotated[Literal["json", "ndjson", "csv"] | None, Query()] = None,
) -> object:
    """Certificates of all jobs, newest job first: a page of JSON, or all of them as JSON lines or CSV. They are picked, never combined."""
    shape = choose(request, format, {"json": "application/json", "ndjson": NDJSON, "csv": CSV})
    if shape == "json":
        return page(queries.find_certificates(db, tenant, wanted.filter(), limit=limit, cursor=cursor), FoundOut.of, request, response)
    found = queries.iter_found(db, tenant, wanted.filter())
    if shape == "csv":
        return StreamingResponse(exports.csv_lines(found), media_type=CSV)
    return StreamingResponse(_lines(found), media_type=NDJSON)


@router.get("/compare", responses=also(404))
def compare_runs(
    db: Db,
    tenant: CanRead,
    base: Annotated[str, Query(description="id of the earlier job")],
    head: Annotated[str, Query(description="id of the later job")],
    radius: Annotated[list[Annotated[float, Field(ge=0, allow_inf_nan=False)]] | None, Query(max_length=50)] = None,
) -> CompareOut:
    """Two jobs on the same examples: what was lost and gained at each radius, with the exact test on pairs."""
    return CompareOut.of(*queries.both_sides(db, tenant, base, head), radius or ())


def _lines(rows: Iterator[queries.Found]) -> Iterator[str]:
    for found in rows:
        yield FoundOut.of(found).model_dump_json() + "\n"
