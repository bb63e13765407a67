"""What the documentation site needs beyond its pages: links to files of the repository that are no pages."""

import re
from pathlib import Path

DOCS = Path(__file__).resolve().parents[1]
_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\((\.\./[^)\s#]+)[^)]*\)")


def on_page_markdown(markdown, page, **_):
    """Name files outside of the pages, such as schemas and studies, in place of a link that the site can't have."""
    folder = (DOCS / page.file.src_uri).parent

    def named(link):
        target = (folder / link[2]).resolve()
        if target.is_relative_to(DOCS):
            return link[0]
        return f"{link[1]} (`{target.relative_to(DOCS.parent)}`)"

    return _LINK.sub(named, markdown)
