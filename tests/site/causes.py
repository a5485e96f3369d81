"""Write the pictures and the table of causes in pipeline/normdoctor/README.md: python tests/site/causes.py.

A picture shows the values that reach a layer (grey) and the statistics that evaluation normalizes them by (red): where
the two agree, evaluation sees what training saw. Dashed: statistics of single batches, samples, calls or ranks.
"""

import math
import re
from pathlib import Path
from typing import NamedTuple

from pipeline.normdoctor.checks import CHECKS, REST
from pipeline.normdoctor.remedies import REMEDIES

FOLDER = Path(__file__).parents[2] / "pipeline/normdoctor"
DOCUMENT, PICTURES = FOLDER / "README.md", FOLDER / "pictures"
PLACE = re.compile(r"(<!-- causes: .*? -->\n).*?(<!-- end -->)", re.DOTALL)
WIDTH, HEIGHT, FLOOR = 180, 74, 64
LOW, HIGH = -5.0, 7.0  # values at the ends of the axis
SEEN, USED, PART = "#7d8894", "#c0392b", "#2471a3"  # readable on light and on dark paper


class Curve(NamedTuple):
    """A normal distribution: mean, deviation, and height as a share of the picture's."""

    mean: float
    deviation: float
    height: float = 1.0


class Cause(NamedTuple):
    """Content of a picture, its text alternative, and how to avoid the cause when training."""

    seen: tuple[Curve, ...]
    used: tuple[Curve, ...]
    parts: tuple[Curve, ...]
    alt: str
    avoid: str


N = Curve(1.0, 1.0)  # what a layer sees, in most pictures
START = Curve(0.0, 1.0)  # initial statistics: mean 0, variance 1
CAUSES: dict[str, Cause] = {
    "mode": Cause(
        (N,), (), (Curve(0.3, 0.8, 0.7), Curve(1.7, 1.1, 0.7), Curve(1.2, 0.7, 0.7)),
        "each batch normalizes by itself", "call `model.eval()` before, `model.train()` after an evaluation",
    ),
    "precision": Cause(
        (Curve(1.0, 0.12),), (Curve(1.0, 1.3, 0.6),), (),
        "eps makes a tiny variance large", "keep statistics in float32; use a smaller eps, the same everywhere",
    ),
    "buffers": Cause(
        (Curve(3.5, 0.8),), (START,), (),
        "initial statistics, values elsewhere", "load every buffer (`strict=True`); momentum 0 freezes statistics",
    ),
    "averaging": Cause(
        (N,), (Curve(2.6, 1.4, 0.8),), (),
        "statistics of the last network, values of the average", "average buffers too, or recompute them",
    ),
    "ranks": Cause(
        (N,), (Curve(-0.6, 0.8, 0.8),), (Curve(2.6, 0.8, 0.8),),
        "one rank's statistics of two", "normalize over all ranks (SyncBatchNorm), or merge before saving",
    ),
    "correlated": Cause(
        (Curve(1.0, 2.0),), (Curve(3.8, 0.6),), (Curve(-2.0, 0.6, 0.6), Curve(0.0, 0.6, 0.6), Curve(2.0, 0.6, 0.6)),
        "batches of one kind each; the last kind is remembered", "shuffle the training samples",
    ),
    "leakage": Cause(
        (Curve(1.0, 2.0),), (Curve(1.0, 2.0, 0.9),), (Curve(-1.0, 0.7, 0.7), Curve(3.0, 0.7, 0.7)),
        "batches that differ, and tell the network what they hold", "shuffle again each epoch, or use SyncBatchNorm",
    ),
    "updates": Cause(
        (N,), (Curve(2.2, 0.8, 0.9),), (Curve(2.4, 0.8, 0.6),),
        "statistics of too few of the latest batches", "update statistics once per optimizer step",
    ),
    "lone": Cause(
        (N,), (Curve(2.4, 0.4),), (Curve(3.2, 0.15, 0.6),),
        "statistics drawn to a batch of one sample", "set `drop_last=True` in the training loader",
    ),
    "dropout": Cause(
        (Curve(1.0, 0.8),), (Curve(1.0, 1.7, 0.7),), (),
        "a variance that only training has", "use dropout after the last batch norm only",
    ),
    "instance": Cause(
        (), (Curve(1.0, 2.2, 0.7),), (Curve(-1.5, 0.5, 0.9), Curve(1.0, 0.5, 0.9), Curve(3.5, 0.5, 0.9)),
        "each sample's own statistics in training, one for all in evaluation", "leave `track_running_stats` off",
    ),
    "stale": Cause(
        (Curve(3.0, 0.8),), (Curve(1.2, 1.2, 0.8),), (START._replace(height=0.7),),
        "statistics on their way from the initial ones", "raise momentum, or lower the learning rate at the end",
    ),
    "foreign": Cause(
        (N,), (Curve(-2.4, 0.7),), (),
        "statistics that belong elsewhere", "save, load and average weights together with their statistics",
    ),
    "reuse": Cause(
        (Curve(-2.0, 0.7), Curve(3.2, 0.8)), (Curve(0.6, 2.4, 0.6),), (),
        "two calls, one mixture", "give each call its own layer, or make one call",
    ),
    "padding": Cause(
        (Curve(3.0, 0.8),), (Curve(1.5, 1.6, 0.7),), (Curve(0.0, 0.12),),
        "padding at zero draws the statistics to it", "use a masked batch norm (`convert`, `counting`)",
    ),
    "small": Cause(
        (N,), (N._replace(height=0.9),), (Curve(-0.8, 0.4, 0.7), Curve(0.8, 1.3, 0.7), Curve(2.9, 0.5, 0.7)),
        "statistics of few samples are noise", "use larger batches, SyncBatchNorm, or GroupNorm",
    ),
    "decay": Cause(
        (N,), (Curve(1.0, 0.1),), (),
        "a scale that is decayed to zero", "exclude norms from weight decay",
    ),
    "inputs": Cause(
        (Curve(3.6, 1.1),), (Curve(-1.5, 0.6),), (),
        "raw inputs on another scale", "prepare evaluation inputs as training inputs",
    ),
    "random": Cause(
        (N,), (N._replace(height=0.9),), (Curve(0.4, 1.0, 0.8), Curve(1.6, 1.0, 0.8)),
        "two passes, two outputs", "let every random part follow `model.training`",
    ),
    "shift": Cause(
        (Curve(2.6, 0.9),), (Curve(0.4, 1.0, 0.9),), (),
        "evaluation samples lie elsewhere", "normalize inputs per view, subject or device",
    ),
    "overfit": Cause(
        (N,), (N._replace(height=0.9),), (),
        "statistics agree: the loss is generalization's", "more data, augmentation, regularization",
    ),
}  # fmt: skip


