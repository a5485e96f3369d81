"""Axes, marks and what the templates draw of figures, by hand."""

import re

import pytest

from pipeline.pages import TERMS, figures, render
from pipeline.pages.figures import Bar, Curves, Dot, Heat, Key, Line, Parallel, Rows, Series, Strand, StrandAxis
from preprocessing.pages import Provenance, Table
from preprocessing.pages.rendering import environment

MARK = '<script>alert("1")</script>'


def drawn(figure: figures.Plot) -> str:
    """The HTML of a figure, without white space between tags."""
    source = '{% from "figures.html" import plot %}{{ plot(p) }}'
    return re.sub(r">\s+<", "><", environment("pipeline.pages").from_string(source).render(p=figure)).strip()


@pytest.mark.parametrize(
    ("shown", "text"),
    [
        (figures.percent(None), "–"),
        (figures.percent(0.125), "12 %"),
        (figures.percent(0.125, 1), "12.5 %"),
        (figures.move(0.1, 0.256, 1), "10.0 % → 25.6 %"),
        (figures.tick(-5), "−5"),
        (figures.tick(0.30000000000000004), "0.3"),
        (figures.tick(2000), "2,000"),
        (figures.tick(1e6), "10⁶"),
    ],
)
def test_numbers_in_words(shown: str, text: str) -> None:
    assert shown == text


def test_missing_values_stay_missing() -> None:
    assert figures.hundred([0.5, None]) == [50, None]


@pytest.mark.parametrize(
    ("axis", "low", "high", "ticks"),
    [
        (figures.percent_axis("", [40, None]), 0, 100, (0, 20, 40, 60, 80, 100)),
        (figures.percent_axis("", [-7]), -7, 100, (0, 20, 40, 60, 80, 100)),
        (figures.axis("", [1, 3], low=0, high=4), 0, 4, (0, 1, 2, 3, 4)),
        (figures.axis("", [0, 10], low=0, high=10), 0, 10, (0, 2, 4, 6, 8, 10)),
        (figures.axis("", [], low=0), 0, 1.04, (0, 0.2, 0.4, 0.6, 0.8, 1.0)),
        (figures.axis("", [0.001, 0.1], log=True), 0.001, 0.1, (0.001, 0.003, 0.01, 0.03, 0.1)),
        (figures.axis("", [2, 30], log=True), 2, 30, (2, 5, 10, 20)),
        (figures.axis("", [3, 4], log=True), 3, 4, (3, 4)),
        (figures.axis("", [7, 7], log=True), 3.5, 14, (5, 10)),
    ],
)
def test_axes_hold_their_values_and_have_round_ticks(
    axis: figures.Axis, low: float, high: float, ticks: tuple[float, ...]
) -> None:
    assert (axis.low, axis.high) == pytest.approx((low, high))
    assert axis.ticks == pytest.approx(ticks)
    assert len(axis.ticks) <= figures.MOST_TICKS


@pytest.mark.parametrize(
    ("epochs", "ticks"), [([1, 2, 3], (1, 2, 3)), ([1], (1,)), (range(1, 101), (20, 40, 60, 80, 100))]
)
def test_epochs_have_whole_ticks(epochs: list[int], ticks: tuple[int, ...]) -> None:
    assert figures.epoch_axis(epochs).ticks == ticks


def test_places_are_shares_of_the_axis() -> None:
    linear, log = figures.axis("", [], low=-10, high=10), figures.axis("", [1, 100], log=True)
    assert [linear.at(value) for value in (-20, -10, 0, 5, 20)] == [0, 0, 50, 75, 100]
    assert [log.at(value) for value in (0, 1, 10, 100)] == [0, 0, 50, 100]


X, Y = figures.axis("epoch", [], low=0, high=10), figures.percent_axis("accuracy (%)", [])


def test_a_gap_parts_a_line_and_has_no_symbol() -> None:
    one = Series("a", ((0, 0), (5, 50), (6, None), (8, 20), (9, float("nan")), (10, 100)), figures.RED)
    figure = Curves("t", "alt", X, Y, (one,))
    assert figure.lines(one) == ["0.0,100.00 50.0,50.00"]
    assert [mark[:2] for mark in figure.marks(one)] == [(0, 100), (50, 50), (80, 80), (100, 0)]
    assert figure.marks(one)[1][3] == "a: 5, 50"
    assert figure.keys == [], "one series needs no legend"
    text = drawn(figure)
    assert text.count("<polyline") == 1
    assert text.count("<circle") == 4
    assert 'role="img" aria-label="alt"' in text
    assert "accuracy (%)" in text
    quiet = Series("b", (), figures.GREY, quiet=True)
    both = Curves("t", "alt", X, Y, (one, quiet, Series("c", (), figures.BLUE, dashed=True)))
    assert both.keys == [Key("a", figures.RED, "line"), Key("c", figures.BLUE, "dots")]


