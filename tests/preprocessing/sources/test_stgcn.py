"""ST-GCN's arrays with their labels."""

import pickle
from pathlib import Path

import numpy as np
import pytest

from preprocessing.sources import SourceError, open_sources
from tests.preprocessing.sources.formats import only, walk


def save(folder: Path, front: str = "val_", count: int = 6, data: str = "data") -> Path:
    folder.mkdir(exist_ok=True)
    x_NCTVM = np.zeros((count, 3, 30, 25, 2), np.float32)
    for number in range(count):
        x_NCTVM[number, :, : 20 + number, :, 0] = walk(20 + number, 25, number).transpose(2, 0, 1)
    np.save(folder / f"{front}{data}.npy", x_NCTVM)
    names = [f"S001C001P{n + 1:03d}R001A{n % 3 + 1:03d}.skeleton" for n in range(count)]
    (folder / f"{front}label.pkl").write_bytes(pickle.dumps((names, [n % 3 for n in range(count)])))
    return folder / f"{front}{data}.npy"


def test_clips_equal_the_array_without_its_padding(tmp_path: Path) -> None:
    path = save(tmp_path)
    for named in ([path], [tmp_path / "val_label.pkl"], [path, tmp_path / "val_label.pkl"], [tmp_path]):
        source = open_sources(named)
        assert source.columns["label"].tolist() == [0, 1, 2, 0, 1, 2]
        assert source.columns["subject"].tolist() == [1, 2, 3, 4, 5, 6]
        assert source.splits(np.arange(6)).default == "xsub"
        assert source.class_names[0] == "drink water"
        for number, entry in enumerate(source.entries):
            assert np.array_equal(only(entry.read()), walk(20 + number, 25, number))


def test_train_and_val_are_parts_and_other_streams_are_left_out(tmp_path: Path) -> None:
    save(tmp_path, "train_", 6, "data_joint")
    save(tmp_path, "val_", 2, "data_joint")
    (tmp_path / "val_data_bone.npy").write_bytes(b"x")
    names = [f"other{n}" for n in range(2)]
    (tmp_path / "val_label.pkl").write_bytes(pickle.dumps((names, [0, 1]), protocol=2))
    source = open_sources([tmp_path])
    assert len(source.entries) == 8
    splits = source.splits(np.arange(8))
    assert splits.default == "split"
    assert [source.entries[i].name for i in splits.parts["split"]["test"]] == names


def test_what_is_missing_or_damaged_is_named(tmp_path: Path) -> None:
    path = save(tmp_path)
    (tmp_path / "val_label.pkl").write_bytes(pickle.dumps((["a"], [0])))
    with pytest.raises(SourceError, match="has 1 names and 1 labels; .* has 6 clips"):
        open_sources([path])
    (tmp_path / "val_label.pkl").write_bytes(pickle.dumps(Path("x")))
    with pytest.raises(SourceError, match="not a pickle of plain data: it names pathlib"):
        open_sources([path])
    (tmp_path / "val_label.pkl").unlink()
    with pytest.raises(SourceError, match=r"has no labels: put val_label.pkl \(names, labels\) or val_label.npy"):
        open_sources([path])
    np.save(tmp_path / "val_label.npy", np.arange(6))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(SourceError, match="the file ends before its last value"):
        open_sources([path])
    np.save(path, np.zeros((6, 3)))
    with pytest.raises(SourceError, match=r"has shape \(6, 3\) of float64; expected numbers \(N, C, T, V, M\)"):
        open_sources([path])


@pytest.mark.parametrize("labels", [np.arange(6) % 3 * 1.0, np.eye(3)[np.arange(6) % 3], np.array(list("abcabc"))])
def test_labels_may_be_floats_one_hot_rows_or_text(tmp_path: Path, labels: np.ndarray) -> None:
    path = save(tmp_path)
    (tmp_path / "val_label.pkl").unlink()
    np.save(tmp_path / "val_label.npy", labels)
    assert open_sources([path]).columns["label"].tolist() == [0, 1, 2, 0, 1, 2]


@pytest.mark.parametrize(
    ("axes", "message"),
    [((0, 4, 2, 3, 1), r"three bodies in two dimensions"), ((0, 1, 3, 2, 4), "40 joints in 25 frames")],
)
def test_swapped_axes_are_named(tmp_path: Path, axes: tuple[int, ...], message: str) -> None:
    x_NCTVM = np.ones((4, 3, 40, 25, 2), np.float32)
    np.save(tmp_path / "a_data.npy", x_NCTVM.transpose(axes))
    np.save(tmp_path / "a_label.npy", np.arange(4))
    with pytest.raises(SourceError, match=message):
        open_sources([tmp_path])
