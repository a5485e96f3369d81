"""certificate.py: TLS accepts certificates of one authority alone, on the addresses that they name; Ray takes them."""

import os
import socket
import ssl
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tuning import certificate


def connect(server: Path, client: Path, address: str = "127.0.0.1") -> None:
    """One TLS connection with certificates on both sides, as Ray's are."""
    accept = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=server / "ca.crt")
    accept.load_cert_chain(server / "node.crt", server / "node.key")
    accept.verify_mode = ssl.CERT_REQUIRED
    ask = ssl.create_default_context(cafile=client / "ca.crt")
    ask.load_cert_chain(client / "node.crt", client / "node.key")
    here, there = socket.socketpair()
    failed: list[Exception] = []

    def serve() -> None:
        try:
            with accept.wrap_socket(there, server_side=True) as connection:
                connection.sendall(b"x")
        except (ssl.SSLError, OSError) as error:
            failed.append(error)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with ask.wrap_socket(here, server_hostname=address) as connection:
            connection.recv(1)
    finally:
        here.close()
        thread.join(10)
    if failed:
        raise failed[0]


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A node of one authority, and one of another."""
    folders = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("other")
    for folder in folders:
        certificate.authority(folder)
        certificate.node(folder, ["192.0.2.7"])
    return folders


def test_nodes_of_one_authority_accept_each_other(nodes: tuple[Path, Path]) -> None:
    """By their own address, loopback and those that were given."""
    connect(nodes[0], nodes[0])
    connect(nodes[0], nodes[0], "192.0.2.7")
    connect(nodes[0], nodes[0], "localhost")


def test_others_are_rejected(nodes: tuple[Path, Path]) -> None:
    """Negative controls: another authority, another address."""
    with pytest.raises(ssl.SSLError):
        connect(nodes[0], nodes[1])
    with pytest.raises(ssl.SSLCertVerificationError, match="192.0.2.8"):
        connect(nodes[0], nodes[0], "192.0.2.8")


def test_keys_are_for_their_user_alone(nodes: tuple[Path, Path]) -> None:
    """And an authority is not replaced by mistake."""
    assert {(nodes[0] / name).stat().st_mode & 0o777 for name in ("ca.key", "node.key")} == {0o600}
    with pytest.raises(FileExistsError, match="delete it to make a new authority"):
        certificate.authority(nodes[0])


RAY = """
import os, sys
import ray
ray.init(address="local", include_dashboard=False, num_cpus=1, log_to_driver=False)
print(ray.get(ray.remote(lambda: 6 * 7).remote()))
"""


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
def test_ray_runs_with_them(nodes: tuple[Path, Path]) -> None:
    """All connections between its processes use TLS."""
    variables = {"RAY_USE_TLS": "1", "RAY_TLS_CA_CERT": "ca.crt", "RAY_TLS_SERVER_CERT": "node.crt"}
    paths = {name: value if value == "1" else str(nodes[0] / value) for name, value in variables.items()}
    paths |= {"RAY_TLS_SERVER_KEY": str(nodes[0] / "node.key"), "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
    words = [sys.executable, "-c", RAY]
    result = subprocess.run(words, capture_output=True, text=True, timeout=120, env=os.environ | paths, check=False)
    assert result.stdout.strip() == "42", result.stderr
