"""Find out why the batch norms of your model evaluate badly, and prove it.

factory() of your module returns (model, train loader, evaluation loader), or a dictionary with the keys model, train
and, if needed, eval, and any argument of normdoctor.diagnose: forward, metric, rows, groups, history, ...
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from . import checkpoint
from .calling import first_line
from .diagnosis import Diagnosis, diagnose
from .page import environment

EXAMPLES = """
examples:
  %(prog)s train:doctor                                      # train.py holds: def doctor(): return model, train, val
  %(prog)s train:doctor --checkpoint last.ckpt               # tensors alone are read (weights_only)
  %(prog)s train:doctor --checkpoint last.ckpt --html doctor.html
  %(prog)s train:doctor --json doctor.json --repaired fixed.pt   # normdoctor.load_repaired reads the latter

exit codes: 0 a diagnosis was made, 2 wrong usage, 6 damaged checkpoint, 130 interrupted.
"""
USAGE, INTEGRITY, INTERRUPTED = 2, 6, 130
# Keys of the dictionary that a factory may return.
LOADERS = ("model", "train", "eval")
ARGUMENTS = ("forward", "metric", "rows", "groups", "history", "higher_is_better", "samples", "batches")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `python -m normdoctor` and return the exit code."""
    options = parser().parse_args(arguments)
    try:
        require_writable(options)
        model, train, held_out, more = made(options.factory)
        if options.checkpoint is not None:
            model, taken = checkpoint.load_checkpoint(model, options.checkpoint)
            model.eval()
            print(f"{options.checkpoint} loaded{f' without {taken}' if taken else ''}", file=sys.stderr)
        diagnosis = diagnose(model, train, held_out, **more)
        print(diagnosis)
        write(diagnosis, options)
    except checkpoint.Damaged as error:
        return failed(error, INTEGRITY)
    except (ValueError, OSError, ImportError) as error:
        return failed(error, USAGE)
    except KeyboardInterrupt:
        return failed("interrupted", INTERRUPTED)
    return 0


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command's arguments."""
    name = "normdoctor" if Path(sys.argv[0]).stem == "normdoctor" else f"python -m {__package__}"
    parser = argparse.ArgumentParser(
        name, description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("factory", metavar="module:factory", help="function that makes the model and its loaders")
    parser.add_argument("--checkpoint", metavar="FILE", type=Path, help="state dict to load into the model")
    parser.add_argument("--html", metavar="PAGE", type=Path, help="write the diagnosis as a page (extra `page`)")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the diagnosis as JSON")
    parser.add_argument("--repaired", metavar="FILE", type=Path, help="write the repaired model's state dict")
    return parser


def failed(error: object, code: int) -> int:
    """Print an error in one line and return the exit code."""
    print(f"error: {error}", file=sys.stderr)
    return code


def require_writable(options: argparse.Namespace) -> None:
    """Reject what would fail after the measurements.

    Raises:
        ValueError: A file's folder does not exist, or a page has another suffix than .html.
        ImportError: The page's extra is missing.
    """
    for name in ("html", "json", "repaired"):
        path = getattr(options, name)
        if path is not None and not path.resolve().parent.is_dir():
            raise ValueError(f"--{name} {path}: the folder {path.parent} does not exist. Create it first.")
    if options.html is not None:
        if options.html.suffix != ".html":
            raise ValueError(f"--html {options.html} must end in .html.")
        environment()


def made(name: str) -> tuple[nn.Module, Any, Any, dict[str, Any]]:
    """Call a factory, and return model, training loader, evaluation loader or None, and arguments of `diagnose`.

    Raises:
        ValueError: In one line: it cannot be found or called, or returns something else.
    """
    module_name, _, factory_name = name.partition(":")
    if not module_name or not factory_name or module_name.endswith(".py") or "/" in module_name:
        suggestion = f"{Path(module_name).stem or 'train'}:{factory_name or 'doctor'}"
        raise ValueError(f"{name!r} does not name a function: write module:factory, such as {suggestion}.")
    sys.path.insert(0, str(Path.cwd()))
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and error.name in (module_name, module_name.partition(".")[0]):
            raise ValueError(
                f"There is no module {module_name!r} in {Path.cwd()} or among the installed ones: run the command in "
                "the folder that holds it."
            ) from None
        how = f"python -c 'import {module_name}'"
        raise ValueError(f"Importing {module_name} fails with {_told(error)}. See the traceback: {how}.") from error
    factory = getattr(module, factory_name, None)
    if not callable(factory):
        names = [
            key
            for key, value in vars(module).items()
            if callable(value) and getattr(value, "__module__", "") == module_name
        ]
        raise ValueError(f"{module_name} has no function {factory_name!r}: it has {', '.join(names) or 'none'}.")
    try:
        result = factory()
    except Exception as error:
        call = f"python -c 'import {module_name}; {module_name}.{factory_name}()'"
        raise ValueError(f"{name} fails with {_told(error)}. See the traceback: {call}.") from error
    return unpacked(name, result)


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {first_line(error).rstrip('.')}"


def unpacked(name: str, result: Any) -> tuple[nn.Module, Any, Any, dict[str, Any]]:
    """Return the parts of what a factory returned, as `made` does."""
    expected = f"return (model, train loader, evaluation loader), or a dictionary with {', '.join(LOADERS)}"
    if isinstance(result, dict):
        if unknown := sorted(set(result) - {*LOADERS, *ARGUMENTS}):
            allowed = ", ".join((*LOADERS, *ARGUMENTS))
            raise ValueError(f"{name} returns the unknown key {unknown[0]!r}: allowed are {allowed}.")
        if missing := [key for key in LOADERS[:2] if key not in result]:
            raise ValueError(f"{name} returns a dictionary without {missing[0]!r}: {expected}.")
        more = {key: value for key, value in result.items() if key in ARGUMENTS}
        model, train, held_out = result["model"], result["train"], result.get("eval")
    elif (count := len(result) if isinstance(result, tuple | list) else None) in (2, 3):
        model, train, held_out = [*result, None][:3]
        more = {}
    else:
        of = "" if count is None else f" of {count}"
        raise ValueError(f"{name} returns a {type(result).__name__}{of}: {expected}.")
    if not isinstance(model, nn.Module):
        raise ValueError(f"{name} returns a {type(model).__name__} as the model: it must be a torch.nn.Module.")
    return model, train, held_out, more


def write(diagnosis: Diagnosis, options: argparse.Namespace) -> None:
    """Write the files that were asked for, and print their paths."""
    if options.json is not None:
        options.json.write_text(json.dumps(diagnosis.as_dict(), indent=1) + "\n", encoding="utf-8")
        print(f"written: {options.json}")
    if options.html is not None:
        print(f"written: {diagnosis.page(options.html)}")
    if options.repaired is not None and diagnosis.remedy is None:
        print("nothing to repair: no remedy is proven")
    elif options.repaired is not None:
        torch.save(diagnosis.repaired().state_dict(), options.repaired)
        print(f"written: {options.repaired} (remedy: {diagnosis.remedy})")
    elif diagnosis.remedy is not None:
        print("Write the repaired model with --repaired FILE.")


if __name__ == "__main__":
    sys.exit(main())
