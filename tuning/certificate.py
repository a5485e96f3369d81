"""Certificates for Ray's TLS where a cluster's network is shared: an authority, and a certificate per node.

    python -m tuning.certificate authority ~/.ray/tls               # once, on your machine: ca.crt, ca.key
    python -m tuning.certificate node ~/.ray/tls --address 10.0.0.7  # on each node: node.crt, node.key beside them

A node's certificate is valid for 127.0.0.1, its host name, its own address and those that are given. Ray finds them
through RAY_USE_TLS=1, RAY_TLS_CA_CERT, RAY_TLS_SERVER_CERT and RAY_TLS_SERVER_KEY, which every process needs that joins
the cluster, so that a client without a certificate of this authority is rejected. `ca.key` makes certificates: keep it
as you keep the token.
"""

from __future__ import annotations

import argparse
import ipaddress
import os
import socket
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from preprocessing import exits

DAYS = 365
DAY = timedelta(days=1)


def authority(folder: Path) -> None:
    """Make a new authority in `folder`. FileExistsError if it has one: nodes would no longer accept each other."""
    if (folder / "ca.key").exists():
        raise FileExistsError(f"{folder / 'ca.key'} exists: delete it to make a new authority, then renew every node")
    key, name = ec.generate_private_key(ec.SECP256R1()), _name("skelnorm cluster")
    builder = _certificate(name, name, key).add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    _write(folder, "ca", builder.sign(key, hashes.SHA256()), key)


def node(folder: Path, addresses: Sequence[str]) -> None:
    """Make this node's certificate, signed by the authority in `folder`, valid for its addresses."""
    issuer = x509.load_pem_x509_certificate((folder / "ca.crt").read_bytes())
    signer = serialization.load_pem_private_key((folder / "ca.key").read_bytes(), None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    key, host = ec.generate_private_key(ec.SECP256R1()), socket.gethostname()
    names = [x509.DNSName(name) for name in dict.fromkeys(("localhost", host))]
    every = dict.fromkeys(("127.0.0.1", *_own_addresses(), *addresses))
    numbers = [x509.IPAddress(ipaddress.ip_address(address)) for address in every]
    builder = (
        _certificate(_name(host[:64]), issuer.subject, key)
        .add_extension(x509.SubjectAlternativeName([*names, *numbers]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    )
    _write(folder, "node", builder.sign(signer, hashes.SHA256()), key)


def _own_addresses() -> list[str]:
    """Return the address from which this machine reaches others; none without a network. Nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
            return [str(probe.getsockname()[0])]
        except OSError:
            return []


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _certificate(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey
) -> x509.CertificateBuilder:  # fmt: skip
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - DAY)  # clocks of nodes differ
        .not_valid_after(now + DAYS * DAY)
    )


def _write(folder: Path, name: str, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    text = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path = folder / f"{name}.key"
    path.unlink(missing_ok=True)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(text)
    (folder / f"{name}.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))


def main() -> int:
    """Run `python -m tuning.certificate`; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=("authority", "node"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--address", action="append", default=[], help="further address of the node; may be repeated")
    options = parser.parse_args()
    try:
        if options.kind == "authority":
            authority(options.folder)
        else:
            node(options.folder, options.address)
    except (OSError, ValueError) as error:
        return exits.report(error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
