"""Output files of a comparison."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from cdm_nnunet.comparison.images import NOT_ASKED_FOR, Images
from cdm_nnunet.comparison.page import PAGE_FILE, PAGE_FOLDER, is_folder, page, write_page_folder
from cdm_nnunet.comparison.record import Comparison
from cdm_nnunet.comparison.tables import comparison_csv, goals_csv, latex, markdown
from cdm_nnunet.files import write_text
from cdm_nnunet.report.folder import INDEX_FILE, refuse_foreign_folder


def write_outputs(
    comparison: Comparison, out: Path, images: Images | str = NOT_ASKED_FOR, *, n_processes: int = 1
) -> dict[str, str]:
    """Write the record, the tables and the page into a folder, each complete or absent.

    Args:
        comparison: The record.
        out: The folder.
        images: The images of its cases for the page, or the reason why there are none.
        n_processes: Number of cases read at a time.

    Returns:
        Their paths: ``record``, ``csv``, ``goals``, ``markdown``, ``latex`` and ``html``.

    Raises:
        InputError: If the path of the page holds something else.
    """
    refuse_foreign_folder(out, PAGE_FOLDER)
    texts = {
        "csv": ("comparison.csv", comparison_csv(comparison)),
        "goals": ("goals.csv", goals_csv(comparison)),
        "markdown": ("comparison.md", markdown(comparison)),
        "latex": ("comparison.tex", latex(comparison)),
        "record": ("comparison.json", json.dumps(comparison.to_json(), indent=1, allow_nan=False) + "\n"),
    }
    for name, text in texts.values():
        write_text(out / name, text)
    written = {key: str(out / name) for key, (name, _) in texts.items()}
    return {**written, "html": str(_write_page(comparison, out, images, n_processes))}


def _write_page(comparison: Comparison, out: Path, images: Images | str, n_processes: int) -> Path:
    """Write the page, and remove an earlier one in the other form."""
    log = out.resolve() / "errors.log"
    file, folder, aside = out / PAGE_FILE, out / PAGE_FOLDER, out / f".{PAGE_FOLDER}_partial"
    if not is_folder(comparison):
        write_text(file, page(comparison, images, log=log, n=n_processes))
        shutil.rmtree(folder, ignore_errors=True)
        return file
    shutil.rmtree(aside, ignore_errors=True)
    write_page_folder(comparison, images, aside, log, n_processes)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(aside, folder)
    file.unlink(missing_ok=True)
    return folder / INDEX_FILE
