"""TrialSpec: everything that the process of one trial needs to know, as a typed record and as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# Settings that a study decides itself: no arm and no data set may have them.
RESERVED = {"train.seed", "data", "out", "nproc"}


@dataclass(frozen=True)
class TrialSpec:
    """One training: its settings, whether it may read the test split, and what it may use.

    Args:
        settings: Flat settings of `pipeline.config.Config` (`{"norm.kind": "bn"}`), with `data` and without `out`.
        read_test: Evaluate the test split once, at the end.
        re_evaluations: Names in `tuning.re_evaluations.RE_EVALUATIONS`, applied to the trained network.
        threads: Threads per rank.
        memory: Gigabytes that each rank may allocate; 0 means no limit.
        keep: Keep the checkpoints when the training has finished.
    """

    settings: Mapping[str, Any]
    read_test: bool = False
    re_evaluations: tuple[str, ...] = ()
    threads: int = 1
    memory: float = 0.0
    keep: bool = False

    @property
    def ranks(self) -> int:
        """Number of ranks that train together."""
        return int(self.settings.get("nproc", 1))

    def to_json(self) -> dict[str, Any]:
        """Return the spec under the keys of a trial's order.json."""
        return {
            "settings": dict(self.settings),
            "test": self.read_test,
            "variants": list(self.re_evaluations),
            "threads": self.threads,
            "memory": self.memory,
            "keep": self.keep,
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> TrialSpec:
        """Read what `to_json` returned.

        Args:
            values: The content of order.json; `keep` may be absent, as in files of older versions.

        Raises:
            KeyError: A required key is missing.
        """
        return cls(
            settings=values["settings"],
            read_test=values["test"],
            re_evaluations=tuple(values["variants"]),
            threads=values["threads"],
            memory=values["memory"],
            keep=values.get("keep", False),
        )
