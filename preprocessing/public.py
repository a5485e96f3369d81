"""Names and registry entries that are imported on first use, so that importing a package takes no time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from importlib import import_module
from typing import Any, TypeVar

Entry = TypeVar("Entry")


def lazy_names(
    package: str, modules: Mapping[str, Sequence[str]]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return the functions `__getattr__` and `__dir__` of a package (PEP 562).

    Args:
        package: Name of the package.
        modules: Module inside the package -> public names that it defines.
    """
    homes = {name: module for module, names in modules.items() for name in names}

    def load(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(f"{package}.{homes[name]}"), name)

    return load, lambda: sorted(homes)


class LazyTable(MutableMapping[str, Entry]):
    """Registry whose names are known at once, and whose entries are imported when they are first read.

    Args:
        package: Name of the package.
        homes: Name of an entry -> `module:attribute` inside the package.
    """

    def __init__(self, package: str, homes: Mapping[str, str]) -> None:
        self.package = package
        self._entries: dict[str, Any] = dict(homes)
        self._unread = set(homes)

    def __getitem__(self, name: str) -> Entry:
        entry = self._entries[name]
        if name in self._unread:
            module, _, attribute = entry.partition(":")
            entry = self._entries[name] = getattr(import_module(f"{self.package}.{module}"), attribute)
            self._unread.discard(name)
        return entry  # type: ignore[no-any-return]

    def __setitem__(self, name: str, entry: Entry) -> None:
        self._entries[name] = entry
        self._unread.discard(name)

    def __delitem__(self, name: str) -> None:
        del self._entries[name]
        self._unread.discard(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries  # without reading the entry
