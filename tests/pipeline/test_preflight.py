"""preflight.py: noisy batch statistics and networks that cannot learn are reported before training."""

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipeline import preflight, training
from pipeline.config import from_dict

CPU = torch.device("cpu")


def config(data: Path, **more: Any) -> Any:
    """Settings of a small run."""
    return from_dict({"data": data, "out": "run", "input": {"frames": 16}} | more)


@pytest.mark.parametrize(
    ("settings", "ranks", "words"),
    [
        ({"train": {"batch_size": 64}}, 1, "64 clips per batch"),
        ({"train": {"batch_size": 64}}, 2, "64 clips over 2 ranks"),
        ({"train": {"batch_size": 64}, "norm": {"sync": False}}, 4, "16 clips on each rank"),
        ({"train": {"batch_size": 64, "accumulate": 8}}, 1, "8 clips per batch, a part of 8: accumulation adds up"),
        ({"train": {"batch_size": 8}}, 1, "under 16 they are noisy"),
        ({"norm": {"kind": "gn"}}, 1, ""),
    ],
)
def test_the_clips_behind_a_statistic_are_told(data_file: Path, settings: dict, ranks: int, words: str) -> None:
    """With accumulation, with and without synchronisation; nothing for norms of one clip."""
    chosen = config(data_file, **settings)
    _, _, state = training.setup(chosen, CPU)
    note = preflight.statistics_note(chosen, state.model, 128, ranks)
    assert words in note
    assert ("noisy" in note) == ("noisy" in words or "a part of" in words)
    assert bool(note) == bool(words)


@pytest.mark.parametrize("norm", [{"kind": "none"}, {"kind": "bn"}, {"kind": "bn", "persons": "loop"}, {"kind": "gn"}])
def test_a_network_that_learns_passes_and_stays_as_it_was(data_file: Path, norm: dict) -> None:
    """Weights, buffers, mode and random state."""
    chosen = config(data_file, norm=norm)
    clips, splits, state = training.setup(chosen, CPU)
    before, random = {n: x.clone() for n, x in state.model.state_dict().items()}, torch.get_rng_state()
    assert preflight.self_test(chosen, clips, state.model, splits.train) == ""
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(x, before[name]) for name, x in state.model.state_dict().items())


class Blind(nn.Module):
    """Sees nothing of its input: its loss can only stay at that of guessing."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(4))

    def forward(self, x_NCTVM: Tensor, present_NMT: Tensor) -> Tensor:
        """The same logits for every clip."""
        return self.bias.expand(len(x_NCTVM), -1)


def test_a_network_that_is_blind_is_told(data_file: Path) -> None:
    """With the loss of guessing, ln K."""
    chosen = config(data_file)
    clips, splits, _ = training.setup(chosen, CPU)
    message = preflight.self_test(chosen, clips, Blind(), splits.train)
    assert "ln K = 1.39" in message
    assert "does not learn" in message


@pytest.mark.parametrize(
    ("precision", "device", "capabilities", "warned"),
    [
        ("bf16", "cpu", {"avx2": True, "avx512_bf16": False, "amx_bf16": False}, True),
        ("bf16", "cpu", {}, True),
        ("bf16", "cpu", {"avx512_bf16": True}, False),
        ("bf16", "cpu", {"avx512_bf16": False, "amx_bf16": True}, False),
        ("bf16", "cuda", {}, False),
        ("fp32", "cpu", {}, False),
    ],
)
def test_bf16_that_the_cpu_has_to_imitate_is_told(
    precision: str, device: str, capabilities: dict[str, bool], warned: bool
) -> None:
    """Only where it is asked for, and only on a CPU."""
    assert (
        "--train.precision fp32" in preflight.precision_note(precision, torch.device(device), capabilities)
    ) == warned


def test_torch_says_what_the_cpu_can() -> None:
    """The names that the note looks for are torch's."""
    if torch.backends.cpu.get_cpu_capability() != "DEFAULT" and "x86" in str(torch.cpu.get_capabilities()):
        assert {"avx512_bf16", "amx_bf16"} <= set(torch.cpu.get_capabilities())


@pytest.mark.parametrize(
    ("train", "device", "why", "warned"),
    [
        ({"precision": "bf16", "channels_last": True}, "cuda", "no compiler", True),
        ({"precision": "bf16", "channels_last": True}, "cuda", "", False),
        ({"precision": "bf16", "channels_last": True}, "cpu", "no compiler", False),
        ({"precision": "bf16", "channels_last": True, "compile": True}, "cuda", "no compiler", False),
        ({"precision": "fp32", "channels_last": True}, "cuda", "no compiler", False),
    ],
    ids=str,
)
def test_missing_kernels_are_told_to_whom_they_are_missing(
    train: dict[str, Any], device: str, why: str, warned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU, in bf16 and channels_last, with the remedy."""
    monkeypatch.setattr(preflight.availability, "unavailable_reason", lambda: why)
    config = from_dict({"data": "x.h5", "out": "x", "wandb": "off", "train": train})
    note = preflight.kernels_note(config, torch.device(device))
    assert ("apt-get install gcc python3-dev" in note and why in note) == warned == bool(note)


@pytest.mark.parametrize(
    ("threads", "others", "cores", "device", "warned"),
    [
        (2, 1, 2, "cpu", True),
        (2, 0, 2, "cpu", False),
        (1, 2, 2, "cpu", False),  # one thread waits for no other
        (8, 8, 16, "cpu", False),
        (2, 2, 2, "cuda", False),
    ],
)
def test_other_work_on_the_cores_is_reported(threads: int, others: int, cores: int, device: str, warned: bool) -> None:
    note = preflight.cores_note(threads, lambda: others, cores, torch.device(device))
    assert ("OMP_NUM_THREADS=1 before the command" in note) == warned


def test_a_process_that_computes_is_seen_running(tmp_path: Path) -> None:
    """Whatever else runs on this machine; none where the system does not say."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(3)]
    time.sleep(0.5)
    seen = preflight.running()
    for child in busy:
        child.kill()
        child.wait()
    assert seen >= len(busy)
    assert preflight.running(tmp_path / "none") == 0


@pytest.mark.parametrize(
    ("labels", "settings", "words"),
    [
        ([0, 1, 2] * 2, {}, ""),
        ([1] * 5, {}, "all 5 training clips are of one class (b): nothing can be learned"),
        ([0, 0, 1, 1], {}, "1 of 3 have no training clips (c)"),
        ([0, 0, 1, 1, 2], {}, "1 have one training clip (c)"),
        ([0] * 8 + [1] * 2 + [2] * 2, {}, "the most frequent has 8 training clips, the rarest 2: try"),
        ([0] * 7 + [1] * 2 + [2] * 2, {}, ""),
        ([0] * 8 + [1] * 2 + [2] * 2, {"input": {"sample": "balanced"}}, ""),
        ([0] * 8 + [1] * 2 + [2] * 2, {"optim": {"class_weights": "sqrt"}}, ""),
    ],
)
def test_uneven_classes_are_named(labels: list[int], settings: dict[str, Any], words: str) -> None:
    """One class, absent ones, lone clips, four times as many; silent where settings balance them."""
    config = from_dict({"data": "x", "out": "y", **settings})
    note = preflight.classes_note(["a", "b", "c"], torch.tensor(labels), config)
    assert words in note
    assert bool(note) is bool(words)
