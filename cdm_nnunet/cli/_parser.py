"""Parser of the command line: one style of options besides nnU-Net's, short messages, and suggestions for typos."""

from __future__ import annotations

import argparse
import difflib
import itertools
import sys
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

# Long names of options of nnU-Net's commands.
_LONG_NAMES = {
    "-c": "--configuration",
    "--c": "--continue",
    "-chk": "--checkpoint",
    "-d": "--dataset",
    "-f": "--fold",
    "-h": "--help",
    "-i": "--input",
    "-m": "--model",
    "-n": "--name",
    "-np": "--processes",
    "-o": "--output",
    "-p": "--plans",
    "-tr": "--trainer",
}


def long_name(flag: str) -> str:
    """The equivalent option with two dashes, and hyphens between words.

    Example:
        >>> long_name("-device"), long_name("--val_best"), long_name("-np"), long_name("--grid")
        ('--device', '--val-best', '--processes', '--grid')
    """
    return _LONG_NAMES.get(flag) or "--" + flag.lstrip("-").replace("_", "-")


class Parser(argparse.ArgumentParser):
    """Parser in which every option has a long name, and a mistake gives one line with a suggestion."""

    def add_long_names(self) -> None:
        """Add a long name to each option in nnU-Net's spelling, with the same meaning."""
        for action in self._actions:
            for flag in tuple(action.option_strings):
                name = long_name(flag)
                if name in self._option_string_actions:
                    continue
                self._option_string_actions[name] = action
                at_end = len(flag) == 2  # ("-d, --dataset", but "--device, -device")
                action.option_strings = [*action.option_strings, name] if at_end else [name, *action.option_strings]
            if isinstance(action, argparse._SubParsersAction):
                for part in action.choices.values():
                    part.add_long_names()

    def parse_known_args(self, args: Iterable[str] | None = None, namespace: Any = None) -> Any:
        """As argparse, but a remaining word is an error in this verb's arguments."""
        words = sys.argv[1:] if args is None else list(args)
        if self._subparsers is None:
            self._refuse_unknown(words)
        found, rest = super().parse_known_args(words, namespace)
        if more := [word for word in rest if word != "--"]:
            self.error(self._unknown(more[0]))
        return found, rest

    def _refuse_unknown(self, words: Sequence[str]) -> None:
        """Refuse the first unknown option, before argparse reports a missing one."""
        for word in itertools.takewhile(lambda word: word != "--", words):
            found: Any = self._parse_optional(word)
            option = found[0] if isinstance(found, list) else found  # (a list in later versions of Python)
            if option is not None and option[0] is None:
                self.error(self._unknown(word))

    def error(self, message: str) -> NoReturn:
        """Exit with status 2, after one line on the error and one on where to find help."""
        self.exit(2, f"{self.prog}: error: {message}\nsee: {self.prog} --help\n")

    def _unknown(self, word: str) -> str:
        if not word.startswith("-"):
            return f"unexpected argument '{word}'"
        flag = word.split("=")[0]
        options = {option: option for option in self._option_string_actions}
        options |= {option.lstrip("-"): option for option in self._option_string_actions if option.startswith("--")}
        return f"there is no option {flag}" + meant(flag, options.values())

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is None or value in action.choices:
            return
        names = [str(choice) for choice in action.choices]
        listed = f"; there are: {', '.join(names)}"
        if action.option_strings:  # (no suggestion: 'gpu' is close to 'cpu')
            raise argparse.ArgumentError(action, f"there is no '{value}'{listed}")
        what = str(action.metavar or action.dest).lower()
        raise argparse.ArgumentError(None, f"there is no {what} '{value}'{meant(str(value), names) or listed}")

    def _get_option_tuples(self, option_string: str) -> list[Any]:
        """Options that match an abbreviation: spellings of an option count once, and -devise is not -d with 'evise'."""
        found = super()._get_option_tuples(option_string)
        apart = [one for one in found if one[1] != option_string[:2] or not option_string[2:3].isalpha()]
        return list({id(one[0]): one for one in apart}.values())


def meant(word: str, known: Iterable[str]) -> str:
    """Question suggesting a known word; empty if none is close.

    Example:
        >>> meant("evalute", ["env", "evaluate", "ensemble"])
        '; did you mean evaluate?'
    """
    bare = {one.lstrip("-"): one for one in known}
    close = difflib.get_close_matches(word.lstrip("-"), bare, n=1)
    return f"; did you mean {bare[close[0]]}?" if close else ""
