"""One certificate: what is claimed about one example, the evidence for it, and where it came from.

Counts and margins are the durable part: any radius can be derived from them again without the model.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, ClassVar, Literal, Protocol, Self

from pydantic import Field, model_validator

from certify.norms import Norm
from certify.old_rows import completed
from certify.spec import Frozen, Precision
from certify.statement import Statement
from certify.verdict import Verdict

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Share = Annotated[float, Field(ge=0, le=1)]


class SmoothingEvidence(Frozen):
    """Votes of the noisy copies, enough to derive the limits again.

    `looks` are the sample counts at which the run looked, `shares` the share of alpha that each of them could spend and `look_counts`
    the cumulative votes there: of the selected class, and the most of any rival. `counts` are those of the last look, by class; `n` is
    their sum. `family` is the number of certificates that shared alpha, 1 when none did. `slack` has been taken off `pA_lower`. Where
    sampling stopped as soon as given `radii` were decided, they stand here: no statistic of radii may be drawn from such rows. The network
    ran in `precision`. `exploratory` says that alpha, bound or error rate were chosen when the votes were there.
    """

    noise: Literal["gaussian", "discrete-gaussian", "uniform"] = "gaussian"
    sigma: float
    n0: int
    n: int
    looks: tuple[int, ...]
    shares: tuple[Share, ...]
    look_counts: tuple[tuple[int, int], ...]
    counts_selection: tuple[int, ...]
    counts: tuple[int, ...]
    bound: Literal["one-sided", "top-two"] = "one-sided"
    pA_lower: Share
    pB_upper: Share
    slack: Share = 0.0
    family: int = 1
    dimension: int = 1
    radii: tuple[float, ...] | None = None
    precision: Precision = "float32"
    exploratory: bool = False

    @property
    def copies(self) -> int:
        """Noisy copies that were evaluated."""
        return self.n0 + self.n


class LatentEvidence(SmoothingEvidence):
    """Votes of copies made at the tensor `split`, in whose units `sigma` and `latent_radius` are.

    `lipschitz_upper` bounds the l2 Lipschitz constant from the raw input to that tensor, `value_error` how far the point that the noise
    was added to lies from the exact value of the example there, in l2. The l2 radius at the input is (latent_radius - value_error) /
    lipschitz_upper.
    """

    split: str
    latent_radius: Annotated[float, Field(ge=0)]
    lipschitz_upper: Annotated[float, Field(gt=0)]
    value_error: Annotated[float, Field(ge=0)]


class CorrectedEvidence(SmoothingEvidence):
    """Votes under the level that sigma(x) has at this input, where `semi_elasticity` bounds how fast sigma(x) changes.

    |log sigma(x) - log sigma(x')| <= semi_elasticity * ||x - x'||_2 was declared for all x', not checked. It is null where the level was
    found by a search of its own, for which no such bound holds: then no radius follows.
    """

    semi_elasticity: Annotated[float, Field(ge=0)] | None


class Tried(Frozen):
    """One point of a search: a level, and the most votes that a class got there."""

    sigma: float
    top: Annotated[int, Field(ge=0)]


class SearchEvidence(Frozen):
    """What was tried to find a level, `samples` votes at each point. None of these votes certifies anything."""

    samples: Annotated[int, Field(ge=1)]
    tried: tuple[Tried, ...]

    @property
    def copies(self) -> int:
        """Noisy copies that were evaluated."""
        return self.samples * len(self.tried)


class SelectorEvidence(SmoothingEvidence):
    """Votes of the smoothed selector, whose classes are the levels `sigmas`; `index` is the selected one.

    `selector_radius` and `classifier_radius` are l2 radii around the input: in the first the selected level stays, in the second the
    class does while the level is held. Neither is claimed, only the smaller of the two. `transductive` says that the selector was fitted to
    examples of the job.
    """

    sigmas: tuple[float, ...]
    index: Annotated[int, Field(ge=0)]
    selector_radius: Annotated[float, Field(ge=0)]
    classifier_radius: Annotated[float, Field(ge=0)]
    transductive: bool = False


class MemoryEvidence(Frozen):
    """What a ledger of certified regions made of a row; its own votes had proved `own_prediction` to `own_radius`, or nothing (null, 0).

    `ledger` is null in a run without service; `size` is the number of regions when it was asked, those of the same pass included and
    revoked ones too. `how` is as in `certify.regions.Resolution`. `region` is the one that the row became, `by` the one that answered it,
    cut it or kept it from answering, at a distance of at most `distance_upper`; `revoked` are those that it contradicted.
    """

    ledger: str | None
    size: Annotated[int, Field(ge=0)]
    how: Literal["stored", "shrunk", "answered", "abstained", "unanswered"]
    region: int | None = None
    by: int | None = None
    distance_upper: float | None = None
    own_prediction: int | None = None
    own_radius: Annotated[float, Field(ge=0)] = 0.0
    revoked: tuple[int, ...] = ()


class InstanceEvidence(SmoothingEvidence):
    """Votes under the level `sigma` that was chosen for this input, by a `search` or by a `selector`.

    Where the selector proved nothing, the classifier was not asked: there are no looks and no counts then. `memory` is there once a
    ledger was asked: the row then claims what that says, not what follows from the votes.
    """

    search: SearchEvidence | None
    selector: SelectorEvidence | None
    memory: MemoryEvidence | None = None

    @property
    def copies(self) -> int:
        """Noisy copies that were evaluated, those of the choice included."""
        return self.n0 + self.n + sum(one.copies for one in (self.search, self.selector) if one)


class PredictionEvidence(Frozen):
    """Votes behind a smoothed prediction; `p_value` is that of the two most frequent classes being equally likely.

    The copies were made at the tensor `split`, in whose units `sigma` is; at the input where it is null. The network ran in `precision`.
    """

    noise: Literal["gaussian", "discrete-gaussian", "uniform"] = "gaussian"
    split: str | None = None
    sigma: float
    n: int
    counts: tuple[int, ...]
    p_value: Share
    precision: Precision = "float32"

    @property
    def copies(self) -> int:
        """Noisy copies that were evaluated."""
        return self.n


class DualPredictionEvidence(PredictionEvidence):
    """Votes at the level `sigma` that a smoothed selector gave; those of the selector, by level, with their p-value. No level, no votes."""

    sigmas: tuple[float, ...]
    selector_sigma: float
    selector_counts: tuple[int, ...]
    selector_p_value: Share

    @property
    def copies(self) -> int:
        """Noisy copies that were evaluated, those of the selector included."""
        return self.n + sum(self.selector_counts)


class MemoryPredictionEvidence(PredictionEvidence):
    """Votes at the level `sigma` that a `search` found for this input; `memory` once a ledger was asked, whose region may have answered."""

    search: SearchEvidence
    memory: MemoryEvidence | None = None

    @property
    def copies(self) -> int:
        """Noisy copies that were evaluated, those of the search included."""
        return self.n + self.search.copies


class SplittingEvidence(Frozen):
    """All votes there are: of the copies at each of the `levels` offsets, by class. The radius follows from `counts` alone.

    `template` is the SHA-256 of the classifier's template, one little-endian int32 for each element of an input, in its order; the seed
    gives it again.
    """

    sigma: float
    levels: int
    counts: tuple[int, ...]
    template: Sha256
    precision: Precision = "float32"

    @property
    def copies(self) -> int:
        """Copies that were evaluated."""
        return self.levels


class BoundsEvidence(Frozen):
    """The lower bound of the smallest margin over all rivals at the stored radius; it holds in real arithmetic up to `tau`.

    `margin_lower` is null when no radius was proved. `at_cap` marks a radius that stopped at the search cap: the truth is >= it.
    `clipped` says that the ball was intersected with the model's declared `value_range`, null in rows of version 1.
    `tau` bounds what rounding can have done to this margin,
    `float32_error` what it can do to the network in float32 anywhere in the ball; null where nothing is known. A radius is proved only
    where the margin exceeds `tau`, and the statement is `float32-runtime` where it exceeds their sum. A refuted claim keeps its
    `counterexample`, base64 of little-endian float32 in the order of the input, and its distance, rounded up.
    """

    method: str
    margin_lower: float | None
    tau: float | None
    dtype: Literal["float32", "float64"]
    at_cap: bool = False
    clipped: bool = False
    value_range: tuple[float, float] | None = None
    float32_error: float | None = None
    counterexample: str | None = None
    distance_upper: float | None = None
    copies: ClassVar[int] = 0


class LipschitzEvidence(Frozen):
    """The margin over the rival that decided, lowered by its rounding error `tau`, and the constant by which the radius divides it.

    `lipschitz_upper` bounds how far the difference of these two logits can move for each unit of l2 distance of the input, and
    `encoder_upper` the same of what the last operator reads; null when unknown. No radius is proved where the margin is not above zero.
    """

    margin_lower: float
    rival: int
    lipschitz_upper: float
    encoder_upper: float | None
    tau: float
    dtype: Literal["float64"] = "float64"
    copies: ClassVar[int] = 0


Voted = (
    LatentEvidence
    | InstanceEvidence
    | CorrectedEvidence
    | SmoothingEvidence
    | DualPredictionEvidence
    | MemoryPredictionEvidence
    | PredictionEvidence
    | SplittingEvidence
)
Evidence = Voted | BoundsEvidence | LipschitzEvidence


class Versions(Frozen):
    """What computed it."""

    assay: str
    torch: str
    numpy: str
    engine: str | None = None


class Runtime(Frozen):
    """What onnxruntime, started with its default options, was asked about the input of this row: it answers as was certified.

    Each of `batches` is the number of rows in one of its calls, which held the input and, where votes of noisy copies count, `copies`
    of it that no certificate used. Where it was not compared there are none, and `reason` says why. `differs` says how its optimiser
    departs from the file on other inputs of the dataset's range.
    """

    version: str
    batches: tuple[int, ...] = ()
    copies: int = 0
    reason: str = ""
    differs: str = ""


class Provenance(Frozen):
    """Everything needed to repeat the computation.

    `noise_key` is `public-seed` (the stream key follows from `seed`), or `service:` and the SHA-256 commitment of a key that the
    service drew after the upload and reveals in the report; null for deterministic certifiers. `attempt` is which throw of this
    certifier it is on this model and dataset, in this tenant of the service; a run without service counts nothing and says 1.
    `runtime` is null in rows that no worker compared.
    """

    model: Sha256
    dataset: Sha256
    spec: Sha256
    noise_key: str | None
    seed: int
    attempt: int = 1
    device: str
    dtype: str
    batch_size: int | None
    versions: Versions
    runtime: Runtime | None = None


class Claim(Protocol):
    """The part of a certificate that is claimed."""

    @property
    def verdict(self) -> Verdict: ...
    @property
    def correct(self) -> bool: ...
    @property
    def radius(self) -> float: ...


def holds_at(claim: Claim, radius: float) -> bool:
    """True exactly when the claim is a proved correct answer at `radius`."""
    return claim.verdict is Verdict.CERTIFIED and claim.correct and claim.radius >= radius


class Certificate(Frozen):
    """One row per (job, certifier, example). `radius` is in raw-input units, rounded down, 0.0 when nothing is certified.

    `example` is the row in its dataset; `example_digest` the SHA-256 of the input itself, little-endian float32 in its order, by which an
    input is found again in another dataset. It is null in rows that were not made by the verb.

    Smoothing balls are open, those of `bounds`, `lipschitz` and `dssn` closed. `epsilon_verified` is null outside epsilon mode, `alpha`
    null when deterministic, `prediction` null when abstained.
    """

    example: int
    certifier: int
    kind: str
    statement: Statement
    label: int
    prediction: int | None
    correct: bool
    verdict: Verdict
    reason: str
    norm: Norm
    radius: Annotated[float, Field(ge=0)]
    epsilon_verified: bool | None
    alpha: float | None
    evidence: Evidence | None
    provenance: Provenance
    seconds: float
    example_digest: Sha256 | None = None

    @model_validator(mode="before")
    @classmethod
    def _with_all_conditions(cls, data: Any) -> Any:
        return completed(data) if isinstance(data, dict) else data

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if isinstance(self.evidence, BoundsEvidence) and self.evidence.clipped != self.statement.clipped:
            raise ValueError("statement must say whether the ball is clipped, as its evidence does")
        if self.radius > 0 and (self.verdict is not Verdict.CERTIFIED or self.evidence is None):
            raise ValueError("a radius needs the verdict certified and evidence")
        if self.correct != (self.prediction == self.label):
            raise ValueError("correct must say whether the prediction is the label")
        return self

    def holds_at(self, radius: float) -> bool:
        """True exactly when the certificate proves a correct answer at `radius`."""
        return holds_at(self, radius)

    def line(self) -> str:
        """One line of JSON; floats in the shortest form that reads back the same."""
        return json.dumps(self.model_dump(mode="json"), separators=(",", ":"), allow_nan=False)
