r"""Data files of the study of norms: six data sets, with protocols that shift what is tested against what is trained.

    python tests/bench/norm_sets.py ../shared/data/benchmarks --out bench-norms
    python -m tuning.study --data bench-norms/sets.toml --out bench-norms/study --arms tests/bench/norm_arms.toml \
        --lr 3e-4 1e-3 3e-3 --screen 8 --grace 10 --frames 32 --epochs 40 --eval-every 20 --keep
    python -m tuning.study --data bench-norms/batches.toml --out bench-norms/batches \
        --arms tests/bench/norm_batch_arms.toml --lr 3e-4 1e-3 3e-3 --grace 10 --seeds 3 --frames 32 --epochs 40
    python -m tuning.study --data bench-norms/lengths.toml --out bench-norms/lengths \
        --arms tests/bench/norm_length_arms.toml --lr 3e-4 1e-3 3e-3 --grace 10 --seeds 3 --frames 32 --epochs 40
    python -m tuning.study --data bench-norms/three.toml --out bench-norms/inputs \
        --arms tests/bench/norm_input_arms.toml --lr 3e-4 1e-3 3e-3 --screen 1 --grace 5 --seeds 1 --frames 32
    python -m tuning.study --data bench-norms/utd.toml --out bench-norms/persons \
        --arms tests/bench/norm_person_arms.toml --lr 3e-4 1e-3 3e-3 --screen 1 --grace 5 --seeds 1 --frames 32
    python -m tuning.study --data bench-norms/three.toml --out bench-norms/loops \
        --arms tests/bench/norm_loop_arms.toml --lr 3e-4 1e-3 3e-3 --grace 10 --seeds 3 --frames 32 --epochs 40
    python -m tuning.study --data bench-norms/short.toml --out bench-norms/short \
        --arms tests/bench/norm_short_arms.toml --lr 3e-4 1e-3 3e-3 --seeds 3 --frames 32 --epochs 40
    python -m tuning.study --data bench-norms/three.toml --out bench-norms/graph \
        --arms tests/bench/norm_graph_arms.toml --lr 3e-4 1e-3 3e-3 --grace 10 --seeds 3 --frames 16 --epochs 40

Writes OUT/NAME.h5 by `preprocessing.build`, OUT/sets.toml, and three of the sets as OUT/three.toml (one of these as
OUT/utd.toml), as OUT/batches.toml in batches of 8, 32 and 128 clips, and as OUT/lengths.toml with a quarter (these
alone: OUT/short.toml) and twice the epochs and with the presets' augmentation and schedule.

Protocols: new subjects, new cameras (NW-UCLA), adults and children (Kinder-Gator, both ways), two bodies (SBU, two
folds), few clips (Florence 3D), a new sensor (UTD-MHAD trains, KARD tests, on the joints and classes that both have),
and new subjects whose test clips have noise or miss joints (UTD-MHAD). Coordinates are those of the sources, in metres;
nothing is aligned.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from arrays import marked

NOISE = 0.03  # metres, standard deviation per coordinate, joint and frame
MISSING = 0.10  # share of joints, drawn per joint and frame
# Joints of UTD-MHAD in the order of KARD's (its neck is the other's shoulder centre, its torso the spine).
KARD_OF_UTD = (0, 1, 8, 9, 11, 4, 5, 7, 2, 16, 17, 19, 12, 13, 15)
# Classes that both sets have: name -> (in UTD-MHAD, in KARD).
SHARED = {
    "wave": ("wave", "high arm wave"),
    "clap": ("clap", "hand clap"),
    "throw": ("throw", "high throw"),
    "draw x": ("draw x", "draw x"),
    "walk": ("walk", "walk"),
    "stand up": ("sit to stand", "stand up"),
    "sit down": ("stand to sit", "sit down"),
}


class Source(NamedTuple):
    """Array data of a file, and the parts of its protocols."""

    arrays: dict[str, Any]
    protocols: dict[str, np.ndarray]
    """Protocol -> (N,) train, test, or empty for a clip of neither."""


def parts(test_N: np.ndarray, train_N: np.ndarray | None = None) -> np.ndarray:
    """Return the part of each clip; `train_N` None: all that are not tested."""
    train_N = ~test_N if train_N is None else train_N
    return np.where(test_N, "test", np.where(train_N, "train", ""))


def ucla(folder: Path) -> Source:
    """NW-UCLA: the published protocol, which tests view 3, and one of the other two."""
    arrays = marked(folder / "nw_ucla.npz")
    return Source(arrays, {f"view {view}": parts(arrays["view"] == view) for view in (3, 1)})


def utd(folder: Path) -> Source:
    """UTD-MHAD: new subjects; the test clips are also there with noise, and with missing joints."""
    arrays = marked(folder / "utd_mhad.npz")
    rng = np.random.default_rng(0)
    test_N = arrays["subject"] % 2 == 0
    clean = arrays["X"]
    noisy = clean + rng.normal(0, NOISE, clean.shape).astype(np.float32)
    gappy = clean.copy()
    gappy[rng.random(clean.shape[:3]) < MISSING] = np.nan
    kinds = {"": clean, " noise": noisy, " missing": gappy}
    joined = repeated(arrays, kinds)
    clips = len(test_N)
    protocols = {}
    for number, kind in enumerate(kinds):
        test = np.zeros(clips * len(kinds), bool)
        test[number * clips : (number + 1) * clips] = test_N
        train = np.concatenate([~test_N, np.zeros(clips * (len(kinds) - 1), bool)])
        protocols["xsub" + kind] = parts(test, train)
    return Source(joined, protocols)


def repeated(arrays: dict[str, Any], kinds: dict[str, np.ndarray]) -> dict[str, Any]:
    """Return the clips once per kind, named NAME and the kind; `kinds` has the coordinates of each."""
    total, clips = len(arrays["X"]), len(arrays["name"])
    joined = dict(arrays)
    joined["X"] = np.concatenate(list(kinds.values()))
    starts = [arrays["ptr"][:-1] + number * total for number in range(len(kinds))]
    joined["ptr"] = np.concatenate([*starts, [total * len(kinds)]])
    joined["name"] = np.concatenate([[f"{name}{kind}" for name in arrays["name"]] for kind in kinds])
    for key, values in arrays.items():
        if key not in ("X", "ptr", "name") and np.shape(values)[:1] == (clips,):
            joined[key] = np.concatenate([values] * len(kinds))
    return joined


def sbu(folder: Path) -> Source:
    """SBU: two of the standard five folds."""
    arrays = marked(folder / "sbu.npz")
    return Source(arrays, {f"fold {fold}": parts(arrays["fold"] == fold) for fold in (1, 2)})


def by_subjects(folder: Path, name: str) -> Source:
    """Odd subjects train, even ones test."""
    arrays = marked(folder / f"{name}.npz")
    return Source(arrays, {"xsub": parts(arrays["subject"] % 2 == 0)})


def kinder(folder: Path) -> Source:
    """Kinder-Gator: adults and children, both ways."""
    arrays = marked(folder / "kinder_gator.npz")
    child_N = arrays["group"] == 1
    protocols = {"adult to child": child_N, "child to adult": ~child_N}
    return Source(arrays, {name: parts(test_N) for name, test_N in protocols.items()})


def sensors(folder: Path) -> Source:
    """Train on UTD-MHAD (Kinect v1 SDK), test on KARD (OpenNI), whose x axis is mirrored."""
    two = [marked(folder / "utd_mhad.npz"), marked(folder / "kard.npz")]
    two[0]["X"] = two[0]["X"][:, :, KARD_OF_UTD]
    two[1]["X"] = two[1]["X"] * np.array([-1, 1, 1], np.float32)
    rows, lengths, labels, names = [], [], [], []
    for number, arrays in enumerate(two):
        known = {pair[number]: place for place, pair in enumerate(SHARED.values())}
        for clip, label in enumerate(arrays["label"]):
            name = str(arrays["class_names"][label])
            if name in known:
                rows.append(arrays["X"][arrays["ptr"][clip] : arrays["ptr"][clip + 1]])
                lengths.append(len(rows[-1]))
                labels.append(known[name])
                names.append(f"{('utd', 'kard')[number]}-{arrays['name'][clip]}")
    same = {key: two[1][key] for key in ("bones", "joint_names", "shoulders", "spine")}
    arrays = {
        "X": np.concatenate(rows), "ptr": np.cumsum([0, *lengths]), "label": np.array(labels),
        "name": np.array(names), "class_names": np.array(list(SHARED)), **same,
    }  # fmt: skip
    return Source(arrays, {"new sensor": parts(np.char.startswith(arrays["name"], "kard"))})


SOURCES = {
    "ucla": ucla,
    "utd": utd,
    "sbu": sbu,
    "kard": lambda folder: by_subjects(folder, "kard"),
    "florence": lambda folder: by_subjects(folder, "florence3d"),
    "kinder": kinder,
    "utd-kard": sensors,
}
# All sets train for a similar number of steps: small ones have a few clips per class.
USUAL_EPOCHS = 40
EPOCHS = {"ucla": 20, "sbu": 80, "florence": 100, "utd-kard": 80}
Levels = dict[str, tuple[float, dict[str, Any]]]  # name -> factor of the epochs, settings
FEW = {"utd": "xsub", "kard": "xsub", "sbu": "fold 1"}
BATCHES = (8, 32, 128)
# Those that the presets of UTD-MHAD and SBU share.
PRESET = {
    "augment.crop": 0.5, "augment.rotate": 0.3, "augment.scale": 0.1,
    "optim.schedule": "cosine", "optim.warmup": 3.0, "optim.weight_decay": 0.05, "optim.label_smoothing": 0.1,
}  # fmt: skip


def crossed(levels: Levels) -> dict[str, dict[str, Any]]:
    """Return each of the few sets at each level, named `SET, LEVEL`, or SET where the level has no name."""
    return {
        f"{name}, {level}" if level else name: {
            "data": f"{name}.h5",
            "protocol": protocol,
            "train.epochs": round(times * EPOCHS.get(name, USUAL_EPOCHS)),
            **settings,
        }
        for name, protocol in FEW.items()
        for level, (times, settings) in levels.items()
    }


def write_splits(path: Path, names: Iterable[str], protocols: dict[str, np.ndarray]) -> None:
    """Write the splits as preprocessing.build reads them."""
    names = list(names)
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(("clip", "part", "protocol"))
        for protocol, part_N in protocols.items():
            table.writerows((name, part, protocol) for name, part in zip(names, part_N, strict=True) if part)


def write_sets(path: Path, tables: dict[str, dict[str, Any]]) -> None:
    """Write the data sets as tuning.study reads them: set -> its data, protocols and settings."""
    lines = []
    for name, values in tables.items():
        lines += [f"[sets.{json.dumps(name)}]", *(f"{key} = {json.dumps(value)}" for key, value in values.items())]
    path.write_text("\n".join([*lines, ""]))


def main() -> None:
    """Build the files that are missing, then write sets.toml."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="folder of the array files")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    own_epochs = {name: {"train.epochs": epochs} for name, epochs in EPOCHS.items()}
    all_protocols = {}
    for name, make in SOURCES.items():
        arrays, protocols = make(options.source)
        file = options.out / f"{name}.h5"
        if not file.exists():
            np.savez(options.out / f"{name}.npz", **arrays)
            write_splits(options.out / f"{name}.csv", arrays["name"], protocols)
            words = [f"{name}.npz", "--splits", f"{name}.csv", "--out", file.name]
            subprocess.run([sys.executable, "-m", "preprocessing.build", *words], cwd=options.out, check=True)
        all_protocols[name] = {"data": file.name, "protocols": list(protocols), **own_epochs.get(name, {})}
    write_sets(options.out / "sets.toml", all_protocols)
    three = crossed({"": (1, {})})
    write_sets(options.out / "three.toml", three)
    write_sets(options.out / "utd.toml", {"utd": three["utd"]})
    batches: Levels = {f"batch {size}": (1, {"train.batch_size": size}) for size in BATCHES}
    write_sets(options.out / "batches.toml", crossed(batches))
    short: Levels = {"a quarter of the epochs": (0.25, {})}
    write_sets(options.out / "short.toml", crossed(short))
    lengths: Levels = short | {
        "twice the epochs": (2, {}),
        "twice, augmented": (2, PRESET),
    }
    write_sets(options.out / "lengths.toml", crossed(lengths))
    print(options.out / "sets.toml")


if __name__ == "__main__":
    main()
