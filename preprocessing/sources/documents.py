"""JSON documents of a tree: parsed with a clear error, told apart by the words at their beginning."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from preprocessing.skeleton import SkeletonError
from preprocessing.sources.entries import SourceError
from preprocessing.sources.trees import Item, Tree, content
from preprocessing.sources.zips import Packed

BOM = b"\xef\xbb\xbf"  # some editors begin UTF-8 with it


def read_json(place: str | Packed, name: str) -> Any:
    """Return a JSON document; SkeletonError with the line of its fault."""
    try:
        return json.loads(content(place, name))
    except json.JSONDecodeError as error:
        raise SkeletonError(name, error.lineno, "bad-json", f"the JSON is damaged ({error.msg})") from None
    except (UnicodeDecodeError, RecursionError, ValueError) as error:
        raise SkeletonError(name, 0, "bad-json", f"the JSON is damaged ({type(error).__name__})") from None


def first_json(items: Sequence[Item]) -> Any:
    """Return the first document that can be parsed; SourceError with the fault of the first if there is none."""
    first = ""
    for item in items:
        try:
            return read_json(item.place, item.stem)
        except SkeletonError as error:
            first = first or f"{item.origin}: {error}"
    raise SourceError(f"no JSON document can be read. {first}" if first else "no JSON documents")


def begins_with(tree: Tree, *words: bytes) -> bool:
    """Return whether one of the first JSON documents of a tree has all these words near its beginning."""
    return any(
        head.removeprefix(BOM).lstrip()[:1] in (b"{", b"[") and all(word in head for word in words)
        for head in tree.beginnings(".json")
    )


def fault(name: str, message: str) -> SkeletonError:
    """Return the error of a document that is JSON, but not of the expected form."""
    return SkeletonError(name, 0, "bad-form", message)
