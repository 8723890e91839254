"""Webhooks: who is told when a gate has failed."""

from __future__ import annotations

from typing import Annotated

import typer

from api.cli.console import err, say, sentences, show_json, show_table
from api.cli.remote import Json, client

app = typer.Typer(no_args_is_help=True, help="Webhooks: addresses that are told what happened, signed and retried.")


@app.command("add")
def add(
    url: str,
    event: Annotated[
        list[str] | None, typer.Option(metavar="EVENT", help="gate.failed (default), gate.passed, gate.inconclusive, job.ended")
    ] = None,
    as_json: Json = False,
) -> None:
    """Tell an address of events; prints the secret that signs them, which is shown only now."""
    with sentences(), client() as service:
        made = service.post("/v1/webhooks", {"url": url, **({"events": event} if event else {})})
        if as_json:
            show_json(made)
        else:
            typer.echo(made["id"])
            err.print(f"  secret: {made['secret']}", highlight=False)


@app.command("list")
def list_(as_json: Json = False) -> None:
    """Webhooks, newest first."""
    with sentences(), client() as service:
        items = service.get("/v1/webhooks", limit=100)["items"]
        rows = [(w["id"], w["url"], ", ".join(w["events"]), "active" if w["active"] else "paused") for w in items]
        show_json(items) if as_json else show_table(("id", "url", "events", "state"), rows)


@app.command("deliveries")
def deliveries(webhook_id: str, as_json: Json = False) -> None:
    """What was sent to a webhook lately, or is still to be sent."""
    with sentences(), client() as service:
        items = service.get(f"/v1/webhooks/{webhook_id}/deliveries", limit=100)["items"]
        rows = [(d["id"], d["event"], d["state"], d["attempts"], d["created_at"], d["last_error"] or "") for d in items]
        show_json(items) if as_json else show_table(("id", "event", "state", "attempts", "created", "last error"), rows)


@app.command("test")
def send_test(webhook_id: str, as_json: Json = False) -> None:
    """Send a test event and print its id; what became of it: assay webhook deliveries."""
    with sentences(), client() as service:
        sent = service.post(f"/v1/webhooks/{webhook_id}/test")
        say(sent, sent["id"], as_json)


@app.command("remove")
def remove(webhook_id: str, as_json: Json = False) -> None:
    """Remove a webhook and what was still to be sent to it."""
    with sentences(), client() as service:
        service.delete(f"/v1/webhooks/{webhook_id}")
        say({"id": webhook_id, "removed": True}, f"{webhook_id} is removed", as_json)
