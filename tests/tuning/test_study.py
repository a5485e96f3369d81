"""study.py as a user runs it: a study that an older version began, resumed on real Ray; results paired by seed."""

import csv
import json
import os
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import from_dict, parse
from preprocessing.hdf5 import open_file
from tests.conftest import Answer, write_file
from tuning.arms import Arm, Arms, read_arms
from tuning.experiment import missing
from tuning.ledger import Outcome, StudyLedger, Task
from tuning.space import nested
from tuning.study import Study, list_tasks, main, run_study, suggest_best

# One worker runs all tests that start or look for a Ray cluster: on one machine they would find one another's.
pytestmark = pytest.mark.xdist_group("ray")

ROOT = Path(__file__).parents[2]
LOOP = {"train.batch_size": 16, "norm.kind": "bn", "norm.persons": "loop", "norm.momentum": 0.01}
NONE = {"train.batch_size": 16, "norm.kind": "none"}
MINE = """
baseline = "loop"
common.train.batch_size = 16
[arms.loop]
norm.kind = "bn"
norm.persons = "loop"
norm.momentum = 0.01
[arms."no norm"]
norm.kind = "none"
[arms."momentum 0"]
of = "loop"
variant = "momentum_0"
[arms."per call"]
of = "loop"
re_evaluation = "per_call"
"""
SIZES = ("--epochs", "3", "--frames", "16", "--eval-every", "3")


