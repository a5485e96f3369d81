"""The end of a search: best.toml, from which pipeline.train trains, and the confirmed ranking of the best settings."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from pipeline.config import as_toml, from_dict
from preprocessing import files
from preprocessing.provenance import record
from tuning.experiment import study_ledger
from tuning.ledger import Outcome, Task
from tuning.space import nested

if TYPE_CHECKING:
    from tuning.search import Search

BEST_FILE, FOLDER = "best.toml", "confirm"
SEEDS = 3
# Settings of a trial that a training of one's own does not need.
TRIAL_ONLY = ("fast_start", "nproc", "train.self_test", "train.eval_every")


def write_best(settings: Search, outcomes: Iterable[Outcome], confirmed: Sequence[dict[str, Any]] = ()) -> None:
    """Publish STUDY/best.toml: the settings of the best trial, or of the best confirmed one; nothing if all failed.

    Args:
        settings: The search.
        outcomes: Its trials.
        confirmed: The confirmed ranking, if there is one.
    """
    from tuning.results import best_first, is_ranked, plus_minus

    ranked = [outcome for outcome in best_first(outcomes) if is_ranked(outcome)]
    if not ranked:
        return
    best = ranked[0]
    found = f"Val accuracy: {100 * best.last['val']:.1f} %, the best of {len(ranked)} trials, so partly by chance."
    if confirmed and confirmed[0]["n"]:
        first = confirmed[0]
        best = next(outcome for outcome in ranked if outcome.task.name == first["trial"])
        found = f"Confirmed val accuracy: {plus_minus(first['val'], first['val_std'])} % ({first['n']} new seeds)."
    own = {name: value for name, value in settings.spec(best.task).settings.items() if name not in TRIAL_ONLY}
    values = settings.base | own
    from_dict(nested(values | {"out": "run"}))  # it must be usable
    by = record()
    head = [
        f"# Trial {best.task.name} of the search {settings.out.name}. {found}",
        "#",
        f"#   skelnorm train {settings.out.name}/{BEST_FILE} --out RUN",
        "#",
        f"# Made by skelnorm {' '.join(filter(None, [by.get('skelnorm'), by.get('commit')]))}, {by['date']}.",
    ]
    files.publish_text(settings.out / BEST_FILE, "\n".join([*head, as_toml(nested(values)), ""]))


def confirm(settings: Search, outcomes: Iterable[Outcome]) -> list[dict[str, Any]]:
    """Train the best settings again with new seeds; return the ranking by these trainings.

    STUDY/confirm has a ledger of its own: the same command resumes this part too.

    Args:
        settings: The search; `settings.confirm` is the number of settings.
        outcomes: Its trials.

    Returns:
        One row per setting, best first: `trial`, `n`, `val` and `val_std` of the new trainings, `searched` (the
        accuracy in the search), `seeds` (accuracy of each).
    """
    from tuning.results import best_first, is_ranked

    best = [outcome for outcome in best_first(outcomes) if is_ranked(outcome)][: settings.confirm]
    tasks = [
        Task(f"{outcome.task.name}-s{seed}", outcome.task.settings, seed, outcome.task.name, outcome.task.ranks)
        for seed in range(settings.seed + 1, settings.seed + 1 + SEEDS)
        for outcome in best
    ]
    ledger = study_ledger(settings, "confirm", settings.identity, settings.out / FOLDER)
    return confirmed_rows(best, settings.run_missing(tasks, ledger, settings.out / FOLDER))


def confirmed_rows(best: Iterable[Outcome], ended: Iterable[Outcome]) -> list[dict[str, Any]]:
    """Return the rows of `confirm`, best first: those of the trials `best` by their new trainings `ended`."""
    from tuning import statistics
    from tuning.results import is_ranked

    ended, rows = list(ended), list[dict[str, Any]]()
    for outcome in best:
        own = [one for one in ended if one.task.arm == outcome.task.name and is_ranked(one)]
        values = {str(one.task.seed): one.last["val"] for one in own}
        mean, std = statistics.mean_std(list(values.values())) if values else (None, None)
        row = {"trial": outcome.task.name, "n": len(values), "val": mean, "val_std": std}
        rows.append(row | {"searched": outcome.last["val"], "seeds": values})
    return sorted(rows, key=lambda row: -(row["val"] or 0.0))
