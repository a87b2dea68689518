"""The options of a command: what they take, how they are grouped, and what is wrong with those that were given."""

import io
import math
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from types import ModuleType, NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import tyro
from docstring_parser import parse as parse_docstring
from rich.console import Console
from rich.table import Table
from rich.text import Text
from tyro.conf import Positional, Suppress

from fastnas.errors import invalid, suggest

Command = TypeVar("Command")
FIRST = "most used"
WORDS: Mapping[type, str] = {int: "a whole number", float: "a number", str: "a string", Path: "a file or folder"}
SHORT: Mapping[type, str] = {int: "N", float: "X", str: "TEXT", Path: "PATH"}

_SUPPRESSED = get_args(Suppress[int])[1]


class UsageError(ValueError):
    """A command line that spells no command; the message is one line."""


@dataclass(frozen=True)
class Option:
    """One option of a command.

    Args:
        flag: As it is written, ``--retrain.lr``; for a positional argument its name.
        kind: The type of its value, without ``None``.
        default: Its value where it is not given.
        help: What it means.
        group: The heading under which help lists it.
        aliases: Other spellings.
        is_positional: Whether it has no flag.
    """

    flag: str
    kind: Any
    default: Any
    help: str
    group: str
    aliases: tuple[str, ...] = ()
    is_positional: bool = False

    @property
    def takes(self) -> str:
        """What it takes, in words."""
        return _in_words(self.kind)

    @property
    def usage(self) -> str:
        """How it is written, with a word for its value."""
        if self.is_positional:
            return self.flag.upper()
        if self.kind is bool:
            return f"{self.flag}, --no-{self.flag[2:]}"
        return ", ".join([self.flag, *self.aliases]) + f" {_placeholder(self.kind)}"

    @property
    def spellings(self) -> list[str]:
        """Every way to write it."""
        negated = [f"--no-{self.flag[2:]}"] if self.kind is bool else []
        return [] if self.is_positional else [self.flag, *self.aliases, *negated]


def list_options(command: Any, group: Callable[[str, str], str], prefix: str = "") -> Iterator[Option]:
    """Every option of a command, those of the settings inside of it included.

    Args:
        command: A dataclass instance with the default of every option.
        group: From the name of a dataclass and the flag to the heading.
        prefix: Of the flags.
    """
    helps = _descriptions(type(command))
    hints = get_type_hints(type(command), include_extras=True)
    for field in fields(command):
        kind, extras = _split(hints[field.name])
        if any(e is _SUPPRESSED for e in extras):
            continue
        default = getattr(command, field.name)
        named = next((e.name for e in extras if getattr(e, "name", None) is not None), field.name)
        flag = f"{prefix}{named}".replace("_", "-")
        if is_dataclass(default):
            yield from list_options(default, group, f"{flag}." if named else prefix)
            continue
        told = next((e.help for e in extras if getattr(e, "help", None)), helps.get(field.name, ""))
        aliases = tuple(a for e in extras for a in getattr(e, "aliases", None) or ())
        positional = any(e is get_args(Positional[int])[1] for e in extras)
        title = group(type(command).__name__, flag)
        if positional:
            yield Option(field.name, kind, default, told, title, is_positional=True)
        else:
            yield Option(f"--{flag}", kind, default, told, title, aliases)


def default_command(verb: ModuleType, arguments: list[str]) -> Any:
    """The command of ``verb`` before its arguments are parsed: what it must be given is ``tyro.MISSING``.

    Args:
        verb: A module of this package. Its ``default``, if it has one, makes the command: it depends on a recipe.
        arguments: What stands behind the verb.
    """
    if hasattr(verb, "default"):
        return verb.default(arguments)
    kind = get_type_hints(verb.run)["command"]
    return kind(**{field.name: tyro.MISSING for field in fields(kind) if field.default is MISSING})


