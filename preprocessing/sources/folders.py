"""Facts that folders tell about their clips: the class, the subject, and the part of a split."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

PARTS = ("train", "val", "test")
PART_WORDS = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
_SUBJECT = re.compile(r"(?:s|p|subj|subject|person|actor|participant)[ _-]?0*(\d+)", re.IGNORECASE)


class FolderFacts(NamedTuple):
    """Facts of N clips; an empty list where folders do not tell."""

    labels: list[str] = []
    subjects: list[int] = []
    parts: list[str] = []


class AmbiguousFolders(ValueError):
    """Two levels of folders could be the class."""


def folder_facts(paths: Sequence[str]) -> FolderFacts:
    """Return what the folders of clips say, by those levels at which the folders of clips differ.

    Levels named train, val and test are a split, and levels named s1, s2 or person 3 are subjects. The one that is
    left is the class.

    Args:
        paths: Path of each clip inside its tree, with forward slashes.

    Raises:
        AmbiguousFolders: Two levels are left.
    """
    folders = [path.split("/")[:-1] for path in paths]
    depth = max((len(one) for one in folders), default=0)
    if any(len(one) != depth for one in folders):  # only the last folder can be compared
        folders = [one[-1:] for one in folders]
        depth = int(all(folders))
    parts: list[str] = []
    subjects: list[int] = []
    classes: list[list[str]] = []
    for level in range(depth):
        names = [one[level] for one in folders]
        if len(set(names)) < 2:
            continue
        if not parts and all(name.lower() in PART_WORDS for name in names):
            parts = [PART_WORDS[name.lower()] for name in names]
        elif not subjects and (numbers := [_SUBJECT.fullmatch(name) for name in names]) and all(numbers):
            subjects = [int(number[1]) for number in numbers if number]
        else:
            classes.append(names)
    if len(classes) > 1:
        first, second = (", ".join(sorted(set(names))[:2]) + ", ..." for names in classes[:2])
        raise AmbiguousFolders(f"two levels of folders may be the class ({first} and {second})")
    return FolderFacts(classes[0] if classes else [], subjects, parts)
