"""W&B runs: the only door to wandb. The follower process uses it, never the process that trains.

Every call may fail or take as long as its time limit: the caller gives up the server then, and starts over on disk.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pipeline.tracking import metric_names

PROJECT = "skelnorm"
MODEL_BYTES = 200_000_000  # a larger checkpoint is recorded by its sha256 alone
PROBE = 5  # seconds
SYSTEM = "SKELNORM_WANDB_SYSTEM"  # 1: W&B also records the use of processors, memory and GPUs
# W&B sends usage reports from offline runs too, and waits for them where no server answers.
os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
os.environ.setdefault("WANDB_SILENT", "true")

import wandb  # noqa: E402 - after its settings


class About(NamedTuple):
    """Name and group of a W&B run."""

    id: str
    name: str
    job_type: str
    """train, doctor or trial."""
    group: str
    config: dict[str, Any]
    tags: tuple[str, ...] = ()
    notes: str = ""


def without_folders(value: Any) -> Any:
    """Return plain values with the last part of each absolute path alone: folders tell of users and machines."""
    if isinstance(value, dict):
        return {key: without_folders(each) for key, each in value.items()}
    if isinstance(value, list):
        return [without_folders(each) for each in value]
    return Path(value).name if isinstance(value, str) and value.startswith(("/", "~")) else value


class WandbRun:
    """A run in `folder`/wandb (offline) or on the server (online).

    Args:
        about: Name, group and configuration.
        folder: Folder of the run's files.
        mode: offline or online.
        resume: Continue the run of this ID on the server, if there is one.
        start_limit: Seconds that the server gets to accept the run.
        finish_limit: Seconds that the server gets to take the last records.
    """

    def __init__(
        self,
        about: About,
        folder: Path,
        mode: Literal["offline", "online"],
        resume: bool,
        start_limit: float,
        finish_limit: float,
    ) -> None:
        # Program, arguments, host, console and code are not recorded: they may hold secrets. Measurements are of the
        # process that trains, which has started this one.
        measured = os.environ.get(SYSTEM) == "1"
        settings = wandb.Settings(
            silent=True, console="off", save_code=False, disable_git=True, x_disable_meta=True,
            x_disable_stats=not measured, x_disable_machine_info=not measured, x_stats_pid=os.getppid(),
            host="", program=PROJECT, init_timeout=start_limit,
            finish_timeout=finish_limit, finish_timeout_raises=True,
        )  # fmt: skip
        self.online = mode == "online"
        self._run = wandb.init(
            project=PROJECT, mode=mode, settings=settings, dir=str(folder), name=about.name, id=about.id,
            group=about.group, job_type=about.job_type, config=without_folders(about.config),
            tags=about.tags or None, notes=about.notes or None,
            resume="allow" if resume and self.online else None,
            reinit="create_new",  # a search has many runs open at once
        )  # fmt: skip
        self._run.define_metric("epoch", hidden=True)
        self._run.define_metric("*", step_metric="epoch")
        for metric, kept in metric_names.SUMMARIES.items():
            self._run.define_metric(metric, step_metric="epoch", summary=kept)

    def log(self, record: dict[str, Any]) -> None:
        """Record the figures of an epoch."""
        self._run.log(metric_names.named(record), step=record["epoch"], commit=True)

    def dataset(self, metadata: dict[str, Any]) -> None:
        """Record which data file the run reads, by content hash and facts.

        Recordings are under research terms, so no file of theirs is recorded. Online the data is an
        artifact that the run uses; wandb has no public way to declare that offline.
        """
        sha256 = str(metadata["content_sha256"])
        facts = {name: metadata.get(name) for name in ("dataset", "recipe", "joint_names", "class_names", "fps")}
        facts |= {"content_sha256": sha256}
        self._run.config.update({"data_file": facts}, allow_val_change=True)
        if self.online:
            artifact = wandb.Artifact(f"data-{sha256[:16]}", "dataset", metadata=facts)
            self._run.use_artifact(artifact)

    def model(self, name: str, path: Path, metadata: dict[str, Any]) -> None:
        """Record the checkpoint at `path` as the model that the run made; sent from where it is, not copied."""
        artifact = wandb.Artifact(f"model-{re.sub(r'[^A-Za-z0-9_.-]', '-', name)}", "model", metadata=metadata)
        if path.is_file() and path.stat().st_size <= MODEL_BYTES:
            # immutable: W&B does not copy it, so an offline run costs a hash.
            artifact.add_file(str(path), name="checkpoint.pt", policy="immutable", skip_cache=True)
        self._run.log_artifact(artifact)

    def confusion(self, counts: list[list[int]], class_names: list[str], split: str) -> None:
        """Record a confusion matrix (rows: actual class): as a chart, a picture and a table."""
        columns: list[str | int] = ["Actual", "Predicted", "nPredictions"]
        rows = [[class_names[i], class_names[j], count] for i, row in enumerate(counts) for j, count in enumerate(row)]
        table, fields = wandb.Table(columns=columns, data=rows), {str(column): str(column) for column in columns}
        title = {"title": f"Confusion on {split}"}
        shown = {
            "confusion": wandb.plot_table("wandb/confusion_matrix/v1", table, fields, title),
            "confusion_picture": wandb.Html(picture(counts, class_names, split), inject=False),
            "confusion_by_class": wandb.Table(
                columns=["class", *(f"as {name}" for name in class_names)],
                data=[[name, *row] for name, row in zip(class_names, counts, strict=True)],
            ),
        }
        self._run.log(shown)

    def table(self, name: str, columns: list[str], rows: list[list[Any]]) -> None:
        """Record a table."""
        self._run.log({name: wandb.Table(columns=[*columns], data=rows)})

    def finish(self, summary: dict[str, Any], exit_code: int) -> None:
        """End the run with its last figures. TimeoutError if the server does not take all of it in time."""
        self._run.summary.update(summary)
        self._run.finish(exit_code=exit_code)


def picture(counts: list[list[int]], class_names: list[str], split: str) -> str:
    """Return a confusion matrix as a page of its own."""
    from pipeline.pages import render
    from pipeline.pages.figures import Heat
    from preprocessing.provenance import Provenance

    shares = tuple(tuple(count / max(1, sum(row)) for count in row) for row in counts)
    heat = Heat(f"Predictions by class on {split} (% of the clips of a class)", "", tuple(class_names), shares)
    return render("picture.html", Provenance.of_process(), title=heat.title, figure=heat)


def refusal() -> str | None:
    """Return why the W&B server cannot be used now, None if it can; takes a few seconds at most."""
    try:
        wandb.Api(timeout=PROBE)
    except Exception as error:  # whatever wandb raises
        # No connection, no answer and answers of 500 are all one to wandb's service, which it then calls busy.
        return re.sub(r"Failed to execute .* did not respond in time", f"no answer in {PROBE} s", one_line(error))
    return None


def reason(error: Exception) -> str:
    """Return why a run could not be started or recorded, in one line."""
    text = one_line(error)
    # What wandb raises for a rejected key has no message.
    return refusal() or text if text == "<no message>" else text


def one_line(error: Exception) -> str:
    """Return an error's first line, or its type if it has no message."""
    return (str(error).splitlines() or [""])[0].strip().rstrip(".") or type(error).__name__
