"""Find out why a run's batch norms evaluate badly, prove it, and repair the run.

    python -m pipeline.doctor runs/bn-loop
    python -m pipeline.doctor runs/bn-loop --split test --html report.html
    python -m pipeline.doctor runs/bn-loop --fix
    python -m pipeline.doctor runs/bn-loop --probe-lr 3 --fine-tune 20

Writes RUN/doctor.json. A cause is a finding whose remedy, tried without retraining, recovers accuracy; a suspicion is a
finding that only training anew can prove. --fix writes the repaired run to RUN-fixed (or --out): the same weights, with
its accuracy before and after in its summary.json. --probe-lr and --fine-tune train copies, to test what no other
statistics can show. Nothing else in RUN changes, except that --wandb writes to RUN/wandb.
Exit codes: 0 ok, 2 wrong settings, 6 damaged file.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from pipeline.options import Doctor, read_options
from preprocessing import startup

if __name__ == "__main__":
    startup.early(lambda: read_options("pipeline.doctor"))  # before torch loads

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipeline.doctor import probes
from pipeline.doctor.absence import absence
from pipeline.doctor.patient import diagnose_run, evaluated_on
from pipeline.doctor.repair import destination, fix_run
from pipeline.normdoctor import Cause, Diagnosis, GeneralizationLoss, Suspicion
from pipeline.pages import diagnosis as pages
from pipeline.run_folder import Run
from pipeline.tracking.follower import record_diagnosis
from preprocessing import exits, files
from preprocessing.arguments import suggest
from preprocessing.pages import Provenance


def show(diagnosis: Diagnosis, split: str, console: Console) -> None:
    """Print the verdict, then the figures; C and D are those of the split."""
    console.print(f"\n[bold]{diagnosis.verdict}[/bold]\n")
    table = Table("statistics", "A train", f"C {split}")
    four = diagnosis.accuracies
    lines: dict[str, dict[str, Any]] = {"running": four, "batch (B, D)": {"A": four["B"], "C": four.get("D")}}
    for name, values in (lines | diagnosis.recalibration).items():
        if name == "eval":
            continue  # running statistics: the first line
        cells = [f"{100 * values[k]:.1f} %" if values.get(k) is not None else "" for k in "AC"]
        table.add_row(name if name in lines else f"recalibrated: {name}", *cells)
    console.print(table)
    kinds: dict[str, Sequence[Cause | Suspicion | GeneralizationLoss]] = {
        "cause": diagnosis.causes,
        "suspicion": diagnosis.suspicions,
        "generalization": diagnosis.rest,
    }
    for kind, entries in kinds.items():
        for entry in entries:
            console.print(f"[bold]{kind}: {entry.check}[/bold]. Remedy: {entry.remedy}")


def check(command: Doctor) -> None:
    """Raise ValueError for options that contradict one another or are out of range."""
    files.require_suffix("--html", command.html, ".html")
    if command.out is not None and not command.fix:
        raise ValueError("--out is the folder of the repaired run: add --fix")
    if min(command.probe_lr, command.fine_tune) < 0:
        raise ValueError("--probe-lr and --fine-tune are numbers of epochs: must be at least 0")


def main() -> int:
    """Run `python -m pipeline.doctor` and return the exit code."""
    command: Doctor = read_options("pipeline.doctor")
    console = Console()
    try:
        check(command)
        folder = command.run.resolve()  # "." has no name
        run, out = Run(folder), destination(folder, command.out) if command.fix else None
        torch.manual_seed(0)
        diagnosis, split = diagnose_run(folder, command.split)
        show(diagnosis, split, console)
        answer: dict[str, Any] = {"judged": split, **diagnosis.as_dict()}
        fitted_N, eval_N = run.splits.fit(run.config.input.fit), evaluated_on(run, split)[1]
        if gaps := absence(run.data, fitted_N.numpy(), eval_N.numpy(), split):
            answer["absent_joints"] = gaps
            console.print(gaps["text"], highlight=False, soft_wrap=True)
        # Published after each part, so that an error in a later part loses only that part.
        run.write_doctor(answer)
        if command.probe_lr:
            answer["probe_lr"] = probes.probe_rate(folder, split, command.probe_lr)
            console.print(answer["probe_lr"]["text"])
            run.write_doctor(answer)
        if command.fine_tune:
            answer["fine_tune"] = probes.fine_tunes(folder, split, command.fine_tune)
            for entry in answer["fine_tune"].values():
                console.print(entry["text"])
            run.write_doctor(answer)
        if command.fix:
            answer["fix"] = fix_run(folder, diagnosis.remedy, out)
            console.print(described(answer["fix"], diagnosis.remedy), highlight=False)
            run.write_doctor(answer)
        print(f"written: {command.run / 'doctor.json'}")
        if diagnosis.causes and not command.fix:
            suggest("pipeline.doctor", command.run, "--fix")
        record_diagnosis(folder, command.wandb)
        if command.html is not None:
            files.publish_text(
                command.html, pages.page(folder.name, answer, Provenance.of("pipeline.doctor", sys.argv[1:]))
            )
            print(command.html.resolve())
    except (ValueError, OSError, KeyboardInterrupt) as error:
        return exits.report(error)
    return 0


def described(fix: dict[str, Any] | None, remedy: str | None) -> str:
    """Return the effect of the repair in one line; `remedy` is the proven one."""
    if remedy is None:
        return "nothing to repair: no remedy is proven for this run"
    if fix is None:
        return (
            f"not repaired: no run folder can keep the remedy {remedy!r}. normdoctor.diagnose(...).repaired() returns "
            "a model that does."
        )
    before, after = (fix[key]["accuracies"] for key in ("before", "after"))
    names = [name for name in "AC" if name in before]
    moves = ", ".join(f"{name} {100 * before[name]:.1f} -> {100 * after[name]:.1f} %" for name in names)
    split = f" (C: {fix['eval']})" if "C" in names else ""
    return f"repaired ({fix['remedy']}): {moves}{split}; nothing retrained: {escape(fix['out'])}"


if __name__ == "__main__":
    sys.exit(startup.run(main))
