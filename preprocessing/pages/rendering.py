"""The only door to jinja2: templates to text, with autoescape on."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import jinja2

from preprocessing.provenance import Provenance

HERE = "preprocessing.pages"


@cache
def environment(package: str = HERE, folder: Path | None = None) -> jinja2.Environment:
    """Return the templates of `package`, those in `folder`, and, below them, those that all pages share."""
    loaders: list[jinja2.BaseLoader] = [jinja2.PackageLoader(name) for name in dict.fromkeys((package, HERE))]
    if folder is not None:
        loaders.insert(1, jinja2.FileSystemLoader(folder))
    return jinja2.Environment(
        loader=jinja2.ChoiceLoader(loaders),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def render(
    template: str, provenance: Provenance, package: str = HERE, folder: Path | None = None, **values: Any
) -> str:
    """Fill a template with values.

    Args:
        template: Name of the template, such as `clips.html`.
        provenance: Shown in the page's footer.
        package: Import path of the package whose `templates` folder holds the template.
        folder: Further templates, of a package that need not be imported for them.
        **values: What the template draws. Text is escaped; a name that a template misses is an error.

    Returns:
        The whole page.
    """
    return environment(package, folder).get_template(template).render(provenance=provenance, **values)
