"""Keys and tenants from the command line: on the host for the first one, over REST for the others."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner, Result

from api.cli.main import app
from tests.support.server import Server

Assay = Callable[..., Result]


@pytest.fixture
def assay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Assay:
    """The command line on a host of its own, without a key."""
    monkeypatch.setenv("ASSAY_HOME", str(tmp_path))
    for name in ("ASSAY_KEY", "ASSAY_URL", "ASSAY_DATABASE_URL"):
        monkeypatch.delenv(name, raising=False)
    return lambda *arguments, **environment: CliRunner().invoke(app, [str(a) for a in arguments], env=environment)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with Server(tmp_path) as running:
        yield running


def status(server: Server, token: str, path: str = "/v1/jobs") -> int:
    return httpx.get(f"{server.url}{path}", headers={"Authorization": f"Bearer {token}"}).status_code


def test_the_first_key_comes_from_the_host_and_the_others_over_rest(assay: Assay, server: Server) -> None:
    made = assay("key", "create", "boss", "--tenant", "team")
    assert made.exit_code == 0
    boss = made.stdout.strip()
    assert "made for the tenant team" in made.stderr
    assert status(server, boss, "/v1/api-keys") == 200
    over_rest = {"ASSAY_URL": server.url, "ASSAY_KEY": boss}

    unscoped = assay("key", "create", "ci", **over_rest)
    assert (unscoped.exit_code, "--scope" in unscoped.stderr) == (4, True)
    ci = assay("key", "create", "ci", "--scope", "read", "--scope", "jobs:write", "--days", "30", "--json", **over_rest)
    key = json.loads(ci.stdout)
    assert key["scopes"] == ["read", "jobs:write"]
    assert status(server, key["token"]) == 200
    assert status(server, key["token"], "/v1/api-keys") == 403

    both = [json.loads(assay("key", "list", "--json", **place).stdout) for place in (over_rest, {})]
    assert [[k["name"] for k in found] for found in both] == [["ci", "boss"], ["test"]]  # the host's own is the tenant `default`
    assert json.loads(assay("key", "list", "--tenant", "team", "--json", **over_rest).stdout)[0]["name"] == "ci"

    rotated = assay("key", "rotate", key["id"], "--grace", "60", **over_rest).stdout.strip()
    assert [status(server, token) for token in (key["token"], rotated)] == [200, 200]
    again = assay("key", "rotate", key["id"], "--tenant", "team").stdout.strip()
    assert [status(server, token) for token in (key["token"], rotated, again)] == [401, 401, 200]
    assert assay("key", "revoke", key["id"], **over_rest).exit_code == 0
    assert status(server, again) == 401
    shown = assay("key", "list", COLUMNS="200", **over_rest).stdout
    assert "revoked" in shown
    assert again.split("_")[-1] not in shown


def test_a_key_that_may_not_says_so(assay: Assay, server: Server) -> None:
    reader = assay("key", "create", "reader", "--scope", "read", "--tenant", "team").stdout.strip()
    refused = assay("key", "create", "more", "--scope", "read", ASSAY_URL=server.url, ASSAY_KEY=reader)
    assert refused.exit_code == 4
    assert "this needs the scope admin; the key has read" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("key", "create", "--scope", "root"), "has no scope root"),
        (("key", "list"), "there is no tenant 'default'"),
        (("key", "revoke", "key_x", "--tenant", "nobody"), "there is no tenant 'nobody'"),
        (("tenant", "create", "a/b"), "cannot be a name"),
        (("tenant", "set", "nobody", "--max-queued-jobs", "1"), "there is no tenant 'nobody'"),
        (("tenant", "set", "nobody"), "nothing to set"),
        (("tenant", "set", "nobody", "--max-queued-jobs", "many"), "use a number from 0"),
        (("tenant", "set", "nobody", "--max-stored-gib", "nan"), "use a number from 0"),
        (("tenant", "set", "nobody", "--max-stored-gib", "-1"), "use a number from 0"),
    ],
)
def test_errors_are_one_sentence(assay: Assay, arguments: tuple[str, ...], sentence: str) -> None:
    refused = assay(*arguments)
    assert refused.exit_code == 4
    assert sentence in refused.stderr
    assert len(refused.stderr.strip().splitlines()) == 1


def test_the_operator_makes_and_limits_tenants(assay: Assay) -> None:
    for name in ("beta", "acme", "acme"):
        assert assay("tenant", "create", name).exit_code == 0
    assert assay("tenant", "set", "acme", "--max-queued-jobs", "5", "--max-stored-gib", "0.5").exit_code == 0
    found = json.loads(assay("tenant", "list", "--json", ASSAY_MAX_QUEUED_JOBS="9").stdout)
    assert [(t["name"], t["max_queued_jobs"], t["max_stored_bytes"]) for t in found] == [("acme", 5, 2**29), ("beta", 9, 100 * 2**30)]
    shown = assay("tenant", "set", "acme", "--max-queued-jobs", "default", COLUMNS="200").stdout
    assert "0 of 200" in shown
    assert "0.00 of 0.5" in shown
