"""The storage SCP: admits listed callers, limits bytes, and confirms an object once it is on disk."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

from pynetdicom import AE, _config, evt
from pynetdicom.transport import AssociationServer, ThreadedAssociationServer

from cdm_nnunet.dicom.ct import CT_CLASS
from cdm_nnunet.dicom.plan import PLAN_CLASSES
from cdm_nnunet.dicom.structures import STRUCTURE_CLASS
from cdm_nnunet.errors import InputError
from cdm_nnunet.node.intake import Intake, RefusedObjectError, header_of
from cdm_nnunet.node.settings import NodeSettings, is_listed
from cdm_nnunet.node.tls import server_context

STORED = {CT_CLASS: "CT", STRUCTURE_CLASS: "RTSTRUCT", **dict.fromkeys(PLAN_CLASSES, "RTPLAN")}
_VERIFICATION = "1.2.840.10008.1.1"
_PLAIN = ("1.2.840.10008.1.2.1", "1.2.840.10008.1.2", "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2")
_LOSSLESS = (
    *("1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.90"),
    "1.2.840.10008.1.2.5",
)
_MB = 2**20
_PDU_BYTES = 2**17  # maximum length of a PDU
_LARGEST_PDU = 2**20  # maximum length of an association request
_TIMEOUT_S = 60.0
_CONNECTIONS = 4  # per allowed association: associations that are being refused count too
_ACCEPTED, _NOT_UNDERSTOOD, _OUT_OF_RESOURCES, _MISMATCH = 0x0000, 0xC000, 0xA700, 0xA900

Tell = Callable[[str], None]


class _Event(Protocol):
    """The part of an event that handlers use."""

    assoc: Any
    request: Any

    @property
    def dataset_path(self) -> Path:
        """The object on disk."""


@contextlib.contextmanager
def listening(
    settings: NodeSettings, intake: Intake, tell: Tell, give_up: Callable[[Any, str], None]
) -> Iterator[None]:
    """Receive objects while the block runs.

    Args:
        settings: Settings of the node.
        intake: Receives the objects.
        tell: Writes a line to the log.
        give_up: Moves a study that is too large to quarantine.

    Raises:
        InputError: If the address can't be used, or the files for TLS are invalid.
    """
    entity = AE(ae_title=settings.ae_title)
    entity.require_called_aet = True
    entity.require_calling_aet = [caller.ae_title for caller in settings.callers]
    entity.maximum_associations = settings.limits.associations
    entity.maximum_pdu_size = _PDU_BYTES
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = _TIMEOUT_S
    entity.add_supported_context(_VERIFICATION)
    for sop_class, modality in STORED.items():
        entity.add_supported_context(sop_class, [*_PLAIN, *(_LOSSLESS if modality == "CT" else ())])
    scp = _Scp(settings, intake, tell, give_up)
    context = None if settings.tls is None else server_context(settings.tls)
    known = _config.STORE_RECV_CHUNKED_DATASET, _config.LOG_HANDLER_LEVEL
    _config.STORE_RECV_CHUNKED_DATASET, _config.LOG_HANDLER_LEVEL = True, "none"  # (to disk; no identity in logs)
    try:
        server = _Server(entity, settings, context, scp)
        thread = threading.Thread(target=server.serve_forever, args=(0.1,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            for association in server.active_associations:
                association.abort()
    except OSError as error:
        raise InputError(f"can't listen on {settings.host}:{settings.port} ({error.strerror or error})") from error
    finally:
        _config.STORE_RECV_CHUNKED_DATASET, _config.LOG_HANDLER_LEVEL = known


class _Server(ThreadedAssociationServer):
    """Checks the address and negotiates TLS before DICOM starts; each connection has its own thread, so none waits."""

    def __init__(self, entity: AE, settings: NodeSettings, context: ssl.SSLContext | None, scp: _Scp) -> None:
        self._networks = [address for caller in settings.callers for address in caller.addresses]
        self._most, self._tell = _CONNECTIONS * settings.limits.associations, scp.tell
        self._encryption = context
        address = (settings.host, settings.port)
        super().__init__(entity, address, settings.ae_title, entity.supported_contexts, evt_handlers=scp.handlers())
        entity._servers.append(self)

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Start an association with an allowed peer."""
        host = str(client_address[0])
        if not is_listed(host, self._networks):
            self._tell(f"refused a connection from {host}: no caller has this address")
            self.shutdown_request(request)
            return
        if len(self.active_associations) >= self._most:
            self._tell(f"refused a connection from {host}: there are too many")
            self.shutdown_request(request)
            return
        request.settimeout(_TIMEOUT_S)
        if self._encryption is not None:
            try:
                request = self._encryption.wrap_socket(request, server_side=True)
            except OSError as error:
                self._tell(f"refused a connection from {host}: no TLS ({_reason(error)})")
                self.shutdown_request(request)
                return
        super().finish_request(request, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """End a connection after an error; the others continue."""
        self._tell(f"a connection from {client_address[0]} ended with an error")

    def shutdown_request(self, request: Any) -> None:
        """Close a connection."""
        with contextlib.suppress(OSError):
            AssociationServer.shutdown_request(self, request)


class _Scp:
    """Handlers of associations."""

    def __init__(self, settings: NodeSettings, intake: Intake, tell: Tell, give_up: Callable[[Any, str], None]) -> None:
        self.settings, self.intake, self.tell, self.give_up = settings, intake, tell, give_up

    def handlers(self) -> list[Any]:
        """Handlers of the server's events."""
        return [
            (evt.EVT_CONN_OPEN, self._count),
            (evt.EVT_REQUESTED, self._let_in),
            (evt.EVT_REJECTED, self._tell_rejected),
            (evt.EVT_CONN_CLOSE, self._clean_up),
            (evt.EVT_C_ECHO, lambda event: _ACCEPTED),
            (evt.EVT_C_STORE, self._store),
        ]

    def _count(self, event: _Event) -> None:
        """Count the received bytes before they are stored."""
        connection = event.assoc.dul.socket
        receive, limit = connection.recv, self.settings.limits.association_mb * _MB
        received = 0

        def counted(n_bytes: int) -> bytearray:
            nonlocal received
            received += n_bytes
            if n_bytes > _LARGEST_PDU or received > limit:
                what = "a PDU of" if n_bytes > _LARGEST_PDU else "more than"
                size = n_bytes / _MB if n_bytes > _LARGEST_PDU else self.settings.limits.association_mb
                self.tell(f"ended the association with {_peer(event)}: {what} {size:.0f} MB")
                raise OSError("over the limit")
            data: bytearray = receive(n_bytes)
            return data

        connection.recv = counted

    def _let_in(self, event: _Event) -> None:
        """Admit an AE title only from its own addresses."""
        title, host = event.assoc.requestor.primitive.calling_ae_title, event.assoc.requestor.address
        own = [caller for caller in self.settings.callers if caller.ae_title == title]
        if not any(is_listed(host, caller.addresses) for caller in own):
            event.assoc.acse.send_reject(0x01, 0x01, 0x03)  # (calling AE title not recognized)
            self.tell(f"refused an association from {host}: '{_printable(title)}' is not a caller from there")
            event.assoc.is_rejected = True
            event.assoc.kill()

    def _tell_rejected(self, event: _Event) -> None:
        self.tell(f"refused an association from {_peer(event)}: it calls another AE title, or there are too many")

    def _clean_up(self, event: _Event) -> None:
        """Remove the received part of an incomplete object."""
        file = getattr(event.assoc.dimse.message, "_data_set_file", None)
        if file is not None:
            file.close()
            Path(file.name).unlink(missing_ok=True)

    def _store(self, event: _Event) -> int:
        """Store an object; report success once it is on disk."""
        path = event.dataset_path
        event.request._dataset_file.close()
        try:
            header = header_of(path)
            if (header.sop_class, header.sop_uid) != (
                event.request.AffectedSOPClassUID,
                event.request.AffectedSOPInstanceUID,
            ):
                self.tell(f"refused an object from {_peer(event)}: it is not the one that was announced")
                return _MISMATCH
            self.intake.take(path, header, event.assoc)
        except RefusedObjectError as error:
            self.tell(f"refused an object from {_peer(event)}: {error}")
            if error.study is not None:
                self.give_up(error.study, str(error))
                event.assoc.abort()
            return error.status
        except InputError:
            self.tell(f"refused an object from {_peer(event)}: it is damaged")
            return _NOT_UNDERSTOOD
        except OSError as error:
            self.tell(f"refused an object from {_peer(event)}: it can't be written ({error.strerror})")
            return _OUT_OF_RESOURCES
        return _ACCEPTED


def _peer(event: _Event) -> str:
    requestor = event.assoc.requestor
    title = requestor.primitive.calling_ae_title if requestor.primitive is not None else "?"
    return f"{_printable(title)} at {requestor.address}"


def _printable(title: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in title)


def _reason(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return error.reason or "handshake failed"
    return "timed out" if isinstance(error, socket.timeout) else error.strerror or "closed"
