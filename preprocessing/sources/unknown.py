"""Messages for paths that no reader accepts: what the content is, and the next step."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from preprocessing.sources.delimited import decode
from preprocessing.sources.trees import POINTER, Item, Tree

_MAGIC: tuple[tuple[bytes, str], ...] = (
    (
        b"\x89HDF\r\n\x1a\n",
        "is an HDF5 file. If python -m preprocessing.build made it, pass it to pipeline.train --data",
    ),
    (b"\x1f\x8b", "is a gzip archive. Unpack it (tar -xzf or gunzip) and name the folder"),
    (b"7z\xbc\xaf\x27\x1c", "is a 7z archive. Unpack it and name the folder"),
    (b"Rar!", "is a RAR archive. Unpack it and name the folder"),
    (b"BZh", "is a bzip2 archive. Unpack it (tar -xjf) and name the folder"),
    (b"\xfd7zXZ\x00", "is an xz archive. Unpack it (tar -xJf) and name the folder"),
    (b"RIFF", "is a video or an audio file"),
    (b"\x1a\x45\xdf\xa3", "is a video"),
    (b"\x89PNG", "is a picture"),
    (b"\xff\xd8\xff", "is a picture"),
    (b"%PDF", "is a PDF document"),
    (b"MATLAB 7.3", "is a MATLAB 7.3 file. Save it with -v7, or export a CSV table"),
    (b"<!DOCTYPE", "is an HTML page, not data: the download asked for a login or failed. Download it in a browser"),
    (b"<html", "is an HTML page, not data: the download asked for a login or failed. Download it in a browser"),
    (POINTER, "is a Git LFS pointer, not the data. Fetch the data with git lfs pull"),
)
VIDEOS = (".avi", ".mp4", ".mkv", ".mov", ".webm", ".mpg", ".mpeg")
PICTURES = (".png", ".jpg", ".jpeg", ".bmp")
ESTIMATE = "Estimate poses first, with MediaPipe or OpenPose, and name the folder of their results."


COMPRESSED = (".gz", ".bz2", ".xz", ".zst", ".7z", ".rar", ".tar", ".tgz")


def foreign(tree: Tree) -> str:
    """Return one line about a file that no format can be, whatever its suffix; empty for any other path."""
    if tree.is_folder or tree.is_zip:
        return ""
    if tree.head[4:8] == b"ftyp" or tree.path.suffix.lower() in VIDEOS:
        return f"{tree.path} is a video, not a skeleton. {ESTIMATE}"
    return next((_by_magic(tree.path, what) for magic, what in _MAGIC if tree.head.startswith(magic)), "")


def _by_magic(path: Path, what: str) -> str:
    step = f". {ESTIMATE}" if what.endswith(("video", "file", "picture")) else "."
    return f"{path} {what}{step}"


def describe(tree: Tree, formats: str) -> str:
    """Return one line: what a path is, and what to do with it."""
    path = tree.path
    if not tree.is_folder and not tree.is_zip:
        return _file(tree, formats)
    counts = Counter(item.suffix for item in tree.items)
    if not counts:
        return f"no .skeleton files or other recordings in {path}: it is empty"
    if any(suffix in counts for suffix in VIDEOS + PICTURES):
        return f"{path} holds videos or pictures, not skeletons. {ESTIMATE}"
    if counts[".zip"]:
        step = "Unpack it and name the zips in it." if tree.is_zip else f"Name the zips themselves: {path}/*.zip"
        return f"{path} holds zips. {step}"
    if packed := next((suffix for suffix in COMPRESSED if counts[suffix]), ""):
        step = f"Unpack them first (gunzip -r {path})." if packed == ".gz" and tree.is_folder else "Unpack them first."
        return f"{path} holds {counts[packed]} compressed files, such as {tree.having(packed)[0].name}. {step}"
    if lines := tree.having(".jsonl", ".ndjson"):
        return (
            f"{path} holds JSON lines, such as {lines[0].name}. Make each file one list: jq -s . FILE.jsonl > FILE.json"
        )
    for suffix in (".npz", ".pkl", ".npy", ".h5"):
        if counts[suffix]:
            return f"{path} holds {suffix} files. Name one of them: {tree.having(suffix)[0].origin}"
    if tables := tree.having(".csv", ".tsv"):
        return f"{path} holds {tables[0].suffix} files that are not tables of joints. {_header(tables)}"
    found = ", ".join(f"{count} {suffix or 'without suffix'}" for suffix, count in counts.most_common(3))
    return f"no .skeleton files or other recordings in {path} ({found}). {formats}"


def _header(tables: list[Item]) -> str:
    """Return what the first line of a table is, and what it should be."""
    for item in tables:
        try:
            line = decode(item.read(), item.origin).partition("\n")[0].strip()
        except ValueError as error:
            return str(error)
        if line:
            return (
                f"The first line of {item.origin} is {line[:60]!r}: must be a header such as frame,joint,x,y,z or"
                " x0,y0,z0,x1,..."
            )
    return "They are empty. Copy or download them again."


def _file(tree: Tree, formats: str) -> str:
    path, head = tree.path, tree.head
    if not head:
        return f"{path} is empty. Copy or download it again."
    if known := foreign(tree):
        return known
    if path.suffix.lower() == ".zip":
        return f"{path} is a damaged or truncated zip. Download or copy it again, and compare its size."
    if path.suffix.lower() == ".npz":
        return f"{path} is not a readable array file. Save it again with numpy.savez, or copy it again."
    if path.suffix.lower() in (".pkl", ".pickle"):
        return f"{path} is a pickle of unknown contents. {formats}"
    if path.suffix.lower() in (".csv", ".tsv"):
        return f"{path} is not a table of joints. {_header(list(tree.items))}"
    if head.lstrip()[:1] in (b"{", b"["):
        return f"{path} is JSON of an unknown kind. {formats}"
    return f"{path} is not a recording of a known format. {formats}"
