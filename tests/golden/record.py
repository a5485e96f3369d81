"""Record golden results through commands and the files that they leave: `python tests/golden/record.py OUT [PART...]`.

    PYTHONPATH=. python tests/golden/record.py /tmp/golden
    PYTHONPATH=. python tests/golden/record.py /tmp/golden losses doctor

Parts: synthetic, real, losses, doctor, search, artefacts, compatibility; all of them if none is given. Each part leaves
OUT/PART.json, artefacts leaves the folder OUT/old. tests/test_golden.py compares them with the values beside this file.
Nothing here imports a module that could move: only the commands of preprocessing, pipeline and tuning, whose names and
files are a contract. The code that runs is the one on PYTHONPATH.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
OLD = HERE / "old"
RECIPES = ("exact", "ctr", "pyskl")
MODELS = ("cnn", "hcn", "stgcn", "ctrgcn")
NORMS = (("bn", "masked"), ("bn", "loop"), ("gn", "masked"))
# Floating-point results depend on the instruction set and on the number of threads. These variables pin both on any x86
# CPU with AVX2. `main` sets them before torch is loaded; child processes inherit them.
PINS = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "MKL_CBWR": "COMPATIBLE",
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
}
NEUTRAL = "/data/skelnorm-golden"  # stands for the folder in which the artefacts were made

# The smallest networks that every norm accepts, on 16 training clips. The graph networks get fewer frames and joints:
# on the clips of the other two they would take three times as long.
SMALL = ("--model.width", "0.125", "--wandb", "off", "--train.no-self-test")
NTU = (OLD / "clips.h5", "--input.protocol", "xset", "--input.frames", "16")
FEW = (OLD / "few.h5", "--input.frames", "8")
DATA = {"cnn": NTU, "hcn": NTU, "stgcn": FEW, "ctrgcn": FEW}
STEPS = "20"

# The run whose doctor.json is recorded, and which is among the artefacts, finished and interrupted.
LOOP = (
    "--model.width", "0.25", "--input.frames", "16", "--norm.kind", "bn", "--norm.persons", "loop",
    "--norm.momentum", "0.01", "--train.epochs", "12", "--train.eval-every", "3", "--train.batch-size", "16",
    "--wandb", "off", "--train.no-self-test",
)  # fmt: skip
SEARCH = ("--trials", "3", "--epochs", "2", "--grace", "2", "--frames", "16", "--wandb", "off")
STUDY = ("--seeds", "2", "--epochs", "2", "--eval-every", "2", "--frames", "16", "--wandb", "off")
ARMS = """baseline = "loop"
common.model.width = 0.25
[arms.loop]
norm.kind = "bn"
norm.persons = "loop"
norm.momentum = 0.01
[arms."no norm"]
norm.kind = "none"
[arms."per call"]
of = "loop"
variant = "per_call"
"""


def run(module: str, *words: object) -> int:
    """Exit code of `python -m module words`, in this process: torch is loaded once for all trainings."""
    spec = importlib.util.find_spec(module)
    assert spec is not None, module
    name = f"{module}.__main__" if spec.submodule_search_locations else module
    before, sys.argv = sys.argv, [f"python -m {module}", *map(str, words)]
    try:
        code = importlib.import_module(name).main()
    except SystemExit as end:
        code = end.code
    finally:
        sys.argv = before
    return int(code or 0)


def must(module: str, *words: object) -> None:
    """Run a command. RuntimeError where it fails."""
    code = run(module, *words)
    if code:
        raise RuntimeError(f"python -m {module} {' '.join(map(str, words))} ended with exit code {code}.")


def environment() -> dict[str, str]:
    """The environment that floating-point results depend on besides the code."""
    cpu = platform.processor()
    with contextlib.suppress(OSError):
        lines = [line.partition(":") for line in Path("/proc/cpuinfo").read_text().splitlines()]
        facts = {key.strip(): value.strip() for key, _, value in reversed(lines)}
        names = ("vendor_id", "cpu family", "model", "stepping", "model name")
        cpu = ", ".join(facts[name] for name in names if name in facts) or cpu
    versions = {name: importlib.metadata.version(name) for name in ("torch", "optuna")}
    return versions | {"machine": platform.machine(), "cpu": cpu}


def lines(path: Path) -> list[dict[str, Any]]:
    """Whole lines of a JSONL file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def sha256_folder(folder: Path) -> str:
    """One hash over names and bytes of all files."""
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            content = hashlib.sha256(path.read_bytes()).hexdigest()
            total.update(f"{path.relative_to(folder)} {content}\n".encode())
    return total.hexdigest()


