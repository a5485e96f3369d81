"""evidence: whose rows are counted, and that a pass stops where nothing more is to be seen."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipeline.data.clips import Batch, Clips
from pipeline.doctor.patient import correct, forward, rows
from pipeline.models import ModelConfig, build_model
from pipeline.normdoctor.bench import Bench
from pipeline.normdoctor.collector import Collector
from pipeline.normdoctor.layers import Layer
from pipeline.normdoctor.measure import _changed_buffers, first_input, gather
from pipeline.normdoctor.moments import Moments, mean_shift
from pipeline.normdoctor.reproduce import after_lone
from pipeline.normdoctor.samples import take
from pipeline.norms import NormConfig
from preprocessing.hdf5 import open_file

FRAMES = 16


@pytest.fixture(scope="module")
def clips(data_file: Path) -> Clips:
    """All clips on the CPU."""
    return Clips(open_file(data_file), torch.device("cpu"))


def bench(clips: Clips, **norm: Any) -> tuple[Bench, list[Batch]]:
    """A fresh network on uneven batches."""
    torch.manual_seed(0)
    model = build_model(ModelConfig(), NormConfig(**norm), FRAMES, clips.joints, clips.classes).eval()
    batches = [clips.batch(index_N, FRAMES) for index_N in torch.arange(60).split([13, 7, 25, 15])]
    return Bench(model, take(batches), None, forward, correct), batches


@pytest.mark.parametrize(("persons", "norm_input"), [("loop", "mvc"), ("fold", "vc"), ("per_person", "mvc")])
def test_absent_bodies_are_counted_apart(clips: Clips, persons: str, norm_input: str) -> None:
    """Each call, slot and layer by its own real bodies: the first norm sees just as many rows as there are bodies."""
    patient, batches = bench(clips, persons=persons, input=norm_input)
    collector = Collector(patient.model, rows)
    patient.run(((torch.arange(len(batch.label_N)), batch) for batch in batches), collector)
    bodies = sum(batch.present_NMT.any(-1).sum(0) for batch in batches)
    assert isinstance(bodies, Tensor)
    assert bodies[1] < bodies[0]
    real, every = collector.seen.real, collector.seen.population
    counted = [moments.count / (FRAMES * clips.joints) for (name, _), moments in real.items() if "norms.0." in name]
    assert counted == (bodies.tolist() if persons != "fold" else [bodies.sum().item()])
    frames = [moments.count / FRAMES for (name, _), moments in real.items() if name.startswith("input_norm")]
    assert frames == (bodies.tolist() if norm_input == "mvc" else [bodies.sum().item()])
    assert sum(m.count for (name, _), m in every.items() if "norms.0." in name) == 120 * FRAMES * clips.joints


def test_the_first_layers_input_is_had_without_the_rest_of_the_network(clips: Clips) -> None:
    """The same moments as a whole pass sees there; layers behind it are not run."""
    patient, batches = bench(clips, persons="loop")
    seen = Collector(patient.model)
    patient.run(patient.train.batches(), seen)
    reached: list[nn.Module] = []
    patient.model.get_submodule("classify").register_forward_hook(lambda layer, *_: reached.append(layer))
    site, moments = first_input(patient, patient.train.batches())
    assert site == ("norms.0.0", 0)
    assert not reached
    assert moments.count == seen.seen.population[site].count
    assert mean_shift(moments, seen.seen.population[site]) < 1e-9
    patient.run(patient.train.batches(), None)
    assert reached  # the hook would have seen it


class Negating(nn.Module):
    """Changes the sign of its input in training mode."""

    def forward(self, x: Tensor) -> Tensor:
        """Return -x or x."""
        return -x if self.training else x


class Stuck(nn.BatchNorm1d):
    """`eval()` leaves it in training mode."""

    def train(self, mode: bool = True) -> "Stuck":  # noqa: ARG002
        """Stay in training mode."""
        return super().train(True)


class Counting(nn.BatchNorm1d):
    """Counts batches in eval mode too."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalize x (B, C)."""
        self.num_batches_tracked += 1  # type: ignore[operator]
        return super().forward(x)


