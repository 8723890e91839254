"""Events arrive at a real server: signed, in spite of errors and dead senders, and nowhere they were not meant to go."""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from api.sdk.webhooks import BadSignature, verify_webhook
from storage import webhooks
from storage.database import Database
from storage.records_gates import Delivery, DeliveryState
from storage.webhooks import EVENTS
from tests.support.receiver import Receiver, receiver
from tests.support.shop import Shop
from workers import outbox
from workers.outbox import Outbox, wait_before


def hook(shop: Shop, url: str, *, private: bool = True) -> tuple[str, str]:
    made, secret = webhooks.create_webhook(shop.db, shop.tenant, url=url, events=EVENTS, private=private)
    return made.id, secret


def happens(shop: Shop, about: str = "out_1") -> None:
    with shop.db.begin() as connection:
        webhooks.announce(connection, shop.tenant, "gate.failed", about, {"sentence": "fell from 61 % to 58 %"}, shop.db.now(connection))


def told(shop: Shop, webhook_id: str) -> Delivery:
    return webhooks.list_deliveries(shop.db, shop.tenant, webhook_id, limit=9).items[0]


@contextmanager
def sending(shop: Shop, *, private: bool = True) -> Iterator[Outbox]:
    sender = Outbox(shop.db, "sender", private=private, wait=lambda attempt: 0.05)
    try:
        yield sender
    finally:
        sender.close()


def until(sender: Outbox, shop: Shop, webhook_id: str, *states: DeliveryState) -> Delivery:
    deadline = time.monotonic() + 30
    while (found := told(shop, webhook_id)).state not in states:
        assert time.monotonic() < deadline, found
        sender.step()
        time.sleep(0.02)
    return found


def test_an_event_arrives_after_two_failures_under_one_id_and_one_signature_each(shop: Shop) -> None:
    with receiver(500, 503) as there, sending(shop) as sender:
        hook_id, secret = hook(shop, there.url)
        happens(shop)
        found = until(sender, shop, hook_id, DeliveryState.DELIVERED, DeliveryState.GIVEN_UP)
        assert (found.state, found.attempts, found.last_error) == (DeliveryState.DELIVERED, 3, None)
        sender.step()
        time.sleep(0.2)
        assert len(there.received) == 3
        assert {one.headers["assay-event-id"] for one in there.received} == {found.id}
        assert len({one.body for one in there.received}) == 1
        for one in there.received:
            event = verify_webhook(secret, one.headers, one.body)
            assert (event["id"], event["type"], event["data"]) == (found.id, "gate.failed", {"sentence": "fell from 61 % to 58 %"})
            assert one.headers["content-type"] == "application/json"
            assert one.headers["host"] == there.url.split("/")[2]


def test_a_signature_is_of_this_body_this_moment_and_this_secret(shop: Shop) -> None:
    with receiver() as there, sending(shop) as sender:
        hook_id, secret = hook(shop, there.url)
        happens(shop)
        until(sender, shop, hook_id, DeliveryState.DELIVERED)
        (one,) = there.received
    sent = int(one.headers["assay-timestamp"])
    assert verify_webhook(secret, {name.title(): value for name, value in one.headers.items()}, one.body.decode())["type"] == "gate.failed"
    assert verify_webhook(secret, one.headers | {"assay-signature": f"v1=00, {one.headers['assay-signature']}"}, one.body)
    later = {**one.headers, "assay-timestamp": str(sent + 1)}
    for secret_used, headers, body, now, text in (
        (secret, one.headers, one.body.replace(b"61", b"91"), sent, "not that of this body"),
        (secret, one.headers, json.dumps(json.loads(one.body)).encode(), sent, "not that of this body"),
        ("whsec_" + "0" * 64, one.headers, one.body, sent, "not that of this body"),
        (secret, later, one.body, sent, "not that of this body"),
        (secret, one.headers, one.body, sent + 301, "seconds away"),  # a recording
        (secret, one.headers, one.body, sent - 301, "seconds away"),
        (secret, {**one.headers, "assay-signature": "v1=\u00e9"}, one.body, sent, "not that of this body"),
        (secret, {**one.headers, "assay-timestamp": "now"}, one.body, sent, "there is no Assay-Timestamp"),
        (secret, {}, one.body, sent, "there is no Assay-Timestamp"),
    ):
        with pytest.raises(BadSignature, match=text):
            verify_webhook(secret_used, headers, body, now=now)
    assert verify_webhook(secret, one.headers, one.body, now=sent + 299)


def test_a_sender_killed_between_sending_and_noting_it_leaves_an_event_that_is_sent_again(empty_url: str) -> None:
    db = Database(empty_url)
    db.migrate()
    shop = Shop.open(db, "acme")
    with receiver() as there, sending(shop) as sender:
        hook_id, secret = hook(shop, there.url)
        happens(shop)
        doomed = subprocess.run([sys.executable, "-m", "tests.storage.sender_process", empty_url, "die"], timeout=60, capture_output=True)
        assert doomed.returncode == -9, doomed.stderr
        assert len(there.received) == 1
        assert told(shop, hook_id).state is DeliveryState.SENDING
        found = until(sender, shop, hook_id, DeliveryState.DELIVERED)
        assert found.attempts == 2
        first, second = there.received
        assert first.headers["assay-event-id"] == second.headers["assay-event-id"] == found.id
        assert first.body == second.body
        assert verify_webhook(secret, second.headers, second.body)["id"] == found.id
    db.close()


