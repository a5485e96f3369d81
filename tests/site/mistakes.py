"""Write tests/bench/results/mistakes.md from the mistakes that tests/test_messages.py makes.

python tests/site/mistakes.py > tests/bench/results/mistakes.md
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import sys
import tempfile
from pathlib import Path

HEAD = """\
# Mistakes and their messages

What a command prints to standard error, in one line, with exit code 2 (6: a damaged file); nothing is written.
`a.h5` is a data file, `raw` a folder of recordings, `file` a text file.
[Troubleshooting](../../../pipeline/TROUBLESHOOTING.md) has causes and remedies of further messages. Generated:
`python tests/site/mistakes.py > tests/bench/results/mistakes.md`.

| command: `python -m ...` | answer |
|---|---|
"""


def row(command: str, line: str) -> str:
    """Return the table's row for a command and its one line."""
    message = line.removeprefix("error: ").replace(f"{Path.cwd()}/", "").replace("|", "\\|").replace("`", "'")
    return f"| `{command.replace('.__main__', '')}` | `{message}` |"


def answers(commands: list[str]) -> dict[str, str]:
    """Run commands in the working folder; return the error line of each."""
    found = {}
    for command in commands:
        module, *sys.argv[1:] = command.split()
        sys.argv[0] = f"{module}.py"
        errors = io.StringIO()
        with contextlib.redirect_stderr(errors), contextlib.suppress(SystemExit):
            importlib.import_module(module).main()
        (found[command],) = (line for line in errors.getvalue().splitlines() if line.startswith("error: "))
    return found


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))
    from tests.test_messages import MISTAKES, prepare

    with tempfile.TemporaryDirectory() as name:
        prepare(Path(name))
        os.chdir(name)
        rows = [row(command, line) for command, line in answers(list(MISTAKES)).items()]
    print(HEAD + "\n".join(rows))
