"""Options of several verbs: each flag, default and help text defined once."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any, get_args

from cdm_nnunet.errors import InputError
from cdm_nnunet.folders import DEFAULT_PLANS, dataset_name, dataset_names, dataset_number
from cdm_nnunet.geometry.end_caps import DEFAULT_END_CAPS, EndCaps
from cdm_nnunet.parallel import usable_cores

_MOST_PROCESSES = 8


def add_dataset_id(
    parser: argparse.ArgumentParser, *, required: bool = True, use: str = "data set: 501, or Dataset501_OpenKBP"
) -> None:
    """Add ``-d``, the number or the whole name of a data set."""
    parser.add_argument("-d", type=dataset_id, required=required, metavar="ID", help=use)


def dataset_id(word: str) -> int | str:
    """The number of a data set, or its full name as given; :func:`numbers_of_datasets` converts names to numbers.

    Raises:
        ArgumentTypeError: If it is neither.
    """
    if dataset_number(word) is not None:
        return word
    if not re.fullmatch("[0-9]+", word):
        raise argparse.ArgumentTypeError(
            f"a data set is given by its number or name, 501 or Dataset501_OpenKBP, not '{word}'"
        )
    return int(word)


def numbers_of_datasets(args: argparse.Namespace) -> None:
    """Replace names of data sets, which must be existing folders, by numbers.

    Raises:
        InputError: If another data set has the number, or a new one is given another name.
    """
    for option in ("d", "dataset", "dataset_option"):
        name = getattr(args, option, None)
        number = dataset_number(name) if isinstance(name, str) else None
        if number is None:
            continue
        new_name = getattr(args, "n", None)
        there = dataset_names(number) if new_name is None else {dataset_name(number, new_name)}
        if there and name not in there:
            raise InputError(f"there is no {name}; data set {number} is called {', '.join(sorted(there))}")
        setattr(args, option, number)


def add_trainer(parser: argparse.ArgumentParser) -> None:
    """Add ``-tr``, the trainer."""
    parser.add_argument(
        "-tr", default="nnUNetTrainerCDM", metavar="TRAINER", help="trainer (default: nnUNetTrainerCDM)"
    )


def add_plans(parser: argparse.ArgumentParser, use: str = "plans") -> None:
    """Add ``-p``, the name of plans."""
    parser.add_argument("-p", default=DEFAULT_PLANS, metavar="PLANS", help=f"{use} (default: {DEFAULT_PLANS})")


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add ``-device``."""
    parser.add_argument("-device", choices=("cuda", "cpu"), default="cuda", help="default: cuda")


def add_available_device(parser: argparse.ArgumentParser) -> None:
    """Add ``-device``, by default the first available one."""
    parser.add_argument(
        "-device",
        choices=("cuda", "mps", "cpu"),
        help="default: the first that is available of cuda, mps (Apple) and cpu",
    )


