"""Measure the cost of Ray and the driver, the gain of two trials at a time, and the share of a grid that ASHA saves.

    python tests/bench/search.py --data nw.h5
    python tests/bench/search.py --data nw.h5 --part asha

`overhead`: the same trainings as fresh processes one after the other, as a study of one trial at a time, and of two.
`asha`: the kinds of norms as a grid, trained to the end, and under ASHA; the seeds' spread is that of the grid's best.
Every trial has one core. Run it on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import deque
from pathlib import Path

HOME = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(HOME))

import numpy as np  # noqa: E402 - the path is set above
from build import memory_of  # noqa: E402 - the path is set above

from tuning.arms import read_arms  # noqa: E402
from tuning.engine import REDUCTION, Asha, Resources, run_all  # noqa: E402
from tuning.ledger import Outcome, StudyLedger, Task  # noqa: E402
from tuning.progress import ProgressReporter  # noqa: E402
from tuning.search import Search  # noqa: E402
from tuning.sources import TaskList  # noqa: E402

ONE_CORE = os.environ | {"OMP_NUM_THREADS": "1"}
AT_ONCE, REPLAYS = 2, 400
LOOK = 20  # seconds
ARM = {"norm.kind": "bn", "norm.persons": "masked"}


def one_after_the_other(data: Path, work: Path, seeds: range, epochs: int) -> float:
    """Seconds of one training per seed, each a fresh process."""
    began = time.perf_counter()
    for seed in seeds:
        line = [sys.executable, "-m", "pipeline.train", "default", "--data", str(data), "--out", str(work / str(seed))]
        line += ["--wandb", "off", "--train.epochs", str(epochs), "--train.eval-every", str(epochs), "--fast-start"]
        line += ["--train.seed", str(seed), "--train.no-self-test"]
        line += [word for name, value in ARM.items() for word in (f"--{name}", value)]
        subprocess.run(line, cwd=HOME, env=ONE_CORE, check=True, capture_output=True)
    return time.perf_counter() - began


def as_a_study(data: Path, out: Path, seeds: int, epochs: int, at_once: int) -> tuple[float, int]:
    """Seconds of the same trainings in one study, start and end of Ray included; most memory of all its processes."""
    arms = out.with_suffix(".toml")
    lines = [f'"{name}" = "{value}"' for name, value in ARM.items()]
    arms.write_text("\n".join(['baseline = "masked"', "[arms.masked]", *lines]) + "\n")
    line = [sys.executable, "-m", "tuning.study", "--data", str(data), "--out", str(out), "--arms", str(arms)]
    line += ["--seeds", str(seeds), "--epochs", str(epochs), "--eval-every", str(epochs), "--wandb", "off"]
    began, held = time.perf_counter(), 0
    child = subprocess.Popen(
        [*line, "--at-once", str(at_once)], cwd=HOME, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while child.poll() is None:
        try:
            child.wait(LOOK)
        except subprocess.TimeoutExpired:  # seldom: looking at a process's memory holds it up
            held = max(held, memory_of(child.pid))
    if child.returncode:
        raise SystemExit(f"the study failed with exit code {child.returncode}")
    return time.perf_counter() - began, held


def overhead(data: Path, work: Path, options: argparse.Namespace) -> None:
    """Print the first part. Half of the fresh processes come before the studies and half after: machines drift."""
    seeds, epochs = options.seeds, options.epochs
    before = one_after_the_other(data, work, range(seeds // 2), epochs)
    studies = {n: as_a_study(data, work / f"study-{n}", seeds, epochs, n) for n in options.at_once}
    after = one_after_the_other(data, work, range(seeds // 2, seeds), epochs)
    plain = before + after
    print(f"{seeds} fresh processes, one after the other: {plain:.0f} s ({before:.0f} before, {after:.0f} after)")
    for at_once, (took, held) in studies.items():
        print(
            f"as a study, {at_once} at a time: {took:.0f} s, {100 * (took / plain - 1):+.0f} %; trials an hour: "
            f"{plain / took:.2f} times; all processes hold {held / 1e6:.0f} MB",
            flush=True,
        )


def run(data: Path, out: Path, tasks: list[Task], epochs: int, asha: Asha | None) -> list[Outcome]:
    """All tasks, to their end or under ASHA."""
    settings = Search(data, out, epochs=epochs, frames=32, wandb="off")
    ledger = StudyLedger(out, {"bench": epochs})
    with ProgressReporter(out, out.name, len(tasks), 0, "off") as reporter:
        source = TaskList(tasks, settings.spec, ledger, reporter)
        run_all(source, out / "trials", Resources(1, 0, None), None, asha)
    return list(ledger.ended.values())


def best(outcomes: list[Outcome]) -> Outcome:
    """The arm that is furthest, and of those the best."""
    return max(outcomes, key=lambda outcome: (outcome.last["epoch"], outcome.last["val"]))


def replayed(curves: dict[str, list[float]], order: list[str], grace: int) -> tuple[str, int]:
    """Replay ASHA on equally fast trainings of known accuracies, two at a time: its winner and the epochs it takes.

    A training that was stopped had come as far as the same one in the grid: one core, same seed, same bits.
    """
    epochs = len(curves[order[0]])
    met: dict[int, list[float]] = {rung: [] for k in range(epochs) if (rung := grace * REDUCTION**k) <= epochs}
    waiting, come = deque(order), dict.fromkeys(order, 0)
    under_way: list[str] = []
    while waiting or under_way:
        while waiting and len(under_way) < AT_ONCE:
            under_way.append(waiting.popleft())
        for name in list(under_way):
            come[name] += 1
            value = curves[name][come[name] - 1]
            earlier = met.get(come[name], [])  # none but at a rung
            behind = bool(earlier) and value < np.percentile(earlier, 100 * (1 - 1 / REDUCTION))
            earlier.append(value)
            if behind or come[name] == epochs:
                under_way.remove(name)
    return max(order, key=lambda name: (come[name], curves[name][come[name] - 1])), sum(come.values())


def asha(data: Path, work: Path, options: argparse.Namespace) -> None:
    """Print the second part. A search meets norms in any order, and ASHA lets the first ones pass: so in several."""
    epochs = options.epochs
    tasks = [Task(name, arm.settings, 0, arm=name) for name, arm in read_arms("norms").trained().items()]
    grid = run(data, work / "grid", tasks, epochs, None)
    full, value = best(grid), {outcome.task.name: outcome.last["val"] for outcome in grid}
    again = [Task(f"{full.task.name}-{seed}", full.task.settings, seed) for seed in range(1, options.seeds)]
    spread = [full.last["val"], *(one.last["val"] for one in run(data, work / "seeds", again, epochs, None))]
    mean, std = statistics.mean(spread), statistics.stdev(spread)
    print(json.dumps({name: round(100 * figure, 1) for name, figure in sorted(value.items(), key=lambda x: -x[1])}))
    print(f"grid of {len(tasks)} norms, {epochs} epochs: best {full.task.name}, val {100 * full.last['val']:.1f} %")
    print(f"... over {len(spread)} seeds {100 * mean:.1f} ± {100 * std:.1f} %", flush=True)
    curves = {outcome.task.name: [figures["val"] for figures in outcome.curve] for outcome in grid}
    # In the orders of the searches below: of the tasks, not of their ends, which is how the ledger has them.
    names = [task.name for task in tasks]
    ends = [replayed(curves, random.Random(order).sample(names, len(names)), options.grace) for order in range(REPLAYS)]
    shares = [100 * all_epochs / (len(tasks) * epochs) for _, all_epochs in ends]
    near = sum(value[name] >= min(spread) for name, _ in ends)
    print(
        f"ASHA replayed on the grid's curves in {REPLAYS} orders: {statistics.mean(shares):.0f} ± "
        f"{statistics.stdev(shares):.0f} % of the grid's epochs, {100 * near / REPLAYS:.0f} % end at a norm that is no "
        f"worse in the grid than the best norm's worst seed, {100 * min(spread):.1f} %",
        flush=True,
    )
    for order in range(options.orders):
        shuffled = random.Random(order).sample(tasks, len(tasks))
        halved = run(data, work / f"asha-{order}", shuffled, epochs, Asha(options.grace, epochs))
        quick, cost = best(halved), sum(outcome.last["epoch"] for outcome in halved) / (len(tasks) * epochs)
        print(
            f"ASHA, order {order}: best {quick.task.name}, val {100 * quick.last['val']:.1f} % (in the grid "
            f"{100 * value[quick.task.name]:.1f} %), at {100 * cost:.0f} % of the grid's epochs",
            flush=True,
        )


PARTS = {"overhead": overhead, "asha": asha}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--part", choices=PARTS, help="one of them; else both")
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--at-once", type=int, nargs="+", default=[1, 2], help="trials at a time in a study")
    parser.add_argument("--grace", type=int, default=2, help="epochs that ASHA gives every norm")
    parser.add_argument("--orders", type=int, default=3, help="in which ASHA meets the norms")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        for part in [options.part] if options.part else PARTS:
            work = Path(name) / part
            work.mkdir()
            PARTS[part](options.data, work, options)


if __name__ == "__main__":
    main()
