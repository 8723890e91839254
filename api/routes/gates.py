"""Gates: what every run of a schedule, or one job, has to pass; and what became of it."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request, Response

from api.junit import junit
from api.negotiation import choose
from api.openapi import also, text
from api.paging import Cursor, Limit, page
from api.schemas import PageOut
from api.schemas_gates import GateOut, JobGatesOut, NewGate, OutcomeOut, Pin, newest_of_each
from api.security import By, CanRead, CanWriteGates, Db
from certify.gate_rules import parse_rules
from storage import gates
from storage.errors import Conflict, NotFound

router = APIRouter(tags=["gates"])
XML = "application/xml"


@router.post("/v1/gates", status_code=201, responses=also(404))
def create_gate(body: NewGate, response: Response, db: Db, tenant: CanWriteGates, by: By) -> GateOut:
    """Put a gate on a schedule or a job. Rules that no run could ever answer are refused."""
    rules = parse_rules(body.rules)
    made = gates.create_gate(db, tenant, name=body.name, rules=rules, schedule_id=body.schedule, job_id=body.job, by=by)
    response.headers["Location"] = f"/v1/gates/{made.id}"
    return GateOut.of(made)


@router.get("/v1/gates")
def list_gates(
    request: Request,
    response: Response,
    db: Db,
    tenant: CanRead,
    limit: Limit = 20,
    cursor: Cursor = None,
    schedule: str | None = None,
    job: str | None = None,
) -> PageOut[GateOut]:
    """Gates, newest first; those of one schedule or job if asked for."""
    return page(gates.list_gates(db, tenant, limit=limit, cursor=cursor, schedule_id=schedule, job_id=job), GateOut.of, request, response)


@router.get("/v1/gates/{gate_id}")
def get_gate(gate_id: str, db: Db, tenant: CanRead) -> GateOut:
    """A gate and its rules, with every default."""
    return GateOut.of(gates.get_gate(db, tenant, gate_id))


@router.delete("/v1/gates/{gate_id}", status_code=204)
def delete_gate(gate_id: str, db: Db, tenant: CanWriteGates, by: By) -> None:
    """Remove a gate and its outcomes."""
    gates.delete_gate(db, tenant, gate_id, by=by)


@router.put("/v1/gates/{gate_id}/pin")
def pin_job(gate_id: str, body: Pin, db: Db, tenant: CanWriteGates, by: By) -> GateOut:
    """Choose the job that the baseline `pinned` stands for, for the runs that are judged from now on."""
    return GateOut.of(gates.pin_job(db, tenant, gate_id, body.job, by=by))


@router.get("/v1/gates/{gate_id}/outcomes")
def list_outcomes(
    gate_id: str, request: Request, response: Response, db: Db, tenant: CanRead, limit: Limit = 20, cursor: Cursor = None
) -> PageOut[OutcomeOut]:
    """What became of the runs that a gate judged, newest first."""
    return page(gates.list_outcomes(db, tenant, gate_id, limit=limit, cursor=cursor), OutcomeOut.of, request, response)


@router.get(
    "/v1/jobs/{job_id}/gates", response_model=JobGatesOut, responses={200: {"content": text(XML, "gates.xml", "JUnit")}, **also(409)}
)
def gates_of_job(
    job_id: str, request: Request, db: Db, tenant: CanRead, format: Annotated[Literal["json", "junit"] | None, Query()] = None
) -> object:
    """What became of a job at its gates: as JSON, or as JUnit XML for a CI once all of them have judged."""
    found = gates.gates_of_job(db, tenant, job_id)
    if choose(request, format, {"json": "application/json", "junit": XML}) == "json":
        return JobGatesOut.of(found)
    if found.waiting:
        raise Conflict.at("job", f"{len(found.waiting)} gates have not judged {job_id} yet", "ask again when the job has ended")
    if not found.outcomes:
        raise NotFound.at("gate", f"no gate judges {job_id}", "put one on it, or on its schedule, with POST /v1/gates")
    return Response(junit(job_id, newest_of_each(found)), media_type=XML)
