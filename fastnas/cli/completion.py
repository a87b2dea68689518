"""Completion of commands and options in a shell."""

from collections.abc import Callable, Sequence
from importlib import import_module

from fastnas.cli.options import default_command, list_options

SCRIPT = """\
# fastnas: completion of commands and options, for bash and zsh
[ -n "$ZSH_VERSION" ] && autoload -U +X bashcompinit && bashcompinit
_fastnas() {{
  local words
  if [ "$COMP_CWORD" = 1 ]; then words="{verbs} --help --version"; else
    case "${{COMP_WORDS[1]}}" in
{cases}
    esac
  fi
  COMPREPLY=($(compgen -W "$words" -- "${{COMP_WORDS[COMP_CWORD]}}"))
}}
complete -o default -F _fastnas fastnas"""


def write_completion(verbs: Sequence[str], heading: Callable[[str, str], str]) -> str:
    """A script for bash and zsh that completes every command and its options."""
    flags: dict[str, str] = {}
    for verb in verbs:
        options = list_options(default_command(import_module(f"fastnas.cli.{verb}"), []), heading)
        flags[verb] = " ".join(spelling for option in options for spelling in option.spellings)
    cases = "\n".join(f'      {verb}) words="{words} --help --help-all" ;;' for verb, words in flags.items())
    return SCRIPT.format(verbs=" ".join(verbs), cases=cases)
