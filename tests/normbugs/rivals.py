"""Ask other tools about a patient: what each one reports, and the score after what it repairs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.normbugs.case import Patient

# Tool -> function of a patient that returns JSON values.
RIVALS: dict[str, Callable[[Patient], Any]] = {}


def asked(patient: Patient) -> dict[str, Any]:
    """Return what every installed tool reports, or the error that it ends in."""
    answers: dict[str, Any] = {}
    for name, ask in RIVALS.items():
        try:
            answers[name] = ask(patient)
        except Exception as error:  # of a foreign tool, on a model that it was not made for
            answers[name] = {"error": f"{type(error).__name__}: {error}"[:200]}
    return answers
