"""Small charts as inline SVG, coloured by the page's style sheet: a dot with its interval, and lines over time with bands.

Every number and text that comes in is escaped or formatted here, so the result may stand in a page as it is. This file draws; it computes
no distance and knows no result.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup, escape

__all__ = ["Line", "line_chart", "number", "ticks", "whisker"]

WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 560, 230, 58, 38, 10, 12
WHISKER_WIDTH, WHISKER_HEIGHT = 220, 22
Point = tuple[float, float]


@dataclass(frozen=True)
class Line:
    """One curve. name: for the pointer's tip.   style: classes.   x, y: of equal length, None = a gap.   low, high: a band, if any."""

    name: str
    style: str
    x: Sequence[Any]
    y: Sequence[Any]
    low: Sequence[Any] = ()
    high: Sequence[Any] = ()


def number(value: Any) -> float | None:
    """A finite number, else None."""
    good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if good else None


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) within low..high, about ``most`` of them."""
    if not (math.isfinite(low) and math.isfinite(high) and high > low):
        return [low] if math.isfinite(low) else []
    rough = (high - low) / most
    power = 10 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [place * step for place in range(first, math.floor(high / step + 1e-9) + 1)]


def whisker(point: Mapping[str, Any], marks: Iterable[tuple[str, Any]], low: float, high: float, style: str) -> Markup:
    """A value with its interval on a scale from ``low`` to ``high``, and named marks (floor, ceiling ...) as upright lines."""
    scale = _Scale(low, high, 6, WHISKER_WIDTH - 6)
    middle = WHISKER_HEIGHT / 2
    parts = [Markup('<line class="axis" x1="6" x2="{}" y1="{}" y2="{}"/>').format(WHISKER_WIDTH - 6, middle, middle)]
    if low < 0 < high:
        parts.append(Markup('<line class="zero" x1="{0}" x2="{0}" y1="3" y2="{1}"/>').format(scale(0), WHISKER_HEIGHT - 3))
    for name, value in marks:
        place = number(value)
        if place is not None:
            shape = Markup('<line class="mark mark-{}" x1="{}" x2="{}" y1="2" y2="{}"><title>{} {}</title></line>')
            parts.append(shape.format(name.split()[0], scale(place), scale(place), WHISKER_HEIGHT - 2, name, f"{place:.4g}"))
    value, least, greatest = (number(point.get(key)) for key in ("value", "low", "high"))
    if least is not None and greatest is not None:
        parts.append(Markup('<line class="reach" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(scale(least), scale(greatest), middle, middle))
    if value is not None:
        parts.append(Markup('<circle class="dot" cx="{}" cy="{}" r="4.5"/>').format(scale(value), middle))
    frame = Markup('<svg class="whisker {}" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>')
    label = "no value" if value is None else f"{value:.4g}"
    return frame.format(style, WHISKER_WIDTH, WHISKER_HEIGHT, label, Markup("").join(parts))


def line_chart(lines: Sequence[Line], x_name: str, y_name: str, level: Mapping[str, Any] | None = None) -> Markup | None:
    """Curves over a common x, with a grey band ``level`` {"low", "mean", "high"} across; None where no line holds a number."""
    level = level or {}
    xs = [value for line in lines for value in map(number, line.x) if value is not None]
    ys = [value for line in lines for value in map(number, [*line.y, *line.low, *line.high]) if value is not None]
    ys += [value for value in (number(level.get(key)) for key in ("low", "mean", "high")) if value is not None]
    if not xs or not ys:
        return None
    across, up = _Scale(min(0.0, *xs), max(xs), LEFT, WIDTH - RIGHT), _Scale(*_room(min(ys), max(ys)), HEIGHT - BOTTOM, TOP)
    parts = [*_grid(across, up), *_level(level, up), *(part for line in lines for part in _curve(line, across, up))]
    frame = Markup('<figure class="chart"><figcaption>{}</figcaption><svg viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg></figure>')
    axis = Markup('<text class="axis-name" x="{}" y="{}">{}</text>').format(WIDTH - RIGHT, HEIGHT - 5, x_name)
    return frame.format(y_name, WIDTH, HEIGHT, f"{y_name} over {x_name}", Markup("").join([*parts, axis]))


@dataclass(frozen=True)
class _Scale:
    """Values low..high -> pixels start..end."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low) if self.high > self.low else 0.5
        return round(self.start + min(1.0, max(0.0, share)) * (self.end - self.start), 2)


def _room(low: float, high: float) -> tuple[float, float]:
    """A little more than low..high, down to 0 where that is near."""
    room = 0.06 * (high - low) or 0.1 * abs(high) or 1.0
    return (0.0 if 0 <= low < 0.5 * high else low - room), high + room


def _grid(across: _Scale, up: _Scale) -> list[Markup]:
    lines = Markup('<line class="grid" x1="{}" x2="{}" y1="{}" y2="{}"/><text class="tick tick-y" x="{}" y="{}">{}</text>')
    words = Markup('<text class="tick tick-x" x="{}" y="{}">{}</text>')
    rows = [lines.format(LEFT, WIDTH - RIGHT, up(at), up(at), LEFT - 6, up(at) + 4, _short(at)) for at in ticks(up.low, up.high, 4)]
    return rows + [words.format(across(at), HEIGHT - BOTTOM + 14, _short(at)) for at in ticks(across.low, across.high, 6)]


def _level(level: Mapping[str, Any], up: _Scale) -> list[Markup]:
    low, mean, high = (number(level.get(key)) for key in ("low", "mean", "high"))
    parts = []
    if low is not None and high is not None:
        shape = Markup('<rect class="level" x="{}" width="{}" y="{}" height="{}"/>')
        parts.append(shape.format(LEFT, WIDTH - RIGHT - LEFT, up(high), max(0.5, up(low) - up(high))))
    if mean is not None:
        parts.append(Markup('<line class="level-mean" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(LEFT, WIDTH - RIGHT, up(mean), up(mean)))
    return parts


def _curve(line: Line, across: _Scale, up: _Scale) -> list[Markup]:
    parts = []
    low, high = _points(line.x, line.low, across, up), _points(line.x, line.high, across, up)
    if len(low) > 1 and len(low) == len(high):
        parts.append(Markup('<path class="band {}" d="{}Z"/>').format(line.style, _path([*low, *reversed(high)])))
    points = _points(line.x, line.y, across, up)
    if len(points) > 1:
        parts.append(Markup('<path class="curve {}" d="{}"/>').format(line.style, _path(points)))
    dot = Markup('<circle class="dot {}" cx="{}" cy="{}" r="{}"><title>{}</title></circle>')
    told = [pair for pair in zip(line.x, line.y, strict=False) if None not in map(number, pair)]
    size = 3 if len(points) <= 60 else 1.5
    parts += [dot.format(line.style, *at, size, f"{line.name}: {y:.4g} at {x:g}") for at, (x, y) in zip(points, told, strict=True)]
    return parts


def _points(x: Sequence[Any], y: Sequence[Any], across: _Scale, up: _Scale) -> list[Point]:
    pairs = [(number(one), number(other)) for one, other in zip(x, y, strict=False)]
    return [(across(one), up(other)) for one, other in pairs if one is not None and other is not None]


def _path(points: Sequence[Point]) -> str:
    return "M" + "L".join(f"{x:g} {y:g}" for x, y in points)


def _short(value: float) -> Markup:
    return escape(f"{0.0 if abs(value) < 1e-12 else value:.4g}")
