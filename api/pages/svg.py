"""Certified-accuracy curves as SVG, made here: no script, no network, prints as it looks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

from certify.report import AttackPoint, CurvePoint
from certify.rounding import show_given, show_radius, show_share, show_share_upper

WIDTH, HEIGHT = 680, 340
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 16, 16, 46
COLOURS = ("#0b6e99", "#c2410c", "#4d7c0f", "#7e22ce", "#b91c1c", "#0f766e")


@dataclass(frozen=True)
class Series:
    """One certifier's curve; the label names its statement. `decided`: only these radii were asked, nothing is known between them.

    `beyond` is what holds from the last point on: there the bands go on, and the curve is zero.
    """

    label: str
    points: Sequence[CurvePoint]
    decided: bool = False
    beyond: CurvePoint | None = None


@dataclass(frozen=True)
class Attacked:
    """What an attack left, up to `max_radius`: drawn dashed and without a band, for it is no certificate."""

    points: Sequence[AttackPoint]
    max_radius: float


def chart(series: Sequence[Series], norm: str, attacks: Sequence[Attacked] = ()) -> str:
    """Certified accuracy over the radius as step curves, all in one norm, with two 95 % bands each: pointwise, and simultaneous around it.

    Attacks come in the colours that follow.
    """
    reach = max([p.radius for one in series for p in one.points] + [p.radius for one in attacks for p in one.points], default=0.0)
    if not reach and attacks:
        reach = max(one.max_radius for one in attacks)
    scale = _Scale(_round_up(reach or 1.0))
    body = [_grid(scale, norm)]
    for index, one in enumerate(series):
        colour = COLOURS[index % len(COLOURS)]
        body += (
            [_dots(scale, one.points, colour)]
            if one.decided
            else [_bands(scale, _to_the_edge(scale, one), colour), _steps(scale, one.points, colour)]
        )
    for index, attack in enumerate(attacks, start=len(series)):
        body.append(_falls(scale, attack, COLOURS[index % len(COLOURS)]))
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="certified accuracy over {escape(norm)} radius"'
        f' xmlns="http://www.w3.org/2000/svg">{"".join(body)}</svg>'
    )


@dataclass(frozen=True)
class _Scale:
    """From radius and share to the page."""

    reach: float

    def x(self, radius: float) -> float:
        share = min(radius / self.reach, 1.0)
        return round(_LEFT + (WIDTH - _LEFT - _RIGHT) * share, 2)

    def y(self, share: float) -> float:
        return round(_TOP + (HEIGHT - _TOP - _BOTTOM) * (1.0 - share), 2)


def _grid(scale: _Scale, norm: str) -> str:
    parts = []
    for i in range(6):
        share, y = i / 5, scale.y(i / 5)
        parts.append(f'<line x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y}" y2="{y}" class="grid"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 4}" text-anchor="end">{share * 100:.0f} %</text>')
    for i in range(6):
        tick = scale.reach * i / 5
        parts.append(f'<text x="{scale.x(tick)}" y="{HEIGHT - _BOTTOM + 18}" text-anchor="middle">{tick:.4g}</text>')
    parts.append(
        f'<text x="{(WIDTH + _LEFT) / 2}" y="{HEIGHT - 8}" text-anchor="middle" class="axis">{escape(norm)} radius, raw-input units</text>'
    )
    middle = (HEIGHT - _BOTTOM + _TOP) / 2
    parts.append(
        f'<text transform="rotate(-90 14 {middle})" x="14" y="{middle}" text-anchor="middle" class="axis">certified accuracy</text>'
    )
    return "".join(parts)


def _steps(scale: _Scale, points: Sequence[CurvePoint], colour: str) -> str:
    """Each value holds from the radius before up to and including its own; after the last one the curve is zero."""
    path = [f"M{scale.x(0)} {scale.y(points[0].certified_accuracy)}"]
    for point in points[1:]:
        path.append(f"V{scale.y(point.certified_accuracy)}H{scale.x(point.radius)}")
    path.append(f"V{scale.y(0)}")
    tips = "".join(
        f'<circle cx="{scale.x(p.radius)}" cy="{scale.y(p.certified_accuracy)}" r="5" fill="transparent">'
        f"<title>radius {show_radius(p.radius)}: {show_share(p.certified_accuracy)}</title></circle>"
        for p in points[1:]
    )
    return f'<path d="{"".join(path)}" fill="none" stroke="{colour}" stroke-width="2"/>{tips}'


def _falls(scale: _Scale, attack: Attacked, colour: str) -> str:
    """Each value holds from its own radius on, up to the next."""
    path = [f"M{scale.x(0)} {scale.y(attack.points[0].unbroken)}"]
    for point in attack.points[1:]:
        path.append(f"H{scale.x(point.radius)}V{scale.y(point.unbroken)}")
    path.append(f"H{scale.x(attack.max_radius)}")
    tips = "".join(
        f'<circle cx="{scale.x(p.radius)}" cy="{scale.y(p.unbroken)}" r="5" fill="transparent">'
        f"<title>no attack found up to {show_radius(p.radius)}: {show_share_upper(p.unbroken)}</title></circle>"
        for p in attack.points[1:]
    )
    return f'<path d="{"".join(path)}" fill="none" stroke="{colour}" stroke-width="2" stroke-dasharray="6 4"/>{tips}'


def _dots(scale: _Scale, points: Sequence[CurvePoint], colour: str) -> str:
    """A dot for each decided radius, with its pointwise interval as a bar and the simultaneous one as a thin line."""
    parts = []
    for point in points:
        x, low, high = scale.x(point.radius), scale.y(point.low), scale.y(point.high)
        if point.low_simultaneous is not None and point.high_simultaneous is not None:
            ends = f'y1="{scale.y(point.low_simultaneous)}" y2="{scale.y(point.high_simultaneous)}"'
            parts.append(f'<line x1="{x}" x2="{x}" {ends} stroke="{colour}" stroke-width="1" opacity="0.6"/>')
        parts.append(f'<line x1="{x}" x2="{x}" y1="{low}" y2="{high}" stroke="{colour}" stroke-width="5" opacity="0.25"/>')
        parts.append(f'<circle cx="{x}" cy="{scale.y(point.certified_accuracy)}" r="5" fill="{colour}">')
        parts.append(f"<title>radius {show_given(point.radius)}: {show_share(point.certified_accuracy)}</title></circle>")
    return "".join(parts)


def _to_the_edge(scale: _Scale, one: Series) -> list[CurvePoint]:
    if one.beyond is None:
        return list(one.points)
    return [*one.points, one.beyond.model_copy(update={"radius": scale.reach})]


def _bands(scale: _Scale, points: Sequence[CurvePoint], colour: str) -> str:
    pointwise = [(point.low, point.high) for point in points]
    around = [
        (point.low_simultaneous, point.high_simultaneous)
        for point in points
        if point.low_simultaneous is not None and point.high_simultaneous is not None
    ]
    inner = f'<path d="{_band(scale, points, pointwise)}" fill="{colour}" opacity="0.16"/>'
    if len(around) < len(points):  # a report of before there was one, or rows that depend on each other
        return inner
    outline = f'stroke="{colour}" stroke-width="0.75" stroke-opacity="0.6"'
    return f'<path d="{_band(scale, points, around)}" fill="{colour}" fill-opacity="0.07" {outline}/>{inner}'


def _band(scale: _Scale, points: Sequence[CurvePoint], ends: Sequence[tuple[float, float]]) -> str:
    """The path of a band; like the curve, its ends hold from the radius before up to and including their own."""
    if len(points) < 2:
        return ""
    upper, lower = [f"M{scale.x(0)} {scale.y(ends[1][1])}"], []
    for (before, point), (low, high) in zip(pairwise(points), ends[1:], strict=True):
        upper.append(f"V{scale.y(high)}H{scale.x(point.radius)}")
        lower.append(f"V{scale.y(low)}H{scale.x(before.radius)}")
    return f"{''.join(upper)}{''.join(reversed(lower))}Z"


def _round_up(reach: float) -> float:
    """The next number of the form 1, 2, 2.5, 5 times a power of ten."""
    power = 1.0
    while power > reach:
        power /= 10
    while power * 10 <= reach:
        power *= 10
    return next(power * step for step in (1.0, 2.0, 2.5, 5.0, 10.0) if power * step >= reach)
