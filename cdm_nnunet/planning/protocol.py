"""A planning protocol: the YAML file for planning every patient of a data set."""

from __future__ import annotations

import hashlib
import itertools
import json
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from cdm_nnunet.documents import read_yaml, refuse
from cdm_nnunet.errors import InputError

_STRICT = ConfigDict(extra="forbid", frozen=True)
Positive = Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)]
Percent = Annotated[float, Field(gt=0, le=200, allow_inf_nan=False)]
Degrees = Annotated[float, Field(ge=0, lt=360, allow_inf_nan=False)]


class Beams(BaseModel):
    """Beams, and the resolution of fluence and dose.

    Attributes:
        gantry_deg: Gantry angles of the coplanar beams, degrees, IEC, for a patient in head first supine position.
        bixel_mm: Side of a square bixel at the isocentre, mm.
        dose_grid_mm: Distance of the nodes of the dose calculation, mm.
    """

    model_config = _STRICT

    gantry_deg: list[Degrees] = Field(min_length=1, max_length=72)
    bixel_mm: float = Field(ge=2, le=20)
    dose_grid_mm: float = Field(ge=1, le=10)

    @model_validator(mode="after")
    def _angles_differ(self) -> Beams:
        if len(set(self.gantry_deg)) < len(self.gantry_deg):
            refuse([(("gantry_deg",), "a gantry angle is repeated")])
        return self


class Targets(BaseModel):
    """Dose of targets, in percent of their prescription.

    Attributes:
        lower_percent: Below it, a voxel is underdosed.
        upper_percent: Above it, a voxel is overdosed; next to a higher target, that target's fall-off takes precedence.
        under_weight: Weight of underdose.
        over_weight: Weight of overdose.
    """

    model_config = _STRICT

    lower_percent: Percent
    upper_percent: Percent
    under_weight: Positive
    over_weight: Positive

    @model_validator(mode="after")
    def _in_order(self) -> Targets:
        if self.upper_percent <= self.lower_percent:
            refuse([(("upper_percent",), "it must lie above 'lower_percent'")])
        return self


class FallOff(BaseModel):
    """The highest dose around a target as a function of distance: rings without steps.

    Attributes:
        percent_at_mm: Pairs of distance (mm) and percent of the target's prescription, the nearest first; linear
            between them, constant beyond the last.
        weight: Weight of dose above it, over the volume of the rings (up to the last distance).
        beyond_weight: The same for the body beyond the last distance.
    """

    model_config = _STRICT

    percent_at_mm: list[tuple[float, float]] = Field(min_length=2)
    weight: Positive
    beyond_weight: Positive

    @model_validator(mode="after")
    def _falls(self) -> FallOff:
        for (near_mm, more), (far_mm, less) in itertools.pairwise(self.percent_at_mm):
            if far_mm <= near_mm or less > more:
                refuse([(("percent_at_mm",), "distances must ascend, and percentages must not")])
        if self.percent_at_mm[0][0] < 0 or self.percent_at_mm[-1][1] <= 0:
            refuse([(("percent_at_mm",), "distances must not be negative, and percentages must be above 0")])
        return self


class Limit(BaseModel):
    """The highest dose of an organ outside the targets.

    Attributes:
        roi: ROI of the data set's catalogue.
        upper_gy: Dose above which a voxel counts, Gy.
        weight: Weight of the mean square of dose above it, over the organ.
    """

    model_config = _STRICT

    roi: str = Field(min_length=1)
    upper_gy: float = Field(ge=0, le=200, allow_inf_nan=False)
    weight: Positive


class Normalisation(BaseModel):
    """Scaling of the optimised dose, and a check afterwards.

    Attributes:
        coverage_percent: Percentage of the highest target's volume that gets at least its prescription.
        hottest_percent: Highest D1% of the highest target, percent of its prescription; a case above it is noted.
    """

    model_config = _STRICT

    coverage_percent: float = Field(gt=0, lt=100)
    hottest_percent: Percent


class Optimiser(BaseModel):
    """End of the optimisation, and sampling of the dose.

    Attributes:
        iterations: Maximum number of iterations.
        tolerance: The optimisation ends when ten iterations lower the objective by less than this fraction.
        far_mm: Farther than this from targets, every other node of the dose grid along each axis is used; it
            represents eight.
    """

    model_config = _STRICT

    iterations: int = Field(ge=1, le=10_000)
    tolerance: float = Field(ge=0, lt=1)
    far_mm: float = Field(gt=0)


class Mimicking(BaseModel):
    """Weights of the mean square differences when a given dose is mimicked.

    Attributes:
        body_weight: Weight of all differences, over the dose region.
        target_weight: Weight of dose below the given dose in a target, for each target.
        hot_weight: Weight of dose above the given dose in a target.
        organ_weight: Weight of dose above the given dose in an organ, for each organ.
    """

    model_config = _STRICT

    body_weight: Positive = 1.0
    target_weight: Positive = 1.0
    hot_weight: Positive = 0.5
    organ_weight: Positive = 0.2


class Protocol(BaseModel):
    """A planning protocol.

    Attributes:
        format_version: Version of this format.
        name: Its name.
        description: Its purpose, in a sentence.
        beams: The beams.
        targets: Dose of targets.
        fall_off: The highest dose around targets.
        limits: The highest doses of organs; an ROI may appear several times. An ROI that a patient lacks has no limit.
        normalisation: Scaling of the dose.
        optimiser: Settings of the optimisation.
        mimicking: Weights for mimicking a given dose.
    """

    model_config = _STRICT

    format_version: Literal[1]
    name: str = Field(min_length=1)
    description: str = ""
    beams: Beams
    targets: Targets
    fall_off: FallOff
    limits: list[Limit] = []
    normalisation: Normalisation
    optimiser: Optimiser
    mimicking: Mimicking = Mimicking()

    @property
    def sha256(self) -> str:
        """Digest of all settings that affect a planned dose."""
        content = self.model_dump(mode="json", exclude={"name", "description", "mimicking"})
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    @classmethod
    def load(cls, name_or_path: str | Path) -> Protocol:
        """Read a protocol.

        Args:
            name_or_path: Name of a shipped protocol, or path of a YAML file.

        Raises:
            InputError: If there is none, or it is invalid; the message has line and column.
        """
        path = Path(name_or_path)
        if path.suffix.lower() in (".yaml", ".yml"):
            return read_yaml(path, cls)
        if str(name_or_path) not in shipped_protocols():
            raise InputError(
                f"no protocol '{name_or_path}'; shipped are {', '.join(shipped_protocols())}, and a file of "
                "your own ends in .yaml"
            )
        with resources.as_file(_FOLDER / f"{name_or_path}.yaml") as shipped:
            return read_yaml(shipped, cls)


_FOLDER = resources.files("cdm_nnunet.planning") / "protocols"


def shipped_protocols() -> tuple[str, ...]:
    """Names of the shipped protocols."""
    return tuple(
        sorted(entry.name.removesuffix(".yaml") for entry in _FOLDER.iterdir() if entry.name.endswith(".yaml"))
    )
