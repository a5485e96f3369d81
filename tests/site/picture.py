"""Draw pipeline/question.svg from the table of tests/bench/results/question.md: python tests/site/picture.py."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
TABLE = ROOT / "tests/bench/results/question.md"
PICTURE = ROOT / "pipeline/question.svg"

# Row of the table -> two lines of text under its bars.
ARMS = {
    "no norm": ("no norm", ""),
    "BatchNorm, loop": ("BatchNorm called", "once per body (loop)"),
    "... one set of statistics per call, recalibrated": ("loop, repaired", "without retraining"),
    "BatchNorm, fold": ("BatchNorm over", "all bodies (fold)"),
    "BatchNorm, masked": ("BatchNorm over", "present bodies (masked)"),
}
SETS = ("UTD-MHAD", "NW-UCLA")
WIDTH, LEFT, TOP, HEIGHT, ARM, BAR = 860, 60, 74, 230, 158, 34
STYLE = """
text{font:13px system-ui,sans-serif;fill:#24292f}.muted{fill:#57606a}.big{font-size:16px;font-weight:600}
line{stroke:#d0d7de}.whisker{stroke:#24292f;stroke-width:1.5}.a{fill:#3b6fb6}.b{fill:#d98a1f}
@media(prefers-color-scheme:dark){text{fill:#e6edf3}.muted{fill:#9aa4ae}line{stroke:#3d444d}
.whisker{stroke:#e6edf3}.a{fill:#79a8e8}.b{fill:#e8ad5a}}
"""


class Figure(NamedTuple):
    """A test accuracy in %: mean and standard deviation over seeds."""

    mean: float
    std: float


def figures(text: str) -> dict[str, list[Figure]]:
    """Return the test accuracy of each arm per data set, as the page's first table has them."""
    found = {}
    for arm in ARMS:
        row = next(line for line in text.splitlines() if line.startswith(f"| {arm} |"))
        cells = [cell.strip().replace("*", "") for cell in row.strip("|").split("|")[1:]]
        numbers = [re.findall(r"[\d.]+", cell.split("/")[-1]) for cell in cells]
        found[arm] = [Figure(*map(float, pair)) for pair in numbers]
    return found


def picture(found: dict[str, list[Figure]]) -> str:
    """Return the SVG: one group of bars per arm, one colour per data set, whiskers of one standard deviation."""
    bottom = TOP + HEIGHT
    words = "; ".join(f"{arm}: " + ", ".join(f"{one.mean} %" for one in found[arm]) for arm in ARMS)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {bottom + 56}" role="img" aria-label="{words}">',
        f"<style>{STYLE}</style>",
        f'<text class="big" x="{LEFT}" y="22">Test accuracy of one network, by the way BatchNorm is called</text>',
    ]
    for number, name in enumerate(SETS):
        x = LEFT + 130 * number
        parts.append(f'<rect class="{"ab"[number]}" x="{x}" y="36" width="13" height="13" rx="2"/>')
        parts.append(f'<text x="{x + 20}" y="47">{name}</text>')
    parts.append(f'<text class="muted" x="{LEFT + 270}" y="47">mean ± standard deviation, five seeds</text>')
    for percent in range(0, 100, 25):
        y = bottom - HEIGHT * percent / 100
        parts.append(f'<line x1="{LEFT}" y1="{y:g}" x2="{WIDTH - 8}" y2="{y:g}"/>')
        parts.append(f'<text class="muted" x="{LEFT - 8}" y="{y + 4:g}" text-anchor="end">{percent} %</text>')
    for place, (arm, (first, second)) in enumerate(ARMS.items()):
        centre = LEFT + ARM * place + ARM / 2
        for number, one in enumerate(found[arm]):
            parts += bar(centre + (number - 0.5) * (BAR + 26), bottom, one, "ab"[number])
        parts.append(f'<text x="{centre:g}" y="{bottom + 20}" text-anchor="middle">{first}</text>')
        parts.append(f'<text x="{centre:g}" y="{bottom + 38}" text-anchor="middle">{second}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def bar(x: float, bottom: float, one: Figure, colour: str) -> list[str]:
    """Return one bar with its whisker, and its number above both."""
    height, reach = HEIGHT * one.mean / 100, HEIGHT * one.std / 100
    top = bottom - height
    return [
        f'<rect class="{colour}" x="{x - BAR / 2:g}" y="{top:.1f}" width="{BAR}" height="{height:.1f}" rx="2"/>',
        f'<line class="whisker" x1="{x:g}" y1="{top - reach:.1f}" x2="{x:g}" y2="{top + reach:.1f}"/>',
        f'<text x="{x:g}" y="{top - reach - 6:.1f}" text-anchor="middle">{one.mean:.1f}</text>',
    ]


if __name__ == "__main__":
    PICTURE.write_text(picture(figures(TABLE.read_text())))
