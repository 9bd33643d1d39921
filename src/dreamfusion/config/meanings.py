"""What fields mean: the strings that stand below them in the source."""

from __future__ import annotations

import ast
import inspect
from functools import cache
from itertools import pairwise
from textwrap import dedent

from dreamfusion.config.section import Section


@cache
def meanings(section: type[Section]) -> dict[str, str]:
    """Return the meaning of every field of a section: the string that stands below it, on one line."""
    found: dict[str, str] = {}
    for parent in reversed(section.__mro__):
        if not issubclass(parent, Section) or parent is Section:
            continue
        (body,) = (node.body for node in ast.parse(dedent(inspect.getsource(parent))).body if hasattr(node, "body"))
        for field, text in pairwise(body):
            if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
                found[ast.unparse(field.target)] = " ".join(str(text.value.value).split())
    return found
