"""cluster/*.yaml: valid by Ray's own schema and Kubernetes' rules of form; jobs really submitted, to nodes on loopback.

The jobs run in namespaces of their own, where no other Ray can be seen or harmed; that needs root.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "tuning" / "cluster"
HERE = Path(__file__).parent
TIME_LIMIT = 500  # seconds
NAMESPACES = [
    "unshare",
    "--pid",
    "--fork",
    "--kill-child",
    "--mount-proc",
    "--net",
    "--mount",
    "--propagation",
    "private",
]

needs_root = pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("unshare") or not shutil.which("ip"),
    reason="namespaces need root, unshare and ip: run as root, apt-get install util-linux iproute2",
)

# One worker runs all tests that start or look for a Ray cluster: on one machine they would find one another's.
pytestmark = pytest.mark.xdist_group("ray")


def script(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a script of this folder in its own namespaces."""
    # Without bytecode every call of the ray command would compile all its sources.
    environment = os.environ | {"PYTHON_BIN": str(Path(sys.executable).parent), "PYTHONDONTWRITEBYTECODE": ""}
    return subprocess.run(
        [*NAMESPACES, "bash", str(HERE / name), *map(str, arguments)],
        capture_output=True, text=True, timeout=TIME_LIMIT, env=environment, check=False,
    )  # fmt: skip


@needs_root
@pytest.mark.slow
def test_ray_job_submit_runs_a_search_on_a_second_node(data_file: Path, tmp_path: Path) -> None:
    """The head has no CPU for trials, so they run on the other node; a wrong token is rejected; loopback only."""
    command = f"python -m tuning.search --data {data_file} --out {tmp_path / 'study'} --trials 2 --epochs 1 --frames 16"
    result = script("ray_job_submit.sh", ROOT, f"{command} --wandb off --address auto", 0, 2)
    output = result.stdout + result.stderr
    assert result.returncode == 0, output
    rejected, _, rest = output.partition("== with the token")
    assert "rejected" in rejected
    assert "accepted" not in rejected
    assert "2 of 2 trials finished" in rest
    assert "== trials ran on: NODE=second \n" in rest
    trials = json.loads((tmp_path / "study" / "results.json").read_text())["trials"]
    assert [(trial["error"], trial["epoch"]) for trial in trials] == [("", 1), ("", 1)]


