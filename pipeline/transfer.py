"""Start a network from the weights of another run, which may have other classes and joints.

A tensor is taken where it means the same in both networks. Axes of classes and joints are matched by name: the row of a
class that the other run knows is taken, and that of a new class starts anew. A tensor that depends on the order of the
joints in another way (the hidden layer of `cnn`) is taken only if the joints are the same ones in the same order.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pipeline import distributed, network, optim, share
from pipeline.config import Config
from pipeline.data import Bones
from pipeline.evaluation.matching import joint_places, places, stages_note
from pipeline.run_folder import Metadata, Run

CHANGED = 8  # joints more, at which a dimension of halved joints changes too


class _Sized(NamedTuple):
    """Facts of data of any size, to build networks from."""

    joint_names: list[str]
    class_names: list[str]
    bones: Bones
    channels: int = 3


class Axes(NamedTuple):
    """Axes of a tensor that follow from the data: axis -> values per class, or per joint."""

    classes: dict[int, int]
    joints: dict[int, int]
    placed: bool
    """Its shape depends on the joints in another way."""


class Names(NamedTuple):
    """Place in the other run's data of each class and each joint of this one; -1: it has none."""

    class_K: list[int]
    joint_V: list[int]
    theirs: tuple[int, int]
    """Numbers of classes and joints there."""

    @property
    def same_joints(self) -> bool:
        """Return whether both have the same joints in the same order."""
        return self.joint_V == list(range(self.theirs[1]))


def start(config: Config, run: Run, model: nn.Module) -> None:
    """Fill the network from `config.init`, and freeze what the settings ask for.

    Rank 0 writes RUN/init.json and prints what was taken. A resumed training keeps its weights and reads that file.

    Args:
        config: Settings of the run.
        run: Its run folder.
        model: The network, changed in place.

    Raises:
        ValueError: The other run has another network, or nothing of it fits.
    """
    assert config.init is not None
    if not run.pointer:
        source = share.start(config.init) if share.is_model(config.init) else Run(config.init)
        record = fill(config, model, Metadata.of(run.data), source)
        if distributed.rank() == 0:  # the folder may not exist yet: publishing makes it
            run.write_start(record)
            print(describe(record), file=sys.stderr)
    else:
        record = run.start
    if config.train.freeze == "trunk":
        freeze_trunk(model, record["new"])


def fill(config: Config, model: nn.Module, mine: Metadata, source: Run | share.Start) -> dict[str, Any]:
    """Copy what fits from another run's weights into the network; return what was taken and what is new.

    Returns:
        `run`, `epoch` and `sha256` of the weights; tensors that were `taken` whole, in `part` (with the number of
        classes or joints), and those that are `new`; numbers of `parameters`; `notes`.
    """
    theirs, given = source.metadata, source.config
    if given.model.name != config.model.name:
        raise ValueError(
            f"--init {source.folder} is a {given.model.name}, and model.name is {config.model.name}. Choose "
            f"--model.name {given.model.name}, or a run with that network."
        )
    names = Names(
        places(mine.class_names, theirs.class_names),
        joint_places(mine, theirs),
        (len(theirs.class_names), len(theirs.joint_names)),
    )
    weights, axes = source.weights, axes_of(config, mine)
    taken: list[str] = []
    part: dict[str, str] = {}
    new: list[str] = []
    state = model.state_dict()
    with torch.no_grad():
        for name, tensor in state.items():
            how = copy(tensor, weights.get(name), axes[name], names)
            if how == "whole":
                taken.append(name)
            elif how:
                part[name] = how
            else:
                new.append(name)
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    filled = sum(size for name, size in sizes.items() if name not in new)
    last = len(model.LAYERS) - 1  # type: ignore[arg-type]
    if not any(optim.layer_of(model, name) < last for name in sizes if name not in new):
        raise ValueError(
            f"Nothing of --init {source.folder} fits this network: it has model.width {given.model.width}, norm.kind "
            f"{given.norm.kind} and input.stream {given.input.stream}. Train with the same settings."
        )
    pointer = source.pointer
    return {
        "run": str(source.folder.resolve()),
        "epoch": pointer["epoch"],
        "sha256": pointer["sha256"],
        "taken": taken,
        "part": part,
        "new": new,
        "parameters": {"filled": filled, "all": sum(sizes.values())},
        "notes": list(filter(None, [stages_note(mine, theirs)])),
    }


