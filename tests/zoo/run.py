"""Compare the doctor with plain passes of torch on architectures of other libraries (`make test-zoo`).

    make test-zoo
    .venv-zoo/bin/python tests/zoo/run.py --only resnet18 bert pyg_gin --out /tmp/zoo
    .venv-zoo/bin/python tests/zoo/run.py --page tests/bench/results/zoo.md
    .venv-zoo/bin/python tests/zoo/run.py --list

Each network gets random weights, a short training and freshly computed running statistics, so it is healthy. Then A
and B of the doctor are compared with plain eval and train passes over the same batches, and any cause that the doctor
names is false unless a recomputation from outside gains two points, or a pass by each sample's own statistics where an
instance norm is blamed. Then slow statistics are planted and diagnosed. The repaired model is saved and loaded, and its
scores on training and evaluation samples are measured by plain passes.
OUT/zoo.jsonl holds one line per network; the same command again goes on where it was stopped. The table is written to
--page. Exit code 1: something differs.
"""

from __future__ import annotations

import argparse
import copy
import io
import json
import multiprocessing
import os
import sys
import time
import traceback
import warnings
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

HOME = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(HOME)]

EPOCHS = 3
# Largest difference of A or B from the plain passes, besides first choices that rounding may swap.
ALLOWED = 0.001
# What a recomputation from outside must gain to justify a cause.
REAL = 0.02
# The slow statistics that are planted: those of this momentum after one epoch of this many updates.
MOMENTUM, UPDATES = 0.001, 8
# Batches of each loader that the planted network is diagnosed on.
PLANTED_BATCHES = 4


def compared(name: str) -> dict[str, Any]:
    """Return one network's line."""
    import torch

    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    begin = time.process_time()
    line: dict[str, Any] = {"name": name}
    try:
        line |= _compared(name)
    except Exception as error:  # a crash is a result
        line |= {"error": f"{type(error).__name__}: {error}"[:300], "at": _innermost(error)}
    return line | {"seconds": round(time.process_time() - begin, 1)}


