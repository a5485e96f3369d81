"""Train one network on one data file.

    python -m pipeline.train default --data ntu60.h5 --out runs/bn-loop --norm.kind bn --norm.persons loop
    python -m pipeline.train default --data ntu60.h5 --out runs/ddp --nproc 2 --train.batch-size 128
    torchrun --nproc-per-node 4 -m pipeline.train default --data ntu60.h5 --out runs/four
    python -m pipeline.train default --data mine.h5 --out runs/tuned --init runs/ddp --train.freeze trunk

The same command again resumes from the last checkpoint. With more --train.epochs it continues, a finished run too: from
the next epoch on the learning rate is that of the schedule over the new length (a finished cosine rises again; constant
and exp do not depend on the length). --init starts from the weights of another run, for other classes and joints.
RUN/summary.json has the figures, RUN/ledger.jsonl one line per epoch. Exit codes: 0 ok, 2 wrong settings, 3 a rank
died or hangs, 5 non-finite loss, 6 damaged file, 7 no space, 8 out of memory, 130 interrupted, 143 terminated.
"""

from __future__ import annotations

import os
import sys
from contextlib import nullcontext

from pipeline import launcher
from pipeline.config import Config, of_run
from pipeline.options import read_options
from pipeline.run_folder import Run
from preprocessing import exits, hdf5, lifetime, startup


def run(config: Config, read_test: bool = True, follow: bool = True) -> None:
    """Do the whole work of one rank (`pipeline.training.run`), in which torch loads."""
    from pipeline import training

    training.run(config, read_test, follow)


def main() -> int:
    """Run `python -m pipeline.train`; returns the exit code."""
    with lifetime.interruptible():
        try:
            command = read_options("pipeline.train")
            if command.dry_run:
                from pipeline import dry_run

                print(dry_run.report(of_run(command)))
            else:
                work(of_run(command))
        except BaseException as error:
            return exits.report(error, "interrupted; the same command resumes")
    return 0


def work(config: Config) -> None:
    """Train as one process, as ranks that this process starts, or as one rank of another launcher."""
    first = not launcher.launched() or os.environ["RANK"] == "0"
    with Run(config.out).lock() if first else nullcontext():
        if first:
            Run.claim(config)
            if config.fast_start:
                print(hdf5.skipped(config.data), file=sys.stderr)
        if config.nproc > 1 and not launcher.launched():
            launcher.launch(run, (config,), config.nproc, config.rank_timeout)
        else:
            run(config)


if __name__ == "__main__":
    startup.early(lambda: read_options("pipeline.train"))
    # Ranks are started by name: they must find this module under its own name, not as __main__.
    from pipeline.train import main as imported_main

    sys.exit(startup.run(imported_main))
