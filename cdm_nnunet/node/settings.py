"""Settings of a node, from the site's YAML file."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from cdm_nnunet.documents import read_yaml
from cdm_nnunet.errors import InputError
from cdm_nnunet.folders import DEFAULT_PLANS

_AE_TITLE = re.compile(r"[!-\[\]-~](?:[ -\[\]-~]{0,14}[!-\[\]-~])?")  # (16 characters at most, no backslash)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_STRICT = ConfigDict(extra="forbid", frozen=True)

Part = Literal["CT", "RTSTRUCT", "RTPLAN"]


class Caller(BaseModel):
    """A caller that may send.

    Attributes:
        ae_title: Calling AE title.
        addresses: IP addresses or networks, such as ``10.0.0.5`` or ``10.0.0.0/24``.
    """

    model_config = _STRICT

    ae_title: str
    addresses: list[str] = Field(min_length=1)


class Destination(BaseModel):
    """Destination of an RTDOSE: an application entity or a folder.

    Attributes:
        ae_title: Called AE title.
        host: Name or address.
        port: TCP port.
        tls: Whether the connection is encrypted, with the files under ``tls`` of the node.
        folder: Folder for the files, instead of an application entity.
    """

    model_config = _STRICT

    ae_title: str = ""
    host: str = ""
    port: int = Field(default=0, ge=0, le=65535)
    tls: bool = False
    folder: str = ""


class TrainedModel(BaseModel):
    """A model in nnU-Net's folders.

    Attributes:
        dataset: Number of the data set.
        configuration: Such as ``3d_fullres``.
        trainer: Name of the trainer.
        plans: Name of the plans.
        folds: Folds to average.
        checkpoint: The file in each fold's folder.
    """

    model_config = _STRICT

    dataset: int = Field(ge=1, le=999)
    configuration: str = "3d_fullres"
    trainer: str = "nnUNetTrainerCDM"
    plans: str = DEFAULT_PLANS
    folds: list[int] = Field(default=[0], min_length=1)
    checkpoint: str = "checkpoint_final.pth"


class Limits(BaseModel):
    """Limits for senders. A megabyte is 2^20 bytes.

    Attributes:
        association_mb: Megabytes per association; the association is ended beyond this.
        study_mb: Megabytes per study.
        objects: Objects per study.
        associations: Simultaneous associations.
        free_disk_mb: Objects are refused while less disk space than this is free.
    """

    model_config = _STRICT

    association_mb: int = Field(default=2048, ge=1)
    study_mb: int = Field(default=4096, ge=1)
    objects: int = Field(default=5000, ge=1)
    associations: int = Field(default=30, ge=1)
    free_disk_mb: int = Field(default=1024, ge=0)


class Tls(BaseModel):
    """Encryption.

    Attributes:
        certificate: The node's certificate, PEM.
        key: Its key, PEM, without a password.
        ca: Certificates that peers are checked against, PEM. With them a sender must show a certificate too.
        check_hostname: Whether the certificate of a destination must name its host.
    """

    model_config = _STRICT

    certificate: str
    key: str
    ca: str
    check_hostname: bool = True


class Retries(BaseModel):
    """Retries when a destination does not accept an RTDOSE.

    Attributes:
        tries: Number of tries; after the last one the study goes to quarantine.
        wait_s: Waiting time before the second try; it doubles with every further try, up to an hour.
    """

    model_config = _STRICT

    tries: int = Field(default=30, ge=1)
    wait_s: float = Field(default=30.0, ge=0)


class NodeSettings(BaseModel):
    """Settings of a node.

    Attributes:
        ae_title: AE title of the node; senders must use it.
        host: Address to listen on.
        port: TCP port to listen on.
        queue: Folder for studies, quarantine and records of sent doses. It contains patient data.
        callers: Allowed callers. All others are refused.
        destinations: Destinations by name.
        model: Model package: a folder, a ZIP file, or the name of a model that ships.
        trained: A model in nnU-Net's folders, instead of ``model``.
        device: ``cuda``, ``mps`` or ``cpu``; None takes the first available one.
        mapping: ``rois.yaml``; its entries override those that the model was trained with.
        grid: ``ct`` or a voxel size of the dose; None for the median of the training data.
        bits: 16 or 32 bits per voxel of the RTDOSE.
        match_geometry: Match the CT by its slices if the contours refer to no CT in the folder.
        reports: Folder for the record (JSON) and the report (HTML) of each patient; None for neither.
        needed: Modalities that a study must have before it is predicted.
        quiet_s: A study is complete when its associations are closed and no object arrived for this time.
        incomplete_after_s: An incomplete study goes to quarantine when no object arrived for this time.
        retries: Retries of sending.
        limits: Limits of receiving.
        tls: Encryption; without it, connections are not encrypted.
    """

    model_config = _STRICT

    ae_title: str
    host: str = "127.0.0.1"
    port: int = Field(default=11112, ge=1, le=65535)
    queue: str
    callers: list[Caller] = []
    destinations: dict[str, Destination] = Field(min_length=1)
    model: str | None = None
    trained: TrainedModel | None = None
    device: Literal["cuda", "mps", "cpu"] | None = None
    mapping: str | None = None
    grid: str | None = None
    bits: Literal[16, 32] = 16
    match_geometry: bool = False
    reports: str | None = None
    needed: list[Part] = ["CT", "RTSTRUCT", "RTPLAN"]
    quiet_s: float = Field(default=10.0, ge=0)
    incomplete_after_s: float = Field(default=900.0, ge=0)
    retries: Retries = Retries()
    limits: Limits = Limits()
    tls: Tls | None = None


def read_settings(path: Path) -> NodeSettings:
    """Read the settings of a node. Paths in the file are relative to its folder.

    Raises:
        InputError: If they are invalid; with line and column for a value of the wrong type.
    """
    settings = read_yaml(path, NodeSettings)
    _refuse_titles(path, settings)
    for caller in settings.callers:
        _refuse_addresses(path, caller)
    for name, one in settings.destinations.items():
        _refuse_destination(path, name, one, settings.tls is not None)
    if (settings.model is None) == (settings.trained is None):
        raise InputError(f"{path}: give a model package ('model'), or a model in nnU-Net's folders ('trained')")
    if settings.incomplete_after_s < settings.quiet_s:
        raise InputError(f"{path}: incomplete_after_s is {settings.incomplete_after_s:g}, less than quiet_s")
    return _with_paths(settings, path.parent)


def _refuse_titles(path: Path, settings: NodeSettings) -> None:
    titles = [settings.ae_title, *(caller.ae_title for caller in settings.callers)]
    titles += [one.ae_title for one in settings.destinations.values() if not one.folder]
    for title in titles:
        if not _AE_TITLE.fullmatch(title):
            raise InputError(
                f"{path}: '{title}' is not an AE title: 1 to 16 characters of ASCII, no backslash, no blank at the ends"
            )


def _refuse_addresses(path: Path, caller: Caller) -> None:
    for address in caller.addresses:
        try:
            ipaddress.ip_network(address)
        except ValueError as error:
            raise InputError(
                f"{path}: '{address}' of caller '{caller.ae_title}' is not an IP address or network ({error})"
            ) from None


def _refuse_destination(path: Path, name: str, one: Destination, has_tls: bool) -> None:
    if not _NAME.fullmatch(name):
        raise InputError(
            f"{path}: '{name}' is not a valid name of a destination: letters, digits, '_', '-' and '.' only"
        )
    entity = bool(one.host and one.port)
    if bool(one.folder) == entity or (one.folder and (one.host or one.port or one.ae_title or one.tls)):
        raise InputError(f"{path}: destination '{name}' has ae_title, host and port, or a folder")
    if one.tls and not has_tls:
        raise InputError(
            f"{path}: destination '{name}' is to be encrypted, and there is no 'tls' with the files for it"
        )


def _with_paths(settings: NodeSettings, folder: Path) -> NodeSettings:
    destinations = {
        name: one.model_copy(update={"folder": _absolute(folder, one.folder)})
        for name, one in settings.destinations.items()
    }
    tls = settings.tls
    if tls is not None:
        tls = tls.model_copy(
            update={name: _absolute(folder, getattr(tls, name)) for name in ("certificate", "key", "ca")}
        )
    changes = {"queue": _absolute(folder, settings.queue), "destinations": destinations, "tls": tls}
    for name in ("mapping", "reports"):
        if (given := getattr(settings, name)) is not None:
            changes[name] = _absolute(folder, given)
    if settings.model is not None and (folder / settings.model).exists():  # (otherwise the name of a shipped model)
        changes["model"] = _absolute(folder, settings.model)
    return settings.model_copy(update=changes)


def _absolute(folder: Path, path: str) -> str:
    return str((folder / path).absolute()) if path else path


def is_listed(address: str, networks: Iterable[str]) -> bool:
    """Whether an address is in a list of addresses and networks.

    Example:
        >>> is_listed("10.0.0.5", ["10.0.0.0/24"]), is_listed("::ffff:10.0.0.5", ["10.0.0.5"]), is_listed("1.1.1.1", [])
        (True, True, False)
    """
    one = ipaddress.ip_address(address.partition("%")[0])
    mapped = getattr(one, "ipv4_mapped", None) or one
    return any(mapped in ipaddress.ip_network(network) for network in networks)
