"""Write docker/lock/{cpu,cuda,torch-cpu}.txt: every wheel of the image, at the versions of constraints.txt, by sha256.

    python docker/lock.py REPORT.json...     (one report per platform, see docker/README.md)

A report is the output of `pip install --dry-run --report` about PyPI's wheels for one platform. The CPU build of
torch is on an index of its own, and so in a file of its own: pip reads one index at a time, so that a package of the
same name on another one is never taken.
"""

import json
import re
import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

LOCK = Path(__file__).parent / "lock"
# Wheels of https://download.pytorch.org/whl/cpu; take the hashes of another version from its page.
TORCH = {
    "torch==2.13.0+cpu": (
        "84453b69508ec79902f899c5ed9495acb9e2bbe9fda5f1d5d6f19e3c3842e1a7",  # aarch64
        "6746dbcbeb526eb61330b76b41ff1b4eb848951103a892eeb080dfa2b264667b",  # x86_64
    )
}
# What the CUDA build of torch needs and the CPU build does not.
CUDA = re.compile(r"torch|triton|nvidia-.*|cuda-.*")


def wheels(reports: Iterable[Path]) -> dict[str, set[str]]:
    """Return `name==version` -> hashes of the wheels that pip chose on any of the platforms."""
    found = defaultdict(set)
    for report in reports:
        for package in json.loads(report.read_text())["install"]:
            name = re.sub(r"[-_.]+", "-", package["metadata"]["name"]).lower()
            sha256 = package["download_info"]["archive_info"]["hashes"]["sha256"]
            found[f"{name}=={package['metadata']['version']}"].add(sha256)
    return found


def lines(packages: dict[str, Iterable[str]]) -> str:
    """Return a requirements file with hashes."""
    entries = (
        " \\\n".join([name, *(f"    --hash=sha256:{one}" for one in sorted(hashes))])
        for name, hashes in sorted(packages.items())
    )
    return "".join(f"{entry}\n" for entry in entries)


def main() -> None:
    """Write the three files."""
    every = wheels(map(Path, sys.argv[1:]))
    cpu = {name: hashes for name, hashes in every.items() if not CUDA.fullmatch(name.partition("==")[0])}
    LOCK.mkdir(exist_ok=True)
    for name, packages in (("cuda", every), ("cpu", cpu), ("torch-cpu", TORCH)):
        (LOCK / f"{name}.txt").write_text(lines(packages))


if __name__ == "__main__":
    main()
