"""Where the file keeps the batch: the axes of one data tensor as ONNX counts them, and the axis that carries the batch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Layout:
    """A data tensor at batch size one.

    At run time every tensor is (batch, *shape), with the batch in front wherever the file has it. Files move the batch about
    (attention transposes it) and merge it with other axes (heads, windows), so that each operator asks here which axis is which;
    one that would work along the batch is refused.

    Args:
        sizes: of all axes, the batch counted as one.
        batch: the axis that carries the batch; null in a file for a batch of one that has reshaped it away.
        outer: how many values of that axis lie before the batch; 1 unless axes were merged.
    """

    sizes: Shape
    batch: int | None = 0
    outer: int = 1

    @classmethod
    def of_example(cls, shape: Shape) -> Layout:
        """Batch first, as almost every tensor has it."""
        return cls((1, *shape))

    @property
    def merged(self) -> bool:
        """Whether the batch shares its axis with values of the example."""
        return self.batch is not None and self.sizes[self.batch] != 1

    @property
    def shape(self) -> Shape:
        """Sizes of one example: without the batch axis, or with what else is on it."""
        if self.batch is None or self.merged:
            return self.sizes
        return self.sizes[: self.batch] + self.sizes[self.batch + 1 :]

    @property
    def rank(self) -> int:
        return len(self.sizes)

    @property
    def plain(self) -> bool:
        """Batch first and alone on its axis."""
        return self.batch == 0 and not self.merged

    def normal(self, axis: int) -> int | None:
        """An ONNX axis counted from the front; null when there is none."""
        return axis % self.rank if -self.rank <= axis < self.rank else None

    def position(self, axis: int) -> int:
        """Index into `shape` of an ONNX axis (counted from the front) that is not the batch."""
        return axis if self.batch is None or self.merged or axis < self.batch else axis - 1

    @property
    def own(self) -> list[int]:
        """The ONNX axes that are axes of an example."""
        return [axis for axis in range(self.rank) if self.merged or axis != self.batch]

    def resized(self, sizes: Iterable[int]) -> Layout:
        """The same axes with other sizes."""
        return replace(self, sizes=tuple(sizes))

    def padded(self, rank: int) -> Layout:
        """With axes of length 1 in front, as broadcasting adds them."""
        extra = max(0, rank - self.rank)
        return Layout((1,) * extra + self.sizes, None if self.batch is None else self.batch + extra, self.outer)

    def permuted(self, order: Sequence[int]) -> Layout:
        batch = None if self.batch is None else list(order).index(self.batch)
        return Layout(tuple(self.sizes[axis] for axis in order), batch, self.outer).adopted()

    def without(self, axes: Iterable[int]) -> Layout:
        """Without some axes, none of them the batch."""
        gone = set(axes)
        sizes = tuple(size for axis, size in enumerate(self.sizes) if axis not in gone)
        batch = None if self.batch is None else self.batch - sum(axis < self.batch for axis in gone)
        return Layout(sizes, batch, self.outer)

    def inserted(self, axes: Iterable[int]) -> Layout:
        """With axes of length 1 at these places of the result."""
        new = set(axes)
        rest = iter(range(self.rank))
        sources = [None if axis in new else next(rest) for axis in range(self.rank + len(new))]
        sizes = tuple(1 if source is None else self.sizes[source] for source in sources)
        return Layout(sizes, None if self.batch is None else sources.index(self.batch), self.outer).adopted()

    def adopted(self) -> Layout:
        """Where the batch was reshaped away, a first axis of length 1 is as good a batch of one as any."""
        return Layout(self.sizes, 0) if self.batch is None and self.sizes[:1] == (1,) else self

    def reshaped(self, target: Shape, doubled: Shape | None = None) -> Layout | None:
        """The layout after a reshape to `target`; null when the batch would end up inside other axes.

        Args:
            target: sizes at batch size one.
            doubled: sizes at batch size two, which say where the batch goes; null when the file works for a batch of one only.
        """
        if doubled is None or self.batch is None:
            return Layout(target, None).adopted()
        before = math.prod(self.sizes[: self.batch]) * self.outer
        places = [axis for axis, (one, two) in enumerate(zip(target, doubled, strict=True)) if one != two]
        if len(places) != 1 or doubled[places[0]] != 2 * target[places[0]]:
            return None
        outer, rest = divmod(before, math.prod(target[: places[0]]))
        return None if rest or not outer or target[places[0]] % outer else Layout(target, places[0], outer)
