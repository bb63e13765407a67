"""Docstrings for the site: "Example:" with doctests is the section that Google's style calls "Examples:"."""

import re

import griffe


class Examples(griffe.Extension):
    """Renames the section, so that its doctests are shown as code."""

    def on_object(self, *, obj, **_):
        """Rename it in the docstring of one object."""
        if obj.docstring is not None:
            obj.docstring.value = re.sub(r"(?m)^Example:$", "Examples:", obj.docstring.value)

    on_instance = on_object  # (its name in earlier versions)
