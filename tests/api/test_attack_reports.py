"""Attacks beside certificates: on every way out, apart from them, and never as more than they are."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.cli.jobs import _show_report
from api.pages.render import attacked
from api.pages.svg import Attacked, chart
from certify import certify
from certify.curves import report
from certify.findings import AttackResult, parse_finding
from certify.norms import Norm
from certify.report import AttackPoint, AttackReport, Report
from certify.rounding import show_share_upper
from certify.spec import parse_spec
from tests.api.conftest import Api
from tests.support.linear import LinearTruth
from tests.support.runs import run_for

SPEC: dict[str, Any] = {
    "examples": {"stop": 4},
    "certifiers": [
        {"kind": "bounds", "method": "crown", "norm": "linf", "max_radius": 0.5, "tolerance": 0.01},
        {"kind": "attack", "norm": "linf", "max_radius": 0.5, "restarts": 2, "steps": 10},
        {"kind": "attack", "norm": "l1", "max_radius": 1.0, "restarts": 2, "steps": 10},
    ],
}


def test_both_kinds_come_back_on_every_way(api: Api) -> None:
    model, data = api.ready()
    job = api.client.post("/v1/jobs", json={"model": model, "dataset": data, "spec": SPEC}).json()
    api.finish(job["id"])
    assert api.client.get(f"/v1/jobs/{job['id']}").json()["state"] == "succeeded"

    url, rows = f"/v1/jobs/{job['id']}/results?limit=3", []
    while url:
        page = api.client.get(url)
        assert page.status_code == 200, page.text
        rows += page.json()["items"]
        url = page.links.get("next", {}).get("url", "")
    assert [(row["certifier"], row["example"]) for row in rows] == [(c, i) for c in range(3) for i in range(4)]
    streamed = api.client.get(f"/v1/jobs/{job['id']}/results?format=ndjson").text.splitlines()
    assert [json.loads(line) for line in streamed] == rows
    assert all("radius" not in row for row in rows if row["kind"] == "attack")
    attacks = [parse_finding(json.dumps(row)) for row in rows if row["certifier"] == 1]

    made = Report.model_validate(api.client.get(f"/v1/jobs/{job['id']}/report").json()["report"])
    assert [one.kind for one in made.certifiers] == ["bounds"]
    assert [(one.certifier, one.norm) for one in made.attacks] == [(1, Norm.LINF), (2, Norm.L1)]
    for point in made.attacks[0].curve:
        assert point.unbroken == sum(row.unbroken_at(point.radius) for row in attacks if isinstance(row, AttackResult)) / 4
    proved = made.certifiers[0]
    for point in proved.curve:  # what is proved never lies above what an attack left
        assert point.certified_accuracy <= made.attacks[0].unbroken_at(point.radius)

    text = api.client.get(f"/v1/jobs/{job['id']}/report?format=html").text
    assert text.count("stroke-dasharray") == 2
    assert "Not a certificate." in text
    assert "<h2>Attacks, l1</h2>" in text  # nothing is certified in that norm
    assert "<h2>Certified accuracy, linf</h2>" in text


def test_the_curve_counts_the_examples_that_are_left() -> None:
    truth = LinearTruth.random(6, 4, seed=7)
    spec = parse_spec({"certifiers": [{"kind": "attack", "norm": "linf", "max_radius": 0.3, "restarts": 2, "steps": 10}]})
    model, examples = truth.model(), truth.examples(15, seed=1)
    rows = [row for row in certify(model, examples, spec, run_for(spec, model, 15)) if isinstance(row, AttackResult)]
    made = report(rows, spec)
    assert made.certifiers == ()
    [one] = made.attacks
    assert (one.examples, one.correct, one.found) == (15, 12, sum(row.found for row in rows))
    assert 0 < one.found < 15
    assert one.curve[0] == AttackPoint(radius=0.0, unbroken=12 / 15)
    for radius in (0.0, 0.1, *(row.distance_upper for row in rows if row.found), 0.3):
        assert radius is not None
        assert one.unbroken_at(radius) == sum(row.unbroken_at(radius) for row in rows) / 15


def attack(distances: list[float], *, reach: float = 2.0, count: int = 40) -> AttackReport:
    left = 30
    points = [AttackPoint(radius=0.0, unbroken=left / count)]
    for distance in sorted(set(distances)):
        left -= 1
        points.append(AttackPoint(radius=distance, unbroken=left / count))
    return AttackReport(
        certifier=0, method="apgd", norm=Norm.L2, max_radius=reach, clipped=False, examples=count, correct=30, found=len(points) - 1,
        failed=0, clean_accuracy=30 / count, curve=tuple(points),
    )  # fmt: skip


distances = st.lists(st.floats(1e-3, 2.0, allow_nan=False), max_size=25)


@given(distances)
def test_the_table_never_shows_less_than_was_left(found: list[float]) -> None:
    one = attack(found)
    for radius, share in attacked(one):
        exact = (30 - sum(distance <= float(radius) for distance in set(found))) / 40
        assert Decimal(share.removesuffix(" %")) / 100 >= Decimal(repr(exact))
        assert share == show_share_upper(exact)


@given(distances)
def test_a_curve_falls_and_is_drawn_to_the_end_of_the_search(found: list[float]) -> None:
    one = attack(found)
    shares = [point.unbroken for point in one.curve]
    assert shares == sorted(shares, reverse=True)
    assert "stroke-dasharray" in chart([], "l2", [Attacked(one.curve, one.max_radius)])


@pytest.mark.parametrize(("share", "shown"), [(0.3, "30.0 %"), (1 / 3, "33.4 %"), (0.0, "0.0 %"), (1.0, "100.0 %")])
def test_upper_shares_are_rounded_up(share: float, shown: str) -> None:
    assert show_share_upper(share) == shown


def test_the_command_line_says_that_it_is_no_certificate(capsys: pytest.CaptureFixture[str]) -> None:
    _show_report(Report(certifiers=(), attacks=(attack([0.5, 1.0]),)))
    said = " ".join(capsys.readouterr().out.split())
    assert "attack apgd (l2), up to 2, not a certificate: 40 examples" in said
    assert "75.0 %" in said
    assert "counterexamples found: 2" in said
