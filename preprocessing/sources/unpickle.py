"""Read pickles of plain data without running anything: an interpreter of the pickle opcodes for data alone.

It makes dicts, lists, tuples, sets, numbers, text, bytes and NumPy arrays, and calls nothing that a file names: the few
globals that NumPy's own pickles need are names of constructions done here. Large values stay in the file and are read
when they are needed, so a pickle may be larger than the memory.
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

LARGE = 1 << 10  # bytes from which a value stays in the file
MOST_OPCODES = 40_000_000  # a pickle of 114,000 annotations has 7 million
KINDS = "fiubU"  # of array types: numbers, truth values, text

_ARRAY_MODULES = ("numpy.core.multiarray", "numpy._core.multiarray")
_NUMERIC_MODULES = ("numpy.core.numeric", "numpy._core.numeric")
_GLOBALS = {
    **{(module, "_reconstruct"): "reconstruct" for module in _ARRAY_MODULES},
    **{(module, "scalar"): "scalar" for module in _ARRAY_MODULES},
    **{(module, "_frombuffer"): "frombuffer" for module in _NUMERIC_MODULES},
    ("numpy", "ndarray"): "ndarray",
    ("numpy", "dtype"): "dtype",
    ("_codecs", "encode"): "encode",  # how protocols 0 to 2 write bytes
    ("__builtin__", "bytes"): "no bytes",
    ("builtins", "bytes"): "no bytes",
}


class PickleError(ValueError):
    """A pickle is damaged, or holds more than plain data; the message has one line."""


class Span(NamedTuple):
    """Bytes that stay in the file."""

    path: str
    offset: int
    size: int
    latin1: bool = False  # they are UTF-8 of text whose characters are the bytes

    def read(self) -> bytes:
        """Return the bytes."""
        with open(self.path, "rb", buffering=0) as file:
            content = os.pread(file.fileno(), self.size, self.offset)
        if len(content) != self.size:
            raise OSError(f"{self.path} ends before its last value")
        return content.decode().encode("latin1") if self.latin1 else content


class _Name(NamedTuple):
    """A global that NumPy's pickles name: a construction of `_call`."""

    kind: str


class _Type:
    """A NumPy type as the pickle describes it."""

    __slots__ = ("order", "text")

    def __init__(self, text: Any) -> None:
        self.text, self.order = text, "="

    def dtype(self) -> np.dtype:
        """Return the type; PickleError for one that is not of numbers or text."""
        if not isinstance(self.text, str) or self.text[:1] not in KINDS or not self.text[1:].isdecimal():
            raise PickleError(f"an array has type {self.text!r}; only numbers and text are read")
        return np.dtype(self.text).newbyteorder(self.order)  # type: ignore[arg-type]


class LazyArray:
    """An array of a pickle whose values are still in the file."""

    __slots__ = ("_content", "dtype", "fortran", "shape")

    def __init__(self) -> None:
        self._content: bytes | bytearray | Span | None = None
        self.shape: tuple[int, ...] = ()
        self.dtype, self.fortran = np.dtype(np.uint8), False

    def fill(self, shape: Any, dtype: Any, fortran: Any, content: Any) -> None:
        """Set type, shape and values; PickleError if they do not fit each other."""
        if not isinstance(shape, tuple) or not all(type(n) is int and n >= 0 for n in shape) or len(shape) > 32:
            raise PickleError("an array has an invalid shape")
        if not isinstance(dtype, _Type) or not isinstance(content, bytes | bytearray | Span):
            raise PickleError("an array holds objects; only numbers and text are read")
        self.shape, self.dtype, self.fortran, self._content = shape, dtype.dtype(), bool(fortran), content
        size = math.prod(shape) * self.dtype.itemsize
        # Latin-1 text takes one or two bytes per byte, so its size is known once it is read.
        exact = not (isinstance(content, Span) and content.latin1)
        found = content.size if isinstance(content, Span) else len(content)
        if (exact and found != size) or (not exact and not size <= found <= 2 * size):
            raise PickleError(f"an array of shape {shape} does not have the bytes that it needs")

    def load(self) -> np.ndarray:
        """Return the array in memory; PickleError if it was never filled or its bytes do not fit."""
        if self._content is None:
            raise PickleError("an array has no values")
        content = self._content.read() if isinstance(self._content, Span) else self._content
        if len(content) != math.prod(self.shape) * self.dtype.itemsize:
            raise PickleError(f"an array of shape {self.shape} does not have the bytes that it needs")
        return np.frombuffer(content, self.dtype).reshape(self.shape, order="F" if self.fortran else "C")


