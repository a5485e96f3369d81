"""The dependencies in pyproject.toml, one per line, so that an image can install them before it has the code."""

import tomllib
from pathlib import Path

print("\n".join(tomllib.loads(Path("pyproject.toml").read_text())["project"]["dependencies"]))
