"""Pickles of plain data are read; nothing that a pickle names is run, whatever it holds."""

import collections
import io
import os
import pickle
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from preprocessing.sources.unpickle import LazyArray, PickleError, Span, read_pickle

SMALL = np.random.default_rng(0).normal(size=(3, 4, 5))
LARGE = np.random.default_rng(1).normal(size=(30, 40, 5)).astype(np.float16)


def read(tmp_path: Path, content: bytes) -> Any:
    (tmp_path / "a.pkl").write_bytes(content)
    return read_pickle(tmp_path / "a.pkl")


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_data_of_every_protocol_is_read(tmp_path: Path, protocol: int) -> None:
    plain = {
        "numbers": [1, -5, 2.5, 2**70, True, False, None, 300, 70_000], "text": ("é", "ab\ncd", b"\xff\x00"),
        "scalars": [np.int64(7), np.float32(0.5)], "nested": {1: [[], (), {}]},
    }  # fmt: skip
    arrays = {
        "small": SMALL, "large": LARGE, "fortran": np.asfortranarray(LARGE), "big endian": LARGE.astype(">f4"),
        "text": np.array(["ab", "c"]), "truth": np.array([True, False]), "empty": np.zeros((0, 3)), "again": LARGE,
    }  # fmt: skip
    made = read(tmp_path, pickle.dumps(plain | {"arrays": arrays}, protocol=protocol))
    assert {key: made[key] for key in plain} == plain
    for key, array in arrays.items():
        loaded = made["arrays"][key].load()
        assert loaded.dtype == array.dtype
        assert np.array_equal(loaded, array)


def test_large_values_stay_in_the_file(tmp_path: Path) -> None:
    made = read(tmp_path, pickle.dumps({"raw": b"x" * 5000, "array": LARGE}))
    assert isinstance(made["raw"], Span)
    assert made["raw"].read() == b"x" * 5000
    assert isinstance(made["array"], LazyArray)
    assert len(pickle.dumps(made["array"])) < 500, "an array is a place in the file"


