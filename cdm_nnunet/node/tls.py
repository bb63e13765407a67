"""TLS contexts of a node, as a server and as a client."""

from __future__ import annotations

import ssl

from cdm_nnunet.errors import InputError
from cdm_nnunet.node.settings import Tls


def server_context(tls: Tls) -> ssl.SSLContext:
    """Context that presents the node's certificate and requests the sender's.

    Raises:
        InputError: If a file is missing or invalid.
    """
    context = _context(ssl.PROTOCOL_TLS_SERVER, tls)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_context(tls: Tls) -> ssl.SSLContext:
    """Context that presents the node's certificate and checks the destination's.

    Raises:
        InputError: As :func:`server_context`.
    """
    context = _context(ssl.PROTOCOL_TLS_CLIENT, tls)
    context.check_hostname = tls.check_hostname
    return context


def _context(protocol: ssl._SSLMethod, tls: Tls) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(tls.certificate, tls.key, password=_no_password)
        context.load_verify_locations(tls.ca)
    except (OSError, ValueError) as error:
        raise InputError(
            f"the files for TLS ({tls.certificate}, {tls.key}, {tls.ca}) can't be used: {error.args[-1]}"
        ) from None
    return context


def _no_password() -> str:
    raise ValueError("the key has a password; give one without")
