"""What a schedule asks at each tick: which versions it means, kept as JSON, checked as far as they are known."""

from __future__ import annotations

import json

import sqlalchemy as sa

from certify.errors import InputError, Problem
from certify.facts import check
from certify.spec import Spec, parse_spec
from storage.catalog import dataset_in, model_in, unusable
from storage.errors import Conflict, NotFound, NotReady
from storage.other_models import check_owned
from storage.records import ArtifactState, Dataset, Model
from storage.records_schedules import Ref, Template
from storage.scoped import owned
from storage.tables import datasets, models


def read_template(text: str) -> Template:
    kept = json.loads(text)
    return Template(model=Ref(**kept["model"]), dataset=Ref(**kept["dataset"]), spec=parse_spec(kept["spec"]), name=kept["name"])


def dump_template(template: Template) -> str:
    parts = {"model": vars(template.model), "dataset": vars(template.dataset), "name": template.name}
    return json.dumps({**parts, "spec": json.loads(template.spec.canonical())}, sort_keys=True)


def versions(connection: sa.Connection, tenant_id: str, template: Template) -> tuple[Model, Dataset]:
    """The model and the dataset that the template means now.

    Raises:
        NotFound: there is no such model or dataset.
    """
    model_id = _resolve(connection, tenant_id, models, template.model, "model")
    dataset_id = _resolve(connection, tenant_id, datasets, template.dataset, "dataset")
    return model_in(connection, tenant_id, model_id), dataset_in(connection, tenant_id, dataset_id)


def check_template(connection: sa.Connection, tenant_id: str, template: Template) -> None:
    """Refuse a template that could not run now, also where it follows the newest version. What is still inspected is checked at its ticks.

    Raises:
        NotFound: there is no such model or dataset.
        Conflict: one of them could not be inspected; it can be asked for again.
        InputError: one of them was rejected, or the spec does not fit them.
    """
    model, dataset = usable_versions(connection, tenant_id, template, "template")
    if model.facts is not None and dataset.facts is not None:
        try:
            check(template.spec.with_noise_key("service"), model.facts, dataset.facts, model.value_range)
        except InputError as error:
            raise _in_template(error) from None
    _check_other_models(connection, tenant_id, template.spec, model)


def _check_other_models(connection: sa.Connection, tenant_id: str, spec: Spec, model: Model) -> None:
    try:
        check_owned(connection, tenant_id, spec, model.facts.input_shape if model.facts else None)
    except NotReady:  # the tick waits for it
        return
    except InputError as error:
        raise _in_template(error) from None


def usable_versions(connection: sa.Connection, tenant_id: str, template: Template, place: str) -> tuple[Model, Dataset]:
    """`versions`, of which none was rejected or failed; `place` is the field that a refusal names.

    Raises:
        NotFound, Conflict, InputError: as `check_template` does.
    """
    model, dataset = versions(connection, tenant_id, template)
    for noun, artifact in (("model", model), ("dataset", dataset)):
        if problems := unusable(artifact, f"{place}.{noun}"):
            raise (Conflict if artifact.state is ArtifactState.FAILED else InputError)(*problems)
    return model, dataset


def _resolve(connection: sa.Connection, tenant_id: str, table: sa.Table, ref: Ref, noun: str) -> str:
    if ref.id is not None:
        return ref.id
    named = owned(table, tenant_id) & (table.c.name == ref.name)
    if ref.version is not None:
        named &= table.c.version == ref.version
    found: str | None = connection.execute(sa.select(table.c.id).where(named).order_by(table.c.version.desc()).limit(1)).scalar()
    if found is None:
        what = f"there is no {noun} named {ref.name!r}" + (f" with version {ref.version}" if ref.version is not None else "")
        raise NotFound.at(f"template.{noun}", what, f"list them with GET /v1/{noun}s")
    return found


def _in_template(error: InputError) -> InputError:
    return type(error)(*(_inside(problem) for problem in error.problems))


def _inside(problem: Problem) -> Problem:
    place = "template.spec." if problem.field.partition(".")[0] in Spec.model_fields else "template."
    return Problem(field=f"{place}{problem.field}", detail=problem.detail, mend=problem.mend)
