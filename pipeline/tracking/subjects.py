"""Subjects that the follower records on W&B: a training or a diagnosis, read from the files of its run folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pipeline.tracking import ledger, metric_names
from preprocessing import files, journal, provenance

if TYPE_CHECKING:
    from pipeline.tracking.wandb_door import WandbRun


TAG = 64  # characters of a tag


class Subject(Protocol):
    """One W&B run to be, as far as its record on disk has come."""

    key: str
    """Distinguishes it among the subjects of one follower, and makes its W&B ID."""
    name: str
    job_type: str
    group: str

    @property
    def config(self) -> dict[str, Any]:
        """Settings and provenance."""

    @property
    def tags(self) -> list[str]:
        """Short words to filter runs by."""

    @property
    def notes(self) -> str:
        """A sentence about the run."""

    def rows(self) -> list[dict[str, Any]]:
        """Return the figures of each epoch so far, in order."""

    def ended(self, stopped: bool) -> bool:
        """Return whether no more rows will come. `stopped`: the process that writes the record has ended."""

    def conclude(self, run: WandbRun) -> dict[str, Any]:
        """Record what is known at the end (tables, artifacts); return the last figures."""


class Training:
    """A training: RUN/ledger.jsonl, then RUN/summary.json, its data and its checkpoint.

    Args:
        run: The run folder.
    """

    job_type = "train"

    def __init__(self, run: Path) -> None:
        self.run, self.key = run, ""
        self._tail, self._rows = journal.Tail(run / ledger.NAME), dict[int, dict[str, Any]]()
        self.name, self.group = run.name, run.resolve().parent.name
        self.config = _json(run / "config.json") | {"provenance": _json(run / provenance.FILE)}

    @property
    def tags(self) -> list[str]:
        """Network, normalization, protocol and input stream."""
        norm, data = self.config.get("norm", {}), self.config.get("input", {})
        persons = norm.get("persons", "") if norm.get("kind") != "none" else ""
        words = (self.config.get("model", {}).get("name"), norm.get("kind"), persons)
        return tags_of(*words, data.get("protocol"), data.get("stream"))

    @property
    def notes(self) -> str:
        """The command."""
        return str(self.config["provenance"].get("command", ""))

    def rows(self) -> list[dict[str, Any]]:
        """Return the lines of the ledger, which is read on from where it was last read."""
        self._rows |= {line["epoch"]: line for line in self._tail.read()}
        return list(self._rows.values())

    def ended(self, stopped: bool) -> bool:
        """Return whether the training has stopped."""
        return stopped

    def conclude(self, run: WandbRun) -> dict[str, Any]:
        """Record data, confusion matrix and model."""
        summary = _json(self.run / "summary.json")
        metadata = _json(self.run / "data.json")
        last = metric_names.final(summary)
        counts = summary.get("confusion") or []
        if counts:
            class_names = metadata.get("class_names") or [str(k) for k in range(len(counts))]
            run.confusion(counts, class_names, summary.get("eval", "val"))
        pointer = _json(self.run / "checkpoint.json")
        if summary:
            about = last | {"checkpoint_sha256": pointer.get("sha256"), "epochs": pointer.get("epoch")}
            run.model(self.run.resolve().name, self.run / "checkpoints" / str(pointer.get("file")), about)
        if metadata.get("content_sha256"):
            run.dataset(metadata)
        return last


class DoctorVerdict:
    """The doctor's answer, RUN/doctor.json: a run of its own beside that of the training.

    Args:
        run: The run folder.
    """

    job_type = "doctor"

    def __init__(self, run: Path) -> None:
        self.run, self.key = run, ""
        self.name, self.group = run.name, run.resolve().parent.name
        self.answer = _json(run / "doctor.json")
        self.config = {"run": run.name, **{key: self.answer.get(key) for key in ("judged", "provenance")}}

    @property
    def tags(self) -> list[str]:
        """The causes."""
        return tags_of("doctor", *(entry["check"] for entry in self.answer.get("causes", [])))

    @property
    def notes(self) -> str:
        """The verdict."""
        return str(self.answer.get("verdict", ""))

    def rows(self) -> list[dict[str, Any]]:
        """Return nothing: a diagnosis has no epochs."""
        return []

    def ended(self, stopped: bool) -> bool:
        """Return True: the file is complete."""
        return True

    def conclude(self, run: WandbRun) -> dict[str, Any]:
        """Record the verdict as a table, and the data."""
        run.table("doctor/verdict", [*metric_names.VERDICT], metric_names.verdict_rows(self.answer))
        metadata = _json(self.run / "data.json")
        if metadata.get("content_sha256"):
            run.dataset(metadata)
        return {"verdict": self.answer.get("verdict", ""), **metric_names.of_diagnosis(self.answer)}


def tags_of(*words: str | None) -> list[str]:
    """Return the words that W&B takes as tags: not empty, at most 64 characters, none twice."""
    return list(dict.fromkeys(word[:TAG] for word in words if word))


def _json(path: Path) -> dict[str, Any]:
    return files.read_json(path) if path.is_file() else {}
