"""For those who receive: whether a request really comes from the service, and what it says."""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from collections.abc import Mapping
from typing import Any

from certify.errors import AssayError


class BadSignature(AssayError):
    """The request does not come from the service, was altered, or is too old."""

    code = "bad-signature"


def verify_webhook(
    secret: str, headers: Mapping[str, str], body: bytes | str, *, tolerance: float = 300.0, now: float | None = None
) -> dict[str, Any]:
    """The event of a webhook's request, after its signature was checked.

    An event may come twice: its `id` stays the same, so remember the ids of the last hours and skip what you have seen.

    Args:
        secret: `whsec_...`, as shown when the webhook was made.
        headers: of the request, in any case.
        body: of the request, exactly as it came; a parsed and printed one has another signature.
        tolerance: how old the request may be, in seconds; an older one may be a recording.
        now: the present, in seconds since 1970; the clock's when None.

    Raises:
        BadSignature: says which check failed.
    """
    known = {name.lower(): value for name, value in headers.items()}
    moment, signatures = known.get("assay-timestamp", ""), known.get("assay-signature", "")
    if not (moment.isascii() and moment.isdigit() and len(moment) <= 12 and signatures):
        raise BadSignature.at("headers", "there is no Assay-Timestamp or no Assay-Signature")
    raw = body.encode() if isinstance(body, str) else body
    expected = f"v1={hmac.new(secret.encode(), moment.encode() + b'.' + raw, hashlib.sha256).hexdigest()}"
    # As bytes: compare_digest of text refuses what is not ASCII, and a header may hold anything.
    found = [hmac.compare_digest(expected.encode(), one.strip().encode(errors="replace")) for one in signatures.split(",")]
    if not any(found):
        mend = "check the secret, and pass the body as it came"
        raise BadSignature.at("Assay-Signature", "is not that of this body under this secret", mend)
    if abs((time.time() if now is None else now) - int(moment)) > tolerance:
        raise BadSignature.at("Assay-Timestamp", f"is more than {tolerance:g} seconds away", "set the clock, or refuse the request")
    event: dict[str, Any] = json.loads(raw)
    return event
