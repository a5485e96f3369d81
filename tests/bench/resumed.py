"""Benchmarks that append one JSON line per case to a file, and resume where they were stopped."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Hashable, Iterable
from pathlib import Path
from typing import Any

import torch

Line = dict[str, Any]


def parser(text: str, out: str, networks: Iterable[str]) -> argparse.ArgumentParser:
    """Return a parser of the options that such a benchmark has.

    Args:
        text: Its documentation.
        out: Folder of its results.
        networks: Names of its networks.
    """
    made = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--out", type=Path, default=Path(out), help="folder of the results")
    made.add_argument("--networks", nargs="+", choices=list(networks), default=list(networks), help="these alone")
    made.add_argument("--table", action="store_true", help="only print the table of what was measured")
    return made


def lines_of(
    options: argparse.Namespace,
    file: str,
    wanted: set[Any],
    key: Callable[[Line], Hashable],
    measure: Callable[[set[Any]], Iterable[Line]],
    shown: Callable[[Line], str],
) -> list[Line]:
    """Measure the wanted cases that a file lacks, and return the lines of all that are wanted.

    Args:
        options: As parsed.
        file: Name of the file in the folder of the results.
        wanted: Keys of the cases.
        key: Line -> key of its case.
        measure: Keys -> lines, one by one.
        shown: Line -> what is printed of it.
    """
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", len(os.sched_getaffinity(0)))))
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / file
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    missing = set() if options.table else wanted - {key(line) for line in lines}
    with path.open("a") as results:
        for line in measure(missing):
            lines.append(line)
            results.write(json.dumps(line) + "\n")
            results.flush()
            print(shown(line), flush=True)
    return [line for line in lines if key(line) in wanted]