def file_facts(path: Path) -> dict[str, Any]:
    """Content hash and split counts of a built file, and a hash per group, which no change of the schema concerns.

    The hash of `frames` is over the arrays' bytes; that of the other groups over their values as JSON.
    """
    import h5py

    facts: dict[str, Any] = {}
    with h5py.File(path) as file:
        facts["content_sha256"] = file.attrs["content_sha256"].decode()
        facts["counts"] = {
            protocol: {part: len(index) for part, index in parts.items()} for protocol, parts in file["splits"].items()
        }
        frames = hashlib.sha256(file["frames/joints"][()].astype("<f4").tobytes())
        frames.update(file["frames/present"][()].astype("?").tobytes())
        facts["frames"] = frames.hexdigest()
        for group in ("bodies", "clips"):
            facts[group] = _hash({name: _plain(array) for name, array in file[group].items()})
        splits = file["splits"].items()
        facts["splits"] = _hash(
            {name: {part: _plain(index) for part, index in parts.items()} for name, parts in splits}
        )
    manifest = json.loads(path.with_suffix(".manifest.json").read_text())
    assert manifest["content_sha256"] == facts["content_sha256"]
    facts["manifest"] = manifest["counts"]
    return facts


def _plain(array: Any) -> list[Any]:
    return [value.decode() if isinstance(value, bytes) else value for value in array[()].tolist()]


