"""integrity.py: every part of a run folder x every edit x every consumer ends with exit 6 and the part's name."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline import adopt, checkpoint, ensemble, evaluate, integrity, page, predict, share, train
from pipeline.config import as_dict, from_dict
from pipeline.doctor import __main__ as doctor
from pipeline.run_folder import Run
from preprocessing import files
from tests.conftest import Answer
from tests.pipeline.conftest import made_old, made_unfinished, trained_run

CPU = torch.device("cpu")
Edit = Callable[[Path, Path], None]  # the part, and the same part of another run


def settings(change: Callable[[dict[str, Any]], Any]) -> Edit:
    """An edit of JSON values."""

    def edit(path: Path, other: Path) -> None:
        values = json.loads(path.read_text())
        change(values)
        path.write_text(json.dumps(values, indent=1))

    return edit


def text(before: str, after: str) -> Edit:
    def edit(path: Path, other: Path) -> None:
        content = path.read_text()
        assert before in content
        path.write_text(content.replace(before, after, 1))

    return edit


def flip(path: Path, other: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path: Path, other: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def swap(path: Path, other: Path) -> None:
    shutil.copyfile(other, path)


def drop_line(path: Path, other: Path) -> None:
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:2] + lines[3:]))


def drop_last(path: Path, other: Path) -> None:
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))


def remove(path: Path, other: Path) -> None:
    path.unlink()


WEIGHTS = "checkpoints/epoch-0006.pt"
EDITS: dict[str, tuple[str, Edit]] = {
    "config: eps": ("config.json", settings(lambda values: values["norm"].update(eps=0.1))),
    "config: stream": ("config.json", settings(lambda values: values["input"].update(stream="bone"))),
    "config: number of ranks": ("config.json", settings(lambda values: values.update(nproc=2))),
    "config: of another run": ("config.json", swap),
    "config: truncated": ("config.json", cut),
    "metadata: class name": ("data.json", text("swing 1", "swing 9")),
    "metadata: bones": ("data.json", settings(lambda values: values["bones"].reverse())),
    "metadata: truncated": ("data.json", cut),
    "metadata: removed": ("data.json", remove),
    "summary: temperature": ("summary.json", settings(lambda values: values["calibration"].update(temperature=2.0))),
    "summary: accuracy": ("summary.json", settings(lambda values: values["test"].update(top1=1.0))),
    "summary: of another run": ("summary.json", swap),
    "summary: truncated": ("summary.json", cut),
    "summary: removed": ("summary.json", remove),
    "ledger: figure": ("ledger.jsonl", text('"top1": 0.', '"top1": 0.9')),
    "ledger: NaN": ("ledger.jsonl", text('"loss": ', '"loss": NaN, "was": ')),
    "ledger: line dropped": ("ledger.jsonl", drop_line),
    "ledger: last line dropped": ("ledger.jsonl", drop_last),
    "ledger: of another run": ("ledger.jsonl", swap),
    "ledger: removed": ("ledger.jsonl", remove),
    "pointer: epoch": ("checkpoint.json", settings(lambda values: values.update(epoch=5))),
    "pointer: epoch and file": ("checkpoint.json", text("epoch-0006", "epoch-0005")),
    "pointer: checksums removed": ("checkpoint.json", settings(lambda values: [values.pop(k) for k in integrity_keys])),
    "pointer: of another run": ("checkpoint.json", swap),
    "pointer: truncated": ("checkpoint.json", cut),
    "pointer: removed": ("checkpoint.json", remove),
    "weights: one bit": (WEIGHTS, flip),
    "weights: truncated": (WEIGHTS, cut),
    "weights: of another run": (WEIGHTS, swap),
    "weights: removed": (WEIGHTS, remove),
}
integrity_keys = ("parts", "ledger", "settings", "checksum")
# A training writes these parts again; it needs no permission.
HEALED = ("metadata: removed", "summary: removed")


@pytest.fixture(scope="module")
def other(data_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with the same settings but another seed."""
    return trained_run(data_file, tmp_path_factory.mktemp("other") / "bn-masked", kind="bn", persons="masked", eps=1e-4)


def resume(folder: Path, out: Path) -> list[str]:
    return command(folder.parent, folder)


def command(work: Path, out: Path) -> list[str]:
    data = json.loads((work / "pristine" / "config.json").read_text())["data"]
    return [
        "default", "--data", data, "--out", str(out), "--wandb", "off", "--input.frames", "16", "--train.epochs", "6",
        "--train.eval-every", "3", "--train.batch-size", "8", "--norm.kind", "bn", "--norm.persons", "masked",
    ]  # fmt: skip


def together(folder: Path) -> str:
    return str(folder.parent / "together.json")