class Call:
    """What pickles as a call of `function`."""

    def __init__(self, function: Callable, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


class Stateful:
    """An object with a state."""

    def __init__(self) -> None:
        self.x = 1


def hostile(sprung: str) -> dict[str, bytes]:
    """Pickles that would create the file `sprung`, or do other harm, if something in them were run."""
    command = f"touch {sprung}"
    dump = pickle.dumps
    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tC\x01btR"
    return {
        "os.system": dump(Call(os.system, command)),
        "os.system, protocol 0": dump(Call(os.system, command), protocol=0),
        "builtins.eval": dump(Call(eval, f"open({sprung!r}, 'w')")),
        "builtins.exec": dump([Call(exec, f"open({sprung!r}, 'w')")]),
        "getattr": dump(Call(getattr, "", "join")),
        "subprocess": dump(Call(subprocess.Popen, ["touch", sprung])),
        "nested in data": dump({"annotations": [{"keypoint": [(Call(os.system, command),)]}]}),
        "in an object array": dump(np.array([Call(os.system, command)], object)),
        "copyreg": dump(Stateful(), protocol=1),
        "copyreg.__reduce_ex__": b"ccopyreg\n__reduce_ex__\n(K\x01tR.",
        "an object": dump(Stateful()),
        "an object, protocol 2": dump(Stateful(), protocol=2),
        "INST": b"(S'" + command.encode() + b"'\nios\nsystem\n.",
        "OBJ": b"(cos\nsystem\nS'" + command.encode() + b"'\no.",
        "NEWOBJ": b"\x80\x02cos\nsystem\n)\x81.",
        "NEWOBJ_EX": b"\x80\x04cos\nsystem\n)}\x92.",
        "BUILD of an allowed global": b"cnumpy\nndarray\n}S'__call__'\nK\x01sb.",
        "BUILD of a dict": b"}}S'x'\nK\x01sb.",
        "call of a type": b"cnumpy\nndarray\n(K\x05tR.",
        "call of data": b"]K\x01\x85R.",
        "EXT1": b"\x80\x02\x82\x01.",
        "EXT4": b"\x80\x02\x84\x01\x00\x00\x00.",
        "PERSID": b"P1\n.",
        "BINPERSID": b"K\x01Q.",
        "NEXT_BUFFER": b"\x80\x05\x97.",
        "a stacked global": b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x01x\x85R.",
        "a dotted name": b"\x80\x04\x8c\x05numpy\x8c\x16ndarray.__init__.__glo\x93.",
        "numpy.load": dump(Call(np.load, sprung)),
        "numpy's test runner": b"cnumpy.testing._private.utils\nrunstring\n(S'import os'\n}tR.",
        "encode by another codec": b"c_codecs\nencode\n(X\x01\x00\x00\x00aX\x03\x00\x00\x00zlibtR.".replace(
            b"\x03", b"\x04"
        ),
        "object dtype": array + b"(K\x01K\x01\x85cnumpy\ndtype\n(S'O8'\nK\x00K\x01tRK\x00]K\x01atb.",
        "void dtype": array + b"(K\x01K\x01\x85cnumpy\ndtype\n(S'V8'\nK\x00K\x01tRK\x00C\x0812345678tb.",
        "a state that is no state": array + b"K\x01b.",
    }


@pytest.mark.parametrize("name", hostile("x"))
def test_a_hostile_pickle_is_rejected_and_nothing_is_run(tmp_path: Path, name: str) -> None:
    sprung = tmp_path / "sprung"
    with pytest.raises(PickleError) as caught:
        read(tmp_path, hostile(str(sprung))[name])
    assert not sprung.exists()
    assert "\n" not in str(caught.value)


def test_the_traps_work_where_pickles_are_trusted(tmp_path: Path) -> None:
    """Negative control."""
    for name in ("os.system", "builtins.eval", "nested in data", "in an object array", "INST", "OBJ"):
        sprung = tmp_path / name.replace(" ", "-")
        pickle.loads(hostile(str(sprung))[name])
        assert sprung.exists(), name


def huge() -> dict[str, bytes]:
    """Pickles of a few bytes that announce gigabytes, or make a reader allocate or recurse."""
    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tC\x01btR"
    f4 = b"cnumpy\ndtype\n(S'f4'\nK\x00K\x01tR"
    return {
        "BINBYTES8": b"\x80\x04\x8e" + struct.pack("<Q", 1 << 60) + b"x.",
        "BINUNICODE8": b"\x80\x04\x8d" + struct.pack("<Q", 1 << 40) + b"x.",
        "BYTEARRAY8": b"\x80\x05\x96" + struct.pack("<Q", 1 << 40) + b"x.",
        "negative length": b"T\xff\xff\xff\xffx.",
        "LONG4": b"\x80\x02\x8b" + struct.pack("<i", 1 << 30) + b"x.",
        "an array of a terabyte": array + b"(K\x01(J\xff\xff\xff\x7fJ\xff\xff\xff\x7ft" + f4 + b"K\x00C\x00tb.",
        "a negative shape": array + b"(K\x01(J\xff\xff\xff\xfft" + f4 + b"K\x00C\x00tb.",
        "empty": b"",
        "no STOP": b"\x80\x04K\x01",
        "an empty stack": b".",
        "a mark alone": b"(.",
        "an unknown memo": b"h\x07.",
        "a type of a gigabyte": b"cnumpy\ndtype\n(S'U999999999'\nK\x00K\x01tRK\x00C\x01x\x86R.",
    }


@pytest.mark.parametrize("name", huge())
def test_a_pickle_that_announces_more_than_it_has_is_rejected(tmp_path: Path, name: str) -> None:
    with pytest.raises(PickleError):
        read(tmp_path, huge()[name])


LIMITED = """
import resource, sys
from pathlib import Path
from preprocessing.sources.unpickle import PickleError, read_pickle
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    value = read_pickle(Path(sys.argv[1]))
except PickleError as error:
    value = error
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


@pytest.mark.parametrize("name", ["memo", "nesting", "lists of lists"])
def test_small_pickles_take_little_memory(tmp_path: Path, name: str) -> None:
    """A memo index of 2^31 makes the interpreter's own unpickler fill gigabytes."""
    content = {
        "memo": b"K\x01r\xff\xff\xff\x7f.",
        "nesting": b"]" * 200_000 + b"a" * 199_999 + b".",
        "lists of lists": b"]" + b"".join(b"q%c]q%c(h%ch%ce" % (n, n + 1, n, n) for n in range(100)) + b".",
    }[name]
    (tmp_path / "a.pkl").write_bytes(content)
    answer = subprocess.run([sys.executable, "-c", LIMITED, tmp_path / "a.pkl"], capture_output=True, text=True)
    assert float(answer.stdout) < 100, answer.stderr


def test_any_damaged_byte_gives_data_or_one_line(tmp_path: Path) -> None:
    content = pickle.dumps({"annotations": [{"keypoint": SMALL, "label": 1, "x": ["a", 2.0, None]}]}, protocol=4)
    rng = np.random.default_rng(0)
    messages = []
    for _ in range(1500):
        damaged = bytearray(content)
        damaged[rng.integers(len(content))] = rng.integers(256)
        try:
            read(tmp_path, bytes(damaged))
        except PickleError as error:
            messages.append(str(error))
    assert len(messages) > 100
    assert not any("\n" in message for message in messages)


def test_other_containers_are_named(tmp_path: Path) -> None:
    with pytest.raises(PickleError, match=r"it names collections\.OrderedDict, which is not data"):
        read(tmp_path, pickle.dumps(collections.OrderedDict(a=1)))
    with pytest.raises(PickleError, match="it ends too early"):
        read(tmp_path, io.BytesIO(pickle.dumps([1, 2, 3])).read(7))
