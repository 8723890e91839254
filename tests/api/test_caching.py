"""ETag and 304 for what is final, and Accept for what has several forms."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from starlette.requests import Request

from api.negotiation import choose
from api.problems import NotAcceptable
from tests.api.conftest import Api
from tests.api.test_events import finish
from tests.api.test_routes import problem
from tests.support.shop import Shop

FORMS = {"json": "application/json", "html": "text/html"}


@pytest.fixture
def ended(api: Api) -> Shop:
    """A tenant with a model, a dataset and a job that is answered."""
    shop = Shop.open(api.service.db, "default")
    finish(shop, shop.submit().id)
    return shop


def paths(api: Api, shop: Shop) -> list[str]:
    job = api.client.get("/v1/jobs").json()["items"][0]["id"]
    return [
        f"/v1/models/{shop.model}",
        f"/v1/datasets/{shop.dataset}",
        f"/v1/jobs/{job}",
        f"/v1/jobs/{job}/results",
        f"/v1/jobs/{job}/results?limit=2",
        f"/v1/jobs/{job}/report",
        f"/v1/jobs/{job}/report?format=html",
    ]


def test_what_is_final_is_sent_once(api: Api, ended: Shop) -> None:
    tags = set()
    for path in paths(api, ended):
        first = api.client.get(path)
        tag = first.headers["etag"]
        assert tag == f'"{hashlib.sha256(first.content).hexdigest()}"', path
        assert first.headers["cache-control"] == "private, no-cache"
        assert "Accept" in first.headers["vary"]
        for sent in (tag, f'"x", {tag}', f"W/{tag}", "*"):
            again = api.client.get(path, headers={"If-None-Match": sent})
            assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag), path
            assert again.headers["cache-control"] == "private, no-cache"
            assert "content-length" not in again.headers
            assert again.headers["x-request-id"]
        assert api.client.get(path, headers={"If-None-Match": '"x"'}).content == first.content
        tags.add(tag)
    assert len(tags) == 7


def test_another_tenant_learns_nothing_from_a_tag(api: Api, ended: Shop) -> None:
    for path in paths(api, ended):
        tag = api.client.get(path).headers["etag"]
        theirs = {"Authorization": f"Bearer {api.key('other')}", "If-None-Match": tag}
        problem(api.client.get(path, headers=theirs), 404)
        problem(api.client.get(path, headers={**theirs, "Authorization": ""}), 401)


def test_what_may_change_has_no_tag(api: Api) -> None:
    shop = Shop.open(api.service.db, "default")
    job = shop.submit().id
    uninspected = api.model(b"\x08\x08model").json()["id"]
    for path in (f"/v1/jobs/{job}", f"/v1/jobs/{job}/results", f"/v1/models/{uninspected}", "/v1/jobs"):
        sent = api.client.get(path, headers={"If-None-Match": "*"})
        assert sent.status_code == 200
        assert "etag" not in sent.headers


@pytest.mark.parametrize(
    ("accept", "form"),
    [
        (None, "json"),
        ("", "json"),
        ("*/*", "json"),
        ("text/html", "html"),
        ("text/*", "html"),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", "html"),
        ("text/html;q=0.5, application/json", "json"),
        ("application/json;q=0.5, text/html;q=0.5", "json"),
        ("TEXT/HTML ; Q=0.2", "html"),
        ("*/*, application/json;q=0", "html"),
        ("image/png, */*;q=0.1", "json"),
        ("image/png", None),
        ("text/html;q=0", None),
        ("text/html;q=oops", None),
        (",;,", None),
    ],
)
def test_the_form_that_is_accepted(accept: str | None, form: str | None) -> None:
    headers = [] if accept is None else [(b"accept", accept.encode())]
    request = Request({"type": "http", "headers": headers})
    if form is None:
        with pytest.raises(NotAcceptable):
            choose(request, None, FORMS)
    else:
        assert choose(request, None, FORMS) == form
    assert choose(request, "html", FORMS) == "html"


def test_no_form_that_is_accepted(api: Api, ended: Shop) -> None:
    for path in paths(api, ended):
        if "/results" in path or path.endswith("/report"):
            body: dict[str, Any] = problem(api.client.get(path, headers={"Accept": "image/png"}), 406)
            assert body["errors"][0]["field"] == "Accept"
