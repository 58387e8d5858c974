"""HTML pages that need no other file, run nothing and load nothing."""

from __future__ import annotations

from collections.abc import Callable

import jinja2
from markupsafe import Markup

# The policy stops scripts, forms and requests that a name from a stranger's file might bring in.
HEAD = Markup(
    """<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; \
style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">"""
)
"""What the head of every page begins with."""


def page_template(package: str, name: str, **filters: Callable[..., str]) -> jinja2.Template:
    """Compile the template of a page, in which every text is escaped.

    Templates have `HEAD` as ``head``.

    Parameters
    ----------
    package
        Name of a package with a folder ``templates``.
    name
        File in that folder.
    filters
        Functions that the template applies to values, by their names there.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(package),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= filters
    return environment.get_template(name, globals={"head": HEAD})
