"""HTML pages: one base layout, one style sheet, one skeleton player. Every page is one file that needs no network.

Python builds plain typed values (`parts`, `player`); the jinja2 templates draw them, with autoescape on. Another
package adds templates of its own by naming itself in `render(..., package=...)`.
"""

from preprocessing.pages.parts import Box, Column, Row, Table, number, percent, text
from preprocessing.pages.rendering import render
from preprocessing.provenance import Provenance

__all__ = ["Box", "Column", "Provenance", "Row", "Table", "number", "percent", "render", "text"]
