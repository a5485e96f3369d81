"""Trained networks as one ONNX file, checked against torch. The only door to onnx and onnxruntime.

Inputs `x` (N, 3, T, V, 2) float32 in metres and `present` (N, 2, T) bool, as pipeline.data makes them; output
`probability` (N, K). Any number of clips N.
"""

from __future__ import annotations

import copy
import io
import logging
import warnings
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from pipeline import ensemble
from pipeline.data import BODIES
from preprocessing import exits, files

TOLERANCE = 1e-4  # of a probability


class ExportDiffers(exits.Fault):
    """The exported network differs from torch's; nothing was written."""

    exit_code = exits.INTEGRITY


class _MaskedInput(nn.Module):
    """A masked input norm in evaluation: every row by the running statistics, absent ones zero again."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x_NCTVM: Tensor, present_NMT: Tensor) -> Tensor:
        """Return what the norm that it replaces returns in evaluation."""
        return torch.where(
            present_NMT.transpose(1, 2)[:, None, :, None, :], self.norm(x_NCTVM, present_NMT), 0.0
        )  # fmt: skip


class _Calibrated(nn.Module):
    """Probabilities instead of logits; of several networks by the weighted sum of their log-probabilities."""

    share_R: Tensor

    def __init__(self, models: Sequence[nn.Module], share_R: Tensor, temperature: float) -> None:
        super().__init__()
        self.models, self.temperature = nn.ModuleList(models), temperature
        self.register_buffer("share_R", share_R.cpu().float())

    def forward(self, x: Tensor, present: Tensor) -> Tensor:
        """Return probabilities (N, K)."""
        scores_RNK = torch.stack([model(x, present).log_softmax(1) for model in self.models])
        return (ensemble.combine(scores_RNK, self.share_R) / self.temperature).softmax(1)


def fixed_shapes(model: nn.Module) -> nn.Module:
    """Return a copy that evaluates the same, whose shapes do not depend on which bodies are present.

    In evaluation a row never depends on other rows, so putting all slots through the trunk and pooling over the bodies
    that are present is what `masked` does.
    """
    result = copy.deepcopy(model).eval()
    if result.persons == "masked":
        result.persons, result.mask_max = "fold", True  # type: ignore[assignment]
    norm = result.input_norm
    if isinstance(norm, nn.Module) and norm.masked:
        norm.masked = False  # type: ignore[assignment]
        result.input_norm = _MaskedInput(norm)
    return result


def noise(frames: int, joints: int, device: torch.device, channels: int = 3) -> tuple[Tensor, Tensor]:
    """Return clips to try an export on: a lone first body, two bodies, and a lone second one."""
    draw = torch.Generator().manual_seed(0)
    present_NMT = torch.tensor([[1, 0], [1, 1], [0, 1]]).bool().unsqueeze(2).expand(-1, -1, frames).contiguous()
    x_NCTVM = torch.randn(3, channels, frames, joints, BODIES, generator=draw)
    return (x_NCTVM * present_NMT.transpose(1, 2)[:, None, :, None, :]).to(device), present_NMT.to(device)


def to_onnx(
    models: Sequence[nn.Module],
    share_R: Tensor,
    temperature: float,
    sample: tuple[Tensor, Tensor],
    path: Path,
    about: dict[str, str],
    tolerance: float = TOLERANCE,
) -> float:
    """Write networks to `path`; return the largest difference of a probability from torch's on `sample` (x, present).

    One network has a share of 1; several read the same clips, and their shares have sum 1 (`ensemble.shares`). `about`
    goes into the file's metadata. ValueError without the packages or where a network cannot be exported, ExportDiffers
    where it can and differs by more than `tolerance`.
    """
    try:
        import onnxruntime
        import onnxscript  # noqa: F401 - torch's exporter needs it
    except ImportError as error:
        raise ValueError(
            f"--onnx needs onnx, onnxscript and onnxruntime ({error}): pip install onnx onnxruntime onnxscript"
        ) from None
    # Exported on two clips at least, since one is taken for a constant, and tried on a number that it has not seen.
    given = [torch.cat([part, part.flip(0)]).cpu() for part in sample]
    x_NCTVM, present_NMT = (torch.cat([part, part[:1]]) for part in given)
    try:
        fixed = [fixed_shapes(model).cpu() for model in models]
        content = _exported(_Calibrated(fixed, share_R, temperature), given, about)
    except torch.onnx.OnnxExporterError as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(f"torch cannot export this network ({first})") from None
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    try:
        (answered,) = session.run(None, {"x": x_NCTVM.numpy(), "present": present_NMT.numpy()})
    except Exception as error:  # its classes are private to its compiled part
        raise ExportDiffers(
            f"{path} was not written: onnxruntime rejects other clips than the exported ones ({error})"
        ) from None
    with torch.no_grad():
        as_they_are = [copy.deepcopy(model).cpu().eval() for model in models]
        own = _Calibrated(as_they_are, share_R, temperature)(x_NCTVM, present_NMT).numpy()
    difference = float(np.abs(answered - own).max())
    if not difference <= tolerance:
        raise ExportDiffers(f"{path} was not written: its probabilities differ from torch's by {difference:.1e}")
    files.publish_bytes(path, content)
    return difference


def _exported(model: nn.Module, sample: list[Tensor], about: dict[str, str]) -> bytes:
    clips = torch.export.Dim("clips", min=1)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            model, tuple(sample), input_names=["x", "present"], output_names=["probability"], dynamo=True,
            verbose=False, dynamic_shapes={"x": {0: clips}, "present": {0: clips}},
        )  # fmt: skip
    assert program is not None
    proto = program.model_proto
    for key, value in about.items():
        proto.metadata_props.add(key=key, value=value)
    content: bytes = proto.SerializeToString()
    return content
