"""`ratekeeper completion SHELL`: a script that completes commands, options and values in bash, zsh or fish.

The scripts are made from the parser, so they know all that it knows. They run no other program, so a Tab costs nothing.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from ratekeeper.cli.parser import CommandParser

EXAMPLES = (
    ("completion bash > ~/.local/share/bash-completion/completions/ratekeeper", "for bash"),
    ("completion zsh > ~/.zfunc/_ratekeeper", "for zsh, with ~/.zfunc in $fpath"),
    ("completion fish > ~/.config/fish/completions/ratekeeper.fish", "for fish"),
)
NOTES = "A new shell then completes commands, options, files and the names of attributes."

_FILES = ("POLICY", "ACCESS_LOG", "PATH", "FILE")
_ATTRIBUTES = ("path=", "method=", "client=")


class _Word(NamedTuple):
    """The possible values of an argument: any file, or these words; neither if nothing is known."""

    files: bool = False
    words: tuple[str, ...] = ()

    @classmethod
    def of(cls, action: argparse.Action) -> _Word:
        if action.metavar == "KEY=VALUE":
            return cls(words=_ATTRIBUTES)
        if action.choices is not None:
            return cls(words=tuple(map(str, action.choices)))
        return cls(files=action.metavar in _FILES)


class _Option(NamedTuple):
    """An option: its names, what it does, and its value; None if it takes none."""

    names: tuple[str, ...]
    about: str
    value: _Word | None


class _Command(NamedTuple):
    """A command, with its options and its positional arguments. The last of these may come again."""

    name: str
    about: str
    options: tuple[_Option, ...]
    arguments: tuple[_Word, ...]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("shell", metavar="SHELL", choices=tuple(_SCRIPTS), help=", ".join(_SCRIPTS))


def script(shell: str, parsers: Mapping[str, CommandParser]) -> str:
    """Return the script for a shell."""
    return _SCRIPTS[shell]([_command(name, parser) for name, parser in parsers.items()])


def _command(name: str, parser: CommandParser) -> _Command:
    options = tuple(
        _Option(tuple(it.option_strings), it.help or "", None if it.nargs == 0 else _Word.of(it))
        for it in parser.actions
        if it.option_strings
    )
    about = (parser.description or "").removesuffix(".")
    return _Command(name, about, options, tuple(_Word.of(it) for it in parser.actions if not it.option_strings))


def _all_names(command: _Command) -> str:
    return " ".join(name for option in command.options for name in option.names)


def _bash(commands: list[_Command]) -> str:
    return _BASH.format(
        commands=" ".join(it.name for it in commands),
        cases="\n".join(part for it in commands for part in _bash_case(it)),
    )


def _bash_case(command: _Command) -> Iterator[str]:
    yield f"    {command.name})"
    yield f"      options='{_all_names(command)}'"
    valued = [it for it in command.options if it.value is not None]
    if valued:
        yield '      case "$previous" in'
        for option in valued:
            yield f"        {'|'.join(option.names)}) {_bash_reply(option.value or _Word())}; return ;;"
        yield "      esac"
    last = command.arguments[-1] if command.arguments else _Word()
    first = command.arguments[0] if command.arguments else last
    if first != last:
        yield f"      if ((COMP_CWORD == 2)); then {_bash_reply(first)}; else {_bash_reply(last)}; fi ;;"
    else:
        yield f"      {_bash_reply(last)} ;;"


def _bash_reply(word: _Word) -> str:
    if word.files:
        return 'mapfile -t COMPREPLY < <(compgen -f -- "$current"); compopt -o filenames'
    return f"mapfile -t COMPREPLY < <(compgen -W '{' '.join(word.words)}' -- \"$current\")" if word.words else ":"


_BASH = """\
# bash completion for ratekeeper
_ratekeeper() {{
  local current=${{COMP_WORDS[COMP_CWORD]}} previous=${{COMP_WORDS[COMP_CWORD-1]}} options=''
  COMPREPLY=()
  if ((COMP_CWORD == 1)); then
    mapfile -t COMPREPLY < <(compgen -W '{commands} --help --version' -- "$current")
    return
  fi
  case "${{COMP_WORDS[1]}}" in
{cases}
  esac
  if [[ $current == -* ]]; then
    compopt +o filenames
    mapfile -t COMPREPLY < <(compgen -W "$options" -- "$current")
  fi
  if [[ ${{#COMPREPLY[@]}} == 1 && ${{COMPREPLY[0]}} == *= ]]; then compopt -o nospace; fi
}}
complete -F _ratekeeper ratekeeper
"""


def _zsh(commands: list[_Command]) -> str:
    return _ZSH.format(
        commands="\n".join(f"    {_quoted(f'{it.name}:{it.about}')}" for it in commands),
        cases="\n".join(part for it in commands for part in _zsh_case(it)),
    )


def _zsh_case(command: _Command) -> Iterator[str]:
    yield f"    {command.name})"
    yield "      _arguments \\"
    for option in command.options:
        about = option.about.translate({ord("["): "(", ord("]"): ")", ord(":"): "\\:"})
        for name in option.names:
            yield f"        {_quoted(f'{name}[{about}]{_zsh_value(option.value)}')} \\"
    arguments = [f"{place}{_zsh_value(it)}" for place, it in enumerate(command.arguments, 1)]
    arguments += [f"*{_zsh_value(command.arguments[-1])}"] if command.arguments else []
    yield f"        {' '.join(map(_quoted, arguments))} ;;"


def _zsh_value(word: _Word | None) -> str:
    if word is None:
        return ""
    return ": :_files" if word.files else f": :({' '.join(it.replace('=', chr(92) + '=') for it in word.words)})"


_ZSH = """\
#compdef ratekeeper
# zsh completion for ratekeeper
_ratekeeper() {{
  local -a commands
  commands=(
{commands}
  )
  if ((CURRENT == 2)); then
    _describe command commands
    return
  fi
  local command=$words[2]
  shift words
  ((CURRENT--))
  case $command in
{cases}
  esac
}}
if [[ $funcstack[1] == _ratekeeper ]]; then _ratekeeper "$@"; else compdef _ratekeeper ratekeeper; fi
"""


def _fish(commands: list[_Command]) -> str:
    lines = ["# fish completion for ratekeeper", "complete -c ratekeeper -f"]
    for command in commands:
        lines.append(
            f"complete -c ratekeeper -n __fish_use_subcommand -a {command.name} -d {_fish_quoted(command.about)}"
        )
        seen = f"complete -c ratekeeper -n '__fish_seen_subcommand_from {command.name}'"
        for option in command.options:
            names = " ".join(f"-l {it[2:]}" if it.startswith("--") else f"-s {it[1:]}" for it in option.names)
            value = "" if option.value is None else f" -r{_fish_words(option.value)}"
            lines.append(f"{seen} {names}{value} -d {_fish_quoted(option.about)}")
        lines += [f"{seen}{_fish_words(word)}" for word in dict.fromkeys(command.arguments) if word != _Word()]
    return "\n".join(lines) + "\n"


def _fish_words(word: _Word) -> str:
    return " -F" if word.files else f" -a '{' '.join(word.words)}'" if word.words else ""


def _fish_quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


_quoted = shlex.quote
_SCRIPTS: dict[str, Callable[[list[_Command]], str]] = {"bash": _bash, "zsh": _zsh, "fish": _fish}
