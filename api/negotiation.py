"""Which of its forms an answer is sent in: as `format=` says, else as the client's Accept header prefers (RFC 9110, 12.5.1)."""

from __future__ import annotations

from collections.abc import Mapping

from fastapi import Request

from api.problems import NotAcceptable


def choose(request: Request, asked: str | None, forms: Mapping[str, str]) -> str:
    """The name of a form.

    Args:
        request: whose Accept header counts when nothing was asked for.
        asked: a name among the forms, or None.
        forms: media types by name; of those that are accepted alike the first is taken.

    Raises:
        NotAcceptable: the header allows none of them.
    """
    if asked is not None:
        return asked
    accept = ",".join(request.headers.getlist("accept")).strip()
    if not accept:
        return next(iter(forms))
    ranges = [_range(part) for part in accept.split(",") if part.strip()]
    best = max(forms, key=lambda name: _quality(forms[name], ranges))  # the first of several that are equal
    if _quality(forms[best], ranges) <= 0:
        raise NotAcceptable.at(
            "Accept", f"{accept[:100]!r} allows none of the forms of this answer", f"accept {' or '.join(forms.values())}"
        )
    return best


def _range(text: str) -> tuple[str, float]:
    media, *parameters = (part.strip().lower() for part in text.split(";"))
    quality = next((value for name, _, value in (p.partition("=") for p in parameters) if name.strip() == "q"), "1")
    try:
        return media, min(1.0, max(0.0, float(quality)))
    except ValueError:
        return media, 0.0


def _quality(media: str, ranges: list[tuple[str, float]]) -> float:
    """What the most specific range that matches says."""
    for pattern in (media, f"{media.partition('/')[0]}/*", "*/*"):
        found = [quality for named, quality in ranges if named == pattern]
        if found:
            return max(found)
    return 0.0
