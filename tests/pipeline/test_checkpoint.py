"""checkpoint.py: a checkpoint is whole, verified and the newest, or it is rejected."""

import io
import json
import random
from pathlib import Path

import pytest
import torch

from pipeline import checkpoint
from pipeline.checkpoint import Checkpoint
from preprocessing import files


def state(value: float) -> dict:
    """A small state."""
    return {"model": {"weight": torch.full((100,), float(value))}, "optimizer": {"state": {}, "lr": 0.1}}


def test_the_newest_state_comes_back_and_older_ones_are_gone(tmp_path: Path) -> None:
    """Saved thrice, one file left."""
    for epoch in (1, 2, 10):
        checkpoint.save(tmp_path, epoch, state(epoch))
    epoch, loaded = checkpoint.load(tmp_path)
    assert epoch == 10
    assert torch.equal(loaded["model"]["weight"], torch.full((100,), 10.0))
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["epoch-0010.pt"]


def test_no_checkpoint_yet_is_no_error(tmp_path: Path) -> None:
    """A run's first start."""
    assert checkpoint.load(tmp_path) is None


def test_a_kill_between_file_and_pointer_leaves_the_old_state(tmp_path: Path) -> None:
    """The new file is there, the pointer still names the old one."""
    checkpoint.save(tmp_path, 1, state(1))
    (tmp_path / "checkpoints" / "epoch-0002.pt").write_bytes(b"half")
    assert checkpoint.load(tmp_path)[0] == 1


def damaged(content: bytes, rng: random.Random) -> bytes:
    """One flipped bit, 64 changed bytes, or an end cut off."""
    kind, at = rng.randrange(3), rng.randrange(len(content) - 64)
    if kind == 0:
        return content[:at] + bytes([content[at] ^ 1 << rng.randrange(8)]) + content[at + 1 :]
    return content[:at] + rng.randbytes(64) + content[at + 64 :] if kind == 1 else content[:at]


@pytest.mark.parametrize("count", [200, pytest.param(5_000, marks=pytest.mark.slow)])
def test_no_damage_is_loaded_silently(tmp_path: Path, count: int) -> None:
    """As many refusals that name the file as damaged files."""
    checkpoint.save(tmp_path, 1, state(1))
    path = tmp_path / "checkpoints" / "epoch-0001.pt"
    content, rng = path.read_bytes(), random.Random(count)
    for _ in range(count):
        path.write_bytes(damaged(content, rng))
        assert path.read_bytes() != content
        with pytest.raises(ValueError, match=r"epoch-0001\.pt has changed since it was written"):
            checkpoint.load(tmp_path)


def test_torch_alone_would_load_damaged_numbers(tmp_path: Path) -> None:
    """Negative control: without our sha256 a flipped bit is a wrong weight and no error."""
    checkpoint.save(tmp_path, 1, state(1))
    content = bytearray((tmp_path / "checkpoints" / "epoch-0001.pt").read_bytes())
    weights = torch.full((100,), 1.0).numpy().tobytes()
    content[content.index(weights) + 2] ^= 1
    loaded = torch.load(io.BytesIO(bytes(content)), weights_only=True)
    assert not torch.equal(loaded["model"]["weight"], torch.full((100,), 1.0))


def test_a_missing_file_is_named_with_the_remedy(tmp_path: Path) -> None:
    """The pointer leads nowhere."""
    checkpoint.save(tmp_path, 1, state(1))
    (tmp_path / "checkpoints" / "epoch-0001.pt").unlink()
    with pytest.raises(ValueError, match=r"epoch-0001\.pt, which is missing. Put it back, or delete"):
        checkpoint.load(tmp_path)


def test_a_pointer_cannot_lead_out_of_the_run(tmp_path: Path) -> None:
    """Only names inside checkpoints/ are read."""
    checkpoint.save(tmp_path, 1, state(1))
    pointer = tmp_path / "checkpoint.json"
    pointer.write_text(json.dumps(json.loads(pointer.read_text()) | {"file": "../../etc/passwd"}))
    with pytest.raises(ValueError, match="file '../../etc/passwd' do not match"):
        checkpoint.load(tmp_path)


class Evil:
    """Would run code when unpickled."""

    def __reduce__(self) -> tuple:
        """Not run here."""
        return (Path("/nowhere").unlink, ())


def test_code_in_a_checkpoint_is_never_run(tmp_path: Path) -> None:
    """Even with a right sha256."""
    checkpoint.save(tmp_path, 1, state(1))
    checkpoint.save(tmp_path, 2, {"model": Evil()})
    with pytest.raises(Exception, match="(?i)weights.only|unsupported"):
        checkpoint.load(tmp_path)


def test_the_old_checkpoint_is_kept_until_the_pointer_has_moved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk between file and pointer: the old state loads."""
    checkpoint.save(tmp_path, 1, state(1))

    def full(path: Path, value: object) -> None:
        raise OSError("no space")

    monkeypatch.setattr(files, "publish_json", full)
    with pytest.raises(OSError, match="no space"):
        checkpoint.save(tmp_path, 2, state(2))
    loaded = checkpoint.load(tmp_path)
    assert loaded is not None
    assert (loaded.epoch, loaded.state["model"]["weight"][0].item()) == (1, 1.0)


def kept(best: dict, average: dict) -> Checkpoint:
    """A checkpoint after epoch 7."""
    return Checkpoint(7, {"model": {"w": 1}, "optimizer": {"lr": 2}, "average": average, "best": best})


AVERAGE = {"n_averaged": 5, "module.w": 3}


@pytest.mark.parametrize(
    ("best", "average", "weights", "epoch"),
    [
        ({"epoch": 4, "model": {"w": 4}}, AVERAGE, {"w": 4}, 4),
        ({"epoch": 0, "model": {}}, AVERAGE, {"w": 3}, 7),
        ({"epoch": 0, "model": {}}, {}, {"w": 1}, 7),
    ],
)
def test_the_weights_are_those_of_the_kept_epoch(best: dict, average: dict, weights: dict, epoch: int) -> None:
    """Else the averaged ones, else the last."""
    assert (kept(best, average).weights, kept(best, average).kept_epoch) == (weights, epoch)


def test_repaired_weights_replace_every_copy() -> None:
    """Last, averaged and best; the optimizer and the count of averages stay."""
    repaired = kept({"epoch": 0, "accuracy": 0.5, "model": {}}, AVERAGE).with_weights({"w": 9})
    assert repaired == {
        "model": {"w": 9},
        "optimizer": {"lr": 2},
        "average": {"n_averaged": 5, "module.w": 9},
        "best": {"epoch": 7, "accuracy": 0.5, "model": {"w": 9}},
    }
    assert kept({"epoch": 2, "model": {}}, {}).with_weights({"w": 9})["average"] == {}
