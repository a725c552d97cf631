"""The goals as one picture: how many times the goal each figure is, on a scale on which twice and half are as far."""

import math
from collections.abc import Sequence
from html import escape

from tests.benchmarks.speed.report import Line

_LEFT, _WIDTH, _ROW, _TOP = 400, 420, 22, 46
_SPAN = 3.0  # doublings shown on either side of the goal
_COLOURS = {"yes": "#2a7f62", "no": "#c0563b", "undecided": "#b8892b"}


def svg(lines: Sequence[Line], title: str) -> str:
    """Return an SVG; right of the middle is where the goal is reached; the thin line is the spread of the rounds."""
    shown = [line for line in lines if line.values]
    height = _TOP + _ROW * len(shown) + 34
    middle = _x(0.0)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_LEFT + _WIDTH + 90} {height}" '
        f'font-family="sans-serif" font-size="12" role="img" aria-label="{escape(title)}">',
        f'<rect width="100%" height="100%" fill="#ffffff"/><text x="10" y="20" font-size="14">{escape(title)}</text>',
    ]
    for doubling in range(-int(_SPAN), int(_SPAN) + 1):
        x = _x(doubling)
        label = "goal" if doubling == 0 else f"{2.0**doubling:g}×"
        weight = 2 if doubling == 0 else 1
        parts.append(
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP - 8}" y2="{height - 30}" stroke="#bbbbbb" '
            f'stroke-width="{weight}"/><text x="{x:.1f}" y="{height - 14}" text-anchor="middle">{label}</text>'
        )
    for place, line in enumerate(shown):
        y = _TOP + _ROW * place
        ends = sorted(_x(_doublings(line, value)) for value in (min(line.values), max(line.values)))
        x = _x(_doublings(line, line.median))
        cells = line.cells()
        parts.append(
            f'<text x="{_LEFT - 8}" y="{y + 12}" text-anchor="end">{escape(f"{cells[0]}: {cells[1]}")}</text>'
            f'<rect x="{min(x, middle):.1f}" y="{y + 2}" width="{max(1.0, abs(x - middle)):.1f}" height="12" '
            f'fill="{_COLOURS[line.verdict]}"/>'
            f'<line x1="{ends[0]:.1f}" x2="{ends[1]:.1f}" y1="{y + 8}" y2="{y + 8}" stroke="#222222"/>'
            f'<text x="{_LEFT + _WIDTH + 8}" y="{y + 12}">{cells[3]} ({escape(cells[2])})</text>'
        )
    return "\n".join([*parts, "</svg>", ""])


def _doublings(line: Line, value: float) -> float:
    """Return how many doublings better than the goal a value is; one that is worse is below zero."""
    if value <= 0:
        return _SPAN if line.goal.at_most else -_SPAN
    better = line.goal.bound / value if line.goal.at_most else value / line.goal.bound
    return math.log2(better)


def _x(doublings: float) -> float:
    return _LEFT + _WIDTH * (min(_SPAN, max(-_SPAN, doublings)) + _SPAN) / (2 * _SPAN)
