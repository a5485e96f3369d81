"""Every page: small, self-contained, readable without sight, in both themes and from 500 to 1,400 pixels."""

import html
import itertools
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from pipeline.pages import diagnosis, evaluation, live, runs, timeline
from pipeline.pages.finished import read_run
from pipeline.timeline import Segment, Timeline
from preprocessing import inspect, view
from preprocessing.hdf5 import SkeletonFile, open_file
from preprocessing.manifest import read_manifest
from preprocessing.options import View
from preprocessing.pages import Provenance
from preprocessing.skeleton import RawClip, Track
from tests.browser import loads, rendered
from tests.tuning.test_page import ARMS, arms, trials
from tuning import page as tuning_page
from tuning import results, watch

ROOT = Path(__file__).parents[1]
OLD = ROOT / "tests" / "golden" / "old"
CSS = (ROOT / "preprocessing" / "pages" / "templates" / "page.css").read_text()
FOOTER = Provenance("python -m x --out y", "1.2.3", "abcdef0123", "2026-01-01 00:00 UTC")
LONG = "a-run-whose-name-is-long-and-has-no-place-to-break-it_0123456789"
NAMES = (
    "report",
    "doctor",
    "evaluate",
    "study",
    "search",
    "inspect",
    "recordings",
    "view",
    "timeline",
    "watch",
    "watched study",
)
WIDTHS = (500, 900, 1400)


def _report(file: SkeletonFile) -> str:
    run = read_run(OLD / "runs" / "finished")
    plain = replace(
        run, name="<plain>", summary=run.summary | {"config": json.loads(json.dumps(run.summary["config"]))}
    )
    plain.summary["config"]["norm"]["kind"] = "none"
    fixed = replace(run, name="fixed", summary=run.summary | {"fix": {"of": LONG, "remedy": "joint"}})
    return runs.page([replace(run, name=LONG), plain, fixed], OLD / "search", file, FOOTER)


def _evaluation() -> str:
    result = {
        "class_names": [f"class {k} with a long name" for k in range(40)], "run": f"runs/{LONG}", "data": "clips.h5",
        "confusion": [[(i * j) % 3 for j in range(40)] for i in range(40)], "protocol": "xsub", "split": "test",
        "metrics": {"top1": 0.5, "top5": 0.8, "mean_class": 0.4}, "clips": 100, "shared_classes": ["a", "b"],
        "among_shared": 0.6, "accuracies": {"A": 0.9, "B": 0.9, "C": 0.5, "D": 0.6},
        "gap": {"normalization": 0.0, "generalization": 0.3}, "notes": ["a note"],
        "calibration": {"ece": 0.1, "ece_calibrated": 0.05, "temperature": 1.5, "clips": 20,
                        "bins": [{"confidence": 0.4, "accuracy": 0.3, "clips": 4}]},
    }  # fmt: skip
    return evaluation.page(result, FOOTER)


def _timeline(file: SkeletonFile) -> str:
    track = Track(1, np.arange(6), np.asarray(file.joints_RV3[:6]))
    line = Timeline(LONG, 30.0, 6, [Segment(0, 2, "wave", 0.9), Segment(3, 5, "<b>", 0.4)], [], RawClip(6, (track,)))
    bones = [(int(a), int(b)) for a, b in file.bones]
    return timeline.page([line], LONG, bones, file.joint_names, FOOTER)