Consumer = tuple[Callable[[], int], Callable[[Path, Path], list[str]]]
CONSUMERS: dict[str, Consumer] = {
    "resume": (train.main, resume),
    "doctor": (doctor.main, lambda folder, out: [str(folder)]),
    "repair": (doctor.main, lambda folder, out: [str(folder), "--fix", "--out", str(out / "fixed")]),
    "predict": (predict.main, lambda folder, out: [str(folder), "x.skeleton"]),
    "timeline": (predict.main, lambda folder, out: [str(folder), "x.skeleton", "--window", "2s"]),
    "ONNX": (predict.main, lambda folder, out: [str(folder), "--onnx", str(out / "x.onnx")]),
    "page": (page.main, lambda folder, out: [str(folder), "--out", str(out / "x.html")]),
    "ensemble": (ensemble.main, lambda folder, out: [str(folder), str(folder.parent / "pristine")]),
    "ensemble file": (predict.main, lambda folder, out: [together(folder), "x.skeleton"]),
    "evaluate": (
        evaluate.main,
        lambda folder, out: [str(folder), "--data", str(Run(folder.parent / "pristine").data_path)],
    ),
    "share": (share.main, lambda folder, out: [str(folder), "--out", str(out / "shared")]),
    "fine-tune": (train.main, lambda folder, out: [*command(folder.parent, out / "tuned"), "--init", str(folder)]),
}  # fmt: skip


