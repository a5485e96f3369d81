"""arms.py: the named arms, arms from a file, and mistakes in it."""

import json
from pathlib import Path

import pytest

from pipeline.config import from_dict
from pipeline.norms import NORMS
from tuning.arms import ARMS, Arm, Arms, read_arms
from tuning.space import nested


@pytest.mark.parametrize("name", ARMS)
def test_every_arm_is_a_setting_of_the_trainer(name: str) -> None:
    """And no two arms are the same."""
    arms = read_arms(name)
    assert arms.baseline in arms.trained()
    for arm in arms.trained().values():
        from_dict(nested({"data": "a.h5", "out": "run"} | arm.settings))
    unique = {
        (json.dumps(arm.settings, sort_keys=True), arm.ranks, arm.of, arm.re_evaluation) for arm in arms.arms.values()
    }
    assert len(unique) == len(arms.arms)


def test_the_question_has_one_arm_per_answer() -> None:
    """One change each against the question's own network, two if the name has two."""
    arms = read_arms("question")
    base = arms.arms[arms.baseline].settings
    assert base == {"norm.kind": "bn", "norm.persons": "loop", "norm.momentum": 0.01}
    changes = {name: sorted(set(arm.settings.items()) - set(base.items())) for name, arm in arms.trained().items()}
    assert changes.pop(arms.baseline) == []
    assert all(len(change) == 1 + (", momentum" in name) for name, change in changes.items())
    assert {value for change in changes.values() for key, value in change if key == "train.batch_size"} == {16, 256}
    assert {value for change in changes.values() for key, value in change if key == "norm.momentum"} == {0.001, 0.1}
    assert {value for change in changes.values() for key, value in change if key == "model.dropout"} == {0, 0.2, 0.7}
    assert {arm.re_evaluation for arm in arms.arms.values() if arm.of} == {"momentum_0", "joint", "per_call"}
    assert [arm.ranks for arm in arms.arms.values() if arm.ranks > 1] == [2, 2]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('baseline = "b"\n[arms.a]\nnorm.kind = "bn"', "baseline 'b' is not an arm: choose one of a."),
        ('baseline = "a"\n[arms.a]\nnorm.kinds = "bn"', "arm 'a': unknown setting norm.kinds; did you mean norm.kind?"),
        ('baseline = "a"\nalways = ["c"]\n[arms.a]\n[arms.b]', "always: 'c' is not an arm: choose from a, b."),
        ('baseline = "a"\nalways = "a"\n[arms.a]', "always needs a list of arms: write always ="),
        ('baseline = "a"\n[arms.a]\n[arms.b]\nof = "a"', "needs both `of` and `re_evaluation`"),
        (
            'baseline = "a"\n[arms.a]\n[arms.b]\nof = "a"\nre_evaluation = "joint"\nranks = 2\nnorm.kind = "bn"',
            "so it cannot set norm.kind, ranks",
        ),
        (
            'baseline = "a"\n[arms.a]\n[arms.b]\nof = "c"\nre_evaluation = "joint"',
            "is of 'c', which is not a trained arm",
        ),
        (
            'baseline = "a"\n[arms.a]\n[arms.b]\nof = "a"\nre_evaluation = "x"',
            "choose one of momentum_0, joint, per_call",
        ),
        (
            'baseline = "a"\n[arms.a]\n[arms.b]\nof = "a"\nvariant = "joint"\n[arms.c]\nof = "b"\nvariant = "joint"',
            "arm 'c' is of 'b', which is not a trained arm",
        ),
        ('baseline = "a"\n[arms.a]\ntrain.seed = 3', "cannot set seed"),
        ('baseline = "a"\n[arms.a]\nnproc = 2', "cannot set seed"),
        ('baseline = "a"\n[arms.a]\nranks = 0', "ranks 0 is too small: must be at least 1."),
        ('baseline = "a"\n[arms.a]\n[arms.b]\nre_evaluation = "joint"', "needs both `of` and `re_evaluation`"),
        ("[arms.a]", "baseline or [arms.NAME] is missing"),
        ('baseline = "a"', "baseline or [arms.NAME] is missing"),
        ('baseline = "a"\n[arm.a]', "unknown: arm"),
        ("baseline = ", "is not TOML"),
        ('baseline = "a"\nalways = [["a"]]\n[arms.a]', "always needs a list of arms"),
        ('from = ["norms"]', 'from needs the name of a set of arms: write from = "norms".'),
        ('baseline = ["a"]\n[arms.a]', 'baseline needs the name of an arm: write baseline = "NAME".'),
        ('baseline = "a"\ncommon = 3\n[arms.a]', "common needs settings: write common.SECTION.NAME = VALUE."),
        ('from = "norms"\narms = 3', "arms needs tables: write [arms.NAME] and settings below it."),
        ('baseline = "a"\n[arms]\na = 3', "arms needs tables: write [arms.NAME] and settings below it."),
        ('baseline = "a"\n[arms.a]\nranks = 2.5', "arm 'a': ranks 2.5 is not a whole number."),
        ('baseline = "a"\n[arms.a]\nranks = true', "arm 'a': ranks True is not a whole number."),
        ('baseline = "a"\n[arms.a]\nranks = "2"', "arm 'a': ranks '2' is not a whole number."),
        (
            'baseline = "a"\n[arms.a]\n[arms.b]\nof = ["a"]\nre_evaluation = "joint"',
            "arm 'b': of ['a'] is not the name of an arm.",
        ),
        ('from = "norms"\n[arms.gn]\nnorm.groups = 16', "arm 'gn' is one of 'norms' already: choose another name."),
        ('from = "norms"\ncross = "norm.input"', "cross needs tables with settings: write [cross.NAME]"),
        ('from = "norms"\n[cross.noise]', "cross needs tables with settings: write [cross.NAME]"),
        ('from = "norms"\n[cross]\nnorm.input = "none"', "arm 'none, norm': input 'none' must be a table"),
        ('from = "norms"\n[cross.x]\nnorm.kind = "b"', "arm 'none, x': norm.kind 'b' is unknown"),
        (
            'baseline = "a"\n[arms.a]\n[arms."a, x"]\n[cross.x]\nnorm.eps = 0.1',
            "two arms are named 'a, x', one of [arms] and one of [cross]: rename one.",
        ),
        (
            'baseline = "a"\n[arms.a]\n[arms."a, x"]\n[cross.y]\nnorm.eps = 0.1\n[cross."x, y"]\nnorm.eps = 0.2',
            "two arms are named 'a, x, y', both of [cross]: rename one.",
        ),
    ],
)
def test_a_mistake_in_a_file_of_arms_is_named(tmp_path: Path, text: str, words: str) -> None:
    """One line."""
    (tmp_path / "mine.toml").write_text(text)
    with pytest.raises(ValueError, match=".*") as caught:
        read_arms(str(tmp_path / "mine.toml"))
    assert words in str(caught.value)