def _innermost(error: Exception) -> str:
    """Return the last of our lines that the error passed through."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if frame.filename.startswith((f"{HOME}/pipeline", f"{HOME}/tests"))]
    return f"{Path(ours[-1].filename).name}:{ours[-1].lineno}"


def _compared(name: str) -> dict[str, Any]:
    from pipeline.normdoctor import diagnose
    from pipeline.normdoctor.samples import take
    from tests.zoo import reference
    from tests.zoo.architectures import ZOO, built
    from tests.zoo.kinds import KINDS

    architecture = ZOO[name]
    kind = KINDS[architecture.kind]()
    training, held_out = kind.batches()
    model = built(name)
    reference.train(model, training, kind, architecture.rate, EPOCHS)
    reference.recalibrate(model, training, kind.forward)
    begin = time.process_time()
    how = {} if kind.plain else {"forward": kind.forward, "metric": kind.metric}
    diagnosis = diagnose(model, training, held_out, **how)
    seconds = time.process_time() - begin
    # The doctor's own compositions, read by the plain passes.
    batches = [batch for _, batch in take(training).batches()]
    a, b = reference.both(model, batches, kind.forward, kind.metric)
    fresh = copy.deepcopy(model)
    reference.recalibrate(fresh, batches, kind.forward)
    gain = reference.both(fresh, batches, kind.forward, kind.metric)[0].mean - a.mean
    return {
        "norms": len(reference.norms(model)),
        "A": diagnosis.accuracies["A"],
        "B": diagnosis.accuracies["B"],
        "plain_A": a.mean,
        "plain_B": b.mean,
        "ties": max(a.ties, b.ties),
        "causes": [cause.check for cause in diagnosis.causes],
        "suspicions": [suspicion.check for suspicion in diagnosis.suspicions],
        "named": diagnosis.named,
        "gain": gain,
        **_planted(model, name, kind, how),
        "verdict": diagnosis.verdict,
        "diagnosis_seconds": round(seconds, 1),
    }


def _planted(model: Any, name: str, kind: Any, how: dict[str, Any]) -> dict[str, Any]:
    """Plant slow statistics, repair them by the proven remedy, save and load, and measure by plain passes.

    Returns:
        `sick`: score of the evaluation samples as planted. `blamed`: causes. `remedy`: the one that was built in;
        fresh statistics where none is proven. `promised`: scores A and C of the diagnosis under it. `repaired`: the
        same from outside. `loaded`: whether a fresh network with the saved state has the same scores. Empty for a
        network without batch norms.
    """
    import torch

    from pipeline.normdoctor import diagnose, load_repaired
    from pipeline.normdoctor.samples import take
    from tests.zoo import reference
    from tests.zoo.architectures import built

    training, held_out = kind.batches()
    sick = copy.deepcopy(model)
    reference.slow(sick, MOMENTUM, UPDATES)
    diagnosis = diagnose(sick, training, held_out, batches=PLANTED_BATCHES, **how)
    if "joint" not in diagnosis.recalibration:
        return {}
    remedy = diagnosis.remedy or "joint"
    repaired = diagnosis.repaired(remedy)
    file = io.BytesIO()
    torch.save(repaired.state_dict(), file)
    file.seek(0)
    again = load_repaired(built(name), torch.load(file, weights_only=True)).eval()
    promised = {which: diagnosis.recalibration[remedy].get(which) for which in "AC"}
    batches = {
        which: [batch for _, batch in take(loader, most=PLANTED_BATCHES).batches()]
        for which, loader in (("A", training), ("C", held_out))
        if promised[which] is not None
    }
    score, other = (
        {which: reference.score(one, some, kind.forward, kind.metric) for which, some in batches.items()}
        for one in (repaired, again)
    )
    return {
        "sick": diagnosis.accuracies["C"],
        "blamed": [cause.check for cause in diagnosis.causes],
        "remedy": remedy,
        "promised": promised,
        "repaired": {which: found.mean for which, found in score.items()},
        "repaired_ties": max(found.ties for found in score.values()),
        "loaded": score == other,
    }


def fault(line: dict[str, Any]) -> str:
    """Return what is wrong with a line, or nothing."""
    if "error" in line:
        return f"{line['error']} ({line['at']})"
    off = [f"{which} differs" for which in "AB" if difference(line, which) > ALLOWED + line["ties"]]
    if is_false(line):
        off.append(f"false cause: {', '.join(line['causes'])}")
    if not round_trip(line):
        off.append(f"repaired {line['repaired']}, promised {line['promised']}, loaded {line['loaded']}")
    return ", ".join(off)


def round_trip(line: dict[str, Any]) -> bool:
    """Return whether the repaired network keeps its promises, after loading too; True without batch norms."""
    if "promised" not in line:
        return True
    off = [abs(score - line["promised"][which]) for which, score in line["repaired"].items()]
    return line["loaded"] and max(off) <= ALLOWED + line["repaired_ties"]


def is_false(line: dict[str, Any]) -> bool:
    """Return whether a cause is named that costs nothing: neither a recomputation nor the batch's statistics gain."""
    by_batch = line["plain_B"] - line["plain_A"] if "instance" in line["causes"] else 0.0
    return bool(line["causes"]) and max(line["gain"], by_batch) < REAL


def difference(line: dict[str, Any], which: str) -> float:
    """Return how far the doctor's A or B is from the plain pass."""
    return abs(line[which] - line[f"plain_{which}"])


def table(lines: list[dict[str, Any]]) -> str:
    """Return the results as a table."""
    head = (
        "| network | norms | A, plain | A, doctor | B, plain | B, doctor | named | C planted | C promised "
        "| C repaired | cause of the planted | CPU-seconds | wrong |"
    )
    rows = [head, "|" + "---|" * 13]
    for line in sorted(lines, key=lambda line: (not fault(line), line["name"].lower())):
        if "error" in line:
            cells = [""] * 10
        else:
            figures = [line["plain_A"], line["A"], line["plain_B"], line["B"]]
            cells = [
                str(line["norms"]),
                *(f"{100 * value:.1f}" for value in figures),
                ", ".join(line["named"]),
                *_planted_cells(line),
            ]
        rows.append(f"| {' | '.join([line['name'], *cells, str(line['seconds']), fault(line).replace('|', '/')])} |")
    return "\n".join(rows)


