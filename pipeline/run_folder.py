"""Run: the only reader and writer of a run folder.

| file | content |
|---|---|
| `config.json` | the settings, with absolute paths, and the content hash of the data file |
| `data.json` | metadata of the data file, so that the network can be used without it |
| `provenance.json` | versions, commit, command, date and machine class of the last start |
| `checkpoint.json`, `checkpoints/` | the newest state (checkpoint.py) |
| `ledger.jsonl` | one line per epoch |
| `summary.json` | the figures of a finished run |
| `doctor.json` | the diagnosis |
| `nonfinite.json` | the clips of the batch that ended the training |
| `init.json` | what a fine-tuned run took from another run, and what started anew |

Everything is read when it is first asked for; before the first part, all parts are checked against the checksums that
hang on the pointer (`pipeline.integrity`). This module imports no torch, for those who only show a run.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import distribution, integrity
from pipeline.data import Bones
from pipeline.integrity import CONFIG, METADATA, POINTER, START, SUMMARY
from pipeline.tracking import ledger
from preprocessing import files, provenance
from preprocessing.hdf5 import SkeletonFile, Watch, open_file
from preprocessing.stages import STAGES, Stage

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from pipeline.checkpoint import Checkpoint
    from pipeline.config import Config
    from pipeline.data.clips import Clips
    from pipeline.data.splits import Splits

DOCTOR, NON_FINITE = "doctor.json", "nonfinite.json"
# Settings that a resumed run may change. Only nproc affects numbers, and a change of it is printed and recorded.
FREE = ("data", "out", "nproc", "rank_timeout", "wandb", "fast_start")
CHANGES = ("raised", "ranks")
"""Keys of config.json for settings that changed between two epochs."""


@dataclass(frozen=True)
class Metadata:
    """Facts of a data file that hold for all its clips."""

    dataset: str
    recipe: dict[str, Any]
    joint_names: list[str]
    bones: Bones
    fps: float
    class_names: list[str]
    content_sha256: str
    channels: int = 3
    """Values per joint; 3 in folders of versions that did not write it."""
    typical: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    """Percentiles of length, size and speed of the clips (`distribution.quantiles`); empty in old folders."""

    @classmethod
    def of(cls, file: SkeletonFile) -> Metadata:
        """Take the metadata from an open data file."""
        bones = tuple((int(parent), int(child)) for parent, child in file.bones)
        return cls(
            dataset=file.dataset,
            recipe=file.recipe,
            joint_names=file.joint_names,
            bones=bones,
            fps=file.fps,
            class_names=file.class_names,
            content_sha256=file.content_sha256,
            channels=int(file.joints_RV3.shape[2]),
            typical=distribution.of_file(file),
        )

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Metadata:
        """Make metadata of the values of a JSON file; a field newer than the file has its default."""
        known = {field.name: values[field.name] for field in dataclasses.fields(cls) if field.name in values}
        return cls(**known | {"bones": tuple((parent, child) for parent, child in values["bones"])})

    @classmethod
    def required(cls) -> tuple[str, ...]:
        """Return the fields that every version has written."""
        return tuple(
            field.name
            for field in dataclasses.fields(cls)
            if field.default is field.default_factory is dataclasses.MISSING
        )

    def stages(self) -> tuple[Stage, ...]:
        """Return the recipe, ready to apply. ValueError for a stage that this version does not know."""
        result = []
        for entry in self.recipe["stages"]:
            parameters = dict(entry)
            name = parameters.pop("stage")
            if name not in STAGES:
                raise ValueError(f"the run's recipe has an unknown stage {name!r}; known: {', '.join(STAGES)}")
            result.append(Stage(name, parameters))
        return tuple(result)


class Run:
    """A run folder.

    Args:
        folder: The folder; nothing is read yet.
        device: Where `clips` and `network()` live; None: the device of this rank.
        config: The settings of a run that is being trained; None: those of `config.json`.
        fast_start: Skip the checksums of the data file; None: as the settings say.
        checked: Do not check the parts of the folder; for `pipeline.adopt` alone.
    """

    def __init__(
        self,
        folder: str | Path,
        device: torch.device | None = None,
        config: Config | None = None,
        fast_start: bool | None = None,
        checked: bool = False,
    ) -> None:
        self.folder, self.fast_start, self._device = Path(folder), fast_start, device
        self.training, self._checked = config is not None, checked
        if config is not None:
            self.config = config

    @property
    def name(self) -> str:
        """The name of the folder, of `.` too."""
        return self.folder.resolve().name

    @cached_property
    def device(self) -> torch.device:
        """The device that was given, else that of this rank."""
        if self._device is not None:
            return self._device
        from pipeline import distributed

        return distributed.join()

    # Settings and data.

    def check(self, resuming: bool = False) -> None:
        """Check all parts of the folder, once; a run that is being trained was checked when it was claimed.

        Raises:
            IntegrityError: A part was edited, replaced, truncated or removed.
        """
        if not (self.training or self._checked):
            integrity.check(self.folder, resuming)
            self._checked = True

    @cached_property
    def stored(self) -> dict[str, Any]:
        """The content of `config.json`. ValueError if the folder is not a run folder."""
        self.check()
        path = self.folder / CONFIG
        if not path.is_file():
            raise ValueError(f"{self.folder} is not a run folder (no {CONFIG}); make one with python -m pipeline.train")
        return files.read_json(path, "data", "out")

    @cached_property
    def config(self) -> Config:
        """The settings, with the present place of the data file. A setting newer than the run has its default."""
        from pipeline.config import from_dict

        values = {key: value for key, value in self.stored.items() if key not in ("data_sha256", *CHANGES)}
        return from_dict(values | {"data": str(self.data_path)})

    @property
    def data_path(self) -> Path:
        """The present place of the data file, or its last one.

        A run folder that was moved together with its data file still finds it, by the relative path between them.
        """
        if self.training:
            return self.config.data
        data = Path(self.stored["data"])
        beside = (self.folder.resolve() / os.path.relpath(data, self.stored["out"])).resolve()
        return beside if not data.is_file() and beside.is_file() else data

    @property
    def data_sha256(self) -> str:
        """The content hash of the data file that the run was trained on."""
        return str(self.stored.get("data_sha256", ""))

    @cached_property
    def data(self) -> SkeletonFile:
        """The data file, open. ValueError if it is missing or has other content now, IntegrityError if it is damaged.

        In a run that is being trained, a missing file raises FileNotFoundError.
        """
        if self.training:
            return open_file(self.data_path, fast_start=self.config.fast_start)
        path = self.data_path
        if not path.is_file():
            raise ValueError(
                f"{self.folder} was trained on {path}, which is missing; put it back, or write its new place into "
                f'{self.folder / CONFIG} ("data")'
            )
        fast = self.stored.get("fast_start", False) if self.fast_start is None else self.fast_start
        file = open_file(path, fast_start=fast)
        if file.content_sha256 != self.data_sha256:
            raise ValueError(f"{path} is not the file that {self.folder} was trained on; put that one back")
        return file

    @cached_property
    def metadata(self) -> Metadata:
        """The metadata of the data file, from the run folder. ValueError if it is missing."""
        path = self.folder / METADATA
        if self.stored and not path.is_file():
            raise ValueError(
                f"{self.folder} has no {METADATA}; run its python -m pipeline.train command again, which adds it"
            )
        return Metadata.from_json(files.read_json(path, *Metadata.required()))

    @cached_property
    def clips(self) -> Clips:
        """The clips of the data file, on the device."""
        from pipeline.data.clips import Clips

        return Clips(self.data, self.device)

    @cached_property
    def splits(self) -> Splits:
        """The clips of each split. ValueError names what the protocol lacks."""
        from pipeline.data.splits import splits_of

        return splits_of(self.data, self.config.input.protocol, self.config.input.fit)

    # The trained network.

    @property
    def pointer(self) -> dict[str, Any]:
        """`file`, `sha256` and `epoch` of the newest checkpoint; empty if there is none yet."""
        self.check()
        return integrity.read_pointer(self.folder)

    @cached_property
    def checkpoint(self) -> Checkpoint | None:
        """The newest checkpoint, on the CPU, its hash checked; None if there is none yet."""
        from pipeline import checkpoint

        self.check()
        return checkpoint.load(self.folder)

    def save_checkpoint(self, epoch: int, state: dict[str, Any]) -> None:
        """Publish the state after `epoch` epochs in place of the one before."""
        from pipeline import checkpoint

        self.__dict__.pop("checkpoint", None)
        if self.training and not self.pointer:
            self._require_own_settings()
        checkpoint.save(self.folder, epoch, state)

    @property
    def weights(self) -> dict[str, Tensor]:
        """State of the network: the kept epoch, else the last one, averaged where the run averages.

        ValueError without a checkpoint.
        """
        if self.checkpoint is None:
            raise ValueError(f"{self.folder} has no checkpoint yet; run python -m pipeline.train again to resume it")
        return self.checkpoint.weights

    def network(self) -> nn.Module:
        """Build the trained network, in eval mode, on the device, without the optimizer.

        The data file is read only if the folder has no `data.json` (old versions wrote none). IntegrityError if the
        weights do not fit the settings. The random state of torch stays as it is.
        """
        import torch

        from pipeline import checkpoint, network

        facts = self.metadata if (self.folder / METADATA).is_file() else self.clips
        with torch.random.fork_rng(devices=[]):
            model = network.build(self.config, facts, self.device)
        try:
            model.load_state_dict(self.weights)
        except RuntimeError as error:
            what = str(error).splitlines()[1].strip()
            raise files.IntegrityError(
                f"{self.folder}: its weights do not fit the network of {CONFIG} ({what}); put back the {CONFIG} that "
                "it was trained with"
            ) from None
        checkpoint.require_valid(model.state_dict(), self.folder)
        return model.eval()

    # Figures.

    @property
    def ledger(self) -> list[dict[str, Any]]:
        """One entry per epoch; a torn last line is left out."""
        self.check()
        return ledger.read(self.folder)

    @property
    def finished(self) -> bool:
        """Return whether the run has a summary."""
        self.check()
        return (self.folder / SUMMARY).is_file()

    def require_finished(self) -> None:
        """Raise ValueError if the run has no summary."""
        if self.stored and not self.finished:
            raise ValueError(
                f"{self.folder} is not finished (no {SUMMARY}); the same python -m pipeline.train command resumes it"
            )

    @property
    def summary(self) -> dict[str, Any]:
        """The figures of the finished run. ValueError if it is not finished."""
        self.require_finished()
        return files.read_json(self.folder / SUMMARY, "config", "accuracies", "gap", "eval")

    def require_content(self, watch: Watch) -> None:
        """Check the content of the data file once more; if it is another one, the checkpoint is marked as unusable.

        With `fast_start`, nothing is read.

        Raises:
            IntegrityError: The file is damaged or has other content, since an unknown time.
        """
        if self.config.fast_start:
            return
        try:
            watch.verify()
        except files.IntegrityError:
            integrity.mark(self.folder, f"{watch.path.name} changed while it was trained on")
            raise

    def write_summary(self, epoch: int, measured: dict[str, Any]) -> dict[str, Any]:
        """Publish the summary: totals of the ledger, the kept epoch, and what was measured of it."""
        summary = totals(self.ledger) | {"epoch": epoch} | measured | {"provenance": provenance.record()}
        integrity.replace(self.folder, SUMMARY, summary)
        return summary

    def describe(self) -> str:
        """Return the summary in two lines."""
        summary = self.summary
        four = summary["accuracies"]
        parts = [f"{name} {100 * four[name]:.1f}" for name in "ABCD" if name in four]
        gap = summary["gap"]
        line = f"train {100 * summary['train']['top1']:.1f} %" if "train" in summary else "no ledger.jsonl"
        for split in ("val", "test"):
            if summary[split]:
                line += f" · {split} {100 * summary[split]['top1']:.1f} %"
                line += uneven(summary[split])
        for several in (key for key in summary if key.startswith("test_") and summary[key]):
            line += f" ({several.split('_')[1]} clips {100 * summary[several]['top1']:.1f} %)"
        line += f" · {summary['clips_per_second']:.0f} clips/s" if "clips_per_second" in summary else ""
        split = f" (C, D: {summary['eval']})" if "C" in four else ""
        generalization = f", generalization {100 * gap['generalization']:+.1f}" if "generalization" in gap else ""
        gaps = f"normalization gap {100 * gap['normalization']:+.1f}{generalization} points"
        return f"{line}\n{'  '.join(parts)} %{split}: {gaps}"

    @property
    def repair(self) -> dict[str, Any]:
        """`fix` of the summary: what the doctor reports of its repair, if this is a repaired run."""
        summary = self.summary if self.finished else {}
        return {"fix": summary["fix"]} if "fix" in summary else {}

    @property
    def graphs(self) -> dict[str, Any]:
        """`graphs` of the summary: how many steps of the training were captured, and why others were not."""
        summary = self.summary if self.finished else {}
        return {"graphs": summary["graphs"]} if "graphs" in summary else {}

    @property
    def doctor(self) -> dict[str, Any] | None:
        """The diagnosis; None if there is none. IntegrityError if it was edited, or made of another checkpoint."""
        path, pointer = self.folder / DOCTOR, self.pointer
        if not path.is_file():
            return None
        answer, remedy = files.read_json(path), f"Diagnose the run again: python -m pipeline.doctor {self.folder}"
        if "checksum" in answer or "parts" in pointer:
            integrity.require_signed(path, answer, remedy)
            if answer.get("checkpoint") != pointer.get("sha256"):
                raise files.IntegrityError(f"{path} is the diagnosis of another checkpoint. {remedy}")
        return {key: value for key, value in answer.items() if key not in ("checkpoint", "checksum")}

    def write_doctor(self, answer: dict[str, Any]) -> None:
        """Publish the diagnosis, with the checksum of the checkpoint that it is about."""
        about = {"checkpoint": self.pointer.get("sha256"), "provenance": provenance.record()}
        files.publish_json(self.folder / DOCTOR, integrity.signed(answer | about))

    @property
    def start(self) -> dict[str, Any]:
        """Start of the training (`transfer.fill`); empty if it started from scratch."""
        path = self.folder / START
        return files.read_json(path, "run", "new", "parameters") if path.is_file() else {}

    def write_start(self, record: dict[str, Any]) -> None:
        """Publish what the training starts from."""
        integrity.replace(self.folder, START, record)

    def write_non_finite(self, epoch: int, clips: list[str]) -> None:
        """Publish the clips of the batch that ended the training."""
        files.publish_json(self.folder / NON_FINITE, {"epoch": epoch, "clips": clips})

    # Making a folder.

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the lock of the folder. LockedError if another process holds it."""
        with files.lock_folder(self.folder):
            yield

    @classmethod
    def claim(cls, config: Config) -> Run:
        """Make `config.out` the run folder of these settings and data, or resume the run that it holds.

        Raises:
            ValueError: It holds a run with other settings or data; the message names them. More epochs are allowed:
                the run is then unfinished again, and its summary and diagnosis are removed.
        """
        from pipeline.config import as_dict

        run, file = cls(config.out), open_file(config.data, fast_start=True)
        run.check(resuming=True)
        for left in (*run.folder.glob(".*.tmp"), *(run.folder / "checkpoints").glob(".*.tmp")):
            left.unlink()  # of a run that was killed while it wrote
        # Settings that never made a checkpoint (rejected ones, for example) do not claim the folder.
        if (run.folder / CONFIG).exists() and (run.folder / POINTER).exists():
            mine, theirs = (json.loads(json.dumps(as_dict(one))) for one in (config, run.config))
            raised = mine["train"]["epochs"] > theirs["train"]["epochs"]
            if raised:
                change = {"at": run.pointer["epoch"], "from": theirs["train"]["epochs"], "to": mine["train"]["epochs"]}
                theirs["train"]["epochs"] = mine["train"]["epochs"]
            theirs["train"]["graphs"] = mine["train"]["graphs"]  # which changes no number
            differing = [
                what for key in mine if key not in FREE for what in _differing(key, theirs.get(key), mine[key])
            ]
            if file.content_sha256 != run.data_sha256:
                differing.append("data")
            if differing:
                raise ValueError(
                    f"{config.out} holds a run with other settings ({', '.join(differing)}); "
                    "choose another --out or delete it"
                )
            changes = run.changes | {"ranks": run.ranks_with(config)}
            if raised:
                run.publish_settings(config, file, changes | {"raised": [*run.raised, change]})
                (run.folder / DOCTOR).unlink(missing_ok=True)
                integrity.replace(run.folder, SUMMARY, None)
            else:
                run.publish_settings(config, file, changes)
        else:
            run.publish_settings(config, file)
        return cls(config.out, config=config)

    @property
    def changes(self) -> dict[str, list[dict[str, int]]]:
        """Changes of settings between two epochs: `raised` (train.epochs) and `ranks` (nproc)."""
        return {key: list(self.stored.get(key, [])) for key in CHANGES}

    @property
    def raised(self) -> list[dict[str, int]]:
        """Epochs at which `train.epochs` was raised: `at`, and the number before (`from`) and after (`to`)."""
        return self.changes["raised"]

    def ranks_with(self, config: Config) -> list[dict[str, int]]:
        """Return where the number of ranks changed, if the training resumes so; print what that means."""
        nproc, before, at, entries = config.nproc, self.config.nproc, int(self.pointer["epoch"]), self.changes["ranks"]
        if nproc == before or at >= config.train.epochs:
            return entries
        print(
            f"note: {self.folder} was trained with --nproc {before} up to epoch {at} and resumes with {nproc}. Each "
            "rank draws its own dropout and, with --norm.no-sync, takes its own batch statistics: figures differ from "
            "those of an unchanged number. config.json records it.",
            file=sys.stderr,
        )
        return [*entries, {"at": at, "from": before, "to": nproc}]

    def publish_settings(
        self, config: Config, file: SkeletonFile, changes: dict[str, list[dict[str, int]]] | None = None
    ) -> None:
        """Publish `data.json`, `provenance.json` and `config.json`, which has absolute paths.

        Args:
            config: The settings.
            file: The data file.
            changes: Changes of settings between two epochs.
        """
        from pipeline.config import as_dict

        integrity.replace(self.folder, METADATA, dataclasses.asdict(Metadata.of(file)))
        paths = {"data": str(config.data.resolve()), "out": str(config.out.resolve())}
        values = as_dict(config) | paths | {"data_sha256": file.content_sha256}
        values |= {key: entries for key, entries in (changes or {}).items() if entries}
        files.publish_json(self.folder / provenance.FILE, provenance.record())
        integrity.replace(self.folder, CONFIG, values)

    def _require_own_settings(self) -> None:
        """Raise IntegrityError if config.json was edited before the first checkpoint, whose pointer vouches for it."""
        from pipeline.config import as_dict

        mine = json.loads(json.dumps(as_dict(self.config)))
        theirs = files.read_json(self.folder / CONFIG)
        if any(theirs.get(key) != mine[key] for key in mine if key not in integrity.PLACES):
            raise files.IntegrityError(
                f"{self.folder / CONFIG} was edited during the training. Run the same command again, which writes it."
            )

    def write_repaired(self, config: Config, model: nn.Module) -> tuple[Run, int]:
        """Write a run folder at `config.out` like this one, with another network in it.

        Returns:
            The new run, and the epoch whose weights were repaired.
        """
        saved = self.checkpoint
        assert saved is not None
        new = Run(config.out, self._device)
        new.folder.mkdir(parents=True)
        new.publish_settings(config, self.data)
        if (self.folder / "ledger.jsonl").exists():
            shutil.copyfile(self.folder / "ledger.jsonl", new.folder / "ledger.jsonl")
        new.save_checkpoint(saved.epoch, saved.with_weights(model.state_dict()))
        return new, saved.kept_epoch


def _differing(name: str, there: Any, here: Any) -> list[str]:
    """Names of settings that differ, with both values."""
    if isinstance(there, dict) and isinstance(here, dict):
        return [what for key in here for what in _differing(f"{name}.{key}", there.get(key), here[key])]
    return [] if there == here else [f"{name} {there} there, {here} here"]


def uneven(scores: dict[str, float]) -> str:
    """Return the mean accuracy per class in brackets where it differs from top-1, as it does in uneven classes."""
    mean, top1 = (f"{100 * scores.get(key, scores['top1']):.1f}" for key in ("mean_class", "top1"))
    return f" (mean class {mean} %)" if mean != top1 else ""


def totals(lines: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the figures of a whole run from its ledger; empty if the ledger is lost.

    Training accuracy of the last epoch (summed up while it trains), seconds of all epochs, and mean clips per second.
    """
    if not lines:
        return {}
    return {
        "train": {"top1": lines[-1]["train"]["top1"]},
        "seconds": sum(line["seconds"] for line in lines),
        "clips_per_second": sum(line["clips_per_second"] for line in lines) / len(lines),
    }
