"""export.py: an ONNX file predicts what torch predicts, or is not written."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pipeline import export
from pipeline.models import MODELS, ModelConfig, build_model
from pipeline.models.bodies import PERSONS
from pipeline.norms import INPUTS, NORMS, NormConfig
from tests.pipeline.conftest import exporter

FRAMES, JOINTS, CLASSES = 16, 10, 5
BONES = tuple((v // 2, v) for v in range(1, JOINTS))
CPU = torch.device("cpu")


def network(model: str = "cnn", **norm: Any) -> nn.Module:
    """A narrow network whose running statistics have seen a batch."""
    torch.manual_seed(0)
    config = ModelConfig(model, width=0.25)
    made = build_model(config, NormConfig(**norm), FRAMES, JOINTS, CLASSES, BONES, "bone+distance")
    made.train()(*export.noise(FRAMES, JOINTS, CPU))
    return made.eval()


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("persons", PERSONS)
def test_the_copy_with_fixed_shapes_says_the_same(model: str, persons: str) -> None:
    """Masked becomes a fold that pools over the present bodies, also for a clip without any body."""
    made = network(model, persons=persons)
    x, present = export.noise(FRAMES, JOINTS, CPU)
    present = torch.cat([present, torch.zeros_like(present[:1])])
    x = torch.cat([x, torch.zeros_like(x[:1])])
    torch.testing.assert_close(export.fixed_shapes(made)(x, present), made(x, present))


@pytest.mark.parametrize(("kind", "input_norm"), [*((k, "none") for k in NORMS), *(("bn", i) for i in INPUTS)])
def test_so_it_does_with_every_norm(kind: str, input_norm: str) -> None:
    """Masked input norms fill in their zeros; a layer and an input norm know nothing of each other."""
    made = network(kind=kind, persons="masked", input=input_norm)
    sample = export.noise(FRAMES, JOINTS, CPU)
    torch.testing.assert_close(export.fixed_shapes(made)(*sample), made(*sample))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "kind", "input_norm"),
    [
        ("cnn", "in", "c_masked"),
        ("hcn", "ws_gn", "vc_masked"),
        ("stgcn", "bn", "vc_masked"),
        ("ctrgcn", "nf", "mvc_masked"),
    ],
)
def test_the_file_says_what_torch_says(model: str, kind: str, input_norm: str, tmp_path: Path) -> None:
    """By onnxruntime, on more clips than it was exported with; class names travel in it."""
    onnx = exporter()
    import onnxruntime

    made, path = network(model, kind=kind, persons="masked", input=input_norm), tmp_path / "net.onnx"
    sample = export.noise(FRAMES, JOINTS, CPU)
    assert export.to_onnx([made], torch.ones(1), 2.0, sample, path, {"class_names": json.dumps(["a", "b"])}) < 1e-4
    x, present = (torch.cat([part, part.flip(0)]) for part in sample)
    session = onnxruntime.InferenceSession(path.read_bytes())
    (probability,) = session.run(["probability"], {"x": x.numpy(), "present": present.numpy()})
    with torch.no_grad():
        expected = (made(x, present) / 2.0).softmax(1)
    torch.testing.assert_close(torch.from_numpy(probability), expected, rtol=1e-3, atol=1e-4)
    written = {entry.key: entry.value for entry in onnx.load(str(path)).metadata_props}
    assert json.loads(written["class_names"]) == ["a", "b"]


@pytest.mark.slow
def test_several_networks_answer_from_one_file(tmp_path: Path) -> None:
    """By the weighted mean of their log-probabilities, whatever their kinds."""
    exporter()
    import onnxruntime

    both, path = [network("cnn"), network("hcn", kind="gn", persons="masked", input="c_masked")], tmp_path / "both.onnx"
    x, present = export.noise(FRAMES, JOINTS, CPU)
    assert export.to_onnx(both, torch.tensor([0.75, 0.25]), 2.0, (x, present), path, {}) < 1e-4
    session = onnxruntime.InferenceSession(path.read_bytes())
    (probability,) = session.run(["probability"], {"x": x.numpy(), "present": present.numpy()})
    with torch.no_grad():
        first, second = (made(x, present).log_softmax(1) for made in both)
    expected = ((0.75 * first + 0.25 * second) / 2.0).softmax(1)
    torch.testing.assert_close(torch.from_numpy(probability), expected, rtol=1e-3, atol=1e-4)


def test_a_file_that_differs_is_not_written(tmp_path: Path) -> None:
    """Negative control: with a tolerance of zero the same export is rejected, and no file is left."""
    exporter()
    with pytest.raises(export.ExportDiffers, match="was not written"):
        export.to_onnx(
            [network()],
            torch.ones(1),
            1.0,
            export.noise(FRAMES, JOINTS, CPU),
            tmp_path / "net.onnx",
            {},
            tolerance=-1.0,
        )
    assert list(tmp_path.iterdir()) == []


def test_an_answer_that_is_not_a_number_is_not_written(tmp_path: Path) -> None:
    """A difference of NaN is not below any tolerance."""
    exporter()
    broken = network()
    with torch.no_grad():
        list(broken.parameters())[-1].fill_(float("nan"))
    with pytest.raises(export.ExportDiffers, match="differ from torch's by nan"):
        export.to_onnx([broken], torch.ones(1), 1.0, export.noise(FRAMES, JOINTS, CPU), tmp_path / "net.onnx", {})
    assert list(tmp_path.iterdir()) == []


def test_the_clips_to_try_an_export_on_hold_every_case() -> None:
    """A lone first body, two bodies, a lone second one; rows of absent bodies are zero."""
    x, present = export.noise(FRAMES, JOINTS, CPU)
    assert present.any(2).tolist() == [[True, False], [True, True], [False, True]]
    assert (x[0, ..., 1] == 0).all()
    assert (x[2, ..., 0] == 0).all()
    assert (x[1] != 0).all()
