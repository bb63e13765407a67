"""Colours and strokes of all pictures: one palette for curves, contours, isodoses and dose.

Curves differ in colour and strokes: colour and number of dots identify the ROI, the length of the strokes the dose
(long for the reference, short for a prediction).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cdm_nnunet.dataset import RawDataset
from cdm_nnunet.dvh import Template, match_rois

SHOWN_KINDS = ("target", "oar", "external")
Role = Literal["reference", "predicted", "other"]
DOSES: tuple[Role, Role] = ("reference", "predicted")
COLOURS = (  # (on white, on dark); targets use them from the start, others from the end
    ("#ff4900", "#ff0000"),
    ("#9e4900", "#ff8600"),
    ("#3d3d00", "#cedb00"),
    ("#aa0061", "#ff0086"),
    ("#ce61db", "#e700ff"),
    ("#009292", "#00e0be"),
    ("#aa00ff", "#9e92ce"),
    ("#006d9e", "#00ceff"),
    ("#009e49", "#55ce86"),
    ("#0000ce", "#2479c2"),
)
ISODOSES = {107: "#ffe0ff", 100: "#ffffff", 95: "#fff3b0", 80: "#ecffe6", 50: "#e0f4ff", 20: "#e8e4f8"}
"""Colours of isodose lines on CT by percent of the prescription: paler than contours; labels tell them apart."""
DOSE_MAPS = ("jet", "viridis")
"""Colour maps of the dose: the customary one, and one in which equal steps of dose look equal."""
DIFFERENCE_MAP = "RdBu_r"
CLEAR_TO = 0.25
"""Share of the difference's scale up to which it becomes opaque, from clear at zero on."""
SPANS_GY = (1, 2, 5, 10, 20)
LEAST_CONTRAST = 3.0
DARK_GROUND = "#1a222b"
_FAR_ENOUGH = 0.09  # in Oklab
_STROKES: dict[Role, tuple[float, ...]] = {"reference": (16.0, 3.0), "predicted": (6.0, 3.0), "other": (2.0, 2.0)}
_DOT = (2.0, 3.0)


class Style(NamedTuple):
    """Style of an ROI.

    Attributes:
        light: Colour on white, ``#rrggbb``.
        dark: Colour on a dark background and on CT.
        dots: Number of dots between the strokes of its curves.
    """

    light: str
    dark: str
    dots: int

    def strokes(self, role: Role) -> tuple[float, ...]:
        """Lengths of strokes and gaps in pixels; empty for an unbroken line."""
        return strokes(role, self.dots)


def strokes(role: Role, dots: int = 0) -> tuple[float, ...]:
    """Lengths of strokes and gaps of a curve in pixels, one after another; empty for an unbroken line.

    Args:
        role: Dose of the curve: the reference, a prediction, or a second prediction.
        dots: Number of dots between two strokes.
    """
    return () if role == "reference" and dots == 0 else _STROKES[role] + dots * _DOT


def difference_span_gy(mean_error_gy: float) -> int:
    """End of the colour scale of differences, one for all cases of a cohort: thrice its mean dose error or more, Gy."""
    return next((span for span in SPANS_GY if span >= 3 * mean_error_gy), SPANS_GY[-1])


def shown_template(template: Template, dataset: RawDataset) -> Template:
    """The template with the colours of the data set's structure sets for ROIs without a colour."""
    matched = match_rois(template, dataset.catalogue)
    colours = {name: dataset.roi_colours.get(match.source) for name, match in matched.items()}
    content = template.to_json()
    for roi in content["rois"]:
        if "colour" not in roi and (colour := colours.get(roi["name"])):
            roi["colour"] = colour
    return Template.from_json(content, template.name)


