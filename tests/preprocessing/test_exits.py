"""exits.py: one table of exit codes for all commands, full disks among them."""

import errno
from pathlib import Path

import pytest

from pipeline.distributed import RankDied
from pipeline.export import ExportDiffers
from pipeline.nonfinite import NonFiniteLoss
from preprocessing import exits, synthetic
from preprocessing.build import TooManyRejects
from preprocessing.engines import EngineError, WorkerDied
from preprocessing.files import IntegrityError
from preprocessing.splits import CountError

MEANING = [
    (ValueError("no such arm"), 2),
    (FileNotFoundError(errno.ENOENT, "no such file"), 2),
    (EngineError("no cluster"), 2),
    (WorkerDied("again"), 3),
    (RankDied("rank 1"), 3),
    (TooManyRejects("half"), 4),
    (NonFiniteLoss(3, ["clip"]), 5),
    (IntegrityError("joints"), 6),
    (CountError("56,577"), 6),
    (ExportDiffers("0.1"), 6),
    (OSError(errno.ENOSPC, "full"), 7),
    (OSError(errno.EDQUOT, "quota"), 7),
    (KeyboardInterrupt(), 130),
]


def test_each_error_has_its_code() -> None:
    assert [exits.code(error) for error, _ in MEANING] == [code for _, code in MEANING]


def test_an_error_is_reported_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """An interruption has no message of its own."""
    assert exits.report(IntegrityError("joints")) == exits.INTEGRITY
    assert exits.report(KeyboardInterrupt()) == exits.INTERRUPTED
    assert capsys.readouterr().err == "error: joints\nerror: interrupted\n"


def test_synthetic_clips_on_a_full_disk(full_disk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert synthetic.main([str(full_disk / "raw"), "--clips", "3"]) == exits.NO_SPACE
    assert "error: [Errno 28] No space left on device" in capsys.readouterr().err
