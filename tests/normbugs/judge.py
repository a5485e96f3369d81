"""Judge the doctor on one case: the symptom, what it names, and whether its remedy keeps its promise."""

from __future__ import annotations

import math
import re
import signal
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import numpy as np
import torch

from pipeline.normdoctor import Diagnosis, diagnose
from tests.normbugs.case import NORM_CAUSES, Case, Patient
from tests.normbugs.repairs import REPAIRS
from tests.normbugs.rivals import asked

DENIAL = re.compile(r"not to blame|does not depend|no check explains|no cause was found", re.IGNORECASE)
# Characters of the verdict that count as its headline.
HEADLINE = 160
# Seconds after which a program or its diagnosis counts as hanging.
LIMIT = 90
# A promise is kept within two points, or within this share of what the bug costs.
KEPT_POINTS, KEPT_SHARE = 0.02, 0.1


def judge(case: Case, seed: int, rivals: bool = False) -> list[dict[str, Any]]:
    """Return one JSON line for the buggy program and one for its fixed twin."""
    patients = {twin: _made(case, seed, twin == "fixed") for twin in ("buggy", "fixed")}
    scores = {twin: patient.score(patient.model) for twin, (patient, _) in patients.items()}
    lines = []
    for twin, (patient, seconds) in patients.items():
        line = {
            "case": case.name,
            "seed": seed,
            "twin": twin,
            "kind": case.kind,
            "expected": list(case.causes),
            "blind": case.blind,
            "certainty": case.certainty,
            "score": number(scores[twin]),
            "symptom": worse(scores["buggy"], scores["fixed"]) if twin == "buggy" else None,
            "make_seconds": round(seconds, 2),
        }
        cost = scores["fixed"] - scores["buggy"]
        line |= _diagnosed(case, patient, twin == "fixed", cost)
        lines.append({**line, "rivals": asked(patient, case)} if rivals else line)
    return lines


def worse(buggy: float, fixed: float) -> bool:
    """Return whether the buggy score is clearly worse: 5 points, or a tenth of a score outside [0, 1]."""
    if not math.isfinite(buggy):
        return math.isfinite(fixed)
    return fixed - buggy >= (0.05 if 0 <= buggy <= 1 and 0 <= fixed <= 1 else 0.1 * abs(buggy))


def number(value: float | None) -> float | None:
    """Return a number that JSON has, or None."""
    return None if value is None or not math.isfinite(value) else round(value, 5)


def _made(case: Case, seed: int, fixed: bool) -> tuple[Patient, float]:
    start = time.perf_counter()
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - of a user's program
    with _time_limit(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patient = case.make(seed, fixed)
    return patient, time.perf_counter() - start


def _diagnosed(case: Case, patient: Patient, fixed: bool, cost: float) -> dict[str, Any]:
    """Run the doctor as a user would and compare it with what is known."""
    start = time.perf_counter()
    try:
        with _time_limit(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = diagnose(patient.model, patient.train, patient.held_out, **patient.options)
    except Exception as error:  # whatever a user would get to see
        text = f"{type(error).__name__}: {error}"[:300]
        return {"error": text, "named": [], "first": None, "right": False, "agrees": False, "false": []}
    seconds = time.perf_counter() - start
    blamed = [name for name in found.named if name in NORM_CAUSES]
    expects = () if fixed else case.causes
    first = found.named[0] if found.named else None
    return {
        "named": found.named,
        "causes": [cause.check for cause in found.causes],
        "first": first,
        "right": first in expects if expects else not blamed,
        "agrees": not expects or not DENIAL.search(found.verdict[:HEADLINE]),
        "false": [] if expects else blamed,
        "scores": {name: number(value) for name, value in found.accuracies.items()},
        "verdict": found.verdict[:300],
        "seconds": round(seconds, 2),
        **_promise(found, patient, cost),
    }


def _promise(found: Diagnosis, patient: Patient, cost: float) -> dict[str, Any]:
    """Compare the first cause's promised score with the score of an independent repair."""
    if not found.causes or patient.held_out is None or found.causes[0].check not in REPAIRS:
        return {}
    promised = found.causes[0].after
    outside = patient.score(REPAIRS[found.causes[0].check](patient))
    apart = abs(outside - promised)
    kept = apart <= max(KEPT_POINTS, KEPT_SHARE * abs(cost)) if math.isfinite(cost) else apart <= 0.1 * abs(outside)
    return {"promised": number(promised), "outside": number(outside), "kept": kept}


@contextmanager
def _time_limit(seconds: int = LIMIT) -> Iterator[None]:
    """Raise TimeoutError in the main thread where the limit is reached."""

    def late(_: int, __: FrameType | None) -> None:
        raise TimeoutError(f"not done after {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
