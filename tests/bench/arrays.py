"""Array files of three public data sets, with what stages and mirroring steer by: joints' names, shoulders, spine.

    python tests/bench/arrays.py nw_ucla.npz --out nw.npz

SBU's coordinates are normalised; here they become metres (its readme: 1280 - 2560 x, 960 - 1920 y, 1280 z millimetres;
the two upper legs then measure the same 0.43 m).
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

ARMS_AND_LEGS = (("shoulder", "elbow", "wrist", "hand"), ("hip", "knee", "ankle", "foot"))
SHORT = (("shoulder", "elbow", "hand"), ("hip", "knee", "foot"))


def limbs(parts: tuple[tuple[str, ...], ...]) -> list[str]:
    """Left arm, right arm, left leg, right leg."""
    return [f"{side} {joint}" for limb in parts for side in ("left", "right") for joint in limb]


# Name in the file's stem: joints in the order of its X; shoulders (left, right); spine (top, bottom).
SETS = {
    "nw_ucla": (["hip centre", "spine", "shoulder centre", "head", *limbs(ARMS_AND_LEGS)], (4, 8), (2, 0)),
    "utd_mhad": (["head", "shoulder centre", "spine", "hip centre", *limbs(ARMS_AND_LEGS)], (4, 8), (1, 3)),
    "sbu": (["head", "neck", "torso", *limbs(SHORT)], (3, 6), (1, 2)),
}
SBU_METRES = np.array([[-2.56, -1.92, 1.28], [1.28, 0.96, 0.0]])


def marked(source: Path) -> dict[str, Any]:
    """Return the arrays of a file in metres, with `joint_names`, `shoulders` and `spine`."""
    with np.load(source, allow_pickle=False) as file:
        arrays = dict(file)
    if source.stem == "sbu":
        factor, shift = SBU_METRES
        arrays["X"] = (arrays["X"] * factor + shift).astype(np.float32)
    if source.stem in SETS:
        names, shoulders, spine = SETS[source.stem]
        arrays |= {"joint_names": np.array(names), "shoulders": np.array(shoulders), "spine": np.array(spine)}
    return arrays


def main() -> None:
    """Read one file, write the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help=f"one of {', '.join(name + '.npz' for name in SETS)}")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    if options.source.stem not in SETS:
        parser.error(f"{options.source} is unknown; one of {', '.join(name + '.npz' for name in SETS)}")
    np.savez(options.out, **marked(options.source))


if __name__ == "__main__":
    main()
