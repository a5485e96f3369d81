"""sets.py: a data file, or several with their protocols and settings; mistakes are named."""

from pathlib import Path
from typing import Any

import pytest

from tests.conftest import write_file
from tuning.ledger import Task
from tuning.sets import DataSet, first_equal, read_sets
from tuning.study import Study

SETS = """
[sets.small]
data = "small.h5"
[sets.views]
data = "views.h5"
protocols = "all"
input.frames = 12
[sets.one]
data = "views.h5"
protocol = "xview"
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two data files, and the TOML file that lists them."""
    made = tmp_path_factory.mktemp("sets")
    write_file(made / "small.h5", clips=24)
    write_file(made / "views.h5", clips=24, protocols=("xsub", "xview"))
    (made / "sets.toml").write_text(SETS)
    return made


def test_a_data_file_is_one_set_without_a_name(folder: Path) -> None:
    assert read_sets(folder / "small.h5") == (DataSet(folder / "small.h5"),)


def test_a_table_is_one_set_or_one_per_protocol(folder: Path) -> None:
    """Paths are relative to the TOML file."""
    twelve = {"input.frames": 12}
    assert read_sets(folder / "sets.toml") == (
        DataSet(folder / "small.h5", "small"),
        DataSet(folder / "views.h5", "views, xsub", "xsub", twelve),
        DataSet(folder / "views.h5", "views, xview", "xview", twelve),
        DataSet(folder / "views.h5", "one", "xview"),
    )


def test_settings_of_a_set_win_over_the_command_and_those_of_an_arm_over_both(folder: Path) -> None:
    study = Study(folder / "sets.toml", Path("out"), arms="norms", frames=16)

    def settings(name: str, **own: Any) -> dict[str, Any]:
        return dict(study.spec(Task("a-s0", own, 0, data_set=name)).settings)

    assert settings("small")["input.frames"] == 16
    assert "input.protocol" not in settings("small")
    views = settings("views, xview")
    assert (views["data"], views["input.protocol"]) == (str((folder / "views.h5").resolve()), "xview")
    assert views["input.frames"] == 12
    assert settings("views, xview", **{"input.frames": 8})["input.frames"] == 8


def test_sets_share_trainings_by_clips_and_settings_and_count_as_one_by_clips(tmp_path: Path) -> None:
    """The test clips do not matter."""
    one, other = tmp_path / "one.h5", tmp_path / "other.h5"
    for path, val in ((one, 5), (other, 6)):
        write_file(path, val_subjects=(val,), test_subjects=(2, 4), protocols=("xsub", "noise"))
    listed = [
        DataSet(one, "a"),
        DataSet(one, "b", "noise"),
        DataSet(one, "longer", "noise", {"train.epochs": 3}),
        DataSet(other, "other val"),
    ]
    sets = {each.name: each for each in listed}
    own = {"a": "a", "b": "a", "longer": "longer", "other val": "other val"}
    assert first_equal(sets, DataSet.training_key) == own
    assert first_equal(sets, lambda one: one.clips) == own | {"longer": "a"}


def test_a_study_is_another_one_with_other_sets(folder: Path) -> None:
    """The identity names content, protocol and settings, and no path."""
    identity = Study(folder / "sets.toml", Path("out"), arms="norms").data_identity()
    assert list(identity["sets"]) == ["small", "views, xsub", "views, xview", "one"]
    assert identity["sets"]["one"] == {
        "data_sha256": DataSet(folder / "views.h5").check(), "protocol": "xview", "settings": {},
    }  # fmt: skip
    assert "sets" not in Study(folder / "small.h5", Path("out"), arms="norms").data_identity()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[sets", "is not TOML"),
        ("", "it has nothing"),
        ("[arms.a]", "it has arms"),
        ("sets = 3", r"needs tables \[sets.NAME\]"),
        ("[sets.a]\nprotocol = 'xsub'", "set 'a' has no data"),
        ("[sets.a]\ndata = 'none.h5'", "none.h5 does not exist; build it"),
        ("[sets.a]\ndata = 'small.h5'\nprotocol = 'a'\nprotocols = ['b']", "both protocol and protocols"),
        ("[sets.a]\ndata = 'small.h5'\nnorm.knd = 'bn'", "set 'a': "),
        ("[sets.a]\ndata = 'small.h5'\ntrain.seed = 3", "cannot set train.seed"),
        ("[sets.a]\ndata = 'views.h5'\nprotocols = ['xsub', 'xsub']", "two sets have one name"),
        ("[sets.a]\ndata = 'views.h5'\nprotocols = []", r"protocols \[\] is not a list of protocols: write"),
        ("[sets.a]\ndata = 'views.h5'\nprotocols = 'xsub'", "protocols 'xsub' is not a list of protocols: write"),
        ("[sets.a]\ndata = 'views.h5'\nprotocols = [3]", r"protocols \[3\] is not a list of protocols: write"),
        ("[sets.a]\ndata = 'views.h5'\nprotocol = ['xsub']", r"protocol \['xsub'\] is not a text: write"),
    ],
)
def test_mistakes_are_named(text: str, message: str, folder: Path) -> None:
    (folder / "wrong.toml").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_sets(folder / "wrong.toml")


def test_a_file_without_val_clips_is_rejected(tmp_path: Path, data_file: Path) -> None:
    """A search and a study select by them; else the content hash is returned."""
    path = write_file(tmp_path / "no-val.h5", val_subjects=())
    with pytest.raises(ValueError, match="protocol 'xsub' has no val clips"):
        DataSet(path).check()
    with pytest.raises(ValueError, match="has no protocol 'xsbu'; it has xsub; did you mean xsub"):
        DataSet(data_file, protocol="xsbu").check()
    assert len(DataSet(data_file).check()) == 64
