"""The manifest of a build: its inputs, every decision with rule and value, quarantined and skipped clips."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from preprocessing import provenance
from preprocessing.files import publish_json, read_json, sha256_file
from preprocessing.splits import Protocols
from preprocessing.stages import Decision
from preprocessing.work_units import Quarantined

SCHEMA = "skelnorm-manifest/1"


@dataclass
class Manifest:
    """Record of one build, filled during the build."""

    recipe: dict[str, Any]
    inputs: list[dict[str, Any]]
    found: int
    reading: dict[str, str] = field(default_factory=dict)  # options that say how the inputs are read, if any
    decisions: list[Decision] = field(default_factory=list)
    quarantined: list[Quarantined] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)  # clip name -> reason
    clips: int = 0
    bodies: int = 0
    rows: int = 0
    warnings: list[str] = field(default_factory=list)  # facts that limit what the clips can show
    joints: int = 0  # in frames in which their body is present
    absent_joints: int = 0  # of these
    splits: Protocols | None = None
    content_sha256: str = ""
    coverage: str = ""  # which part of which benchmark, in words; see splits.coverage

    @property
    def rejected_share(self) -> float:
        """Share of quarantined clips among the clips that were expected to be readable."""
        expected = self.found - len(self.skipped)
        return len(self.quarantined) / expected if expected else 0.0

    def counts(self) -> dict[str, Any]:
        """Counts of the build, as stored in the manifest."""
        return {
            "found": self.found,
            "clips": self.clips,
            "bodies": self.bodies,
            "rows": self.rows,
            **({"joints": self.joints, "absent_joints": self.absent_joints} if self.absent_joints else {}),
            "skipped": dict(sorted(Counter(self.skipped.values()).items())),
            "quarantined": dict(sorted(Counter(error.reason for error in self.quarantined).items())),
            "decisions": dict(sorted(Counter(decision.rule for decision in self.decisions).items())),
            "rejected_share": self.rejected_share,
        }

    def publish(self, path: Path) -> None:
        """Write the manifest as JSON. The same input gives the same content, except for `provenance`."""
        document: dict[str, Any] = {
            "schema": SCHEMA,
            "recipe": self.recipe,
            "inputs": self.inputs,
            "counts": self.counts(),
            "content_sha256": self.content_sha256,
            "coverage": self.coverage,
            "splits": {},
            "decisions": [decision._asdict() for decision in self.decisions],
            "quarantine": [
                {"name": error.name, "line": error.line, "reason": error.reason, "message": error.message}
                for error in sorted(self.quarantined, key=lambda error: error.name)
            ],
            **({"warnings": self.warnings} if self.warnings else {}),
            **({"reading": self.reading} if self.reading else {}),
            "skipped": [{"name": name, "reason": reason} for name, reason in sorted(self.skipped.items())],
            "provenance": provenance.record(),
        }
        if self.splits:
            document["splits"] = {
                protocol: {part: len(index) for part, index in parts.items()}
                | {"val_rule": self.splits.rules[protocol]}
                for protocol, parts in self.splits.parts.items()
            }
        publish_json(path, document)


def manifest_path(path: Path) -> Path:
    """Return the path of the manifest: FILE.h5 -> FILE.manifest.json."""
    return path.with_suffix(".manifest.json")


def read_manifest(path: Path) -> dict[str, Any]:
    """Read the manifest of a built file as JSON; one without inputs and decisions if there is none.

    Args:
        path: The built file FILE.h5.

    Raises:
        IntegrityError: The manifest is damaged.
    """
    beside = manifest_path(path)
    if not beside.is_file():
        return {"inputs": [], "decisions": []}
    return read_json(beside, "inputs", "decisions")


def describe_input(path: Path) -> dict[str, Any]:
    """Describe a source: its path and kind; size and sha256 of a single file."""
    if path.is_dir():
        return {"source": str(path), "kind": "folder"}
    return {
        "source": str(path),
        "kind": path.suffix.lstrip("."),
        "bytes": path.stat().st_size,
        "sha256": sha256_file(path),
    }
