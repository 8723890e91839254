"""`assay replay`: an honest run repeats bit for bit, and whatever is changed in it is named."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from api.repeat import RepeatOut
from api.routes.reports import ReportOut
from api.schemas import JobOut
from certify.run import commitment
from certify.spec import parse_spec
from storage import catalog, results
from storage.records import JobState
from tests.support.files import npz, write_job
from tests.support.linear import LinearTruth
from tests.support.onnx_models import linear_model
from tests.support.service import Service, drive
from workers.executor import LocalExecutor
from workers.local import main as certify
from workers.replay import main

TRUTH, CHOOSER = LinearTruth.random(6, 4, seed=7), LinearTruth.random(6, 2, seed=3)
MODEL, SELECTOR = linear_model(TRUTH.weight, TRUTH.bias), linear_model(CHOOSER.weight, CHOOSER.bias)
DATA = TRUTH.examples(4, seed=1)
DUAL = {"kind": "instance-smoothing", "sigmas": [0.1, 0.25], "n": 300, "alpha": 0.01}
CERTIFIERS: list[dict[str, Any]] = [
    {"kind": "smoothing", "sigma": 0.25, "n": 300, "alpha": 0.01},
    {"kind": "smoothing", "sigma": 0.25, "n": 300, "alpha": 0.01, "bound": "top-two", "norm": "linf", "sampling": "fixed"},
    {"kind": "predict", "sigma": 0.25, "n": 100},
    {**DUAL, "statement": "memory", "search": {"samples": 16, "rounds": 1}},
    {"kind": "bounds", "method": "crown", "norm": "linf", "max_radius": 0.5},
    {"kind": "lipschitz"},
    {"kind": "attack", "norm": "l2", "max_radius": 1.0, "restarts": 1, "steps": 5},
]

Change = Callable[[dict[str, Any]], None]


def served(folder: Path, certifiers: list[dict[str, Any]], selector: bytes | None = None) -> dict[str, Any]:
    """The report, with its rows, of a job that went through the service."""
    service, executor = Service(folder), LocalExecutor()
    dispatcher = service.dispatcher(executor)
    data = npz(DATA.x.numpy(), DATA.y.numpy())
    model_id = catalog.register_model(service.db, service.tenant, name="m", blob=service.put(MODEL), value_range=None).id
    dataset_id = catalog.register_dataset(service.db, service.tenant, name="d", blob=service.put(data)).id
    service.inspected(dispatcher, model_id, dataset_id)
    if selector is not None:
        other = catalog.register_model(service.db, service.tenant, name="s", blob=service.put(selector), value_range=None).id
        service.inspected(dispatcher, other, dataset_id)
    job = service.submit(model_id, dataset_id, {"certifiers": certifiers})
    drive(dispatcher, lambda: service.job(job).state.ended)
    executor.close()
    ended = service.job(job)
    assert ended.state is JobState.SUCCEEDED, ended.error
    assert ended.report is not None
    model = catalog.get_model(service.db, service.tenant, model_id)
    made = ReportOut(job=JobOut.of(ended), partial=False, partial_words="", repeat=RepeatOut.of(ended, model), report=ended.report)
    rows = [json.loads(line) for line in results.iter_lines(service.db, service.tenant, job.id)]
    return {**made.model_dump(mode="json"), "results": rows}


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return served(tmp_path_factory.mktemp("service"), CERTIFIERS)


def replay(folder: Path, document: dict[str, Any], *more: str, model: bytes = MODEL, data: bytes | None = None) -> int:
    (folder / "report.json").write_text(json.dumps(document))
    (folder / "m.onnx").write_bytes(model)
    (folder / "d.npz").write_bytes(data or npz(DATA.x.numpy(), DATA.y.numpy()))
    return main([str(folder / "report.json"), "--model", str(folder / "m.onnx"), "--data", str(folder / "d.npz"), *more])


def changed(document: dict[str, Any], change: Change) -> dict[str, Any]:
    copy: dict[str, Any] = json.loads(json.dumps(document))
    change(copy)
    return copy


def row(document: dict[str, Any], certifier: int, example: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = next(r for r in document["results"] if (r["certifier"], r["example"]) == (certifier, example))
    return found


def test_an_honest_run_repeats_bit_for_bit(honest: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert replay(tmp_path, honest, "--rows", "all") == 0
    said = capsys.readouterr().out
    assert f"{len(CERTIFIERS) * 4} rows computed again: the same, bit for bit" in said
    assert said.endswith("repeated: nothing differs\n")
    assert honest["job"]["attempts"] == [1, 2, 1, 1, None, None, None]


def test_examples_are_chosen_by_a_seed_that_is_printed(honest: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert replay(tmp_path, honest, "--rows", "2") == 0
    said = capsys.readouterr().out
    assert "2 of 4 examples chosen at random; --pick " in said
    assert f"{len(CERTIFIERS) * 2} rows computed again" in said
    assert replay(tmp_path, honest, "--row", "3") == 0
    assert f"{len(CERTIFIERS)} rows computed again" in capsys.readouterr().out


def one_more_vote(document: dict[str, Any]) -> None:
    row(document, 0)["evidence"]["counts"][0] += 1


def all_counts_agree(document: dict[str, Any]) -> None:
    """A vote moved in all places, radius and limits derived again: nothing but drawing it again can tell."""
    evidence = row(document, 2)["evidence"]
    top = max(range(4), key=evidence["counts"].__getitem__)
    evidence["counts"][top] -= 1
    evidence["counts"][(top + 1) % 4] += 1


def last_digit_of_a_radius(document: dict[str, Any]) -> None:
    found = next(r for r in document["results"] if r["certifier"] == 0 and r["radius"] > 0)
    found["radius"] = float(np.nextafter(found["radius"], 9.0))


def swap_key(document: dict[str, Any]) -> None:
    document["job"]["noise_key"] = "ab" * 32


def key_and_commitment(document: dict[str, Any]) -> None:
    """Another key with its own commitment: the rows name the one that was published."""
    document["job"] |= {"noise_key": "ab" * 32, "noise_commitment": commitment(bytes.fromhex("ab" * 32))}


def exploratory_name(document: dict[str, Any]) -> None:
    row(document, 1)["statement"] = "S0-fixed"


def larger_alpha(document: dict[str, Any]) -> None:
    row(document, 0)["alpha"] *= 2


def bounds_radius(document: dict[str, Any]) -> None:
    found = row(document, 4)
    found["radius"] = 0.9


def other_spec(document: dict[str, Any]) -> None:
    document["job"]["spec"]["seed"] = 1


def lost_row(document: dict[str, Any]) -> None:
    document["results"].pop()


def twice(document: dict[str, Any]) -> None:
    document["results"].append(document["results"][0])


def label(document: dict[str, Any]) -> None:
    found = row(document, 5)
    found["label"] = (found["label"] + 1) % 4
    found["correct"] = found["prediction"] == found["label"]


def first_attempt(document: dict[str, Any]) -> None:
    row(document, 1)["provenance"]["attempt"] = 1


def nicer_curve(document: dict[str, Any]) -> None:
    document["report"]["certifiers"][0]["clean_accuracy"] = 1.01


def foreign_row(document: dict[str, Any]) -> None:
    row(document, 0)["provenance"]["model"] = "0" * 64


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (one_more_vote, "certifier 0, example 0: evidence: its looks and counts are not those of one run"),
        (all_counts_agree, "certifier 2, example 0: evidence.counts is"),
        (last_digit_of_a_radius, "follows from the evidence"),
        (exploratory_name, "certifier 1, example 0: statement: is S0-fixed, and S0-fixed-from-l2 follows from the evidence"),
        (larger_alpha, "certifier 0, example 0: its alpha is"),
        (bounds_radius, "certifier 4, example 0: radius is 0.9"),
        (swap_key, "noise key: its SHA-256 is"),
        (key_and_commitment, "certifier 0, example 0: its noise key is service:"),
        (other_spec, "spec: its SHA-256 is"),
        (lost_row, "is missing, one of 1"),
        (twice, "certifier 0, example 0: is there twice"),
        (label, "certifier 5, example 0: its label is"),
        (first_attempt, "certifier 1, example 0: it says attempt 1, and the run was 2"),
        (nicer_curve, "report: its curves and counts do not follow from its rows"),
        (foreign_row, "certifier 0, example 0: its model is 0000"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_is_changed_is_named(
    honest: dict[str, Any], change: Change, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert replay(tmp_path, changed(honest, change), "--row", "0") == 1
    assert f"differs: {said}" in (text := capsys.readouterr().out) or said in text


def test_another_model_or_dataset_is_named(honest: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert replay(tmp_path, honest, model=linear_model(-TRUTH.weight, TRUTH.bias)) == 1
    assert "differs: model: its SHA-256 is" in capsys.readouterr().out
    assert replay(tmp_path, honest, data=npz(DATA.x.numpy() + 1, DATA.y.numpy())) == 1
    assert "differs: dataset: its SHA-256 is" in capsys.readouterr().out


def on_a_gpu(document: dict[str, Any]) -> None:
    for one in document["results"]:
        one["provenance"]["device"] = "cuda"


def unrevealed(document: dict[str, Any]) -> None:
    document["job"]["noise_key"] = None


@pytest.mark.parametrize(
    ("certifier", "changes", "said"),
    [
        (0, {"sigma": 2.5}, "its sigma is 2.5, and 0.25 was asked for"),
        (0, {"bound": "top-two"}, "its bound is top-two"),
        (0, {"slack": 0.0}, "its slack is 0.0"),
        (0, {"family": 1}, "its family is 1"),
        (0, {"radii": [0.1]}, "its radii is"),
        (0, {"shares": [1.0]}, "its shares is"),
        (0, {"precision": "bf16"}, "its precision is bf16, and float32 was asked for"),
        (0, {"noise": "discrete-gaussian"}, "its noise is discrete-gaussian"),
        (1, {"dimension": 2}, "its dimension is 2"),
        (2, {"sigma": 9.0}, "its sigma is 9.0, and 0.25 was asked for"),
        (3, {"sigma": 9.0}, "its sigma is 9.0"),
        (4, {"value_range": [-100.0, 100.0]}, "its value_range is"),
        (4, {"at_cap": True}, "its at_cap is True"),
    ],
)
def test_settings_that_the_spec_did_not_ask_for_are_named_without_drawing(
    honest: dict[str, Any],
    certifier: int,
    changes: dict[str, Any],
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A radius follows from its evidence, whatever that says: sigma times ten is a radius times ten."""

    def settings(document: dict[str, Any]) -> None:
        row(document, certifier)["evidence"] |= changes

    assert replay(tmp_path, changed(honest, settings), "--row", "3") == 1
    assert f"certifier {certifier}, example 0: {said}" in capsys.readouterr().out


