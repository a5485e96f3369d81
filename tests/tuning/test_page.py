"""Pages of a search and of a study: their values by hand, and a browser that draws them without an error."""

import re
from pathlib import Path
from typing import Any

import optuna
import pytest

from pipeline.pages.figures import GREEN, GREY
from tests.browser import loads, watched
from tuning import figures, page, results
from tuning.arms import Arm, Arms
from tuning.ledger import Outcome, Task
from tuning.over_sets import combined_document
from tuning.space import draw

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


def arms(data_set: str = "") -> list[Outcome]:
    """Three seeds of three arms."""
    made = []
    for arm, values in TEST.items():
        for seed, test in enumerate(values):
            summary = {
                "train": {"top1": 1.0}, "val": {"top1": test}, "test": {"top1": test}, "eval": "test",
                "accuracies": {"A": 0.4, "B": 1.0, "C": test, "D": 0.8}, "gap": {"normalization": 0.6},
            }  # fmt: skip
            made.append(
                Outcome(
                    Task(f"{arm}-{seed}", {}, seed, arm=arm, data_set=data_set), "finished", curve=curve(test),
                    summary=summary,
                )
            )  # fmt: skip
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


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a study over two data sets, one named in a way that must be quoted."""
    folder, names = tmp_path_factory.mktemp("sets"), ["utd", "<ucla>, view 3"]
    outcomes = [outcome for name in names for outcome in arms(name)]
    document = combined_document(ARMS, outcomes, names)
    cells = [{"set": name, "arm": "masked", "val": 0.75, "kept": True, "optim.lr": 0.001} for name in names]
    page.write_study(folder, {"data": "sets.toml", "epochs": "2"}, document | {"choice": cells}, outcomes)
    return folder / "report.html"


@pytest.mark.parametrize(("name", "figures"), [("study", 3), ("search", 18), ("sets", 4)])
def test_a_browser_draws_it_without_an_error(
    name: str, figures: int, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Every figure is drawn; nothing in the text becomes an element; nothing is fetched."""
    made = request.getfixturevalue(name)
    dom = watched(made, tmp_path)
    assert "data-failed" not in dom
    assert dom.count('<figure class="plot"') == figures
    assert "<loop>" not in dom
    assert "<ucla>" not in dom
    assert "memory: <b>" not in dom
    assert loads(made) == []


def test_the_browser_check_sees_a_broken_page(study: Path, tmp_path: Path) -> None:
    """Negative control."""
    assert "data-failed" in watched(study, tmp_path, more="<script>undefined_function();</script>")


def test_what_helps_and_what_is_not_shown_to_stand_first(study: Path) -> None:
    """Masked by 45 points, with little spread; without norm by 1, with much."""
    text = study.read_text()
    assert "<h1>1 of 2 arms help; “masked” by +45 points</h1>" in text
    start, helps, rest = page.boxes(results.study_document(ARMS, arms())["arms"], "test", ARMS.baseline)
    assert (start.figure, start.text) == ("100 % → 29 %", "training → test accuracy of “BatchNorm <loop>”, mean of 3")
    assert helps.items == (("masked", "+45.0"),)
    assert rest.items == (("no norm", "+1.0"),)
    means = page.accuracies_table([row("base", None), row("a")], "test", "base")
    assert means.rows[1].cells == ("a", 0.5, 0.5, 0.5, 0.5, 0.5)


def test_a_long_search_draws_the_best_and_an_even_sample_of_the_others() -> None:
    """Ten thousand trials make a page of the size of a few hundred; the note and the caption count them."""
    few = sorted(trials(30)[:3], key=lambda outcome: -outcome.last["val"])
    good = [few[0]] * 100 + [few[1]] * 100 + [few[2]] * 300
    drawn = figures.sampled(good)
    assert drawn[:100] == good[:100]
    assert [drawn[100:].count(one) for one in few[1:]] == [50, 150]
    assert figures.sampled(good[:300]) == good[:300]
    _, _, note = page.search_plots(good)
    assert "The figures show 300 of 500 trials" in note
    table = page.trials_table(good[:2], 10_000)
    assert (len(table.rows), "The best 2 of 10,000 trials (results.csv has all)" in table.caption) == (2, True)


