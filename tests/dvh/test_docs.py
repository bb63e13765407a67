"""The documented template is valid, and every metric key in the documents is one."""

import json
import re
import subprocess
import sys
from pathlib import Path

from cdm_nnunet.dvh import KINDS, Metric, Template, shipped_templates

DOCS = Path(__file__).parents[2] / "docs"


def test_the_documented_template_is_valid():
    text = (DOCS / "templates.md").read_text(encoding="utf-8")
    example = re.search(r"```json\n(\{.*?)```", text, re.DOTALL)[1]
    template = Template.from_json(json.loads(example), "docs/templates.md")
    assert [goal.weight for goal in template.goals] == [1.0, 0.5, 1.0, 1.0]
    row = next(line for line in text.splitlines() if line.startswith("| `metric` |"))
    keys = re.findall(r"`([^`]+)`", row)[1:]
    assert len(keys) == 21
    for key in keys:
        assert str(Metric.parse(key)) == key


def test_every_kind_of_metric_is_defined():
    text = (DOCS / "conventions.md").read_text(encoding="utf-8")
    assert not [kind.form for kind in KINDS.values() if f"`{kind.form}`" not in text]


def test_every_heading_that_code_cites_is_there():
    text = (DOCS / "conventions.md").read_text(encoding="utf-8")
    source = "\n".join(path.read_text(encoding="utf-8") for path in (DOCS.parent / "cdm_nnunet").rglob("*.py"))
    cited = re.findall(r"docs/conventions\.md``, \"([^\"]+)\"(?:, \"([^\"]+)\")?", source)
    assert len(cited) >= 6
    for title in (" ".join(title.split()) for pair in cited for title in pair if title):
        assert re.search(rf"(?m)^#+ {re.escape(title)}$|\*\*{re.escape(title)}\*\*", text), title


def test_the_shipped_templates_are_documented():
    text = (DOCS / "templates.md").read_text(encoding="utf-8")
    assert set(re.findall(r"(?m)^\| `(\w+)` \| [^|]* \| (?:of the patient|[\d, and]+ Gy) \|", text)) == set(
        shipped_templates()
    )


def test_the_tutorial_runs_as_it_stands_without_torch_and_nnunet(tmp_path):
    text = (DOCS / "dvh_tutorial.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == text.count("```") // 2 >= 7
    code = "\n".join(["import matplotlib, sys", "matplotlib.use('agg')", *blocks])
    code += "\nassert not {'torch', 'nnunetv2'} & set(sys.modules)\n"
    code += "print(f'{np.abs(volume_percent).max():.0f} {len(axes.lines)}')\n"
    script = tmp_path / "tutorial.py"
    script.write_text("if __name__ == '__main__':\n    " + code.replace("\n", "\n    "), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "error", script], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    *_, last = done.stdout.splitlines()
    assert last == "100 9"  # all curves start at 100 %; four ROIs, two doses, and the line at 95 %
    difference = re.search(r"(?m)^Dmean +([\d.]+) +([\d.]+) +(-[\d.]+) Gy$", done.stdout)
    assert difference is not None
    reference, predicted, change = map(float, difference.groups())
    assert abs(predicted - reference - change) < 0.011
    assert "PTV_7000       D95%     >= 66.5 Gy   reference pass, predicted" in done.stdout
    assert (tmp_path / "dvh.pdf").read_bytes().startswith(b"%PDF")
    assert (tmp_path / "dvh.png").stat().st_size > 10_000
