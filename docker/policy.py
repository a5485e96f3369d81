"""Check containers and clusters against the rules of docker/README.md; run by `make lint`, offline.

    python docker/policy.py            # exit 0, or 1 with one line per breach

One function per kind of file; each yields what breaks a rule. Forms (names, references, options) are tested elsewhere.
"""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import yaml

ROOT = Path(__file__).parents[1]
DIGEST = re.compile(r"@sha256:[0-9a-f]{64}$")
ANYWHERE = ("0.0.0.0/0", "::/0")
SECRET = re.compile(r"TOKEN|SECRET|PASSW|KEY|CREDENTIAL", re.I)
Document = dict[str, Any]


def dockerfile(text: str) -> Iterator[str]:
    """A base by digest, packages by hash from one index per call, and a user who is not root."""
    joined = text.replace("\\\n", " ")
    for name in re.findall(r"^ARG BASE=(\S+)", joined, re.M) + re.findall(r"BASE=(\S+)", text):
        if not DIGEST.search(name):
            yield f"base {name} has no digest"
    yield from (
        f"FROM {name} is not the base" for name in re.findall(r"^FROM (\S+)", joined, re.M) if "BASE" not in name
    )
    if "extra-index" in joined.lower() or "EXTRA_INDEX" in joined:
        yield "an extra index: a package of the same name could come from there"
    for words in re.findall(r"pip install ([^;\n]*)", joined):
        if "--require-hashes" not in words and not {"--no-deps", "--no-index"} <= set(words.split()):
            yield f"pip install {words.strip()}: neither --require-hashes nor --no-deps --no-index"
    users = re.findall(r"^USER (\S+)", joined, re.M)
    if not users or users[-1].split(":")[0] in ("root", "0"):
        yield "the last USER is root"


def lock(text: str) -> Iterator[str]:
    """Each package has one version and at least one sha256."""
    entries = text.replace("\\\n", " ").splitlines()
    yield from (
        f"{entry.split()[0]} has no version or no hash"
        for entry in entries
        if not re.fullmatch(r"[\w.-]+==[\w.+-]+(\s+--hash=sha256:[0-9a-f]{64})+", entry.strip())
    )


def compose(document: Document) -> Iterator[str]:
    """Per service: a read-only root, no capabilities, limits, networks and tokens only where they are needed."""
    networks = document.get("networks", {})
    for name, service in document["services"].items():
        options, ray = service.get("security_opt", []), "ray" in service.get("command", [])
        rules = {
            "the root is not read-only": service.get("read_only") is True,
            "/tmp is not a tmpfs": any(entry.startswith("/tmp:") for entry in service.get("tmpfs", [])),  # noqa: S108
            "capabilities are not dropped": service.get("cap_drop") == ["ALL"] and not service.get("cap_add"),
            "new privileges are allowed": "no-new-privileges:true" in options,
            "the seccomp or AppArmor profile is off": not any("unconfined" in option for option in options),
            "it is privileged or shares the host's namespaces": not service.get("privileged")
            and not {"host"} & {service.get(key) for key in ("network_mode", "pid", "ipc", "userns_mode")},
            "no limit of memory, cores or processes": {"mem_limit", "cpus", "pids_limit"} <= service.keys(),
            "a network that it does not need": ray or service.get("network_mode") == "none",
            "a token that it does not need": ray or not service.get("secrets"),
            "a secret in its environment": not any(
                SECRET.search(key) and not key.endswith("_PATH") for key in service.get("environment", {})
            ),
            "a port open to the network": all(port.startswith("127.0.0.1:") for port in service.get("ports", [])),
        }
        yield from (f"{name}: {fault}" for fault, kept in rules.items() if not kept)
        shared = [network for network in service.get("networks", []) if not networks.get(network, {}).get("internal")]
        if shared and not service.get("ports"):
            yield f"{name}: network {shared[0]} leads outside"


def kubernetes(documents: list[Document]) -> Iterator[str]:
    """Pods of the standard `restricted`, with a read-only root and limits, behind policies; TLS between Ray's nodes."""
    policies = [d["spec"] for d in documents if d["kind"] == "NetworkPolicy"]
    for document in documents:
        name, spec = document["metadata"]["name"], document["spec"]
        if document["kind"] == "RayCluster":
            both = [p for p in policies if p["podSelector"].get("matchLabels") == {"ray.io/cluster": name}]
            # A policy without rules denies; the others allow what they name.
            if not any({"Ingress", "Egress"} <= {*p["policyTypes"]} and len(p) == 2 for p in both):
                yield f"{name}: no NetworkPolicy that denies by default"
            yield from container(f"{name} autoscaler", spec.get("autoscalerOptions", {}))
            yield from group(f"{name} head", spec["headGroupSpec"], token=True)
            for workers in spec["workerGroupSpecs"]:
                yield from group(f"{name} {workers['groupName']}", workers, token=False)
        if document["kind"] == "RayJob":
            yield from pod(f"{name} submitter", spec.get("submitterPodTemplate", {}).get("spec", {}), token=False)
    text = json.dumps(policies)
    yield from (f"a policy allows {anywhere}" for anywhere in ANYWHERE if anywhere in text)
    if any(not rule for policy in policies for rule in policy.get("ingress", []) + policy.get("egress", [])):
        yield "a policy has a rule for every peer"