def test_a_study_over_data_sets_shows_ranks_and_each_set(sets: Path) -> None:
    """The headline counts data sets; each set has its table, and the choice is shown."""
    text = sets.read_text()
    assert "Effects on the test split, paired by data set, against" in text
    assert "sets.toml: 3 arms, 2 data sets, 2 epochs" in text
    assert text.count("<small>2 data sets</small>") == 2  # beside each arm but the baseline
    for shown in ("<th>rank", "&lt;ucla&gt;, view 3", "Choice on validation", "Friedman"):
        assert shown in re.sub(r"<th [^>]*>", "<th>", text), shown


def row(arm: str, effect: float | None = 0.1, p: float | None = 0.01, **more: Any) -> dict[str, Any]:
    """A row of the arms' table."""
    keys = ("train", "val", "test", *"ABCD", "normalization_gap")
    means = dict.fromkeys(keys, 0.5) | {f"{key}_std": 0.125 for key in keys}
    effects = {"effect": effect, "interval": None if effect is None else (effect - 0.05, effect + 0.05), "p": p}
    return {"arm": arm, "n": 3, "failed": 0, "p_holm": p, **means, **effects, **more}


@pytest.mark.parametrize(
    ("others", "title"),
    [
        ([], "No arm has a seed in common with the baseline yet"),
        ([row("a", p=0.05)], "No arm is shown to be better than “base” on val"),
        ([row("a", effect=-0.1)], "No arm is shown to be better than “base” on val"),
        ([row("a", p=None)], "No arm is shown to be better than “base” on val"),
        ([row("a", p=0.049), row("b", 0.2)], "2 of 2 arms help; “b” by +20 points"),
    ],
)
def test_headlines_of_a_study(others: list[dict[str, Any]], title: str) -> None:
    assert page.headline([row("base", None), *others], "val", "base") == title


def test_the_table_marks_the_baseline_and_has_intervals_and_holm() -> None:
    table = page.arms_table([row("base", None, None), row("a", p=0.0123, failed=2)], "test", "base")
    assert [one.marked for one in table.rows] == ["baseline", ""]
    order = [row("b", 0.1), row("base", None), row("none", None, n=0), row("a", 0.3)]
    assert [one.cells[0] for one in page.arms_table(order, "test", "base").rows] == ["base", "a", "b", "none"]
    shown = [[c.show(v) for c, v in zip(table.columns, one.cells, strict=True)] for one in table.rows]
    assert shown[1] == [
        "a", "3", "50.0 ± 12.5", "50.0 ± 12.5", "50.0 ± 12.5", "+10.0", "+5.0 to +15.0", "0.012", "0.012", "2",
    ]  # fmt: skip
    assert shown[0][5:9] == [""] * 4
    titles = [column.title for column in page.arms_table([row("base")], "val", "base").columns]
    assert "test" not in titles


def test_arms_of_equal_bits_say_so() -> None:
    _, helps, rest = page.boxes([row("base", None), row("a", 0.0, 1.0, identical=True)], "val", "base")
    assert rest.items == (("a (same bits)", "+0.0"),)
    assert helps.text == "Nothing that these seeds can show."


def test_the_forest_is_sorted_and_green_where_an_arm_helps() -> None:
    rows = [row("base", None), row("good", 0.3), row("<b>", -0.1)]
    figure = figures.forest_figure(rows, "val", "base", {"good"})
    assert [one.name for one in figure.rows] == ["good", "<b>"]
    dots = [one.lanes[0][0] for one in figure.rows]
    assert [dot.colour for dot in dots] == [GREEN, GREY]
    assert [dot.text for dot in dots] == ["+30.0", "−10.0"]
    assert [(dot.low, dot.high) for dot in dots] == [pytest.approx((25, 35)), pytest.approx((-15, -5))]
    assert figure.rule == 0


def test_curves_are_means_over_seeds() -> None:
    series = figures.arm_curves_figure(arms()).series
    assert [one.name for one in series] == ["“BatchNorm <loop>”", "“masked”", "“no norm”"]
    assert [y for _, y in series[1].points] == pytest.approx([37, 74])


def test_gaps_leave_out_arms_without_seeds() -> None:
    (one,) = figures.gap_figure([row("a", A=0.25, B=0.75, D=None), row("none yet") | {"n": 0}]).rows
    bar, *points = one.lanes[0]
    assert (bar.start, bar.end, one.name) == (25, 75, "a")
    assert [point.value for point in points] == [25, 75, 50]


