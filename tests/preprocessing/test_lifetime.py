"""lifetime.py: a child whose parent is killed ends, with the end that it was given."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from preprocessing import lifetime

# A parent whose child prints a line when it runs, and would sleep for a minute.
PARENT = """
import multiprocessing, os, subprocess, sys, time
from preprocessing.lifetime import end_with_parent, wait_for_end_of_input
def end():
    print("ended", flush=True)
    os._exit(1)
def child():
    wait = wait_for_end_of_input if "input" in sys.argv else None
    end_with_parent(wait, end) if "end" in sys.argv else end_with_parent(wait) if "off" not in sys.argv else None
    print(os.getpid(), flush=True)
    time.sleep({seconds})
if "child" in sys.argv:
    child()
elif "input" in sys.argv:
    subprocess.Popen([sys.executable, "-c", {source!r}, "child", *sys.argv[1:]], stdin=subprocess.PIPE)
    time.sleep(60)
else:
    multiprocessing.get_context("fork").Process(target=child).start()
    time.sleep(60)
"""
SOURCE = PARENT.format(seconds=60, source="")
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("words", "printed"),
    [(["end"], "ended\n"), ([], ""), (["input", "end"], "ended\n"), (["input"], "")],
)  # fmt: skip
def test_a_child_ends_when_its_parent_is_killed(words: list[str], printed: str) -> None:
    """Its output ends with it: reading it returns long before the child would have slept enough."""
    source = PARENT.format(seconds=60, source=SOURCE)
    command = [sys.executable, "-c", source, *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as parent:
        assert parent.stdout is not None
        assert int(parent.stdout.readline())
        parent.send_signal(signal.SIGKILL)
        assert parent.communicate(timeout=20)[0] == printed


def test_without_it_a_child_outlives_its_parent() -> None:
    """The control: its output stays open until it has slept."""
    source = PARENT.format(seconds=3, source="")
    with subprocess.Popen([sys.executable, "-c", source, "off"], stdout=subprocess.PIPE, text=True, cwd=ROOT) as parent:
        assert parent.stdout is not None
        assert int(parent.stdout.readline())
        parent.send_signal(signal.SIGKILL)
        with pytest.raises(subprocess.TimeoutExpired):
            parent.communicate(timeout=1)
        parent.communicate(timeout=20)


@pytest.mark.parametrize(("call", "end"), [("lifetime.interrupt_once()", "cleaned up"), ("", "interrupted again")])
def test_the_first_interrupt_counts(call: str, end: str) -> None:
    """A second SIGINT does not break off the clean-up; without the call it does (control)."""
    code = f"""
import os, signal
from preprocessing import lifetime
{call}
try:
    try:
        os.kill(os.getpid(), signal.SIGINT)
    except KeyboardInterrupt:
        os.kill(os.getpid(), signal.SIGINT)
        print("cleaned up")
except KeyboardInterrupt:
    print("interrupted again")
"""
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert child.stdout.strip() == end


SIGNALS = """
import os, signal, sys
from preprocessing import exits, lifetime
numbers = [getattr(signal, name) for name in sys.argv[1:]]
with lifetime.interruptible():
    try:
        with lifetime.interruptible():
            for number in numbers:
                os.kill(os.getpid(), number)
    except KeyboardInterrupt as error:
        code = exits.code(error)
for number in numbers:
    os.kill(os.getpid(), number)
sys.exit(code)
"""


@pytest.mark.parametrize(("names", "code"), [(["SIGINT"], 130), (["SIGTERM"], 143), (["SIGINT", "SIGTERM"], 130)])
def test_the_first_signal_ends_a_command_in_its_own_time(names: list[str], code: int) -> None:
    """Signals that follow are ignored."""
    child = subprocess.run([sys.executable, "-c", SIGNALS, *names], cwd=ROOT, check=False)
    assert child.returncode == code


def test_handlers_are_put_back() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with lifetime.interruptible():
        assert signal.getsignal(signal.SIGTERM) != before[1]
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", -signal.SIGTERM), ("SIGINT", -signal.SIGINT)])
def test_python_alone_ends_on_a_signal_without_a_line(name: str, code: int) -> None:
    """Negative control of the commands' one line: silence, or a traceback."""
    program = f"import os, signal; os.kill(os.getpid(), signal.{name}); signal.pause()"
    child = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert child.returncode == code
    assert ("Traceback" in child.stderr, "error:" in child.stderr) == (name == "SIGINT", False)