def parse(
    verb: str, default: Command, arguments: Sequence[str], group: Callable[[str, str], str], first: Sequence[str] = ()
) -> Command:
    """The command that the arguments spell.

    Args:
        verb: Its name.
        default: A command with the default of every option; positional arguments are ``tyro.MISSING``.
        arguments: What stands behind the verb.
        group: See :func:`list_options`.
        first: The flags that help shows first, in order; none to show all at once.

    Raises:
        UsageError: In one line, for an unknown option or a value that it does not take.
        SystemExit: After help was printed.
    """
    options = list(list_options(default, group))
    if {"-h", "--help", "--help-all"} & set(arguments):
        print_help(verb, default, options, [] if "--help-all" in arguments else first)
        raise SystemExit(0)
    known = [spelling for option in options for spelling in option.spellings]
    for token in arguments:
        flag = token.split("=")[0].replace("_", "-")
        if token.startswith("--") and flag not in known:
            unknown = quote_briefly(token.split("=")[0])
            hint = suggest(flag, known)
            hint = hint if hint.startswith("Did") else "--help-all lists them."
            raise UsageError(f"fastnas {verb}: there is no option {unknown}. {hint}")
    _require_numbers(verb, options, arguments)
    said = io.StringIO()
    try:
        with redirect_stderr(said):
            command = tyro.cli(type(default), args=list(arguments), prog=f"fastnas {verb}", default=default)
    except SystemExit as exit:
        if exit.code == 0:
            raise
        raise UsageError(f"fastnas {verb}: {_complaint(said.getvalue(), options, arguments)}") from None
    _require_possible(verb, command, group)
    return command


def print_help(verb: str, command: Any, options: Sequence[Option], first: Sequence[str]) -> None:
    """Print what a command does and its options, group by group."""
    console = Console(highlight=False)
    about = parse_docstring(type(command).__doc__ or "")
    positional = " ".join(option.flag.upper() for option in options if option.is_positional)
    console.print(Text(f"usage: fastnas {verb} {positional}".rstrip() + " [options]"))
    console.print(Text("\n" + " ".join(filter(None, [about.short_description, about.long_description])).strip()))
    shown = sorted((o for o in options if o.flag in first), key=lambda o: first.index(o.flag)) if first else []
    groups: dict[str, list[Option]] = {FIRST: shown} if shown else {}
    for option in options:
        if not shown or (option.is_positional and option not in shown):
            groups.setdefault(option.group, []).append(option)
    for title, of_group in groups.items():
        console.print(Text(f"\n{title}", style="bold"))
        table = Table.grid(padding=(0, 2), expand=False)
        table.add_column(max_width=34)
        table.add_column()
        for option in of_group:
            table.add_row(Text("  " + option.usage), Text(_help_with_default(option)))
        console.print(table)
    if shown:
        counts: dict[str, int] = {}
        for option in options:
            counts[option.group] = counts.get(option.group, 0) + (option not in shown)
        others = ", ".join(f"{title} ({count})" for title, count in counts.items() if count)
        console.print(Text(f"\nfastnas {verb} --help-all shows all {len(options)} options: {others}"))


def quote_command(*words: object) -> str:
    """A command line that a shell takes as it is."""
    import shlex  # noqa: PLC0415

    return shlex.join(map(str, words))


def _help_with_default(option: Option) -> str:
    if option.is_positional or option.default in (None, "", ()) or option.default is tyro.MISSING:
        return option.help
    value = option.default
    if isinstance(value, bool):
        return option.help + (" (default: yes)" if value else "")
    text = (
        " ".join(map(str, value)) if isinstance(value, tuple) else f"{value:g}" if isinstance(value, float) else value
    )
    return f"{option.help} (default: {text})"


def _descriptions(kind: type) -> dict[str, str]:
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        for parameter in parse_docstring(base.__dict__.get("__doc__") or "").params:
            found[parameter.arg_name] = " ".join((parameter.description or "").split())
    return found


