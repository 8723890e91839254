"""Every error class has a status; none falls through to a wrong one."""

from __future__ import annotations

import pytest
import structlog

import api.problems
from certify.errors import AssayError, Cancelled, ContradictionError, EngineUnavailable, NumericalError
from storage.logs import configure

EXPECTED_500 = {AssayError, Cancelled, ContradictionError, EngineUnavailable, NumericalError}


def tree(root: type[AssayError]) -> list[type[AssayError]]:
    return [root, *(leaf for child in root.__subclasses__() for leaf in tree(child))]


def test_a_log_of_a_failure_shows_no_local_variables(capsys: pytest.CaptureFixture[str]) -> None:
    configure()
    secret = "do not " + "print this"
    try:
        raise RuntimeError(f"{len(secret)}")
    except RuntimeError:
        structlog.get_logger().exception("failed")
    shown = capsys.readouterr().out
    assert "RuntimeError" in shown
    assert secret not in shown


@pytest.mark.parametrize("kind", [k for k in tree(AssayError) if k.__module__.split(".")[0] in ("certify", "storage", "api")])
def test_every_error_maps_to_a_status(kind: type[AssayError]) -> None:
    if kind.__module__.startswith("api.sdk"):  # the client's own
        return
    status = api.problems.status_of(kind.at("field", "detail", "mend"))
    assert (status == 500) == (kind in EXPECTED_500 or kind.__name__ == "DamagedArtifact")
    assert kind.code != AssayError.code or kind is AssayError
    assert str(kind()) != ""
