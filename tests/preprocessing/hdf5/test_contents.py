"""Contents that cannot be right are named, although every checksum is."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from preprocessing.files import IntegrityError
from preprocessing.hdf5 import open_file, verify
from preprocessing.hdf5.reader import content_digest
from preprocessing.hdf5.schema import ATTRIBUTES
from tests.preprocessing.hdf5.examples import T, V, write_to

Change = Callable[[h5py.File], None]


def signed_again(path: Path) -> None:
    """Make every checksum of a changed file right."""
    with h5py.File(path, "r+") as file:
        hashes: dict[str, str] = {}

        def visit(name: str, item: object) -> None:
            if isinstance(item, h5py.Dataset):
                hashes[name] = hashlib.sha256(item[()].tobytes()).hexdigest()
                item.attrs["sha256"] = np.bytes_(hashes[name])

        file.visititems(visit)
        root = {}
        for key, spec in ATTRIBUTES.items():
            try:
                root[key] = spec.decode(file.attrs[key])
            except ValueError:
                return  # what cannot be read has no checksum either
        file.attrs["content_sha256"] = np.bytes_(content_digest(root, hashes))


def array(name: str, at: object, value: object) -> Change:
    def change(file: h5py.File) -> None:
        file[name][at] = value

    return change


def attribute(name: str, value: object) -> Change:
    def change(file: h5py.File) -> None:
        file.attrs[name] = value

    return change


def absent_but_there(file: h5py.File) -> None:
    file["frames/present"][2] = False


SMALL: dict[str, tuple[Change, str]] = {
    "overlap": (array("bodies/start", 1, T - 1), "bodies/start: rows of two bodies overlap"),
    "slot twice": (array("bodies/slot", 2, 0), "bodies/slot: a clip has two bodies in one slot"),
    "another clip's body": (array("bodies/clip", 1, 0), "bodies/clip does not match clips/first_body and clips/bodies"),
    "name twice": (array("clips/name", slice(None), [b"a", b"a"]), "clips/name has a name twice: a"),
    "name undecodable": (array("clips/name", 0, b"\xff"), "clips/name is not UTF-8 text (invalid start byte)"),
    "joint names undecodable": (
        attribute("joint_names", np.array([b"hip", b"\xff", b"foot"])),
        "root attribute joint_names is unreadable",
    ),
    "joint name twice": (attribute("joint_names", np.array([b"a", b"a", b"b"])), "joint_names has a name twice"),
    "fps": (attribute("fps", np.float64("nan")), "fps is nan: must be a number above 0"),
    "recipe": (attribute("recipe", np.bytes_(b'{"stages": NaN}')), "root attribute recipe is unreadable (NaN is not"),
    "recipe without stages": (attribute("recipe", np.bytes_(b"[]")), "recipe has no list of stages"),
    "bones": (attribute("bones", np.array([[0.0, 1.0]])), "root attribute bones is unreadable (float64 of shape"),
    "bones out of range": (attribute("bones", np.array([[0, 1], [1, V]])), "bones is out of range"),
}
FRAMES: dict[str, tuple[Change, str]] = {
    "NaN": (array("frames/joints", (9, 1, 2), np.nan), "frames/joints has values that are not finite, first in row 9"),
    "inf": (array("frames/joints", (3, 0, 0), -np.inf), "frames/joints has values that are not finite, first in row 3"),
    "absent": (absent_but_there, "frames/joints is not zero in 1 rows of absent bodies"),
    "cycle": (attribute("bones", np.array([[1, 2], [2, 1]])), "bones are not a tree: joints 1, 2, 1 form a cycle"),
    "bone twice": (attribute("bones", np.array([[0, 1], [0, 1]])), "bones are not a tree: bone (0, 1) occurs twice"),
}


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_to(tmp_path_factory.mktemp("intact") / "a.h5").read_bytes()


@pytest.fixture
def changed(tmp_path: Path, intact: bytes) -> Callable[[Change], Path]:
    """A file with a change and right checksums."""

    def make(change: Change) -> Path:
        path = tmp_path / "a.h5"
        path.write_bytes(intact)
        with h5py.File(path, "r+") as file:
            change(file)
        signed_again(path)
        return path

    return make


@pytest.mark.parametrize("name", SMALL)
def test_contents_that_contradict_each_other_are_named(changed: Callable[[Change], Path], name: str) -> None:
    """At every start, and by verify."""
    change, fault = SMALL[name]
    path = changed(change)
    assert any(fault in found for found in verify(path)), verify(path)
    for fast_start in (False, True):
        with pytest.raises(IntegrityError, match="build it again") as raised:
            open_file(path, fast_start=fast_start)
        assert fault in str(raised.value)


@pytest.mark.parametrize("name", FRAMES)
def test_verify_looks_at_all_values(changed: Callable[[Change], Path], name: str) -> None:
    change, fault = FRAMES[name]
    (found,) = verify(changed(change))
    assert found.startswith(fault)


def test_a_file_that_is_signed_again_is_intact(changed: Callable[[Change], Path]) -> None:
    """Negative control: the checksums of the tests above are right."""
    path = changed(array("frames/joints", (9, 1, 2), 0.5))
    assert verify(path) == []
    assert open_file(path).joints_RV3[9, 1, 2] == 0.5
