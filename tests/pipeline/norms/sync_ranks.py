"""One rank of test_norms.py: put this rank's rows through each case's layer, publish what came out.

    torchrun --nproc-per-node 2 sync_ranks.py FOLDER

FOLDER/cases.pt holds named cases: settings of NormConfig, the rows of each rank, x (B, C, T, V) and the weight w of
each output in the loss; for an input norm x_NCTVM with present_NMT. All cases share one start of the ranks.
"""

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline import distributed
from pipeline.norms import NormConfig, norm_factory


def outcome(
    settings: dict[str, Any], x: Tensor, w: Tensor, present: Tensor | None, pooled: bool = False
) -> dict[str, Tensor]:
    """Forward and backward of a fresh layer in the precision of x: output, gradients (of x by row), buffers."""
    norm = norm_factory(NormConfig(**settings))
    layer = norm(x.shape[1]) if present is None else norm.input(x.shape[1], x.shape[3], x.shape[4])
    assert layer is not None
    layer.to(x.dtype).train()
    x = x.clone().requires_grad_()
    if pooled:
        x = x.detach().to(memory_format=torch.channels_last).requires_grad_()
        y = layer.pooled(x) if layer.pools(x) else torch.relu(torch.max_pool2d(layer(x), 2))
    else:
        y = layer(x) if present is None else layer(x, present)
    (y * w).sum().backward()
    result = {"y": y.detach(), "x_grad": x.grad}
    gradients = {f"{name}_grad": p.grad for name, p in layer.named_parameters() if p.requires_grad}
    result |= {name: distributed.total(gradient) for name, gradient in gradients.items()}
    return result | {name: b.clone() for name, b in layer.named_buffers() if "running" in name}


def main(folder: Path) -> None:
    """Every case in turn; the file's name carries the rank."""
    distributed.join()
    rank = distributed.rank()
    results = {}
    for name, case in torch.load(folder / "cases.pt", weights_only=True).items():
        x, w = (case[key].split(case["rows"])[rank] for key in "xw")
        present = case["present"].split(case["rows"])[rank] if "present" in case else None
        results[name] = outcome(case["settings"], x, w, present, "pooled" in case)
    torch.save(results, folder / f"rank{rank}.pt")
    distributed.leave()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
