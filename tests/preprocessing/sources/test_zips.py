"""Members of a zip are read in place; damaged and oversized ones are rejected."""

import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from preprocessing.skeleton import SkeletonError
from preprocessing.sources import SourceError, open_sources, trees, zips

Text = Callable[..., bytes]
Person = Callable[..., np.ndarray]
NAME = "S001C001P001R001A001.skeleton"


def pack(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def test_a_zip_bomb_is_never_expanded(tmp_path: Path) -> None:
    packed = pack(tmp_path / "a.zip", {NAME: b" " * (4 << 20)})
    with pytest.raises(SkeletonError, match="too-compressed"):
        open_sources([packed]).entries[0].read()


def test_a_huge_member_is_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zips, "MAX_BYTES", 10)
    packed = pack(tmp_path / "a.zip", {NAME: b"0123456789x"})
    with pytest.raises(SkeletonError, match="too-large"):
        open_sources([packed]).entries[0].read()


def test_a_damaged_member_is_rejected_alone(tmp_path: Path, ntu_text: Text, person: Person) -> None:
    packed = tmp_path / "a.zip"
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr(NAME, ntu_text([[(5, person())]]))
    content = bytearray(packed.read_bytes())
    content[200] ^= 1
    packed.write_bytes(content)
    with pytest.raises(SkeletonError, match="unreadable"):
        open_sources([packed]).entries[0].read()


def first(packed: Path) -> bytes:
    """The bytes of a zip's only recording, as the parser gets them."""
    return next(item for item in trees.Tree(packed).items if item.path.endswith(NAME)).read()


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_member_is_read_in_place_to_the_last_byte(tmp_path: Path, method: int) -> None:
    content = np.random.default_rng(0).bytes(300_000)
    with zipfile.ZipFile(tmp_path / "a.zip", "w", method) as archive:
        archive.writestr("readme.txt", "x")
        archive.writestr(f"deep/er/{NAME}", content)
        archive.writestr(f"__MACOSX/._{NAME}", "x")
        archive.writestr(f"sub/__MACOSX/{NAME}", "x")
    assert first(tmp_path / "a.zip") == content


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_flipped_bit_anywhere_in_a_member_is_found(
    tmp_path: Path, ntu_text: Text, person: Person, method: int
) -> None:
    packed = tmp_path / "a.zip"
    with zipfile.ZipFile(packed, "w", method) as archive:
        archive.writestr(NAME, ntu_text([[(5, person())]] * 3))
    content = packed.read_bytes()
    start = 30 + len(NAME)
    end = content.index(b"PK\x01\x02")
    for at in range(start, end, max((end - start) // 150, 1)):
        packed.write_bytes(content[:at] + bytes([content[at] ^ 1 << at % 8]) + content[at + 1 :])
        with pytest.raises(SkeletonError, match="unreadable"):
            first(packed)


def test_without_the_checksum_a_flipped_digit_would_be_taken(
    tmp_path: Path, ntu_text: Text, person: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = tmp_path / "a.zip"
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr(NAME, ntu_text([[(5, person())]]))
    packed.write_bytes(packed.read_bytes().replace(b" 3.0 ", b" 3.5 ", 1))
    with pytest.raises(SkeletonError, match="CRC-32"):
        first(packed)
    (one,) = trees.Tree(packed).items
    blind = one.place._replace(crc=zlib.crc32(ntu_text([[(5, person())]]).replace(b" 3.0 ", b" 3.5 ", 1)))
    assert b" 3.5 " in blind.read()


def test_a_directory_that_lies_about_a_size_expands_no_more_than_it_says(tmp_path: Path) -> None:
    packed = pack(tmp_path / "a.zip", {NAME: np.random.default_rng(0).bytes(1000) * 2000})
    (one,) = trees.Tree(packed).items
    liar = one.place._replace(size=5000)
    with pytest.raises(SkeletonError, match="size and CRC-32"):
        liar.read()
    assert len(liar._expand()) == 5001


def test_an_encrypted_or_oddly_compressed_member_is_rejected_with_the_remedy(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr(NAME, b"0\n" * 100)
    with pytest.raises(SkeletonError, match="method 14; use deflate"):
        first(tmp_path / "a.zip")
    (one,) = trees.Tree(tmp_path / "a.zip").items
    with pytest.raises(SkeletonError, match="encrypted"):
        one.place._replace(encrypted=True).read()


def test_a_zip_that_claims_too_much_is_rejected_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zips, "MAX_TOTAL", 1000)
    packed = pack(tmp_path / "a.zip", {NAME: b"0" * 1001})
    with pytest.raises(SourceError, match="claims to hold"):
        open_sources([packed])
