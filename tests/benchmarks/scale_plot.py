"""Lines on two logarithmic scales as SVG, with nothing but the standard library."""

from collections.abc import Mapping, Sequence
from html import escape
from math import ceil, floor, log10

_LEFT, _TOP, _DECADE_X, _DECADE_Y, _BELOW = 70, 50, 260, 90, 40
_NAME_WIDTH = 200
_COLOURS = ("#2563a8", "#b0531f", "#2a7f62")


def svg(title: str, lines: Mapping[str, Sequence[tuple[int, float]]], unit: str) -> str:
    """Return a picture.

    Args:
        title: above it.
        lines: by their names, each of points from left to right; all numbers are above 0.
        unit: of the numbers on the vertical scale.
    """
    points = [point for line in lines.values() for point in line]
    (left, right), (low, high) = (_decades([point[axis] for point in points]) for axis in (0, 1))
    width, height = _DECADE_X * (right - left), _DECADE_Y * (high - low)
    whole = 60 + max(_LEFT + width, _NAME_WIDTH * len(lines))

    def x(value: float) -> float:
        return _LEFT + _DECADE_X * (log10(value) - left)

    def y(value: float) -> float:
        return _TOP + _DECADE_Y * (high - log10(value))

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {whole} {_TOP + height + _BELOW}" '
        f'font-family="sans-serif" font-size="12" role="img" aria-label="{escape(title)}">',
        f'<rect width="100%" height="100%" fill="white"/><text x="{_LEFT}" y="20" font-weight="bold">'
        f"{escape(title)}</text>",
    ]
    for value in (10**power for power in range(left, right + 1)):
        parts.append(
            f'<line x1="{x(value)}" x2="{x(value)}" y1="{_TOP}" y2="{_TOP + height}" stroke="#ccc"/>'
            f'<text x="{x(value)}" y="{_TOP + height + 18}" text-anchor="middle">{value:,}</text>'
        )
    for value in (10.0**power for power in range(low, high + 1)):
        parts.append(
            f'<line x1="{_LEFT}" x2="{_LEFT + width}" y1="{y(value):.1f}" y2="{y(value):.1f}" stroke="#ccc"/>'
            f'<text x="{_LEFT - 6}" y="{y(value) + 4:.1f}" text-anchor="end">{value:,g} {escape(unit)}</text>'
        )
    for place, (name, line) in enumerate(lines.items()):
        colour = _COLOURS[place % len(_COLOURS)]
        path = " ".join(f"{x(across):.1f},{y(up):.1f}" for across, up in line)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [
            f'<circle cx="{x(across):.1f}" cy="{y(up):.1f}" r="4" fill="{colour}">'
            f"<title>{escape(name)}, {across:,}: {up:.3g} {escape(unit)}</title></circle>"
            for across, up in line
        ]
        parts.append(f'<text x="{_LEFT + place * _NAME_WIDTH}" y="38" fill="{colour}">{escape(name)}</text>')
    return "\n".join([*parts, "</svg>", ""])


def _decades(values: Sequence[float]) -> tuple[int, int]:
    """Return the powers of ten that some numbers lie between; there is at least one decade."""
    low = floor(log10(min(values)))
    return low, max(low + 1, ceil(log10(max(values))))