@pytest.mark.parametrize(
    ("layer", "training", "found"),
    [
        (nn.BatchNorm1d, False, None),
        (nn.BatchNorm1d, True, 0.0),
        (Stuck, False, 1.0),
        (Stuck, True, 0.0),
        (Counting, False, 1.0),
    ],
)
def test_a_model_is_scored_as_found_where_it_is_no_function_of_the_sample(
    layer: type[nn.BatchNorm1d], training: bool, found: float | None
) -> None:
    """By sign all are right in eval mode, and none in training mode."""
    x = torch.arange(-5.5, 6.0)[:, None]
    model = nn.Sequential(layer(1), Negating()).train(training)
    forward, metric = lambda net, b: net(b[0]), lambda output, b: ((output > 0) == (b[0] > 0))[:, 0]
    _, evidence = gather(model, [(x, x)], [(x, x)], forward, metric, None)
    assert evidence.mean("A") == evidence.mean("C") == 1.0
    scores = [evidence.mean(name) if name in evidence.score else None for name in ("found_A", "found_C")]
    assert scores == [found, found]


class Image(nn.Module):
    """A batch norm over planes, and one after pooling: torch rejects a single sample there in training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.planes, self.pooled, self.out = nn.BatchNorm2d(2), nn.BatchNorm1d(2), nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, 2) of x (N, 2, H, W)."""
        return self.out(self.pooled(self.planes(x).mean((2, 3))))


def pictures(size: int) -> list[tuple[Tensor, Tensor]]:
    """24 pictures and one left over."""
    x = torch.randn(25, 2, 3, 3, generator=torch.Generator().manual_seed(0))
    return list(zip(x.split(size), torch.zeros(25, dtype=torch.long).split(size), strict=True))


def test_training_mode_that_fails_is_measured_in_eval_mode() -> None:
    """Evaluation batches of one: the error is evidence. In eval mode there is none."""
    for training in (True, False):
        model = Image().train(training)
        _, evidence = gather(model, pictures(8), pictures(1))
        assert evidence.failure.startswith("Expected more than 1 value per channel") is training
        assert {"A", "C"} <= set(evidence.score)
        assert "found_C" not in evidence.score
        assert evidence.rejects_one == "pooled"
    assert gather(Image().eval(), pictures(5), None)[1].rejects_one == ""


class Detector(Image):
    """In training mode it asks for labels and returns losses, as torchvision's detectors do."""

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Any:
        """Return losses or scores."""
        scores = super().forward(x)
        return {"loss": nn.functional.cross_entropy(scores, labels)} if self.training else scores  # type: ignore[arg-type]


def test_a_model_that_fails_in_training_mode_alone_is_measured_in_eval_mode() -> None:
    """The error is evidence there; in eval mode it would be the user's."""
    assert "forward fails on a batch" in gather(Detector().train(), pictures(8), pictures(8))[1].failure
    assert gather(Detector().eval(), pictures(8), pictures(8))[1].failure == ""


def test_statistics_after_a_batch_of_one_are_updated_once_where_torch_accepts_it() -> None:
    """At momentum 0.5 half-way to the statistics of the sample; the pooled layer stays."""
    model = Image().eval()
    layers = {
        name: Layer.of(module)
        for name, module in (("planes", nn.BatchNorm2d(1, momentum=0.5)), ("pooled", nn.BatchNorm1d(1)))
    }
    whole = Moments(torch.zeros(1), torch.ones(1), 100.0)
    single = {
        ("planes", 0): Moments(torch.tensor([4.0]), torch.tensor([8.0]), 9.0),
        ("pooled", 0): Moments(torch.ones(1), torch.zeros(1), 1.0),
    }
    source = after_lone(layers, {("planes", 0): whole, ("pooled", 0): whole}, single)
    assert source(("planes", 0), torch.zeros(1)) == (torch.tensor([2.0]), torch.tensor([5.0]))
    assert source(("pooled", 0), torch.zeros(1)) == (torch.zeros(1), torch.ones(1))
    for size, lone in ((8, True), (5, False)):
        _, evidence = gather(model, pictures(size), None)
        assert ("lone" in evidence.score) is lone


class Drifting(nn.Module):
    """Its buffer changes in each pass, in eval mode too."""

    def __init__(self, by: float) -> None:
        super().__init__()
        self.by = by
        self.register_buffer("scale", torch.ones(3))

    def forward(self, x: Tensor) -> Tensor:
        """Return x."""
        self.scale += self.by
        return x


@pytest.mark.parametrize(("by", "expected"), [(2e-7, []), (1e-4, ["scale"])])
def test_a_buffer_that_changes_by_rounding_has_not_changed(by: float, expected: list[str]) -> None:
    """Instance norms of torch 2.4 write their running statistics back in eval mode."""
    model = Drifting(by).eval()
    patient = Bench(model, take([torch.randn(8, 3), torch.randn(8, 3)]), None, lambda m, x: m(x), lambda y, x: y[:, 0])
    assert _changed_buffers(patient) == expected
    assert torch.equal(model.scale, torch.ones(3))
