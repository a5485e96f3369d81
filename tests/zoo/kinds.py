"""Kinds of samples that the networks of the zoo take: pictures, masks, volumes, films, texts, series, graphs.

Each kind gives batches, and says how a network is applied to one, which loss trains it and how samples are scored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

TRAIN, HELD_OUT, BATCH = 256, 128, 32
CLASSES = 10


@dataclass(frozen=True)
class Kind:
    """One kind of samples and their use."""

    batches: Callable[[], tuple[list[Any], list[Any]]]
    """Training batches, shuffled, and evaluation batches."""
    forward: Callable[[nn.Module, Any], Tensor]
    """Network, batch -> output."""
    loss: Callable[[Tensor, Any], Tensor]
    metric: Callable[[Tensor, Any], Tensor]
    """Output, batch -> score of each sample (N,), or of the batch (); higher is better."""
    plain: bool = False
    """True if the doctor needs neither `forward` nor `metric`."""


def logits(output: Any) -> Tensor:
    """Return the logits of any library's output."""
    if isinstance(output, Tensor):
        return output
    if isinstance(output, dict) and "out" in output:
        return output["out"]
    found = getattr(output, "logits", None)
    return found if found is not None else logits(output[0])


def apply(model: nn.Module, batch: Any) -> Tensor:
    """Apply a network to the batch's first element."""
    return logits(model(batch[0]))


def cross_entropy(output: Tensor, batch: Any) -> Tensor:
    """Return the loss of logits (N, K, ...) and labels (N, ...), the batch's last element."""
    return functional.cross_entropy(output, batch[-1])


def first_choice(output: Tensor, batch: Any) -> Tensor:
    """Return whether the first choice of logits (N, K) is right."""
    return output.argmax(1) == batch[-1]


def share_of_pixels(output: Tensor, batch: Any) -> Tensor:
    """Return the share of each sample's pixels or voxels whose first choice is right."""
    return (output.argmax(1) == batch[-1]).flatten(1).double().mean(1)


def reshuffled(batches: list[Any]) -> list[Any]:
    """Return the samples of equal batches in new ones: a network that sees the same batches again learns them."""
    first = batches[0]
    if hasattr(first, "to_data_list"):
        every = [sample for batch in batches for sample in batch.to_data_list()]
        order = torch.randperm(len(every)).split(BATCH)
        return [type(first).from_data_list([every[i] for i in places.tolist()]) for places in order]
    columns = [list(batch.values()) if isinstance(batch, dict) else list(batch) for batch in batches]
    whole = [torch.cat(parts) for parts in zip(*columns, strict=True)]
    parts = torch.randperm(len(whole[0])).split(len(columns[0][0]))
    mixed = [[column[i] for column in whole] for i in parts]
    return [dict(zip(first, batch, strict=True)) if isinstance(first, dict) else tuple(batch) for batch in mixed]


# --- samples ----------------------------------------------------------------------------------------------------------


