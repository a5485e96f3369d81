"""Repair: build the model that a remedy was proven with, and check it against the proof."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from .batches import device_of, leaves, moved
from .bench import Bench
from .calling import Forward
from .evidence import Evidence
from .forms import Form, Repair, applied, counted, shaped
from .layers import key_of
from .measure import as_given
from .memory import forget
from .remedies import REMEDIES, acting
from .settling import buffers_as
from .sites import Statistics, buffers_kept, statistics

# Mean difference of outputs that is left to rounding, as a share of their deviation.
SAME_OUTPUT = 0.01


@dataclass(frozen=True)
class Patient:
    """Parts of a repaired model that a diagnosis keeps: a copy of the model, the evidence and one batch."""

    model: nn.Module
    evidence: Evidence
    forward: Forward
    batch: Any

    @classmethod
    def of(cls, bench: Bench, evidence: Evidence) -> Patient:
        """Keep what is needed of a bench."""
        _, batch = next(iter(bench.train.batches()))
        return cls(bench.model, evidence, bench.forward, batch)

    def repaired(self, name: str) -> nn.Module:
        """Return a copy of the model with a remedy in it, in eval mode.

        Args:
            name: Name of the remedy in REMEDIES; where a simpler one acts for it (`acting`), that one is built in.

        Raises:
            ValueError: The remedy cannot be built into this model.
        """
        acts = acting(name, self.evidence)
        remedy = REMEDIES[acts or name]
        repair = remedy.repair(self.evidence) if acts else None
        if repair is None:
            raise ValueError(f"the remedy {name!r} does not apply to this model. Choose one of `recalibration`.")
        calls = self._calls(repair.form)
        model = built(self.model, replace(repair, form=calls))
        random = self.evidence.random_in_eval or self.evidence.stuck_modules
        with buffers_as(self.model, repair.buffers):
            same = random or self._same(model, remedy.statistics(self.evidence))
        if not same:
            raise ValueError(
                f"the model with the remedy {name!r} gives other outputs than in its proof: its layers cannot be "
                f"replaced from outside. {remedy.advice.now.capitalize()}."
            )
        return model

    def _calls(self, form: Form) -> Form:
        """Return the form with the way in which its calls are counted."""
        if not form.calls:
            return form
        passes: Counter[str] = Counter()
        handle = self.model.register_forward_pre_hook(lambda *_: passes.update(("root",)))
        try:
            self._output(self.model, None)
        finally:
            handle.remove()
        return counted(form, passes["root"], self.evidence.train.passes)

    def _output(self, model: nn.Module, source: Statistics | None) -> Any:
        with torch.no_grad(), buffers_kept(model), ExitStack() as stack:
            stack.enter_context(torch.random.fork_rng())
            if source is not None:
                stack.enter_context(statistics(model, source, Counter()))
            return self.forward(model, moved(self.batch, device_of(model)))

    def _same(self, model: nn.Module, source: Statistics | None) -> bool:
        """Return whether a model's outputs are those of the kept model under a remedy's statistics."""
        ours, expected = (_floats(self._output(*how)) for how in ((model, None), (self.model, source)))
        if len(ours) != len(expected):
            return False
        return all(_alike(*pair) for pair in zip(ours, expected, strict=True))


def _floats(output: Any) -> list[Tensor]:
    inside = vars(output) if hasattr(output, "__dict__") and not isinstance(output, Tensor) else output
    return [leaf for leaf in leaves(inside) if isinstance(leaf, Tensor) and leaf.is_floating_point()]


def _alike(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape:
        return False
    finite = torch.isfinite(a) & torch.isfinite(b)
    a, b = a[finite].double(), b[finite].double()
    if not len(b):
        return True
    return bool((a - b).abs().mean() <= SAME_OUTPUT * b.std(correction=0).clamp(min=1e-6))


def built(model: nn.Module, repair: Repair) -> nn.Module:
    """Return a copy of a model with a repair in it, in eval mode and free of what the doctor noted on it."""
    new = as_given(copy.deepcopy(model))
    settled(new)
    new = applied(new, repair)
    forget(new)
    return new


def settled(model: nn.Module) -> None:
    """Put every module into eval mode: a method `eval` or `train` of its own may leave some in training mode."""
    for module in model.modules():
        module.training = False


def load_repaired(model: nn.Module, state: Mapping[str, Any]) -> nn.Module:
    """Load the state dict of a repaired model into a fresh model, which takes the repaired one's form.

    Args:
        model: A model built as the one that was diagnosed; changed in place.
        state: State dict of what `Diagnosis.repaired` returned, or of what it became in further training.

    Returns:
        The model in its mode; a new layer where the model itself is one that is replaced.

    Raises:
        ValueError: The model has not the layers of the one that was repaired.
        RuntimeError: Names or shapes differ, as `load_state_dict` reports it.

    Example:
        >>> import torch, normdoctor
        >>> def network():
        ...     return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 2))
        >>> data = [(torch.randn(16, 4) + 3, torch.randint(2, (16,))) for _ in range(4)]
        >>> repaired = normdoctor.diagnose(network().eval(), data).repaired("joint")
        >>> again = normdoctor.load_repaired(network(), repaired.state_dict()).eval()
        >>> bool((again(data[0][0]) == repaired(data[0][0])).all())
        True
    """
    model = shaped(model, Form.of(state))
    for name, layer in model.named_modules():
        for entry, old in list(layer._buffers.items()):
            value = state.get(key_of(name, entry))
            if not isinstance(value, Tensor):
                continue
            if old is None:
                layer._buffers[entry] = value.clone()
                layer.track_running_stats = True  # type: ignore[assignment]
            elif old.is_floating_point() and old.dtype != value.dtype:
                layer.to(value.dtype)
    model.load_state_dict(state)
    return model
