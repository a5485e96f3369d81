"""Templates: escaping, missing values, the footer, and what a wheel contains."""

import base64
import re
import tomllib
from pathlib import Path

import jinja2
import numpy as np
import pytest

from preprocessing.hdf5 import open_file
from preprocessing.pages import Box, Column, Provenance, Row, Table, number, percent, render, text
from preprocessing.pages.player import file_clip, pack
from preprocessing.pages.rendering import environment

MARK = """<script>alert("1")</script>'"""
ROOT = Path(__file__).parents[3]


def draw(call: str, **values: object) -> str:
    """A macro's output without the white space between tags."""
    source = '{% from "macros.html" import bars, boxes, player, table %}' + call
    return re.sub(r">\s+<", "><", environment().from_string(source).render(values)).strip()


@pytest.mark.parametrize(
    ("call", "value"),
    [
        ("{{ boxes([value]) }}", Box(MARK, MARK, MARK, items=((MARK, MARK),))),
        ("{{ table(value) }}", Table(MARK, (Column(MARK, MARK, note=MARK),), (Row((MARK,), MARK),))),
        ("{{ bars(value, value, value, [(value, 1)]) }}", MARK),
        ("{{ player({'name': value}, value) }}", MARK),
    ],
)
def test_every_macro_escapes(call: str, value: object) -> None:
    shown = draw(call, value=value)
    assert "<script>alert" not in shown
    assert "alert(" in shown
    assert 'alert("1")' not in shown


def test_a_table_writes_units_alignment_and_missing_values() -> None:
    columns = (text("run"), percent("val", note="held out"), number("clips", form=",d"), percent("gap", unit="points"))
    made = draw("{{ table(t) }}", t=Table("Runs", columns, (Row(("a", 0.12345, 1234, None), "best"),)))
    assert '<th scope="col" class="right"><abbr title="held out">val</abbr><span class="unit">%</span></th>' in made
    assert '<th scope="row" class="left">a <span class="mark">best</span></th>' in made
    assert re.findall('<td class="right">(.*?)</td>', made) == ["12.3", "1,234", ""]
    assert 'role="region" aria-label="Runs" tabindex="0"' in made
    assert '<tr class="marked">' in made


def test_a_row_of_another_length_is_an_error() -> None:
    with pytest.raises(ValueError, match="Runs: 2 cells for 1 columns"):
        Table("Runs", (text("run"),), (Row(("a", "b")),))


def test_bars_are_shares_of_the_largest() -> None:
    made = draw("{{ bars('t', 'n', 'u', [('a', 4), ('b', 1), ('c', 0)]) }}")
    assert re.findall(r"width: ([\d.]+)%", made) == ["100.00", "25.00", "0.00"]
    assert draw("{{ bars('t', 'n', 'u', [('a', 0)]) }}").count("width: 0.00%") == 1
    assert draw("{{ bars('t', 'n', 'u', []) }}") == ""


def test_a_missing_value_is_an_error() -> None:
    with pytest.raises(jinja2.UndefinedError, match="title"):
        render("base.html", Provenance("", "", "", ""), kind="x")


def test_the_page_has_a_language_a_heading_landmarks_and_its_provenance() -> None:
    made = render("base.html", Provenance("python -m x '<b>'", "1.2", "abc", "today"), kind="x", title="T", subtitle="")
    for part in ('<html lang="en">', "<h1>T</h1>", "<main id=", "<footer>", 'href="#main"', 'content="light dark"'):
        assert part in made
    assert made.startswith("<!doctype html>")
    assert "skelnorm 1.2, commit abc" in made
    assert "<code>python -m x &#39;&lt;b&gt;&#39;</code>" in made
    bare = render("base.html", Provenance("c", "", "", "d"), kind="x", title="T", subtitle="")
    assert "<dd>skelnorm</dd>" in bare


def test_provenance_quotes_the_command_and_dates_it() -> None:
    made = Provenance.of("preprocessing.view", ["a b.h5", "--out", "c.html"])
    assert made.command == "python -m preprocessing.view 'a b.h5' --out c.html"
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC", made.date)


def test_a_bodys_track_has_the_frames_in_which_it_is_present(data_file: Path) -> None:
    """The second body of the test data is absent in its first three frames."""
    file = open_file(data_file)
    clip = int(np.flatnonzero(file.clips["bodies"] == 2)[0])
    frames = int(file.clips["frames"][clip])
    first, second = file_clip(file, clip)["panels"][0]["bodies"]
    assert first["frames"] == list(range(frames))
    assert second["frames"] == list(range(3, frames))
    assert len(base64.b64decode(second["joints"])) == (frames - 3) * len(file.joint_names) * 3 * 2


def test_joints_are_packed_as_millimetres() -> None:
    packed = pack(np.array([[[0.0014, -0.0016, 40.0]]], np.float32))
    assert packed == "AQD+//9/", "1, -2 and, clipped, 32767 as little-endian int16"


def test_templates_are_package_data() -> None:
    """Every template of each package is matched by pyproject's package-data."""
    data = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    for folder in ROOT.glob("*/pages/templates"):
        package = folder.parts[-3]
        listed = {path for pattern in data[package] for path in (ROOT / package).glob(pattern)}
        assert set(folder.iterdir()) <= listed
