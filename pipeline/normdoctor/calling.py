"""Find out how a model takes a batch, which part of it is the label, and which metric fits; say what was assumed."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .batches import LABELS, device_of, leaves, moved, named_leaves
from .metrics import METRICS, NamedMetric, fits_values, prediction
from .samples import Samples
from .sites import buffers_kept, modes_kept, statistics
from .sources import batch_statistics

Forward = Callable[[nn.Module, Any], Any]  # model, batch -> output
# output, batch -> score of each sample (N,), or one score of the batch; higher is better.
Metric = Callable[[Any, Any], Tensor]

# Names of inputs, in order of preference.
INPUTS = ("input_ids", "pixel_values", "image", "images", "img", "input", "inputs", "x", "data", "features", "A")
# Samples that a label must fit.
TRIAL_SAMPLES = 256


class Usage(NamedTuple):
    """Functions that run and score a model, and the assumptions behind them in short sentences."""

    forward: Forward
    metric: Metric
    assumed: list[str]
    is_ready_made: bool = False
    """True if the metric is one of METRICS."""


@dataclass(frozen=True)
class Call:
    """One way to call a model on a batch."""

    text: str
    run: Forward
    used: tuple[str, ...]


def usage(model: nn.Module, samples: Samples, forward: Forward | None, metric: Metric | str | None) -> Usage:
    """Return how to run and score a model; what is None is found by trial.

    Args:
        model: A copy of the model; its buffers and mode stay as they are.
        samples: Training samples.
        forward: As given by the user.
        metric: As given by the user; a name in METRICS.

    Raises:
        ValueError: The metric has no such name, no call works, or no part of the batch fits the output as a label.
    """
    if isinstance(metric, str) and metric not in METRICS:
        raise ValueError(f"metric {metric!r} is unknown: choose one of {', '.join(METRICS)}, or pass a function")
    if forward is not None and callable(metric):
        return Usage(forward, metric, [])
    device = device_of(model)
    batches = [moved(batch, device) for _, batch in _first(samples)]
    assumed = []
    used: tuple[str, ...] = ()
    if forward is None:
        call = working_call(model, batches[0])
        forward, used = call.run, call.used
        assumed.append(f"the model is called as {call.text}")
    is_ready_made = not callable(metric)
    if not callable(metric):
        name, path = _label(model, batches, forward, used, metric)
        assumed.append(f"the label is {_shown(batches[0], path)}")
        assumed.append(f"the metric is {name} ({METRICS[name].text})")
        metric = _ByName(METRICS[name], path)
    if device is not None and any(leaf.device != device for _, batch in _first(samples, 1) for leaf in _tensors(batch)):
        assumed.append(f"batches are moved to {device}")
    return Usage(forward, metric, assumed, is_ready_made)


def _first(samples: Samples, count: int = TRIAL_SAMPLES) -> list[tuple[Tensor, Any]]:
    found: list[tuple[Tensor, Any]] = []
    for positions, batch in samples.batches():
        if sum(len(seen) for seen, _ in found) >= count:
            break
        found.append((positions, batch))
    return found


def _tensors(batch: Any) -> list[Tensor]:
    return [leaf for leaf in leaves(batch) if isinstance(leaf, Tensor)]


@dataclass(frozen=True)
class _ByName:
    """A named metric with the path of its label in a batch."""

    metric: NamedMetric
    path: str

    def __call__(self, output: Any, batch: Any) -> Tensor:
        found, label = prediction(output), _leaf(batch, self.path)
        if not self.metric.fits(found, label):
            raise ValueError(f"the output {described(found)} does not fit the label {described(label)}")
        return self.metric.score(found, label)


def _leaf(batch: Any, path: str) -> Any:
    leaf = next(leaf for name, leaf in named_leaves(batch) if name == path)
    holds_objects = isinstance(leaf, list | tuple) and not all(isinstance(one, int | float) for one in leaf)
    return leaf if isinstance(leaf, Tensor) or holds_objects else torch.as_tensor(leaf)


def working_call(model: nn.Module, batch: Any) -> Call:
    """Return the first way to call the model on a batch that works."""
    tried = []
    for call in _calls(model, batch):
        try:
            output = quietly(model, partial(call.run, model, batch))
        except Exception as error:  # noqa: BLE001 - any failure of a model that is not ours
            tried.append(f"{call.text}: {type(error).__name__}: {first_line(error)}")
            continue
        if prediction(output) is not None:
            return call
        tried.append(f"{call.text} gives {described(output)}")
    raise ValueError(
        f"no call of the model works on a batch of {described(batch)} ({'; '.join(tried[:3])}): pass forward=lambda "
        "model, batch: ..."
    )


def quietly(model: nn.Module, forward: Callable[[], Any]) -> Any:
    """Run a forward pass in eval mode that leaves no trace."""
    with modes_kept(model), torch.no_grad(), buffers_kept(model), torch.random.fork_rng():
        model.eval()
        return forward()


def _calls(model: nn.Module, batch: Any) -> Iterator[Call]:
    """Yield ways to call a model on a batch, the likeliest first."""
    parameters = [
        p for p in inspect.signature(model.forward).parameters.values() if p.kind in (p.POSITIONAL_OR_KEYWORD,)
    ]
    required = [p.name for p in parameters if p.default is p.empty]
    if isinstance(batch, list | tuple) and not hasattr(batch, "_fields"):
        yield from _calls_of_sequence(batch, len(required))
    elif not isinstance(batch, Tensor):
        yield from _calls_of_names(batch, [p.name for p in parameters], required)
    yield Call("model(batch)", lambda model, batch: model(batch), ())


def _calls_of_sequence(batch: Any, required: int) -> Iterator[Call]:
    first = batch[0]
    if required > 1:
        if isinstance(first, list | tuple) and len(first) >= required:
            yield Call("model(*batch[0])", lambda model, batch: model(*batch[0]), ("0",))
        if len(batch) >= required:
            text = ", ".join(f"batch[{i}]" for i in range(required))
            yield Call(f"model({text})", lambda model, batch: model(*batch[:required]), _keys(range(required)))
    yield Call("model(batch[0])", lambda model, batch: model(batch[0]), ("0",))
    if isinstance(first, list | tuple):
        yield Call("model(*batch[0])", lambda model, batch: model(*batch[0]), ("0",))
    if isinstance(first, Mapping):
        yield Call("model(**batch[0])", lambda model, batch: model(**batch[0]), ("0",))
    for i in range(1, len(batch)):
        if isinstance(batch[i], Tensor) and batch[i].dim() > 1:
            yield Call(f"model(batch[{i}])", partial(_on_part, i), (str(i),))


def _calls_of_names(batch: Any, parameters: list[str], required: list[str]) -> Iterator[Call]:
    parts = _parts(batch)
    if set(required) <= set(parts) and parts.keys() & set(parameters):
        given = [name for name in parameters if name in parts and (name in required or name not in LABELS)]
        text = ", ".join(f"{name}={_access(batch, name)}" for name in given)
        yield Call(f"model({text})", partial(_on_names, given), _keys(given))
    if not isinstance(batch, Mapping):
        yield Call("model(batch)", lambda model, batch: model(batch), ())
    tensors = {name: part for name, part in parts.items() if isinstance(part, Tensor | list) and name not in LABELS}
    order = [name for name in INPUTS if name in tensors]
    order += [name for name, part in tensors.items() if name not in order and _is_input(part)]
    if len(required) > 1:
        yield Call(
            f"model({', '.join(_access(batch, name) for name in order[: len(required)])})",
            partial(_on_parts, order[: len(required)]),
            _keys(order[: len(required)]),
        )
    for name in order:
        yield Call(f"model({_access(batch, name)})", partial(_on_part, name), (str(name),))


def _is_input(part: Any) -> bool:
    return isinstance(part, Tensor) and part.dim() > 1


def _keys(names: Any) -> tuple[str, ...]:
    return tuple(str(name) for name in names)


def _parts(batch: Any) -> dict[str, Any]:
    """Return the named parts of a mapping, or of an object by its attributes."""
    if isinstance(batch, Mapping):
        return dict(batch)
    if hasattr(batch, "_fields"):
        return {name: getattr(batch, name) for name in batch._fields}
    if dataclasses.is_dataclass(batch):
        return {field.name: getattr(batch, field.name) for field in dataclasses.fields(batch)}
    inside = batch.to_dict() if callable(getattr(batch, "to_dict", None)) else getattr(batch, "__dict__", {})
    return dict(inside)


def _on_part(key: Any, model: nn.Module, batch: Any) -> Any:
    return model(batch[key] if isinstance(batch, Mapping | list | tuple) and not hasattr(batch, "_fields")
                 else getattr(batch, key))  # fmt: skip


def _on_parts(names: list[str], model: nn.Module, batch: Any) -> Any:
    parts = _parts(batch)
    return model(*(parts[name] for name in names))


def _on_names(names: list[str], model: nn.Module, batch: Any) -> Any:
    parts = _parts(batch)
    return model(**{name: parts[name] for name in names})


def _label(
    model: nn.Module, batches: list[Any], forward: Forward, used: tuple[str, ...], wanted: str | None
) -> tuple[str, str]:
    """Return the metric and the path of the label, of all that fit the output the one that scores best.

    Integers are taken for values only where a metric of values is asked for.
    """
    outputs = [prediction(quietly(model, partial(_called, forward, model, batch))) for batch in batches]
    paths = [path for path, leaf in named_leaves(batches[0]) if isinstance(leaf, Tensor | list | tuple)]
    others = [path for path in paths if path.split(".")[0] not in used] or paths
    others.sort(key=lambda path: LABELS.index(path) if path in LABELS else len(LABELS))
    for name in [wanted] if wanted else METRICS:
        metric = METRICS[name]
        pairs = list(zip(outputs, batches, strict=True))
        fitting = [path for path in others if all(_fits(metric, *pair, path) for pair in pairs)]
        if wanted is None and metric.fits is fits_values:
            fitting = [path for path in fitting if _leaf(batches[0], path).is_floating_point()]
        if not fitting:
            continue
        if fitting[0] in LABELS or len(fitting) == 1:
            return name, fitting[0]
        with torch.no_grad(), buffers_kept(model), statistics(model, batch_statistics):
            found = [prediction(quietly(model, partial(_called, forward, model, batch))) for batch in batches]
        means = {path: _mean_score(metric, found, batches, path) for path in fitting}
        return name, max(means, key=lambda path: means[path])
    shown = ", ".join(f"{_shown(batches[0], path)} {described(_leaf(batches[0], path))}" for path in others[:4])
    raise ValueError(
        f"the model gives {described(outputs[0])}, and no label fits that: {shown}. Pass metric=lambda output, batch: "
        f"..., a score per sample, higher being better, or a name ({', '.join(METRICS)})"
    )


def _called(forward: Forward, model: nn.Module, batch: Any) -> Any:
    try:
        return forward(model, batch)
    except Exception as error:
        raise ValueError(failed("forward", error, batch)) from error


def _fits(metric: NamedMetric, output: Any, batch: Any, path: str) -> bool:
    try:
        return metric.fits(output, _leaf(batch, path))
    except (RuntimeError, ValueError, TypeError, IndexError, StopIteration):
        return False


def _mean_score(metric: NamedMetric, outputs: list[Any], batches: list[Any], path: str) -> float:
    scores = [metric.score(output, _leaf(batch, path)) for output, batch in zip(outputs, batches, strict=True)]
    return torch.cat(scores).double().mean().item()


def failed(argument: str, error: Exception, batch: Any) -> str:
    """Return one line about an error in a function of the user."""
    return (
        f"{argument} fails on a batch of {described(batch)} with {type(error).__name__}: {first_line(error)}. Check "
        f"{argument}=, which takes {'(model, batch)' if argument == 'forward' else '(output, batch)'}"
    )


def first_line(error: Exception) -> str:
    """Return the first line of an error's text, shortened."""
    return (str(error).strip().splitlines() or [""])[0][:160]


def described(value: Any) -> str:
    """Return type and shapes of a batch or an output in a few words."""
    if isinstance(value, Tensor):
        return f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}"
    found = [f"{path} {tuple(leaf.shape)}" for path, leaf in named_leaves(value) if isinstance(leaf, Tensor)]
    kind = type(value).__name__
    return f"{kind} ({', '.join(found[:6])})" if found else kind


def _shown(batch: Any, path: str) -> str:
    """Return a path as one would write it."""
    first, *rest = path.split(".")
    text = _access(batch, int(first) if first.isdigit() else first) if path else "batch"
    return text + "".join(f"[{key}]" if key.isdigit() else f"[{key!r}]" for key in rest)


def _access(batch: Any, key: Any) -> str:
    if isinstance(batch, Mapping) or isinstance(key, int):
        return f"batch[{key!r}]"
    return f"batch.{key}"
