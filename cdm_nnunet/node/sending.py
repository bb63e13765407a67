"""Send an RTDOSE to a destination: by C-STORE, or to a folder."""

from __future__ import annotations

import os
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from cdm_nnunet.dicom.dose import DOSE_CLASS
from cdm_nnunet.dicom.files import read_file
from cdm_nnunet.errors import InputError
from cdm_nnunet.files import replacing
from cdm_nnunet.node.settings import Destination, Tls
from cdm_nnunet.node.tls import client_context

if TYPE_CHECKING:
    from pynetdicom.association import Association

_VERIFICATION = "1.2.840.10008.1.1"
_SUCCESS, _STORED_WITH_A_WARNING = 0x0000, (0xB000, 0xB006, 0xB007)
_TIMEOUT_S = 60


class NotDeliveredError(Exception):
    """A destination did not accept an RTDOSE, or could not be reached."""


def refuse_without_network() -> None:
    """Check that pynetdicom is installed.

    Raises:
        InputError: If not.
    """
    if find_spec("pynetdicom") is None:
        raise InputError('a node on the network needs pynetdicom: pip install "cdm_nnunet[node]"')


def deliver(dose: Path, name: str, destination: Destination, ae_title: str, tls: Tls | None) -> str:
    """Send an RTDOSE to a destination.

    Args:
        dose: The file.
        name: Its name in a folder.
        destination: The destination.
        ae_title: AE title of this node.
        tls: Files for an encrypted connection.

    Returns:
        Warning of the destination, which stored the dose nevertheless; empty if there is none.

    Raises:
        NotDeliveredError: If the destination did not confirm that it has the dose.
        InputError: If the files for TLS are invalid.
    """
    if destination.folder:
        return _into_folder(dose, Path(destination.folder) / f"{name}.dcm")
    association = _associate(destination, ae_title, tls)
    try:
        status = association.send_c_store(read_file(dose)).get("Status")
    except (ValueError, RuntimeError) as error:
        raise NotDeliveredError(str(error)) from error
    finally:
        association.release()
    if status in _STORED_WITH_A_WARNING:
        return f"stored with warning 0x{status:04X}"
    if status != _SUCCESS:
        raise NotDeliveredError("no answer" if status is None else f"it answered with status 0x{status:04X}")
    return ""


def echo(destination: Destination, ae_title: str, tls: Tls | None) -> None:
    """Check that a destination answers (C-ECHO), or that a folder can be written.

    Raises:
        NotDeliveredError: If not.
        InputError: If the files for TLS are invalid.
    """
    if destination.folder:
        folder = Path(destination.folder)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise NotDeliveredError(f"{folder} can't be written")
        return
    association = _associate(destination, ae_title, tls)
    status = association.send_c_echo().get("Status")
    association.release()
    if status != _SUCCESS:
        raise NotDeliveredError("no answer to C-ECHO" if status is None else f"C-ECHO: status 0x{status:04X}")


def _associate(destination: Destination, ae_title: str, tls: Tls | None) -> Association:
    from pynetdicom import AE

    entity = AE(ae_title=ae_title)
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = entity.connection_timeout = _TIMEOUT_S
    entity.add_requested_context(_VERIFICATION)
    for syntax in (ExplicitVRLittleEndian, ImplicitVRLittleEndian):  # (one context each: the file's own comes first)
        entity.add_requested_context(DOSE_CLASS, syntax)
    encryption = None
    if destination.tls:
        if tls is None:
            raise InputError("a destination with TLS needs the files for it")
        encryption = client_context(tls), destination.host
    host, port, title = destination.host, destination.port, destination.ae_title
    try:
        association = entity.associate(host, port, ae_title=title, tls_args=encryption)
    except OSError as error:  # (unknown host name)
        raise NotDeliveredError(f"{destination.host} is not known ({error.strerror})") from error
    if not association.is_established:
        raise NotDeliveredError(
            f"{title} at {host}:{port} {'refused the association' if association.is_rejected else 'is not reached'}"
        )
    return association


def _into_folder(dose: Path, place: Path) -> str:
    try:
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with replacing(place) as partial:
            shutil.copyfile(dose, partial)
    except OSError as error:
        raise NotDeliveredError(f"{place.parent} can't be written ({error.strerror})") from error
    return ""