def axes_of(config: Config, facts: Metadata) -> dict[str, Axes]:
    """Return the axes of each tensor of the network, found by building it for other numbers of classes and joints."""
    joints, classes = len(facts.joint_names), len(facts.class_names)

    def shapes(more_joints: int, more_classes: int) -> dict[str, torch.Size]:
        sizes = _Sized([""] * (joints + more_joints), [""] * (classes + more_classes), facts.bones, facts.channels)
        with torch.random.fork_rng(devices=[]):
            built = network.build(config, sizes, torch.device("cpu"))
        return {name: tensor.shape for name, tensor in built.state_dict().items()}

    base, one_class, one_joint = shapes(0, 0), shapes(0, 1), shapes(1, 0)
    some_joints = shapes(CHANGED, 0)
    result = {}
    for name, shape in base.items():
        grown = {axis: one_class[name][axis] - size for axis, size in enumerate(shape)}
        by_class = {axis: each for axis, each in grown.items() if each}
        grown = {axis: one_joint[name][axis] - size for axis, size in enumerate(shape)}
        by_joint = {axis: each for axis, each in grown.items() if each and joints * each == shape[axis]}
        changed = {axis for axis, size in enumerate(shape) if some_joints[name][axis] != size}
        result[name] = Axes(by_class, by_joint, placed=changed != set(by_joint))
    return result


def copy(mine: Tensor, theirs: Tensor | None, axes: Axes, names: Names) -> str:
    """Copy what fits from the other run's tensor.

    Returns:
        `whole`; the numbers of classes and joints that were taken; or an empty text if nothing was.
    """
    if theirs is None or mine.dim() != theirs.dim() or (axes.placed and not names.same_joints):
        return ""
    matched = {axis: _spread(names.class_K, each) for axis, each in axes.classes.items()}
    matched |= {axis: _spread(names.joint_V, each) for axis, each in axes.joints.items()}
    expected = list(mine.shape)
    for axis, each in axes.classes.items():
        expected[axis] = names.theirs[0] * each
    for axis, each in axes.joints.items():
        expected[axis] = names.theirs[1] * each
    if expected != list(theirs.shape):
        return ""
    known = {axis: index >= 0 for axis, index in matched.items()}
    if not all(one.any() for one in known.values()):
        return ""
    for axis, index in matched.items():
        theirs = theirs.index_select(axis, index[known[axis]])
    at = [known[axis].nonzero()[:, 0] if axis in known else torch.arange(size) for axis, size in enumerate(mine.shape)]
    if mine.dim():
        mine[torch.meshgrid(*at, indexing="ij")] = theirs.to(mine.device, mine.dtype)
    else:
        mine.copy_(theirs)
    if all(bool(one.all()) for one in known.values()):
        return "whole"
    counts = [
        f"{sum(place >= 0 for place in found)} of {len(found)} {word}"
        for word, found, these in (("classes", names.class_K, axes.classes), ("joints", names.joint_V, axes.joints))
        if these
    ]
    return ", ".join(counts)


def _spread(place: Sequence[int], each: int) -> Tensor:
    """Index along an axis that has `each` values per class or joint, side by side; -1 where there is none."""
    at = torch.tensor(place).unsqueeze(1)
    return torch.where(at >= 0, at * each + torch.arange(each), -1).flatten()


def freeze_trunk(model: nn.Module, new: Sequence[str]) -> None:
    """Freeze all parameters but those of the last layer and those that are new."""
    last = len(model.LAYERS) - 1  # type: ignore[arg-type]
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in new or optim.layer_of(model, name) == last)


def keep_frozen(model: nn.Module) -> None:
    """Put layers whose parameters are all frozen into eval mode: their norms keep their running statistics."""
    for module in model.modules():
        own = list(module.parameters(recurse=False))
        if own and not any(parameter.requires_grad for parameter in own):
            module.eval()


def describe(record: dict[str, Any]) -> str:
    """Return what was taken and what is new in a few lines."""
    filled, every = record["parameters"]["filled"], record["parameters"]["all"]
    lines = [f"init: {100 * filled / every:.1f} % of {every} parameters from {Path(record['run']).name}"]
    parts: dict[str, list[str]] = {}
    for name, how in record["part"].items():
        parts.setdefault(how, []).append(name)
    lines += [f"  {how}: {_listed(names)}" for how, names in parts.items()]
    if record["new"]:
        lines.append(f"  new: {_listed(record['new'])}")
    return "\n".join(lines + [f"  note: {note}" for note in record["notes"]])


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