def _planted_cells(line: dict[str, Any]) -> list[str]:
    """Return C as planted, promised and repaired, and the causes."""
    if "promised" not in line:
        return [""] * 4
    figures = [line["sick"], line["promised"]["C"], line["repaired"].get("C")]
    return [*("" if value is None else f"{100 * value:.1f}" for value in figures), ", ".join(line["blamed"])]


def summary(lines: list[dict[str, Any]]) -> str:
    """Return the counts."""
    ran = [line for line in lines if "error" not in line]
    equal = sum(all(difference(line, which) <= ALLOWED + line["ties"] for which in "AB") for line in ran)
    false = sum(map(is_false, ran))
    suspected = sum(bool(line["suspicions"]) for line in ran)
    tripped = [line for line in ran if "promised" in line]
    blamed = sum(bool(line["blamed"]) for line in tripped)
    return (
        f"{len(lines)} architectures: A and B equal a plain pass in {equal}, crashes {len(lines) - len(ran)}, "
        f"false causes {false}, suspicions {suspected}. Slow statistics planted: a cause proven in {blamed} of "
        f"{len(tripped)}; repaired, saved and loaded with the promised scores {sum(map(round_trip, tripped))}; "
        f"{sum(line['seconds'] for line in lines):.0f} CPU-seconds."
    )


PAGE = """# Architectures of other libraries

torch 2.14.1, torchvision 0.29.1, timm 1.0.31, transformers 5.24.0, torch-geometric 2.8.1, monai 1.6.1. Random weights,
three epochs on 256 samples, freshly computed running statistics; scores in %. A and B are compared with plain eval and
train passes over the same batches, dropout being off. "C planted": evaluation score with the running statistics that a
momentum of 0.001 has after one epoch. "C repaired": that of `Diagnosis.repaired()` by a plain pass, which must be what
the diagnosis promises, also after saving and loading into a fresh network.

    make test-zoo

"""


def main() -> int:
    """See the top of the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("bench-zoo"), help="folder for zoo.jsonl")
    parser.add_argument("--page", type=Path, help="file of the table; default: OUT/zoo.md")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these networks alone")
    parser.add_argument("--jobs", type=int, default=2, help="processes, of one thread each")
    parser.add_argument("--list", action="store_true", help="print the networks' names and stop")
    options = parser.parse_args()
    from tests.zoo.architectures import ZOO

    if options.list:
        print("\n".join(ZOO))
        return 0
    if unknown := set(options.only or ()) - set(ZOO):
        parser.error(f"--only names unknown networks: {', '.join(sorted(unknown))}. Print the names with --list.")
    os.environ["OMP_NUM_THREADS"] = "1"
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "zoo.jsonl"
    lines = [json.loads(text) for text in path.read_text().splitlines()] if path.exists() else []
    wanted = options.only or list(ZOO)
    missing = [name for name in wanted if name not in {line["name"] for line in lines}]
    with path.open("a") as file, ProcessPoolExecutor(options.jobs, multiprocessing.get_context("spawn")) as pool:
        for line in pool.map(compared, missing):
            lines.append(line)
            file.write(json.dumps(line) + "\n")
            file.flush()
            print(f"{'NO ' if fault(line) else 'ok '} {line['name']} {fault(line)} {line['seconds']} s", flush=True)
    chosen = [line for line in lines if line["name"] in wanted]
    (options.page or options.out / "zoo.md").write_text(f"{PAGE}{summary(chosen)}\n\n{table(chosen)}\n")
    print(summary(chosen))
    return int(any(fault(line) for line in chosen))


if __name__ == "__main__":
    sys.exit(main())
