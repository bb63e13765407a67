"""Required entries of plans and their types, checked before use."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

_Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_Finite = Annotated[float, Field(allow_inf_nan=False)]
_Count = Annotated[int, Field(gt=0)]

# nnU-Net imports and calls what plans name by dotted path: only our networks and layers of torch are accepted.
_NETWORK = r"^cdm_nnunet\.nnunet\.network\.[A-Z]\w*$"
_LAYER = r"^torch\.nn\.(modules\.(conv|instancenorm|batchnorm|normalization|dropout|activation)\.)?[A-Z]\w*$"
_Layer = Annotated[str, Field(pattern=_LAYER)] | None


class _Entries(BaseModel):
    model_config = ConfigDict(extra="allow")


class _NetworkArguments(_Entries):
    conv_op: _Layer = None
    norm_op: _Layer = None
    dropout_op: _Layer = None
    nonlin: _Layer = None


class _Architecture(_Entries):
    network_class_name: Annotated[str, Field(pattern=_NETWORK)]
    arch_kwargs: _NetworkArguments
    kw_requires_import: Annotated[
        list[Literal["conv_op", "norm_op", "dropout_op", "nonlin"]], Field(alias="_kw_requires_import")
    ]


class _Configuration(_Entries):
    data_identifier: str
    preprocessor_name: str
    batch_size: _Count
    patch_size: Annotated[list[_Count], Field(min_length=3, max_length=3)]
    spacing: Annotated[list[_Positive], Field(min_length=3, max_length=3)]
    architecture: _Architecture


class _CTStatistics(_Entries):
    mean: _Finite
    std: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    percentile_00_5: _Finite
    percentile_99_5: _Finite


class PlansSection(_Entries):
    """Our section of the plans, which is part of every checkpoint.

    Attributes:
        format_version: Version of the data set's format.
        units: Units of dose and CT.
        catalogue: The ROIs in bit order, as :meth:`cdm_nnunet.roi.Catalogue.from_json` takes them.
        template: The clinical template, as :meth:`cdm_nnunet.dvh.Template.from_json` takes it.
        dose_scale_gy: Dose that corresponds to a network output of 1, Gy.
        gpu_memory_gb: GPU memory that the configurations were planned for, GB; null if unknown.
        cohort: Ranges of the training cases, which new patients are compared with.
        plans_from: Name of the plans that the configurations were taken from.
    """

    format_version: int
    units: dict[str, str]
    catalogue: Annotated[list[dict[str, Any]], Field(min_length=1)]
    template: dict[str, Any]
    dose_scale_gy: _Positive
    gpu_memory_gb: _Positive | None = None
    cohort: dict[str, Any] | None = None
    plans_from: str | None = None


class _Intensities(_Entries):
    ct: Annotated[_CTStatistics, Field(alias="0")]


class PlansEntries(_Entries):
    """The entries that training and prediction read; plans may have more."""

    dataset_name: str
    plans_name: str
    original_median_spacing_after_transp: Annotated[list[_Positive], Field(min_length=3, max_length=3)]
    configurations: Annotated[dict[str, _Configuration], Field(min_length=1)]
    foreground_intensity_properties_per_channel: _Intensities
    cdm: PlansSection
