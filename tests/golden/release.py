"""Make the files of this release that later releases must open: `python tests/golden/release.py NAME`.

    PYTHONPATH=. python tests/golden/release.py 0.2

Run it once, when a release is made, and commit tests/golden/releases/NAME: data files of both schemas, a finished and
an interrupted run, a model folder, an ensemble file and a study, under 300 kB. tests/test_releases.py opens them.
Everything is made by commands, in a folder whose name tells nothing of the machine.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
PLACE = Path("/tmp/skelnorm-golden")
TRAIN = (
    "--model.width", "0.0625", "--input.frames", "8", "--norm.kind", "bn", "--norm.persons", "loop", "--train.epochs",
    "3", "--train.eval-every", "1", "--train.batch-size", "8", "--wandb", "off", "--train.no-self-test",
)  # fmt: skip
STUDY = ("--seeds", "2", "--epochs", "1", "--eval-every", "1", "--frames", "8", "--wandb", "off")
ARMS = """baseline = "loop"
common.model.width = 0.125
[arms.loop]
norm.kind = "bn"
norm.persons = "loop"
[arms."no norm"]
norm.kind = "none"
"""


def call(module: str, *words: object, code: int = 0, **variables: str) -> None:
    """Run a command; another exit code ends this program."""
    command = [sys.executable, "-m", module, *map(str, words)]
    result = subprocess.run(command, env=os.environ | variables, check=False)  # noqa: S603
    if result.returncode != code:
        raise SystemExit(f"{module} ended with {result.returncode}, not {code}")


def clips(path: Path, gaps: bool) -> None:
    """Write 30 array clips in which each of three classes swings another joint."""
    rng, clips, frames, joints = np.random.default_rng(0), 30, 8, 8
    number_N, t_T = np.arange(clips), np.arange(frames)
    x_NTMV3 = np.zeros((clips, frames, 2, joints, 3))
    x_NTMV3[:, :, 0, :, 1] = np.arange(joints) / 5 + 1
    for clip in range(clips):
        x_NTMV3[clip, :, 0, 2 + clip % 3, 0] = np.sin(t_T + clip)
    x_NTMV3[:, :, 0] += 0.05 * rng.normal(size=(clips, frames, joints, 3)) + [0, 0, 3]
    if gaps:
        x_NTMV3[:, 2, 0, 4] = np.nan
    np.savez(
        path,
        X=x_NTMV3.reshape(clips * frames, 2, joints, 3).astype(np.float32),
        ptr=np.arange(clips + 1) * frames,
        label=number_N % 3,
        subject=number_N // 3 % 5 + 1,
        name=np.array([f"clip{clip:03d}" for clip in number_N]),
        class_names=np.array(["swing 0", "swing 1", "swing 2"]),
        joint_names=np.array([f"joint {joint}" for joint in range(joints)]),
        bones=np.stack([np.arange(joints - 1), np.arange(1, joints)], axis=1),
    )


def main() -> int:
    """Make the files; return the exit code."""
    if len(sys.argv) != 2 or (HERE / "releases" / sys.argv[1]).exists():
        print("usage: python tests/golden/release.py NAME, of a release that is not there yet", file=sys.stderr)
        return 2
    shutil.rmtree(PLACE, ignore_errors=True)
    PLACE.mkdir(parents=True)
    os.chdir(PLACE)
    for name, gaps in (("clips", False), ("gaps", True)):
        clips(Path(f"{name}.npz"), gaps)
        call("preprocessing.build", f"{name}.npz", "--out", f"{name}.h5", "--workers", 1)
        Path(f"{name}.npz").unlink()
    train = ("pipeline.train", "default", "--data", "clips.h5", *TRAIN)
    call(*train, "--out", "runs/finished")
    call("pipeline.doctor", "runs/finished")
    call(*train, "--out", "runs/interrupted", code=-9, SKELNORM_FAULT_AT="pointer published:1")
    call("pipeline.share", "runs/finished", "--out", "model")
    shutil.copytree("runs/finished", "runs/again")
    call("pipeline.ensemble", "runs/finished", "runs/again", "--out", "together.json")
    shutil.rmtree("runs/again")
    Path("arms.toml").write_text(ARMS)
    call("tuning.study", "--data", "clips.h5", "--out", "study", "--arms", "arms.toml", *STUDY)
    for path in [*PLACE.rglob("trials"), *PLACE.rglob("wandb"), *PLACE.rglob("evaluations")]:
        shutil.rmtree(path, ignore_errors=True)
    for path in [*PLACE.rglob("report.html"), *PLACE.rglob("lock"), *PLACE.rglob(".*")]:
        path.unlink(missing_ok=True)
    shutil.copytree(PLACE, HERE / "releases" / sys.argv[1])
    shutil.rmtree(PLACE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
