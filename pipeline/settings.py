"""Declare the allowed values of a settings dataclass in the types of its fields; check and show them in one place.

    @dataclass(frozen=True)
    class OptimConfig:
        name: Annotated[str, Choice(OPTIMIZERS)] = "adamw"
        lr: Annotated[float, Range(gt=0)] = 1e-3

        def __post_init__(self) -> None:
            settings.check(self, "optim.")

`Literal` is for values that never change, `Choice` for the names of a registry, which may be defined below the class.
`tyro.cli(..., registry=settings.command_line())` shows both in `--help`. This module imports nothing of ours.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import functools
import inspect
import math
import textwrap
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import tyro

Settings = TypeVar("Settings")

# Content of a field of each type, in the words of an error message.
HOLDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}


@dataclass(frozen=True)
class Range:
    """Bounds of a number: a lower one (`ge`: at least, `gt`: above), an upper one (`le`, `lt`) if any, and a reason."""

    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None
    why: str = ""

    def __contains__(self, value: float) -> bool:
        return (
            (self.ge is None or value >= self.ge)
            and (self.gt is None or value > self.gt)
            and (self.le is None or value <= self.le)
            and (self.lt is None or value < self.lt)
        )

    def __str__(self) -> str:
        """The range as the help shows it after the type: `>= 1` or `in (0, 1]`."""
        low, least = ("[", self.ge) if self.gt is None else ("(", self.gt)
        high, most = ("]", self.le) if self.lt is None else (")", self.lt)
        if most is None:
            return f">{'=' if low == '[' else ''} {least:g}"
        return f"in {low}{least:g}, {most:g}{high}"

    def fault(self, value: float) -> str:
        """Return what is wrong with the value; empty if it is in the range."""
        if value in self:
            return ""
        bounds = f"is outside {str(self).removeprefix('in ')}"
        if self.le is None and self.lt is None:
            bounds = f"is too small: must be {'at least' if self.gt is None else 'above'} {str(self).split()[1]}"
        return f"{value} {bounds}" + (f"; {self.why}" if self.why else "")


@dataclass(frozen=True, eq=False)
class Choice:
    """The names that a text may be: the keys of a registry, or several of them joined by `joined` (as `+`)."""

    names: Collection[str]
    joined: str = ""

    def fault(self, value: str) -> str:
        """Return what is wrong with the value, in quotes; empty if nothing is."""
        for word in value.split(self.joined) if self.joined else (value,):
            if word not in self.names:
                several = f", or join several: {self.joined.join(list(self.names)[:2])}" if self.joined else ""
                return f"{word!r} is unknown; choose one of {', '.join(self.names)}{several}{_near(word, self.names)}"
        return ""


def _near(word: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {near[0]}?" if near else ""


def declared(cls: Any) -> dict[str, Any]:
    """Name of each field -> its type, resolved, with its `Range` or `Choice`."""
    return _declared(cls)


@functools.cache
def _declared(cls: Any) -> dict[str, Any]:
    hints = get_type_hints(cls, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def documented(cls: Any) -> dict[str, str]:
    """Name of each field -> the text below it, in one line; those of the base classes too."""
    found: dict[str, str] = {}
    for base in cls.__bases__:
        found |= documented(base) if dataclasses.is_dataclass(base) else {}
    body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    assert isinstance(body, ast.ClassDef)
    for before, after in zip(body.body, body.body[1:], strict=False):
        text = ast.get_docstring(ast.Module([after], [])) if isinstance(after, ast.Expr) else None
        if isinstance(before, ast.AnnAssign) and isinstance(before.target, ast.Name) and text:
            found[before.target.id] = " ".join(text.split())
    return found


def allowed(kind: Any) -> str:
    """Return the names that a field's type allows, separated by commas; empty if it is not a choice."""
    for marker in get_args(kind)[1:] if get_origin(kind) is Annotated else ():
        if isinstance(marker, Choice):
            return ", ".join(marker.names)
    return ", ".join(map(str, get_args(kind))) if get_origin(kind) is Literal else ""


def check(instance: Any, prefix: str) -> None:
    """Check each field of a settings dataclass against its type, range and choices.

    Args:
        instance: The settings; call this in their `__post_init__`.
        prefix: Text before a field's name on the command line: `norm.`, or `--`.

    Raises:
        ValueError: A value is not allowed; the message names the field, the value and what is allowed.
    """
    for name, kind in declared(type(instance)).items():
        fault = _fault(kind, getattr(instance, name))
        if fault:
            raise ValueError(f"{prefix}{name.replace('_', '-')} {fault}")