def _hash(values: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def build(source: Path, out: Path, *words: object) -> dict[str, Any]:
    """Build one file; return its facts."""
    must("preprocessing.build", source, "--out", out, "--workers", 1, *words)
    return file_facts(out)


def synthetic(out: Path) -> dict[str, Any]:
    """Hash of 40 synthetic clips, and the facts of the file that each recipe makes of them."""
    raw = out / "raw"
    must("preprocessing.synthetic", raw, "--clips", 40, "--seed", 0)
    results: dict[str, Any] = {"raw": sha256_folder(raw)}
    for recipe in RECIPES:
        results[recipe] = build(raw, out / f"{recipe}.h5", "--recipe", recipe, "--allow-rejects")
    swing(out / "swing.npz", 160)
    return results | {"arrays": build(out / "swing.npz", out / "swing.h5")}


def real(out: Path) -> dict[str, Any]:
    """Facts of the files that each recipe makes of the real recordings; hashes and counts only."""
    default = HERE.parents[2] / "shared" / "data"
    raw = Path(os.environ.get("SKELNORM_REAL_DATA", default)) / "ntu_raw"
    if not raw.is_dir():
        raise RuntimeError(f"{raw} does not exist: set SKELNORM_REAL_DATA to the folder of the real recordings.")
    return {recipe: build(raw, out / f"{recipe}.h5", "--recipe", recipe) for recipe in RECIPES}


def swing(path: Path, clips: int, frames: int = 12, joints: int = 10) -> None:
    """Write array clips in which each of four classes swings another joint; every fourth class has two bodies.

    Made of raw random integers and of operations that IEEE 754 rounds exactly: the same bits on every machine.
    """
    import numpy as np

    bits = np.random.PCG64(0)

    def noise(*shape: int) -> Any:
        whole = bits.random_raw(int(np.prod(shape))) >> np.uint64(40)
        return whole.astype(np.float64).reshape(shape) / 2.0**24 - 0.5

    number_N = np.arange(clips)
    label_N = number_N % 4
    t_T = np.arange(frames)
    x_NTMV3 = np.zeros((clips, frames, 2, joints, 3))
    for clip, label in enumerate(label_N):
        for body in range(1 + (label == 3)):
            wave_T = np.abs((t_T + int(8 * (noise(1)[0] + 0.5))) % 8 - 4) / 4 - 0.5
            x_TV3 = np.zeros((frames, joints, 3))
            x_TV3[:, :, 1] = np.arange(joints) / 5 - 0.9
            x_TV3[:, 2 + label, 0] = 0.25 * wave_T
            x_TV3 = (1 + 0.3 * noise(1)[0]) * x_TV3 + 0.12 * noise(frames, joints, 3)
            x_NTMV3[clip, 3 * body :, body] = x_TV3[3 * body :] + np.array([body, 0.0, 3.0])
    np.savez(
        path,
        X=x_NTMV3.reshape(clips * frames, 2, joints, 3).astype(np.float32),
        ptr=np.arange(clips + 1) * frames,
        label=label_N,
        subject=number_N // 4 % 5 + 1,
        view=number_N // 20 % 2,
        name=np.array([f"clip{clip:03d}" for clip in number_N]),
        class_names=np.array([f"swing {label}" for label in range(4)]),
        joint_names=np.array([f"joint {joint}" for joint in range(joints)]),
        bones=np.stack([np.arange(joints - 1), np.arange(1, joints)], axis=1),
    )


def losses(out: Path) -> dict[str, Any]:
    """The first 20 losses of each model and norm, one step per epoch, and the accuracies after them."""
    results = {}
    for model in MODELS:
        for kind, persons in NORMS:
            name = f"{model}-{kind}-{persons}"
            must(
                "pipeline.train", "default", "--out", out / name, "--data", *DATA[model], *SMALL,
                "--model.name", model, "--norm.kind", kind, "--norm.persons", persons,
                "--train.epochs", STEPS, "--train.eval-every", STEPS, "--train.batch-size", 64,
            )  # fmt: skip
            summary = json.loads((out / name / "summary.json").read_text())
            results[name] = {
                "losses": [line["train"]["loss"] for line in lines(out / name / "ledger.jsonl")],
                **{key: summary[key] for key in ("accuracies", "gap", "val", "test")},
            }
    return results


def figures(value: Any, key: str = "") -> Any:
    """A diagnosis without its sentences, which may be reworded: names and numbers as they are, `text` for sentences."""
    if isinstance(value, dict):
        return {name: figures(entry, name) for name, entry in value.items()}
    if isinstance(value, list):
        return [figures(entry) for entry in value]
    if isinstance(value, str) and key not in ("check", "layer", "dtype", "judged"):
        return "text" if value else ""
    return value


def train_loop(data: Path, run_folder: Path) -> int:
    """Train the run that the doctor diagnoses, or resume it."""
    return run("pipeline.train", "default", "--data", data, "--out", run_folder, *LOOP)


def run_facts(run_folder: Path) -> dict[str, Any]:
    """Figures that a run folder holds, without times and paths."""
    timed = ("seconds", "clips_per_second", "evaluation_seconds", "config")
    summary = json.loads((run_folder / "summary.json").read_text())
    return {
        "ledger": [_without(line, timed) for line in lines(run_folder / "ledger.jsonl")],
        "summary": _without(summary, timed),
    }


def _without(values: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in names}


def diagnosed(run_folder: Path) -> dict[str, Any]:
    """The doctor's figures of a run."""
    must("pipeline.doctor", run_folder)
    return dict(figures(json.loads((run_folder / "doctor.json").read_text())))


def doctor(out: Path) -> dict[str, Any]:
    """Figures of a run with BatchNorm in a loop over bodies, and the doctor's figures of it."""
    code = train_loop(OLD / "swing.h5", out / "loop")
    assert code == 0, code
    return {"run": run_facts(out / "loop"), "doctor": diagnosed(out / "loop")}


def search(out: Path) -> dict[str, Any]:
    """Settings that a search of three trials draws, and what each trial measures."""
    command("tuning.search", "--data", OLD / "swing.h5", "--out", out / "study", *SEARCH)
    return {"trials": trials(out / "study")}


def command(module: str, *words: object) -> None:
    """A command in a process of its own: one that starts Ray leaves threads and signal handlers behind."""
    ray = Path("/tmp") / f"golden-ray-{os.getpid()}"  # a short path: Ray puts sockets there
    # One CPU: trials run one after the other, so that the scheduler sees them in one order.
    variables = {"RAY_TMPDIR": str(ray), "RAY_OVERRIDE_RESOURCES": '{"CPU": 1}'}
    ray.mkdir(exist_ok=True)
    try:
        subprocess.run([sys.executable, "-m", module, *map(str, words)], env=os.environ | variables, check=True)
    finally:
        shutil.rmtree(ray, ignore_errors=True)


def trials(study: Path) -> list[dict[str, Any]]:
    """Settings, seed, outcome and measured figures of each trial in a study's ledger, sorted by name."""
    found = []
    for outcome in (line["ended"] for line in lines(study / "ledger.jsonl") if "ended" in line):
        kept = ("accuracies", "gap", "train", "val", "test")
        summary = {name: outcome["summary"][name] for name in kept if name in outcome["summary"]}
        task = {name: outcome["task"][name] for name in ("name", "settings", "seed", "arm")}
        entry = {name: outcome[name] for name in ("outcome", "attempts", "curve", "variants")}
        found.append({"task": task, **entry, "summary": summary})
    return sorted(found, key=lambda entry: str(entry["task"]["name"]))


def artefacts(out: Path) -> dict[str, Any]:
    """Make the folder `old`: three data files, a finished and an interrupted run, a search and a study."""
    old = out.parent / "old"
    old.mkdir()
    must("preprocessing.synthetic", out / "raw", "--clips", 40, "--seed", 0)
    build(out / "raw", old / "clips.h5", "--allow-rejects")
    for name, clips in (("swing", 160), ("few", 40)):
        swing(out / f"{name}.npz", clips)
        build(out / f"{name}.npz", old / f"{name}.h5")
    data = old / "swing.h5"
    assert train_loop(data, old / "runs" / "finished") == 0
    diagnosed(old / "runs" / "finished")
    _interrupt(data, old / "runs" / "interrupted")
    command("tuning.search", "--data", data, "--out", old / "search", *SEARCH)
    (old / "arms.toml").write_text(ARMS)
    command("tuning.study", "--data", data, "--out", old / "study", "--arms", old / "arms.toml", *STUDY)
    for path in (*old.rglob("trials"), *old.rglob("wandb")):
        shutil.rmtree(path)
    for path in (*old.rglob("report.html"), *old.rglob("lock"), *old.rglob(".*")):
        path.unlink()
    for path in old.rglob("*"):
        if path.suffix in (".json", ".jsonl", ".csv"):
            text = path.read_text()
            for made, neutral in ((old, NEUTRAL), (out, "/data/raw")):
                text = text.replace(str(made.resolve()), neutral).replace(str(made), neutral)
            path.write_text(text)
    return {"files": sorted(str(path.relative_to(old)) for path in old.rglob("*") if path.is_file())}


def _interrupt(data: Path, run_folder: Path) -> None:
    """Train with a SIGINT after the third checkpoint."""
    pointer, ended = run_folder / "checkpoint.json", threading.Event()

    def watch() -> None:
        while not ended.is_set():
            if pointer.exists() and json.loads(pointer.read_text())["epoch"] >= 3:
                os.kill(os.getpid(), signal.SIGINT)
                return
            time.sleep(0.0005)

    watcher = threading.Thread(target=watch)
    watcher.start()
    code = train_loop(data, run_folder)
    ended.set()
    watcher.join()
    if code != 130:
        raise RuntimeError(f"The training was not interrupted: exit code {code}. Delete the folder and record again.")


def compatibility(out: Path) -> dict[str, Any]:
    """Open what an older version has left: verify, resume, diagnose, show, go on."""
    old = out / "moved"
    shutil.copytree(OLD, old)
    data, runs = old / "swing.h5", old / "runs"
    results: dict[str, Any] = {name: file_facts(old / f"{name}.h5") for name in ("clips", "swing")}
    for name in ("clips", "swing"):
        must("preprocessing.verify", old / f"{name}.h5")
    results["epochs before"] = len(lines(runs / "interrupted" / "ledger.jsonl"))
    # The doctor and the page find the data although no path in the run folder exists here.
    (runs / "finished" / "doctor.json").unlink()
    results["doctor"] = diagnosed(runs / "finished")
    must("pipeline.page", runs / "finished", "--study", old / "search", "--out", out / "page.html")
    (runs / "finished" / "summary.json").unlink()
    for name in ("finished", "interrupted"):
        results[f"{name} exit code"] = train_loop(data, runs / name)
        results[name] = run_facts(runs / name)
    for study in ("search", "study"):
        (old / study / "results.json").unlink()
    must("tuning.search", "--data", data, "--out", old / "search", *SEARCH)
    must("tuning.study", "--data", data, "--out", old / "study", "--arms", old / "arms.toml", *STUDY)
    for study in ("search", "study"):
        results[study] = _without(json.loads((old / study / "results.json").read_text()), ("command",))
    pages = (out / "page.html", old / "search" / "report.html", old / "study" / "report.html")
    results["pages"] = {str(page.relative_to(out)): page.stat().st_size > 10_000 for page in pages}
    return results


PARTS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "synthetic": synthetic,
    "real": real,
    "artefacts": artefacts,
    "losses": losses,
    "doctor": doctor,
    "search": search,
    "compatibility": compatibility,
}


def main() -> int:
    """Record the parts that are named, all if none is; return the exit code."""
    if len(sys.argv) < 2 or not set(sys.argv[2:]) <= set(PARTS):
        print(f"usage: python {Path(__file__).name} OUT_FOLDER [{'|'.join(PARTS)}]...", file=sys.stderr)
        return 2
    os.environ.update(PINS)
    out = Path(sys.argv[1]).resolve()
    for part in sys.argv[2:] or PARTS:
        folder = out / part
        folder.mkdir(parents=True)
        began = time.monotonic()
        results = PARTS[part](folder)
        document = {"environment": environment(), "results": results}
        (out / f"{part}.json").write_text(json.dumps(document, indent=1) + "\n")
        print(f"{part}: {time.monotonic() - began:.1f} s", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
