"""Pictures of a case: dose wash on CT slices, and DVH curves (matplotlib, without a display)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

from cdm_nnunet.dvh import Template, cumulative_dvh
from cdm_nnunet.evaluation.pairing import CaseFiles
from cdm_nnunet.evaluation.palette import CLEAR_TO, DIFFERENCE_MAP, DOSE_MAPS, DOSES, Role, Style, strokes
from cdm_nnunet.evaluation.scene import Scene, central_slices, load_scene
from cdm_nnunet.files import replacing

CT_WINDOW_HU = (-160.0, 240.0)
WASH_FROM_FRACTION = 0.1
WASH_ALPHA = 0.5
_LABEL_VOLUMES = (50.0, 30.0, 70.0, 15.0, 85.0, 40.0, 60.0, 22.0, 78.0, 8.0, 92.0)
MARGIN_MM = 25.0
DPI = 110
LEGEND_COLUMNS = 8
SIDE_PLACES = (  # x, y, alignments: left, right, top, bottom
    (0.015, 0.5, "left", "center"),
    (0.985, 0.5, "right", "center"),
    (0.5, 0.985, "center", "top"),
    (0.5, 0.015, "center", "bottom"),
)


class _View(NamedTuple):
    name: str
    axis: int  # of (z, y, x), that the slice cuts
    vertical: int
    horizontal: int
    origin: Literal["upper", "lower"]
    sides: tuple[str, str, str, str]  # left, right, top, bottom


VIEWS = (
    _View("Axial", 0, 1, 2, "upper", ("R", "L", "A", "P")),
    _View("Coronal", 1, 0, 2, "lower", ("R", "L", "H", "F")),
    _View("Sagittal", 2, 0, 1, "lower", ("A", "P", "H", "F")),
)


@dataclass(frozen=True)
class Look:
    """Options of the pictures of a case.

    Attributes:
        span_gy: End of the colour scale of differences, Gy.
        dose_map: Colour map of the dose, one of :data:`DOSE_MAPS`.
        outside_percent: Share of an ROI outside the dose region, where dose is missing, percent, by ROI.
    """

    span_gy: float
    dose_map: str = DOSE_MAPS[0]
    outside_percent: Mapping[str, float] = field(default_factory=dict)


def draw_case(files: CaseFiles, template: Template, folder: Path, look: Look) -> tuple[Path, Path]:
    """Draw both pictures of a case.

    Args:
        files: The case; its doses have been checked by scoring it.
        template: Template of the displayed ROIs, and in which order.
        folder: Folder for ``CASE_slices.png`` and ``CASE_dvh.png``.
        look: Colours, and ROIs marked in the legend of the curves.

    Returns:
        The two paths.
    """
    scene = load_scene(files, template)
    folder.mkdir(parents=True, exist_ok=True)
    return (
        _save(slices_figure(scene, look.span_gy, look.dose_map), folder / f"{scene.case}_slices.png"),
        _save(dvh_figure(scene, look.outside_percent), folder / f"{scene.case}_dvh.png"),
    )


def dvh_figure(scene: Scene, outside_percent: Mapping[str, float] | None = None) -> Figure:
    """Cumulative DVH curves: the reference solid, the prediction dashed, one colour per ROI.

    Args:
        scene: The case.
        outside_percent: As in :class:`Look`; the legend marks these ROIs.
    """
    figure = Figure(figsize=(9.5, max(5.6, 0.24 * (len(scene.masks) + 3))), dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    highest_gy = max(float(dose_gy.max()) for dose_gy in scene.doses_gy.values())
    grid_gy = np.linspace(0.0, 1.03 * highest_gy, 800)
    for name, mask in scene.masks.items():
        width = 2.0 if list(scene.masks).index(name) < scene.n_targets else 1.4
        for role in DOSES:
            curve = cumulative_dvh(scene.doses_gy[role][mask])
            axes.plot(grid_gy, curve.volume_percent_at(grid_gy), **_line(scene.styles[name], role, width))
    for name, (at_gy, percent) in _label_places(scene, grid_gy).items():
        edge = [withStroke(linewidth=2.5, foreground="white")]
        axes.text(
            at_gy, percent, f" {name}", color=scene.styles[name].light, fontsize=8, va="center", path_effects=edge
        )
    axes.set(
        xlabel="Dose (Gy)",
        ylabel="Volume (% of the ROI)",
        xlim=(0, grid_gy[-1]),
        ylim=(0, 101),
        title=f"{scene.case}: cumulative DVH",
    )
    axes.grid(alpha=0.3)
    styles = [
        Line2D([], [], color="0.2", linestyle=_dashes(strokes("reference")), label="reference"),
        Line2D([], [], color="0.2", linestyle=_dashes(strokes("predicted")), label="predicted"),
    ]
    outside = outside_percent or {}
    labels = {name: _label(name, outside.get(name, 0.0)) for name in scene.masks}
    rois = [Line2D([], [], label=labels[name], **_line(scene.styles[name], "reference", 2.0)) for name in scene.masks]
    figure.legend(handles=[*styles, *rois], loc="outside right upper", frameon=False, handlelength=3.6)
    return figure


def _label(name: str, outside_percent: float) -> str:
    return f"{name}\n({outside_percent:.1f} % outside the dose region)" if outside_percent > 0 else name


def _label_places(scene: Scene, grid_gy: NDArray[np.float64]) -> dict[str, tuple[float, float]]:
    """Positions (dose, volume) of names on the reference's curves: the first free position of each, if any."""
    places: dict[str, tuple[float, float]] = {}
    for name, mask in scene.masks.items():
        volumes = cumulative_dvh(scene.doses_gy[DOSES[0]][mask]).volume_percent_at(grid_gy)
        for percent in _LABEL_VOLUMES:
            at_gy = float(grid_gy[np.searchsorted(-volumes, -percent).clip(max=grid_gy.size - 1)])
            ends = [(at, name_at, y) for name_at, (at, y) in places.items() if abs(y - percent) < 4]
            width_gy = _label_gy(name, grid_gy)
            taken = any(at_gy < at + _label_gy(other, grid_gy) and at < at_gy + width_gy for at, other, _ in ends)
            if not taken and at_gy + width_gy < grid_gy[-1]:
                places[name] = (at_gy, percent)
                break
    return places