def group(name: str, spec: Document, token: bool) -> Iterator[str]:
    """Check a group of Ray's nodes."""
    template = spec["template"]["spec"]
    yield from pod(name, template, token)
    for each in template["containers"]:
        if {"name": "RAY_USE_TLS", "value": "1"} not in each.get("env", []):
            yield f"{name}: no TLS between nodes"


def pod(name: str, spec: Document, token: bool) -> Iterator[str]:
    """Check a pod. `token`: it may have that of its service account."""
    context = spec.get("securityContext", {})
    if not context.get("runAsNonRoot") or not context.get("runAsUser"):
        yield f"{name}: may run as root"
    if context.get("seccompProfile", {}).get("type") != "RuntimeDefault":
        yield f"{name}: no seccomp profile"
    if spec.get("automountServiceAccountToken", True) and not token:
        yield f"{name}: has a token of the API server that it does not need"
    if any(spec.get(key) for key in ("hostNetwork", "hostPID", "hostIPC")):
        yield f"{name}: shares the host's namespaces"
    for volume in spec.get("volumes", []):
        if "hostPath" in volume or ("emptyDir" in volume and "sizeLimit" not in volume["emptyDir"]):
            yield f"{name}: volume {volume['name']} is the host's or has no limit"
    for each in [*spec.get("initContainers", []), *spec.get("containers", [])]:
        yield from container(f"{name} {each['name']}", each)


def container(name: str, spec: Document) -> Iterator[str]:
    """Check one container of a pod."""
    context, limits = spec.get("securityContext", {}), spec.get("resources", {}).get("limits", {})
    rules = {
        "privileges may grow": context.get("allowPrivilegeEscalation") is False and not context.get("privileged"),
        "the root is not read-only": context.get("readOnlyRootFilesystem") is True,
        "capabilities are not dropped": context.get("capabilities") == {"drop": ["ALL"]},
        "no limit of memory or cores": {"cpu", "memory"} <= limits.keys(),
    }
    yield from (f"{name}: {fault}" for fault, kept in rules.items() if not kept)


def ray(document: Document) -> Iterator[str]:
    """Ray's own schema; tokens and TLS at each start; on AWS more."""
    found = importlib.util.find_spec("ray")
    schema = Path(found.origin or "").parent / "autoscaler" / "ray-schema.json" if found else Path()
    if schema.is_file():
        errors = jsonschema.Draft7Validator(json.loads(schema.read_text())).iter_errors(document)
        yield from (f"{'.'.join(map(str, error.path))}: {error.message}" for error in errors)
    for key in ("head_start_ray_commands", "worker_start_ray_commands"):
        for command in document[key]:
            if "ray start" in command and not {"RAY_AUTH_MODE=token", "RAY_USE_TLS=1"} <= set(command.split()):
                yield f"{key}: without a token or TLS"
    if document["provider"]["type"] == "aws":
        yield from aws(document)


def aws(document: Document) -> Iterator[str]:
    """IMDSv2, encrypted volumes and mounts, no security group that is open to the world."""
    for name, node in document["available_node_types"].items():
        config = node["node_config"]
        metadata, volumes = config.get("MetadataOptions", {}), config.get("BlockDeviceMappings", [{"Ebs": {}}])
        if metadata.get("HttpTokens") != "required":
            yield f"{name}: instance credentials without a session token (IMDSv2)"
        if metadata.get("HttpPutResponseHopLimit") != 1:
            yield f"{name}: instance credentials reach containers"
        if not all(volume["Ebs"].get("Encrypted") for volume in volumes):
            yield f"{name}: a volume is not encrypted"
    permissions = document["provider"].get("security_group", {}).get("IpPermissions")
    if not permissions or any(anywhere in json.dumps(permissions) for anywhere in ANYWHERE):
        yield "security_group: open to the world"  # Ray's own group opens the ssh port to all addresses
    if "mount -t nfs" in json.dumps(document):
        yield "the file system is mounted without encryption"


def breaches(root: Path = ROOT) -> Iterator[str]:
    """Yield every breach in the files of a checkout, with its file."""
    clusters = root / "tuning" / "cluster"

    def read(path: Path) -> Any:
        return yaml.safe_load(path.read_text())

    kuberay = clusters / "kuberay.yaml"
    found = {
        root / "docker" / "Dockerfile": dockerfile((root / "docker" / "Dockerfile").read_text()),
        root / "docker" / "compose.yaml": compose(read(root / "docker" / "compose.yaml")),
        kuberay: kubernetes(list(yaml.safe_load_all(kuberay.read_text()))),
        **{clusters / name: ray(read(clusters / name)) for name in ("local.yaml", "aws.yaml")},
        **{path: lock(path.read_text()) for path in sorted((root / "docker" / "lock").glob("*.txt"))},
    }
    for path, faults in found.items():
        yield from (f"{path.relative_to(root)}: {fault}" for fault in faults)


def main() -> int:
    """Print the breaches; return the exit code."""
    found = list(breaches())
    print("\n".join(found) or "containers and clusters keep the rules")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
