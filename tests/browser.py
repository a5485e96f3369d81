"""A page in headless Chromium: its DOM after its scripts ran, the errors of its scripts, and a picture of it."""

import asyncio
import contextlib
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

# No host is looked up: neither the page's nor Chromium's own. The rules hold for addresses too, but for this machine's.
QUIET = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-quic", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--disable-default-apps",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "--hide-scrollbars",
)  # fmt: skip
WATCH = """<script>
addEventListener("error", (event) => { document.documentElement.dataset.failed = event.message; });
addEventListener("unhandledrejection", (event) => { document.documentElement.dataset.failed = event.reason; });
</script>"""


@cache
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


def _run(page: Path, fragment: str, folder: Path, *more: str) -> str:
    command = [chromium(), *QUIET, f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=3000", *more]
    command.append(page.as_uri() + (f"#{fragment}" if fragment else ""))
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout


def rendered(page: Path, folder: Path, fragment: str = "") -> str:
    """The page's DOM as HTML, three seconds of its own time after it was opened; `folder` is for temporary files."""
    return _run(page, fragment, folder, "--dump-dom")


def watched(page: Path, folder: Path, old: str = "", new: str = "", more: str = "") -> str:
    """The DOM of the page with `old` replaced by `new` and `more` in its head; failed scripts leave `data-failed`."""
    copy = folder / "watched.html"
    text = page.read_text().replace(old, new) if old else page.read_text()
    copy.write_text(text.replace("<head>", f"<head>{WATCH}{more}", 1))
    return rendered(copy, folder)


def screenshot(page: Path, folder: Path, fragment: str = "", width: int = 1200, dark: bool = False) -> bytes:
    """The bytes of a PNG of the page."""
    picture = folder / "page.png"
    scheme = f"--blink-settings=preferredColorScheme={0 if dark else 1}"
    _run(page, fragment, folder, f"--screenshot={picture}", f"--window-size={width},1200", scheme)
    return picture.read_bytes()


def outside_scripts(page: Path) -> str:
    """The page's text without scripts and style."""
    return re.sub(r"<(script|style).*?</\1>", "", page.read_text(), flags=re.S)


def loads(page: Path) -> list[str]:
    """Addresses from which the page would load: in attributes and in its style."""
    style = "".join(re.findall(r"<style>(.*?)</style>", page.read_text(), flags=re.S))
    links = re.findall(r"(?:src|href|action|poster)\s*=\s*[\"']?([^\s\"'>]+)", outside_scripts(page))
    return [link for link in links if not link.startswith("#")] + re.findall(r"@import|url\([^)]*\)", style)


@contextlib.contextmanager
def opened(address: str, folder: Path) -> Iterator[Callable[[str], Any]]:
    """A page that stays open; yields a function that evaluates an expression of JavaScript in it."""
    aiohttp = pytest.importorskip("aiohttp")
    profile = folder / "profile"
    command = [chromium(), *QUIET, f"--user-data-dir={profile}", "--remote-debugging-port=0", address]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            yield lambda expression: asyncio.run(_evaluate(aiohttp, profile / "DevToolsActivePort", expression))
        finally:
            process.kill()


async def _evaluate(aiohttp: Any, port_file: Path, expression: str) -> Any:
    deadline = time.monotonic() + 30
    while not (port_file.is_file() and "\n" in port_file.read_text()):
        assert time.monotonic() < deadline, "the browser does not start"
        await asyncio.sleep(0.1)
    port = port_file.read_text().splitlines()[0]
    async with aiohttp.ClientSession() as session:
        async with session.get(f"http://127.0.0.1:{port}/json") as answer:
            (page,) = [one for one in await answer.json() if one["type"] == "page"]
        async with session.ws_connect(page["webSocketDebuggerUrl"]) as socket:
            params = {"expression": expression, "returnByValue": True}
            for number in range(1, 100):
                await socket.send_json({"id": number, "method": "Runtime.evaluate", "params": params})
                reply: dict[str, Any] = {}
                while reply.get("id") != number:
                    reply = json.loads((await socket.receive()).data)
                if "result" in reply:  # else the page is being loaded
                    return reply["result"]["result"].get("value")
                await asyncio.sleep(0.1)
    raise AssertionError("the page does not load")
