"""Pages for people: lines of a readable length, files that GitHub and citation tools read, a site without a warning."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import cdm_nnunet

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
LONGEST = 120


def long_lines(text):
    """Numbers of the lines that are too long and could be broken: no tables, code, headings or single long words."""
    in_code = False
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("```"):
            in_code = not in_code
        breakable = " " in line.strip()[2:]
        if len(line) > LONGEST and not in_code and not line.lstrip().startswith(("|", "#", "![", "<!--")) and breakable:
            yield number


def test_a_long_line_is_found():
    text = f"short\n{'word ' * 30}\n```text\n{'code ' * 30}\n```\n| {'cell ' * 30}|\n{'x' * 130}\n- {'point ' * 30}\n"
    assert list(long_lines(text)) == [2, 8]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_lines_have_a_readable_length(page):
    assert list(long_lines(page.read_text(encoding="utf-8"))) == []


def uneven_rows(text):
    """Numbers of the table rows with more or fewer cells than their heading."""
    cells, in_code = None, False
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("```"):
            in_code = not in_code
        if in_code or not line.lstrip().startswith("|"):
            cells = None
            continue
        n = len(re.findall(r"(?<!\\)\|", line))  # (a bar in code is a border, too)
        cells = cells or n
        if n != cells:
            yield number


def test_rows_that_were_joined_are_found():
    table = "| a | b |\n| --- | --- |\n| `x \\| y` | 1 \\| 2 |\n| 1 | 2 | | 3 | 4 |\n"
    assert list(uneven_rows(f"{table}\n| a |\n| --- |\n```text\n| 1 | 2 |\n```\n")) == [4]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_each_row_of_a_table_has_the_cells_of_its_heading(page):
    assert list(uneven_rows(page.read_text(encoding="utf-8"))) == []


def test_the_readme_says_first_what_it_is_and_what_it_is_not():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    screen = text.split("## Try it")[0]
    assert "not a medical device" in screen
    assert "![" in screen
    assert len(screen.splitlines()) < 45
    assert text.index("## Your own patients") < text.index("## OpenKBP")


def test_no_paragraph_of_the_readme_is_a_wall_of_numbers():
    text = re.sub(
        r"(?ms)^```.*?^```$|\]\([^)]*\)|`[^`]*`|https?://\S+", "", (ROOT / "README.md").read_text(encoding="utf-8")
    )
    prose = text.split("## Citing")[0]
    for paragraph in re.split(r"\n\s*\n", prose):
        if not paragraph.lstrip().startswith(("|", "- ")):
            numbers = re.findall(r"(?<![\w.])\d[\d,.]*(?![\w%]*\w)", paragraph)
            assert len(numbers) <= 3, paragraph


def test_the_citation_is_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == cdm_nnunet.__version__
    assert {"cff-version", "title", "message", "authors", "license"} <= citation.keys()
    assert [entry["year"] for entry in citation["references"]] == [2026, 2021]


def test_github_and_hooks_have_valid_yaml():
    templates = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
    assert [path.stem for path in templates] == ["bug", "config", "idea"]
    for path in templates:
        form = yaml.safe_load(path.read_text(encoding="utf-8"))
        if path.stem != "config":
            assert {"name", "description", "body"} <= form.keys()
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    assert all(hook["language"] == "system" for repository in hooks["repos"] for hook in repository["hooks"])


def test_every_extra_that_pages_name_is_there():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    named = {
        name
        for page in PAGES
        for name in re.findall(r"\"(?:\.|cdm_nnunet)\[([a-z]+)\]\"", page.read_text(encoding="utf-8"))
    }
    assert {"test", "docs"} <= named <= extras.keys()


def test_the_site_builds_without_a_warning(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    page = (tmp_path / "site" / "api" / "dvh" / "index.html").read_text(encoding="utf-8")
    assert 'id="cdm_nnunet.dvh.one_line.metrics"' in page
    for html in (tmp_path / "site").rglob("*.html"):
        loaded = re.findall(
            r'<(?:script|img|link rel="stylesheet")[^>]*(?:src|href)="(https?://[^"]+)"',
            html.read_text(encoding="utf-8"),
        )
        assert loaded == [], html.name
