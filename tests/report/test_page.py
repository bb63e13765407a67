import json
import re

import pytest

from cdm_nnunet.report.case_parts import MAX_REPORT_BYTES, case_bytes
from cdm_nnunet.report.page import write_report
from cdm_nnunet.report.parts import json_script


def test_no_data_can_leave_its_element():
    content = {"a</script><script>x()</script>": "<!-- ]]> \u2028"}
    text = json_script("record", content)
    assert text.count("<") == 2  # the element's own tags
    inside = re.fullmatch(r'<script type="application/json" id="record">(.*)</script>\n', text)[1]
    assert json.loads(inside) == content


def test_forty_cases_fit():
    assert 40 * case_bytes(40) * 4 / 3 <= 0.8 * MAX_REPORT_BYTES + 40
    assert case_bytes(1) <= 4_000_000
    assert case_bytes(10_000) == 300_000


def test_the_file_holds_the_record_and_points_nowhere(report):
    text = report.path.read_text(encoding="utf-8")
    record = re.search(r'id="record">(.*?)</script>', text)[1]
    assert json.loads(record) == report.evaluation.to_json()
    own = re.sub(r'<script type="application/gzip;base64".*?</script>', "", text)
    assert re.findall(r"(?:src|href)=\"(?!#)[^\"]*", own) == []
    assert set(re.findall(r"https?://[\w./]+", own)) <= {"http://www.w3.org/2000/svg"}


def test_a_report_is_there_whole_or_not_at_all(report, tmp_path):
    parts = report.parts(tmp_path / "parts")
    (parts.folder / f"{report.evaluation.cases[1].case}.gz").unlink()
    target = tmp_path / "out" / "report.html"
    target.parent.mkdir()
    target.write_text("yesterday's", encoding="utf-8")
    with pytest.raises(FileNotFoundError):
        write_report(report.evaluation, parts, target)
    assert target.read_text(encoding="utf-8") == "yesterday's"
    assert [path.name for path in target.parent.iterdir()] == ["report.html"]
