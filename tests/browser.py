"""A page in a real browser: what stands in it after its scripts ran, and a picture of it."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

# Without the last five, Chromium looks up hosts of its own at every start.
QUIET = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-quic", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--disable-default-apps",
)  # fmt: skip


def chromium() -> str:
    """Path of the browser, installed from Debian's packages where that is possible; else the test skips."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not found and os.geteuid() == 0 and shutil.which("apt-get"):
        quiet = {"capture_output": True, "check": False, "env": os.environ | {"DEBIAN_FRONTEND": "noninteractive"}}
        subprocess.run(["apt-get", "update", "-qq"], **quiet)
        subprocess.run(["apt-get", "install", "-y", "-qq", "--no-install-recommends", "chromium"], **quiet)
        found = shutil.which("chromium")
    if not found:
        pytest.skip("no browser: apt-get install chromium")
    return found


def _run(page: Path, profile: Path, *more: str) -> str:
    command = [chromium(), *QUIET, f"--user-data-dir={profile}", "--virtual-time-budget=3000", *more, page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout


def rendered(page: Path, profile: Path) -> str:
    """The page's DOM as HTML, three seconds of its own time after it was opened."""
    return _run(page, profile, "--dump-dom")


def screenshot(page: Path, profile: Path, picture: Path, width: int = 1200, height: int = 2400) -> Path:
    """The page as a PNG."""
    _run(page, profile, f"--screenshot={picture}", f"--window-size={width},{height}")
    return picture