def test_bars_and_points_lie_where_their_values_are() -> None:
    axis = figures.axis("points", [], low=-50, high=50)
    marks = (Bar(0, 25, figures.BLUE, "25"), Bar(0, -25, figures.RED, "−25"))
    text = drawn(Rows("t", "alt", axis, (Line("a", (marks,), "note"),), rule=0.0))
    assert re.findall(r'<rect[^>]*x="([\d.]+)%" width="([\d.]+)%"', text) == [("50.0", "25.00"), ("25.0", "25.00")]
    assert '<text x="75.0%" dx="5" dy="4.5" text-anchor="start">25<' in text
    assert '<text x="25.0%" dx="-5" dy="4.5" text-anchor="end">−25<' in text
    assert 'class="rule" x1="50.0%"' in text
    dot = Rows("t", "alt", axis, (Line("a", ((Dot(0, figures.RED, "ring", -50, 50, "0.0", "tip"),),)),))
    assert dot.tall
    assert re.search(r'class="trace" x1="0.0%" x2="100.0%"', drawn(dot))
    assert "<title>tip</title>" in drawn(dot)


def test_a_heat_map_is_a_table() -> None:
    """With its shares as text for few classes, and as tooltips for many."""
    few = drawn(Heat("t", "alt", ("a", "b"), ((0.25, 0.75), (0.0, 1.0))))
    assert '<th scope="row" class="left">a</th><td style="--share: 0.25" title="a: 25 % as a">25</td>' in few
    assert "<td></td>" in few
    names = tuple(f"class {k}" for k in range(31))
    many = drawn(Heat("t", "alt", names, tuple(tuple(float(i == j) for j in range(31)) for i in range(31))))
    assert 'title="class 30: 100 % as class 30"></td>' in many
    assert '<th scope="col"><span>31</span></th>' in many


def test_a_strand_passes_the_middle_of_each_axis() -> None:
    axes = (StrandAxis("kind", ((0, "bn"), (100, "gn"))), StrandAxis("val", ((50, "60"),)))
    figure = Parallel("t", "alt", axes, (Strand((100, 25), 0.5, "trial"),))
    text = drawn(figure)
    assert 'points="100.00,0.5 25.00,1.5"' in text
    assert 'style="--rank: 50%"' in text
    assert text.count("<circle") == 3


@pytest.mark.parametrize(
    "figure",
    [
        Curves(MARK, MARK, figures.axis(MARK, [1]), Y, (Series(MARK, ((1, 1),), figures.RED), Series(MARK, (), ""))),
        Rows(MARK, MARK, X, (Line(MARK, ((Bar(0, 1, "", MARK), Dot(1, "", text=MARK, tip=MARK)),), MARK),),
             (Key(MARK, ""),)),
        Heat(MARK, MARK, (MARK,), ((1.0,),)),
        Parallel(MARK, MARK, (StrandAxis(MARK, ((0, MARK),)),), (Strand((0,), 1, MARK),)),
    ],
)  # fmt: skip
def test_every_figure_escapes_and_has_a_text_alternative(figure: figures.Plot) -> None:
    text = drawn(figure)
    assert "<script>" not in text
    assert 'alert("1")' not in text
    assert re.search(r'aria-label="&lt;script&gt;', text)
    assert text.startswith('<figure class="plot"><figcaption>&lt;script')


def test_failures_are_escaped() -> None:
    figure = Rows("t", "alt", X, ())
    html = render(
        "search.html", Provenance("", "", "", ""), kind="k", title="t", subtitle="", boxes=[], table=None, plots={},
        importance=figure, importance_note="", failed=[("</script>", "<b>", 2)], settings=Table("Settings", (), ()),
        terms=TERMS,
    )  # fmt: skip
    assert "<li>&lt;/script&gt;: &lt;b&gt; (2 attempts)</li>" in html
