"""Rows as they stand once onnxruntime was asked: one on which it answers otherwise than the certified classifier is an error.

The actor and `assay certify` send every row through here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from certify.attacks.refutation import decoded
from certify.certificate import Certificate, Runtime
from certify.findings import AttackResult, counterexample_of
from certify.model import Model
from certify.rounding import show_upper
from certify.run import Plan
from certify.sampling.copies import Copies
from certify.spec import CopiesSpec, Spec
from certify.specs.instance import ConfidenceSelector
from certify.verdict import Verdict
from workers.agreement import check_range, started
from workers.looks import Looks, Programme, Seen
from workers.runtime import VERSION, CannotRun, Session

Row = Certificate | AttackResult


@dataclass(frozen=True)
class Given:
    """A network: our reading of a file, its bytes, and onnxruntime on them, or why it cannot run them."""

    model: Model
    data: bytes
    session: Session | CannotRun

    @classmethod
    def of(cls, model: Model, data: bytes, device: str) -> Given:
        """With onnxruntime as users start it, on one thread; on each core where our own module has a GPU."""
        return cls(model, data, started(model, data, optimised=True, threads=1 if device == "cpu" else 0))


@dataclass(frozen=True)
class Comparison:
    """A job as onnxruntime sees it: what it answers at the inputs, and at noisy copies where those count.

    What is seen of a row follows from the job alone, never from how it is cut into shards; it may be kept from shard to shard.

    Args:
        spec: of the job.
        plan: of the job.
        noise_key: of the job.
        device: where our modules run.
        network: the classifier.
        others: the other networks that the spec names, by the SHA-256 of their files.
        rows: of the dataset that the job selects.
        inputs: of the whole dataset, (N, *input), float32, raw input units.
    """

    spec: Spec
    plan: Plan
    noise_key: bytes
    device: str
    network: Given
    others: Mapping[str, Given]
    rows: range
    inputs: Tensor

    def compared(self, findings: Iterable[Row], should_stop: Callable[[], bool]) -> Iterator[Row]:
        """The rows; one on which onnxruntime answers otherwise than was certified is an error. Each says how it was compared.

        A counterexample that onnxruntime does not confirm is no longer one: a claim is then unknown, nothing was found.

        Args:
            findings: of some or all rows of the job.
            should_stop: polled between calls.

        Raises:
            ModelRejected: on random inputs of the dataset's range it is our reading of the file that is wrong.
            Cancelled: `should_stop` answered true.
        """
        self.differs  # noqa: B018  (before the first row is computed)
        for finding in findings:
            yield self._one(finding.certifier).of(finding, self.rows.index(finding.example), should_stop)

    @cached_property
    def differs(self) -> str:
        """How the optimiser departs from the file on random inputs of the dataset's range."""
        session = self.network.session
        if not isinstance(session, Session):
            return ""
        value_range = float(self.inputs.min()), float(self.inputs.max())
        return check_range(self.network.model, self.network.data, session, value_range)

    def _one(self, index: int) -> _Certifier:
        if index not in self._certifiers:
            self._certifiers[index] = _Certifier(self, index)
        return self._certifiers[index]

    @cached_property
    def _certifiers(self) -> dict[int, _Certifier]:
        return {}


@dataclass(frozen=True)
class _Certifier:
    """One certifier of a job."""

    job: Comparison
    index: int

    def of(self, finding: Row, position: int, should_stop: Callable[[], bool]) -> Row:
        """The row as it stands; `position` is its place in the job."""
        found = Runtime(version=VERSION, differs=self.job.differs)
        why = ""
        try:
            for looks in self._looks:
                why = why or self._otherwise(looks.at(position, should_stop), finding)
            kept = _broken(finding, why) if why else confirmed(finding, self.job.network)
        except CannotRun as error:
            return _with(finding, found.model_copy(update={"reason": str(error)}))
        refused = [given.session for given in self._networks if isinstance(given.session, CannotRun)]
        if refused:
            return _with(kept, found.model_copy(update={"reason": str(refused[0])}))
        if self._shorter:
            return _with(kept, found.model_copy(update={"reason": self._shorter}))
        seen = self._looks[0]
        return _with(kept, found.model_copy(update={"batches": seen.batches, "copies": seen.copied}))

    @property
    def _shorter(self) -> str:
        """Where the certified classifier is another one than onnxruntime runs: it computes in less than float32."""
        certifier = self.job.spec.certifiers[self.index]
        if not isinstance(certifier, CopiesSpec) or certifier.precision == "float32":
            return ""
        return (
            f"computes in float32 where the certified classifier runs in {certifier.precision}; only the reading of the file was compared"
        )

    def _otherwise(self, seen: Sequence[Seen], finding: Row) -> str:
        exactly = not self._noisy
        return next((why for one in seen if (why := _otherwise(one, finding.prediction, exactly=exactly))), "")

    @property
    def _noisy(self) -> bool:
        """Whether votes of noisy copies count, and not the answer at the input."""
        return isinstance(self.job.spec.certifiers[self.index], CopiesSpec)

    @property
    def _networks(self) -> Sequence[Given]:
        named = self.job.spec.certifiers[self.index].other_models
        return (self.job.network, *(self.job.others[other.digest] for other in named))

    @cached_property
    def _looks(self) -> list[Looks]:
        return [self._look(given, given.session) for given in self._networks if isinstance(given.session, Session)]

    def _look(self, given: Given, session: Session) -> Looks:
        rows = self.job.rows
        inputs = self.job.inputs[rows.start : rows.stop : rows.step]
        levels = self._levels(given)
        certifier = self.job.spec.certifiers[self.index]
        shape = given.model.input_shape
        copies = Copies(self.job.spec, self.index, levels, shape, self.job.noise_key) if levels else None
        batch_size = self.job.plan.batch_sizes[self.index] if levels else 1
        programme = Programme.of(certifier, given.model, len(rows), batch_size, noisy=bool(levels))
        return Looks(given.model, session, inputs, copies, programme, self.job.device)

    def _levels(self, given: Given) -> tuple[float, ...]:
        """The levels of noise at which a network votes on copies of the input itself."""
        certifier = self.job.spec.certifiers[self.index]
        if not isinstance(certifier, CopiesSpec) or certifier.noisy_tensor is not None:
            return ()
        selector = getattr(certifier, "selector", None)
        if given is not self.job.network:
            return (selector.sigma,) if selector else ()
        confident = (selector.sigma,) if isinstance(selector, ConfidenceSelector) else ()
        return (*certifier.noise_levels, *confident)


