"""Batches of any structure: their leaves, their samples, and how they are put together again.

A batch is a tree of mappings, sequences and dataclasses. A leaf is a tensor, an array, a list with one entry per
sample (pictures of different sizes, boxes), or anything else. An object of another kind that holds tensors (a batch of
graphs) is looked into, but never divided.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

# Names of labels, in order of preference.
LABELS = ("labels", "label", "y", "targets", "target", "class", "cls")
# Names that only batches of graphs have: their nodes are not samples.
GRAPHS = ("edge_index", "adj_t")
# Channels of a picture.
CHANNELS = (1, 3, 4)


@dataclass(frozen=True)
class Constant:
    """A leaf that goes with every sample."""

    value: Any


@dataclass(frozen=True)
class Item:
    """An entry of a list with one entry per sample, which is never stacked."""

    value: Any


def leaves(batch: Any) -> list[Any]:
    """Return the leaves of a batch, in order."""
    return [leaf for _, leaf in named_leaves(batch)]


def named_leaves(batch: Any, name: str = "") -> list[tuple[str, Any]]:
    """Return the leaves of a batch with their paths ("0", "image", "0.mask")."""
    children = _children(batch, top=not name)
    if children is None:
        return [(name, batch)]
    return [pair for key, child in children for pair in named_leaves(child, f"{name}.{key}" if name else str(key))]


def rebuilt(like: Any, new: Iterator[Any], top: bool = True) -> Any:
    """Return the structure of `like`, a whole batch or a part of one, with its leaves replaced, in order."""
    children = _children(like, top)
    if children is None:
        return next(new)
    parts = {key: rebuilt(child, new, top=False) for key, child in children}
    if isinstance(like, Mapping):
        return _of_type(like, parts)
    if isinstance(like, list | tuple):
        return type(like)(*parts.values()) if hasattr(like, "_fields") else type(like)(parts.values())
    if dataclasses.is_dataclass(like) and not isinstance(like, type):
        return dataclasses.replace(like, **parts)
    raise TypeError(f"a {type(like).__name__} cannot be put together again")


def _of_type(like: Mapping[Any, Any], parts: dict[Any, Any]) -> Any:
    """Return a mapping of the type of `like` (its attributes may be used), or a dict where that takes no dict."""
    if type(like) is dict:
        return parts
    try:
        return type(like)(parts)  # type: ignore[call-arg]
    except TypeError:
        return parts


def is_opaque(node: Any, top: bool = True) -> bool:
    """Return whether a batch is, or holds, an object that can be looked into but not put together again."""
    children = _children(node, top)
    if children is None:
        return False
    known = isinstance(node, Mapping | list | tuple) or dataclasses.is_dataclass(node)
    return not known or any(is_opaque(child, top=False) for _, child in children)


def _children(node: Any, top: bool) -> list[tuple[Any, Any]] | None:
    """Return the named parts of a node; None for a leaf."""
    if isinstance(node, Mapping):
        return _marked(list(node.items()))
    if isinstance(node, list | tuple):
        names = getattr(node, "_fields", range(len(node)))
        return _marked(list(zip(names, node, strict=True))) if _is_structure(node, top) else None
    if node is None or isinstance(node, Tensor | np.ndarray | np.generic | str | bytes | bool | int | float | type):
        return None
    if dataclasses.is_dataclass(node):
        return [(field.name, getattr(node, field.name)) for field in dataclasses.fields(node) if field.init]
    inside = node.to_dict() if callable(getattr(node, "to_dict", None)) else getattr(node, "__dict__", {})
    if not isinstance(inside, Mapping) or not any(isinstance(value, Tensor | np.ndarray) for value in inside.values()):
        return None
    return list(inside.items())


class _PerSample(list[Any]):
    """A list with one entry per sample, as the tensors beside it tell."""


def _marked(parts: list[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
    """Mark the lists of tensors that are as long as a tensor beside them, while the tensors in them are not."""
    lengths = {len(part) for _, part in parts if _is_long(part)}
    return [(key, _PerSample(part) if _is_per_sample(part, lengths) else part) for key, part in parts]


def _is_per_sample(part: Any, lengths: set[int]) -> bool:
    if type(part) not in (list, tuple) or len(part) not in lengths or not all(map(_is_long, part)):
        return False
    return not any(len(tensor) in lengths for tensor in part)


def _is_structure(node: list[Any] | tuple[Any, ...], top: bool) -> bool:
    """Return whether a sequence holds the parts of a batch, rather than one entry per sample or plain values."""
    if hasattr(node, "_fields"):
        return True
    if isinstance(node, _PerSample):
        return False
    if not any(_holds_tensors(part) for part in node) or all(isinstance(part, Mapping) for part in node):
        return False
    tensors = [part for part in node if isinstance(part, Tensor | np.ndarray)]
    if top:
        # [(picture, target), ...], as a collate function returns it that collates nothing
        pairs = all(isinstance(part, list | tuple) for part in node)
        return not (pairs and all(any(isinstance(x, Mapping | int | float | str) for x in part) for part in node))
    if len(tensors) < len(node):
        return True
    # Several inputs of a model have one length. Pictures (C, H, W) of one size have it too.
    if isinstance(node, list) and len({part.shape[:1] for part in tensors}) > 1:
        return False
    return not all(part.ndim == 3 and len(part) in CHANNELS for part in tensors)


def _holds_tensors(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return any(_holds_tensors(part) for part in value)
    return _is_part(value)


def _is_part(value: Any) -> bool:
    known = isinstance(value, Tensor | np.ndarray | list | tuple | Mapping) or dataclasses.is_dataclass(value)
    return known or hasattr(value, "to_dict")


def size_of(batch: Any) -> int:
    """Return the number of samples in a batch.

    That is what the batch itself says (`num_graphs`), else the length of a list with one entry per sample, of the
    label in a batch with names, or of the first tensor or array.

    Raises:
        ValueError: It has none.
    """
    graphs = getattr(batch, "num_graphs", None)
    if isinstance(graphs, int):
        return graphs
    found = named_leaves(batch)
    for _, leaf in found:
        if isinstance(leaf, list | tuple) and leaf and any(_holds_tensors(part) for part in leaf):
            return len(leaf)
    by_name = {path.rpartition(".")[2]: leaf for path, leaf in found if _is_long(leaf)}
    label = next((by_name[name] for name in LABELS if name in by_name), None)
    if label is not None:
        return len(label)
    for _, leaf in found:
        if _is_long(leaf):
            return len(leaf)
    raise ValueError(
        f"a batch is a {type(batch).__name__} without any tensor: give tensors, or tuples, lists or dicts of them"
    )


def _is_long(leaf: Any) -> bool:
    return isinstance(leaf, Tensor | np.ndarray) and leaf.ndim > 0


def is_graph(batch: Any) -> bool:
    """Return whether a batch holds the edges of graphs."""
    return any(path.rpartition(".")[2] in GRAPHS for path, _ in named_leaves(batch))


def apart(batch: Any) -> list[list[Any]]:
    """Divide a batch into the leaves of each sample. A leaf without one entry per sample goes with every sample."""
    size = size_of(batch)
    columns = [
        leaf if isinstance(leaf, Tensor | np.ndarray | list | tuple) and len_of(leaf) == size else Constant(leaf)
        for leaf in leaves(batch)
    ]
    return [[_entry(column, i) for column in columns] for i in range(size)]


def _entry(column: Any, i: int) -> Any:
    if isinstance(column, Constant):
        return column
    return Item(column[i]) if isinstance(column, list | tuple) else column[i]


def len_of(leaf: Any) -> int:
    """Return the length of a leaf; -1 for a tensor without dimensions."""
    return -1 if isinstance(leaf, Tensor | np.ndarray) and not leaf.ndim else len(leaf)


def shape_of(leaf: Any) -> Any:
    """Return the shape of a sample's leaf, which must agree for leaves to be stacked; what it is, for other leaves."""
    if isinstance(leaf, Constant):
        return "for all"
    return tuple(leaf.shape) if isinstance(leaf, Tensor | np.ndarray) else None