def test_unknown_arms_get_the_nearest_name() -> None:
    """The message lists the others."""
    with pytest.raises(ValueError, match=r"did you mean norms\?"):
        read_arms("norm")


def test_tables_and_dotted_names_are_the_same(tmp_path: Path) -> None:
    """Settings that all arms share come first, an arm's own win; a re-evaluation has none."""
    path = tmp_path / "mine.toml"
    path.write_text(
        'baseline = "a"\ncommon.norm.eps = 0.1\ncommon.optim.lr = 0.1\n[arms.a]\noptim.lr = 0.2\nranks = 2\n'
        '[arms.b]\nof = "a"\nre_evaluation = "joint"\n'
    )
    a, b = read_arms(str(path)).arms.values()
    assert a == Arm({"norm.eps": 0.1, "optim.lr": 0.2}, ranks=2)
    assert b == Arm({}, of="a", re_evaluation="joint")


def test_the_older_name_of_re_evaluation_works(tmp_path: Path) -> None:
    """Files of arms have `variant`; both at once are a mistake."""
    path = tmp_path / "mine.toml"
    text = 'baseline = "a"\n[arms.a]\n[arms.b]\nof = "a"\n'
    path.write_text(f'{text}variant = "joint"\n')
    old = read_arms(str(path))
    path.write_text(f'{text}re_evaluation = "joint"\n')
    assert read_arms(str(path)) == old
    assert old.arms["b"] == Arm(of="a", re_evaluation="joint")
    assert old.re_evaluations_of("a") == ("joint",)
    assert list(old.trained()) == ["a"]
    path.write_text(f'{text}variant = "joint"\nre_evaluation = "joint"\n')
    with pytest.raises(ValueError, match="has both re_evaluation and variant, its older name: remove one"):
        read_arms(str(path))


