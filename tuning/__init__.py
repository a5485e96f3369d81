"""Many trainings: a search for good settings, or a study of arms over seeds; both leave a study folder.

`space` defines what is searched and `arms` what is compared. `search` (TPE draws, ASHA stops early) and `study` (arms x
seeds) are sources of tasks for the `engine`, which runs them on Ray. Each task is an `attempt`: a process that does the
work of a `trial`, as its `trial_spec` says. `ledger` is the record, `statistics` compares, `results` and `page` show.

    from pathlib import Path
    from tuning import Study, run_study
    result = run_study(Study(Path("clips.h5"), Path("studies/norms"), arms="norms", seeds=5))
    for arm in result.document["arms"]:
        print(arm["arm"], arm["effect"], arm["interval"], arm["p_holm"])

The names below are loaded on first use: `import tuning` loads neither torch nor Ray.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from preprocessing.public import lazy_names

if TYPE_CHECKING:
    from tuning.arms import ARMS, Arm, Arms, read_arms
    from tuning.engine import EngineError
    from tuning.ledger import Outcome, Task
    from tuning.re_evaluations import RE_EVALUATIONS, re_evaluate
    from tuning.results import read_results, study_document
    from tuning.search import Search, run_search
    from tuning.space import SPACE
    from tuning.statistics import Comparison, compare, holm
    from tuning.study import Study, StudyResult, run_study
    from tuning.trial_spec import TrialSpec

__all__ = [
    "ARMS",
    "RE_EVALUATIONS",
    "SPACE",
    "Arm",
    "Arms",
    "Comparison",
    "EngineError",
    "Outcome",
    "Search",
    "Study",
    "StudyResult",
    "Task",
    "TrialSpec",
    "compare",
    "holm",
    "re_evaluate",
    "read_arms",
    "read_results",
    "run_search",
    "run_study",
    "study_document",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "arms": ("ARMS", "Arm", "Arms", "read_arms"),
        "engine": ("EngineError",),
        "ledger": ("Outcome", "Task"),
        "re_evaluations": ("RE_EVALUATIONS", "re_evaluate"),
        "results": ("read_results", "study_document"),
        "search": ("Search", "run_search"),
        "space": ("SPACE",),
        "statistics": ("Comparison", "compare", "holm"),
        "study": ("Study", "StudyResult", "run_study"),
        "trial_spec": ("TrialSpec",),
    },
)