_MODEL = {"d": "dataset_id", "c": "configuration", "f": "folds", "tr": "trainer", "p": "plans", "chk": "checkpoint"}


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add ``-m``, a model package, and alternatively ``-d``, ``-c``, ``-f``, ``-tr``, ``-p`` and ``-chk``."""
    parser.add_argument(
        "-m",
        metavar="MODEL",
        help="model: a folder or ZIP file of 'cdm-nnunet model export', or the name of one that ships",
    )
    group = parser.add_argument_group("a model in nnU-Net's folders, instead of -m")
    group.add_argument("-d", type=dataset_id, metavar="ID", help="data set: 501, or Dataset501_OpenKBP")
    group.add_argument("-c", metavar="CONFIGURATION", help="default: 3d_fullres")
    group.add_argument("-f", nargs="+", metavar="FOLD", help="folds to average (default: 0)")
    group.add_argument("-tr", metavar="TRAINER", help="trainer (default: nnUNetTrainerCDM)")
    group.add_argument("-p", metavar="PLANS", help=f"plans (default: {DEFAULT_PLANS})")
    group.add_argument("-chk", metavar="FILE", help="default: checkpoint_final.pth")


def model_options(args: argparse.Namespace) -> dict[str, Any]:
    """Arguments of :func:`cdm_nnunet.prediction.models.choice_of` from the options that name a model.

    Raises:
        InputError: If no model is given, or both ways are used.
    """
    given = {flag: value for flag in _MODEL if (value := getattr(args, flag)) is not None}
    if args.m is not None and given:
        raise InputError(f"-m {args.m} names the whole model; leave out -{', -'.join(given)}")
    if args.m is not None:
        return {"name": args.m}
    if args.d is None:
        raise InputError("which model? give -m MODEL, or -d ID with -c, -f and -tr for a model in nnU-Net's folders")
    return {_MODEL[flag]: tuple(value) if flag == "f" else value for flag, value in given.items()}


def add_processes(parser: argparse.ArgumentParser, default: int | None = None, use: str = "processes") -> None:
    """Add ``-np``, the number of worker processes; by default one for each core, at most eight."""
    processes = min(_MOST_PROCESSES, usable_cores()) if default is None else default
    parser.add_argument(
        "-np",
        type=int,
        default=processes,
        metavar="N",
        help=f"{use} (default: {'cores' if default is None else default})",
    )


def n_processes(args: argparse.Namespace) -> int:
    """The number of worker processes.

    Raises:
        InputError: If it is not positive.
    """
    if args.np < 1:
        raise InputError(f"-np takes at least 1 process, not {args.np}")
    return int(args.np)


def add_template(parser: argparse.ArgumentParser, use: str, default: str | None = None) -> None:
    """Add ``--template``; required if there is no default."""
    parser.add_argument(
        "--template",
        required=default is None,
        default=default,
        metavar="NAME|FILE",
        help=f"clinical template{use}" + ("" if default is None else f" (default: {default})"),
    )


def add_exclude(parser: argparse.ArgumentParser, name: str, use: str = "a patient to leave out on purpose") -> None:
    """Add ``--exclude``."""
    parser.add_argument("--exclude", action="append", default=[], metavar=name, help=f"{use}; repeatable")


def add_dicom_source(parser: argparse.ArgumentParser) -> None:
    """Add the folder of DICOM files."""
    parser.add_argument("source", type=Path, metavar="SOURCE", help="folder, of any structure and with any file names")


def add_dicom_rules(parser: argparse.ArgumentParser, use: str = "") -> None:
    """Add the options for converting DICOM patients to cases, besides mapping and template.

    Args:
        parser: Parser of the verb.
        use: When the options apply, for the help; empty for always.
    """
    parser.add_argument(
        "--grid",
        default="dose",
        metavar="dose|ct|MM|MMxMMxMM",
        help=use or "grid of the data set, or size of its voxels (x, y, z) in mm",
    )
    add_end_caps(parser, None, "'end_caps' of the mapping, else ")
    add_match_geometry(parser)
    add_exclude(parser, "CASE", use or "a case to leave out on purpose")


def add_end_caps(parser: argparse.ArgumentParser, default: str | None = DEFAULT_END_CAPS, otherwise: str = "") -> None:
    """Add ``--end-caps``.

    Args:
        parser: Parser of the verb.
        default: Default value; None if it comes from elsewhere.
        otherwise: Where else it comes from, for the help.
    """
    parser.add_argument(
        "--end-caps",
        choices=get_args(EndCaps),
        default=default,
        help="where an ROI ends: 'none' at its outermost contours, 'half-slab' half a slice beyond; 'rounded' and "
        "'rounded-half-slab' do so at flat ends, and close one that tapers along its shape "
        f"(default: {otherwise}{DEFAULT_END_CAPS})",
    )


def add_match_geometry(parser: argparse._ActionsContainer) -> None:
    """Add ``--match-geometry``, for CTs that were exported again."""
    parser.add_argument(
        "--match-geometry",
        action="store_true",
        help="if contours refer to a missing CT, match one by its slices: for a CT that was "
        "exported again with other UIDs",
    )


def add_scheduler(parser: argparse.ArgumentParser) -> None:
    """Add ``--scheduler``, the Dask cluster to run on."""
    parser.add_argument(
        "--scheduler",
        default=argparse.SUPPRESS,  # (a verb and its subcommand have it; either sets it)
        metavar="ADDRESS|FILE",
        help="Dask cluster to spread the work over: tcp://HOST:PORT, or a YAML file (default: -np processes here)",
    )


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add ``--json`` to a subcommand of a verb, which also has it; either sets it."""
    parser.add_argument(
        "--json", action="store_true", default=argparse.SUPPRESS, help="print the result as JSON on stdout"
    )
