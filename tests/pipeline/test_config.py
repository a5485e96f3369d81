"""config.py: typed settings, presets that are documents, and errors that name the nearest key."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import PRESETS, Config, TrainConfig, as_dict, from_dict, preset
from pipeline.data.clips import InputConfig
from pipeline.models import ModelConfig
from pipeline.norms import NormConfig

NEEDED = {"data": "a.h5", "out": "run"}
SECTIONS = (Config, InputConfig, ModelConfig, NormConfig, TrainConfig)


def test_settings_survive_a_trip_through_json() -> None:
    """As config.json and a checkpoint need it."""
    config = from_dict(NEEDED | {"norm": {"kind": "gn", "groups": 4}, "optim": {"lr": 0.01}})
    assert from_dict(json.loads(json.dumps(as_dict(config)))) == config
    assert (config.norm.kind, config.norm.groups, config.optim.lr) == ("gn", 4, 0.01)


@pytest.mark.parametrize("path", sorted(PRESETS.glob("*.toml")), ids=lambda path: path.stem)
def test_a_preset_is_a_short_document_that_only_overrides_defaults(path: Path) -> None:
    """It loads, is 40 lines at most, begins with what it is and its command, and repeats no default."""
    text = path.read_text()
    assert text.startswith("# ")
    assert "python -m pipeline.train" in text
    assert len(text.splitlines()) <= 40
    values, default = preset(path.stem), as_dict(from_dict(NEEDED))
    from_dict(NEEDED | values)
    repeated = [f"{s}.{k}" for s, section in values.items() for k, v in section.items() if default[s][k] == v]
    assert repeated == []


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"nrm": {}}, "unknown setting nrm; did you mean norm?"),
        ({"norm": {"momentm": 0.1}}, "unknown setting norm.momentm; did you mean norm.momentum?"),
        ({"train": {"batch_size": 0}}, "train.batch-size 0 is too small: must be at least 1"),
        ({"optim": {"lr": 0.0}}, "optim.lr 0.0 is too small: must be above 0"),
        ({"input": {"order": "sorted"}}, "input.order 'sorted' is unknown; choose one of reshuffle, once, class"),
        ({"input": {"fit": "all"}}, "input.fit 'all' is unknown; choose one of train, train+val"),
        ({"input": {"frames": 1}}, "input.frames 1 is too small: must be at least 2; a clip needs two frames"),
        ({"input": {"stream": "bones"}}, "input.stream 'bones' is unknown; choose one of joint, bone, joint_motion"),
        ({"model": {"width": 0}}, "model.width 0 is outside (0, 16]"),
        ({"model": {"name": "cn"}}, "model.name 'cn' is unknown; choose one of"),
        ({"model": {"dropout": 1.0}}, "model.dropout 1.0 is outside [0, 1)"),
        ({"norm": {"kind": "batchnorm"}}, "norm.kind 'batchnorm' is unknown; choose one of none, bn"),
        ({"norm": {"momentum": 0.0}}, "norm.momentum 0.0 is outside (0, 1]"),
        ({"nproc": 0}, "nproc 0 is too small: must be at least 1"),
        ({"wandb": "on"}, "wandb 'on' is unknown; choose one of off, offline, online"),
        ({"model": "cnn"}, "model 'cnn' must be a table of settings: name, dropout, width"),
        ({"norm": {"sync": "no"}}, "norm.sync 'no' must be true or false"),
        ({"train": {"epochs": "2"}}, "train.epochs '2' must be a whole number"),
        ({"train": {"epochs": 2.0}}, "train.epochs 2.0 must be a whole number"),
        ({"train": {"seed": True}}, "train.seed True must be a whole number"),
        ({"optim": {"lr": "1e-3"}}, "optim.lr '1e-3' must be a number"),
        ({"optim": {"lr": {"x": 1}}}, "optim.lr {'x': 1} must be a number"),
        ({"optim": {"steps": 0.5}}, "optim.steps 0.5 must be a list, each a number"),
        ({"optim": {"steps": ["0.5"]}}, "optim.steps '0.5' must be a number"),
        ({"model": {"name": 5}}, "model.name 5 must be a text"),
        ({"augment": {"rotate": math.nan}}, "augment.rotate nan must be finite"),
        ({"augment": {"noise": math.inf}}, "augment.noise inf must be finite"),
        ({"optim": {"steps": [math.nan]}}, "optim.steps nan must be finite"),
    ],
)
def test_a_wrong_setting_is_named_with_what_is_allowed(values: dict[str, Any], message: str) -> None:
    """ValueError, one line."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole message is compared
        from_dict(NEEDED | values)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_preset_names_the_nearest() -> None:
    """And all there are."""
    with pytest.raises(ValueError, match=r"no preset 'dem' \(did you mean demo\?\); choose one of .*default, demo"):
        preset("dem")


def test_a_preset_may_be_a_file_of_ones_own(tmp_path: Path) -> None:
    """By its path."""
    path = tmp_path / "mine.toml"
    path.write_text("[train]\nepochs = 3\n")
    assert preset(str(path)) == {"train": {"epochs": 3}}


@pytest.mark.parametrize("content", [b"epochs =\n", b"\xff\xfe"], ids=["syntax", "encoding"])
def test_a_preset_that_is_no_toml_is_named(tmp_path: Path, content: bytes) -> None:
    """With the place where it breaks off."""
    path = tmp_path / "mine.toml"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"mine\.toml is not a TOML file: .*"):
        preset(str(path))


def test_a_preset_may_change_another(tmp_path: Path) -> None:
    """Section by section; what it does not name stays as it was. A file of one's own may do so too."""
    base, path = preset("ntu60-xsub"), tmp_path / "mine.toml"
    changed = preset("ntu60-xview")
    assert changed["input"] == {"protocol": "xview"}
    assert {key: value for key, value in changed.items() if key != "input"} == {
        key: value for key, value in base.items() if key != "input"
    }
    path.write_text('extends = "ntu60-xsub"\nnproc = 2\n[optim]\nlr = 0.05\n')
    assert preset(str(path)) == base | {"nproc": 2, "optim": base["optim"] | {"lr": 0.05}}
    path.write_text(f'extends = "{path}"\n')
    with pytest.raises(ValueError, match="is a file: must be the name of a preset of the program"):
        preset(str(path))


@pytest.mark.parametrize("section", SECTIONS, ids=lambda s: s.__name__)
def test_settings_are_frozen(section: type) -> None:
    """A run's settings do not change under it."""
    assert section.__dataclass_params__.frozen
    assert dataclasses.fields(section)
