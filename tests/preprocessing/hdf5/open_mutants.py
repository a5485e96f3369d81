"""Open damaged copies of a data file in a process of its own: `python open_mutants.py FILE FIRST END`.

Prints `SEED begin`, then `SEED OUTCOME DETAIL`: refused (an IntegrityError), equal (it opens, with the content of the
intact file), wrong (another content), foreign (another exception). A crash of the HDF5 library ends the process between
the two lines.
"""

import random
import resource
import sys
import tempfile
from pathlib import Path

import h5py
import numpy as np

from preprocessing.files import IntegrityError
from preprocessing.hdf5 import SkeletonFile, open_file, verify
from preprocessing.hdf5.schema import ATTRIBUTES

MEMORY = 1 << 30  # bytes that a mutant may take beyond what the interpreter has
WORDS = [0, 1, 0xFF, 0x7FFF_FFFF, 0xFFFF_FFFF, 1 << 40, (1 << 63) - 1, (1 << 64) - 1]


def metadata(path: Path) -> list[int]:
    """Offsets of all bytes that belong to no array."""
    used = bytearray(path.stat().st_size)
    with h5py.File(path, "r") as file:

        def visit(_: str, item: object) -> None:
            if isinstance(item, h5py.Dataset) and item.size:
                first = item.id.get_offset()
                used[first : first + item.nbytes] = b"\1" * item.nbytes

        file.visititems(visit)
    return [at for at, taken in enumerate(used) if not taken]


def mutant(content: bytes, places: list[int], seed: int) -> bytes:
    """One damage, or several, most of them in the metadata."""
    rng, made = random.Random(seed), bytearray(content)
    for _ in range(rng.choice([1, 1, 1, 2, 5])):
        at = rng.choice(places) if rng.random() < 0.8 else rng.randrange(len(content))
        kind = rng.choice(["bit", "bit", "byte", "word", "garble", "zero", "copy", "cut"])
        if kind == "bit":
            made[at % len(made)] ^= 1 << rng.randrange(8)
        elif kind == "byte":
            made[at % len(made)] = rng.choice([0, 1, 2, 0x7F, 0x80, 0xFE, 0xFF])
        elif kind == "cut":
            del made[max(1, at) :]
        else:
            size = {"word": 8, "garble": 64, "zero": 512, "copy": 128}[kind]
            size = max(0, min(size, len(made) - at))
            other = rng.randrange(max(1, len(content) - size))
            new = {
                "word": rng.choice(WORDS).to_bytes(8, "little")[:size],
                "garble": rng.randbytes(size),
                "zero": bytes(size),
                "copy": content[other : other + size],
            }[kind]
            made[at : at + size] = new
    return bytes(made)


def values(file: SkeletonFile) -> dict[str, object]:
    """All that a file says."""
    arrays = {"joints": file.joints_RV3, "present": file.present_R, **file.clips}
    arrays |= {f"body_{key}": getattr(file, f"body_{key}") for key in ("clip", "slot", "start")}
    arrays |= {f"{name}/{part}": x for name, parts in file.splits.items() for part, x in parts.items()}
    arrays["bones"] = file.bones
    plain = {key: getattr(file, key) for key in ATTRIBUTES if key not in ("schema", "bones")}
    return plain | {key: (np.asarray(x).tobytes(), x.dtype.kind, x.shape) for key, x in arrays.items()}


def outcome(path: Path, intact: dict[str, object]) -> str:
    """How a damaged file is opened and verified."""
    try:
        file = open_file(path)
    except IntegrityError as error:
        return f"refused {error}"
    except Exception as error:
        return f"foreign {type(error).__name__}: {error}"
    try:
        faults = verify(path)
    except Exception as error:
        return f"foreign in verify {type(error).__name__}: {error}"
    return "equal" if values(file) == intact and not faults else f"wrong {faults}"


def main() -> None:
    """Open the mutants of these seeds."""
    path, first, end = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    content, places, intact = path.read_bytes(), metadata(path), values(open_file(path))
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    with tempfile.TemporaryDirectory() as folder:
        damaged = Path(folder) / "a.h5"
        for seed in range(first, end):
            print(seed, "begin", flush=True)
            damaged.write_bytes(mutant(content, places, seed))
            print(seed, " ".join(outcome(damaged, intact).split()), flush=True)


if __name__ == "__main__":
    main()
