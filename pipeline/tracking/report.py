"""Where a run's numbers go: the JSONL ledger always, W&B if asked. The only door to wandb.

Nothing here can stop a run or hold it up for long: W&B starts after one question to the server (wandb_server), falls
back to a run on disk (offline) where there is no good answer, and leaves the server after FINISH seconds of waiting,
with all that the run was told on disk. `wandb sync` sends that later.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.tracking import metric_names, server
from pipeline.tracking.ledger import RunLedger
from preprocessing import files

PROJECT = "skelnorm"
START, FINISH = 15, 30  # seconds that the server gets: the start of a run, an upload
MODEL_BYTES = 200_000_000  # a larger checkpoint is an artifact by its sha256 alone


class Ledger:
    """`RUN/ledger.jsonl`, one line an epoch; and the same figures on W&B, which is never fatal."""

    def __init__(self, run: Path, config: dict[str, Any], wandb_mode: str, epochs_done: int) -> None:
        self.run, self._ledger = run, RunLedger(run, epochs_done)
        earlier = last_id(run) if epochs_done else None
        group = run.resolve().parent.name
        self._wandb = start_wandb(run, run.name, config, wandb_mode, "train", group, earlier)
        self._wandb.uses_data(run)

    def write(self, record: dict[str, Any]) -> None:
        """Append one epoch's figures."""
        self._ledger.write(record)
        self._wandb.log(record)

    def close(self, summary: dict[str, Any]) -> None:
        """End the W&B run with the summary's figures, the confusion matrix and the network."""
        self._wandb.confusion(self.run, summary)
        self._wandb.made_model(self.run, summary)
        self._wandb.finish(metric_names.final(summary))


def last_id(run: Path) -> str | None:
    """W&B's id of this training, so that a resumed one goes on under it; None when it has not been on W&B."""
    names = sorted(folder.name.partition("run-")[2] for folder in (run / "wandb").glob("*run-*-*"))
    return names[-1].split("-")[1] if names else None


class Tracker:
    """One run on W&B; a run that is off, failed to start, or failed later, swallows everything."""

    def __init__(self, run: Any = None, words: dict[str, Any] | None = None) -> None:
        self._run, self._hung = run, False
        # What an online run was told, so that it can be told anew to one on disk if the server hangs.
        self._words = words
        self._told: list[Callable[[Any], object]] | None = [] if words else None

    def log(self, record: dict[str, Any]) -> None:
        """Figures after an epoch."""
        self._do(lambda run: run.log(metric_names.named(record), step=record["epoch"]))

    def uses_data(self, folder: Path) -> None:
        """The data file, as what this run was made from: by content hash and facts alone.

        Recordings are under research terms, so no file of theirs is ever added, and no path of this machine either.
        """
        self._bounded(lambda run: _uses_data(run, folder))

    def made_model(self, folder: Path, summary: dict[str, Any]) -> None:
        """The checkpoint in `folder` as what this run has made; sent where it is, not copied."""
        self._bounded(lambda run: run.log_artifact(_model(folder, metric_names.final(summary))))

    def confusion(self, folder: Path, summary: dict[str, Any]) -> None:
        """The confusion matrix of the split that was judged."""
        self._bounded(lambda run: _confusion(run, folder, summary))

    def diagnosis(self, answer: dict[str, Any]) -> None:
        """The doctor's answer: its verdict as a table."""
        self._bounded(lambda run: _diagnosis(run, answer))

    def finish(self, last: dict[str, float]) -> None:
        """End the run with its last figures."""
        self._do(lambda run: run.summary.update(last))
        self._hung, told, self._told = False, self._told, None
        self._bounded(lambda run: run.finish())
        self._told = told
        if self._hung:
            _leave_server()
            self._do(lambda run: run.finish())
        if self in _ONLINE:
            _ONLINE.remove(self)
        self._run = None

    def go_on_offline(self) -> None:
        """Tell a run on disk all that this one was told: W&B's process keeps records back when it is ended."""
        told, self._told = self._told or [], None
        words, self._words = dict(self._words or {}) | {"id": self._run.id}, None
        shutil.rmtree(self._run.settings.sync_dir, ignore_errors=True)
        self._run, self._hung = None, False
        try:
            self._run = _init("offline", words)
        except Exception as error:
            print(f"W&B is off for this run ({said(error)}); the ledger has every figure", file=sys.stderr)
        for action in told:
            self._do(action)

    def _do(self, action: Callable[[Any], object]) -> None:
        if self._run is None:
            return
        if self._told is not None:
            self._told.append(action)
        try:
            action(self._run)
        except Exception as error:  # whatever W&B raises: a training goes on without it
            hung = f"{server.address()} did not take all in {FINISH} s"
            _tell(hung if isinstance(error, TimeoutError) else said(error), Path(self._run.settings.wandb_dir))

    def _bounded(self, action: Callable[[Any], object]) -> None:
        """An action that asks the server and waits: after FINISH seconds it is left, and others are not begun."""
        if self._words is None:  # on disk there is no server to give up: a busy machine may take its time
            self._do(action)
            return
        if self._told is not None:
            self._told.append(action)
        if not self._hung:
            told, self._told = self._told, None
            self._do(partial(self._within, action))
            self._told = told

    def _within(self, action: Callable[[Any], object], run: Any) -> None:
        failed: list[Exception] = []

        def work() -> None:
            try:
                action(run)
            except Exception as error:
                failed.append(error)

        worker = threading.Thread(target=work, daemon=True)
        worker.start()
        worker.join(FINISH)
        self._hung = worker.is_alive()
        if self._hung:
            raise TimeoutError
        if failed:
            raise failed[0]


