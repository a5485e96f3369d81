"""Ask other tools about a patient: what each one reports, and the score after what it repairs.

Each tool gets the patient as its documentation asks for: the linters a few training steps or the script, the
recalibrations the training loader. A report counts as a cause only where REPORTS maps it to causes of the doctor; any
of them is right. Tools that are not installed are left out (`pip install torch-audit torchtest2 torchmortem mldoct
fvcore`, or `make test-zoo`, whose environment has them).
"""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import io
import logging
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import update_bn

from tests.normbugs.case import CASES, Case, Patient
from tests.normbugs.training import first

# Report of a tool -> the causes that it can mean; reports that are not named here are no causes of this benchmark.
REPORTS: dict[str, tuple[str, ...]] = {
    # torch-audit: NaN or Inf, data range, invalid input, tiny batch, weight decay on norms, stateful layer reuse.
    "TA100": ("precision",),
    "TA301": ("inputs", "shift"),
    "TA305": ("inputs", "precision"),
    "TA304": ("small",),
    "TA402": ("decay",),
    "TA501": ("reuse",),
    # torchtest2
    "eval_determinism": ("mode", "dropout"),
    "batch_independence": ("mode", "leakage", "correlated"),
    "output_finite": ("precision", "buffers"),
    # mldoct
    "missing_eval": ("mode",),
}
# Training steps that torch-audit and torchmortem watch.
STEPS = 30


def torch_audit(patient: Patient, case: Case) -> dict[str, Any]:
    """Report what torch-audit finds in a few training steps."""
    from torch_audit import autopatch

    model = copy.deepcopy(patient.model).train()
    optimizer = torch.optim.Adam(model.parameters(), 1e-4)
    auditor = autopatch(model, optimizer=optimizer, every_n_steps=1, reporters=[], suppress_internal_errors=True)
    try:
        for batch in islice(patient.train, 3):
            auditor.audit_data(batch)
            _step(model, optimizer, patient, batch)
        found = auditor.finish().findings
    finally:
        auditor.unpatch()
    return {"reported": sorted({finding.rule_id for finding in found if finding.severity.value != "INFO"})}


def torchtest2(patient: Patient, case: Case) -> dict[str, Any]:
    """Report the checks of torchtest2 that fail or warn on one batch; the slow overfitting test is left out."""
    from torchtest2 import check_model

    own, batch = patient.options.get("forward"), next(iter(patient.train))
    how = {"forward_fn": lambda model, batch, _: own(model, batch), "eval_forward_fn": own} if own else {}
    report = check_model(copy.deepcopy(patient.model), batch if own else batch[0], skip={"overfit_batch"}, **how)
    return {"reported": sorted(result.name for result in (*report.failures, *report.warnings))}


def torchmortem(patient: Patient, case: Case) -> dict[str, Any]:
    """Report what torchmortem finds in STEPS training steps."""
    from torchmortem import Autopsy

    logging.getLogger("torchmortem").setLevel(logging.ERROR)
    model = copy.deepcopy(patient.model).train()
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    with Autopsy(model, optimizer=optimizer) as autopsy:
        for batch in _endless(patient.train, STEPS):
            autopsy.step(loss=_step(model, optimizer, patient, batch))
    report = autopsy.get_report()
    return {"reported": sorted({finding.detector for finding in report.findings if finding.severity > 0})}


def mldoct(patient: Patient, case: Case) -> dict[str, Any]:
    """Report what mldoct's linter reads in the program, which holds both twins but not the loop that they share."""
    path = Path(importlib.util.find_spec("mldoctor").submodule_search_locations[0]) / "linter.py"  # type: ignore[union-attr, index]
    # The package itself loads a pickle at import; its linter needs none.
    spec = importlib.util.spec_from_file_location("mldoctor_linter", path)
    linter = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    spec.loader.exec_module(linter)  # type: ignore[union-attr]
    findings, _ = linter.lint_script(str(CASES / f"{case.name}.py"))
    return {"reported": sorted({finding["type"] for finding in findings if finding["severity"] != "INFO"})}


def update_bn_of_torch(patient: Patient, case: Case) -> dict[str, Any]:
    """Score the model after torch's update_bn over the training loader."""
    model = copy.deepcopy(patient.model)
    update_bn(([batch] for batch in patient.train), OfBatches(model, patient))
    return {"score": patient.score(model)}


def fvcore(patient: Patient, case: Case) -> dict[str, Any]:
    """Score the model after fvcore's update_bn_stats over the training loader, which wants training mode."""
    from fvcore.nn.precise_bn import update_bn_stats

    model = copy.deepcopy(patient.model)
    modes = [module.training for module in model.modules()]
    batches = list(islice(patient.train, 200))
    update_bn_stats(OfBatches(model, patient).train(), batches, len(batches))
    for module, training in zip(model.modules(), modes, strict=True):
        module.training = training
    return {"score": patient.score(model)}


# Tool -> the module that it is installed as, and the question.
RIVALS: dict[str, tuple[str, Callable[[Patient, Case], dict[str, Any]]]] = {
    "torch-audit 0.3.0": ("torch_audit", torch_audit),
    "torchtest2 0.1.0": ("torchtest2", torchtest2),
    "torchmortem 0.1.1": ("torchmortem", torchmortem),
    "mldoct 1.0.0": ("mldoctor", mldoct),
    "torch update_bn": ("torch", update_bn_of_torch),
    "fvcore update_bn_stats": ("fvcore", fvcore),
}


