"""Record of a predicted dose: ``CASE.prediction.json`` next to ``CASE.nii.gz``."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Discriminator, Tag

from cdm_nnunet.dataset import FILE_ENDING
from cdm_nnunet.documents import TAG_MARK, differences, read_json
from cdm_nnunet.errors import InputError
from cdm_nnunet.files import alone_in, write_json

ENOUGH_CASES = 20  # minimum number of training patients for distributions
_NOT_COMPARED = "the model's plans do not describe its training cases; the case was not compared"
_RANGES_ONLY = (
    "the model's plans were made by an earlier version and hold ranges only: sizes, positions and dose levels of the "
    "ROIs were not compared with the training cases' distributions"
)
_EARLIER = (
    "the model's plans were made by an earlier version: whether a target is missing between the others, and how "
    "much is seen of an organ that the image cuts, was not compared with the training cases"
)
RECORD_ENDING = ".prediction.json"
Setting = bool | int | float | str | None


@dataclass(frozen=True, kw_only=True)
class Origin:
    """The model and options that made a dose.

    Attributes:
        dataset: Data set that the model was trained on.
        trainer: Class of the trainer.
        plans: Name of the plans.
        plans_sha256: Digest of the plans and ``dataset.json``: see :func:`cdm_nnunet.nnunet.model.model_digest`.
        spacing_mm: Voxel size (z, y, x) of the network's grid.
        weights_sha256: Digest of each fold's weights.
        tile_step_size: Step between windows, as a fraction of the patch size.
        mirroring: Whether left-right mirrored predictions were averaged.
        gaussian: Whether windows were weighted by a Gaussian.
        configuration: Such as ``3d_fullres``; None if unknown.
        folds: Fold of each of the weights, in their order; None if unknown.
        settings: Training settings of each fold, by name; None if unknown, or for a fold whose checkpoint lacks them.
    """

    dataset: str
    trainer: str
    plans: str
    plans_sha256: str
    spacing_mm: list[float]
    weights_sha256: list[str]
    tile_step_size: float
    mirroring: bool
    gaussian: bool
    configuration: str | None = None
    folds: list[str] | None = None
    settings: dict[str, dict[str, Setting] | None] | None = None

    def unlike(self, other: Made) -> str:
        """Differences with both values; entries missing in one of them are ignored."""
        if isinstance(other, MeanOrigin):
            return "one is of a single model, the other a mean of several"
        one, two = asdict(self), asdict(other)
        known = [key for key in one if one[key] is not None and two[key] is not None]
        return differences({key: one[key] for key in known}, {key: two[key] for key in known})


@dataclass(frozen=True, kw_only=True)
class MeanOrigin:
    """The origin of a dose that is the mean of other doses.

    Attributes:
        mean_of: The origins of these doses, in the order in which they were given.
    """

    mean_of: list[Made]

    def unlike(self, other: Made) -> str:
        """Differences, as :meth:`Origin.unlike`."""
        if isinstance(other, Origin):
            return other.unlike(self)
        if len(self.mean_of) != len(other.mean_of):
            return f"one is a mean of {len(self.mean_of)} doses, the other of {len(other.mean_of)}"
        pairs = enumerate(zip(self.mean_of, other.mean_of, strict=True), 1)
        unlike = ((number, one.unlike(two)) for number, (one, two) in pairs)
        return "; ".join(f"dose {number} of the mean: {text}" for number, text in unlike if text)

    @property
    def models(self) -> list[Origin]:
        """The single models of the mean."""
        return [one for part in self.mean_of for one in ([part] if isinstance(part, Origin) else part.models)]


def _kind_of_origin(value: object) -> str:
    return _MEAN if isinstance(value, MeanOrigin) or (isinstance(value, dict) and "mean_of" in value) else _SINGLE


_SINGLE, _MEAN = f"{TAG_MARK}single", f"{TAG_MARK}mean"
Made = Annotated[Annotated[Origin, Tag(_SINGLE)] | Annotated[MeanOrigin, Tag(_MEAN)], Discriminator(_kind_of_origin)]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A quantity in which a patient differs from the training patients.

    Attributes:
        text: The finding, in a sentence.
        value: Its value; None if it is not a number.
        unit: Its unit; empty if there is none.
        percentile: Percentage of the training patients with a lower value: 0 below all, 100 above all; None if unknown.
        training: Lowest and highest value of the training patients; None if unknown.
        is_outside: Whether it puts the patient outside what the model applies to.
    """

    text: str
    value: float | None = None
    unit: str = ""
    percentile: float | None = None
    training: list[float] | None = None
    is_outside: bool = False

    @property
    def note(self) -> str:
        """The finding as a line."""
        return f"{'outside' if self.is_outside else 'unusual'}: {self.text}"


