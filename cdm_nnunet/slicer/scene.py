"""A scene of 3D Slicer (MRML): files to load, and their display."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from cdm_nnunet.files import write_text

_VIEWS = ("Red", "Yellow", "Green")
_CT_WINDOW_HU, _CT_LEVEL_HU = 400.0, 40.0
_SHOWN_FROM = 0.1  # of the highest dose
_OPACITY = "0.4"


@dataclass(frozen=True)
class DoseVolume:
    """A dose in a scene.

    Attributes:
        name: Its name.
        file: Name of its file, next to the scene.
    """

    name: str
    file: str


def write_scene(path: Path, ct: str, segments: str, doses: Sequence[DoseVolume], maximum_gy: float) -> None:
    """Write a scene: the CT in grey, the first dose over it in colours, the segments as outlines.

    Args:
        path: The file; the files that it names are in the same folder.
        ct: Name of the CT's file.
        segments: Name of the segmentation's file.
        doses: The doses, shown with one scale.
        maximum_gy: Upper end of the scale.

    Raises:
        OSError: If it can't be written.
    """
    root = ElementTree.Element("MRML", version="Slicer4.4.0", userTags="")
    _volume(root, 1, "CT", ct, {"window": _CT_WINDOW_HU, "level": _CT_LEVEL_HU}, "vtkMRMLColorTableNodeGrey")
    low_gy = _SHOWN_FROM * maximum_gy
    shown = {"window": maximum_gy, "level": maximum_gy / 2, "applyThreshold": 1, "autoThreshold": 0}
    shown |= {"lowerThreshold": low_gy, "upperThreshold": 10 * maximum_gy}
    for number, dose in enumerate(doses, 2):
        _volume(root, number, dose.name, dose.file, shown, "vtkMRMLColorTableNodeRainbow")
    _segmentation(root, segments)
    foreground = {"foregroundVolumeID": "vtkMRMLScalarVolumeNode2"} if doses else {}
    for view in _VIEWS:
        _node(
            root,
            "SliceComposite",
            f"vtkMRMLSliceCompositeNode{view}",
            singletonTag=view,
            layoutName=view,
            backgroundVolumeID="vtkMRMLScalarVolumeNode1",
            **foreground,
            foregroundOpacity=_OPACITY,
            linkedControl="1",
        )
    ElementTree.indent(root)
    write_text(path, ElementTree.tostring(root, "unicode", xml_declaration=True) + "\n")


def _volume(
    root: ElementTree.Element, number: int, name: str, file: str, shown: dict[str, float], colours: str
) -> None:
    display, storage = f"vtkMRMLScalarVolumeDisplayNode{number}", f"vtkMRMLVolumeArchetypeStorageNode{number}"
    numbers = {key: f"{value:g}" for key, value in shown.items()}
    _node(root, "VolumeDisplay", display, autoWindowLevel="0", interpolate="1", **numbers, **_references(color=colours))
    _node(root, "VolumeArchetypeStorage", storage, fileName=file, useCompression="1", centerImage="0")
    known = _references(display=display, storage=storage)
    _node(root, "Volume", f"vtkMRMLScalarVolumeNode{number}", name=name, **known)


def _segmentation(root: ElementTree.Element, file: str) -> None:
    display, storage = "vtkMRMLSegmentationDisplayNode1", "vtkMRMLSegmentationStorageNode1"
    shown = {"visibility2D": "1", "Visibility2DFill": "0", "Visibility2DOutline": "1", "visibility3D": "1"}
    _node(root, "SegmentationDisplay", display, visibility="1", **shown)
    _node(root, "SegmentationStorage", storage, fileName=file, useCompression="1")
    known = _references(display=display, storage=storage, referenceImageGeometryRef="vtkMRMLScalarVolumeNode1")
    _node(root, "Segmentation", "vtkMRMLSegmentationNode1", name="ROIs", **known)


def _references(**nodes: str) -> dict[str, str]:
    """References to other nodes, in the current and the earlier format."""
    earlier = {"display": "displayNodeRef", "storage": "storageNodeRef", "color": "colorNodeID"}
    old = {earlier[role]: node for role, node in nodes.items() if role in earlier}
    return {**old, "references": "".join(f"{role}:{node};" for role, node in nodes.items())}


def _node(root: ElementTree.Element, tag: str, identity: str, **attributes: str) -> None:
    ElementTree.SubElement(root, tag, {"id": identity, "name": identity, **attributes})
