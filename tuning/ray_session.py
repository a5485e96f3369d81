"""A private Ray on this machine: on loopback alone, without metrics and secrets, gone with its driver.

Ray has one switch that puts every server of a node on 127.0.0.1: that of systems whose firewall asks about each port
(LOOPBACK). An explicit node address does not: Ray replaces 127.0.0.1 by the machine's own. What remains open is
described in tuning/README.md.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# A socket's path has at most SOCKET characters; we and Ray append as many as this one has:
SOCKET = 107
SOCKET_OF_RAY = "/ray-12345678/r/session_2026-01-31_23-59-59_999999_4194304/sockets/plasma_store"

LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
# The agents' metrics have a switch. Two more servers have a port alone, and do without one where it is invalid.
NO_METRICS = {"RAY_enable_metrics_collection": "0", "AUTOSCALER_METRIC_PORT": "-1", "DASHBOARD_METRIC_PORT": "-1"}

# Variables that Ray's processes, and so the trials, get: names, and beginnings of names.
ALLOWED = {
    "HOME", "USER", "LOGNAME", "PATH", "SHELL", "TERM", "LANG", "LANGUAGE", "TZ", "TMPDIR", "PWD", "LD_LIBRARY_PATH",
    "LD_PRELOAD", "VIRTUAL_ENV", "CONDA_PREFIX", "XDG_CACHE_HOME", "COLUMNS", "CC", "CXX",
    "SSL_CERT_FILE", "SSL_CERT_DIR", "AUTOSCALER_METRIC_PORT", "DASHBOARD_METRIC_PORT",
}  # fmt: skip
ALLOWED_BEGINNINGS = (
    "LC_", "PYTHON", "OMP_", "MKL_", "KMP_", "OPENBLAS_", "NUMBA_", "GOMP_", "HDF5_", "MALLOC_", "CUDA_", "CUBLAS_",
    "NVIDIA_", "HIP_", "ROCR_", "HSA_", "TORCH", "PYTORCH_", "TRITON_", "NCCL_", "GLOO_", "RAY_", "TUNE_", "SKELNORM_",
)  # fmt: skip
SECRET = re.compile(r"KEY|SECRET|TOKEN|PASSW|CREDENTIAL|AUTH", re.I)
# Ray's processes must know the session's own token; its TLS variables are paths.
NEEDED = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_TLS_")


def allowed(variables: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that Ray's processes may see: an allow-list, from which names of secrets are taken out."""
    return {
        name: value
        for name, value in variables.items()
        if name.startswith(NEEDED)
        or ((name in ALLOWED or name.startswith(ALLOWED_BEGINNINGS)) and not SECRET.search(name))
    }


@contextmanager
def private_environment(scratch: Path | None = None, **more: str) -> Iterator[None]:
    """Leave the allowed variables alone: Ray's processes inherit them, and Ray Tune sends keys of AWS to its workers.

    Args:
        scratch: Folder for temporary files; there they are removed with the session, and paths of sockets are short.
            None leaves it as it is.
        more: Further variables.
    """
    before = dict(os.environ)
    os.environ.clear()
    os.environ.update(allowed(before) | more)
    if scratch is not None:
        scratch.mkdir()
        os.environ["TMPDIR"] = str(scratch)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def on_loopback(constants: Any) -> Iterator[None]:
    """Let a Ray that is imported already, or that joins a cluster later, listen on loopback alone meanwhile.

    Args:
        constants: Ray's module of that name, which has read LOOPBACK's variable when it was imported.
    """
    before, constants.ENABLE_RAY_CLUSTER = constants.ENABLE_RAY_CLUSTER, not LOOPBACK
    try:
        yield
    finally:
        constants.ENABLE_RAY_CLUSTER = before


class SessionFolder:
    """The folder of a session, for this user alone, with a process that removes it once the driver has ended.

    The folder is made in RAY_TMPDIR, else TMPDIR, else /tmp; not where its path would be too long for Ray's sockets.
    """

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="ray-", dir=_base()))
        words = [
            sys.executable,
            "-I",
            "-S",
            str(Path(__file__).with_name("reaper.py")),
            str(self.path),
            str(os.getpid()),
        ]
        # A session of its own: Ctrl-C is not for it.
        self._reaper = subprocess.Popen(  # noqa: S603 - the words are ours
            words, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
            env={name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ},
        )  # fmt: skip

    def remove(self) -> None:
        """End what is left of the session, remove the folder and wait for both."""
        assert self._reaper.stdin is not None
        self._reaper.stdin.close()
        self._reaper.wait()


def _base() -> str | None:
    """Return where session folders are made; None means where Python makes temporary files."""
    asked = os.environ.get("RAY_TMPDIR")
    if asked:
        Path(asked).mkdir(parents=True, exist_ok=True)
        return asked
    if len(tempfile.gettempdir()) > SOCKET - len(SOCKET_OF_RAY):
        return "/tmp"  # noqa: S108 - mkdtemp makes a folder for this user alone
    return None
