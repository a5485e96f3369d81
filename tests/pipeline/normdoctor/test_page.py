"""page: the page of a diagnosis, its first screen in a notebook, and what is said without jinja2."""

import html
import re
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from pipeline.normdoctor import Diagnosis, diagnose
from pipeline.normdoctor.page import Scale, Words, scale
from tests.browser import loads, screenshot
from tests.pipeline.normdoctor.planted import Small, data, norms, trained


@pytest.fixture(scope="module")
def found() -> Diagnosis:
    """A network that lost its statistics."""
    torch.manual_seed(0)
    model = trained(Small(), data(0))
    for layer in norms(model):
        layer.reset_running_stats()
    return diagnose(model, data(0), data(1))


def text_of(page: str) -> str:
    """The words of a page."""
    return html.unescape(re.sub(r"<[^>]+>", " ", re.sub(r"<style>.*?</style>", "", page, flags=re.S)))


def test_the_page_is_one_file_without_scripts(found: Diagnosis, tmp_path: Path) -> None:
    """It loads nothing; all of it is text that a reader finds: verdict, both remedies, scores, layers, checks."""
    path = found.page(tmp_path / "doctor.html")
    page = path.read_text()
    assert loads(path) == []
    assert "<script" not in page
    words = text_of(page)
    cause = found.causes[0]
    assert found.verdict in words
    assert f"Now:  {cause.now}." in words
    assert f"Next training:  {cause.next_training}." in words
    assert f"{100 * cause.before:.1f} % → {100 * cause.after:.1f} %" in words
    for name, value in found.accuracies.items():
        assert f"{name} {100 * value:.1f} %" in page.split('aria-label="Scores: ')[1].split('"')[0]
    assert all(entry["layer"] in words for entry in found.layers)
    assert all(name in words for name in found.checks)
    assert "torch " + torch.__version__ in words
    assert page.count('role="img"') == page.count("<figure") == 2


def test_a_notebook_shows_the_first_screen(found: Diagnosis) -> None:
    """Verdict, cause and scores; no table of layers, and no style for the notebook's own elements."""
    shown = found._repr_html_()
    words = text_of(shown)
    assert found.verdict in words
    assert "Next training:" in words
    assert "Layer by layer" not in words
    style = re.search(r"<style>(.*?)</style>", shown, flags=re.S)
    assert style is not None
    rules = [line for line in style[1].splitlines() if "{" in line and not line.startswith(("@", "  "))]
    assert all(line.startswith(".normdoctor") for line in rules)


def test_without_jinja2_one_line_says_what_to_install(
    found: Diagnosis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the error of `page`, and below the text in a notebook."""
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(ImportError, match=r"^the page needs jinja2: pip install jinja2$"):
        found.page(tmp_path / "doctor.html")
    assert not (tmp_path / "doctor.html").exists()
    assert "pip install" in found._repr_html_()
    assert html.escape(found.verdict) in found._repr_html_()


def test_names_are_escaped_and_a_loss_has_no_percent(tmp_path: Path) -> None:
    """A layer of a foreign name, and scores of minus the squared error."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.Sequential(), nn.Linear(8, 1))
    model[1].add_module("<b>", nn.BatchNorm1d(8))
    batches = [(x, x.sum(1, keepdim=True)) for x, _ in data(0)]
    page = diagnose(model.eval(), batches, metric="mse").page(tmp_path / "x.html").read_text()
    assert "1.&lt;b&gt;" in page
    assert "<b>: " not in page
    assert " % →" not in page
    assert "score (%)" not in page


@pytest.mark.parametrize(
    ("values", "words", "axis", "ticks"),
    [
        ([0.2, 0.9], Words(), Scale(0.0, 1.0), ["0", "20", "40", "60", "80", "100"]),
        ([-3.0, -1.0], Words(is_share=False), Scale(-3.16, -0.84), ["-3", "-2.5", "-2", "-1.5", "-1"]),
        ([2.0, 2.0], Words(is_share=False), Scale(0.0, 4.0), ["0", "1", "2", "3", "4"]),
    ],
)
def test_axes(values: list[float], words: Words, axis: Scale, ticks: list[str]) -> None:
    """Shares from 0 to 100 %; others around their values."""
    made = scale(values, words)
    assert (made.low, made.high) == pytest.approx((axis.low, axis.high))
    assert [text for _, text in made.ticks(words)] == ticks


@pytest.mark.slow
@pytest.mark.parametrize("width", [500, 1400])
def test_a_browser_draws_it_light_and_dark(found: Diagnosis, tmp_path: Path, width: int) -> None:
    """Two different pictures."""
    page = found.page(tmp_path / "doctor.html")
    light, dark = (screenshot(page, tmp_path, width=width, dark=dark) for dark in (False, True))
    assert light.startswith(b"\x89PNG")
    assert light != dark