def _split(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    extras: tuple[Any, ...] = ()
    if get_origin(hint) is Annotated:
        hint, *more = get_args(hint)
        extras = tuple(more)
    if get_origin(hint) in (Union, UnionType):
        kinds = [kind for kind in get_args(hint) if kind is not NoneType]
        hint = kinds[0] if len(kinds) == 1 else hint
    return hint, extras


def _in_words(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return f"one of {', '.join(map(str, get_args(kind)))}"
    if get_origin(kind) is tuple:
        parts = [part for part in get_args(kind) if part is not Ellipsis]
        if len(parts) < len(get_args(kind)):
            return f"any number of values, each {_in_words(parts[0])}"
        return f"{len(parts)} values, each {_in_words(parts[0])}"
    return WORDS.get(kind, "nothing" if kind is bool else "a string")


def _placeholder(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return "{" + ",".join(map(str, get_args(kind))) + "}"
    if get_origin(kind) is tuple:
        parts = [part for part in get_args(kind) if part is not Ellipsis]
        one = _placeholder(parts[0])
        return f"{one} ..." if len(parts) < len(get_args(kind)) else " ".join([one] * len(parts))
    return SHORT.get(kind, "TEXT")


def quote_briefly(text: str) -> str:
    """Foreign text, short and without control characters."""
    plain = text.encode("unicode_escape", "backslashreplace").decode() if not text.isprintable() else text
    return plain if len(plain) <= 80 else f"{plain[:77]}..."


def _complaint(box: str, options: Sequence[Option], arguments: Sequence[str]) -> str:
    """What the box of the parser says, in one line of ours."""
    lines = [line.strip().strip("│|").strip() for line in box.splitlines()[1:]]  # the first one is the box's title
    while lines and not lines[0].strip("─-╰╯+ "):
        lines.pop(0)  # a terminal without line drawing has rules of dashes
    end = next((i for i, line in enumerate(lines) if not line.strip("─-╰╯+ ")), len(lines))
    first = " ".join(lines[:end]) or "the arguments must spell a command"
    if first.startswith("Missing from"):
        given = {token.split("=")[0].replace("_", "-") for token in arguments}
        missing = [o for o in options if o.default is tyro.MISSING and not given & set(o.spellings)]
        return f"it needs {' and '.join(o.usage for o in missing)}. {missing[0].help if missing else ''}".strip()
    if of_settings := re.match(r"Error parsing (?!-)[\w.]+: (.*)", first):  # what our own settings say of their values
        return of_settings[1]
    flags = re.findall(r"--[\w.-]+", first)
    option = next((o for o in options if flags and flags[0].rstrip(".") in o.spellings), None)
    if option is not None:
        values = _values(option, arguments)
        given = repr(quote_briefly(" ".join(values))) if values else "nothing"
        return f"{option.flag} takes {option.takes}, got {given}."
    if first.startswith("Unrecognized"):
        return f"{quote_briefly(first.partition(': ')[2])!s} belongs to no option. --help lists them."
    return first


def _values(option: Option, arguments: Sequence[str]) -> list[str]:
    """What stands behind ``option`` on the command line."""
    for position, token in enumerate(arguments):
        flag, equals, value = token.partition("=")
        if flag.replace("_", "-") in option.spellings:
            rest = arguments[position + 1 :]
            end = next((i for i, other in enumerate(rest) if other.startswith("--")), len(rest))
            return [value] if equals else list(rest[:end])
    return []


def _is_not_finite(text: str) -> bool:
    try:
        return not math.isfinite(float(text))
    except ValueError:
        return False


def _require_numbers(verb: str, options: Sequence[Option], arguments: Sequence[str]) -> None:
    """Raise for numbers that are not finite, before any settings see them: here the option has its name."""
    for option in options:
        if option.kind is float or float in get_args(option.kind):
            for value in _values(option, arguments):
                if _is_not_finite(value):
                    raise UsageError(f"fastnas {verb}: {option.flag} takes a finite number, got {float(value)}.")


def _require_possible(verb: str, command: Any, group: Callable[[str, str], str]) -> None:
    for option in list_options(command, group):
        values = option.default if isinstance(option.default, tuple) else (option.default,)
        for value in values:
            if isinstance(value, int) and abs(value) > sys.maxsize:
                raise UsageError(f"fastnas {verb}: {option.flag} takes a number below 2^63, got a larger one.")
            if isinstance(value, str | Path) and "\0" in str(value):
                raise invalid(
                    f"fastnas {verb}", f"{option.flag} must not hold a NUL character", quote_briefly(str(value))
                )
