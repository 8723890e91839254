"""Bounds keep the laws in every mode."""

from __future__ import annotations

import subprocess
import sys
from fractions import Fraction
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from certify import Examples, certify
from certify.bounds.engine import LirpaEngine, MarginBound
from certify.exit_codes import Requirement, check_gates
from certify.norms import Norm
from certify.rounding import step_down
from certify.spec import parse_spec
from certify.verdict import Verdict
from tests.contract.certifier_laws import CertifierLaws
from tests.support.linear import LinearTruth
from tests.support.runs import run_for


class BoundsLaws(CertifierLaws):
    share_of_truth: ClassVar[Fraction] = Fraction(999, 1000)

    def test_a_linear_model_is_certified_almost_to_the_truth(self, truth: LinearTruth) -> None:
        examples = truth.examples(12, seed=5)
        for certificate, x in zip(self.run(truth.model(), examples), examples.x, strict=True):
            assert certificate.prediction is not None
            exact = truth.distance(x.numpy(), certificate.prediction, self.norm)
            assert Fraction(certificate.radius) >= self.share_of_truth * exact


class TestCrownL2(BoundsLaws):
    entry: ClassVar[dict[str, Any]] = {"kind": "bounds", "method": "crown", "norm": "l2", "max_radius": 4.0, "tolerance": 1e-5}
    norm = Norm.L2


class TestCrownLinf(BoundsLaws):
    entry: ClassVar[dict[str, Any]] = {"kind": "bounds", "method": "crown", "norm": "linf", "max_radius": 4.0, "tolerance": 1e-5}
    norm = Norm.LINF


class TestIbpLinf(BoundsLaws):
    entry: ClassVar[dict[str, Any]] = {"kind": "bounds", "method": "ibp", "norm": "linf", "max_radius": 4.0, "tolerance": 1e-5}
    norm = Norm.LINF


class TestIbpL2(CertifierLaws):
    entry: ClassVar[dict[str, Any]] = {"kind": "bounds", "method": "ibp", "norm": "l2", "max_radius": 4.0}
    norm = Norm.L2


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("method", ["ibp", "crown", "best"])
@pytest.mark.parametrize("asked", [{"max_radius": 0.3}, {"max_radius": 1 / 3}, {"epsilon": 0.3}, {"epsilon": 8 / 255}], ids=str)
def test_what_was_asked_and_proved_is_what_stands_there(norm: str, method: str, asked: dict[str, float]) -> None:
    """Exactly, so that a gate at that radius passes; and the ball that was verified contains the closed one that is claimed."""
    truth, [radius] = LinearTruth(np.array([[9.0, 0.0], [0.0, 9.0]], np.float32), np.zeros(2, np.float32)), asked.values()
    spec = parse_spec({"certifiers": [{"kind": "bounds", "method": method, "norm": norm, **asked}]})
    examples = Examples((0,), torch.tensor([[5.0, 0.0]]), torch.tensor([0]))
    verified: list[float] = []
    margin = LirpaEngine.margin

    def seen(self: LirpaEngine, x: Tensor, label: int, at: float, how: str) -> MarginBound:
        verified.append(at)
        return margin(self, x, label, at, how)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LirpaEngine, "margin", seen)
        [row] = certify(truth.model(), examples, spec, run_for(spec, truth.model(), 1))
    assert (row.verdict, row.radius) == (Verdict.CERTIFIED, radius)
    assert [gate.passed for gate in check_gates([Requirement(1.0, radius)], [row])] == [True]
    assert step_down(verified[-1], 2) >= radius, "what is stored is two places below what was verified, as for every radius"


class TestEpsilon(CertifierLaws):
    entry: ClassVar[dict[str, Any]] = {"kind": "bounds", "method": "crown", "norm": "l2", "epsilon": 0.05}
    norm = Norm.L2

    @pytest.mark.parametrize("epsilon", [0.05, 0.3])
    def test_epsilon_mode_answers_for_the_label(self, truth: LinearTruth, epsilon: float) -> None:
        examples = truth.examples(12, seed=5)
        for certificate, x in zip(self.run(truth.model(), examples, self.spec(epsilon=epsilon)), examples.x, strict=True):
            if not certificate.correct:
                assert (certificate.verdict, certificate.epsilon_verified, certificate.radius) == (Verdict.REFUTED, False, 0.0)
            elif truth.distance(x.numpy(), certificate.label, Norm.L2) > Fraction(epsilon) * Fraction(1001, 1000):
                assert certificate.verdict is Verdict.CERTIFIED
                assert certificate.holds_at(epsilon)
            else:
                assert not certificate.epsilon_verified


def test_loading_the_engine_leaves_the_recursion_limit() -> None:
    """auto-LiRPA raises it to a million, and then a hundred thousand brackets overflow the stack of whoever reads JSON."""
    code = "import sys; from certify.bounds import lirpa_compat as c; n = sys.getrecursionlimit(); c.load()"
    code += "; assert sys.getrecursionlimit() == n"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


class TestCrownL1(BoundsLaws):
    entry: ClassVar[dict[str, Any]] = {"kind": "bounds", "method": "crown", "norm": "l1", "max_radius": 4.0, "tolerance": 1e-5}
    norm = Norm.L1


class TestCrownIbpLinf(BoundsLaws):
    entry: ClassVar[dict[str, Any]] = {"kind": "bounds", "method": "crown-ibp", "norm": "linf", "max_radius": 4.0, "tolerance": 1e-5}
    norm = Norm.LINF


class TestAlphaCrownL2(CertifierLaws):
    entry: ClassVar[dict[str, Any]] = {"kind": "bounds", "method": "alpha-crown", "norm": "l2", "max_radius": 4.0, "iterations": 4}
    norm = Norm.L2
