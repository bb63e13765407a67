"""The documented template is valid, and every metric key in the documents is one."""

import json
import re
from pathlib import Path

from cdm_nnunet.dvh import Metric, Template

DOCS = Path(__file__).parents[2] / "docs"


def test_the_documented_template_is_valid():
    text = (DOCS / "templates.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```json\n(.*?)```", text, re.DOTALL)
    template = Template.from_json(json.loads(example), "docs/templates.md")
    assert [goal.weight for goal in template.goals] == [1.0, 0.5, 1.0, 1.0]
    row = next(line for line in text.splitlines() if line.startswith("| `metric` |"))
    keys = re.findall(r"`([^`]+)`", row)[1:]
    assert len(keys) == 12
    for key in keys:
        assert str(Metric.parse(key)) == key


def test_every_heading_that_code_cites_is_there():
    text = (DOCS / "conventions.md").read_text(encoding="utf-8")
    source = "\n".join(path.read_text(encoding="utf-8") for path in (DOCS.parent / "cdm_nnunet").rglob("*.py"))
    cited = re.findall(r"docs/conventions\.md``, \"([^\"]+)\"(?:, \"([^\"]+)\")?", source)
    assert len(cited) >= 6
    for title in (title for pair in cited for title in pair if title):
        assert re.search(rf"(?m)^#+ {re.escape(title)}$|\*\*{re.escape(title)}\*\*", text), title