_ONLINE: list[Tracker] = []  # this process's runs on the server; W&B has one process of its own for them all


def _leave_server() -> None:
    """Give the server up, and go on on disk with every run."""
    _end_service()
    for tracker in list(_ONLINE):
        _ONLINE.remove(tracker)
        tracker.go_on_offline()


def _end_service() -> None:
    """End W&B's own process, which a server that does not answer holds for ever, whatever its time limits say.

    wandb has no public way to do so.
    """
    import wandb

    service = getattr(getattr(wandb.setup(), "_connection", None), "_proc", None)
    process = getattr(service, "_process", None)
    if process is not None:
        process.terminate()
        try:
            process.wait(2)
        except subprocess.TimeoutExpired:
            process.kill()
    with contextlib.suppress(Exception):  # it cannot reach the process that was just ended
        wandb.teardown()


def start_wandb(
    folder: Path, name: str, config: dict[str, Any], mode: str, job_type: str, group: str, run_id: str | None = None
) -> Tracker:
    """A run in `folder`/wandb (offline) or on the server (online), of job type train, doctor or trial; `run_id` names
    one to go on with.

    Online without a key or a server that answers becomes offline, with one message a process: the first refusal is
    remembered, so that a search is not held up once for each of its trials.
    """
    if mode == "off":
        return Tracker()
    words = {"dir": str(folder), "name": name, "config": config, "job_type": job_type, "group": group, "id": run_id}
    if mode == "online" and not _REFUSED:
        reason = server.refusal() or ""
        if not reason:
            try:
                _ONLINE.append(Tracker(_init("online", words | {"resume": "allow"}), words))
                return _ONLINE[-1]
            except Exception as error:
                reason = said(error)
        _tell(reason, folder / "wandb")
    try:
        return Tracker(_init("offline", words))
    except Exception as error:
        print(f"W&B is off for this run ({said(error)}); the ledger has every figure", file=sys.stderr)
        return Tracker()


_REFUSED: list[str] = []  # why this process has given up on the server


def _tell(reason: str, where: Path) -> None:
    if not _REFUSED:
        print(f"W&B: {reason}. Recorded here; send it later: wandb sync {where}/offline-run-*", file=sys.stderr)
    _REFUSED.append(reason)