def _label_gy(name: str, grid_gy: NDArray[np.float64]) -> float:
    return float(0.011 * (len(name) + 2) * grid_gy[-1])


def _line(style: Style, role: Role, width: float) -> dict[str, Any]:
    return {"color": style.light, "linewidth": width, "linestyle": _dashes(style.strokes(role), width)}


def _dashes(lengths: tuple[float, ...], width: float = 1.5) -> Any:
    """Strokes of the palette for matplotlib, in units of the line width."""
    return (0, tuple(0.75 * length / width for length in lengths)) if lengths else "-"


def slices_figure(scene: Scene, span_gy: float, dose_map: str = DOSE_MAPS[0]) -> Figure:
    """Axial, coronal and sagittal slices through the target: reference, prediction and their difference on CT.

    Args:
        scene: The case.
        span_gy: End of the colour scale of differences; they are clear at zero.
        dose_map: Colour map of the dose.
    """
    centre = central_slices(scene)
    crops = [_crop(scene, view, centre[view.axis]) for view in VIEWS]
    shapes = [_size_mm(scene, view, *crop) for view, crop in zip(VIEWS, crops, strict=True)]
    ratios = [width / height for width, height in shapes]
    row_inch = 10.4 / sum(ratios)
    visible = [
        name
        for name, mask in scene.masks.items()
        if any(_cut(mask, v, centre[v.axis], *crop).any() for v, crop in zip(VIEWS, crops, strict=True))
    ]
    legend_inch = max(0.8, 0.15 + 0.23 * -(-len(visible) // LEGEND_COLUMNS))
    figure = Figure(figsize=(12.0, 3 * 1.04 * row_inch + 0.8 + legend_inch), dpi=DPI)
    height_inch = figure.get_figheight()
    grid = GridSpec(
        3, 4, figure, width_ratios=[*ratios, 0.035 * sum(ratios)], left=0.04, right=0.93, top=1 - 0.75 / height_inch,
        bottom=legend_inch / height_inch, wspace=0.04, hspace=0.04,
    )  # fmt: skip
    for row, (label, volume, style) in enumerate(_rows(scene, span_gy, dose_map)):
        shown: Any = None
        for column, (view, crop) in enumerate(zip(VIEWS, crops, strict=True)):
            axes = figure.add_subplot(grid[row, column])
            shown = _draw_slice(axes, scene, view, centre[view.axis], crop, volume, style)
            if row == 0:
                first_mm, step_mm = scene.grid.origin_zyx_mm[view.axis], scene.grid.spacing_zyx_mm[view.axis]
                position_mm = first_mm + centre[view.axis] * step_mm
                axes.set_title(f"{view.name}, {'zyx'[view.axis]} = {position_mm:.0f} mm", fontsize=10)
            if column == 0:
                axes.set_ylabel(label, fontsize=11)
        is_difference = row == 2
        if is_difference:
            shown = ScalarMappable(shown.norm, shown.cmap)
        bar = figure.colorbar(
            shown, cax=figure.add_subplot(grid[row, 3]), extend="both" if is_difference else "neither"
        )
        bar.set_label("Predicted - reference (Gy)" if is_difference else "Dose (Gy)")
    low_gy = WASH_FROM_FRACTION * scene.prescription_gy
    title = f"{scene.case}: dose from {low_gy:g} Gy ({WASH_FROM_FRACTION:.0%} of {scene.prescription_gy:g} Gy)"
    figure.suptitle(title, fontsize=12, y=1 - 0.15 / height_inch, va="top")
    handles = [Line2D([], [], color=scene.styles[name].dark, linewidth=3, label=name) for name in visible]
    if handles:
        figure.legend(
            handles=handles, loc="lower center", ncols=min(len(handles), LEGEND_COLUMNS), fontsize=9,
            facecolor="0.25", labelcolor="white",
        )  # fmt: skip
    return figure


def _rows(scene: Scene, span_gy: float, dose_map: str) -> list[tuple[str, NDArray[np.floating], dict[str, Any]]]:
    reference, predicted = scene.doses_gy["reference"], scene.doses_gy["predicted"]
    highest_gy = max(1.1 * scene.prescription_gy, float(reference.max()))
    wash = {"cmap": dose_map, "vmin": 0.0, "vmax": highest_gy, "alpha": WASH_ALPHA}
    difference = predicted.astype(np.float64) - reference
    washed = np.maximum(reference, predicted) >= WASH_FROM_FRACTION * scene.prescription_gy
    diverging = {"cmap": DIFFERENCE_MAP, "vmin": -span_gy, "vmax": span_gy}
    low = WASH_FROM_FRACTION * scene.prescription_gy
    return [
        ("Reference", np.ma.masked_less(reference, low), wash),
        ("Prediction", np.ma.masked_less(predicted, low), wash),
        ("Difference", np.ma.masked_where(~washed, difference), diverging),
    ]


def _draw_slice(
    axes: Axes,
    scene: Scene,
    view: _View,
    index: int,
    crop: tuple[slice, slice],
    volume: NDArray[np.floating],
    style: Mapping[str, Any],
) -> Any:
    """Draw one slice; return the image for a colour bar."""
    rows, columns = crop
    left, right = _edges_mm(scene, view.horizontal, columns)
    low, high = _edges_mm(scene, view.vertical, rows)
    extent = (left, right, high, low) if view.origin == "upper" else (left, right, low, high)
    common: dict[str, Any] = {"origin": view.origin, "extent": extent, "aspect": "equal"}
    darkest, brightest = CT_WINDOW_HU
    ct_hu = _cut(scene.ct_hu, view, index, *crop)
    axes.imshow(ct_hu, cmap="gray", vmin=darkest, vmax=brightest, interpolation="bilinear", **common)
    plane = _cut(volume, view, index, *crop)
    alpha = style.get("alpha", 0.7 * np.clip(np.abs(np.ma.getdata(plane)) / (CLEAR_TO * style["vmax"]), 0.0, 1.0))
    shown = axes.imshow(plane, interpolation="nearest", **{**style, "alpha": alpha}, **common)
    horizontal_mm, vertical_mm = (
        scene.grid.origin_zyx_mm[axis] + np.arange(part.start, part.stop) * scene.grid.spacing_zyx_mm[axis]
        for axis, part in ((view.horizontal, columns), (view.vertical, rows))
    )
    for name, mask in reversed(list(scene.masks.items())):  # targets last, the highest on top: their edges may coincide
        inside = _cut(mask, view, index, *crop)
        if inside.any() and min(inside.shape) > 1:
            contour = axes.contour(
                horizontal_mm, vertical_mm, inside.astype(float), levels=[0.5], colors=[scene.styles[name].dark],
                linewidths=1.1,
            )  # fmt: skip
            contour.set_path_effects([withStroke(linewidth=2.0, foreground=(0, 0, 0, 0.55))])
    axes.set_xticks([])
    axes.set_yticks([])
    on_any: dict[str, Any] = {"color": "white", "path_effects": [withStroke(linewidth=3.5, foreground="black")]}
    for text, (x, y, ha, va) in zip(view.sides, SIDE_PLACES, strict=True):
        axes.text(x, y, text, ha=ha, va=va, transform=axes.transAxes, fontsize=9, weight="bold", **on_any)
    bar_mm, corner_mm = 50.0, 0.04 * (right - left)
    height_mm = extent[2] + 0.03 * (extent[3] - extent[2])
    axes.plot([left + corner_mm, left + corner_mm + bar_mm], [height_mm] * 2, linewidth=2.5, **on_any)
    axes.annotate("5 cm", (left + corner_mm, height_mm), (0, 4), textcoords="offset points", fontsize=8, **on_any)
    axes.set(xlim=extent[:2], ylim=extent[2:])
    return shown


def _cut(array: NDArray[Any], view: _View, index: int, rows: slice, columns: slice) -> NDArray[Any]:
    plane: NDArray[Any] = np.moveaxis(array, view.axis, 0)[index][rows, columns]
    return plane


def _edges_mm(scene: Scene, axis: int, part: slice) -> tuple[float, float]:
    step = scene.grid.spacing_zyx_mm[axis]
    first = scene.grid.origin_zyx_mm[axis] + (part.start - 0.5) * step
    return first, first + (part.stop - part.start) * step


def _size_mm(scene: Scene, view: _View, rows: slice, columns: slice) -> tuple[float, float]:
    (left, right), (low, high) = _edges_mm(scene, view.horizontal, columns), _edges_mm(scene, view.vertical, rows)
    return right - left, high - low


def _crop(scene: Scene, view: _View, index: int) -> tuple[slice, slice]:
    """Rows and columns of a slice with dose or ROIs, with a margin; the whole slice if there is neither."""
    whole = (slice(None), slice(None))
    filled = _cut(scene.doses_gy["reference"], view, index, *whole) >= WASH_FROM_FRACTION * scene.prescription_gy
    for mask in scene.masks.values():
        filled = filled | _cut(mask, view, index, *whole)
    return (
        _filled_range(np.any(filled, axis=1), scene.grid.spacing_zyx_mm[view.vertical]),
        _filled_range(np.any(filled, axis=0), scene.grid.spacing_zyx_mm[view.horizontal]),
    )


def _filled_range(filled: NDArray[np.bool_], step_mm: float) -> slice:
    where = np.flatnonzero(filled)
    if not where.size:
        return slice(0, filled.size)
    margin = int(np.ceil(MARGIN_MM / step_mm))
    return slice(max(0, int(where[0]) - margin), min(filled.size, int(where[-1]) + 1 + margin))


def _save(figure: Figure, path: Path) -> Path:
    with replacing(path) as partial:
        figure.savefig(partial, format="png")
    return path