def make(name: str, folder: Path) -> str:
    """The page as text."""
    file = open_file(OLD / "swing.h5")
    if name == "report":
        return _report(file)
    if name == "doctor":
        return diagnosis.page(LONG, json.loads((OLD / "runs" / "finished" / "doctor.json").read_text()), FOOTER)
    if name == "evaluate":
        return _evaluation()
    if name == "study":
        tuning_page.write_study(folder, {"data": LONG, "epochs": "2"}, results.study_document(ARMS, arms()), arms())
        return (folder / "report.html").read_text()
    if name == "search":
        tuning_page.write_search(folder, {"data": LONG, "epochs": "2"}, trials(30))
        return (folder / "report.html").read_text()
    if name == "watch":
        return live.page(OLD / "runs" / "finished", FOOTER)
    if name == "watched study":
        return watch.study_page(OLD / "study", FOOTER)
    if name == "timeline":
        return _timeline(file)
    survey = inspect.Survey(f"{LONG}.h5")
    survey.add("wave", 5, [], np.ones(5, bool))
    survey.reject(LONG, "truncated", "the file ends early")
    if name in ("inspect", "recordings"):
        return inspect.page(survey, file if name == "inspect" else None, FOOTER)
    clips = view.page_clips(file, read_manifest(file.path) | {"inputs": []}, View(file.path, folder))[:3]
    return view.page(file, clips, FOOTER)


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Every page, as a file."""
    folder = tmp_path_factory.mktemp("pages")
    for name in NAMES:
        (folder / "study").mkdir(exist_ok=True)
        (folder / f"{name}.html").write_text(make(name, folder / "study"))
    return {name: folder / f"{name}.html" for name in NAMES}


class Outline(HTMLParser):
    """Headings, scripts, pictures without an alternative and links of a page."""

    VOID = ("meta", "link", "br", "input", "img")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.levels: list[int] = []
        self.scripts: list[str] = []
        self.unnamed: list[str] = []
        self.ids: list[str] = []
        self._open: list[tuple[str, bool]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        named = bool(values.get("aria-label")) or values.get("aria-hidden") == "true"
        inside = named or any(one for _, one in self._open)
        if re.fullmatch("h[1-6]", tag):
            self.levels.append(int(tag[1]))
        if tag in ("svg", "img", "canvas") and not inside:
            self.unnamed.append(self.get_starttag_text() or tag)
        if values.get("role") in ("img", "region") and not values.get("aria-label"):
            self.unnamed.append(self.get_starttag_text() or tag)
        if "id" in values:
            self.ids.append(str(values["id"]))
        if tag not in self.VOID:
            # A region names a table, not the drawings in it.
            self._open.append((tag, named and values.get("role") != "region"))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        return

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop()[0] != tag:
            pass

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1][0] == "script":
            self.scripts.append(data.strip())


@pytest.mark.parametrize("name", NAMES)
def test_a_page_is_small_self_contained_and_has_an_outline(name: str, pages: dict[str, Path]) -> None:
    """One h1, no level skipped, every drawing named, no script twice, provenance in the footer."""
    text, made = pages[name].read_text(), Outline(pages[name].read_text())
    assert len(text) < 500_000
    assert loads(pages[name]) == []
    assert made.levels[0] == 1
    assert made.levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(made.levels)), made.levels
    assert made.unnamed == []
    assert len(set(made.scripts)) == len(made.scripts)
    assert len(set(made.ids)) == len(made.ids)
    footer = text[text.index("<footer>") :]
    for part in ("skelnorm", "2026" if name not in ("study", "search") else "UTC", "python -m"):
        assert part in footer
    assert "<plain>" not in text


def test_the_outline_sees_what_is_missing() -> None:
    """Negative control."""
    made = Outline('<h1>a</h1><h3>b</h3><svg></svg><div role="img"></div><div aria-label="c"><svg></svg></div>')
    assert made.levels == [1, 3]
    assert made.unnamed == ["<svg>", '<div role="img">']


# Each page in a frame of each width; what is wider than its frame is written into the document.
FRAMES = """<!doctype html><body>{frames}<script>
addEventListener("load", () => setTimeout(() => {{
  const found = [...document.querySelectorAll("iframe")].map((frame) => {{
    const root = frame.contentDocument.documentElement;
    const inside = [...frame.contentDocument.querySelectorAll("main *, header *, footer *")];
    const beyond = (one) => one.getBoundingClientRect().right > root.clientWidth + 1;
    const wide = inside.filter((one) => !one.closest(".scroll, .skip") && beyond(one));
    const named = wide.slice(0, 3).map((one) => one.outerHTML.slice(0, 160));
    return [frame.title, root.scrollWidth - root.clientWidth, named];
  }});
  document.body.dataset.found = JSON.stringify(found);
}}, 800));
</script>"""


def too_wide(texts: dict[str, str], folder: Path) -> list[tuple[str, int, list[str]]]:
    """Pages and widths at which a page scrolls sideways, or a part of it reaches beyond its edge."""
    frames = "".join(
        f'<iframe title="{name} {width}" width="{width}" height="900" srcdoc="{html.escape(text)}"></iframe>'
        for name, text in texts.items()
        for width in WIDTHS
    )
    (folder / "frames.html").write_text(FRAMES.format(frames=frames))
    dom = rendered(folder / "frames.html", folder)
    found = json.loads(html.unescape(re.search(r'data-found="(.*?)"', dom).group(1)))
    assert len(found) == len(texts) * len(WIDTHS)
    return [(name, over, wide) for name, over, wide in found if over > 0 or wide]


def test_no_page_is_wider_than_its_window(pages: dict[str, Path], tmp_path: Path) -> None:
    """In a browser, from 500 to 1,400 pixels; tables that are wider scroll inside their own region."""
    assert too_wide({name: path.read_text() for name, path in pages.items()}, tmp_path) == []


def test_the_width_check_sees_a_wide_page(tmp_path: Path) -> None:
    """Negative control: 700 pixels do not fit into 500."""
    found = too_wide({"wide": '<html><main><p style="width: 700px">a</p></main></html>'}, tmp_path)
    assert [name for name, *_ in found] == ["wide 500"]


def palette(dark: bool) -> dict[str, str]:
    """The colours of a theme."""
    blocks = re.findall(r":root {(.*?)}", CSS, flags=re.S)
    light = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", blocks[0]))
    return light | dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", blocks[1])) if dark else light


def contrast(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    """Contrast of two colours (WCAG 2.2)."""

    def luminance(colour: tuple[float, ...]) -> float:
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def rgb(colour: str) -> tuple[float, ...]:
    return tuple(int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))


def test_contrast_is_that_of_the_standard() -> None:
    assert contrast(rgb("#000000"), rgb("#ffffff")) == pytest.approx(21)
    assert contrast(rgb("#777777"), rgb("#ffffff")) == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("dark", [False, True])
def test_text_and_marks_have_contrast_in_both_themes(dark: bool) -> None:
    """Text 4.5, marks of figures 3; text on the darkest cell of a heat map too."""
    colours = {name: rgb(value) for name, value in palette(dark).items()}
    grounds = [colours[name] for name in ("paper", "card", "mark")]
    for name in ("ink", "soft", "link", "bad", "good"):
        assert min(contrast(colours[name], ground) for ground in grounds) >= 4.5, name
    for name in ("dropped", *(f"body-{number}" for number in range(6))):
        assert min(contrast(colours[name], ground) for ground in grounds[:2]) >= 3, name
    share = float(re.search(r"var\(--share, 0\) \* (\d+)%", CSS).group(1)) / 100
    cell = tuple(share * a + (1 - share) * b for a, b in zip(colours["body-0"], colours["paper"], strict=True))
    assert contrast(colours["ink"], cell) >= 4.5


def test_focus_is_visible_and_both_themes_come_from_one_style_sheet() -> None:
    assert ":focus-visible { outline: 3px" in CSS
    assert CSS.count("prefers-color-scheme: dark") == 1
    assert set(palette(True)) == set(palette(False))
    # Colours are named once: no other place writes one.
    rest = CSS[CSS.index("* { box-sizing") :]
    assert re.findall(r"#[0-9a-f]{3,8}\b", rest) == []
