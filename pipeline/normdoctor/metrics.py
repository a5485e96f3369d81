"""METRICS: name -> record of a score per sample, higher being better, chosen by name or by what fits the output.

Outputs may be tensors, or mappings, dataclasses and sequences that hold one (`prediction`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

# Entries of an output that hold the prediction, in order of preference.
PREDICTIONS = ("logits", "out", "prediction", "predictions", "pred", "preds", "output", "outputs", "scores")
# Overlap from which a predicted box counts as found, and the confidence from which it counts.
BOX_OVERLAP, BOX_CONFIDENCE = 0.5, 0.5


@dataclass(frozen=True)
class NamedMetric:
    """A metric: score of each sample (N,) from a prediction and a label, and whether a pair of them fits it."""

    score: Callable[[Any, Any], Tensor]
    fits: Callable[[Any, Any], bool]
    text: str


def prediction(output: Any) -> Any:
    """Return the part of a model's output that is its prediction: the tensor of logits in a mapping or a tuple."""
    if isinstance(output, Tensor):
        return output
    if dataclasses.is_dataclass(output) and not isinstance(output, type | Mapping):
        output = {field.name: getattr(output, field.name) for field in dataclasses.fields(output)}
    if isinstance(output, Mapping):
        named = [output[name] for name in PREDICTIONS if isinstance(output.get(name), Tensor)]
        return next(iter(named), None) if named else _first(output.values(), output)
    if isinstance(output, list | tuple) and not any(isinstance(part, Mapping) for part in output):
        return _first(output, output)
    return output


def _first(parts: Any, otherwise: Any) -> Any:
    """Return the first tensor that is not a single number, as a loss is."""
    return next((x for x in parts if isinstance(x, Tensor) and x.is_floating_point() and x.dim()), otherwise)


def class_axis(shape: tuple[int, ...], label_shape: tuple[int, ...]) -> int | None:
    """Return the axis of the classes in scores of a shape, given labels of another; None where they do not fit."""
    if len(shape) < 2 or not label_shape:
        return None
    if label_shape == shape[:1] + shape[2:]:
        return 1
    return len(shape) - 1 if label_shape == shape[:-1] else None


