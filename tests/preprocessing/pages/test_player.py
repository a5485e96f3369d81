"""The skeleton player's drawing, recorded joint by joint in a browser."""

import base64
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from preprocessing.pages import Provenance, render
from preprocessing.pages.player import ABSENT, in_space, pack
from tests.browser import rendered

# Every joint that is drawn: frame, number of its canvas, colour, and place in it with the canvas's size.
RECORD = """<script>
const drawn = [];
CanvasRenderingContext2D.prototype.arc = function (x, y) {
  const all = [...document.querySelectorAll("canvas")];
  const place = [this.canvas.clientWidth, this.canvas.clientHeight, x, y];
  drawn.push([Number(this.canvas.closest("figure").dataset.frame), all.indexOf(this.canvas), this.fillStyle, ...place]);
};
addEventListener("load", () => setTimeout(() => (document.body.dataset.log = JSON.stringify(drawn)), 500));
</script>"""
# Two joints, metres, in 1,000 frames: the second walks to the right.
JOINTS = np.zeros((1000, 2, 3))
JOINTS[:, 1, 0] = np.arange(1000) / 1000
JOINTS[:, 1, 1] = 2.0


def body(joints: np.ndarray, dropped: str = "") -> dict[str, Any]:
    return {"label": "b", "dropped": dropped, "frames": list(range(len(joints))), "joints": pack(joints)}


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A panel with a kept and a dropped body, and one of a single frame."""
    panels = [
        {"title": "long", "frames": 1000, "bodies": [body(JOINTS), body(JOINTS - [0.5, 0, 0], "spread")]},
        {"title": "short", "frames": 1, "bodies": [body(JOINTS[:1])]},
    ]
    clip = {"name": "c", "action": "a", "frames": 1000, "decisions": [], "note": "", "panels": panels}
    data = {"fps": 30.0, "joints": 2, "bones": [[0, 1]], "clips": [clip]}
    text = render("clips.html", Provenance("", "", "", ""), kind="k", title="t", subtitle="", data=data)
    out = tmp_path_factory.mktemp("player") / "page.html"
    out.write_text(text.replace("<head>", f"<head>{RECORD}", 1))
    return out


def test_joints_are_drawn_where_they_are_and_dropped_bodies_first(page: Path, tmp_path: Path) -> None:
    """In the front view; a panel that is shorter holds its last frame."""
    dom = rendered(page, tmp_path, "frame=500")
    log = json.loads(re.search(r'data-log="(.*?)"', dom).group(1).replace("&quot;", '"'))
    long, short = ([row for row in log if row[:2] == [500, canvas]] for canvas in (0, 1))
    assert len(short) >= 2, "the last frame of the shorter panel"
    dropped, kept = long[0], long[2]
    assert dropped[2] != kept[2] == short[0][2]
    wide, high = long[0][3:5]
    # x from -0.5 to 1 m, y from 0 to 2 m: the larger half with a margin of 15 % fits into the canvas.
    zoom = min(wide, high) / 2 / (1.0 * 1.15)
    expected = [(-0.5, 0), (0.0, 2), (0.0, 0), (0.5, 2)]
    for (x, y), row in zip(expected, long, strict=False):
        assert row[5:] == pytest.approx([wide / 2 + (x - 0.25) * zoom, high / 2 - (y - 1) * zoom], abs=0.5)


def test_playing_goes_on_from_the_frame_it_starts_at(page: Path, tmp_path: Path) -> None:
    dom = rendered(page, tmp_path, "frame=500&play")
    assert 510 < int(re.search(r"frame (\d+) of 1000", dom).group(1)) < 700


def test_joints_that_were_not_found_are_marked_and_not_drawn_at_a_place() -> None:
    joints_FV3 = np.ones((2, 3, 3), np.float32)
    joints_FV3[0, 1] = np.nan
    packed = base64.b64decode(pack(joints_FV3, np.array([[1, 1, 0], [1, 1, 1]], bool)))
    x_FV3 = np.frombuffer(packed, "<i2").reshape(2, 3, 3)
    assert (x_FV3 == ABSENT).all(axis=2).tolist() == [[False, True, True], [False, False, False]]
    assert (x_FV3[1] == 1000).all()


def test_pixels_fit_the_drawing_with_y_up() -> None:
    (x_FV3,) = in_space([np.array([[[0, 0], [1920, 1080]]], np.float32)])
    assert np.allclose(x_FV3, [[[0, 0, 0], [10, -5.625, 0]]])