@pytest.fixture(scope="module")
def work(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pristine run and an ensemble file of it and its copy `run`."""
    folder = tmp_path_factory.mktemp("attack")
    for name in ("pristine", "run"):
        shutil.copytree(runs / "bn-masked", folder / name)
    members = ensemble.members([folder / "run", folder / "pristine"], CPU)
    ensemble.publish(ensemble.ensemble(members), folder / "together.json")
    return folder


@pytest.fixture
def attacked(work: Path, other: Path) -> Callable[[str], Path]:
    """The run with one edit."""

    def attack(edit: str) -> Path:
        shutil.rmtree(work / "run")
        shutil.copytree(work / "pristine", work / "run")
        part, change = EDITS[edit]
        before = (work / "run" / part).read_bytes()
        change(work / "run" / part, other / part)
        after = (work / "run" / part).read_bytes() if (work / "run" / part).exists() else None
        assert after != before  # the fault happened
        return work / "run"

    return attack


@pytest.mark.parametrize("edit", EDITS)
def test_every_edit_is_named_by_every_consumer(
    edit: str, attacked: Callable[[str], Path], tmp_path: Path, answer: Answer
) -> None:
    """Exit 6, one line, the file and the remedy; the folder stays as it is."""
    run = attacked(edit)
    content = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    for name, (main, words) in CONSUMERS.items():
        if name == "resume" and edit in HEALED:
            continue
        result = answer(main, *words(run, tmp_path))
        said = f"{name}: {result.returncode} {result.stderr} {result.stdout}"
        assert result.returncode == 6, said
        assert result.stderr.strip().count("\n") == 0, said
        assert str(run) in result.stderr, said
        assert any(word in result.stderr for word in ("skelnorm adopt", "Put ", "estore a copy")), said
    after = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert {path: x for path, x in after.items() if path.name != "lock"} == content


@pytest.mark.parametrize("edit", HEALED)
def test_a_training_writes_missing_parts_again(
    edit: str, attacked: Callable[[str], Path], tmp_path: Path, answer: Answer
) -> None:
    """The same figures; afterwards the folder is whole. Which steps were captured stood in the summary alone."""
    run = attacked(edit)
    expected = Run(run.parent / "pristine").summary
    result = answer(train.main, *resume(run, tmp_path))
    assert result.returncode == 0, result.stderr
    apart = {"config": 0, "provenance": 0, "graphs": 0}
    assert Run(run).summary | apart == expected | apart
    assert Run(run).metadata == Run(run.parent / "pristine").metadata


def test_an_untouched_folder_passes(work: Path, tmp_path: Path, answer: Answer) -> None:
    """Negative control: the same commands do their work, or complain of the recording that is not there."""
    shutil.rmtree(work / "run")
    shutil.copytree(work / "pristine", work / "run")
    for name in ("resume", "predict", "timeline", "page", "ensemble", "ensemble file", "evaluate", "share"):
        main, words = CONSUMERS[name]
        result = answer(main, *words(work / "run", tmp_path))
        assert result.returncode == (2 if "x.skeleton" in words(work / "run", tmp_path) else 0), (name, result.stderr)
        assert "x.skeleton" in result.stderr or not result.returncode
    integrity.check(work / "run")


@pytest.mark.parametrize("edit", ["config: eps", "metadata: class name", "summary: temperature", "ledger: removed"])
def test_without_checksums_edits_pass(edit: str, attacked: Callable[[str], Path]) -> None:
    """Negative control: it is the checksums that find them; folders of older versions have none."""
    run = attacked(edit)
    pristine = made_old(shutil.copytree(run.parent / "pristine", run.parent / "old"))
    shutil.copyfile(run / EDITS[edit][0], pristine / EDITS[edit][0]) if "removed" not in edit else (
        pristine / "ledger.jsonl"
    ).unlink()
    integrity.check(pristine)
    Run(pristine, CPU).network()
    shutil.rmtree(pristine)


ADOPTED = {
    "config: eps": ["config.json"],
    "metadata: class name": ["data.json"],
    "summary: temperature": ["summary.json"],
    "ledger: figure": ["ledger.jsonl"],
    "ledger: last line dropped": ["ledger.jsonl"],
    "ledger: removed": ["ledger.jsonl"],
    "pointer: epoch": ["checkpoint.json"],
    "pointer: removed": ["checkpoint.json", WEIGHTS],
    "weights: of another run": [WEIGHTS],
}


@pytest.mark.parametrize("edit", ADOPTED)
def test_a_change_that_is_meant_can_be_adopted(edit: str, attacked: Callable[[str], Path], answer: Answer) -> None:
    """Who, when and what stand in the pointer; then the folder is whole, and a second time changes nothing."""
    run = attacked(edit)
    result = answer(lambda: adopt.main([str(run)]))
    assert (result.returncode, result.stdout) == (0, f"{run}: adopted {', '.join(ADOPTED[edit])}\n"), result.stderr
    integrity.check(run)
    Run(run, CPU).network()
    (entry,) = Run(run).pointer["adopted"]
    assert entry["parts"] == ADOPTED[edit]
    assert entry["who"]
    assert entry["when"].endswith("+00:00")
    content = (run / "checkpoint.json").read_bytes()
    result = answer(lambda: adopt.main([str(run)]))
    assert "whole, nothing to adopt" in result.stdout
    assert (run / "checkpoint.json").read_bytes() == content


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        ("weights: one bit", "is damaged"),
        ("weights: truncated", "is damaged"),
        ("weights: removed", "has no checkpoint in checkpoints/"),
        ("config: truncated", "config.json is damaged"),
        ("summary: truncated", "summary.json is damaged"),
        ("ledger: NaN", "ledger.jsonl: line 1 is damaged (NaN is not a finite number)"),
        ("ledger: line dropped", "ledger.jsonl: line 3 has epoch 4: must be 3"),
        ("config: stream", "its weights do not fit the network of config.json"),
    ],
)
def test_damage_is_never_adopted(edit: str, words: str, attacked: Callable[[str], Path], answer: Answer) -> None:
    """Exit 6; the folder stays as it is."""
    run = attacked(edit)
    if edit == "config: stream":  # twice the channels
        config = run / "config.json"
        config.write_text(config.read_text().replace('"bone"', '"joint+bone"'))
    content = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    result = answer(lambda: adopt.main([str(run)]))
    assert result.returncode == 6
    assert words in result.stderr
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == content


def test_there_must_be_something_to_adopt(tmp_path: Path, answer: Answer) -> None:
    result = answer(lambda: adopt.main([str(tmp_path)]))
    assert (result.returncode, "there is nothing to adopt" in result.stderr) == (2, True)


def test_a_lost_ledger_that_was_adopted_begins_anew(attacked: Callable[[str], Path], data_file: Path) -> None:
    """With the first epoch that is trained afterwards."""
    run = attacked("ledger: removed")
    adopt.adopt(run)
    config = from_dict({**as_dict(Run(run).config), "out": run, "data": data_file})
    more = from_dict({**as_dict(config), "train": {**vars(config.train), "epochs": 7}})
    Run.claim(more)
    train.run(more)
    assert [line["epoch"] for line in Run(run).ledger] == [7]
    assert Run(run).pointer["ledger"]["first"] == 7


@pytest.mark.parametrize("value", [0.0, -1.0, 1e3, "2", True, None])
def test_a_temperature_out_of_range_makes_no_figure(value: object, attacked: Callable[[str], Path]) -> None:
    """Even if it was adopted."""
    run = attacked("summary: temperature")
    values = json.loads((run / "summary.json").read_text())
    values["calibration"]["temperature"] = value
    (run / "summary.json").write_text(json.dumps(values))
    adopt.adopt(run)
    with pytest.raises(files.IntegrityError, match="temperature .* must be a number between 0.05 and 20"):
        predict.load(run, CPU)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"weights": [1.0, -0.5]}, "must be finite numbers"),
        ({"weights": [1.0, "1"]}, "must be finite numbers"),
        ({"weights": [0, 0]}, "must be finite numbers"),
        ({"weights": [1.0]}, "must be finite numbers"),
        ({"weights": {"a": 1}}, "must be finite numbers"),
        ({"calibration": {"temperature": 99}}, "temperature 99 must be a number between"),
    ],
)
def test_an_ensemble_file_with_unusable_numbers_is_named(work: Path, change: dict[str, Any], words: str) -> None:
    """Signed or not, and it cannot be adopted."""
    path, values = work / "other.json", json.loads((work / "together.json").read_text())
    path.write_text(json.dumps(integrity.signed(values | change)))
    for use in (ensemble.read, ensemble.adopt):
        with pytest.raises(files.IntegrityError, match=words):
            use(path)


def test_an_edited_ensemble_file_is_named_until_it_is_adopted(work: Path) -> None:
    path, values = work / "other.json", json.loads((work / "together.json").read_text())
    path.write_text(json.dumps(values | {"weights": [1.0, 0.25]}))
    with pytest.raises(files.IntegrityError, match="other.json was edited: its checksum differs"):
        ensemble.read(path)
    assert adopt.adopt(path) == ["other.json"]
    assert ensemble.read(path)["weights"] == [1.0, 0.25]
    assert adopt.adopt(path) == []


@pytest.mark.parametrize(("name", "value"), [("classifier", float("nan")), ("running_var", -1.0)])
def test_weights_that_are_not_finite_make_no_figure(name: str, value: float, attacked: Callable[[str], Path]) -> None:
    """Although every checksum is right."""
    run = made_unfinished(attacked("summary: accuracy"))
    saved = checkpoint.load(run)
    assert saved is not None
    weights = {key: x.clone() for key, x in saved.weights.items()}
    key = [one for one in weights if one.endswith(name)][-1] if name == "running_var" else [*weights][-1]
    weights[key].view(-1)[0] = value
    Run(run).save_checkpoint(saved.epoch, saved.with_weights(weights))
    integrity.check(run)
    with pytest.raises(files.IntegrityError, match="values that are not finite|negative variances"):
        Run(run, CPU).network()


def test_a_diagnosis_belongs_to_its_checkpoint(work: Path, tmp_path: Path) -> None:
    """Edited, or of an older checkpoint: the page asks for a new one."""
    run = Run(shutil.copytree(work / "pristine", tmp_path / "run"))
    run.write_doctor({"verdict": "healthy"})
    assert (run.doctor or {})["verdict"] == "healthy"
    (run.folder / "doctor.json").write_text((run.folder / "doctor.json").read_text().replace("healthy", "sick"))
    with pytest.raises(files.IntegrityError, match="doctor.json was edited: .* Diagnose the run again"):
        _ = run.doctor
    values = integrity.signed({"verdict": "healthy", "checkpoint": "0"})
    (run.folder / "doctor.json").write_text(json.dumps(values))
    with pytest.raises(files.IntegrityError, match="is the diagnosis of another checkpoint"):
        _ = run.doctor


@pytest.mark.parametrize("moment", range(1, 4))
def test_a_kill_while_a_part_is_replaced_leaves_a_whole_folder(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: int
) -> None:
    """The pointer allows both contents first; then the part; then the pointer allows the new one alone."""
    run = shutil.copytree(work / "pristine", tmp_path / "run")
    honest, calls = files.publish_bytes, []

    def killed(path: Path, content: bytes) -> None:
        calls.append(path.name)
        if len(calls) == moment:
            raise KeyboardInterrupt
        honest(path, content)

    with monkeypatch.context() as patched:
        patched.setattr(files, "publish_bytes", killed)
        with pytest.raises(KeyboardInterrupt):
            integrity.replace(run, integrity.SUMMARY, Run(work / "pristine").summary | {"new": 1})
    assert calls == ["checkpoint.json", "summary.json", "checkpoint.json"][:moment]
    integrity.check(run)
    assert ("new" in Run(run).summary) == (moment == 3)


def test_a_reader_beside_a_training_tries_again(work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint that is published while the folder is read is no damage; an edit is, at once."""
    run = shutil.copytree(work / "pristine", tmp_path / "run")
    pointer, tries = (run / "checkpoint.json").read_bytes(), []
    honest = integrity.check_weights

    def published_meanwhile(folder: Path, entry: dict[str, Any]) -> None:
        tries.append(entry["epoch"])
        if len(tries) == 1:
            (run / "checkpoint.json").write_bytes(pointer + b"\n")
            raise files.IntegrityError("the file before is gone")
        honest(folder, entry)

    monkeypatch.setattr(integrity, "check_weights", published_meanwhile)
    integrity.check(run)
    assert len(tries) == 2


def test_the_checksum_of_a_file_is_that_of_what_is_read(tmp_path: Path) -> None:
    """Numbers as keys become texts: 10 comes after 2, but "10" before "2"."""
    integrity.require_signed(
        tmp_path, json.loads(json.dumps(integrity.signed({"groups": {2: "a", 10: "b"}, "pair": (1, 2)}))), ""
    )