def path_of(curve: Curve) -> str:
    """Return a curve as a path of SVG."""
    points = []
    for step in range(61):
        value = LOW + (HIGH - LOW) * step / 60
        height = curve.height * math.exp(-0.5 * ((value - curve.mean) / curve.deviation) ** 2)
        points.append(f"{WIDTH * step / 60:.0f} {FLOOR - 56 * height:.1f}")
    return f"M{'L'.join(points)}"


def picture(name: str) -> str:
    """Return the picture of a cause as SVG."""
    cause = CAUSES[name]
    lines = [f'<path d="{path_of(c)}V{FLOOR}H0Z" fill="{SEEN}" fill-opacity=".45"/>' for c in cause.seen]
    dashes = 'fill="none" stroke-width="1.5" stroke-dasharray="4 3"'
    lines += [f'<path d="{path_of(c)}" stroke="{PART}" {dashes}/>' for c in cause.parts]
    lines += [f'<path d="{path_of(c)}" fill="none" stroke="{USED}" stroke-width="2.5"/>' for c in cause.used]
    axis = f'<path d="M0 {FLOOR + 0.5}H{WIDTH}" stroke="{SEEN}"/>'
    size = f'width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}"'
    title = f"<title>{name}: {cause.alt}</title>"
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">{title}'
    return "\n".join([head, *lines, axis, "</svg>", ""])


def table() -> str:
    """Return one row per cause: its picture, what it is, the proof on the trained model, and how to avoid it."""
    rows = ["| | cause | remedy now, which proves it | when you train again |", "|---|---|---|---|"]
    for name, check in (CHECKS | REST).items():
        cause = CAUSES[name]
        untried = "none is tried" if name in REST else "none: only new training can prove it"
        now = REMEDIES[check.remedy].advice.now if check.remedy else untried
        image = f"![{cause.alt}](pictures/{name}.svg)"
        rows.append(f"| {image} | **`{name}`** {check.label} | {now} | {cause.avoid} |")
    return "\n".join([*rows, ""])


def filled(text: str) -> str:
    """Return the document with the present table in its place."""
    return PLACE.sub(lambda match: match[1] + table() + match[2], text)


if __name__ == "__main__":
    PICTURES.mkdir(exist_ok=True)
    for name in CAUSES:
        (PICTURES / f"{name}.svg").write_text(picture(name))
    DOCUMENT.write_text(filled(DOCUMENT.read_text()))
