"""Start and end of a command: --help without torch, Ctrl-C in one line, a closed pipe in silence."""

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from preprocessing import arguments, console, startup

ROOT = Path(__file__).parents[2]
SCRIPT = "import sys; from preprocessing.console import main; sys.exit(main())"
HEAVY = {"torch", "ray", "optuna", "plotly", "wandb", "h5py", "numba", "scipy", "jinja2"}


def script(*words: str) -> list[str]:
    return [sys.executable, "-P", "-c", SCRIPT, *words]


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT)}


def heavy(words: list[str]) -> set[str]:
    """Return the heavy modules that a command has loaded at its end; fail where it ends without the probe's line."""
    listed = f"print(json.dumps(sorted({HEAVY} & set(sys.modules))))"
    probe = f"import atexit, json, sys; atexit.register(lambda: {listed}); {SCRIPT}"
    done = subprocess.run([sys.executable, "-c", probe, *words], capture_output=True, text=True, env=environment())
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    "words",
    [
        *(["train", "--help"], ["doctor", "--hlp"], ["search", "--help"], ["study", "--seds"], ["predict", "--help"]),
        *(["build", "--wokers"], ["inspect", "--help"], ["train-nodes", "--help"], ["watch", "--prt"]),
    ],
    ids=" ".join,
)
def test_help_and_a_typo_load_nothing_heavy(words: list[str]) -> None:
    assert heavy(words) == set()


@pytest.mark.slow
@pytest.mark.parametrize("name", console.COMMANDS)
def test_no_help_loads_anything_heavy(name: str) -> None:
    """That of build lists the formats, from their readers: it loads h5py, and so shows that the probe sees."""
    assert heavy([name, "--help"]) == ({"h5py"} if name == "build" else set())


@pytest.mark.parametrize("name", [name for name, command in console.COMMANDS.items() if command.reader])
def test_a_command_rejects_a_flag_that_it_does_not_know(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """--dry-run is of train alone: any other command must not go on without it. Control: train knows it."""
    command = console.COMMANDS[name]
    module = command.module.removesuffix(".__main__")
    options = importlib.import_module(command.reader)
    assert ("--dry-run" in arguments.option_names(options.options_class(module))) == (name == "train")
    if name != "train":
        first = ["default", "--data", "a.h5", "--out", "b"] if name == "train-nodes" else []
        with pytest.raises(SystemExit) as end:
            options.read_options(module, [*first, "--dry-run"])
        assert (end.value.code, capsys.readouterr().err.split(". ")[0]) == (2, "error: --dry-run is unknown")


@pytest.mark.slow
@pytest.mark.parametrize("delay", [0.2, 0.3, 0.6, 1.0, 1.5])
@pytest.mark.parametrize("times", [1, 2, 5])
def test_interrupts_while_modules_are_imported_are_one_line(delay: float, times: int, tmp_path: Path) -> None:
    """`doctor` imports torch, then reads the folder, which takes seconds. Ctrl-C may come twice, at once or later."""
    (tmp_path / "empty").mkdir()
    words = script("doctor", str(tmp_path / "empty"))
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env=environment()) as process:
        time.sleep(delay)
        for number in range(times):
            time.sleep(0.004 * number)
            process.send_signal(signal.SIGINT)
        _, printed = process.communicate(timeout=60)
    if "is not a run folder" in printed:
        pytest.skip("it ended before the signal")
    assert (process.returncode, printed) == (130, "error: interrupted\n")


def test_an_interrupt_becomes_a_line_until_the_command_runs(capfd: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGINT)
    try:
        startup.early(lambda: None)
        assert signal.getsignal(signal.SIGINT) is startup._interrupted
        assert startup.run(lambda: int(signal.getsignal(signal.SIGINT) is startup._interrupted)) == 0
    finally:
        signal.signal(signal.SIGINT, before)

    def interrupted() -> int:
        raise KeyboardInterrupt

    assert startup.run(interrupted) == 130
    assert capfd.readouterr().err == "error: interrupted\n"


def test_a_wrong_setting_ends_the_reading_with_its_code(capfd: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGINT)

    def wrong() -> None:
        raise ValueError("no preset 'x'")

    try:
        with pytest.raises(SystemExit) as end:
            startup.early(wrong)
    finally:
        signal.signal(signal.SIGINT, before)
    assert (end.value.code, capfd.readouterr().err) == (2, "error: no preset 'x'\n")


def test_a_closed_pipe_is_silent(tmp_path: Path) -> None:
    """As after `| head -1`: nothing on stderr, and no success."""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(script("presets"), stdout=writer, stderr=subprocess.PIPE, text=True, env=environment())
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")
