"""Docstrings as the site shows them."""

import re
from typing import Any

import griffe


class Examples(griffe.Extension):
    """Show the sessions under `Example:` as code, which Griffe does under `Examples:` alone."""

    def on_instance(self, *, obj: griffe.Object, **_more: Any) -> None:
        """Look at each object once it is read."""
        if obj.docstring is not None:
            obj.docstring.value = re.sub(r"^( *)Example:$", r"\1Examples:", obj.docstring.value, flags=re.MULTILINE)
