"""The W&B workspace of a project as code: four accuracies, parallel coordinates over settings, importance.

    python -m tuning.dashboard --entity my-team --project skelnorm
    python -m tuning.dashboard --entity my-team --project skelnorm --spec workspace.json

The first creates the workspace on the server (key from WANDB_API_KEY or netrc) and prints its address. The second needs
no network: it writes the workspace as JSON. This module is the door to wandb_workspaces, which starts no run.
Exit codes: 0 ok, 2 wrong settings or no server.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.tracking.metric_names import (
    FINAL,
    FINAL_VAL,
    FOUR,
    GAPS,
    GRADIENT_NORM,
    MEAN_SHIFTS,
    OF_SPEED,
    RATE,
    TEST_TOP1,
    TRAIN_LOSS,
    VAL_LOSS,
    VAL_TOP1,
)
from preprocessing import arguments, files, startup
from tuning.space import SPACE, LogUniform

NAME = "skelnorm: what normalization does"
NORMALIZATION = f"{FINAL}{GAPS['normalization']}"


@dataclass(frozen=True)
class Dashboard:
    """Settings of the command: the project that gets the workspace, or a file."""

    entity: str
    """User or team on W&B."""
    project: str = "skelnorm"
    """Project that `--wandb online` and `wandb sync` send runs to."""
    spec: Path | None = None
    """File for the workspace as JSON; nothing is sent then."""


def workspace(entity: str, project: str) -> Any:
    """Return the workspace without sending it. Metric names are those of trainings and of trials.

    Args:
        entity: User or team on W&B.
        project: Project on W&B.
    """
    import wandb_workspaces.reports.v2 as panels
    import wandb_workspaces.workspaces as workspaces

    columns = [
        panels.ParallelCoordinatesPlotColumn(
            metric=panels.Config(name), display_name=name.split(".")[-1], log=isinstance(axis, LogUniform)
        )
        for name, axis in SPACE.items()
    ]
    columns += [
        panels.ParallelCoordinatesPlotColumn(metric=panels.SummaryMetric(name))
        for name in (*(f"{FINAL}{gap}" for gap in GAPS.values()), FINAL_VAL)
    ]
    sections = [
        workspaces.Section(
            name="Accuracy and gap by epoch",
            is_open=True,
            panels=[
                panels.LinePlot(title="C: held-out subjects, running statistics", x="epoch", y=[VAL_TOP1]),
                panels.LinePlot(title="A to D", x="epoch", y=list(FOUR.values())),
                panels.LinePlot(title="Gaps: B - A and B - D", x="epoch", y=list(GAPS.values())),
                panels.LinePlot(
                    title="Distance of running means from the training clips", x="epoch", metric_regex=MEAN_SHIFTS
                ),
                panels.LinePlot(title="Loss of training and held-out clips", x="epoch", y=[TRAIN_LOSS, VAL_LOSS]),
                panels.LinePlot(title="Learning rate", x="epoch", y=[RATE]),
                panels.LinePlot(title="Norm of the gradient, mean per epoch", x="epoch", y=[GRADIENT_NORM]),
                panels.LinePlot(title="Clips per second", x="epoch", y=[OF_SPEED["clips_per_second"]]),
            ],
        ),
        workspaces.Section(
            name="Test split and seeds",
            is_open=True,
            panels=[
                panels.ScatterPlot(
                    title="Test accuracy by seed", x=panels.Config("train.seed"), y=panels.SummaryMetric(TEST_TOP1)
                ),
                panels.BarPlot(
                    title="Test accuracy by arm, mean and standard deviation over seeds",
                    metrics=[panels.SummaryMetric(TEST_TOP1)],
                    groupby=panels.Config("arm"),
                    groupby_aggfunc="mean",
                    groupby_rangefunc="stddev",
                ),
                panels.MediaBrowser(title="Confusion", media_keys=["confusion_picture"]),
            ],
        ),
        workspaces.Section(
            name="The doctor", is_open=True, panels=[panels.WeavePanelSummaryTable(table_name="doctor/verdict")]
        ),
        workspaces.Section(
            name="Settings",
            is_open=True,
            panels=[
                panels.ParallelCoordinatesPlot(title="Settings and their results", columns=columns),
                panels.ParameterImportancePlot(with_respect_to=FINAL_VAL),
                panels.ParameterImportancePlot(with_respect_to=NORMALIZATION),
                panels.ScatterPlot(
                    title="Accuracy against the normalization gap",
                    x=panels.SummaryMetric(NORMALIZATION),
                    y=panels.SummaryMetric(FINAL_VAL),
                ),
                panels.RunComparer(diff_only="split"),
            ],
        ),
    ]
    return workspaces.Workspace(entity=entity, project=project, name=NAME, sections=sections)


def spec(made: Any) -> dict[str, Any]:
    """Return the workspace as plain JSON, without its random IDs: equal workspaces are equal files."""
    document = json.loads(made._to_model().model_dump_json(by_alias=True, exclude_none=True))
    return {"entity": made.entity, "project": made.project, "name": made.name, "spec": _without_ids(document["spec"])}


def _without_ids(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_ids(inner) for key, inner in value.items() if key not in ("__id__", "id")}
    return [_without_ids(inner) for inner in value] if isinstance(value, list) else value


def save(made: Any) -> str:
    """Create the workspace on the server and return its address.

    The server is probed first: if it does not answer, W&B's client can take minutes to give up and longer to end.

    Raises:
        ValueError: There is no server or no key, or the server rejects the workspace.
    """
    from pipeline.tracking.wandb_door import refusal

    reason = refusal()
    if reason is not None:
        raise ValueError(f"the workspace was not created: {reason}. Fix this, or write it to a file with --spec FILE.")
    try:
        made.save()
    except Exception as error:  # the client raises errors of any class
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"W&B rejected the workspace ({reason}). Write it to a file with --spec FILE.") from None
    return str(made.url)


def main() -> int:
    """Run `python -m tuning.dashboard`; return the exit code."""
    try:
        settings = arguments.parse(Dashboard, "tuning.dashboard", __doc__)
        made = workspace(settings.entity, settings.project)
        if settings.spec is not None:
            files.publish_json(settings.spec, spec(made))
            print(settings.spec)
        else:
            print(save(made))
    except ImportError:
        print("error: the workspace needs wandb-workspaces: pip install wandb-workspaces", file=sys.stderr)
        return 2
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(startup.run(main))
