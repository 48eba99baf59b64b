"""Command lines that fail with one clear message instead of a traceback."""

import contextlib
import difflib
import re
import runpy
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from absl import flags, logging
from ml_collections import ConfigDict, config_flags

from errors import UserError

_USAGE_ERROR = 2  # exit status of every mistake the user can fix
INTERRUPTED = 130  # shell convention for Ctrl-C: 128 + SIGINT


@contextlib.contextmanager
def user_errors() -> Iterator[None]:
    """Exits with a message after a `UserError`, a flag that cannot be parsed, or Ctrl-C."""
    try:
        yield
    except (UserError, flags.Error) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(_USAGE_ERROR) from None
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None


def define_config(
    argv: Sequence[str], default: Path, flag_values: flags.FlagValues = flags.FLAGS
) -> None:
    """Defines the flag `--config` and its overrides `--config.field`.

    Args:
      argv: the command line, which decides what overrides are defined.
      default: configuration file without a `--config`.
      flag_values: where they are defined.

    Raises:
      UserError: the file cannot be loaded or an override names no field; all such names are listed.
    """
    path, fields = _read(flag_values.read_flags_from_files(list(argv), force_gnu=False))
    known = _fields(_load(path or str(default)))
    if problems := [_unknown(field, known) for field in fields if field not in known]:
        raise UserError("\n".join(problems))
    for kind, convert, expected in _VALUES:
        config_flags.register_flag_parser_for_type(kind, _ValueParser(convert, expected))
    config_flags.DEFINE_config_file(
        "config",
        str(default),
        "Configuration file, optionally followed by :<environment id>.",
        flag_values=flag_values,
        sys_argv=list(argv),
    )


def parse_flags(argv: Sequence[str]) -> list[str]:
    """Parses the command line for `app.run`; anything but a flag raises a `UserError`."""
    rest = _parse(argv, flags.FLAGS)
    if flags.FLAGS["verbosity"].using_default_value:
        logging.set_verbosity(logging.WARNING)  # absl would show what every library has to say
    return rest


def read_config(arguments: Sequence[str], default: Path) -> ConfigDict:
    """Returns the configuration that a command line describes; the program's own flags stay as is.

    Args:
      arguments: `--config` and `--config.field` flags, without the program's name.
      default: configuration file without a `--config`.

    Raises:
      UserError: as for `define_config`, or an argument is no flag.
      flags.Error: a value has the wrong type, or a flag is unknown.
    """
    argv, flag_values = [sys.argv[0], *arguments], flags.FlagValues()
    define_config(argv, default, flag_values)
    _parse(argv, flag_values)
    return flag_values.config


def _parse(argv: Sequence[str], flag_values: flags.FlagValues) -> list[str]:
    rest = flag_values(argv)
    if len(rest) > 1:
        raise UserError(
            f"unexpected argument {rest[1]!r}: every setting is a flag, such as "
            "--config.total_steps=10000 (quote values that contain spaces)."
        )
    return rest


def _read(argv: Sequence[str]) -> tuple[str | None, list[str]]:
    """Returns the value of `--config` and the dotted names of all overrides."""
    path, fields = None, []
    for position, argument in enumerate(argv):
        if argument == "--":
            break
        if match := re.fullmatch(r"--?config(?:=(.*))?", argument):
            path = match[1] or "".join(argv[position + 1 : position + 2])
        elif match := re.match(r"--?(?:no)?config\.([^=]*)", argument):
            fields.append(match[1])
    return path, fields


def _load(path_and_argument: str) -> ConfigDict:
    path, *argument = path_and_argument.split(":", maxsplit=1)
    if not Path(path).is_file():
        nearby = sorted(Path("configs").glob("*.py")) if Path("configs").is_dir() else []
        similar = difflib.get_close_matches(path, map(str, nearby), n=1)
        hint = f" Did you mean {similar[0]}?" if similar else ""
        raise UserError(f"--config={path}: there is no such file.{hint}")
    try:
        return runpy.run_path(path)["get_config"](*argument)
    except KeyError as error:
        if error.args == ("get_config",):
            raise UserError(f"--config={path}: the file defines no get_config().") from None
        raise UserError(_broken(path, error)) from error
    except Exception as error:  # a configuration file is the user's code and can raise anything
        raise UserError(_broken(path, error)) from error


def _broken(path: str, error: Exception) -> str:
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == path]
    place = f"{path}, line {lines[-1]}" if lines else path
    return f"--config={path}: the file cannot be loaded ({place}: {type(error).__name__}: {error})."


def _fields(config: ConfigDict, prefix: str = "") -> list[str]:
    """Returns the dotted names of all fields, blocks included."""
    names = []
    for name, value in config.items():
        names.append(prefix + name)
        if isinstance(value, ConfigDict):
            names += _fields(value, f"{prefix}{name}.")
    return names


def _unknown(field: str, known: Sequence[str]) -> str:
    """Says which fields a misspelt one may be: the nearest, or those in another block."""
    leaf = field.rsplit(".", maxsplit=1)[-1]
    similar = [name for name in known if name.rsplit(".", maxsplit=1)[-1] == leaf]
    similar = similar or difflib.get_close_matches(field, known, n=1)
    if not similar:
        block = field.rsplit(".", maxsplit=1)[0] + "." if "." in field else ""
        similar = [name for name in known if name.startswith(block)] or list(known)
        return f"--config.{field}: no such field. There are: {', '.join(similar)}."
    options = " or ".join(f"--config.{name}" for name in similar)
    return f"--config.{field}: no such field. Did you mean {options}?"


class _ValueParser(flags.ArgumentParser):
    """Parses one override; a wrong type is reported in words."""

    def __init__(self, convert: Callable[[str], Any], expected: str) -> None:
        self._convert = convert
        self._expected = expected

    def parse(self, argument: Any) -> Any:
        """Returns the value of the text `argument`; values that are no text pass unchanged."""
        if not isinstance(argument, str):
            return argument
        try:
            return self._convert(argument)
        except (KeyError, ValueError):
            raise ValueError(f"expected {self._expected}") from None


def _whole_number(text: str) -> int:
    """Reads `100000`, `100_000` and `1e5`."""
    try:
        return int(text)
    except ValueError:
        value = float(text)
    if not value.is_integer():
        raise ValueError(text)
    return int(value)


def _truth(text: str) -> bool:
    return {"true": True, "1": True, "false": False, "0": False}[text.lower()]


_VALUES: tuple[tuple[type, Callable[[str], Any], str], ...] = (
    (int, _whole_number, "a whole number such as 1000"),
    (float, float, "a number such as 0.001"),
    (bool, _truth, "true or false"),
)