_MARK = object()


def read_pickle(path: Path) -> Any:
    """Return the plain data of a pickle; arrays as `LazyArray`, other large bytes as `Span`.

    Raises:
        PickleError: It is damaged, too large, or holds anything but plain data.
    """
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        try:
            return _Machine(file, str(path.resolve()), size).run()
        except PickleError:
            raise
        except (IndexError, KeyError, TypeError, ValueError, AttributeError, OverflowError, struct.error) as error:
            raise PickleError(f"it is damaged at byte {file.tell()} ({type(error).__name__})") from None


class _Machine:
    """The stack machine of one pickle."""

    def __init__(self, file: BinaryIO, path: str, size: int) -> None:
        self.file, self.path, self.size = file, path, size
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        """Interpret the opcodes up to STOP."""
        read = self.file.read
        for _ in range(MOST_OPCODES):
            code = read(1)
            if not code:
                raise PickleError("it ends too early")
            if code == b".":
                return self.pop()
            operation = _OPERATIONS.get(code[0])
            if operation is None:
                name = _FORBIDDEN.get(code[0], f"0x{code[0]:02x}")
                raise PickleError(f"it holds objects (opcode {name} at byte {self.file.tell() - 1})")
            operation(self)
        raise PickleError(f"it has more than {MOST_OPCODES} opcodes")

    def pop(self) -> Any:
        """Return the top of the stack."""
        value = self.stack.pop()
        if value is _MARK:
            raise PickleError("it is damaged: a mark in the place of a value")
        return value

    def popmark(self) -> list[Any]:
        """Return what lies above the last mark."""
        for place in range(len(self.stack) - 1, -1, -1):
            if self.stack[place] is _MARK:
                above = self.stack[place + 1 :]
                del self.stack[place:]
                return above
        raise PickleError("it is damaged: a mark is missing")

    def number(self, form: str) -> int:
        """Read a packed number."""
        (value,) = struct.unpack(form, self.exactly(struct.calcsize(form)))
        return int(value)

    def exactly(self, count: int) -> bytes:
        """Read `count` bytes, never more than the file has."""
        if not 0 <= count <= self.size - self.file.tell():
            raise PickleError("it ends too early")
        return self.file.read(count)

    def line(self, encoding: str = "ascii") -> str:
        """Read a line of text."""
        line = self.file.readline(1 << 16)
        if not line.endswith(b"\n"):
            raise PickleError("it is damaged: a line has no end")
        return line[:-1].decode(encoding)

    def raw(self, form: str, text: bool = False) -> None:
        """Push bytes or text of a length that is stated before; a large one stays in the file."""
        count = self.number(form)
        if count < LARGE:
            content = self.exactly(count)
            self.stack.append(content.decode("utf-8", "surrogatepass") if text else content)
            return
        at = self.file.tell()
        if count > self.size - at:
            raise PickleError("it ends too early")
        self.file.seek(count, os.SEEK_CUR)
        self.stack.append(Span(self.path, at, count, latin1=text))

    def reduce(self) -> None:
        """Apply a construction to its arguments."""
        arguments, name = self.pop(), self.pop()
        if not isinstance(name, _Name) or not isinstance(arguments, tuple):
            raise PickleError("it calls something that is not data")
        self.stack.append(_call(name.kind, arguments))

    def build(self) -> None:
        """Set the state of an array or a type."""
        state, target = self.pop(), self.stack[-1]
        if isinstance(target, LazyArray) and isinstance(state, tuple) and len(state) == 5:
            target.fill(*state[1:])
        elif (
            isinstance(target, _Type)
            and isinstance(state, tuple)
            and len(state) >= 2
            and state[1] in ("<", ">", "|", "=")
        ):
            target.order = state[1]
        else:
            raise PickleError("it sets the state of an object")

    def find(self, module: Any, name: Any) -> None:
        """Push a global, if it is one of those that NumPy's pickles need."""
        kind = _GLOBALS.get((module, name)) if isinstance(module, str) and isinstance(name, str) else None
        if kind is None:
            raise PickleError(f"it names {str(module)[:40]}.{str(name)[:40]}, which is not data")
        self.stack.append(_Name(kind))

    def put(self, place: int) -> None:
        """Remember the top of the stack."""
        self.memo[place] = self.stack[-1]

    def append(self, values: list[Any]) -> None:
        """Append values to the list on the stack."""
        target = self.stack[-1]
        if type(target) is not list:
            raise PickleError("it appends to something that is not a list")
        target.extend(values)

    def items(self, values: list[Any]) -> None:
        """Add keys and values to the dict on the stack."""
        target = self.stack[-1]
        if type(target) is not dict or len(values) % 2:
            raise PickleError("it adds items to something that is not a dict")
        target.update(zip(values[::2], values[1::2], strict=True))

    def dict_of(self, values: list[Any]) -> None:
        """Push a dict of keys and values."""
        self.stack.append({})
        self.items(values)

    def add(self, values: list[Any]) -> None:
        """Add values to the set on the stack."""
        target = self.stack[-1]
        if type(target) is not set:
            raise PickleError("it adds to something that is not a set")
        target.update(values)

    def tuple_of(self, count: int) -> None:
        """Make a tuple of the topmost values."""
        values = [self.pop() for _ in range(count)]
        self.stack.append(tuple(reversed(values)))