def test_a_radius_beyond_what_was_asked_is_named_without_drawing(
    honest: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert replay(tmp_path, changed(honest, bounds_radius), "--row", "3") == 1
    assert "certifier 4, example 0: its radius is 0.9, and 0.5 was asked for" in capsys.readouterr().out


@pytest.mark.parametrize(("change", "said"), [(on_a_gpu, "which is not here"), (unrevealed, "the noise key is not revealed")])
def test_what_cannot_be_repeated_here_is_told_apart_from_what_differs(
    honest: dict[str, Any], change: Change, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert replay(tmp_path, changed(honest, change)) == 2
    assert f"could not be repeated: {'' if change is unrevealed else '4 rows of certifier 0 were drawn on cuda, '}{said}" in (
        capsys.readouterr().out
    )


def test_a_difference_counts_for_more_than_a_device_that_is_not_here(honest: dict[str, Any], tmp_path: Path) -> None:
    def both(document: dict[str, Any]) -> None:
        on_a_gpu(document)
        last_digit_of_a_radius(document)

    assert replay(tmp_path, changed(honest, both)) == 1


def test_rows_may_come_in_a_file_of_their_own(honest: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = "".join(json.dumps(one) + "\n" for one in honest["results"])
    (tmp_path / "results.jsonl").write_text(lines)
    alone = {name: value for name, value in honest.items() if name != "results"}
    assert replay(tmp_path, alone, "--row", "0", "--results", str(tmp_path / "results.jsonl")) == 0
    capsys.readouterr()
    assert replay(tmp_path, alone) == 4
    assert "the report does not hold its rows" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "said"), [(("--rows", "few"), "rows: 'few' is no number"), (("--row", "9"), "there is no row of example 9")]
)
def test_wrong_options_are_one_sentence(
    honest: dict[str, Any], more: tuple[str, ...], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert replay(tmp_path, honest, *more) == 4
    assert said in capsys.readouterr().err


def test_missing_files_are_told(honest: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "report.json").write_text(json.dumps(honest))
    nowhere = ["--model", str(tmp_path / "no.onnx"), "--data", str(tmp_path / "no.npz")]
    assert main([str(tmp_path / "report.json"), *nowhere]) == 2
    assert "could not be repeated: model: cannot read" in capsys.readouterr().out
    (tmp_path / "report.json").write_text("{}")
    assert main([str(tmp_path / "report.json"), *nowhere]) == 4


def test_a_selector_comes_from_its_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    digest = hashlib.sha256(SELECTOR).hexdigest()
    entries = [{**DUAL, "selector": {"kind": "model", "model": digest, "sigma": 0.25}}]
    document = served(tmp_path, entries, SELECTOR)
    assert f"--selector {digest[:12]}.onnx" in document["repeat"]["commands"][1]
    assert replay(tmp_path, document) == 2
    assert f"certifier 0 needs the selector with SHA-256 {digest}; add --selector" in capsys.readouterr().out
    (tmp_path / "s.onnx").write_bytes(SELECTOR)
    assert replay(tmp_path, document, "--selector", str(tmp_path / "s.onnx")) == 0


def test_what_assay_certify_wrote_is_repeated_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = write_job(tmp_path)
    given = ["--model", str(paths["model"]), "--data", str(paths["data"]), "--spec", str(paths["spec"]), "--range", "0,1"]
    certify(["certify", *given, "--out", str(paths["out"])])
    assert main([str(paths["out"]), *given, "--rows", "2"]) == 0
    lines = [json.loads(line) for line in paths["out"].read_text().splitlines()]
    lines[0]["seconds"] += 1.0
    lines[1]["reason"] = "Because."
    paths["out"].write_text("".join(json.dumps(line) + "\n" for line in lines))
    capsys.readouterr()
    assert main([str(paths["out"]), *given, "--rows", "all"]) == 1
    assert capsys.readouterr().out.count("differs: ") == 1
    assert main([str(paths["out"]), *given[:4]]) == 4
    assert "add --spec" in capsys.readouterr().err


def test_it_loads_no_ray_no_database_no_api(honest: dict[str, Any], tmp_path: Path) -> None:
    assert replay(tmp_path, honest, "--row", "0") == 0
    code = (
        "import sys; from workers.replay import main; code = main(sys.argv[1:]);"
        "print(code, sorted({'ray', 'sqlalchemy', 'fastapi', 'obstore'} & set(sys.modules)))"
    )
    given = [str(tmp_path / "report.json"), "--model", str(tmp_path / "m.onnx"), "--data", str(tmp_path / "d.npz"), "--row", "0"]
    found = subprocess.run([sys.executable, "-c", code, *given], capture_output=True, text=True, check=True)
    assert found.stdout.splitlines()[-1] == "0 []"


def test_a_row_that_time_runs_out_for_now_is_not_called_repeated(
    honest: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A spec may leave so little time that nothing is ever computed again: its rows would be believed unseen."""
    hasty = {"certifiers": [{"kind": "bounds", "method": "crown", "norm": "linf", "max_radius": 0.5, "timeout_seconds": 1e-6}]}
    spec, rows = parse_spec(hasty).with_noise_key("public-seed"), [r for r in honest["results"] if r["certifier"] == 4]
    moved = [one | {"certifier": 0, "provenance": one["provenance"] | {"spec": spec.digest()}} for one in rows]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(one) + "\n" for one in moved))
    (tmp_path / "spec.json").write_text(json.dumps(hasty))
    (tmp_path / "m.onnx").write_bytes(MODEL)
    (tmp_path / "d.npz").write_bytes(npz(DATA.x.numpy(), DATA.y.numpy()))
    names = ["--model", str(tmp_path / "m.onnx"), "--data", str(tmp_path / "d.npz"), "--spec", str(tmp_path / "spec.json")]
    assert main([str(tmp_path / "rows.jsonl"), *names, "--rows", "all"]) == 2
    said = capsys.readouterr().out
    assert "could not be repeated: certifier 0, example 0 ran out of time when it was computed again" in said
    assert "bit for bit" not in said


def test_rows_left_out_of_a_run_that_succeeded_are_missing_whatever_its_report_calls_itself(
    honest: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def only_what_pleases(document: dict[str, Any]) -> None:
        document["partial"], document["report"] = True, None
        document["results"] = [one for one in document["results"] if one["example"] != 2]

    assert replay(tmp_path, changed(honest, only_what_pleases), "--row", "0") == 1
    assert "certifier 0, example 2: is missing, one of 7" in capsys.readouterr().out

    def cancelled(document: dict[str, Any]) -> None:
        only_what_pleases(document)
        document["job"]["state"] = "cancelled"

    assert replay(tmp_path, changed(honest, cancelled), "--row", "0") == 0
    assert "PARTIAL: 21 of 28 rows are there" in capsys.readouterr().out
