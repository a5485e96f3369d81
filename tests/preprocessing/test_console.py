"""The console script: every command under one name, found at once, with a hint where the name is wrong."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from preprocessing import console

ROOT = Path(__file__).parents[2]
SCRIPT = "import sys; from preprocessing.console import main; sys.exit(main())"


def skelnorm(*words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run `skelnorm WORDS...` as the installed script does: the working folder is not in front."""
    command = [sys.executable, "-P", "-c", SCRIPT, *words]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=cwd, env=os.environ | {"PYTHONPATH": str(ROOT)}, timeout=60
    )


@pytest.mark.parametrize("name", console.COMMANDS)
def test_every_command_is_a_module_with_a_main(name: str) -> None:
    """Its file says `def main`, so that nothing heavy is imported to check it."""
    found = importlib.util.find_spec(console.COMMANDS[name].module)
    assert found is not None
    assert "\ndef main(" in Path(str(found.origin)).read_text()


def test_commands_of_the_packages_are_all_there() -> None:
    """Each module that runs as `python -m` is listed, except a search's helpers and the tool of cluster files."""
    runnable = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for package in ("preprocessing", "pipeline", "tuning")
        for path in (ROOT / package).glob("*.py")
        if '\nif __name__ == "__main__":' in path.read_text()
    }
    listed = {command.module for command in console.COMMANDS.values()}
    assert runnable - listed == {"tuning.wandb_follower", "tuning.reaper", "tuning.certificate"}


def test_help_lists_every_command_and_loads_no_library() -> None:
    """The overview is printed before numpy, torch or Ray."""
    done = skelnorm("--help")
    assert done.returncode == 0
    assert all(f"  {name} " in done.stdout for name in console.COMMANDS)
    probe = f"{SCRIPT.replace('sys.exit(main())', 'main()')}; print({{'numpy', 'torch', 'ray'}} & set(sys.modules))"
    command = [sys.executable, "-c", probe, "--help"]
    loaded = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert loaded.stdout.splitlines()[-1] == "set()"


@pytest.mark.parametrize(
    ("word", "hint"),
    [("trian", "did you mean train?"), ("doctr", "did you mean doctor?"), ("x", "commands are build,")],
)
def test_a_wrong_name_gets_a_hint(word: str, hint: str) -> None:
    """Exit code 2, one line."""
    done = skelnorm(word)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert hint in done.stderr


def test_without_a_command_it_shows_the_overview() -> None:
    """And says by its exit code that something is missing."""
    done = skelnorm()
    assert done.returncode == 2
    assert "usage: skelnorm COMMAND" in done.stdout


def test_versions_are_shown() -> None:
    """One line each, with the HDF5 library and the machine class; loads neither torch nor Ray."""
    lines = skelnorm("--version").stdout.splitlines()
    assert [line.split()[0] for line in lines] == [*console.VERSIONS, "hdf5", "commit", "python", "machine"]


def test_packages_of_the_working_folder_do_no_harm(tmp_path: Path) -> None:
    """A stranger's own `pipeline` and `preprocessing`; the code of a command comes back."""
    for name in ("pipeline", "preprocessing"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit('not ours')")
    done = skelnorm("verify", "absent.h5", cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "absent.h5" in done.stderr
