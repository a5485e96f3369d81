"""CSV in the forms that spreadsheets and programs write."""

import pytest

from preprocessing.sources import SourceError
from preprocessing.sources.delimited import header_of, read_table

ROWS = [{"clip": "a", "x": "1"}, {"clip": "b", "x": "2"}]


@pytest.mark.parametrize(
    "raw",
    [
        b"clip,x\na,1\nb,2\n",
        b"\xef\xbb\xbfClip;X [m]\r\na;1\r\n\r\nb;2\r\n",
        "clip\tx (mm)\na\t1\nb\t2".encode("utf-16"),
        b'"clip","x"\n"a"," 1"\n"b","2"\n',
    ],
)
def test_separators_line_ends_encodings_quotes_and_units_do_not_matter(raw: bytes) -> None:
    assert read_table(raw, "t.csv", {}) == ROWS


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"clip,x\na\n", "line 2 has 1 fields; its header has 2"),
        (b"x,y\n1,2\n", "t.csv has no column clip: its header is 'x, y'"),
        (b"clip,x\n,2\n", "line 2 has no clip"),
        (b"clip,x,X\na,1,2\n", "two columns are named 'x'"),
        (b"clip\n\xff\xff\xff", "is not UTF-8 text"),
    ],
)
def test_faults_name_the_line_or_the_column(raw: bytes, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        read_table(raw, "t.csv", {"clip": ["clip"]})


def test_a_header_is_read_as_in_a_table() -> None:
    assert header_of('"Frame";X [m]\r\n') == ["frame", "x"]
