"""Ledgers of certified regions: what they hold, and what they answer."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from api.cli.console import err, sentences, show_json, show_table
from api.cli.remote import Json, client, resolve
from certify.rounding import show_radius

app = typer.Typer(no_args_is_help=True, help="Ledgers: the certified regions of one model, kept apart by jobs with statement memory.")
_SHOWN = 100
Which = Annotated[str, typer.Argument(metavar="LEDGER", help="id")]


@app.command("list")
def list_(as_json: Json = False) -> None:
    """Ledgers, newest first."""
    with sentences(), client() as service:
        items = service.get("/v1/ledgers", limit=_SHOWN)["items"]
        if as_json:
            show_json(items)
            return
        rows = [
            (one["id"], one["model_digest"][:12], _rule(one["rule"]), one["regions"], one["version"], one["created_at"]) for one in items
        ]
        show_table(("id", "model", "rule", "regions", "version", "created"), rows)


@app.command("show")
def show(ledger: Which, as_json: Json = False) -> None:
    """A ledger's regions, oldest first; --json shows its rule too."""
    with sentences(), client() as service:
        found, regions = service.get(f"/v1/ledgers/{ledger}"), service.get(f"/v1/ledgers/{ledger}/regions", limit=_SHOWN)
        if as_json:
            show_json({**found, "items": regions["items"], "next_cursor": regions["next_cursor"]})
            return
        rows = [
            (
                one["number"],
                one["answer"],
                show_radius(one["radius"]),
                f"{one['sigma']:g}",
                one["job"],
                one["example"],
                one["revoked_because"] or "",
            )
            for one in regions["items"]
        ]
        show_table(("region", "class", "radius", "sigma", "job", "example", "revoked"), rows)
        if regions["next_cursor"]:
            err.print(f"the oldest {_SHOWN} of {found['regions']}; all of them with GET /v1/ledgers/{ledger}/regions")


@app.command("predict")
def predict(
    ledger: Which,
    model: Annotated[str, typer.Option(metavar="NAME[@VERSION]|ID", help="a name means its newest version")],
    dataset: Annotated[str, typer.Option(metavar="NAME[@VERSION]|ID")],
    n: Annotated[int, typer.Option(min=1, help="votes where no region answers")] = 1000,
    alpha: Annotated[float, typer.Option(help="error level of each answer")] = 0.001,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    as_json: Json = False,
) -> None:
    """What the classifier that remembers answers at each example: the region that contains it, or the votes."""
    with sentences(), client() as service:
        ids = resolve(service, "models", model), resolve(service, "datasets", dataset)
        rows = service.predict(*ids, ledger=ledger, n=n, alpha=alpha, seed=seed)
        if as_json:
            show_json(rows)
            return
        shown = [(r["example"], r["label"], "-" if r["prediction"] is None else r["prediction"], r["verdict"], r["reason"]) for r in rows]
        show_table(("example", "label", "prediction", "verdict", "reason"), shown)


def _rule(rule: dict[str, Any]) -> str:
    return f"sigmas {', '.join(f'{sigma:g}' for sigma in rule['sigmas'])}, alpha {rule['alpha']:g}"
