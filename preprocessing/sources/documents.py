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
UTF16 = (b"\xff\xfe", b"\xfe\xff")  # as PowerShell writes it


def read_json(place: str | Packed, name: str) -> Any:
    """Return a JSON document; SkeletonError with the line of its fault."""
    try:
        return json.loads(content(place, name))
    except json.JSONDecodeError as error:
        lines = "; several documents in one file (JSON lines)? Make them one list: jq -s . FILE"
        hint = lines if error.msg == "Extra data" else ""
        raise SkeletonError(name, error.lineno, "bad-json", f"the JSON is damaged ({error.msg}){hint}") from None
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
        head.lstrip()[:1] in (b"{", b"[") and all(word in head for word in words)
        for head in map(_plain, tree.beginnings(".json"))
    )


def _plain(head: bytes) -> bytes:
    """Return the beginning of a document without a byte order mark; UTF-16 without its zeros, enough to find words."""
    return head[2:].replace(b"\0", b"") if head[:2] in UTF16 else head.removeprefix(BOM)


def fault(name: str, message: str) -> SkeletonError:
    """Return the error of a document that is JSON, but not of the expected form."""
    return SkeletonError(name, 0, "bad-form", message)
