"""Entry point of ``cdm-nnunet``: dispatch to a verb, one line for a user's mistake, data on stdout.

A verb is a module with ``SUMMARY`` and ``EXAMPLE`` (text for help), ``configure(parser)``, ``run(args)`` that returns a
JSON-serialisable record, and ``render(record)`` that returns it as text. An ``error`` in the record names the part of
the work that could not be done. Verbs import heavy modules inside ``run``. A verb that can run on a cluster has
``WRITES``: the arguments and folder variables that name where its workers write.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import importlib
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TextIO

from cdm_nnunet import __version__
from cdm_nnunet.cli import _guide, _options
from cdm_nnunet.cli._options import numbers_of_datasets
from cdm_nnunet.cli._parser import Parser
from cdm_nnunet.errors import InputError, printable
from cdm_nnunet.folders import FOLDER_VARIABLES, set_environment
from cdm_nnunet.progress import wrapped

VERBS = (
    "demo",
    "env",
    "inspect",
    "convert",
    "plan-doses",
    "plan",
    "preprocess",
    "train",
    "predict",
    "model",
    "study",
    "ensemble",
    "mimic",
    "find-best",
    "check",
    "evaluate",
    "compare",
    "dvh",
    "export",
    "node",
)


class Verb(Protocol):
    """Interface of a verb module."""

    SUMMARY: str
    EXAMPLE: str

    def configure(self, parser: argparse.ArgumentParser) -> None:
        """Add the verb's arguments."""

    def run(self, args: argparse.Namespace) -> Mapping[str, Any]:
        """Do the work; its prints go to stderr."""

    def render(self, record: Mapping[str, Any]) -> str:
        """The record as text."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb.

    Args:
        argv: Arguments without the program name; None uses those of the process.

    Returns:
        Exit status: 0 for success, 2 for bad input.
    """
    parser, verbs = _parser()
    _complete(parser)
    args = parser.parse_args(argv)
    if args.verb is None:
        print(_guide.START)
        return 0
    verb = verbs[args.verb]
    set_environment()
    try:
        numbers_of_datasets(args)
        _tell_start(verb, args)
        with _stdout_to_stderr() as stdout:
            with _spread(verb, args):
                record = verb.run(args)
            text = json.dumps(record, indent=2) if args.json else wrapped(_worded(verb, record), stdout)
            print(text, file=stdout, flush=True)
        _tell_next(args, record)
    except InputError as error:
        return _refuse(str(error))
    except OSError as error:
        if error.errno == errno.EPIPE:  # stdout was closed by its reader, as in "... | head"
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        if error.errno == errno.ENOSPC:
            return _refuse(f"the disk is full: {error}; free some space and run the same command again")
        if error.errno is None:
            raise  # (not an error of the machine: a defect)
        return _refuse(f"{error.strerror}: {error.filename}" if error.filename else f"{error.strerror}")
    except MemoryError:
        return _refuse("out of memory; use fewer processes (-np) or smaller images")
    except KeyboardInterrupt:
        print("cdm-nnunet: interrupted", file=sys.stderr)
        return 130
    if "error" in record:  # (part of the work was done)
        return _refuse(record["error"])
    return int(record.get("exit_status", 0))  # (a check that found faults succeeded)


def _sentence(text: str) -> str:
    """A summary as a sentence: with a capital, and a full stop.

    Example:
        >>> _sentence("train a configuration"), _sentence("Convert patients.")
        ('Train a configuration.', 'Convert patients.')
    """
    return f"{text[:1].upper()}{text[1:].rstrip('.')}."


def _complete(parser: argparse.ArgumentParser) -> None:
    """Answer a shell's request for completion, and end; do nothing otherwise."""
    if "_ARGCOMPLETE" in os.environ:
        import argcomplete

        argcomplete.autocomplete(parser)


def _tell_start(verb: Verb, args: argparse.Namespace) -> None:
    """Print in a terminal what begins; 'env' is silent, because a shell reads it."""
    if args.verb != "env" and sys.stderr.isatty():
        _tell(_guide.starting(args.verb, verb.SUMMARY, args))


def _tell_next(args: argparse.Namespace, record: Mapping[str, Any]) -> None:
    """Print what comes next, unless a script reads the result or part of the work failed."""
    if not args.json and "error" not in record and (command := _guide.next_command(args.verb, args, record)):
        print(f"next: {printable(command)}", file=sys.stderr)  # (not wrapped: users copy it)


def _tell(text: str) -> None:
    print(wrapped(printable(text), sys.stderr), file=sys.stderr, flush=True)


def _parser() -> tuple[argparse.ArgumentParser, dict[str, Verb]]:
    parser = Parser(
        prog="cdm-nnunet", description="nnU-Net for radiotherapy dose prediction, trained on clinical DVH metrics."
    )
    parser.add_argument("--version", action="version", version=f"cdm-nnunet {__version__}")
    subparsers = parser.add_subparsers(dest="verb", metavar="VERB")
    verbs: dict[str, Verb] = {}
    for name in VERBS:
        verb: Verb = importlib.import_module(f"cdm_nnunet.cli.{name.replace('-', '_')}")  # (a test checks that it is)
        verbs[name] = verb
        sub = subparsers.add_parser(
            name,
            help=_sentence(verb.SUMMARY),
            description=_sentence(verb.SUMMARY),
            epilog=f"example:\n  {verb.EXAMPLE}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        verb.configure(sub)
        if hasattr(verb, "WRITES"):
            _options.add_scheduler(sub)
        sub.add_argument("--json", action="store_true", help="print the result as JSON on stdout")
        sub.add_long_names()
    return parser, verbs


@contextlib.contextmanager
def _stdout_to_stderr() -> Iterator[TextIO]:
    """Redirect all prints, also of worker processes, to stderr; yield the real stdout for the result."""
    sys.stdout.flush()
    real = os.dup(1)
    os.dup2(2, 1)
    try:
        with os.fdopen(os.dup(real), "w", encoding="utf-8") as stdout, contextlib.redirect_stdout(sys.stderr):
            yield stdout
    finally:
        sys.stdout.flush()
        os.dup2(real, 1)
        os.close(real)


@contextlib.contextmanager
def _spread(verb: Verb, args: argparse.Namespace) -> Iterator[None]:
    """Run the work of a verb on the cluster named by ``--scheduler``, otherwise on this machine."""
    names: Sequence[str] = getattr(verb, "WRITES", ())
    scheduler: str | None = getattr(args, "scheduler", None)
    if not names or scheduler is None:
        yield
        return
    from cdm_nnunet.parallel.cluster import on_cluster

    given = {**os.environ, **vars(args)}
    writes = [Path(given[name]) for name in names]
    named = [*(Path(os.environ[name]) for name in FOLDER_VARIABLES), *vars(args).values()]
    reads = [path for path in named if isinstance(path, Path) and path not in writes and path.exists()]
    needs_gpu = getattr(args, "device", "cpu") in ("cuda", None)  # (None: the first available one; on a cluster, GPUs)
    with on_cluster(scheduler, reads=reads, writes=writes, needs_gpu=needs_gpu):
        yield


def _worded(verb: Verb, record: Mapping[str, Any]) -> str:
    return "\n".join(printable(line) for line in verb.render(record).split("\n"))


def _refuse(message: str) -> int:
    _tell(f"cdm-nnunet: error: {' '.join(message.split())}")
    return 2


if __name__ == "__main__":
    sys.exit(main())