def _call(kind: str, arguments: tuple[Any, ...]) -> Any:
    """Return what a construction makes; it is done here, whatever the file's name stands for."""
    if kind == "reconstruct" and arguments and arguments[0] == _Name("ndarray"):
        return LazyArray()
    if kind == "dtype" and arguments:
        return _Type(arguments[0])
    if kind == "frombuffer" and len(arguments) == 4 and arguments[3] in ("C", "F"):
        array = LazyArray()
        array.fill(arguments[2], arguments[1], arguments[3] == "F", arguments[0])
        return array
    if kind == "scalar" and len(arguments) == 2 and isinstance(arguments[0], _Type):
        array = LazyArray()
        array.fill((), arguments[0], False, arguments[1])
        return array.load().item()
    if kind == "no bytes" and not arguments:
        return b""
    if kind == "encode" and len(arguments) == 2 and arguments[1] == "latin1":
        text = arguments[0]
        return text.encode("latin1") if isinstance(text, str) else _latin1(text)
    raise PickleError(f"it calls {kind} in an unknown way")


def _latin1(span: Any) -> Span:
    if not isinstance(span, Span) or not span.latin1:
        raise PickleError("it encodes something that is not text")
    return span


def _integer(text: str) -> int | bool:
    return {"00": False, "01": True}[text] if text in ("00", "01") else int(text)


def _quoted(line: str) -> str:
    if len(line) < 2 or line[0] != line[-1] or line[0] not in "'\"" or "\\" in line:
        raise PickleError("it has a text with escapes; write it with a newer protocol")
    return line[1:-1]


def _long(content: bytes) -> int:
    return int.from_bytes(content, "little", signed=True)


def _floats(machine: _Machine) -> float:
    return float(struct.unpack(">d", machine.exactly(8))[0])


def _two(machine: _Machine) -> tuple[Any, Any]:
    second = machine.pop()
    return machine.pop(), second


