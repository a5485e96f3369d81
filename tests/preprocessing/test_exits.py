"""exits.py: one table of exit codes for all commands, full disks among them."""

import errno
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.export import ExportDiffers
from pipeline.launcher import RankDied
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
    (MemoryError(), 8),
    (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."), 8),
    (OSError(errno.ENOMEM, "Cannot allocate memory"), 8),
    (KeyboardInterrupt(), 130),
    (exits.Terminated(), 143),
]


def test_each_error_has_its_code() -> None:
    assert [exits.code(error) for error, _ in MEANING] == [code for _, code in MEANING]


def test_an_error_is_reported_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """An interruption has no message of its own."""
    assert exits.report(IntegrityError("joints")) == exits.INTEGRITY
    assert exits.report(KeyboardInterrupt()) == exits.INTERRUPTED
    assert capsys.readouterr().err == "error: joints\nerror: interrupted\n"


def test_a_defect_is_not_reported_as_a_users_mistake() -> None:
    """It keeps its traceback; an allocation that failed is nobody's defect, whatever its class."""
    assert all(exits.expected(error) for error, _ in MEANING)
    for defect in (IndexError("0"), RuntimeError("size mismatch"), AssertionError(), TypeError("None")):
        assert not exits.expected(defect)
    assert exits.code(RankDied("rank 1 was killed, perhaps out of memory")) == exits.WORKER


def test_the_systems_own_errors_get_a_place_and_a_remedy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line each: out of memory, permission denied, disk full."""
    torch_says = "DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes. Error code 12 (x)\nadvice"
    errors = [
        RuntimeError(torch_says), MemoryError(), exits.Terminated(),
        PermissionError(errno.EACCES, "Permission denied", "/data/x.h5"),
        OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "file")),
        OSError(errno.ENOSPC, "3.0 kB needed, 0 bytes free", "/data"),
    ]  # fmt: skip
    for error in errors:
        exits.report(error, "interrupted; the same command resumes")
    memory, bare, terminated, permission, disk, sizes = capsys.readouterr().err.splitlines()
    tried = "DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes"
    assert memory == f"error: out of memory ({tried}): use smaller batches, or free some memory"
    assert bare.startswith("error: out of memory (MemoryError): ")
    assert terminated == "error: terminated (SIGTERM); the same command resumes"
    assert re.fullmatch(r"error: permission denied for user \d+: /data/x.h5. Change its mode or owner, .*", permission)
    assert re.fullmatch(rf"error: no space left for {tmp_path}/file: [\d.]+ \w+ free. Free some space; .*", disk)
    assert sizes.startswith("error: no space left for /data: 3.0 kB needed, 0 bytes free. ")


def test_control_characters_do_not_reach_the_terminal() -> None:
    """A name of a file may clear the screen or set its title; letters of any language stay."""
    assert exits.describe(ValueError("clip \x1b[2J\x07é\x9b1 is bad\r")) == r"clip \x1b[2J\x07é\x9b1 is bad\x0d"


def test_sizes_have_their_unit() -> None:
    assert [exits.size(n) for n in (0, 999, 1000, 2.5e6, 1e12)] == [
        "0 bytes",
        "999 bytes",
        "1.0 kB",
        "2.5 MB",
        "1000.00 GB",
    ]


@pytest.mark.parametrize(("call", "code"), [("exits.print_any_character()", 0), ("", 1)])
def test_an_output_without_the_character_does_not_end_the_work(call: str, code: int) -> None:
    """As under LC_ALL=C in a container; without the call it does (control)."""
    program = f"from preprocessing import exits\n{call}\nprint('80.0 % \\xb7 5')"
    variables = {"PYTHONIOENCODING": "ascii", "PYTHONPATH": str(Path(__file__).parents[2])}
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, env=os.environ | variables, check=False
    )
    assert result.returncode == code
    assert (result.stdout == b"80.0 % ? 5\n") == (not code)


def test_synthetic_clips_on_a_full_disk(full_disk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert synthetic.main([str(full_disk / "raw"), "--clips", "3"]) == exits.NO_SPACE
    assert re.search(r"error: no space left for \S+skeleton: [\d.]+ kB needed, 0 bytes free", capsys.readouterr().err)


def test_an_unexpected_error_is_not_a_line_but_a_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    """Control: an expected one is."""
    with pytest.raises(KeyError):
        exits.report(KeyError("ours"))
    assert capsys.readouterr().err == ""
    assert exits.report(ValueError("theirs")) == exits.USAGE
    assert capsys.readouterr().err == "error: theirs\n"
