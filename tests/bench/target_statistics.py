"""Measure what statistics of unlabelled test clips recover, beside published test-time adaptation. Prints tables.

    python -m tuning.study ... --out bench-norms/study --keep
    python tests/bench/target_statistics.py bench-norms/study --arms bn "bn, loop" --out bench-norms/target.json

Reads the kept runs of a study over several data sets (tests/bench/norm_sets.py). Each method normalizes the test clips,
in batches of n clips; no setting is tuned on the result:

* running: the running statistics, accuracy C
* batch: those of the batch (Nado et al. 2020, arXiv 2006.10963)
* mixed: N / (N + n) of the running statistics and n / (N + n) of the batch's, N = 16 (Schneider et al. 2020, arXiv
  2006.16971, equation 3)
* tent: those of the batch; after each batch one step of Adam, rate 1e-3, on the layers' weights and biases lowers the
  entropy of the predictions (Wang et al. 2021, arXiv 2006.10726; here without dropout)
* all clips: those of all test clips, per call, merged over batches of 64 in which each layer above normalized by its
  own batch (after AdaBN: Li et al. 2016, arXiv 1603.04779)

Orders: *mixed classes* is a random order; *by class* sorts the clips by label, so a batch holds few classes. *Shift* is
what D - C on the test clips exceeds D - C on the val clips by, which come from where the training clips do. Accuracy in
%, mean over data sets of means over seeds.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics as python_statistics
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

sys.path[:0] = [str(Path(__file__).resolve().parents[2])]
from pipeline.data.clips import Batch, Clips  # noqa: E402 - the path is set above
from pipeline.normdoctor.collector import population  # noqa: E402
from pipeline.normdoctor.moments import moments  # noqa: E402
from pipeline.normdoctor.sites import Site, Statistics, batch_norms, statistics  # noqa: E402
from pipeline.normdoctor.sources import batch_statistics, per_call  # noqa: E402
from pipeline.run_folder import Run  # noqa: E402
from tuning.statistics import compare  # noqa: E402

SIZES = (1, 2, 4, 8, 16, 32, 64)
PSEUDO_CLIPS = 16  # N of Schneider et al.
RATE = 1e-3  # of tent
ORDERS = ("mixed classes", "by class")


class Target(NamedTuple):
    """A trained network and the clips that it is tested on."""

    model: nn.Module
    clips: Clips
    index_N: Tensor
    frames: int

    def batches(self, order: str, size: int, seed: int) -> Iterator[tuple[Batch, Tensor]]:
        """Yield batches of `size` clips with their labels; a last one that is smaller stays smaller."""
        index_N = self.index_N[torch.randperm(len(self.index_N), generator=torch.Generator().manual_seed(seed))]
        if order == "by class":
            index_N = index_N[self.clips.label_N[index_N].argsort(stable=True)]
        for part in index_N.split(size):
            yield self.clips.batch(part, self.frames), self.clips.label_N[part]


def logits(model: nn.Module, batch: Batch) -> Tensor:
    """Return the logits of a batch, (n, K)."""
    result: Tensor = model(batch.x_NCTVM, batch.present_NMT).float()
    return result


def top1(target: Target, batches: Iterable[tuple[Batch, Tensor]], source: Callable[[int], Statistics | None]) -> float:
    """Return the accuracy by the statistics that `source` returns for a batch of so many clips."""
    right, total = 0, 0
    with torch.no_grad():
        for batch, label_N in batches:
            with statistics(target.model, source(len(label_N))):
                right += int((logits(target.model, batch).argmax(1) == label_N).sum())
            total += len(label_N)
    return right / total


def mixed(model: nn.Module) -> Callable[[int], Statistics]:
    """Mix running statistics, as PSEUDO_CLIPS clips, with those of the batch, as its n clips."""
    layers = batch_norms(model)

    def of_batch(n: int) -> Statistics:
        share = PSEUDO_CLIPS / (PSEUDO_CLIPS + n)

        def source(site: Site, x: Tensor) -> tuple[Tensor, Tensor]:
            layer, (mean_C, variance_C, _) = layers[site[0]], moments(x)
            return (
                share * layer.running_mean + (1 - share) * mean_C,
                share * layer.running_var + (1 - share) * variance_C,
            )

        return source

    return of_batch


def tent(target: Target, batches: Iterable[tuple[Batch, Tensor]]) -> float:
    """Return the accuracy of a copy that adapts as it goes; each batch is predicted before its optimizer step."""
    model = copy.deepcopy(target.model).requires_grad_(False)
    chosen = [parameter for layer in batch_norms(model).values() for parameter in layer.parameters()]
    for parameter in chosen:
        parameter.requires_grad_(True)
    optimizer = torch.optim.Adam(chosen, lr=RATE)
    right, total = 0, 0
    for batch, label_N in batches:
        with statistics(model, batch_statistics):
            logits_NK = logits(model, batch)
            log_NK = logits_NK.log_softmax(1)
            entropy = -(log_NK.exp() * log_NK).sum(1).mean()
            optimizer.zero_grad()
            entropy.backward()
            optimizer.step()
        right += int((logits_NK.argmax(1) == label_N).sum())
        total += len(label_N)
    return right / total


def all_clips(target: Target) -> float:
    """Return the accuracy by population statistics of all test clips."""

    def forward(model: nn.Module, pair: tuple[Batch, Tensor]) -> Tensor:
        return logits(model, pair[0])

    source = per_call(population(forward, target.model, target.batches(ORDERS[0], 64, 0)))
    return top1(target, target.batches(ORDERS[0], 64, 0), lambda _: source)


def measure(folder: Path, seed: int) -> dict[str, float]:
    """Return the accuracies of one run: `running`, `all clips`, C and D on val, and METHOD, ORDER, SIZE on test."""
    run = Run(folder)
    frames, model = run.config.input.frames, run.network()
    target = Target(model, run.clips, run.splits.test, frames)
    held_out = target._replace(index_N=run.splits.held_out(run.config.input.fit))
    found = {}
    for name, part in (("val", held_out), ("test", target)):
        found[f"C {name}"] = top1(part, part.batches(ORDERS[0], 64, seed), lambda _: None)
        found[f"D {name}"] = top1(part, part.batches(ORDERS[0], 64, seed), lambda _: batch_statistics)
    found["running"], found["all clips"] = found["C test"], all_clips(target)
    mix = mixed(model)
    for order in ORDERS:
        for size in SIZES:

            def batches(order: str = order, size: int = size) -> Iterator[tuple[Batch, Tensor]]:
                return target.batches(order, size, seed)

            found[f"batch, {order}, {size}"] = top1(target, batches(), lambda _: batch_statistics)
            found[f"mixed, {order}, {size}"] = top1(target, batches(), mix)
            found[f"tent, {order}, {size}"] = tent(target, batches())
    return found


def over_sets(rows: list[dict[str, Any]], key: str) -> dict[str, float]:
    """Return data set -> the mean over its seeds of one accuracy."""
    names = dict.fromkeys(row["set"] for row in rows)
    return {name: python_statistics.mean(row[key] for row in rows if row["set"] == name) for name in names}


def report(arm: str, rows: list[dict[str, Any]]) -> str:
    """Return the tables of one arm."""
    c = over_sets(rows, "running")
    cells = {key: over_sets(rows, key) for key in rows[0] if key not in ("set", "arm", "seed")}
    lines = [f"\n## {arm}: {len(rows)} runs\n", "| data set | C val | D val | C test | D test | shift | all clips |"]
    lines.append("|---" * 7 + "|")
    for name in c:
        one = {key: 100 * values[name] for key, values in cells.items()}
        shift = one["D test"] - one["C test"] - (one["D val"] - one["C val"])
        shown = [one["C val"], one["D val"], one["C test"], one["D test"], shift, one["all clips"]]
        lines.append(f"| {name} | " + " | ".join(f"{value:.1f}" for value in shown) + " |")
    lines += ["", "| method | order | " + " | ".join(f"n = {size}" for size in SIZES) + " |"]
    lines.append("|---" * (2 + len(SIZES)) + "|")
    for method in ("batch", "mixed", "tent"):
        for order in ORDERS:
            means = [python_statistics.mean(cells[f"{method}, {order}, {size}"].values()) for size in SIZES]
            lines.append(f"| {method} | {order} | " + " | ".join(f"{100 * mean:.1f}" for mean in means) + " |")
    for key in ("all clips", f"batch, {ORDERS[0]}, 64", f"mixed, {ORDERS[0]}, 16", f"tent, {ORDERS[0]}, 64"):
        found = compare(list(cells[key].values()), list(c.values()))
        assert found.effect is not None
        p = "one data set" if found.p is None else f"p {found.p:.2g}"
        interval = "" if found.interval is None else " ({:+.1f} .. {:+.1f})".format(*(100 * x for x in found.interval))
        lines.append(f"\n{key} - running over {len(c)} data sets: {100 * found.effect:+.1f}{interval}, {p}")
    return "\n".join(lines)


def main() -> None:
    """Measure the kept runs of the study, then print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, help="folder of a study that was run with --keep")
    parser.add_argument("--arms", nargs="+", default=["bn", "bn, loop"])
    parser.add_argument("--out", type=Path, required=True, help="JSON file of all accuracies; measured runs are kept")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = json.loads(options.out.read_text()) if options.out.exists() else []
    done = {(row["arm"], row["set"], row["seed"]) for row in rows}
    for line in (options.study / "ledger.jsonl").read_text().splitlines():
        ended = json.loads(line).get("ended", {})
        task = ended.get("task", {})
        key = task.get("arm"), task.get("data_set"), task.get("seed")
        if ended.get("outcome") != "finished" or task.get("choosing") or key[0] not in options.arms or key in done:
            continue
        found = measure(options.study / "trials" / task["name"], task["seed"])
        rows.append({"arm": key[0], "set": key[1], "seed": key[2], **found})
        options.out.write_text(json.dumps(rows))
        print(task["name"], f"{100 * found['running']:.1f} -> {100 * found['all clips']:.1f}", file=sys.stderr)
    for arm in options.arms:
        if own := [row for row in rows if row["arm"] == arm]:
            print(report(arm, own))


if __name__ == "__main__":
    main()