def _fault(kind: Any, value: Any) -> str:
    """Return the fault of a value of this type, which it begins with; empty if there is none."""
    kind, *markers = get_args(kind) if get_origin(kind) is Annotated else (kind,)
    if get_origin(kind) is Literal:
        known = get_args(kind)
        if value in known:
            return ""
        return f"{value!r} is unknown; choose one of {', '.join(map(str, known))}{_near(str(value), map(str, known))}"
    if get_origin(kind) is tuple:
        each = get_args(kind)[0]
        if not isinstance(value, tuple):
            return f"{value!r} must be a list, each {HOLDS[each]}"
        return next(filter(None, (_fault(each, one) for one in value)), "")
    if kind not in HOLDS:
        return ""
    # True is an int to Python, and a whole number serves as a number.
    if isinstance(value, bool) != (kind is bool) or not isinstance(value, int | float if kind is float else kind):
        return f"{value!r} must be {HOLDS[kind]}"
    if isinstance(value, float) and not math.isfinite(value):
        return f"{value} must be finite"
    for marker in markers:
        marked: Any = marker
        if isinstance(marker, Range | Choice) and (fault := marked.fault(value)):
            return str(fault)
    return ""


def build(cls: type[Settings], values: dict[str, Any], prefix: str = "") -> Settings:
    """Make a settings dataclass from nested plain values (TOML, JSON); texts become paths and lists tuples.

    Raises:
        ValueError: A key is unknown (the message has the nearest known one), or `check` rejects a value.
    """
    known = declared(cls)
    arguments: dict[str, Any] = {}
    for key, value in values.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"; did you mean {prefix}{near[0]}?" if near else f"; known: {', '.join(prefix + k for k in known)}"
            raise ValueError(f"unknown setting {prefix}{key}{hint}")
        kind = known[key]
        if dataclasses.is_dataclass(kind):
            if not isinstance(value, dict):
                raise ValueError(f"{prefix}{key} {value!r} must be a table of settings: {', '.join(declared(kind))}")  # type: ignore[arg-type]
            arguments[key] = build(kind, value, f"{prefix}{key}.")  # type: ignore[arg-type]
        elif (kind is Path or Path in get_args(kind)) and isinstance(value, str):
            arguments[key] = Path(value)
        else:
            arguments[key] = tuple(value) if isinstance(value, list) else value
        if fault := _fault(kind, arguments[key]):
            raise ValueError(f"{prefix}{key.replace('_', '-')} {fault}")
    return cls(**arguments)


def command_line() -> tyro.constructors.ConstructorRegistry:
    """Return rules by which tyro shows choices as `{a,b,c}` and ranges beside the type of a number."""
    registry = tyro.constructors.ConstructorRegistry()
    asked: list[Any] = []

    @registry.struct_rule
    def rule(info: tyro.constructors.StructTypeInfo) -> tyro.constructors.StructConstructorSpec | None:
        if info.type in asked or not dataclasses.is_dataclass(info.type):
            return None
        asked.append(info.type)  # tyro's own rule makes the fields
        try:
            spec: Any = registry.get_struct_spec(info)
        finally:
            asked.remove(info.type)
        if not isinstance(spec, tyro.constructors.StructConstructorSpec):
            return spec  # type: ignore[no-any-return]
        fields = tuple(dataclasses.replace(field, type=_shown(field.type)) for field in spec.fields)
        return dataclasses.replace(spec, fields=fields)

    return registry


def _shown(kind: Any) -> Any:
    """A field's type with its range or choices in tyro's terms."""
    for marker in get_args(kind)[1:] if get_origin(kind) is Annotated else ():
        if isinstance(marker, Choice) and not marker.joined:
            return Literal[tuple(marker.names)]
        if isinstance(marker, Choice):
            names = f"{{{','.join(marker.names)}}}[{marker.joined}...]"
            return Annotated[kind, tyro.conf.arg(metavar=names)]
        if isinstance(marker, Range):
            number = get_args(kind)[0].__name__.upper()
            return Annotated[kind, tyro.conf.arg(metavar=f"{number} {marker}")]
    return kind