def roi_styles(template: Template) -> dict[str, Style]:
    """Style of each ROI of a template, in its order; no two ROIs have the same colour and dots.

    An ROI has the template's colour, if given, made darker or lighter until it has enough contrast with its background;
    similar colours differ in dots. Others take the colours of :data:`COLOURS` that differ from those, targets the warm
    ones first.
    """
    given = {roi.name: roi.colour.lower() for roi in template.rois if roi.colour is not None}
    free = [pair for pair in COLOURS if all(_distance(pair[0], colour) > _FAR_ENOUGH for colour in given.values())]
    own = _given_styles(given)
    slots = {True: _slots(free or list(COLOURS)), False: _slots((free or list(COLOURS))[::-1])}
    styles: dict[str, Style] = {}
    for roi in sorted(template.rois, key=lambda roi: roi.kind not in SHOWN_KINDS):
        if roi.name not in given:
            taken = set(styles.values())
            free_slots = (slot for slot in slots[roi.kind == "target"] if slot not in taken)
            styles[roi.name] = next(
                slot for slot in free_slots if not any(_is_alike(slot, one) for one in own.values())
            )
    return {roi.name: (own | styles)[roi.name] for roi in template.rois}


def _given_styles(colours: Mapping[str, str]) -> dict[str, Style]:
    """Styles of ROIs with their own colour, each with the fewest dots that distinguish it from earlier ones."""
    styles: dict[str, Style] = {}
    for name, colour in colours.items():
        slots = _slots([(on_white(colour), on_dark(colour))])
        styles[name] = next(slot for slot in slots if not any(_is_alike(slot, one) for one in styles.values()))
    return styles


def _is_alike(one: Style, other: Style) -> bool:
    """Whether two styles can't be distinguished on one of the backgrounds."""
    if one.dots != other.dots:
        return False
    return min(_distance(one.light, other.light), _distance(one.dark, other.dark)) <= _FAR_ENOUGH


def _slots(colours: list[tuple[str, str]]) -> Iterator[Style]:
    """Endless styles: all colours without dots, then with one dot, and so on."""
    return (Style(*pair, dots) for dots in itertools.count() for pair in colours)


def contrast(colour: str, ground: str) -> float:
    """Contrast of two colours by WCAG 2, from 1 to 21.

    Example:
        >>> contrast("#000000", "#ffffff")
        21.0
    """
    low, high = sorted(float(_linear(each) @ (0.2126, 0.7152, 0.0722)) for each in (colour, ground))
    return (high + 0.05) / (low + 0.05)


def on_white(colour: str) -> str:
    """A colour, darkened until it has enough contrast with white."""
    return _mixed(colour, "#000000", "#ffffff")


def on_dark(colour: str) -> str:
    """A colour, lightened until it has enough contrast with a dark background."""
    return _mixed(colour, "#ffffff", DARK_GROUND)


def _mixed(colour: str, with_colour: str, ground: str) -> str:
    start, end = _levels(colour), _levels(with_colour)
    steps = (start + share * (end - start) for share in np.linspace(0, 1, 101))
    texts = ("#" + "".join(f"{round(255 * level):02x}" for level in step) for step in steps)
    return next(text for text in texts if contrast(text, ground) >= LEAST_CONTRAST)


def _levels(colour: str) -> NDArray[np.float64]:
    """Red, green and blue of ``#rrggbb``, 0 to 1."""
    return np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])


def _linear(colour: str) -> NDArray[np.float64]:
    """Linear red, green and blue."""
    levels = _levels(colour)
    return np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)


def _distance(one: str, other: str) -> float:
    """Distance of two colours in Oklab; 0.02 is just noticeable."""
    labs = [np.cbrt(_linear(colour) @ _TO_CONES) @ _TO_LAB for colour in (one, other)]
    return float(np.linalg.norm(labs[0] - labs[1]))


_TO_CONES = np.array(  # (B. Ottosson, Oklab, 2020)
    [
        [0.4122214708, 0.2119034982, 0.0883024619],
        [0.5363325363, 0.6806995451, 0.2817188376],
        [0.0514459929, 0.1073969566, 0.6299787005],
    ]
)
_TO_LAB = np.array(
    [
        [0.2104542553, 1.9779984951, 0.0259040371],
        [0.7936177850, -2.4285922050, 0.7827717662],
        [-0.0040720468, 0.4505937099, -0.8086757660],
    ]
)
