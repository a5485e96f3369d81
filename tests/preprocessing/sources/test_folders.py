"""Class, subject and part by folders."""

import pytest

from preprocessing.sources.folders import AmbiguousFolders, FolderFacts, folder_facts


@pytest.mark.parametrize(
    ("paths", "facts"),
    [
        (["a.csv", "b.csv"], FolderFacts()),
        (["data/a.csv", "data/b.csv"], FolderFacts()),
        (["wave/a.csv", "jump/a.csv"], FolderFacts(["wave", "jump"])),
        (["d/wave/s1/a.csv", "d/jump/s2/a.csv"], FolderFacts(["wave", "jump"], [1, 2])),
        (["person 03/wave/a", "person 10/jump/a"], FolderFacts(["wave", "jump"], [3, 10])),
        (["Train/wave/a", "validation/jump/a"], FolderFacts(["wave", "jump"], [], ["train", "val"])),
        (["wave/a.csv", "x/jump/a.csv"], FolderFacts(["wave", "jump"])),
        (["a.csv", "x/b.csv"], FolderFacts()),
    ],
)
def test_levels_at_which_clips_differ_are_the_class_the_subject_and_the_part(
    paths: list[str], facts: FolderFacts
) -> None:
    assert folder_facts(paths) == facts


def test_two_levels_that_may_be_the_class_are_not_chosen_between() -> None:
    with pytest.raises(AmbiguousFolders, match="two levels of folders may be the class"):
        folder_facts(["wave/indoors/a", "jump/outdoors/b"])
