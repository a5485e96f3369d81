"""One rank of test_norms.py: normalise this rank's rows with BatchNorm over all ranks, publish what came out.

    torchrun --nproc-per-node 2 sync_ranks.py FOLDER 5,11 {sync|alone}

FOLDER/x.pt holds x (B, C, T, V) and the weight of each output in the loss; the ranks own 5 and 11 of its rows.
"""

import sys
from pathlib import Path

import torch

from pipeline import distributed
from pipeline.norms import BatchNorm


def main(folder: Path, sizes: list[int], sync: bool) -> None:
    """Forward, backward, save; the file's name carries the rank."""
    distributed.join()
    torch.set_num_threads(1)
    given = torch.load(folder / "x.pt", weights_only=True)
    rank = distributed.rank()
    x = given["x"].split(sizes)[rank].clone().requires_grad_()
    layer = BatchNorm(x.shape[1], momentum=0.1, eps=1e-5, sync=sync)
    y = layer(x)
    (y * given["w"].split(sizes)[rank]).sum().backward()
    result = {
        "y": y.detach(),
        "x_grad": x.grad,
        "weight_grad": distributed.total(layer.weight.grad),
        "bias_grad": distributed.total(layer.bias.grad),
        "running_mean": layer.running_mean,
        "running_var": layer.running_var,
    }
    torch.save(result, folder / f"rank{rank}.pt")
    distributed.leave()


if __name__ == "__main__":
    main(Path(sys.argv[1]), [int(size) for size in sys.argv[2].split(",")], sys.argv[3] == "sync")