class OfBatches(nn.Module):
    """A model as a module of whole batches, used as its user does."""

    def __init__(self, model: nn.Module, patient: Patient) -> None:
        super().__init__()
        self.model, self.use = model, patient.options.get("forward", first)

    def forward(self, batch: Any) -> Any:
        return self.use(self.model, batch)


def absent() -> list[str]:
    """Return the tools that are not installed."""
    return [name for name, (module, _) in RIVALS.items() if importlib.util.find_spec(module) is None]


def asked(patient: Patient, case: Case) -> dict[str, Any]:
    """Return what every installed tool answers, or the error that it ends in."""
    answers: dict[str, Any] = {}
    missing = absent()
    for name, (_, ask) in RIVALS.items():
        if name in missing:
            continue
        try:
            with torch.random.fork_rng(devices=[]), contextlib.redirect_stdout(io.StringIO()):
                torch.manual_seed(0)
                answers[name] = ask(patient, case)
        except Exception as error:  # of a foreign tool, on a model that it was not made for
            answers[name] = {"error": f"{type(error).__name__}: {error}"[:200]}
    return answers


def meant(answer: dict[str, Any]) -> set[str]:
    """Return the causes that a tool's reports can mean."""
    return {cause for report in answer.get("reported", ()) for cause in REPORTS.get(report, ())}


# --- the table --------------------------------------------------------------------------------------------------------

Line = dict[str, Any]


def table(lines: Iterable[Line]) -> str:
    """Return one row per tool: named causes, false alarms, points recovered on the evaluation part."""
    every = [line for line in lines if "rivals" in line]
    if not every:
        return ""
    fixed = {(line["case"], line["seed"]): line["score"] for line in every if line["twin"] == "fixed"}
    rows = [
        "| tool | cause named | false causes on fixed twins | any report on them | cost recovered | errors |",
        "|---|---|---|---|---|---|",
    ]
    for name in ("the doctor", *RIVALS):
        answers = [(line, _doctors(line) if name == "the doctor" else line["rivals"].get(name)) for line in every]
        if not any(answer for _, answer in answers):
            rows.append(f"| {name} | not installed | | | | |")
            continue
        rows.append(_row(name, [(line, answer) for line, answer in answers if answer is not None], fixed))
    return "\n".join(rows)


def _doctors(line: Line) -> dict[str, Any]:
    """Return the doctor's line as an answer: its first name, and the score that its remedy gives outside of it."""
    if "error" in line:
        return {"error": line["error"]}
    answer: dict[str, Any] = {"causes": [line["first"]] if line["twin"] == "buggy" else line["false"]}
    return answer | {"score": line.get("outside", line["score"])}


def _row(name: str, answers: list[tuple[Line, dict[str, Any]]], fixed: dict[tuple[str, int], float]) -> str:
    buggy = [(line, answer) for line, answer in answers if line["twin"] == "buggy" and line["expected"]]
    sound = [answer for line, answer in answers if line["twin"] == "fixed"]
    right = sum(bool(_causes(answer) & set(line["expected"])) for line, answer in buggy)
    recovered = [share for line, answer in buggy if (share := _recovered(line, answer, fixed)) is not None]
    names = any("reported" in answer or "causes" in answer for _, answer in answers)
    cells = [
        name,
        f"{right} of {len(buggy)}" if names else "-",
        f"{sum(bool(_causes(answer)) for answer in sound)} of {len(sound)}" if names else "-",
        f"{sum(bool(answer.get('reported', _causes(answer))) for answer in sound)} of {len(sound)}" if names else "-",
        f"{100 * sum(recovered) / len(recovered):.0f} % (n {len(recovered)})" if recovered else "-",
        str(sum("error" in answer for _, answer in answers)),
    ]
    return f"| {' | '.join(cells)} |"


def _causes(answer: dict[str, Any]) -> set[str]:
    return set(answer["causes"]) if "causes" in answer else meant(answer)


def _recovered(line: Line, answer: dict[str, Any], fixed: dict[tuple[str, int], float]) -> float | None:
    """Return the share of the bug's cost that a repair recovers, within [0, 1]; None without a repair or a cost."""
    target, before, after = fixed.get((line["case"], line["seed"])), line["score"], answer.get("score")
    if target is None or before is None or after is None or after != after or target <= before:
        return None
    return min(1.0, max(0.0, (after - before) / (target - before)))


# --- training steps ---------------------------------------------------------------------------------------------------


def _step(model: nn.Module, optimizer: torch.optim.Optimizer, patient: Patient, batch: Any) -> float:
    """Take one optimizer step and return the loss."""
    optimizer.zero_grad()
    loss = _loss(patient.options.get("forward", first)(model, batch), batch)
    loss.backward()
    optimizer.step()
    return loss.item()


def _loss(output: Any, batch: Any) -> Tensor:
    """Return the loss that fits output and labels; where none does, the mean of the output."""
    label = batch[-1] if isinstance(batch, tuple | list) else None
    if isinstance(output, Tensor) and isinstance(label, Tensor):
        if label.dtype == torch.long and output.dim() > 1 and label.shape == output.shape[:1] + output.shape[2:]:
            return functional.cross_entropy(output.float(), label)
        if label.shape == output.shape:
            return functional.mse_loss(output.float(), label.float())
    while not isinstance(output, Tensor):
        output = next(iter(output.values())) if isinstance(output, dict) else output[0]
    return output.float().mean()


def _endless(batches: Iterable[Any], number: int) -> Iterator[Any]:
    """Yield so many batches, passing over the loader again where it is short."""
    given = 0
    while True:
        for batch in batches:
            if given == number:
                return
            given += 1
            yield batch