def test_the_identity_has_the_keys_of_older_ledgers() -> None:
    """Else an old study would count as another one."""
    arms = Arms("a", {"a": Arm({"norm.eps": 0.1}, ranks=2), "b": Arm(of="a", re_evaluation="joint")})
    assert arms.identity() == {
        "arms": {
            "a": {"settings": {"norm.eps": 0.1}, "ranks": 2, "of": "", "variant": ""},
            "b": {"settings": {}, "ranks": 1, "of": "a", "variant": "joint"},
        },
        "baseline": "a",
    }


def test_norms_are_compared_over_present_bodies_each_with_its_own_settings() -> None:
    """Every kind but the one that equals another on one rank."""
    arms = read_arms("norms")
    assert arms.baseline == "none"
    assert list(arms.arms) == [kind for kind in NORMS if kind != "sync_bn"]
    more = {kind: {"norm.groups": 8} for kind in ("gn", "ws_gn", "evonorm_s0")} | {
        "frozen_bn": {"norm.freeze_after": 100}
    }
    for kind, arm in arms.arms.items():
        assert arm == Arm({"norm.kind": kind, "norm.persons": "masked"} | more.get(kind, {}))


def test_persons_are_every_mode_of_two_norms() -> None:
    """At the default momentum."""
    arms = read_arms("persons")
    assert arms.baseline == "bn, loop"
    assert [tuple(arm.settings.values()) for arm in arms.arms.values()] == [
        (kind, mode) for kind in ("bn", "gn1") for mode in ("loop", "fold", "masked", "per_person")
    ]


def test_named_arms_can_start_from_other_settings(tmp_path: Path) -> None:
    """`common` sets what an arm does not set itself; further arms join the named ones."""
    path = tmp_path / "other.toml"
    path.write_text('from = "question"\ncommon.model.name = "hcn"\ncommon.norm.momentum = 0.5\n[arms.mine]\n')
    question, other = read_arms("question"), read_arms(str(path))
    assert list(other.arms) == [*question.arms, "mine"]
    assert other.baseline == question.baseline
    assert other.arms["momentum 0.1"].settings == question.arms["momentum 0.1"].settings | {"model.name": "hcn"}
    assert other.arms["recalibrated per call"] == question.arms["recalibrated per call"]


def test_a_cross_adds_each_trained_arm_with_the_settings_of_each_of_its_tables(tmp_path: Path) -> None:
    """They win over the arm's own. Ranks stay; a re-evaluation is not crossed."""
    path = tmp_path / "mine.toml"
    path.write_text(
        'baseline = "a"\n[arms.a]\nnorm.eps = 0.1\n[arms.b]\nranks = 2\n[arms.c]\nof = "a"\nre_evaluation = "joint"\n'
        '[cross.x]\nnorm.eps = 0.2\n[cross.y]\nnorm.input = "c_masked"\nnorm.kind = "gn"\n'
    )
    y = {"norm.input": "c_masked", "norm.kind": "gn"}
    assert read_arms(str(path)) == Arms(
        "a",
        {
            "a": Arm({"norm.eps": 0.1}),
            "b": Arm(ranks=2),
            "c": Arm(of="a", re_evaluation="joint"),
            "a, x": Arm({"norm.eps": 0.2}),
            "b, x": Arm({"norm.eps": 0.2}, ranks=2),
            "a, y": Arm({"norm.eps": 0.1} | y),
            "b, y": Arm(y, ranks=2),
        },
    )


def test_named_arms_can_be_crossed(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('from = "norms"\nalways = ["gn, input"]\n[cross.input]\nnorm.input = "vc_masked"\n')
    norms, crossed = read_arms("norms").arms, read_arms(str(path)).arms
    assert list(crossed) == [*norms, *(f"{kind}, input" for kind in norms)]
    assert crossed["gn, input"].settings == norms["gn"].settings | {"norm.input": "vc_masked"}


def test_arms_to_start_from_must_exist(tmp_path: Path) -> None:
    """The message names those that do."""
    path = tmp_path / "other.toml"
    path.write_text('from = "questions"\n')
    with pytest.raises(ValueError, match=r"'questions'.*question, norms, persons"):
        read_arms(str(path))