def study(data: Path, out: Path, arms: object, *more: str, timeout: int = 400) -> subprocess.CompletedProcess[str]:
    """The command."""
    words = [sys.executable, "-m", "tuning.study", "--data", data, "--out", out, "--arms", arms, "--wandb", "off"]
    return subprocess.run(
        [*map(str, words), *more], capture_output=True, text=True, timeout=timeout,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip


def old_ledger(data: Path) -> list[dict[str, Any]]:
    """The lines that version c149596 wrote for the first seed of MINE: one trial ended, one failed for good."""

    def arm(settings: dict[str, Any], of: str = "", variant: str = "") -> dict[str, Any]:
        return {"settings": settings, "ranks": 1, "of": of, "variant": variant}

    arms = {
        "loop": arm(LOOP), "no norm": arm(NONE),
        "momentum 0": arm({}, "loop", "momentum_0"), "per call": arm({}, "loop", "per_call"),
    }  # fmt: skip
    identity = {"kind": "study", "data_sha256": open_file(data).content_sha256, "epochs": 3, "eval_every": 3}
    loop = {"name": "loop-s0", "settings": LOOP, "seed": 0, "arm": "loop", "ranks": 1}
    loop["variants"] = ["momentum_0", "per_call"]
    none = {"name": "no-norm-s0", "settings": NONE, "seed": 0, "arm": "no norm", "ranks": 1, "variants": []}
    figures = {"val": 0.25, "train": 0.5, "A": 0.25, "B": 1.0, "C": 0.25, "D": 0.75, "normalization_gap": 0.75}
    summary = {
        "train": {"top1": 0.5}, "val": {"top1": 0.25}, "test": {"top1": 0.25}, "eval": "test",
        "accuracies": {"A": 0.25, "B": 1.0, "C": 0.25, "D": 0.75}, "gap": {"normalization": 0.75},
    }  # fmt: skip
    plain = {"val": {"top1": 0.25}, "test": {"top1": 0.25}, "A": 0.25, "identical": True}
    per_call = {"val": {"top1": 0.75}, "test": {"top1": 0.75}, "A": 1.0, "identical": False}
    ended = {"task": loop, "outcome": "finished", "cause": "", "attempts": 1, "curve": [{"epoch": 3} | figures]}
    ended |= {"summary": summary, "variants": {"momentum_0": plain, "per_call": per_call}}
    failed = {"task": none, "outcome": "failed", "cause": "time: not done after 9 s", "attempts": 2, "curve": []}
    failed |= {"summary": {}, "variants": {}}
    return [
        {"study": identity | {"frames": 16, "arms": arms, "baseline": "loop"}},
        {"begun": loop}, {"begun": none}, {"failed": "no-norm-s0", "cause": "time: not done after 9 s"},
        {"ended": ended}, {"failed": "no-norm-s0", "cause": "time: not done after 9 s"}, {"ended": failed},
    ]  # fmt: skip


@pytest.fixture(scope="module")
def finished(data_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of an older version with one seed, to which the command adds a second one."""
    folder = tmp_path_factory.mktemp("study")
    (folder / "mine.toml").write_text(MINE)
    (folder / "out").mkdir()
    lines = old_ledger(data_file)
    (folder / "out" / "ledger.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    result = study(data_file, folder / "out", folder / "mine.toml", "--seeds", "2", *SIZES, "--keep")
    assert result.returncode == 0, result.stderr
    assert "resumed: 2 trials are done, 0 were under way" in result.stderr
    return folder


def test_an_old_study_is_resumed_and_no_trial_is_repeated(data_file: Path, finished: Path) -> None:
    """Its lines stay; new ones have the same keys, so that the older version reads them, too."""
    lines = [json.loads(line) for line in (finished / "out" / "ledger.jsonl").read_text().splitlines()]
    old = old_ledger(data_file)
    assert lines[: len(old)] == old
    new = [line["ended"] for line in lines[len(old) :] if "ended" in line]
    assert sorted(ended["task"]["name"] for ended in new) == ["loop-s1", "no-norm-s1"]
    assert sorted(path.parent.name for path in (finished / "out").glob("trials/*/checkpoints")) == [
        "loop-s1",
        "no-norm-s1",
    ]
    before = next(line["ended"] for line in old if "ended" in line)
    for ended in new:
        assert list(ended) == list(before)
        assert list(ended["task"]) == list(before["task"])


def test_every_arm_has_its_row_and_every_trial_its_line(finished: Path) -> None:
    """Test accuracy of each, effects against the loop; momentum 0 changes nothing, bit for bit."""
    document = json.loads((finished / "out" / "results.json").read_text())
    arms = {row["arm"]: row for row in document["arms"]}
    assert (document["judged"], document["baseline"]) == ("test", "loop")
    assert {name: (row["n"], row["failed"]) for name, row in arms.items()} == {
        "loop": (2, 0), "no norm": (1, 1), "momentum 0": (2, 0), "per call": (2, 0),
    }  # fmt: skip
    assert arms["momentum 0"]["identical"]
    assert (arms["momentum 0"]["effect"], arms["momentum 0"]["p"]) == (0.0, 1.0)
    assert not arms["per call"]["identical"]
    assert arms["per call"]["B"] == arms["loop"]["B"]
    rows = list(csv.DictReader((finished / "out" / "results.csv").open()))
    assert len(rows) == 8
    assert sum(row["test"] == "" for row in rows) == 1
    assert (finished / "out" / "report.html").stat().st_size > 10_000


def test_a_study_of_other_arms_does_not_mix_with_it(data_file: Path, finished: Path, answer: Answer) -> None:
    """One line that names what differs."""
    result = answer(main, "--data", data_file, "--out", finished / "out", "--arms", "persons", "--wandb", "off")
    assert result.returncode == 2
    assert "holds a study with other settings (arms; baseline; epochs; eval_every; frames)" in result.stderr
    assert result.stderr.strip().count("\n") == 0


def test_a_study_whose_baseline_never_finished_ends_with_3(data_file: Path, tmp_path: Path, answer: Answer) -> None:
    """Nothing is left to train, so Ray is not started; the failure is in the table."""
    settings = Study(data_file, tmp_path, arms=str(tmp_path / "mine.toml"), seeds=1)
    (tmp_path / "mine.toml").write_text('baseline = "a"\n[arms.a]\n')
    arms = read_arms(settings.arms)
    identity = {"epochs": settings.epochs, "eval_every": settings.eval_every, "frames": settings.frames}
    sha256 = open_file(data_file).content_sha256
    ledger = StudyLedger(tmp_path, {"kind": "study", "data_sha256": sha256} | identity | arms.identity())
    ledger.end(Outcome(Task("a-s0", {}, 0, arm="a"), "failed", cause="memory: none left"))
    result = answer(main, "--data", data_file, "--out", tmp_path, "--arms", tmp_path / "mine.toml", "--seeds", "1")
    assert result.returncode == 3
    assert run_study(settings).document["arms"][0]["failed"] == 1


RATES = (1e-3, 3e-3)


def curve(*vals: float) -> list[dict[str, float]]:
    """An accuracy on val at epochs 2 and 6."""
    return [{"epoch": epoch, "val": val} for epoch, val in zip((2, 6), vals, strict=False)]


def finished_trial(arm: str, rate: float, val: float = 0.5) -> Outcome:
    """The first seed of an arm, trained with the rate that was chosen for it."""
    summary = {
        "train": {"top1": 1.0}, "val": {"top1": val}, "test": {"top1": val}, "eval": "test",
        "accuracies": {"A": 1.0, "B": 1.0, "C": val, "D": val}, "gap": {"normalization": 0.0},
    }  # fmt: skip
    return Outcome(Task(f"{arm}-s0", {"optim.lr": rate}, 0, arm), "finished", curve=curve(val, val), summary=summary)


def recorded(settings: Study, arms: str, outcomes: list[Outcome]) -> None:
    """Write the arms and the record of their study."""
    Path(settings.arms).write_text(arms)
    identity = {"kind": "study"} | settings.data_identity() | settings.identity | read_arms(settings.arms).identity()
    ledger = StudyLedger(settings.out, identity)
    for outcome in outcomes:
        ledger.end(outcome)


def candidate(arm: str, rate: float, outcome: str, *vals: float) -> Outcome:
    """A training that serves the choice of a rate."""
    name = f"{arm}-s0-choosing-lr-{rate:g}"
    return Outcome(Task(name, {"optim.lr": rate}, 0, arm, choosing=True), outcome, curve=curve(*vals))


def choosing(data: Path, folder: Path) -> Study:
    """A study that chooses from RATES, all of whose trainings a test has on the record: Ray does not start."""
    return Study(
        data, folder, arms=str(folder / "arms.toml"), seeds=1, epochs=6, lr=RATES, grace=2, eval_every=2, wandb="off"
    )


def test_a_rate_that_diverged_after_a_rung_is_not_chosen_and_the_command_can_be_repeated(
    data_file: Path, tmp_path: Path
) -> None:
    """It was the best after two epochs, and took the place of another. So it does when the command is repeated."""
    settings = choosing(data_file, tmp_path)
    recorded(
        settings,
        'baseline = "a"\n[arms.a]\n[arms.b]\n',
        [
            candidate("a", 3e-3, "failed", 0.9), candidate("a", 1e-3, "stopped", 0.5),
            candidate("b", 3e-3, "stopped", 0.6), candidate("b", 1e-3, "finished", 0.8, 0.7),
            finished_trial("a", 1e-3), finished_trial("b", 1e-3),
        ],
    )  # fmt: skip
    record = (tmp_path / "ledger.jsonl").read_bytes()
    document = run_study(settings).document
    assert {cell["arm"]: (cell["optim.lr"], cell["epochs"]) for cell in document["choice"]} == {
        "a": (1e-3, 2), "b": (1e-3, 6),
    }  # fmt: skip
    assert [row["n"] for row in document["arms"]] == [1, 1]
    assert [path.name for path in tmp_path.glob("trials/*")] == []  # nothing was trained
    assert (tmp_path / "ledger.jsonl").read_bytes() == record


def test_arms_that_are_added_leave_the_choices_of_the_others_as_they_are(data_file: Path, tmp_path: Path) -> None:
    """Both rates of a went on before b was there, and the slower one won. Beside b neither goes on."""
    settings = choosing(data_file, tmp_path)
    recorded(
        settings,
        'baseline = "a"\n[arms.a]\n[arms.c]\n',
        [
            candidate("a", 1e-3, "finished", 0.7, 0.5), candidate("a", 3e-3, "finished", 0.6, 0.8),
            candidate("c", 1e-3, "stopped", 0.2), candidate("c", 3e-3, "stopped", 0.1),
            finished_trial("a", 3e-3), finished_trial("c", 1e-3),
        ],
    )  # fmt: skip
    assert rates(run_study(settings).document) == {"a": 3e-3, "c": 1e-3}
    more = [candidate("b", 1e-3, "finished", 0.9, 0.9), candidate("b", 3e-3, "finished", 0.9, 0.8)]
    recorded(settings, 'baseline = "a"\n[arms.a]\n[arms.c]\n[arms.b]\n', [*more, finished_trial("b", 1e-3)])
    document = run_study(settings).document
    assert rates(document) == {"a": 3e-3, "c": 1e-3, "b": 1e-3}
    assert [row["n"] for row in document["arms"]] == [1, 1, 1]


def rates(document: dict[str, Any]) -> dict[str, float]:
    """The rate of each arm."""
    return {cell["arm"]: cell["optim.lr"] for cell in document["choice"]}


def test_an_arm_whose_candidates_all_failed_is_shown_with_them(data_file: Path, tmp_path: Path) -> None:
    """Not as an arm that was never tried."""
    settings = choosing(data_file, tmp_path)
    good = [candidate("a", 1e-3, "finished", 0.9, 0.9), candidate("a", 3e-3, "stopped", 0.2)]
    bad = [candidate("b", rate, "failed") for rate in RATES]
    recorded(settings, 'baseline = "a"\n[arms.a]\n[arms.b]\n', [*good, *bad, finished_trial("a", 1e-3)])
    document = run_study(settings).document
    assert {row["arm"]: (row["n"], row["failed"]) for row in document["arms"]} == {"a": (1, 0), "b": (0, 2)}


def test_an_arm_that_no_longer_remains_keeps_its_trials(data_file: Path, tmp_path: Path) -> None:
    """With --screen 1 beside the baseline, b has no further seeds, but those it has are results."""
    settings = replace(choosing(data_file, tmp_path), screen=1)
    ended = []
    for arm, val in (("a", 0.5), ("b", 0.6), ("c", 0.9)):
        ended += [candidate(arm, 1e-3, "finished", val, val), candidate(arm, 3e-3, "finished", val, 0.1)]
        ended += [finished_trial(arm, 1e-3)]
    recorded(settings, 'baseline = "a"\n[arms.a]\n[arms.b]\n[arms.c]\n', ended)
    document = run_study(settings).document
    assert {cell["arm"]: cell["kept"] for cell in document["choice"]} == {"a": True, "b": False, "c": True}
    assert {row["arm"]: row["n"] for row in document["arms"]} == {"a": 1, "b": 1, "c": 1}


@pytest.mark.parametrize(
    ("arms", "lr", "words"),
    [
        ("[arms.a]\noptim.lr = 1e-4", RATES, "arm 'a' sets optim.lr, which --lr chooses: remove one of them."),
        ("common.optim.lr = 1e-4\n[arms.a]", RATES, "arm 'a' sets optim.lr, which --lr chooses"),
        ('[arms.a]\n[arms.b]\ninput.protocol = "xview"', (), "arms cannot set input.protocol"),
        ('[arms.a]\ninput.protocol = "xsbu"', (), "has no protocol 'xsbu'; it has xsub; did you mean xsub"),
    ],
)
def test_an_arm_does_not_decide_what_the_study_decides(
    data_file: Path, tmp_path: Path, arms: str, lr: tuple[float, ...], words: str
) -> None:
    """Nothing has started."""
    (tmp_path / "arms.toml").write_text(f'baseline = "a"\n{arms}\n')
    with pytest.raises(ValueError, match=words):
        run_study(Study(data_file, tmp_path / "out", arms=str(tmp_path / "arms.toml"), lr=lr))
    assert not list((tmp_path / "out").glob("ledger*"))


def test_rates_that_would_share_a_folder_are_rejected(data_file: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--lr 0.001 is listed twice"):
        Study(data_file, tmp_path, arms="norms", lr=(1e-3, 3e-3, 0.0010000001))


@pytest.mark.slow
def test_a_study_over_two_sets_chooses_on_validation_and_resumes(data_file: Path, tmp_path: Path) -> None:
    """Candidates of every arm, rate and set; then all seeds of the arm that remains and of the baseline."""
    write_file(tmp_path / "other.h5", seed=1)
    (tmp_path / "sets.toml").write_text(f'[sets.a]\ndata = "{data_file}"\n[sets.b]\ndata = "other.h5"\n')
    (tmp_path / "arms.toml").write_text(
        'baseline = "none"\ncommon.train.batch_size = 16\n[arms.none]\nnorm.kind = "none"\n'
        '[arms.masked]\nnorm.kind = "bn"\n[arms.gn]\nnorm.kind = "gn"\n'
    )
    words = ["--seeds", "2", "--lr", "1e-3", "3e-3", "--screen", "1", "--grace", "1", "--epochs", "2"]
    words += ["--frames", "16"]
    first = study(tmp_path / "sets.toml", tmp_path / "out", tmp_path / "arms.toml", *words)
    assert first.returncode == 0, first.stderr
    document = json.loads((tmp_path / "out" / "results.json").read_text())
    cells = {(cell["set"], cell["arm"]): cell for cell in document["choice"]}
    assert len(cells) == 6
    kept = {arm for _, arm in cells if cells["a", arm]["kept"]}
    assert "none" in kept
    assert len(kept) <= 2
    lines = [json.loads(line) for line in (tmp_path / "out" / "ledger.jsonl").read_text().splitlines()]
    ended = [line["ended"] for line in lines if "ended" in line]
    choosing = [one for one in ended if one["task"].get("choosing")]
    assert len({one["task"]["name"] for one in choosing}) == 3 * 2 * 2
    for data_set in ("a", "b"):  # of six candidates, two went on after the first epoch, or more that were as good
        last = {one["task"]["name"]: one for one in choosing if one["task"]["data_set"] == data_set}
        at_first = [one["curve"][0]["val"] for one in last.values()]
        limit = sorted(at_first, reverse=True)[1]
        assert all((len(one["curve"]) == 2) == (one["curve"][0]["val"] >= limit) for one in last.values())
    assert not any(one["summary"].get("test") for one in choosing)  # the test split was not read
    final = [one for one in ended if not one["task"].get("choosing")]
    assert len(final) == len(kept) * 2 * 2
    for one in final:
        cell = cells[one["task"]["data_set"], one["task"]["arm"]]
        assert one["task"]["settings"]["optim.lr"] == cell["optim.lr"]
        assert one["summary"]["test"]["top1"] is not None
    again = study(tmp_path / "sets.toml", tmp_path / "out", tmp_path / "arms.toml", *words)
    assert again.returncode == 0, again.stderr
    after = [json.loads(line) for line in (tmp_path / "out" / "ledger.jsonl").read_text().splitlines()]
    assert after == lines
    with (tmp_path / "sets.toml").open("a") as file:
        file.write('[sets.c]\ndata = "other.h5"\noptim.weight_decay = 0.1\n')
    grown = study(tmp_path / "sets.toml", tmp_path / "out", tmp_path / "arms.toml", *words)
    assert grown.returncode == 0, grown.stderr
    more = [json.loads(line) for line in (tmp_path / "out" / "ledger.jsonl").read_text().splitlines()][len(after) :]
    tasks = [line["ended"]["task"] for line in more if "ended" in line]
    assert {one["name"] for one in tasks if one["data_set"] == "c" and one.get("choosing")} == {
        f"c--{arm}-s0-choosing-lr-{rate}" for arm in ("none", "masked", "gn") for rate in ("0.001", "0.003")
    }
    document = json.loads((tmp_path / "out" / "results.json").read_text())
    assert {name: one["counts_as"] for name, one in document["sets"].items()} == {"a": "a", "b": "b", "c": "b"}
    kept = {cell["arm"] for cell in document["choice"] if cell["kept"]}
    assert {(one["arm"], one["seed"]) for one in document["trials"] if one["set"] == "c"} == {
        (arm, seed) for arm in kept for seed in range(2)
    }


@pytest.mark.parametrize(
    ("grace", "epochs", "expected"),
    [(0, 40, []), (10, 40, [10, 30]), (10, 100, [25, 75]), (10, 10, [2, 6]), (10, 2, [1]), (40, 40, [])],
)
def test_a_data_set_with_more_epochs_is_compared_later(
    data_file: Path, tmp_path: Path, grace: int, epochs: int, expected: list[int]
) -> None:
    """--epochs is 40; the default of the set is its own."""
    (tmp_path / "sets.toml").write_text(f'[sets.a]\ndata = "{data_file}"\ntrain.epochs = {epochs}\n')
    settings = Study(tmp_path / "sets.toml", tmp_path, arms="norms", epochs=40, eval_every=7, lr=(1e-3,), grace=grace)
    assert settings.rungs("a") == expected
    task = Task("x", {}, 0, "none", data_set="a", choosing=True)
    assert settings.spec(task).settings["train.eval_every"] == (expected or [7])[0]
    assert settings.spec(replace(task, choosing=False)).settings["train.eval_every"] == 7


def test_a_stopped_candidate_goes_on_if_a_later_rung_needs_it(tmp_path: Path) -> None:
    ledger = StudyLedger(tmp_path, {})
    done, stopped, new = (Task(name, {}, 0) for name in ("done", "stopped", "new"))
    ledger.end(Outcome(done, "finished", curve=[{"epoch": 2, "val": 0.1}]))
    ledger.end(Outcome(stopped, "stopped", curve=[{"epoch": 2, "val": 0.1}]))
    assert missing([done, stopped, new], ledger, until=2) == [new]
    assert missing([done, stopped, new], ledger, until=3) == [stopped, new]
    assert missing([done, stopped, new], ledger) == [stopped, new]


@pytest.mark.parametrize("under_way", [False, True], ids=["ended", "under way"])
def test_a_trial_of_another_choice_is_never_taken_for_this_one(
    data_file: Path, tmp_path: Path, under_way: bool
) -> None:
    settings = Study(data_file, tmp_path, arms="norms")
    ledger, task = StudyLedger(tmp_path, {}), Task("bn-s0", {"optim.lr": 1e-3}, 0)
    ledger.begin(task) if under_way else ledger.end(Outcome(task, "finished"))
    with pytest.raises(ValueError, match="has a trial bn-s0 with other settings, from another choice on validation"):
        settings.run_missing([Task("bn-s0", {"optim.lr": 3e-3}, 0)], ledger)


def test_tasks_go_seed_by_seed_and_are_named_after_arm_and_seed() -> None:
    """A study that stops early has paired arms."""
    arms = Arms(
        "A a", {"A a": Arm({"norm.eps": 0.1}, ranks=2), "b.1": Arm(), "c": Arm(of="A a", re_evaluation="joint")}
    )
    expected = [
        Task(f"{slug}-s{seed}", settings, seed, name, ranks, more)
        for seed in (0, 1)
        for name, slug, settings, ranks, more in [
            ("A a", "a-a", {"norm.eps": 0.1}, 2, ("joint",)), ("b.1", "b.1", {}, 1, ())
        ]
    ]  # fmt: skip
    assert list_tasks(arms, 2) == expected


@pytest.mark.parametrize("name", ["question", "norms", "persons"])
def test_the_next_command_trains_the_best_arm(
    data_file: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its words are the arm's settings again, for every arm. Nothing is suggested where no arm has finished."""
    arms, settings = read_arms(name), Study(data=data_file, out=tmp_path / "s", arms=name, epochs=3, frames=16)
    for best, arm in arms.trained().items():
        rows = [{"arm": other, "val": float(other == best)} for other in arms.trained()]
        suggest_best(settings, arms, rows)
        _, train, *words = shlex.split(capsys.readouterr().err.replace("python -m pipeline.", ""))
        expected = {"data": str(data_file.resolve()), "out": words[4], "train.epochs": 3, "input.frames": 16}
        assert train == "train"
        assert parse(words) == from_dict(nested(expected | arm.settings))
    suggest_best(settings, arms, [{"arm": other, "val": None} for other in arms.arms])
    assert capsys.readouterr().err == ""


def test_arms_that_would_share_a_folder_are_rejected() -> None:
    with pytest.raises(ValueError, match="differ by case or punctuation only"):
        list_tasks(Arms("a, b", {"a, b": Arm(), "A b": Arm()}), 1)


def test_a_full_disk_is_reported_in_one_line(data_file: Path, full_disk: Path) -> None:
    result = study(data_file, full_disk / "out", "persons", timeout=120)
    assert (result.returncode, result.stderr.strip().count("\n")) == (7, 0), result.stderr
    assert "No space left on device" in result.stderr
