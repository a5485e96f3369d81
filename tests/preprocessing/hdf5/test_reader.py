"""Damage to a file is found and named."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from preprocessing.files import IntegrityError
from preprocessing.hdf5 import open_file, verify
from preprocessing.hdf5.schema import ARRAYS, ATTRIBUTES, PROTOCOL, SCHEMA
from tests.preprocessing.hdf5.examples import T, write_to

NAMES = [name.replace(PROTOCOL, "xsub") for name, spec in ARRAYS.items() if spec.since == SCHEMA]


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The bytes of the small file, written once."""
    return write_to(tmp_path_factory.mktemp("intact") / "a.h5").read_bytes()


@pytest.fixture
def file(tmp_path: Path, intact: bytes) -> Path:
    """A copy to damage."""
    (tmp_path / "a.h5").write_bytes(intact)
    return tmp_path / "a.h5"


def damage(file: Path, name: str) -> None:
    with h5py.File(file, "r") as opened:
        offset = opened[name].id.get_offset()
    content = bytearray(file.read_bytes())
    content[offset] ^= 1
    file.write_bytes(content)


def test_a_flipped_bit_is_named_with_its_array_and_the_remedy(file: Path, intact: bytes) -> None:
    for name in set(NAMES) - {"splits/xsub/val"}:  # which is empty
        file.write_bytes(intact)
        damage(file, name)
        with pytest.raises(IntegrityError, match=f"{name} does not match its sha256; build it again"):
            open_file(file)
        assert verify(file) == [f"{name} does not match its sha256"]


def test_a_fast_start_does_not_read_the_frames(file: Path) -> None:
    damage(file, "frames/joints")
    assert open_file(file, fast_start=True).dataset == "test"


def test_a_changed_attribute_is_found(file: Path) -> None:
    with h5py.File(file, "r+") as opened:
        opened.attrs["fps"] = np.float64(25)
    with pytest.raises(IntegrityError, match="content_sha256"):
        open_file(file)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_cut_file_is_rejected(file: Path, share: float) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: int(share * len(content))])
    with pytest.raises(IntegrityError, match="build it again"):
        open_file(file)
    assert verify(file)


def test_an_unknown_array_is_rejected(file: Path) -> None:
    with h5py.File(file, "r+") as opened:
        opened["frames/colour"] = [1, 2]
    assert verify(file) == ["frames/colour is unexpected"]


def test_data_outside_the_file_is_rejected(file: Path) -> None:
    with h5py.File(file, "r+") as opened:
        del opened["frames/present"]
        opened.create_dataset("frames/present", (3 * T,), bool, external=[("/etc/hostname", 0, 3 * T)])
    assert verify(file) == ["frames/present is not stored plainly in this file"]
    with h5py.File(file, "r+") as opened:
        del opened["frames/present"]
        opened["frames/present"] = h5py.ExternalLink("other.h5", "/x")
    assert verify(file) == ["frames/present is a link to another place"]


def test_a_missing_array_is_named(file: Path, intact: bytes) -> None:
    for name in NAMES:
        file.write_bytes(intact)
        with h5py.File(file, "r+") as opened:
            del opened[name]
        assert verify(file) == [f"{name} is missing"]


def test_a_missing_attribute_is_named(file: Path, intact: bytes) -> None:
    for name in ATTRIBUTES:
        file.write_bytes(intact)
        with h5py.File(file, "r+") as opened:
            del opened.attrs[name]
        missing = f"root attributes differ from the schema's: {name}"
        assert verify(file) == ["schema is b'', not skelnorm/1 or skelnorm/2" if name == "schema" else missing]


@pytest.mark.parametrize(
    ("name", "values", "fault"),
    [
        ("clips/label", np.zeros(2, np.int32), "clips/label has type int32, not int64"),
        ("frames/present", np.zeros(3 * T, np.uint8), "frames/present has type uint8, not bool"),
        ("clips/frames", np.full((2, 1), T), "clips/frames has shape (2, 1), not 1 dimensions"),
    ],
)
def test_an_array_of_another_type_or_rank_is_named(file: Path, name: str, values: np.ndarray, fault: str) -> None:
    with h5py.File(file, "r+") as opened:
        del opened[name]
        opened.create_dataset(name, data=values)
    assert verify(file) == [fault]


def test_a_file_that_is_not_there_says_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"python -m preprocessing\.build"):
        open_file(tmp_path / "none.h5")
