"""What onnxruntime, started as users start it, answers at the inputs of a job: alone, in a worker's batch and in one of 256 rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from certify.errors import Cancelled
from certify.model import Model
from certify.sampling.copies import Copies
from certify.spec import CertifierSpec, CopiesSpec
from workers.agreement import LIVE_VALUES
from workers.runtime import Session, apart

CROWD = 256
_BASE = 64  # rows whose copies are made together
_KEPT = 1024  # answers to calls
# Floating-point operations of about half a second on one core, and what each call costs beside them.
_HALF_SECOND, _CALL = 3 * 2**33, 2**19
# The share of a job's own passes through the network that each call of many rows may cost, and the passes behind a bound.
_SHARE, _INTERVALS, _BOUNDS = 0.01, 16.0, 100.0
_POINTS = (4, 2)  # the input and its noisy copies; fewer where they are dear


@dataclass(frozen=True)
class Seen:
    """What one kind of call showed of one row.

    `answer` is given at the input, null where a logit is not finite. `apart` is by how much its logits are off, beyond rounding, and
    `copy` whether that was at a noisy copy. `turned` of the points get another answer than from our module.
    """

    rows: int
    ours: int
    answer: int | None
    apart: float | None
    copy: bool
    turned: int


@dataclass(frozen=True)
class Programme:
    """What is compared, from sizes alone, so that every worker of a job compares the same.

    Args:
        points: the input of a row and its noisy copies.
        alone: how many of them are asked about alone.
        calls: rows of the calls beside.
    """

    points: int
    alone: int
    calls: tuple[int, ...]

    @classmethod
    def of(cls, certifier: CertifierSpec, model: Model, rows: int, batch_size: int, *, noisy: bool) -> Programme:
        """For a job of so many rows whose certifier asks the network in batches of that size, about noisy copies or not."""
        flops, passes = max(1, model.graph.flops()), _passes(certifier)
        cheap = rows * 4 * _POINTS[0] * (flops + _CALL) <= _HALF_SECOND or 4 * _POINTS[0] <= 2 * _SHARE * passes
        points = 1 if not noisy else _POINTS[0] if cheap else _POINTS[1]
        held = LIVE_VALUES // model.graph.live_elements()
        calls = set()
        for size in {CROWD, batch_size} - {1}:
            call = min(size, held)
            # A call that the rows of the job do not fill is filled with repetitions, and may then be too dear.
            while call > 1 and not _affordable(call, rows * points, rows * _SHARE * passes, flops):
                call //= 2
            if call > 1:
                calls.add(call)
        return cls(points, points if cheap else 1, tuple(sorted(calls)))


def _affordable(call: int, points: int, allowed: float, flops: int) -> bool:
    spent = -(-points // call) * call
    return spent <= allowed or spent * flops <= _HALF_SECOND


def _passes(certifier: CertifierSpec) -> float:
    """Passes of one example through the network, about, and rather too few."""
    if not isinstance(certifier, CopiesSpec):
        return _INTERVALS if certifier.method == "ibp" else _BOUNDS
    first = getattr(certifier, "n0", 0) + next(iter(getattr(certifier, "looks", ())), 0)
    return max(float(first), 2 * certifier.work(1))


@dataclass
class Looks:
    """One network at the rows of a job. Calls are cut by the rows' places in the job, so that no shard plan changes what is seen.

    Args:
        model: our reading.
        session: onnxruntime on the same file.
        x: all inputs of the job, (rows, *input), float32.
        copies: null where no noise is used.
        programme: what is asked.
        device: where our module runs.
    """

    model: Model
    session: Session
    x: Tensor
    copies: Copies | None
    programme: Programme
    device: str
    refused: set[int] = field(default_factory=set)
    _bases: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    _seen: dict[tuple[int, int], list[Seen]] = field(default_factory=dict)

    def at(self, row: int, should_stop: Callable[[], bool]) -> list[Seen]:
        """What was seen of the row at that place of the job, one for each kind of call that the file takes.

        Args:
            row: its place.
            should_stop: polled between calls.

        Raises:
            CannotRun: onnxruntime fails on it.
            Cancelled: the run was asked to stop.
        """
        if should_stop():
            raise Cancelled
        found = [self._group(1, row // _BASE)[row % _BASE]]
        for call in self.programme.calls:
            if self.session.takes_one or call in self.refused:
                continue
            if should_stop():
                raise Cancelled
            each = max(1, call // self.programme.points)
            group = self._group(call, row // each)
            found += group[row % each : row % each + 1]
        return found

    @property
    def batches(self) -> tuple[int, ...]:
        """Rows of the calls that the file took, once `at` was asked."""
        crowds = () if self.session.takes_one else self.programme.calls
        return (1, *(call for call in crowds if call not in self.refused))

    @property
    def copied(self) -> int:
        """Noisy copies of each row that were in them."""
        return self.programme.points - 1 if self.copies is not None else 0

    def _group(self, call: int, number: int) -> list[Seen]:
        key = call, number
        if key not in self._seen:
            while len(self._seen) >= _KEPT:
                del self._seen[next(iter(self._seen))]
            self._seen[key] = self._look_alone(number) if call == 1 else self._look(call, number)
        return self._seen[key]

    def _look_alone(self, number: int) -> list[Seen]:
        points, ours = self._base(number)
        asked = self.programme.alone
        theirs = torch.stack([self.session.logits(one.unsqueeze(0)) for one in points[:, :asked].flatten(0, 1)])
        return self._judged(1, points[:, :asked], ours[:, :asked], theirs.reshape(len(points), asked, -1))

    def _look(self, call: int, number: int) -> list[Seen]:
        each = max(1, call // self.programme.points)
        points, ours = self._points(number * each, min((number + 1) * each, len(self.x)))
        flat = points.flatten(0, 1)[:call]
        filled = flat.repeat(-(-call // len(flat)), *(1 for _ in flat.shape[1:]))[:call]
        theirs = self.session.together(filled)
        if theirs is None:
            self.refused.add(call)
            return []
        kept = theirs[: len(flat)].reshape(len(points), -1, theirs.shape[-1])
        return self._judged(call, points[:, : kept.shape[1]], ours[:, : kept.shape[1]], kept)

    def _judged(
        self,
        rows: int,
        points: Tensor,  # (group, points, *input)
        ours: Tensor,  # (group, points, classes)
        theirs: Tensor,  # (group, points, classes)
    ) -> list[Seen]:
        a, b = ours.flatten(0, 1), theirs.flatten(0, 1)
        bad = apart(a, b, lambda: self._exactly(points.flatten(0, 1))).reshape(ours.shape[:2])
        known = ours.isfinite().all(dim=2)
        turned = (ours.argmax(dim=2) != theirs.argmax(dim=2)) & known
        off = (ours - theirs).abs().amax(dim=2)
        answers, mine, finite = theirs[:, 0].argmax(dim=1), ours[:, 0].argmax(dim=1), theirs[:, 0].isfinite().all(dim=1)
        found = []
        for row in range(len(points)):
            where = bad[row].nonzero().flatten().tolist()
            found.append(
                Seen(
                    rows=rows,
                    ours=int(mine[row]),
                    answer=int(answers[row]) if bool(finite[row]) or not bool(known[row, 0]) else None,
                    apart=float(off[row, where[0]]) if where else None,
                    copy=bool(where) and where[0] > 0,
                    turned=int(turned[row].sum()),
                )
            )
        return found

    def _points(self, first: int, last: int) -> tuple[Tensor, Tensor]:
        """The rows from first to last: (rows, points, *input), and our logits there, (rows, points, classes), both on the CPU."""
        bases = [self._base(number) for number in range(first // _BASE, -(-last // _BASE))]
        start = first - first // _BASE * _BASE
        points, ours = (torch.cat(part) if len(bases) > 1 else part[0] for part in zip(*bases, strict=True))
        return points[start : start + last - first], ours[start : start + last - first]

    def _base(self, number: int) -> tuple[Tensor, Tensor]:
        if number not in self._bases:
            while len(self._bases) * _BASE * self.programme.points * self.x[0].numel() > LIVE_VALUES // 4:
                del self._bases[next(iter(self._bases))]
            x = self.x[number * _BASE : (number + 1) * _BASE]
            points = x.unsqueeze(1)
            if self.copies is not None:
                points = torch.cat([points, self.copies.around(number, x, self.programme.points - 1)], dim=1)
            self._bases[number] = points, self._ours(points.flatten(0, 1), torch.float32).reshape(*points.shape[:2], -1)
        return self._bases[number]

    def _ours(self, x: Tensor, dtype: torch.dtype) -> Tensor:  # x: (points, *input); (points, classes)
        module = self.model.module(self.device, dtype)
        at_once = max(1, min(CROWD, LIVE_VALUES // 4 // self.model.graph.live_elements()))
        with torch.no_grad():
            return torch.cat([module(part.to(self.device, dtype)).cpu() for part in torch.split(x, at_once)])

    def _exactly(self, x: Tensor) -> Tensor:  # x: (points, *input); (points, classes), float64
        return self._ours(x, torch.float64)
