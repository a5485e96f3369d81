"""Simulated scale: recorded trials of a search, and the index of a large data file, at growing sizes.

    python tests/bench/scale.py
    python tests/bench/scale.py --trials 1000 10000 --clips 10000 100000 1000000

For each size, CPU seconds of each step in this process. A step that grows faster than its size has a growth well over 1
in the last column. Trials are drawn from the default space with made-up accuracies and 20 epochs each; clips have two
frames of five joints. Nothing is trained.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import optuna

HOME = Path(__file__).parents[2]
sys.path.insert(0, str(HOME))

from pipeline.data.clips import Clips  # noqa: E402 - the path is set above
from pipeline.data.order import epoch_batches  # noqa: E402
from pipeline.data.splits import splits_of  # noqa: E402
from preprocessing.hdf5 import Contents, Spool, open_file, write  # noqa: E402
from tuning import page, results  # noqa: E402
from tuning.ledger import Outcome, StudyLedger, Task  # noqa: E402
from tuning.space import draw  # noqa: E402

RANKS, BATCH, JOINTS, FRAMES, CLASSES, SUBJECTS, EPOCHS = 64, 1024, 5, 2, 120, 100, 20
Answer = TypeVar("Answer")


class Watch:
    """CPU seconds and bytes by step."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.bytes: dict[str, int] = {}

    def __call__(self, step: str, work: Callable[[], Answer]) -> Answer:
        start = time.process_time()
        answer = work()
        self.seconds[step] = time.process_time() - start
        return answer


def outcomes(number: int) -> list[Outcome]:
    """Made-up trials: better with a smaller learning rate, and noise."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    noise, made = random.Random(0), []
    for place in range(number):
        settings = draw(study.ask())
        others = {"train": 0.9, "A": 0.5, "B": 1.0, "D": 0.7, "normalization_gap": 0.5}
        curve = [
            {"epoch": epoch, "val": val, "C": val} | others
            for epoch in range(1, EPOCHS + 1)
            for val in [min(1.0, max(0.0, 0.9 - 50 * settings["optim.lr"] + noise.gauss(0, 0.05)))]
        ]
        made.append(Outcome(Task(f"{place:05d}", settings, 0), "finished", curve=curve))
    return made


def search(number: int) -> Watch:
    """Record so many trials, read them back, and write results and page."""
    watch, made = Watch(), outcomes(number)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ledger = StudyLedger(folder, {"kind": "search"})

        def record() -> None:
            for outcome in made:
                ledger.begin(outcome.task)
                ledger.end(outcome)

        watch("ledger, written", record)
        watch("ledger, read", lambda: StudyLedger(folder, {"kind": "search"}))
        watch("results.json and .csv", lambda: results.write(folder, {"trials": results.search_rows(made)}))
        watch("report.html", lambda: page.write_search(folder, {"data": "a.h5", "epochs": str(EPOCHS)}, made))
        for file in ("ledger.jsonl", "results.json", "report.html"):
            watch.bytes[file] = (folder / file).stat().st_size
    return watch


def index(number: int) -> Watch:
    """Open a file of so many clips, and put an epoch in order for all ranks."""
    watch = Watch()
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "clips.h5"
        write_clips(path, number)
        file = watch("open, all checksums", lambda: open_file(path))
        splits = watch("splits", lambda: splits_of(file))
        import torch

        clips = watch("index of the clips", lambda: Clips(file, torch.device("cpu")))
        key = clips.sorted_by("reshuffle")

        def order() -> int:
            batches = epoch_batches(splits.train, key, BATCH, 0, 1, "reshuffle")
            return sum(len(batch.tensor_split(RANKS)[rank]) for batch in batches for rank in range(RANKS))

        assert watch(f"order of an epoch, shares of {RANKS} ranks", order) == len(splits.train)
        watch.bytes["clips.h5"] = path.stat().st_size
    return watch


def write_clips(path: Path, number: int) -> None:
    """Write a data file of so many clips of one body."""
    place = np.arange(number, dtype=np.int64)
    zero = np.zeros(number, np.int64)
    with Spool(path.with_suffix(".spool"), JOINTS) as spool:
        rows = np.random.default_rng(0).standard_normal((FRAMES, JOINTS, 3)).astype(np.float32)
        present = np.ones(FRAMES, bool)
        start = np.array([spool.append(rows, present) for _ in range(number)], dtype=np.int64)
        columns = {
            "name": np.char.add("clip", place.astype("U8")), "label": place % CLASSES, "setup": zero, "camera": zero,
            "subject": place % SUBJECTS + 1, "replication": zero, "frames": zero + FRAMES, "first_body": place,
            "bodies": zero + 1,
        }  # fmt: skip
        part = {name: place[place % 5 == number] for number, name in ((3, "val"), (4, "test"))}
        contents = Contents(
            dataset="scale", recipe={"stages": []}, joint_names=[f"joint{joint}" for joint in range(JOINTS)],
            bones=np.array([[joint, joint + 1] for joint in range(JOINTS - 1)], dtype=np.int64), fps=30.0,
            class_names=[f"class {label}" for label in range(CLASSES)], body_clip=place, body_slot=zero,
            body_start=start, clips=columns, splits={"xsub": {"train": place[place % 5 < 3], **part}},
            default_protocol="xsub",
        )  # fmt: skip
        write(path, contents, spool)


def show(title: str, sizes: list[int], measured: list[Watch]) -> None:
    """Print a table: seconds of each step at each size, and its growth over the last step in units of the size's."""
    print(f"\n| {title} | {' | '.join(f'{size:,}' for size in sizes)} | growth |\n|---|{'---|' * (len(sizes) + 1)}")
    for step in measured[0].seconds:
        seconds = [one.seconds[step] for one in measured]
        growth = seconds[-1] / max(seconds[-2], 1e-3) / (sizes[-1] / sizes[-2]) if len(sizes) > 1 else 1.0
        print(f"| {step} | {' | '.join(f'{value:.2f} s' for value in seconds)} | {growth:.2f} |")
    for file in measured[0].bytes:
        print(f"| {file} | {' | '.join(f'{one.bytes[file] / 1e6:.1f} MB' for one in measured)} | |")


def main() -> None:
    """Measure both and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, nargs="+", default=[1000, 10_000])
    parser.add_argument("--clips", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    search(10)  # loads and compiles what the measured ones use
    index(1000)
    show("trials of a search", options.trials, [search(number) for number in options.trials])
    show("clips of a file", options.clips, [index(number) for number in options.clips])


if __name__ == "__main__":
    main()
