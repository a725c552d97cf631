"""Small line charts as SVG, one below the other, with nothing but the standard library."""

from collections.abc import Mapping, Sequence
from html import escape

_WIDTH, _HEIGHT, _GAP, _LEFT, _TOP = 760, 90, 46, 76, 24
_COLOURS = ("#2563a8", "#b0531f")


def svg(title: str, seconds: Sequence[float], charts: Mapping[str, Mapping[str, Sequence[float]]]) -> str:
    """Return a picture: for each chart its lines by name, over the same time in minutes, from 0 up."""
    rows = []
    for place, (name, lines) in enumerate(charts.items()):
        top = _TOP + 24 + place * (_HEIGHT + _GAP)
        most = max(1e-9, *(max(values) for values in lines.values()))
        rows.append(f'<text x="{_LEFT}" y="{top - 6}" font-weight="bold">{escape(name)}</text>')
        for y, label in ((top, f"{most:,.4g}"), (top + _HEIGHT, "0")):
            rows.append(f'<line x1="{_LEFT}" x2="{_LEFT + _WIDTH}" y1="{y}" y2="{y}" stroke="#ccc"/>')
            rows.append(f'<text x="{_LEFT - 6}" y="{y + 4}" text-anchor="end">{label}</text>')
        for colour, (line, values) in zip(_COLOURS, lines.items(), strict=False):
            points = " ".join(
                f"{_LEFT + _WIDTH * second / seconds[-1]:.1f},{top + _HEIGHT * (1 - value / most):.1f}"
                for second, value in zip(seconds, values, strict=True)
            )
            rows.append(
                f'<polyline points="{points}" fill="none" stroke="{colour}"><title>{escape(line)}</title></polyline>'
            )
    bottom = _TOP + 24 + len(charts) * (_HEIGHT + _GAP)
    names = list(next(iter(charts.values())))
    legend = " ".join(
        f'<tspan fill="{colour}">{escape(name)}</tspan>' for colour, name in zip(_COLOURS, names, strict=False)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_LEFT + _WIDTH + 12} {bottom + 8}" '
        'font-family="sans-serif" font-size="12">\n'
        f'<rect width="100%" height="100%" fill="white"/>\n<text x="{_LEFT}" y="{_TOP - 8}">{escape(title)}: {legend}'
        f" · 0 to {seconds[-1] / 60:.1f} minutes</text>\n" + "\n".join(rows) + "\n</svg>\n"
    )
