"""Laws that every entry of a spec inherits.

A test class subclasses `CertifierLaws` and says which certifier entry to run; it gets every law below. What proves nothing, an attack, has
only the `FindingLaws`. The oracle is a linear model, whose distance to the decision boundary is known exactly, in front of which a
normalisation may stand.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from certify import Examples, Model, certify
from certify.certificate import Certificate
from certify.errors import Cancelled, InputError
from certify.findings import AttackResult, parse_finding
from certify.following import check_statement
from certify.norms import Norm
from certify.spec import Spec, parse_spec
from certify.verdict import Verdict
from tests.support.linear import LinearTruth
from tests.support.onnx_models import linear_model
from tests.support.runs import run_for

N, D, K = 12, 6, 4


class FindingLaws:
    """Subclass, set `entry` and `norm`: whatever a spec may list is invariant, stoppable and strict about its input."""

    entry: ClassVar[dict[str, Any]]
    norm: ClassVar[Norm]

    @pytest.fixture(params=["plain", "behind a normalisation"])
    def truth(self, request: pytest.FixtureRequest) -> LinearTruth:
        return LinearTruth.random(D, K, seed=7, normalised=request.param != "plain")

    def spec(self, **changes: Any) -> Spec:
        return parse_spec({"certifiers": [{**self.entry, **changes}]})

    def run(self, model: Model, examples: Examples, spec: Spec | None = None, **changes: Any) -> list[Any]:
        spec = spec or self.spec()
        return list(certify(model, examples, spec, run_for(spec, model, len(examples), **changes)))

    # -- invariance --------------------------------------------------------------------------------------------------------

    def test_results_do_not_depend_on_the_shard_plan_or_the_order(self, truth: LinearTruth) -> None:
        examples = truth.examples(N, seed=2)
        whole = _bytes(self.run(truth.model(), examples, family=N))
        for part in ([11, 3, 7], [0], list(range(6)), list(reversed(range(N)))):
            subset = Examples(tuple(examples.rows[i] for i in part), examples.x[part], examples.y[part])
            assert _bytes(self.run(truth.model(), subset, family=N)) == [whole[i] for i in part]

    def test_same_key_same_bytes(self, truth: LinearTruth) -> None:
        examples = truth.examples(N, seed=3)
        assert _bytes(self.run(truth.model(), examples)) == _bytes(self.run(truth.model(), examples))

    # -- form --------------------------------------------------------------------------------------------------------------

    def test_rows_are_those_asked_and_read_back_the_same(self, truth: LinearTruth) -> None:
        examples = truth.examples(N, seed=4)
        findings = self.run(truth.model(), examples)
        assert [finding.example for finding in findings] == list(examples.rows)
        assert [finding.label for finding in findings] == examples.y.tolist()
        for finding in findings:
            assert finding.kind == self.entry["kind"]
            assert finding.norm is self.norm
            assert finding.reason.endswith(".")
            assert parse_finding(finding.line()) == finding

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_a_non_finite_input_is_refused(self, truth: LinearTruth, value: float) -> None:
        examples = truth.examples(N, seed=4)
        examples.x[3, 2] = value
        with pytest.raises(InputError, match="NaN or infinity"):
            self.run(truth.model(), examples)

    def test_a_wrong_shape_is_refused(self, truth: LinearTruth) -> None:
        examples = Examples((0,), torch.zeros(1, D + 1), torch.tensor([0]))
        with pytest.raises(InputError, match="shape"):
            self.run(truth.model(), examples)

    def test_a_wish_to_stop_ends_the_run(self, truth: LinearTruth) -> None:
        with pytest.raises(Cancelled):
            self.run(truth.model(), truth.examples(N, seed=4), should_stop=lambda: True)

    def test_progress_reaches_the_number_of_examples(self, truth: LinearTruth) -> None:
        seen: list[int] = []
        self.run(truth.model(), truth.examples(N, seed=4), on_progress=lambda p: seen.append(p.examples))
        assert seen == sorted(seen)
        assert seen[-1] == N


class CertifierLaws(FindingLaws):
    """Subclass, set `entry`; override `allowed_above_truth` when the certificate is statistical."""

    allowed_above_truth: ClassVar[int] = 0

    def linear(self, weight: np.ndarray) -> Model:
        """A linear classifier without a bias."""
        return Model.from_onnx(linear_model(weight, np.zeros(len(weight), dtype=np.float32)))

    # -- soundness ---------------------------------------------------------------------------------------------------------

    def test_radius_never_exceeds_the_exact_distance(self, truth: LinearTruth) -> None:
        examples = truth.examples(N, seed=1)
        above = 0
        for certificate, x in zip(self.run(truth.model(), examples), examples.x, strict=True):
            if certificate.verdict is Verdict.CERTIFIED:
                assert certificate.prediction is not None
                above += Fraction(certificate.radius) > truth.distance(x.numpy(), certificate.prediction, self.norm)
        assert above <= self.allowed_above_truth

    def test_something_is_certified(self, truth: LinearTruth) -> None:
        assert any(c.radius > 0 for c in self.run(truth.model(), truth.examples(N, seed=1)))

    def test_a_point_on_the_boundary_gets_no_radius(self) -> None:
        weight = np.array([[1.0, 0.0], [-1.0, 0.0]], dtype=np.float32)
        model = self.linear(weight)
        examples = Examples((0,), torch.tensor([[0.0, 0.5]]), torch.tensor([0]))
        [certificate] = self.run(model, examples)
        assert certificate.radius == 0.0
        assert certificate.verdict in (Verdict.ABSTAINED, Verdict.UNKNOWN, Verdict.REFUTED)

    def test_infinite_logits_are_an_error_and_never_a_vote(self) -> None:
        weight = np.full((2, 3), 3e38, dtype=np.float32)
        weight[1] *= -1
        model = self.linear(weight)
        examples = Examples((0,), torch.full((1, 3), 1e3), torch.tensor([0]))
        [certificate] = self.run(model, examples)
        assert certificate.radius == 0.0
        assert certificate.verdict is Verdict.ERROR

    def test_certificates_name_their_statement(self, truth: LinearTruth) -> None:
        # One that follows from the evidence alone, that reads back from its line, and that a report has words for.
        for certificate in self.run(truth.model(), truth.examples(N, seed=4)):
            check_statement(certificate)
            assert Certificate.model_validate_json(certificate.line()).statement == certificate.statement
            assert certificate.statement.words


def _bytes(findings: list[Certificate | AttackResult]) -> list[str]:
    return [finding.model_copy(update={"seconds": 0.0}).line() for finding in findings]
