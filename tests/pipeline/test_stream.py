"""stream.py: answers while frames arrive."""

from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline import predict
from pipeline.timeline import NONE
from preprocessing.hdf5 import open_file


def test_a_stream_answers_at_each_stride_as_predict_does(runs: Path, data_file: Path) -> None:
    """Every tenth frame; without smoothing the last answer is that of the last frames as a clip."""
    predictor, file = predict.load(runs / "bn-masked", torch.device("cpu")), open_file(data_file)
    rows = np.asarray(file.joints_RV3[: int(file.clips["frames"][0])])
    frames = np.concatenate([rows, rows, rows])[:40]
    stream = predictor.stream(window=0.5, stride=1 / 3, smooth=0.0)
    moments = [stream.push(frame) for frame in frames]
    assert [place for place, moment in enumerate(moments) if moment is not None] == [9, 19, 29, 39]
    last = moments[39]
    assert last is not None
    answer = predictor(frames[-15:])
    assert last.label == answer.classes[0]
    assert last.probability == pytest.approx(answer.probabilities[0], abs=1e-6)
    assert last.seconds == pytest.approx(40 / 30)
    smooth = predictor.stream(window=0.5, stride=1 / 3)
    means = [moment for moment in map(smooth.push, frames) if moment is not None]
    plain = [moment.probabilities for moment in moments if moment is not None]
    np.testing.assert_allclose(means[1].probabilities, (plain[0] + plain[1]) / 2, atol=1e-6)


def test_nobody_is_none_of_the_classes(runs: Path) -> None:
    """Frames of zeros."""
    stream = predict.load(runs / "none", torch.device("cpu")).stream(window=0.5, stride=0.5)
    moments = [stream.push(np.zeros((10, 3))) for _ in range(15)]
    assert moments[-1] is not None
    assert moments[-1].label == NONE


def test_mistakes_are_named(runs: Path) -> None:
    """Another shape, another number of bodies, a stride beyond the window."""
    predictor = predict.load(runs / "none", torch.device("cpu"))
    stream = predictor.stream()
    with pytest.raises(ValueError, match=r"A frame has shape \(9, 3\): must be \(10, 3\)"):
        stream.push(np.zeros((9, 3)))
    stream.push(np.zeros((10, 3)))
    with pytest.raises(ValueError, match="has 2 bodies, the one before 1"):
        stream.push(np.zeros((2, 10, 3)))
    with pytest.raises(ValueError, match="at most the window"):
        predictor.stream(window=0.1, stride=0.5)