def constants(row: list[Any]) -> list[Any]:
    """Return the tensors and arrays that go with every sample: another batch may hold other ones."""
    return [leaf.value for leaf in row if isinstance(leaf, Constant) and isinstance(leaf.value, Tensor | np.ndarray)]


def merged(column: tuple[Any, ...]) -> Any:
    """Stack the samples' leaves to one leaf of a batch."""
    first = column[0]
    if isinstance(first, Constant):
        return first.value
    if isinstance(first, Tensor):
        return torch.stack(column)
    if isinstance(first, np.ndarray | np.generic):
        return np.stack(column)
    return [item.value for item in column]


def mapped(change: Callable[[Tensor], Tensor], value: Any) -> Any:
    """Return a nested value with every tensor changed; objects of unknown type as they are."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, Mapping):
        return _of_type(value, {key: mapped(change, part) for key, part in value.items()})
    if isinstance(value, list | tuple):
        parts = [mapped(change, part) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = [field.name for field in dataclasses.fields(value) if field.init]
        return dataclasses.replace(value, **{name: mapped(change, getattr(value, name)) for name in fields})
    return value


def moved(batch: Any, device: torch.device | None) -> Any:
    """Return a batch on a device; as it is where the device is None or it is there already."""
    if device is None or all(leaf.device == device for leaf in leaves(batch) if isinstance(leaf, Tensor)):
        return batch
    if is_opaque(batch) and callable(getattr(batch, "to", None)):
        return batch.to(device)
    return mapped(lambda tensor: tensor.to(device), batch)


def device_of(model: nn.Module) -> torch.device | None:
    """Return the one device that a model is on; None where it has no tensors, or is on several devices."""
    devices = {tensor.device for tensor in (*model.parameters(), *model.buffers())}
    return devices.pop() if len(devices) == 1 else None


def bytes_of(value: Any) -> int:
    """Return the memory of the tensors and arrays in a nested value."""
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, np.ndarray):
        return value.nbytes
    if isinstance(value, Item):
        return bytes_of(value.value)
    if isinstance(value, list | tuple):
        return sum(bytes_of(part) for part in value)
    return sum(bytes_of(child) for _, child in _children(value, top=False) or ())
