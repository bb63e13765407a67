"""Table of inspected patients, as CSV and HTML. It identifies patients and must stay with their data."""

from __future__ import annotations

import csv
import html
import io
from collections.abc import Mapping
from typing import Any

COLUMNS: Mapping[str, str] = {
    "case": "case",
    "verdict": "can be converted",
    "prescriptions": "prescriptions (Gy)",
    "fractions": "fractions",
    "plans": "plans",
    "plan_approval": "plan approval",
    "plan_date": "plan date",
    "planning_system": "planning system",
    "ct_images": "CT images",
    "ct_size": "CT size",
    "ct_spacing_mm": "CT spacing (mm)",
    "scanner": "scanner",
    "ct_date": "CT date",
    "structures": "structure set",
    "structures_approval": "structure set approval",
    "doses": "dose files",
    "dose_size": "dose size",
    "dose_spacing_mm": "dose spacing (mm)",
    "dose_type": "dose type",
    "dose_maximum_gy": "dose maximum (Gy)",
    "problems": "refused because",
    "notes": "notes",
}
_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet executes cells that begin like this
_STYLE = (
    "body{font:14px sans-serif;margin:1.5em}table{border-collapse:collapse}th,td{border:1px solid #bbb;padding:.3em "
    ".5em;vertical-align:top;text-align:left}th{background:#eee;position:sticky;top:0}.no{background:#fbe3e0}"
)


def csv_table(patients: Mapping[str, Mapping[str, Any]]) -> str:
    """The table as CSV, one line per case.

    Args:
        patients: ``patients`` of :func:`cdm_nnunet.dicom.inspection.inspect_index`.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS.values())
    for case, row in patients.items():
        cells = _cells(case, row)
        writer.writerow(f"'{cell}" if cell.startswith(_FORMULA) else cell for cell in cells.values())
    return text.getvalue()


def html_table(patients: Mapping[str, Mapping[str, Any]], title: str) -> str:
    """The table as one HTML file without scripts.

    Args:
        patients: As for :func:`csv_table`.
        title: Heading.
    """
    head = "".join(f"<th>{html.escape(label)}</th>" for label in COLUMNS.values())
    rows = []
    for case, row in patients.items():
        cells = "".join(f"<td>{html.escape(cell).replace(chr(10), '<br>')}</td>" for cell in _cells(case, row).values())
        rows.append(f"<tr{'' if row['convertible'] else ' class=no'}>{cells}</tr>")
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{_STYLE}</style></head>\n<body><h1>{html.escape(title)}</h1>\n<table><thead><tr>{head}</tr></thead>\n"
        "<tbody>\n" + "\n".join(rows) + "\n</tbody></table></body></html>\n"
    )


def _cells(case: str, row: Mapping[str, Any]) -> dict[str, str]:
    values = {
        **row,
        **row["facts"],
        "case": case,
        "verdict": "yes" if row["convertible"] else "no",
        "prescriptions": "\n".join(f"{name}: {gy:g}" for name, gy in row["prescriptions_gy"].items()),
        **{key: "\n".join(map(str, row[key])) for key in ("plans", "problems", "notes")},
    }
    return {key: "" if values.get(key) is None else str(values[key]) for key in COLUMNS}
