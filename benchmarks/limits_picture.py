"""The limits as bars on a scale of powers of ten: docs/scale.svg."""

import math
from collections.abc import Sequence

# Pixels: the names, the scale, a bar with its gap, what is above and below the bars, and beside all of it.
NAMES, WIDTH, ROW, TOP, BOTTOM, MARGIN = 290, 480, 30, 64, 44, 40
LOWEST, HIGHEST = 1, 6
"""Powers of ten at the ends of the scale."""
_TITLE = "Redirects per second up to which one is enough, calculated"
_NAMED = 'role="img" aria-labelledby="title desc"'
_STYLE = """
    .page { fill: #ffffff; }
    .size { fill: #54aeff; }
    .code { fill: #bf8700; }
    .line { stroke: #d0d7de; stroke-width: 1; }
    text { fill: #1f2328; font: 14px system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; }
    .end { text-anchor: end; }
    .mid { text-anchor: middle; }
    .title { font-weight: 600; }
    @media (prefers-color-scheme: dark) {
      .page { fill: #0d1117; }
      .size { fill: #1f6feb; }
      .code { fill: #9e6a03; }
      .line { stroke: #30363d; }
      text { fill: #e6edf3; }
    }
"""


def two_digits(number: float) -> str:
    """The first two digits: the assumptions bear no more."""
    least = 1 - math.floor(math.log10(number))
    return f"{round(number, least):,.{max(0, least)}f}"


def draw(limits: Sequence[tuple[str, float, bool]]) -> str:
    """An SVG of (name, redirects per second, whether the code sets it), from top to bottom."""
    height = TOP + ROW * len(limits) + BOTTOM
    width = NAMES + WIDTH + 2 * MARGIN
    bars = [line for row, limit in enumerate(limits) for line in _bar(row, *limit)]
    told = "; ".join(f"{name} {two_digits(rate)}" for name, rate, _ in limits)
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" {_NAMED}>',
            '  <title id="title">Which limit comes first</title>',
            f'  <desc id="desc">Redirects per second, calculated: {told}.</desc>',
            f"  <style>{_STYLE}  </style>",
            f'  <rect class="page" width="{width}" height="{height}"/>',
            f'  <text class="title" x="{MARGIN}" y="28">{_TITLE}</text>',
            *_legend(),
            *_scale(height),
            *bars,
            "</svg>\n",
        ]
    )


def _at(rate: float) -> float:
    """Pixels from the left edge."""
    share = (math.log10(rate) - LOWEST) / (HIGHEST - LOWEST)
    return MARGIN + NAMES + WIDTH * min(1.0, max(0.0, share))


def _bar(row: int, name: str, rate: float, in_code: bool) -> list[str]:
    top, start, end = TOP + ROW * row, _at(10**LOWEST), _at(rate)
    figure, colour = two_digits(rate), "code" if in_code else "size"
    # Beside the bar, or in it where there is no room.
    beside = end + 60 < MARGIN + NAMES + WIDTH
    place = f'x="{end + 6:.0f}"' if beside else f'class="end" x="{end - 6:.0f}"'
    return [
        f'  <text class="end" x="{start - 10:.0f}" y="{top + 17}">{name}</text>',
        f'  <rect class="{colour}" x="{start:.0f}" y="{top + 3}" width="{end - start:.0f}" height="{ROW - 10}"/>',
        f'  <text {place} y="{top + 18}">{figure}</text>',
    ]


def _legend() -> list[str]:
    return [
        f'  <rect class="code" x="{MARGIN}" y="42" width="14" height="12"/>',
        f'  <text x="{MARGIN + 20}" y="53">the code has one of it</text>',
        f'  <rect class="size" x="{MARGIN + 190}" y="42" width="14" height="12"/>',
        f'  <text x="{MARGIN + 210}" y="53">more or larger machines help</text>',
    ]


def _scale(height: int) -> list[str]:
    lines = []
    for power in range(LOWEST, HIGHEST + 1):
        at = _at(10**power)
        lines.append(f'  <line class="line" x1="{at:.0f}" x2="{at:.0f}" y1="{TOP}" y2="{height - BOTTOM + 4}"/>')
        lines.append(f'  <text class="mid" x="{at:.0f}" y="{height - 20}">{10**power:,}</text>')
    return lines