def said(error: Exception) -> str:
    """An error in one line."""
    return (str(error).splitlines() or [""])[0].strip().rstrip(".") or type(error).__name__


def _init(mode: Any, words: dict[str, Any]) -> Any:
    # Its usage reports go to the server from offline runs too, and hold up the end of a process where none answers.
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    os.environ.setdefault("WANDB_SILENT", "true")
    import wandb

    # No program, its arguments, host, console or code are recorded: they may hold secrets.
    settings = wandb.Settings(
        silent=True, console="off", save_code=False, disable_git=True, x_disable_meta=True, x_disable_stats=True,
        x_disable_machine_info=True, host="", program=PROJECT, base_url=server.address(),
        init_timeout=START,
    )  # fmt: skip
    # create_new: a search has many runs open at once in its driver.
    run = wandb.init(project=PROJECT, mode=mode, settings=settings, reinit="create_new", **words)
    run.define_metric("*", step_metric="epoch")
    return run


def _uses_data(run: Any, folder: Path) -> None:
    import wandb

    card = _json(folder / "data.json")
    sha256 = str(card.get("content_sha256", ""))
    if sha256:
        facts = {name: card.get(name) for name in ("dataset", "recipe", "joint_names", "class_names", "fps")}
        data = wandb.Artifact(f"data-{sha256[:16]}", "dataset", metadata=facts | {"content_sha256": sha256})
        # What use_artifact does, which refuses to offline, and online waits for the server as long as that takes.
        run._log_artifact(data, is_user_created=True, use_after_commit=True)


def _model(folder: Path, final: dict[str, float]) -> Any:
    import wandb

    pointer = _json(folder / "checkpoint.json")
    sha256 = {"checkpoint_sha256": pointer.get("sha256"), "epochs": pointer.get("epoch")}
    artifact = wandb.Artifact(
        f"model-{re.sub(r'[^A-Za-z0-9_.-]', '-', folder.resolve().name)}", "model", metadata=final | sha256
    )
    path = folder / "checkpoints" / str(pointer.get("file"))
    if path.is_file() and path.stat().st_size <= MODEL_BYTES:
        # immutable: W&B need not copy it, so an offline run costs a hash. The last checkpoint of a run stays in place.
        artifact.add_file(str(path), name="checkpoint.pt", policy="immutable", skip_cache=True)
    return artifact


def _confusion(run: Any, folder: Path, summary: dict[str, Any]) -> None:
    import wandb

    counts = summary.get("confusion") or []
    if not counts:
        return
    names = _json(folder / "data.json").get("class_names") or [str(k) for k in range(len(counts))]
    columns: list[str | int] = ["Actual", "Predicted", "nPredictions"]
    rows = [[names[i], names[j], count] for i, row in enumerate(counts) for j, count in enumerate(row)]
    chart = wandb.plot_table(
        "wandb/confusion_matrix/v1", wandb.Table(columns=columns, data=rows), {str(c): str(c) for c in columns},
        {"title": f"Confusion on {summary.get('eval', 'val')}"},
    )  # fmt: skip
    run.log({"confusion": chart})


def _diagnosis(run: Any, answer: dict[str, Any]) -> None:
    import wandb

    columns: list[str | int] = [*metric_names.VERDICT]
    table = wandb.Table(columns=columns, data=metric_names.verdict_rows(answer))
    run.log({"doctor/verdict": table})
    run.summary.update({"verdict": answer.get("verdict", ""), **metric_names.of_diagnosis(answer)})


def record_diagnosis(folder: Path, answer: dict[str, Any], mode: str) -> None:
    """The doctor's answer on the run in `folder`, as a W&B run of its own beside that of its training."""
    folder = folder.resolve()
    about = {"run": folder.name, "judged": answer.get("judged")}
    tracker = start_wandb(folder, folder.name, about, mode, "doctor", folder.parent.name)
    tracker.uses_data(folder)
    tracker.diagnosis(answer)
    tracker.finish({})


def _json(path: Path) -> dict[str, Any]:
    return files.read_json(path) if path.is_file() else {}
