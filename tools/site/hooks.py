"""What mkdocs does not know of our docstrings: they name code as reStructuredText does, ``:func:`name```."""

from __future__ import annotations

import re
from typing import Any

ROLE = re.compile(r":(?:func|class|meth|mod|data|attr):(?=<code>)")


def on_post_page(output: str, **_: Any) -> str:
    """Leave the kind of a name away; that it is code is seen."""
    return ROLE.sub("", output)
