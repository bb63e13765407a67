"""Does a model detect patients to whom it does not apply? Altered and untouched patients against a cohort.

    python benchmarks/applicability.py nnUNet_raw/Dataset501_OpenKBP work_folder
    python benchmarks/applicability.py nnUNet_raw/Dataset501_OpenKBP work_folder --inside 0
    python benchmarks/applicability.py nnUNet_raw/Dataset501_OpenKBP work_folder --untouched

The cohort consists of the training cases of a fold of the data set, the new patients of its validation cases; with
``--inside K`` the K-th fifth of the training cases is new, and the other four fifths are the cohort. Each new patient
is measured unchanged and altered in a dozen ways. ``--untouched`` compares each fifth of the training cases unchanged.
No network is needed: only facts are measured. They are stored in the work folder, so that a stopped run continues.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cdm_nnunet.dataset import RawDataset
from cdm_nnunet.documents import plain, read_json
from cdm_nnunet.errors import InputError
from cdm_nnunet.files import write_json
from cdm_nnunet.nnunet.case_facts import CaseFacts
from cdm_nnunet.nnunet.cohort import Cohort
from cdm_nnunet.nnunet.plans import CT, FIRST_WORD, PRESCRIPTION
from cdm_nnunet.nnunet.reader import CDMReaderWriter
from cdm_nnunet.roi import WORD_BITS, Catalogue, mask_from_words

Channels = NDArray[np.float32]
Spacing = tuple[float, float, float]
Change = Callable[[Channels, Catalogue], Channels | None]  # None if a patient can't be altered like this
FIFTHS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path, help="converted data set")
    parser.add_argument("work", type=Path, help="folder for the facts")
    parser.add_argument("--fold", type=int, default=0)
    parser.add_argument(
        "--inside", type=int, choices=range(FIFTHS), help="new patients are a fifth of the training cases"
    )
    parser.add_argument(
        "--untouched", action="store_true", help="how many training patients a cohort of others calls unusual"
    )
    args = parser.parse_args()
    raw = RawDataset(args.dataset)
    fold = json.loads((args.dataset / "splits_final.json").read_text())[args.fold]
    if args.untouched:
        told = {}
        for number in range(FIFTHS):
            told |= dict(compare(raw, *fifth(fold["train"], number), args.work, altered=False)[1].get("untouched", {}))
        unusual = {case: why for case, (status, why) in told.items() if status != "inside"}
        print(f"{len(unusual)} of {len(told)} training patients ({100 * len(unusual) / len(told):.1f} %)")
        print("\n".join(f"{case}: {why}" for case, why in unusual.items()))
        return
    cohort, new = (fold["train"], fold["val"]) if args.inside is None else fifth(fold["train"], args.inside)
    report(*compare(raw, cohort, new, args.work, altered=True))


def fifth(cases: list[str], number: int) -> tuple[list[str], list[str]]:
    """Split cases into every fifth case and the others."""
    new = cases[number::FIFTHS]
    return [case for case in cases if case not in new], new


def compare(
    raw: RawDataset, cohort: list[str], new: list[str], work: Path, *, altered: bool
) -> tuple[Cohort, dict[str, dict[str, tuple[str, str]]]]:
    """The cohort, and status and reasons of new cases by alteration."""
    measured = [measure(raw, case, work)["untouched"] for case in cohort]
    known = Cohort.of([facts for facts in measured if isinstance(facts, CaseFacts)])
    outcomes: dict[str, dict[str, tuple[str, str]]] = {}
    for case in new:
        for name, facts in measure(raw, case, work, altered=altered).items():
            outcomes.setdefault(name, {})[case] = judged(known, facts, raw.catalogue)
    return known, outcomes


def report(cohort: Cohort, outcomes: dict[str, dict[str, tuple[str, str]]]) -> None:
    """One row per alteration, then the undetected patients."""
    reference = cohort.reference
    if reference is not None:
        low, high = np.exp(reference.size.limits)
        low_hu, high_hu = reference.ct.limits
        print(
            f"{cohort.n_cases} in the cohort; limits: score {reference.score_limit:.2f}, size {low:.3f} to {high:.3f}, "
            f"CT {low_hu:.0f} to {high_hu:.0f} HU"
        )
    print("| alteration | n | told | unusual | outside | refused |\n| --- | --- | --- | --- | --- | --- |")
    n_told = n_altered = 0
    for name, cases in outcomes.items():
        counts = {
            status: sum(found == status for found, _ in cases.values()) for status in ("unusual", "outside", "refused")
        }
        told = sum(counts.values())
        print(
            f"| {name} | {len(cases)} | {told} ({100 * told / len(cases):.0f} %) | "
            + " | ".join(map(str, counts.values()))
            + " |"
        )
        if name != "untouched":
            n_told, n_altered = n_told + told, n_altered + len(cases)
    print(f"\n{n_told} of {n_altered} alterations told ({100 * n_told / n_altered:.1f} %)\n")
    for name, cases in outcomes.items():
        for case, (status, why) in cases.items():
            if (status != "inside") == (name == "untouched"):
                print(f"{name}: {case} {status} {why}")


def judged(cohort: Cohort, facts: CaseFacts | str, catalogue: Catalogue) -> tuple[str, str]:
    """Status and reasons."""
    if isinstance(facts, str):
        return "refused", facts
    try:
        found = cohort.compare(facts, catalogue)
    except InputError as error:
        return "refused", str(error)
    return found.status, "; ".join(found.notes)


def measure(raw: RawDataset, case: str, work: Path, *, altered: bool = False) -> dict[str, CaseFacts | str]:
    """Facts of a case by alteration; a text if it is refused as impossible."""
    names = ["untouched", *(ALTERATIONS if altered else ())]
    files = {name: work / case / f"{name.replace(' ', '_')}.json" for name in names}
    if not all(file.is_file() for file in files.values()):
        data, properties = CDMReaderWriter().read_images([str(raw.image_path(case, channel)) for channel in range(3)])
        z, y, x = properties["spacing"]
        for name, file in files.items():
            if not file.is_file():
                file.parent.mkdir(parents=True, exist_ok=True)
                write_json(file, _measured(name, data, (z, y, x), raw.catalogue))
    found: dict[str, CaseFacts | str] = {}
    for name, file in files.items():
        content = json.loads(file.read_text())
        if content is not None:
            found[name] = content["refused"] if "refused" in content else read_json(file, CaseFacts)
    return found


def _measured(name: str, data: Channels, spacing_mm: Spacing, catalogue: Catalogue) -> object:
    factor, change = (1.0, None) if name == "untouched" else ALTERATIONS[name]
    changed = data if change is None else change(data.copy(), catalogue)
    if changed is None:
        return None
    z, y, x = (factor * mm for mm in spacing_mm)
    try:
        facts = CaseFacts.measure(changed, (z, y, x), catalogue)
    except InputError as error:
        return {"refused": str(error)}
    # (a patient of that size on the usual voxels: the voxel size alone must not reveal it)
    return plain(dataclasses.replace(facts, spacing_mm=spacing_mm))


def _bits_cleared(data: Channels, catalogue: Catalogue, names: list[str]) -> Channels:
    for name in names:
        word, bit = divmod(catalogue.bit(name), WORD_BITS)
        words = data[FIRST_WORD + word].astype(np.uint16)
        data[FIRST_WORD + word] = words & ~np.uint16(1 << bit)
    return data


def _contoured(data: Channels, catalogue: Catalogue, kind: str) -> list[str]:
    words = data[FIRST_WORD:].astype(np.uint16)
    names = [catalogue.names[bit] for bit in catalogue.bits_of_kind(kind)]
    return [name for name in names if mask_from_words(words, catalogue.bit(name)).any()]


def _without(position: int) -> Change:
    """Remove the target at ``position`` in descending order of level; the others keep theirs."""

    def change(data: Channels, catalogue: Catalogue) -> Channels | None:
        words = data[FIRST_WORD:].astype(np.uint16)
        masks = {one: mask_from_words(words, catalogue.bit(one)) for one in _contoured(data, catalogue, "target")}
        levels = {name: data[PRESCRIPTION][mask].min() for name, mask in masks.items()}
        ordered = sorted(levels, key=lambda name: -levels[name])
        if len(ordered) < 2 or position >= len(ordered):
            return None
        removed = ordered[position]
        data[PRESCRIPTION] = 0
        for name in reversed(ordered):
            if name != removed:
                data[PRESCRIPTION][masks[name]] = levels[name]
        return _bits_cleared(data, catalogue, [removed])

    return change


def _half(upper: bool) -> Change:
    def change(data: Channels, catalogue: Catalogue) -> Channels:
        held = np.flatnonzero(data[FIRST_WORD:].any(axis=(0, 2, 3)))
        middle = int(held[0] + held[-1] + 1) // 2
        return data[:, middle:] if upper else data[:, :middle]

    return change


def _sides_exchanged(data: Channels, catalogue: Catalogue) -> Channels | None:
    words = data[FIRST_WORD:].astype(np.uint16)
    paired = [roi for roi in catalogue.rois if roi.mirror is not None]
    masks = {roi.name: mask_from_words(words, catalogue.bit(roi.name)) for roi in paired}
    if not any(mask.any() for mask in masks.values()):
        return None
    data = _bits_cleared(data, catalogue, list(masks))
    for roi in paired:
        word, bit = divmod(catalogue.bit(str(roi.mirror)), WORD_BITS)
        data[FIRST_WORD + word] += np.float32(1 << bit) * masks[roi.name]
    return data


def _prescribed(factor: float) -> Change:
    def change(data: Channels, catalogue: Catalogue) -> Channels:
        data[PRESCRIPTION] *= np.float32(factor)
        return data

    return change


def _shifted(hu: float) -> Change:
    def change(data: Channels, catalogue: Catalogue) -> Channels:
        data[CT] = np.clip(data[CT] + np.float32(hu), -1024, 3071)
        return data

    return change


def _another_site(data: Channels, catalogue: Catalogue) -> Channels:
    return _bits_cleared(data, catalogue, _contoured(data, catalogue, "oar"))


ALTERATIONS: dict[str, tuple[float, Change | None]] = {
    "scaled by 0.7": (0.7, None),
    "scaled by 1.4": (1.4, None),
    "upper half": (1.0, _half(True)),
    "lower half": (1.0, _half(False)),
    "highest target removed": (1.0, _without(0)),
    "second target removed": (1.0, _without(1)),
    "third target removed": (1.0, _without(2)),
    "prescriptions x 1.5": (1.0, _prescribed(1.5)),
    "left and right exchanged": (1.0, _sides_exchanged),
    "CT + 100 HU": (1.0, _shifted(100.0)),
    "CT - 100 HU": (1.0, _shifted(-100.0)),
    "all organs at risk removed": (1.0, _another_site),
}


if __name__ == "__main__":
    main()