def confirmed(finding: Row, network: Given) -> Row:
    """The row; a counterexample that onnxruntime does not confirm is none: a claim is then unknown, nothing was found.

    Raises:
        CannotRun: onnxruntime fails on it.
    """
    text = counterexample_of(finding)
    if text is None or not isinstance(network.session, Session):
        return finding
    logits = network.session.logits(decoded(text, network.model.input_shape).unsqueeze(0))
    against = finding.prediction if isinstance(finding, AttackResult) else finding.label
    seen = int(logits.argmax()) != against and bool(logits.isfinite().all())
    return finding if seen else _unconfirmed(finding)


def _otherwise(seen: Seen, prediction: int | None, *, exactly: bool) -> str:
    """How onnxruntime answers otherwise, in a sentence; empty when it does not.

    Args:
        seen: of one row in one kind of call.
        prediction: what the row says; null when it says nothing.
        exactly: whether it speaks of the answer at the input. Where it rests on votes, one of the points may turn that nearly ties,
            which is what rounding does; two of so few do not.
    """
    who = "onnxruntime (default options)"
    how = "alone" if seen.rows == 1 else f"in a batch of {seen.rows} rows"
    where = f"a noisy copy of this input, {how}" if seen.copy else f"this input, {how}"
    ours = prediction if exactly and prediction is not None else seen.ours
    if seen.answer is None:
        return f"{who} gives NaN or infinite logits at this input, {how}."
    if seen.answer != ours and (exactly or (seen.apart is not None and not seen.copy)):
        return f"{who} answers {seen.answer} where the certified classifier answers {ours} at {where}."
    if seen.apart is not None and not math.isfinite(seen.apart):
        return f"{who} gives NaN or infinite logits at {where}."
    if seen.apart is not None:
        return f"{who} computes logits that differ by {show_upper(seen.apart)} from the certified classifier's at {where}."
    if seen.turned > 1:
        return f"{who} answers {seen.turned} of a few noisy copies of this input otherwise than the certified classifier, {how}."
    return ""


def _with(finding: Row, runtime: Runtime) -> Row:
    return finding.model_copy(update={"provenance": finding.provenance.model_copy(update={"runtime": runtime})})


def _broken(finding: Row, why: str) -> Row:
    """The row without its claim."""
    nothing = {"prediction": None, "correct": False, "reason": why}
    if isinstance(finding, AttackResult):
        return finding.model_copy(update={**nothing, **_NOTHING_FOUND, "found": False, "answer": None})
    if finding.verdict is Verdict.ERROR:
        return finding
    verified = None if finding.epsilon_verified is None else False
    claim = {"verdict": Verdict.ERROR, "radius": 0.0, "epsilon_verified": verified, "evidence": None}
    return finding.model_copy(update={**nothing, **claim})


_NOTHING_FOUND = {"counterexample": None, "distance_upper": None}


def _unconfirmed(finding: Row) -> Row:
    seen = "An attack found an input that gets another answer here but not in onnxruntime"
    if isinstance(finding, AttackResult):
        reason = f"{seen}: it is not counted."
        return finding.model_copy(update={**_NOTHING_FOUND, "found": False, "answer": None, "reason": reason})
    kept = finding.evidence.model_copy(update=_NOTHING_FOUND) if finding.evidence else None
    reason = f"{seen}: neither proved nor refuted."
    return finding.model_copy(update={"verdict": Verdict.UNKNOWN, "reason": reason, "evidence": kept})
