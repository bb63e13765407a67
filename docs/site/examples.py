"""Docstrings for the site: "Example:" with doctests is the section that Google's style calls "Examples:"."""

import re

import griffe


class Examples(griffe.Extension):
    """Renames the section, so that its doctests are shown as code, and shows Sphinx's roles as code."""

    def on_object(self, *, obj, **_):
        """Change the docstring of one object."""
        if obj.docstring is not None:
            text = re.sub(r"(?m)^Example:$", "Examples:", obj.docstring.value)
            obj.docstring.value = re.sub(r":\w+:`~?([^`]+)`", r"`\1`", text)

    on_instance = on_object  # (its name in earlier versions)
