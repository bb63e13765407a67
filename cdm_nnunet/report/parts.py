"""Building blocks of self-contained pages: resources, inert data, and the allowed scripts."""

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
    """Text of a file in one of our packages, for example ``report``."""
    return (resources.files(f"cdm_nnunet.{package}") / name).read_text(encoding="utf-8")


def filled(text: str, values: Mapping[str, str]) -> str:
    """A text with each ``{{key}}`` replaced; inserted texts are not searched for keys.

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
    """The start of a page, up to its content.

    Args:
        title: Any text.
        style: CSS.
        scripts: The only scripts that may run.
        framed: Whether the page may open files of its folder in frames, where no other scripts may run either.
    """
    frames = " frame-src 'self' file:;" if framed else ""
    values = {
        "csp-hashes": csp_hashes(*scripts), "csp-frames": frames, "style": style, "title": html.escape(title)
    }  # fmt: skip
    return filled(resource("report", "head.html"), values)


def page_script(sources: Sequence[str]) -> str:
    """One strict script from several sources; its names are not visible to other scripts."""
    return "\n".join(['"use strict";\n(() => {', *sources, "})();\n"])


def plotly_script() -> str:
    """Plotly's complete source."""
    script: str = get_plotlyjs()
    return script


def csp_hashes(*scripts: str) -> str:
    """Hashes of scripts, by which a content security policy allows them."""
    digests = (hashlib.sha256(script.encode()).digest() for script in scripts)
    return " ".join(f"'sha256-{base64.b64encode(digest).decode('ascii')}'" for digest in digests)


def json_script(element_id: str, content: Any) -> str:
    r"""A ``script`` element with inert data, without ``<``, so that no text can end the element.

    Example:
        >>> json_script("names", ["</script>"])
        '<script type="application/json" id="names">["\\u003c/script>"]</script>\n'
    """
    text = json.dumps(content, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    return f'<script type="application/json" id="{element_id}">{text}</script>\n'


def packed_script(element_id: str, packed: bytes) -> str:
    """A ``script`` element with inert gzip data."""
    text = base64.b64encode(packed).decode("ascii")
    return f'<script type="application/gzip;base64" id="{element_id}">{text}</script>\n'
