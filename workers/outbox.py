"""Sends what the outbox holds: signed, retried until it arrives, and the same event never under two ids.

At least once: whoever dies between sending and noting it leaves an event that is sent again. A receiver tells repetitions by the id.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import hmac
import random
import ssl
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import httpx
import structlog

from certify.errors import AssayError
from storage import webhooks
from storage.addresses import target
from storage.database import Database
from storage.errors import LostLease
from storage.records_gates import DeliveryLease

log = structlog.get_logger()
_CONNECT_SECONDS, _TOTAL_SECONDS, _LEASE_SECONDS = 5.0, 10.0, 60.0
_FIRST_WAIT, _FACTOR, _LONGEST_WAIT = 5.0, 4.0, 6 * 3600.0


def wait_before(attempt: int) -> float:
    """Seconds between attempt number `attempt`, from 1, and the next: 5 s, 20 s, ..., 6 h, a quarter more or less, so that what failed
    together is not sent again together."""
    return min(_FIRST_WAIT * _FACTOR ** (attempt - 1), _LONGEST_WAIT) * random.uniform(0.75, 1.25)


class Outbox:
    """One sender of possibly many; leases keep them apart. Deliveries run in threads, so that no receiver holds up another.

    Args:
        db: where the outbox is.
        name: who holds the leases.
        private: send into private networks too.
        wait: seconds after a failed attempt, from its number.
    """

    def __init__(self, db: Database, name: str, *, private: bool = False, wait: Callable[[int], float] = wait_before, threads: int = 8):
        self.db, self.name, self.private, self.wait = db, name, private, wait
        self._threads, self._closed = threads, False
        self._pool = ThreadPoolExecutor(max_workers=threads, thread_name_prefix="outbox")
        self._sending: set[Future[None]] = set()

    def step(self) -> int:
        """Begin to send what is due, as far as threads are free; how many deliveries are under way."""
        self._sending = {future for future in self._sending if not future.done()}
        while len(self._sending) < self._threads:
            lease = webhooks.lease_delivery(self.db, self.name, _LEASE_SECONDS)
            if lease is None:
                break
            self._sending.add(self._pool.submit(self._drain, lease))
        return len(self._sending)

    def close(self) -> None:
        """Stop; what is under way ends by itself within seconds."""
        self._closed = True
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _drain(self, lease: DeliveryLease) -> None:
        """Send an event and then whatever is due, without waiting for the next step."""
        try:
            following: DeliveryLease | None = lease
            while following is not None:
                self._deliver(following)
                following = None if self._closed else webhooks.lease_delivery(self.db, self.name, _LEASE_SECONDS)
        except Exception:
            log.exception("delivery failed", action="delivery_error")  # the lease ends by itself

    def _deliver(self, lease: DeliveryLease) -> None:
        try:
            error = send(lease, private=self.private)
            if error:
                state = webhooks.retry_delivery(self.db, lease, error, self.wait(lease.attempts))
                log.info("not delivered", action="delivery_failed", delivery=lease.id, attempt=lease.attempts, state=state, reason=error)
            else:
                webhooks.finish_delivery(self.db, lease)
                log.info("delivered", action="delivered", delivery=lease.id, attempt=lease.attempts)
        except LostLease:
            log.info("delivery was taken over", action="delivery_lost", delivery=lease.id)


def send(lease: DeliveryLease, *, private: bool) -> str:
    """Send one event once; empty when the receiver took it (2xx), otherwise why not. Its answer is not read."""
    body, moment = lease.body.encode(), str(int(time.time()))
    headers = {
        "Content-Type": "application/json",
        "User-Agent": "Assay",
        "Assay-Event-Id": lease.id,
        "Assay-Timestamp": moment,
        "Assay-Signature": f"v1={signature(lease.secret, moment, body)}",
    }
    try:
        status = asyncio.run(_post(lease.url, headers, body, private))
    except TimeoutError:
        return f"no answer within {_TOTAL_SECONDS:g} seconds"
    except (httpx.HTTPError, httpx.InvalidURL, ssl.SSLError, OSError) as error:
        return f"{type(error).__name__}: {' '.join(str(error).split())}"
    except AssayError as error:
        return str(error)
    return "" if 200 <= status < 300 else f"the receiver answered {status}"


def signature(secret: str, timestamp: str, body: bytes) -> str:
    """HMAC-SHA-256 of `timestamp.body` under the secret of the webhook, in hex."""
    return hmac.new(secret.encode(), timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()


async def _post(url: str, headers: dict[str, str], body: bytes, private: bool) -> int:
    """The status of the answer. Connects to the very address that was checked; follows no redirect and uses no proxy, which might
    lead elsewhere."""
    async with asyncio.timeout(_TOTAL_SECONDS):
        where = await asyncio.to_thread(target, url, private=private)
        asked = httpx.URL(url)
        sent = {**headers, "Host": asked.netloc.decode("ascii")}
        timeout = httpx.Timeout(_TOTAL_SECONDS, connect=_CONNECT_SECONDS)
        async with (
            httpx.AsyncClient(verify=_certificates(), timeout=timeout, trust_env=False, follow_redirects=False) as client,
            client.stream(
                "POST", asked.copy_with(host=where.address), content=body, headers=sent, extensions={"sni_hostname": where.host}
            ) as response,
        ):
            return response.status_code


@functools.cache
def _certificates() -> ssl.SSLContext:
    return httpx.create_ssl_context()