@dataclass(frozen=True, kw_only=True)
class Applicability:
    """Whether a model applies to a patient.

    Attributes:
        status: ``inside`` what the model was trained on, ``unusual``, ``outside`` or ``not compared``.
        compared: Data for the comparison: ``distributions``, ``earlier distributions`` (fewer, of plans of
            an earlier version), ``ranges`` only (a model of few patients, or of an earlier version), or ``nothing``.
        n_training: Number of patients in the model's data set, of which each fold was trained on a part; None if
            unknown.
        findings: Differences from the training patients.
        allowed: Whether the patient is outside and was predicted on request.
    """

    status: Literal["inside", "unusual", "outside", "not compared"]
    compared: Literal["distributions", "earlier distributions", "ranges", "nothing"]
    n_training: int | None = None
    findings: list[Finding] = field(default_factory=list)
    allowed: bool = False

    @classmethod
    def of(
        cls, findings: Iterable[Finding], compared: Literal["distributions", "earlier distributions", "ranges"], n: int
    ) -> Applicability:
        """Applicability from findings."""
        found = list(findings)
        status: Literal["inside", "unusual", "outside"] = "unusual" if found else "inside"
        if any(finding.is_outside for finding in found):
            status = "outside"
        return cls(status=status, compared=compared, n_training=n, findings=found)

    @property
    def notes(self) -> tuple[str, ...]:
        """Findings, and quantities that could not be compared, as lines."""
        lines = [one.note for one in self.findings]
        if self.compared == "nothing":
            lines.append(_NOT_COMPARED)
        elif self.compared == "earlier distributions":
            lines.append(_EARLIER)
        elif self.compared == "ranges" and (self.n_training or 0) >= ENOUGH_CASES:
            lines.append(_RANGES_ONLY)
        return tuple(lines)

    def permitted(self, allows_outside: bool = False) -> Applicability:
        """The same applicability, with the user's permission recorded.

        Args:
            allows_outside: Whether a patient to whom the model does not apply may be predicted.

        Raises:
            InputError: If the model does not apply, and that is not allowed.
        """
        if self.status != "outside":
            return self
        if not allows_outside:
            told = "; ".join(finding.text for finding in self.findings if finding.is_outside)
            raise InputError(
                f"the model does not apply to this patient: {told}; if the patient's data are right, predict with "
                "--allow-outside, which the record states"
            )
        return dataclasses.replace(self, allowed=True)


NOT_COMPARED = Applicability(status="not compared", compared="nothing")


@dataclass(frozen=True, kw_only=True)
class PredictionRecord:
    """One predicted dose.

    Attributes:
        case: Name of the case.
        prescriptions_gy: Prescription of each target as the model read it, Gy; None if unknown.
        notes: Unusual properties of the case, one sentence each.
        origin: The model and options that made the dose; None if unknown.
        inputs_sha256: Digests of the input files by name; None if there were none.
        dose_sha256: Digest of the dose's file; None until it is written.
        model: Name of the model package; None for a model in nnU-Net's folders. See ``origin`` for its details.
        applicability: Whether the model applies to the patient; None in records of earlier versions and of means.
    """

    case: str
    prescriptions_gy: dict[str, float] | None
    notes: list[str]
    origin: Made | None = None
    inputs_sha256: dict[str, str] | None = None
    dose_sha256: str | None = None
    model: str | None = None
    applicability: Applicability | None = None

    @contextlib.contextmanager
    def beside(self, dose: Path) -> Iterator[None]:
        """Write the record of the dose ``CASE.nii.gz`` that the block writes; a dose without a record is unfinished.

        Only one process at a time writes into the folder, so that dose and record belong together.
        """
        with alone_in(dose.parent):
            record_path(dose).unlink(missing_ok=True)
            yield
            written = dataclasses.replace(self, dose_sha256=digest_of(dose))
            write_json(record_path(dose), asdict(written))

    @classmethod
    def read(cls, dose: Path) -> PredictionRecord:
        """Read the record of a dose ``CASE.nii.gz``.

        Raises:
            InputError: If it is missing or damaged.
        """
        return read_json(record_path(dose), cls, "predict the case again")

    @classmethod
    def of_dose(cls, dose: Path) -> PredictionRecord:
        """Read the record of a dose, and check that the dose is unchanged.

        Raises:
            InputError: As :meth:`read`, or if the record is not that of this dose.
        """
        record = cls.read(dose)
        if record.case != dose.name.removesuffix(FILE_ENDING):
            raise InputError(f"{record_path(dose)} belongs to case '{record.case}'; predict the case again")
        if record.dose_sha256 != digest_of(dose):
            raise InputError(
                f"{dose} does not match its record {record_path(dose).name}: it was changed or replaced after the "
                "prediction; predict the case again, or delete the record if the dose is from elsewhere"
            )
        return record


def record_path(dose: Path) -> Path:
    """The record's file for a dose ``CASE.nii.gz``."""
    return dose.with_name(dose.name.removesuffix(FILE_ENDING) + RECORD_ENDING)


def digests_of(files: Iterable[str]) -> dict[str, str]:
    """SHA-256 of files by name."""
    return {Path(file).name: digest_of(Path(file)) for file in files}


def digest_of(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
