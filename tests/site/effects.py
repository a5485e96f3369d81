"""Draw pipeline/norms/effects.svg from the effects in tests/bench/results/norms.md: python tests/site/effects.py."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
TABLE = ROOT / "tests/bench/results/norms.md"
PICTURE = ROOT / "pipeline/norms/effects.svg"
HEAD = "## Effect of each arm on each data set"

LEFT, TOP, CELL, ROW, REACH = 158, 92, 80, 27, 32.0  # REACH: points from the middle of a cell to its edge
STYLE = """
text{font:12px system-ui,sans-serif;fill:#24292f}.muted{fill:#57606a}.big{font-size:16px;font-weight:600}
line{stroke-width:1.6}.axis{stroke:#d0d7de;stroke-width:1}.up{stroke:#1a7f37;fill:#1a7f37}
.down{stroke:#cf222e;fill:#cf222e}.even{stroke:#6e7781;fill:#6e7781}
@media(prefers-color-scheme:dark){text{fill:#e6edf3}.muted{fill:#9aa4ae}.axis{stroke:#3d444d}
.up{stroke:#56d364;fill:#56d364}.down{stroke:#ff7b72;fill:#ff7b72}.even{stroke:#9aa4ae;fill:#9aa4ae}}
"""


class Effect(NamedTuple):
    """A difference in test accuracy to no norm, in points, with its 95 % interval."""

    mean: float
    low: float
    high: float


def effects(text: str) -> tuple[list[str], dict[str, dict[str, Effect]]]:
    """Return the arms, and the effects by data set and arm, of the page's table."""
    lines = text[text.index(HEAD) :].splitlines()
    rows = [line for line in lines if line.startswith("|")]
    end = next((place for place, line in enumerate(rows) if place > 1 and line.startswith("| data set")), len(rows))
    cells = [[cell.strip().replace("*", "") for cell in line.strip("|").split("|")] for line in rows[:end]]
    arms = cells[0][1:]
    found: dict[str, dict[str, Effect]] = {}
    for name, *values in cells[2:]:
        numbers = [re.findall(r"[+-][\d.]+", value) for value in values]
        found[name] = {arm: Effect(*map(float, three)) for arm, three in zip(arms, numbers, strict=True) if three}
    return arms, found


def picture(arms: list[str], found: dict[str, dict[str, Effect]]) -> str:
    """Return the SVG: a row per data set, a column per arm with its own axis around zero."""
    width, height = LEFT + CELL * len(arms) + 10, TOP + ROW * len(found) + 10
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        'aria-label="Difference in test accuracy to no norm, by arm and data set">',
        f"<style>{STYLE}</style>",
        '<text class="big" x="8" y="22">Test accuracy against the same network without a norm, in points</text>',
        f'<text class="muted" x="8" y="42">95 % interval over five seeds; a cell reaches from -{REACH:.0f} to '
        f"+{REACH:.0f}; green: the interval is above zero, red: below</text>",
    ]
    for place, arm in enumerate(arms):
        x = LEFT + CELL * (place + 0.5)
        parts.append(f'<text x="{x:g}" y="{TOP - 14}" text-anchor="middle">{arm}</text>')
        parts.append(f'<line class="axis" x1="{x:g}" y1="{TOP - 4}" x2="{x:g}" y2="{TOP + ROW * len(found)}"/>')
    for row, (name, by_arm) in enumerate(found.items()):
        y = TOP + ROW * (row + 0.5)
        parts.append(f'<text x="{LEFT - 10}" y="{y + 4:g}" text-anchor="end">{name}</text>')
        for place, arm in enumerate(arms):
            if arm in by_arm:
                parts += cell(LEFT + CELL * (place + 0.5), y, by_arm[arm])
    return "\n".join([*parts, "</svg>"]) + "\n"


def cell(x: float, y: float, one: Effect) -> list[str]:
    """Return the interval and the mean of one cell; what lies beyond its edge ends there, without a dot."""
    half = CELL / 2 - 5

    def at(value: float) -> float:
        return x + half * max(-1.0, min(1.0, value / REACH))

    kind = "up" if one.low > 0 else "down" if one.high < 0 else "even"
    ends = f'x1="{at(one.low):.1f}" y1="{y:g}" x2="{at(one.high):.1f}" y2="{y:g}"'
    tip = f"<title>{one.mean:+.1f} ({one.low:+.1f} .. {one.high:+.1f})</title>"
    if abs(one.mean) > REACH:
        edge, sign = at(one.mean), 1 if one.mean > 0 else -1
        arrow = f"M{edge:.1f} {y:g}l{-7 * sign} -5v10z"
        return [f'<line class="{kind}" {ends}/>', f'<path class="{kind}" d="{arrow}">{tip}</path>']
    dot = f'<circle class="{kind}" cx="{at(one.mean):.1f}" cy="{y:g}" r="4">{tip}</circle>'
    return [f'<line class="{kind}" {ends}/>', dot]


if __name__ == "__main__":
    PICTURE.write_text(picture(*effects(TABLE.read_text())))