def failure(shop: Shop, there: Receiver | str, *, private: bool = True) -> str:
    """What became of an event that cannot arrive."""
    hook_id, _ = hook(shop, there if isinstance(there, str) else there.url)
    happens(shop)
    with sending(shop, private=private) as sender:
        found = until(sender, shop, hook_id, DeliveryState.GIVEN_UP, DeliveryState.DELIVERED)
    assert found.state is DeliveryState.GIVEN_UP
    return str(found.last_error)


def test_a_redirect_is_not_followed(shop: Shop) -> None:
    with receiver() as secret_place, receiver(*[302] * 20, headers={"Location": secret_place.url}) as there:
        assert failure(shop, there) == "the receiver answered 302"
        assert secret_place.received == []


def test_a_private_address_is_refused_at_delivery_too(shop: Shop) -> None:
    with receiver() as there:
        assert "lies in a private network" in failure(shop, there, private=False)
        assert there.received == []


def test_a_receiver_that_does_not_answer_or_is_not_there_is_said(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "_TOTAL_SECONDS", 0.3)
    monkeypatch.setattr(webhooks, "MAX_ATTEMPTS", 2)
    with receiver(delay=2.0) as there:
        assert failure(shop, there) == "no answer within 0.3 seconds"
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, but nobody listens
        assert "ConnectError" in failure(shop, f"http://127.0.0.1:{taken.getsockname()[1]}/")


def test_the_connection_goes_to_the_address_that_was_checked(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that is public when it is checked and private a moment later reaches nothing inside."""
    with receiver() as inside, receiver() as outside:
        port = int(outside.url.split(":")[2].split("/")[0])
        asked: list[str] = []
        honest = socket.getaddrinfo

        def rebinding(host: str | None, where: int | str | None, *more: int, **named: int) -> object:
            if host != "rebinding.example.org":
                return honest(host, where, *more, **named)
            asked.append(host)
            return honest("127.0.0.1", port if len(asked) <= 2 else int(inside.url.split(":")[2].split("/")[0]), *more, **named)

        monkeypatch.setattr(socket, "getaddrinfo", rebinding)
        hook_id, _ = hook(shop, f"http://rebinding.example.org:{port}/hook")
        happens(shop)
        with sending(shop) as sender:
            until(sender, shop, hook_id, DeliveryState.DELIVERED)
        assert len(asked) == 2  # when it was made and once for the delivery: the connection itself asks nobody
        assert outside.received[0].headers["host"] == f"rebinding.example.org:{port}"


def certificate(folder: Path, name: str) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's context with a certificate for `name`, and the context of a client who trusts that certificate."""
    key, subject = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    made = x509.CertificateBuilder().subject_name(subject).issuer_name(subject).public_key(key.public_key()).serial_number(1)
    made = made.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
    signed = made.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False).sign(key, hashes.SHA256())
    file = folder / "server.pem"
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    file.write_bytes(signed.public_bytes(serialization.Encoding.PEM) + key.private_bytes(*form))
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(file)
    return server, ssl.create_default_context(cafile=str(file))


def test_over_tls_the_receiver_must_have_the_name_it_was_asked_for(shop: Shop, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    server, client = certificate(tmp_path, "hooks.example.org")
    monkeypatch.setattr(outbox, "_certificates", lambda: client)
    monkeypatch.setattr(webhooks, "MAX_ATTEMPTS", 1)
    honest = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *more, **named: honest("127.0.0.1", *more, **named))
    with receiver(tls=server) as there:
        port = there.url.split(":")[2]
        assert "CERTIFICATE_VERIFY_FAILED" in failure(shop, f"https://other.example.org:{port}")
        assert there.received == []
        hook_id, _ = hook(shop, f"https://hooks.example.org:{port}")
        happens(shop, "out_2")
        with sending(shop) as sender:
            deadline = time.monotonic() + 20
            while told(shop, hook_id).state is not DeliveryState.DELIVERED:
                assert time.monotonic() < deadline
                sender.step()
                time.sleep(0.02)
        assert there.received[0].headers["host"].startswith("hooks.example.org:")


def test_a_receiver_that_hangs_does_not_hold_up_another(shop: Shop) -> None:
    with receiver(delay=3.0) as slow, receiver() as quick, sending(shop) as sender:
        hook(shop, slow.url)
        quick_id, _ = hook(shop, quick.url)
        happens(shop)
        started = time.monotonic()
        until(sender, shop, quick_id, DeliveryState.DELIVERED)
        assert time.monotonic() - started < 2.5


def test_a_burst_of_events_is_sent_without_waiting_for_the_next_step(shop: Shop) -> None:
    with receiver() as there, sending(shop) as sender:
        hook(shop, there.url)
        for number in range(30):
            happens(shop, f"out_{number}")
        sender.step()
        received = there.wait(30)
    assert len({one.headers["assay-event-id"] for one in received}) == 30


def test_waits_grow_and_differ() -> None:
    for attempt, middle in ((1, 5.0), (2, 20.0), (4, 320.0), (9, 6 * 3600.0)):
        waits = {wait_before(attempt) for _ in range(50)}
        assert 0.75 * middle <= min(waits) < max(waits) <= 1.25 * middle
