"""Building blocks of self-contained pages: resources, inert data, and the scripts that may run."""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

from plotly.offline import get_plotlyjs


def resource(package: str, name: str) -> str:
    """Text of a file that lies in one of our packages, for example ``report``."""
    return (resources.files(f"cdm_nnunet.{package}") / name).read_text(encoding="utf-8")


def filled(text: str, values: Mapping[str, str]) -> str:
    """A text with each ``{{key}}`` replaced; nothing that is filled in is read as a place to fill.

    Example:
        >>> filled("{{a}}-{{b}}", {"a": "{{b}}", "b": "2"})
        '{{b}}-2'
    """
    parts = text.split("{{")
    for i, part in enumerate(parts[1:], 1):
        key, _, rest = part.partition("}}")
        parts[i] = values[key] + rest
    return "".join(parts)


def page_head(title: str, style: str, *scripts: str, framed: bool = False) -> str:
    """A page up to its content.

    Args:
        title: Any text.
        style: CSS.
        scripts: The only scripts that may run.
        framed: Whether the page may open files beside it in frames, where no other scripts run either.
    """
    frames = " frame-src 'self' file:;" if framed else ""
    values = {
        "csp-hashes": csp_hashes(*scripts), "csp-frames": frames, "style": style, "title": html.escape(title)
    }  # fmt: skip
    return filled(resource("report", "head.html"), values)


def page_script(sources: Sequence[str]) -> str:
    """One strict script of several sources, whose names no other script sees."""
    return "\n".join(['"use strict";\n(() => {', *sources, "})();\n"])


def plotly_script() -> str:
    """Plotly's source, whole."""
    script: str = get_plotlyjs()
    return script


def csp_hashes(*scripts: str) -> str:
    """How a content security policy names scripts that may run: by the hashes of their texts."""
    digests = (hashlib.sha256(script.encode()).digest() for script in scripts)
    return " ".join(f"'sha256-{base64.b64encode(digest).decode('ascii')}'" for digest in digests)


def json_script(element_id: str, content: Any) -> str:
    r"""A ``script`` element of data that no text in it can leave: no ``<`` is left, and it never runs.

    Example:
        >>> json_script("names", ["</script>"])
        '<script type="application/json" id="names">["\\u003c/script>"]</script>\n'
    """
    text = json.dumps(content, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    return f'<script type="application/json" id="{element_id}">{text}</script>\n'


def packed_script(element_id: str, packed: bytes) -> str:
    """A ``script`` element of gzip data, which never runs."""
    text = base64.b64encode(packed).decode("ascii")
    return f'<script type="application/gzip;base64" id="{element_id}">{text}</script>\n'
