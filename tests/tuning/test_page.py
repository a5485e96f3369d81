"""page.py: reports of a search and of a study, drawn by a browser without an error, with the right figures."""

import re
from pathlib import Path
from typing import Any

import optuna
import pytest

from tests.browser import rendered
from tuning import page, results
from tuning.arms import Arm, Arms
from tuning.ledger import Outcome, Task
from tuning.space import draw

WATCH = "<script>window.onerror = (error) => { document.documentElement.dataset.failed = error; };</script>"
ARMS = Arms("BatchNorm <loop>", {"BatchNorm <loop>": Arm(), "masked": Arm(), "no norm": Arm()})
TEST = {"BatchNorm <loop>": (0.30, 0.26, 0.31), "masked": (0.75, 0.70, 0.77), "no norm": (0.5, 0.1, 0.3)}


def curve(last: float) -> list[dict[str, Any]]:
    """Two epochs."""
    figures = {"train": 0.9, "A": 0.5, "B": 1.0, "C": last, "D": 0.7, "normalization_gap": 0.5}
    return [{"epoch": 1, "val": last / 2} | figures, {"epoch": 2, "val": last} | figures]


def trials(number: int) -> list[Outcome]:
    """Trials of a search: better with a smaller learning rate; one stopped early, one failed."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    drawn = [draw(study.ask()) for _ in range(number)]
    made = [
        Outcome(Task(f"{i:04d}", settings, 0), "finished", curve=curve(0.9 - 50 * settings["optim.lr"]))
        for i, settings in enumerate(drawn)
    ]
    made[3] = Outcome(made[3].task, "stopped", curve=made[3].curve[:1])
    made[4] = Outcome(made[4].task, "failed", cause="memory: <b>none</b> left", attempts=2)
    return made


def arms() -> list[Outcome]:
    """Three seeds of three arms."""
    made = []
    for arm, values in TEST.items():
        for seed, test in enumerate(values):
            summary = {
                "train": {"top1": 1.0}, "val": {"top1": test}, "test": {"top1": test}, "eval": "test",
                "accuracies": {"A": 0.4, "B": 1.0, "C": test, "D": 0.8}, "gap": {"normalization": 0.6},
            }  # fmt: skip
            made.append(
                Outcome(Task(f"{arm}-{seed}", {}, seed, arm=arm), "finished", curve=curve(test), summary=summary)
            )
    return made


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a study."""
    folder = tmp_path_factory.mktemp("study")
    page.write_study(folder, {"data": "clips.h5", "epochs": "2"}, results.study_document(ARMS, arms()), arms())
    return folder / "report.html"


@pytest.fixture(scope="module")
def search(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a search."""
    folder = tmp_path_factory.mktemp("search")
    page.write_search(folder, {"data": "clips.h5", "epochs": "2"}, trials(30))
    return folder / "report.html"


def watched(made: Path, folder: Path, more: str = "") -> str:
    """The page's DOM in a browser that notes errors."""
    copy = folder / "watched.html"
    copy.write_text(made.read_text().replace("<head>", f"<head>{WATCH}{more}", 1))
    return rendered(copy, folder / "profile")


@pytest.mark.parametrize(("name", "figures"), [("study", 3), ("search", 4)])
def test_a_browser_draws_it_without_an_error(
    name: str, figures: int, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Every figure is drawn; nothing in the text becomes an element."""
    dom = watched(request.getfixturevalue(name), tmp_path)
    assert "data-failed" not in dom
    assert len(re.findall(r'class="plotly-graph-div[^"]*js-plotly-plot"|class="js-plotly-plot', dom)) >= figures
    assert dom.count('class="main-svg"') >= figures
    assert "<loop>" not in dom
    assert "<b>none</b>" not in dom


def test_the_browser_check_sees_a_broken_page(study: Path, tmp_path: Path) -> None:
    """Negative control."""
    assert "data-failed" in watched(study, tmp_path, "<script>nobody();</script>")


def test_nothing_is_fetched(study: Path, search: Path) -> None:
    """No element that loads anything from elsewhere."""
    for made in (study, search):
        text = re.sub(r"<script.*?</script>", "", made.read_text(), flags=re.S)
        assert not re.search(r"(src|href)\s*=|@import|url\(", text)


def test_what_helps_and_what_is_not_shown_to_stand_first(study: Path) -> None:
    """Masked by 45 points, with little spread; without norm by 1, with much."""
    text = study.read_text()
    assert "<h1>1 of 2 arms help; “masked” by +45 points</h1>" in text
    helps, rest = (text[text.index(head) :].split("</div>")[0] for head in ("What helps", "Not shown to help"))
    assert "masked <b>+45.0</b>" in helps
    assert "no norm <b>+1.0</b>" in rest
    assert "75" not in rest


def test_the_learning_rate_is_what_mattered() -> None:
    """Found by PED-ANOVA among settings that do not, conditional ones included; few trials are no error."""
    good = [outcome for outcome in trials(60) if outcome.outcome == "finished"]
    shares = page.importance(good)
    assert next(iter(shares)) == "optim.lr"
    assert shares["optim.lr"] > 0.5
    assert "No importance" in page._importance(good[:1]) or "plotly" in page._importance(good[:1])


def test_a_search_without_a_good_trial_has_a_page(tmp_path: Path) -> None:
    """Causes are all there is."""
    page.write_search(tmp_path, {"data": "clips.h5", "epochs": "2"}, [trials(6)[4]])
    text = (tmp_path / "report.html").read_text()
    assert "No trial has finished yet" in text
    assert "memory: &lt;b&gt;none&lt;/b&gt; left (2 attempts)" in text
