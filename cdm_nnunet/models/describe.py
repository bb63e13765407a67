"""Description of a model package in one record."""

from __future__ import annotations

from typing import Any

from cdm_nnunet.models.card import TO_COMPLETE
from cdm_nnunet.models.package import Package


def describe_model(package: Package) -> dict[str, Any]:
    """Describe a package: its manifest, the sizes of its members, and a summary of ROIs, card and scores."""
    section = package.plans["cdm"]
    return {
        "path": str(package.path),
        **package.manifest.to_json(),
        "template": section["template"].get("name"),
        "rois": [roi["name"] for roi in section["catalogue"]],
        "knows_dicom_names": "mapping" in package.dataset_json.get("cdm", {}),
        "scores": package.scores is not None,
        "more": sorted(package.more),
        "card_to_complete": package.card.count(TO_COMPLETE),
        "bytes": dict(package.members.sizes),
    }
