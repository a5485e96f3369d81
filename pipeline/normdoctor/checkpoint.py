"""Load anybody's checkpoint into a model: tensors alone are read, and what wraps a state dict is taken off."""

from __future__ import annotations

import pickle
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .finding import listed
from .forms import KEY
from .repair import load_repaired

# Entries of a checkpoint that hold a state dict, in order of preference.
ENTRIES = ("state_dict", "model_state_dict", "model", "model_state", "net", "network", "weights", "module", "params")
# Left by AveragedModel beside the weights.
BESIDE = ("n_averaged",)


class Damaged(ValueError):
    """A file that cannot be read as a checkpoint."""


def load_checkpoint(model: nn.Module, path: Path) -> tuple[nn.Module, str]:
    """Load a checkpoint into a model.

    Args:
        model: A fresh model; changed in place.
        path: What torch.save wrote: a state dict, or a mapping that holds one (`ENTRIES`), of the model itself or of
            one that wraps it (DDP, torch.compile, a Lightning module). The form of a repaired model is taken too.

    Returns:
        The model, and what was taken off, in a few words; empty if nothing was.

    Raises:
        ValueError: In one line: the file holds more than tensors, or no state dict, or one that does not fit.
        Damaged: The file is not what torch.save writes.
        OSError: The file cannot be read.
    """
    content = _read(path)
    entry, state = _state(content, path)
    prefix = _prefix(state, model.state_dict())
    stripped = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    for name in BESIDE:
        stripped.pop(name, None)
    taken = [f"entry {entry!r}"] if entry else []
    taken += [f"prefix {prefix!r}"] if prefix else []
    try:
        model = load_repaired(model, stripped)
    except RuntimeError:
        raise ValueError(f"{path} does not fit the model: {_mismatch(model, stripped)}") from None
    return model, " and ".join(taken)


def _read(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if zipfile.is_zipfile(path):
            what = str(error).split("Unsupported global: GLOBAL ")[-1].split(" ")[0] if "GLOBAL" in str(error) else ""
            raise ValueError(
                f"{path} holds more than tensors{f' ({what})' if what else ''}, and unpickling objects executes code: "
                "save model.state_dict() instead of the model."
            ) from None
        raise Damaged(f"{path} is not a checkpoint that torch.save wrote: give a file of model.state_dict().") from None
    except (RuntimeError, EOFError) as error:
        raise Damaged(f"{path} cannot be read ({str(error).splitlines()[0][:100]}): copy or save it again.") from None


def _state(content: Any, path: Path) -> tuple[str, dict[str, Tensor]]:
    """Return the name of the entry that holds the state dict ("" if the content itself is one), and the state dict."""
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} holds a {type(content).__name__}: a state dict is needed. Save model.state_dict().")
    found = dict(_states("", content))
    if not found:
        raise ValueError(
            f"{path} holds no state dict, only {listed([str(key) for key in content])}: save model.state_dict(), or "
            f"{{'state_dict': model.state_dict()}}."
        )
    last = [name.rpartition(".")[2] for name in found]
    best = min(found, key=lambda name: _rank(name.rpartition(".")[2]))
    if best and best.rpartition(".")[2] not in ENTRIES and len(found) > 1:
        raise ValueError(
            f"{path} holds {len(found)} state dicts ({listed(last)}), none of which is named "
            f"{', '.join(ENTRIES[:3])}: save the model's alone."
        )
    return best, found[best]


def _rank(name: str) -> int:
    return -1 if not name else ENTRIES.index(name) if name in ENTRIES else len(ENTRIES)


def _states(name: str, node: Mapping[Any, Any]) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Yield the mappings of names to tensors in a nested mapping, with their paths."""
    tensors = {key: value for key, value in node.items() if isinstance(value, Tensor)}
    if tensors and all(isinstance(key, str) for key in tensors):
        yield name, tensors
        return
    for key, child in node.items():
        if isinstance(child, Mapping):
            yield from _states(f"{name}.{key}" if name else str(key), child)


def _prefix(state: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """Return the prefix without which most names are those of the model ("module.", "_orig_mod.", "model.")."""
    known = {*wanted, KEY}
    fitting = Counter({"": 0})
    for key in state:
        for start in (0, *(place + 1 for place, letter in enumerate(key) if letter == ".")):
            fitting[key[:start]] += key[start:] in known
    return max(fitting, key=lambda prefix: (fitting[prefix], -len(prefix)))


def _mismatch(model: nn.Module, state: Mapping[str, Tensor]) -> str:
    """Return in one line how names and shapes differ."""
    own = model.state_dict()
    missing, more = [key for key in own if key not in state], [key for key in state if key not in own]
    shapes = [
        f"{key} {tuple(state[key].shape)} instead of {tuple(own[key].shape)}"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    parts = [
        f"it lacks {listed(missing)}" if missing else "",
        f"it has {listed(more)} besides" if more else "",
        f"shapes differ ({listed(shapes, 2)})" if shapes else "",
    ]
    return f"{', '.join(part for part in parts if part)}. Build the model as it was built for training."
