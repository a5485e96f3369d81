"""Measure how often the norm doctor is right on NormBugs: real normalization faults, rebuilt from public threads.

    make bench-normbugs
    python tests/bench/normbugs.py --cases pytorch_4741 pytorch_5060 --seeds 1
    python tests/bench/normbugs.py --table
    .venv-zoo/bin/python tests/bench/normbugs.py --rivals --out bench-normbugs-rivals

Each thread is one file of tests/normbugs/cases: a small program, its fixed twin, and the established cause. Each
(case, seed) gives two JSON lines in OUT/normbugs.jsonl, one per twin; the same command again resumes, so change OUT
when the doctor or a case has changed. The tables are Markdown for tests/bench/results/normbugs.md. `make test-zoo`
makes the environment that has the rivals.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections import defaultdict
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import torch

HOME = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(HOME)]

from pipeline.normdoctor.checks import REST  # noqa: E402
from tests.normbugs.case import load, names  # noqa: E402
from tests.normbugs.judge import judge  # noqa: E402
from tests.normbugs.rivals import absent  # noqa: E402
from tests.normbugs.rivals import table as rivals_table  # noqa: E402

Line = dict[str, Any]


def worker(name: str, seed: int, rivals: bool) -> list[Line]:
    """Judge one case in a worker process."""
    torch.set_num_threads(1)
    try:
        return judge(load(name), seed, rivals)
    except Exception as error:  # a program that fails is a line of the table, not the end of the bench
        return [{"case": name, "seed": seed, "twin": "buggy", "failed": f"{type(error).__name__}: {error}"[:300]}]


def run(jobs: list[tuple[str, int]], path: Path, workers: int, rivals: bool) -> None:
    """Judge the jobs in worker processes and append their lines to a file."""
    start = time.perf_counter()
    with path.open("a") as file, ProcessPoolExecutor(workers) as pool:
        futures = [pool.submit(worker, name, seed, rivals) for name, seed in jobs]
        for future in as_completed(futures):
            lines = future.result()
            file.writelines(json.dumps(line) + "\n" for line in lines)
            file.flush()
            for line in lines:
                print(f"{mark(line):7} {line['case']} {line['seed']} {line['twin']}: {summary(line)}", flush=True)
    print(f"{len(jobs)} cases and seeds in {time.perf_counter() - start:.0f} s")


def mark(line: Line) -> str:
    """Return the grade of a line in one word."""
    if "failed" in line or "error" in line:
        return "CRASH"
    if line["twin"] == "buggy" and not line["symptom"]:
        return "NO-BUG"
    if not line["right"]:
        return "WRONG"
    return "ok" if line["agrees"] else "half"


def summary(line: Line) -> str:
    """Return what was named, and how the remedy did."""
    if "failed" in line or "error" in line:
        return str(line.get("failed") or line["error"])
    named = ", ".join(line["named"]) or "-"
    wanted = f" (expected {' or '.join(line['expected']) or 'none'})" if line["twin"] == "buggy" else ""
    promise = f"; promised {line['promised']}, outside {line['outside']}" if "promised" in line else ""
    return f"score {line['score']}; {named}{wanted}{promise}"


def table(lines: Iterable[Line]) -> str:
    """Return the results per kind as a Markdown table, and what is wrong below it."""
    kinds: dict[str, list[Line]] = defaultdict(list)
    for line in lines:
        kinds[line.get("kind", "failed")].append(line)
    head = (
        "| kind | threads | symptom | first name right | headline agrees | precision | false on fixed | remedy kept |"
    )
    rows = [head, "|" + "---|" * 8]
    rows += [row(kind, mine) for kind, mine in sorted(kinds.items())]
    everything = [line for mine in kinds.values() for line in mine]
    rows.append(row("**all**", everything))
    rows.append(row("**all, blind**", [line for line in everything if line.get("blind")]))
    stated = ("maintainer", "reporter")
    rows.append(row("**all, cause stated in the thread**", [c for c in everything if c.get("certainty") in stated]))
    faults: dict[tuple[str, str, str], list[int]] = defaultdict(list)
    for line in everything:
        if mark(line) not in ("ok",) or line.get("kept") is False:
            faults[line["case"], line["twin"], f"{mark(line)}: {fault(line)}"].append(line["seed"])
    wrong = [f"* {case}, {twin}, seeds {sorted(seeds)}: {text}" for (case, twin, text), seeds in sorted(faults.items())]
    return "\n".join([*rows, "", *wrong])


def fault(line: Line) -> str:
    """Return what is wrong with a line, without its figures."""
    if "failed" in line or "error" in line:
        return summary(line)
    kept = "" if line.get("kept") is not False else f"; promised {line['promised']}, outside {line['outside']}"
    return f"{', '.join(line['named']) or 'nothing'} (expected {' or '.join(line['expected']) or 'none'}){kept}"


def row(kind: str, lines: list[Line]) -> str:
    """Return one row of the table."""
    buggy = [line for line in lines if line["twin"] == "buggy"]
    expecting = [line for line in buggy if line.get("expected")]
    fixed = [line for line in lines if line["twin"] == "fixed"]
    blaming = [line for line in buggy + fixed if line.get("first") and line["first"] not in REST]
    precise = sum(line["first"] in line["expected"] and line["twin"] == "buggy" for line in blaming)
    promised = [line for line in expecting if "kept" in line and line["right"]]
    cells = [
        kind,
        str(len({line["case"] for line in lines})),
        share(sum(bool(line.get("symptom")) for line in buggy), len(buggy)),
        share(sum(bool(line.get("right")) for line in expecting), len(expecting)),
        share(sum(bool(line.get("right") and line["agrees"]) for line in expecting), len(expecting)),
        share(precise, len(blaming)),
        share(sum(bool(line.get("false")) or "error" in line for line in fixed), len(fixed)),
        share(sum(line["kept"] for line in promised), len(promised)),
    ]
    return "| " + " | ".join(cells) + " |"


def share(count: int, of: int) -> str:
    """Return a count and its whole."""
    return f"{count} of {of}" if of else "-"


def main() -> None:
    """See the top of the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("bench-normbugs"), help="folder of the results")
    parser.add_argument("--cases", nargs="+", metavar="NAME", default=names(), help="only these cases")
    parser.add_argument("--seeds", type=int, default=5, help="seeds per case")
    parser.add_argument("--workers", type=int, default=2, help="worker processes, one thread each")
    parser.add_argument("--rivals", action="store_true", help="also ask the other tools that are installed")
    parser.add_argument("--table", action="store_true", help="only print the table of what was measured")
    options = parser.parse_args()
    if unknown := set(options.cases) - set(names()):
        parser.error(f"{', '.join(sorted(unknown))} is not a case: choose from {', '.join(names())}")
    os.environ["OMP_NUM_THREADS"] = "1"
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "normbugs.jsonl"
    known = {(line["case"], line["seed"]) for line in read(path)}
    jobs = [(name, seed) for seed in range(options.seeds) for name in options.cases if (name, seed) not in known]
    if options.rivals and (missing := absent()):
        print(f"Not installed, and left out: {', '.join(missing)}. `make test-zoo` makes an environment that has them.")
    if not options.table:
        run(jobs, path, options.workers, options.rivals)
    chosen = [line for line in read(path) if line["case"] in options.cases]
    print("\n\n".join(part for part in (table(chosen), rivals_table(chosen)) if part))


def read(path: Path) -> list[Line]:
    """Return the lines of a results file; none where it does not exist."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


if __name__ == "__main__":
    main()
