"""Monitor as a callback of Hugging Face's Trainer: `Trainer(..., callbacks=[MonitorCallback()])`."""

from __future__ import annotations

from typing import Any

from .monitor import Measurement, Monitor

try:
    from transformers import TrainerCallback
except ImportError:
    raise ImportError("transformers is missing: pip install transformers accelerate") from None

# Argument of models that is about the loss, and no input.
OF_THE_LOSS = "num_items_in_batch"


class MonitorCallback(TrainerCallback):
    """Watch the normalization of a model while Hugging Face's Trainer trains it.

    The Trainer hands no batch to its callbacks: a hook on the model remembers the arguments of its latest call. Labels
    must be among them, which they are unless `label_smoothing_factor` or `compute_loss_func` is set; then nothing can
    be scored, and the monitor says so. With gradient accumulation the last micro-batch of a step is looked at.

    Args:
        **options: Those of `Monitor`; a batch is the dict of the model's arguments.

    Attributes:
        monitor: The monitor, from the start of the training on.
        latest: The latest measurement.
    """

    def __init__(self, **options: Any) -> None:
        self.options = options
        self.monitor: Monitor | None = None
        self.latest: Measurement | None = None
        self._batch: dict[str, Any] | None = None
        self._hook: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, *, model: Any, **_: Any) -> None:
        """Begin to watch."""
        self.on_train_end(args, state, control)
        self.monitor = Monitor(model, **self.options)
        self._hook = model.register_forward_pre_hook(self._remember, with_kwargs=True)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Count an optimizer step."""
        if self.monitor is not None and self._batch is not None:
            self.latest = self.monitor.step(self._batch) or self.latest
            self._batch = None

    def on_prediction_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Keep the first evaluation batches."""
        if self.monitor is not None and self._batch is not None:
            self.monitor.add_eval(self._batch)
            self._batch = None

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Remove the hook."""
        if self._hook is not None:
            self._hook.remove()
        self._hook = self._batch = None

    def _remember(self, model: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        self._batch = {name: value for name, value in named.items() if name != OF_THE_LOSS and value is not None}