def digits(size: int, channels: int) -> tuple[Tensor, Tensor]:
    """Return scikit-learn's digits, enlarged: x (N, C, size, size), labels (N,)."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[: TRAIN + HELD_OUT]
    x_NCHW = torch.from_numpy(x)[order].float().reshape(-1, 1, 8, 8) / 8 - 1
    return functional.interpolate(x_NCHW, (size, size)).repeat(1, channels, 1, 1), torch.from_numpy(y)[order].long()


def split(*columns: Tensor) -> tuple[list[Any], list[Any]]:
    """Divide samples into shuffled training batches and evaluation batches."""

    def of(first: int, last: int) -> list[Any]:
        places = torch.arange(first, last).split(BATCH)
        return [tuple(column[i] for column in columns) for i in places]

    return of(0, TRAIN), of(TRAIN, TRAIN + HELD_OUT)


def pictures(size: int, channels: int = 3) -> Kind:
    """Return digits as pictures to classify."""
    return Kind(lambda: split(*digits(size, channels)), apply, cross_entropy, first_choice, plain=True)


def masks(size: int, channels: int = 3) -> Kind:
    """Return digits whose ink is to be found, pixel by pixel."""

    def batches() -> tuple[list[Any], list[Any]]:
        x, _ = digits(size, channels)
        noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
        return split(x + 0.5 * noise, (x[:, 0] > 0).long())

    def forward(model: nn.Module, batch: Any) -> Tensor:
        output = apply(model, batch)
        same = output.shape[2:] == batch[-1].shape[1:]
        return output if same else functional.interpolate(output, batch[-1].shape[1:], mode="bilinear")

    return Kind(batches, forward, cross_entropy, share_of_pixels)


def blobs(shape: tuple[int, ...], samples: int) -> tuple[Tensor, Tensor]:
    """Return noise with a bright box of one of four sizes: x (N, 1, ...), inside (N, ...)."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randn((samples, 1, *shape), generator=draw)
    inside = torch.zeros((samples, *shape), dtype=torch.long)
    for n in range(samples):
        box = tuple(slice(n % 4, n % 4 + side // 4 * (1 + n % 3)) for side in shape)
        inside[n][box] = 1
    return x + 2 * inside[:, None], inside


def volumes(side: int, classify: bool = False) -> Kind:
    """Return volumes with a bright box, to segment or to tell the box's size."""

    def batches() -> tuple[list[Any], list[Any]]:
        x, inside = blobs((side,) * 3, (TRAIN + HELD_OUT) // 3)
        y = torch.arange(len(x)) % 3 if classify else inside
        first = TRAIN // 3
        parts = ((0, first), (first, len(x)))
        train, held_out = ([(x[a:b], y[a:b]) for a, b in _bounds(*part, BATCH // 2)] for part in parts)
        return train, held_out

    return Kind(batches, apply, cross_entropy, first_choice if classify else share_of_pixels, plain=classify)


def _bounds(first: int, last: int, size: int) -> Iterator[tuple[int, int]]:
    for start in range(first, last, size):
        yield start, min(last, start + size)


def films(frames: int, size: int) -> Kind:
    """Return digits that fade in, (N, 3, frames, size, size)."""

    def batches() -> tuple[list[Any], list[Any]]:
        x, y = digits(size, 3)
        light = torch.linspace(0.2, 1, frames)[None, None, :, None, None]
        return split(x[:, :, None] * light, y)

    return Kind(batches, apply, cross_entropy, first_choice, plain=True)


def texts(length: int, vocabulary: int) -> Kind:
    """Return sentences of a class's favourite words as a dict, as Transformers' collators give them."""

    def batches() -> tuple[list[Any], list[Any]]:
        draw = torch.Generator().manual_seed(0)
        y = torch.randint(4, (TRAIN + HELD_OUT,), generator=draw)
        ids = torch.randint(8, vocabulary, (len(y), length), generator=draw)
        favourite = torch.rand(ids.shape, generator=draw) < 0.4
        ids = torch.where(favourite, y[:, None] + 2, ids)
        ids[:, -1] = 1  # the end of the sentence
        mask = torch.ones_like(ids)
        train, held_out = split(ids, mask, y)
        names = ("input_ids", "attention_mask", "labels")
        return tuple([dict(zip(names, batch, strict=True)) for batch in part] for part in (train, held_out))  # type: ignore[return-value]

    def forward(model: nn.Module, batch: Any) -> Tensor:
        return logits(model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]))

    def loss(output: Tensor, batch: Any) -> Tensor:
        return functional.cross_entropy(output, batch["labels"])

    return Kind(batches, forward, loss, lambda output, batch: output.argmax(1) == batch["labels"])


def series(length: int, channels: int) -> Kind:
    """Return sine waves, (N, length, channels), whose frequency is to be told."""

    def batches() -> tuple[list[Any], list[Any]]:
        draw = torch.Generator().manual_seed(0)
        y = torch.randint(4, (TRAIN + HELD_OUT,), generator=draw)
        t = torch.linspace(0, 6.28, length)[None, :, None]
        phase = 6.28 * torch.rand((len(y), 1, channels), generator=draw)
        x = torch.sin((1 + 2 * y[:, None, None]) * t + phase)
        return split(x + 0.3 * torch.randn(x.shape, generator=draw), y)

    return Kind(batches, apply, cross_entropy, first_choice, plain=True)


def sounds(length: int) -> Kind:
    """Return the same waves as one channel of samples, (N, length)."""
    inner = series(length, 1)

    def batches() -> tuple[list[Any], list[Any]]:
        return tuple([(x[..., 0], y) for x, y in part] for part in inner.batches())  # type: ignore[return-value]

    return Kind(batches, apply, cross_entropy, first_choice, plain=True)


def graphs() -> Kind:
    """Return rings and stars with noisy node features, in torch-geometric's own batches; the class is the kind."""

    def batches() -> tuple[list[Any], list[Any]]:
        from torch_geometric.data import Data
        from torch_geometric.loader import DataLoader

        draw = torch.Generator().manual_seed(0)
        every = []
        for n in range(TRAIN + HELD_OUT):
            nodes = int(torch.randint(5, 12, (1,), generator=draw))
            ring = torch.stack([torch.arange(nodes), (torch.arange(nodes) + 1) % nodes])
            star = torch.stack([torch.zeros(nodes - 1, dtype=torch.long), torch.arange(1, nodes)])
            edges = ring if n % 2 else star
            x = torch.randn((nodes, 8), generator=draw) + 0.5 * (n % 2)
            every.append(Data(x=x, edge_index=torch.cat([edges, edges.flip(0)], 1), y=torch.tensor([n % 2])))
        order = torch.randperm(TRAIN, generator=draw).tolist()
        parts = [every[i] for i in order], every[TRAIN:]
        train, held_out = (list(DataLoader(part, BATCH)) for part in parts)
        return train, held_out

    def forward(model: nn.Module, batch: Any) -> Tensor:
        return model(batch)

    def loss(output: Tensor, batch: Any) -> Tensor:
        return functional.cross_entropy(output, batch.y)

    return Kind(batches, forward, loss, lambda output, batch: output.argmax(1) == batch.y)


KINDS: dict[str, Callable[[], Kind]] = {
    "pictures32": lambda: pictures(32),
    "pictures64": lambda: pictures(64),
    "pictures80": lambda: pictures(80),
    "grey32": lambda: pictures(32, 1),
    "masks32": lambda: masks(32),
    "masks64": lambda: masks(64),
    "greymasks32": lambda: masks(32, 1),
    "volumes16": lambda: volumes(16),
    "volumes32": lambda: volumes(32),
    "classes16": lambda: volumes(16, classify=True),
    "films": lambda: films(2, 16),
    "texts": lambda: texts(16, 64),
    "series": lambda: series(32, 3),
    "sounds": lambda: sounds(800),
    "graphs": graphs,
}
