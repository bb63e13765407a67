"""Digest of everything that the result of a case depends on, so that another run scores only what has changed."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from functools import cache
from importlib import resources
from pathlib import Path

import numpy as np

from cdm_nnunet.dvh import Template
from cdm_nnunet.errors import InputError
from cdm_nnunet.evaluation.gamma import GammaRule
from cdm_nnunet.evaluation.pairing import CaseFiles
from cdm_nnunet.evaluation.record import FORMAT_VERSION


@contextlib.contextmanager
def snapshot(files: CaseFiles) -> Iterator[CaseFiles]:
    """Copies of the files of a result, so that the hashed and the scored bytes are the same.

    Yields:
        The case with the paths of the copies; messages of an :class:`InputError` in the block name the originals.
    """
    with tempfile.TemporaryDirectory(prefix="cdm_nnunet_") as folder:
        originals = (files.reference, files.predicted, files.roi_bits, *files.members)
        copies = [Path(folder, str(k), path.name) for k, path in enumerate(originals)]
        for original, copy in zip(originals, copies, strict=True):
            copy.parent.mkdir()
            shutil.copyfile(original, copy)
        reference, predicted, roi_bits, *members = copies
        try:
            yield replace(files, reference=reference, predicted=predicted, roi_bits=roi_bits, members=tuple(members))
        except InputError as error:
            message = str(error)
            for original, copy in zip(originals, copies, strict=True):
                message = message.replace(str(copy.parent), str(original.parent))
            raise InputError(message) from error


def case_digest(files: CaseFiles, template: Template, *, gamma: Sequence[GammaRule]) -> str:
    """SHA-256 of the files' content, the data set's entry of the case, the template, options and this software."""
    digest = hashlib.sha256(code_digest().encode())
    settings = {
        "case": files.case,
        "catalogue": files.catalogue.to_json(),
        "spacing_mm": list(files.spacing_mm),
        "contoured": list(files.contoured),
        "prescriptions_gy": dict(files.prescriptions_gy),
        "patient": files.patient,
        "fractions": files.fractions,
        "converted_from": files.converted_from,
        "template": template.to_json(),
        "gamma": [asdict(rule) for rule in gamma],
    }
    digest.update(json.dumps(settings, sort_keys=True).encode())
    for path in (files.reference, files.predicted, files.roi_bits, *files.members):
        content = path.read_bytes()
        digest.update(len(content).to_bytes(8, "little"))
        digest.update(content)
    return digest.hexdigest()


@cache
def code_digest() -> str:
    """SHA-256 of the whole package's source, the format of the record and the version of NumPy.

    Not only of chosen modules: a list could lack one, and an outdated result would be silently wrong.
    """
    digest = hashlib.sha256(f"{FORMAT_VERSION} {np.__version__}".encode())
    root = Path(str(resources.files("cdm_nnunet")))
    for path in sorted(root.rglob("*.py")):
        digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()