def classes_of(label: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return labels as classes: without an axis of length 1, and from one-hot or soft labels of the scores' shape."""
    if tuple(label.shape) == shape and len(shape) == 2 and shape[1] > 1:
        return label.argmax(1)
    if label.dim() == len(shape) and label.dim() > 1 and label.shape[1] == 1:
        return label.squeeze(1)
    return label


def fits_classes(scores: Any, label: Any) -> bool:
    """Return whether a label holds classes of scores (N, K, ...), (N, ..., K), or of one logit (N,) or (N, 1)."""
    if not _are_tensors(scores, label) or not scores.is_floating_point() or not label.numel():
        return False
    shape = tuple(scores.shape)
    if _is_one_logit(scores) and label.numel() == len(scores):
        return not _has_fractions(label) and bool(((label == 0) | (label == 1)).all())
    if tuple(label.shape) == shape and len(shape) == 2:
        return bool((label >= 0).all()) and bool(((label.double().sum(1) - 1).abs() < 1e-4).all())
    classes = classes_of(label, shape)
    axis = class_axis(shape, tuple(classes.shape))
    if axis is None or _has_fractions(classes):
        return False
    counted = classes[(classes >= 0) & (classes != 255)]
    return not counted.numel() or int(counted.max()) < shape[axis]


def accuracy(scores: Tensor, label: Tensor) -> Tensor:
    """Share of right first choices of each sample; labels below 0, or 255 where it is not a class, do not count."""
    label = label.to(scores.device)
    if _is_one_logit(scores):
        limit = 0.5 if bool(((scores >= 0) & (scores <= 1)).all()) else 0.0
        return ((scores.flatten() > limit) == (label.flatten() > 0.5)).float()
    classes = classes_of(label, tuple(scores.shape))
    axis = class_axis(tuple(scores.shape), tuple(classes.shape))
    assert axis is not None
    counts = (classes >= 0) & ((classes != 255) | (scores.shape[axis] > 255))
    right = (scores.argmax(axis) == classes) & counts
    return _mean(right, counts)


def cross_entropy(scores: Tensor, label: Tensor) -> Tensor:
    """Minus the cross-entropy of each sample."""
    classes = classes_of(label.to(scores.device), tuple(scores.shape)).long()
    axis = class_axis(tuple(scores.shape), tuple(classes.shape))
    assert axis is not None
    log_p = scores.log_softmax(axis).movedim(axis, -1)
    counts = (classes >= 0) & (classes < log_p.shape[-1])
    chosen = log_p.gather(-1, torch.where(counts, classes, 0).unsqueeze(-1)).squeeze(-1)
    return _mean(chosen * counts, counts)


def fits_labels(scores: Any, label: Any) -> bool:
    """Return whether a label marks for each of several classes whether a sample is of it, (N, K)."""
    if not _are_tensors(scores, label) or scores.shape != label.shape or scores.dim() != 2 or scores.shape[1] < 2:
        return False
    return bool(((label == 0) | (label == 1)).all())


def label_accuracy(scores: Tensor, label: Tensor) -> Tensor:
    """Share of the classes of each sample that are rightly present or absent."""
    limit = 0.5 if bool(((scores >= 0) & (scores <= 1)).all()) else 0.0
    return ((scores > limit) == (label.to(scores.device) > 0.5)).float().mean(1)


def fits_values(values: Any, label: Any) -> bool:
    """Return whether a label holds as many values as the output."""
    return _are_tensors(values, label) and values.numel() == label.numel() and len(values) == len(label)


def squared(values: Tensor, label: Tensor) -> Tensor:
    """Minus the mean squared error of each sample."""
    return -(values.flatten(1) if values.dim() > 1 else values[:, None]).sub(_like(label, values)).square().mean(1)


def absolute(values: Tensor, label: Tensor) -> Tensor:
    """Minus the mean absolute error of each sample."""
    return -(values.flatten(1) if values.dim() > 1 else values[:, None]).sub(_like(label, values)).abs().mean(1)


def iou(scores: Tensor, label: Tensor) -> Tensor:
    """Intersection over union of each sample, mean over the classes that occur in the label or the prediction."""
    inter, predicted, real = _overlaps(scores, label)
    union = predicted + real - inter
    return _mean(inter / union.clamp(min=1), union > 0)


def dice(scores: Tensor, label: Tensor) -> Tensor:
    """Dice coefficient of each sample, mean over the classes that occur in the label or the prediction."""
    inter, predicted, real = _overlaps(scores, label)
    return _mean(2 * inter / (predicted + real).clamp(min=1), predicted + real > 0)


def fits_masks(scores: Any, label: Any) -> bool:
    """Return whether a label holds a class, or 0 and 1, for each place of the scores."""
    if not _are_tensors(scores, label) or scores.dim() < 3:
        return False
    if scores.shape[1] == 1 or tuple(scores.shape) == tuple(label.shape):
        return scores.numel() == label.numel() and bool(((label == 0) | (label == 1)).all())
    return fits_classes(scores, label)


def _overlaps(scores: Tensor, label: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the places of each sample and class (N, K) in both, in the prediction, and in the label."""
    label = label.to(scores.device)
    if scores.numel() == label.numel():
        limit = 0.5 if bool(((scores >= 0) & (scores <= 1)).all()) else 0.0
        own = scores.shape[1] if scores.dim() > 3 and scores.shape[1] > 1 else 1
        predicted_NKP = (scores > limit).reshape(len(scores), own, -1)
        real_NKP = (label > 0.5).reshape(len(scores), own, -1)
    else:
        classes = classes_of(label, tuple(scores.shape)).long()
        axis = class_axis(tuple(scores.shape), tuple(classes.shape))
        assert axis is not None
        every = torch.arange(scores.shape[axis], device=scores.device)[None, :, None]
        counts = ((classes >= 0) & (classes < scores.shape[axis])).flatten(1)[:, None]
        predicted_NKP = (scores.argmax(axis).flatten(1)[:, None] == every) & counts
        real_NKP = (classes.flatten(1)[:, None] == every) & counts
    both = (predicted_NKP & real_NKP).sum(-1).float()
    return both, predicted_NKP.sum(-1).float(), real_NKP.sum(-1).float()


def fits_boxes(found: Any, label: Any) -> bool:
    """Return whether both are lists of mappings with boxes, one per picture."""
    return all(
        isinstance(each, list | tuple) and each and all(isinstance(one, Mapping) and "boxes" in one for one in each)
        for each in (found, label)
    )


def detection(found: Any, label: Any) -> Tensor:
    """F1 of the boxes (x0, y0, x1, y1) of each picture: right class, overlap and confidence of one half at least."""
    return torch.tensor([_box_f1(one, other) for one, other in zip(found, label, strict=True)])


def _box_f1(found: Mapping[str, Tensor], real: Mapping[str, Tensor]) -> float:
    boxes, truth = found["boxes"].float().cpu(), real["boxes"].float().cpu()
    scores = found["scores"].cpu() if "scores" in found else torch.ones(len(boxes))
    order = [i for i in scores.argsort(descending=True).tolist() if scores[i] >= BOX_CONFIDENCE]
    if not order or not len(truth):
        return float(len(order) == len(truth))
    overlap = _overlap(boxes, truth)
    if "labels" in found and "labels" in real:
        overlap = overlap * (found["labels"].cpu()[:, None] == real["labels"].cpu()[None])
    right = 0
    for i in order:
        best, j = overlap[i].max(0)
        if best >= BOX_OVERLAP:
            right += 1
            overlap[:, j] = 0
    return 2 * right / (len(order) + len(truth))


def _overlap(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of boxes a (A, 4) and b (B, 4), (A, B)."""
    low, high = torch.maximum(a[:, None, :2], b[None, :, :2]), torch.minimum(a[:, None, 2:], b[None, :, 2:])
    inter = (high - low).clamp(min=0).prod(-1)
    areas = [(box[:, 2:] - box[:, :2]).clamp(min=0).prod(-1) for box in (a, b)]
    return inter / (areas[0][:, None] + areas[1][None] - inter).clamp(min=1e-9)


def _mean(values: Tensor, counts: Tensor) -> Tensor:
    """Mean over all axes but the first of what counts; 0 where nothing does."""
    values, counts = values.float().reshape(len(values), -1), counts.float().reshape(len(counts), -1)
    return (values * counts).sum(1) / counts.sum(1).clamp(min=1)


def _like(label: Tensor, values: Tensor) -> Tensor:
    return label.to(values).reshape(len(values), -1)


def _are_tensors(*values: Any) -> bool:
    return all(isinstance(value, Tensor) and value.dim() for value in values) and len(values[0]) == len(values[1])


def _is_one_logit(scores: Tensor) -> bool:
    return scores.numel() == len(scores)


def _has_fractions(label: Tensor) -> bool:
    return label.is_floating_point() and bool((label != label.round()).any())


# In order of preference where no name was given: the first that fits.
METRICS: dict[str, NamedMetric] = {
    "accuracy": NamedMetric(accuracy, fits_classes, "share of right first choices"),
    "segmentation accuracy": NamedMetric(accuracy, fits_classes, "share of places with the right class"),
    "label accuracy": NamedMetric(label_accuracy, fits_labels, "share of right yes or no, several labels per sample"),
    "iou": NamedMetric(iou, fits_masks, "intersection over union, mean over classes"),
    "dice": NamedMetric(dice, fits_masks, "Dice coefficient, mean over classes"),
    "detection": NamedMetric(detection, fits_boxes, "F1 of boxes at an overlap of 0.5"),
    "mse": NamedMetric(squared, fits_values, "minus the mean squared error"),
    "mae": NamedMetric(absolute, fits_values, "minus the mean absolute error"),
    "cross entropy": NamedMetric(cross_entropy, fits_classes, "minus the cross-entropy"),
}