@needs_root
@pytest.mark.slow
def test_a_study_by_ray_job_submit_on_two_nodes_gives_what_one_machine_gives(data_file: Path, tmp_path: Path) -> None:
    """The same arms and seeds, shared out over both nodes of a cluster: the same figures, bit for bit.

    Long enough that the second node comes into it before the first one has done all.
    """
    arms = 'baseline = "a"\n[arms.a]\nnorm.persons = "loop"\n[arms.b]\nnorm.kind = "none"\n'
    (tmp_path / "arms.toml").write_text(arms)
    words = (
        f"python -m tuning.study --data {data_file} --arms {tmp_path / 'arms.toml'} --seeds 2 --epochs 150 --frames 16"
    )
    there = script("ray_job_submit.sh", ROOT, f"{words} --wandb off --out {tmp_path / 'there'} --address auto", 1, 1)
    assert there.returncode == 0, there.stdout + there.stderr
    assert "== trials ran on: NODE=head NODE=second" in there.stdout
    here = [sys.executable, *words.split()[1:], "--wandb", "off", "--out", str(tmp_path / "here")]
    subprocess.run(
        here, check=True, capture_output=True, timeout=TIME_LIMIT, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    one, two = (json.loads((tmp_path / name / "results.json").read_text()) for name in ("here", "there"))
    for own in ("command", "provenance"):
        assert one.pop(own) != two.pop(own)
    assert len(one["trials"]) == 4
    assert all(row["outcome"] == "finished" and row["test"] is not None for row in one["trials"])
    assert one == two


@needs_root
@pytest.mark.slow
def test_ray_submit_through_ssh(data_file: Path, tmp_path: Path) -> None:
    """local.yaml itself, its addresses replaced by loopback and its virtual environment by this one."""
    install("sshd", "openssh-server")
    install("rsync", "rsync")
    config = document("local.yaml")
    config["provider"] |= {"head_ip": "127.0.0.1", "worker_ips": []}
    config["auth"] = {"ssh_user": "root", "ssh_private_key": "~/.ssh/id_ed25519"}
    config["max_workers"] = 0
    config["file_mounts"]["~/skelnorm"] = str(ROOT)
    venv = Path(sys.executable).parent
    place = f"export PATH={venv}:$PATH PYTHONPATH=$HOME/skelnorm"
    config["setup_commands"] = [
        command.replace("export PATH=$HOME/skelnorm-venv/bin:$PATH", place).replace(
            "$HOME/skelnorm-venv/bin", str(venv)
        )
        for command in config["setup_commands"][-2:]
    ]
    (tmp_path / "cluster.yaml").write_text(yaml.safe_dump(config))
    (tmp_path / "home").mkdir()
    arguments = (tmp_path / "cluster.yaml", ROOT / "tuning" / "search.py", data_file, tmp_path / "study")
    result = script("ray_submit.sh", *arguments, tmp_path / "home")
    output = result.stdout + result.stderr
    assert result.returncode == 0, output
    assert "2 of 2 trials finished" in output


def install(program: str, package: str) -> None:
    """Install a Debian package for this test, or skip the test."""
    found = shutil.which(program, path=os.environ["PATH"] + ":/usr/sbin")
    if not found and shutil.which("apt-get"):
        quiet = {"capture_output": True, "check": False, "env": os.environ | {"DEBIAN_FRONTEND": "noninteractive"}}
        subprocess.run(["apt-get", "update", "-qq"], **quiet)
        subprocess.run(["apt-get", "install", "-y", "-qq", "--no-install-recommends", package], **quiet)
        found = shutil.which(program, path=os.environ["PATH"] + ":/usr/sbin")
    if not found:
        pytest.skip(f"no {program}: apt-get install {package}")


def document(name: str) -> dict[str, Any]:
    """Return a cluster file of one document."""
    loaded: dict[str, Any] = yaml.safe_load((CLUSTER / name).read_text())
    return loaded


def check(config: dict[str, Any]) -> None:
    """Raise the errors that `ray up` would raise."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(config))


@pytest.mark.parametrize("name", ["local.yaml", "aws.yaml"])
def test_rays_own_schema_accepts_the_file(name: str) -> None:
    """And not one with a field it does not know."""
    check(document(name))
    with pytest.raises(Exception, match="trails"):
        check(document(name) | {"trails": 3})


def test_a_missing_head_type_is_rejected() -> None:
    """Negative control for the larger file."""
    with pytest.raises(ValueError, match="head_node_type"):
        check(document("aws.yaml") | {"head_node_type": "missing"})


@pytest.mark.parametrize("name", ["local.yaml", "aws.yaml"])
def test_every_node_starts_with_a_token_and_no_open_dashboard(name: str) -> None:
    """The token travels as a file; it stands in no command."""
    config = document(name)
    starts = [c for key in ("head", "worker") for c in config[f"{key}_start_ray_commands"] if "ray start" in c]
    assert len(starts) == 2
    assert all("RAY_AUTH_MODE=token RAY_USE_TLS=1 ray start" in command for command in starts)
    assert "--dashboard-host=127.0.0.1" in starts[0]
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    assert "0.0.0.0" not in (CLUSTER / name).read_text()


KUBERAY = list(yaml.safe_load_all((CLUSTER / "kuberay.yaml").read_text()))
QUANTITY = re.compile(r"\d+(\.\d+)?(m|Ki|Mi|Gi|Ti|k|M|G|T)?")


def faults(documents: list[dict[str, Any]]) -> list[str]:
    """List what the API server would reject in these documents by their form."""
    found = []
    claims = {d["metadata"]["name"] for d in documents if d["kind"] == "PersistentVolumeClaim"}
    clusters = {d["metadata"]["name"]: d for d in documents if d["kind"] == "RayCluster"}
    for doc in documents:
        name, known = (
            doc["metadata"]["name"],
            {
                "PersistentVolumeClaim": "v1",
                "RayCluster": "ray.io/v1",
                "RayJob": "ray.io/v1",
                "NetworkPolicy": "networking.k8s.io/v1",
            },  # fmt: skip
        )
        if known.get(doc["kind"]) != doc["apiVersion"]:
            found.append(f"{name}: {doc['kind']} in {doc['apiVersion']}")
        if not re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", name):
            found.append(f"{name}: not a DNS label")
        if doc["kind"] == "RayJob" and doc["spec"]["clusterSelector"]["ray.io/cluster"] not in clusters:
            found.append(f"{name}: no such cluster")
    for name, cluster in clusters.items():
        spec = cluster["spec"]
        for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
            if not all(isinstance(value, str) for value in group["rayStartParams"].values()):
                found.append(f"{name}: rayStartParams must be strings")
            if not group.get("minReplicas", 0) <= group.get("replicas", 0) <= group.get("maxReplicas", 0):
                found.append(f"{name}: replicas out of order")
            found += [f"{name}: {fault}" for fault in pod_faults(group["template"]["spec"], claims)]
    return found


def pod_faults(pod: dict[str, Any], claims: set[str]) -> list[str]:
    """List the same of one pod."""
    found = []
    volumes = {volume["name"]: volume.get("persistentVolumeClaim", {}).get("claimName") for volume in pod["volumes"]}
    found += [f"no claim {claim}" for claim in volumes.values() if claim is not None and claim not in claims]
    for container in [*pod.get("initContainers", []), *pod["containers"]]:
        found += [f"no volume {m['name']}" for m in container["volumeMounts"] if m["name"] not in volumes]
        requests, limits = (container["resources"][key] for key in ("requests", "limits"))
        found += [f"{q} is not a quantity" for q in (*requests.values(), *limits.values()) if not QUANTITY.fullmatch(q)]
        if requests.get("nvidia.com/gpu") != limits.get("nvidia.com/gpu"):
            found.append("a GPU's request must be its limit")
    return found


def test_kubernetes_accepts_the_form() -> None:
    """Kinds, names, quantities, volumes, references; Ray's version is the one that is pinned; tokens are on."""
    assert faults(KUBERAY) == []
    assert [d["kind"] for d in KUBERAY] == [
        "PersistentVolumeClaim", "NetworkPolicy", "NetworkPolicy", "RayCluster", "RayJob",
    ]  # fmt: skip
    pinned = re.search(r"^ray==(.*)$", (ROOT / "constraints.txt").read_text(), re.M)
    assert pinned is not None
    (cluster,) = (document for document in KUBERAY if document["kind"] == "RayCluster")
    assert cluster["spec"]["rayVersion"] == pinned[1]
    assert cluster["spec"]["authOptions"] == {"mode": "token"}


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("8Gi", "8 GB", "is not a quantity"),
        ("{claimName: skelnorm-data}", "{claimName: other}", "no claim other"),
        ("{ray.io/cluster: skelnorm}", "{ray.io/cluster: other}", "no such cluster"),
        ("name: skelnorm-search", "name: Skelnorm_Search", "not a DNS label"),
        ('num-cpus: "0"', "num-cpus: 0", "must be strings"),
        ("kind: RayJob\n", "kind: RayJobs\n", "RayJobs in ray.io/v1"),
    ],
)
def test_the_check_of_form_can_fail(old: str, new: str, fault: str) -> None:
    """Negative controls."""
    text = (CLUSTER / "kuberay.yaml").read_text()
    assert old in text
    assert any(fault in found for found in faults(list(yaml.safe_load_all(text.replace(old, new)))))


@pytest.mark.parametrize("path", sorted(CLUSTER.glob("*.yaml")), ids=lambda p: p.name)
def test_the_commands_in_a_cluster_file_have_known_options(path: Path) -> None:
    """Old names of options would work, but are not shown."""
    from dataclasses import fields

    from tuning.search import Search

    text = path.read_text()
    block = re.findall(r"tuning[./]search(?:\.py)?(?: --)?\s(.*?)(?:--address auto)", text, re.S)
    assert block
    known = {f"--{field.name.replace('_', '-')}" for field in fields(Search)}
    assert set(re.findall(r"--[a-z][a-z-]+", " ".join(block))) <= known
