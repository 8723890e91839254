"""Webhooks: who is told what happened, and what became of every telling."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from api.paging import Cursor, Limit, page
from api.schemas import PageOut
from api.schemas_gates import DeliveryOut, NewWebhook, WebhookChange, WebhookMade, WebhookOut
from api.security import By, CanRead, CanWriteGates, Conf, Db
from storage import webhooks

router = APIRouter(prefix="/v1/webhooks", tags=["webhooks"])


@router.post("", status_code=201)
def create_webhook(body: NewWebhook, response: Response, db: Db, conf: Conf, tenant: CanWriteGates, by: By) -> WebhookMade:
    """Tell an address of events. Every request is signed with the secret that is shown now and never again."""
    made, secret = webhooks.create_webhook(db, tenant, url=body.url, events=body.events, private=conf.webhook_private, by=by)
    response.headers["Location"] = f"/v1/webhooks/{made.id}"
    response.headers["Cache-Control"] = "no-store"  # and an Idempotency-Key does not keep it either
    return WebhookMade.model_validate({**vars(made), "secret": secret})


@router.get("")
def list_webhooks(
    request: Request, response: Response, db: Db, tenant: CanRead, limit: Limit = 20, cursor: Cursor = None
) -> PageOut[WebhookOut]:
    """Webhooks, newest first, without their secrets."""
    return page(webhooks.list_webhooks(db, tenant, limit=limit, cursor=cursor), WebhookOut.model_validate, request, response)


@router.get("/{webhook_id}")
def get_webhook(webhook_id: str, db: Db, tenant: CanRead) -> WebhookOut:
    """A webhook, without its secret."""
    return WebhookOut.model_validate(webhooks.get_webhook(db, tenant, webhook_id))


@router.patch("/{webhook_id}")
def change_webhook(webhook_id: str, body: WebhookChange, db: Db, tenant: CanWriteGates, by: By) -> WebhookOut:
    """Pause a webhook, or resume it."""
    return WebhookOut.model_validate(webhooks.set_active(db, tenant, webhook_id, body.active, by=by))


@router.delete("/{webhook_id}", status_code=204)
def delete_webhook(webhook_id: str, db: Db, tenant: CanWriteGates, by: By) -> None:
    """Remove a webhook and what was still to be sent to it."""
    webhooks.delete_webhook(db, tenant, webhook_id, by=by)


@router.post("/{webhook_id}/test", status_code=202)
def test_webhook(webhook_id: str, db: Db, tenant: CanWriteGates) -> DeliveryOut:
    """Send a `webhook.test` event; what becomes of it stands in the deliveries."""
    return DeliveryOut.model_validate(webhooks.send_test(db, tenant, webhook_id))


@router.get("/{webhook_id}/deliveries")
def list_deliveries(
    webhook_id: str, request: Request, response: Response, db: Db, tenant: CanRead, limit: Limit = 20, cursor: Cursor = None
) -> PageOut[DeliveryOut]:
    """What was sent to a webhook, or is still to be sent, newest first."""
    found = webhooks.list_deliveries(db, tenant, webhook_id, limit=limit, cursor=cursor)
    return page(found, DeliveryOut.model_validate, request, response)