def test_a_search_shows_its_best_trials_with_all_their_settings(search: Path) -> None:
    good = sorted((o for o in trials(30) if o.outcome != "failed"), key=lambda o: -o.last["val"])
    settings = good[0].task.settings
    title = page.search_headline(good, 30)
    assert title == (
        f"Best of 30 settings: {100 * good[0].last['val']:.1f} % on held-out subjects, "
        f"norm {settings['norm.kind']}, persons {settings['norm.persons']}"
    )
    assert f"<h1>{title}</h1>" in search.read_text()
    best, second, third = page.search_boxes(good)
    assert len(best.items) == len(settings)
    assert ("dropout", str(settings["model.dropout"])) in best.items
    assert (best.tone, second.tone, third.tone) == ("good", "plain", "plain")
    table = page.trials_table(good, len(good))
    assert [one.cells[0] for one in table.rows] == [outcome.task.name for outcome in good]
    assert all(f"{figures.short(name)} " in table.rows[0].cells[-1] for name in settings), "every setting is visible"
    stopped = next(one for one in table.rows if one.cells[0] == "0003")
    assert stopped.cells[1] == "1 (stopped)"
    assert "1 stopped early by ASHA, 1 failed" in search.read_text()


def test_a_setting_that_did_not_matter_is_a_dash() -> None:
    """Of choices; on logarithmic axes it lies at the least value."""
    good = [outcome for outcome in trials(30) if outcome.outcome == "finished"]
    figure = figures.parallel_figure(good)
    strands = figure.strands[::-1]  # the best is drawn last, on top
    names = [axis.name for axis in figure.axes]
    assert names == [*map(figures.short, figures.settings_of(good)), "C, held-out subjects (%)"]
    place = names.index("groups")
    texts = dict(figure.axes[place].ticks)
    drawn = [outcome.task.settings.get("norm.groups") for outcome in good]
    assert None in drawn
    assert [texts[one.places[place]] for one in strands] == ["–" if v is None else str(v) for v in drawn]
    place = names.index("momentum")
    known = {o.task.settings.get("norm.momentum"): one.places[place] for o, one in zip(good, strands, strict=True)}
    assert known[None] == 0
    values = sorted(value for value in known if value is not None)
    assert [known[value] for value in values] == sorted(known[value] for value in values)
    assert (known[values[0]], known[values[-1]]) == (12, 100)
    assert {one.rank for one in strands} >= {0, 1}


def test_a_space_of_the_users_own_is_drawn_too() -> None:
    """Settings that the default space does not have: choices, and numbers."""
    made = []
    for number in range(24):
        settings = {"norm.kind": "bn", "mine.kind": f"<{number % 2}>", "mine.rate": 0.1 * (number + 1)}
        made.append(Outcome(Task(f"{number:04d}", settings, 0), "finished", curve=curve(0.01 * number)))
    assert figures.settings_of(made) == ["norm.kind", "mine.kind", "mine.rate"]
    assert [axis.name for axis in figures.parallel_figure(made).axes[:3]] == ["kind", "kind", "rate"]
    assert [text for _, text in figures.parallel_figure(made).axes[1].ticks] == ["<0>", "<1>"]
    assert [figure.kind for figure in figures.slices_figures(made)] == ["rows", "rows", "curves"]
    assert next(iter(figures.importance(made))) == "mine.rate"


def test_the_learning_rate_is_what_mattered() -> None:
    """Found by PED-ANOVA among settings that do not matter, conditional ones included."""
    good = [outcome for outcome in trials(60) if outcome.outcome == "finished"]
    shares = figures.importance(good)
    assert next(iter(shares)) == "optim.lr"
    assert shares["optim.lr"] > 0.5
    plot, note = figures.importance_figure(good)
    assert note == ""
    assert plot is not None
    assert plot.alt.startswith("Most important: optim.lr,")
    assert plot.rows[0].name == "lr"


def test_few_trials_have_no_importance() -> None:
    good = [outcome for outcome in trials(60) if outcome.outcome == "finished"]
    assert figures.importance_figure(good[:20])[0] is not None
    expected = "Importance of settings: needs 20 trials, 19 have a result."
    assert figures.importance_figure(good[:19]) == (None, expected)


def test_a_search_without_a_good_trial_has_a_page(tmp_path: Path) -> None:
    """Causes are all there is."""
    page.write_search(tmp_path, {"data": "clips.h5", "epochs": "2"}, [trials(6)[4]])
    text = (tmp_path / "report.html").read_text()
    assert "No trial has finished yet" in text
    assert "memory: &lt;b&gt;none&lt;/b&gt; left (2 attempts)" in text
    assert re.search(r'epochs</th>\s*<td class="left">2</td>', text), "settings of the command"
