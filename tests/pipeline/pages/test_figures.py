"""The look of figures, labels that plotly must not read as HTML, and the inlined script."""

import base64
import zlib

import plotly.graph_objects as go
import pytest
from plotly.offline import get_plotlyjs

from pipeline.pages import TERMS, figures, render
from preprocessing.pages import Provenance


def test_a_label_is_shown_as_it_is() -> None:
    assert figures.label("<b>a</b> & &lt;") == "&lt;b&gt;a&lt;/b&gt; &amp; &amp;lt;"


@pytest.mark.parametrize(
    ("shown", "text"),
    [
        (figures.percent(None), "–"),
        (figures.percent(0.125), "12 %"),
        (figures.percent(0.125, 1), "12.5 %"),
        (figures.move(0.1, 0.256, 1), "10.0 % → 25.6 %"),
    ],
)
def test_percentages(shown: str, text: str) -> None:
    assert shown == text


def test_missing_values_stay_missing() -> None:
    assert figures.hundred([0.5, None]) == [50, None]


def test_a_plot_has_a_title_an_alternative_and_no_template() -> None:
    made = figures.plot(go.Figure(go.Bar(x=[1], y=[2])), "T", "A", height=99, width=7, yaxis={"title": "y (%)"})
    assert (made.title, made.alt, made.height, made.width) == ("T", "A", 99, 7)
    layout = made.spec["layout"]
    assert "title" not in layout, "the page writes it, so that it wraps"
    assert layout["yaxis"]["title"]["text"] == "y (%)"
    assert [layout[axis]["automargin"] for axis in ("xaxis", "yaxis")] == [True, True], "no label is clipped"
    assert made.spec["data"][0]["textangle"] == 0
    assert len(str(layout)) < 1000, "without plotly's template of 7 kB"


def test_epochs_have_whole_ticks() -> None:
    assert figures.epoch_axis([1, 14]) == {"title": "epoch", "dtick": 1}
    assert figures.epoch_axis([1, 15]) == {"title": "epoch"}
    assert figures.epoch_axis([]) == {"title": "epoch", "dtick": 1}


def test_plotly_is_inlined_whole() -> None:
    assert zlib.decompress(base64.b64decode(figures.plotly_script())).decode() == get_plotlyjs()


def test_data_of_a_figure_cannot_end_its_script() -> None:
    plot = figures.Plot("</script>", '"', {"data": [{"name": "</script><script>alert(1)"}], "layout": {}}, 100)
    values = {"boxes": [], "forest": plot, "table": None, "gaps": plot, "curves": plot}
    html = render(
        "search.html", Provenance("", "", "", ""), kind="k", title="t", subtitle="", boxes=[], table=values["table"],
        plots={}, importance=plot, importance_note="", failed=[("</script>", "<b>", 2)], settings=_empty(),
        terms=TERMS, plotly="",
    )  # fmt: skip
    assert "<script>alert" not in html
    assert "<li>&lt;/script&gt;: &lt;b&gt; (2 attempts)</li>" in html


def _empty() -> object:
    from preprocessing.pages import Table

    return Table("Settings", (), ())