_OPERATIONS: dict[int, Callable[[_Machine], Any]] = {
    0x80: lambda m: m.exactly(1),  # PROTO
    0x95: lambda m: m.exactly(8),  # FRAME
    ord("("): lambda m: m.stack.append(_MARK),
    ord("0"): lambda m: m.stack.pop(),
    ord("1"): lambda m: m.popmark(),
    ord("2"): lambda m: m.stack.append(m.stack[-1]),
    ord("N"): lambda m: m.stack.append(None),
    0x88: lambda m: m.stack.append(True),
    0x89: lambda m: m.stack.append(False),
    ord("I"): lambda m: m.stack.append(_integer(m.line())),
    ord("J"): lambda m: m.stack.append(m.number("<i")),
    ord("K"): lambda m: m.stack.append(m.number("<B")),
    ord("M"): lambda m: m.stack.append(m.number("<H")),
    ord("L"): lambda m: m.stack.append(int(m.line().rstrip("L"))),
    0x8A: lambda m: m.stack.append(_long(m.exactly(m.number("<B")))),
    0x8B: lambda m: m.stack.append(_long(m.exactly(m.number("<i")))),
    ord("F"): lambda m: m.stack.append(float(m.line())),
    ord("G"): lambda m: m.stack.append(_floats(m)),
    ord("S"): lambda m: m.stack.append(_quoted(m.line())),
    ord("T"): lambda m: m.raw("<i"),
    ord("U"): lambda m: m.raw("<B"),
    ord("B"): lambda m: m.raw("<I"),
    ord("C"): lambda m: m.raw("<B"),
    0x8E: lambda m: m.raw("<Q"),
    0x96: lambda m: m.raw("<Q"),
    ord("V"): lambda m: m.stack.append(m.line("raw-unicode-escape")),
    0x8C: lambda m: m.raw("<B", text=True),
    ord("X"): lambda m: m.raw("<I", text=True),
    0x8D: lambda m: m.raw("<Q", text=True),
    ord("]"): lambda m: m.stack.append([]),
    ord("a"): lambda m: m.append([m.pop()]),
    ord("e"): lambda m: m.append(m.popmark()),
    ord("l"): lambda m: m.stack.append(m.popmark()),
    ord(")"): lambda m: m.stack.append(()),
    ord("t"): lambda m: m.stack.append(tuple(m.popmark())),
    0x85: lambda m: m.tuple_of(1),
    0x86: lambda m: m.tuple_of(2),
    0x87: lambda m: m.tuple_of(3),
    ord("}"): lambda m: m.stack.append({}),
    ord("d"): lambda m: m.dict_of(m.popmark()),
    ord("s"): lambda m: m.items(list(_two(m))),
    ord("u"): lambda m: m.items(m.popmark()),
    0x8F: lambda m: m.stack.append(set()),
    0x90: lambda m: m.add(m.popmark()),
    0x91: lambda m: m.stack.append(frozenset(m.popmark())),
    ord("g"): lambda m: m.stack.append(m.memo[int(m.line())]),
    ord("h"): lambda m: m.stack.append(m.memo[m.number("<B")]),
    ord("j"): lambda m: m.stack.append(m.memo[m.number("<I")]),
    ord("p"): lambda m: m.put(int(m.line())),
    ord("q"): lambda m: m.put(m.number("<B")),
    ord("r"): lambda m: m.put(m.number("<I")),
    0x94: lambda m: m.put(len(m.memo)),  # MEMOIZE
    ord("c"): lambda m: m.find(m.line(), m.line()),
    0x93: lambda m: m.find(*_two(m)),  # STACK_GLOBAL
    ord("R"): lambda m: m.reduce(),
    ord("b"): lambda m: m.build(),
}

_FORBIDDEN = {
    ord("i"): "INST", ord("o"): "OBJ", 0x81: "NEWOBJ", 0x92: "NEWOBJ_EX", 0x82: "EXT1", 0x83: "EXT2", 0x84: "EXT4",
    ord("P"): "PERSID", ord("Q"): "BINPERSID", 0x97: "NEXT_BUFFER", 0x98: "READONLY_BUFFER",
}  # fmt: skip
