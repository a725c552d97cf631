"""`completion`: a script that completes the words of a command line in bash, zsh, or fish.

The script has all words in it, so that no process is started at a TAB, and no container for `./twinhost`.
"""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from textwrap import shorten
from typing import Annotated, Any

import typer

from twinhost import clients
from twinhost.cli import output
from twinhost.cli.arguments import AsJson
from twinhost.clients.typed import actions_of
from twinhost.network_config import load_network_config
from twinhost.secure_zmq.errors import ConfigurationError

_Path = tuple[str, ...]
_MAX_CHARACTERS = 60  # of a description


class Shell(StrEnum):
    """A shell with programmable completion."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


@dataclass(slots=True)
class Place:
    """What may follow some words: commands, agents, or actions; options; and those of these that have a value."""

    words: dict[str, str] = field(default_factory=dict)  # with their descriptions
    options: dict[str, str] = field(default_factory=dict)
    valued: set[str] = field(default_factory=set)


def completion(
    shell: Annotated[Shell, typer.Argument(metavar="SHELL", help="bash, zsh, or fish.")], as_json: AsJson = False
) -> int:
    """Print a script that completes words in a shell.

    It completes commands, options, agents, and actions of this version. In bash and zsh: source <(twinhost completion
    bash), or zsh. In fish: twinhost completion fish | source
    """
    script = script_of(shell, places())
    if as_json:
        output.show_value({"status": "ok", "shell": shell.value, "script": script}, as_json=True)
    else:
        output.show_line(script.rstrip("\n"))
    return 0


def places_of_commands() -> dict[_Path, Place]:
    """Return what may follow each command and group, by its words; nothing of agents."""
    from twinhost.cli.program import program  # noqa: PLC0415 - it imports this module, on use

    found: dict[_Path, Place] = {}
    _walk(typer.main.get_command(program()), (), found)
    return found


def places() -> dict[_Path, Place]:
    """Return every place of a command line by the commands, agents, and actions before it."""
    found = places_of_commands()
    for agent, actions in _actions().items():
        for command in ("call", "explain", "ping"):
            found[command,].words[agent] = "agent"
        for command in ("call", "explain"):
            found[command, agent] = Place(actions, found[command,].options, found[command,].valued)
        found["explain",].words |= actions
    return found


def _walk(command: Any, path: _Path, found: dict[_Path, Place]) -> None:
    place = found[path] = Place()
    for parameter in command.params:
        if parameter.param_type_name == "option":
            place.options |= dict.fromkeys(parameter.opts, parameter.help or "")
            if not parameter.is_flag:
                place.valued |= set(parameter.opts)
    place.options["--help"] = "Show the help."
    for name in getattr(command, "commands", ()):
        below = command.get_command(None, name)
        place.words[name] = below.get_short_help_str(_MAX_CHARACTERS)
        _walk(below, (*path, name), found)


def _actions() -> dict[str, dict[str, str]]:
    """Return the actions of the configured agents, with descriptions; of an agent outside this project, none."""
    try:
        agents = load_network_config().agents
    except ConfigurationError:
        return {}
    return {
        agent: {
            action: shorten((method.__doc__ or "").partition("\n\n")[0], _MAX_CHARACTERS, placeholder=" \u2026")
            for action, method in actions_of(getattr(clients, agent)).items()
        }
        if agent in clients.__all__
        else {}
        for agent in agents
    }


def script_of(shell: Shell, places: Mapping[_Path, Place]) -> str:
    """Return the script of a shell that completes these places."""
    steps = [_joined(path) for path in places if path]
    valued = [_joined((*path, option)) for path, place in places.items() for option in sorted(place.valued)]
    words = {_joined(path): place.words for path, place in places.items() if place.words}
    options = {_joined(path): place.options for path, place in places.items()}
    if shell is Shell.FISH:
        lists = ("\n".join(_fish_list(path, entries) for path, entries in each.items()) for each in (options, words))
        return _FISH % (*(" ".join(map(_fish_quoted, each)) for each in (valued, steps)), *lists)
    lists = ("\n".join(_list(path, entries) for path, entries in each.items()) for each in (options, words))
    core = _CORE % (*("|".join(map(shlex.quote, each)) for each in (valued, steps)), *lists)
    return core + (_BASH if shell is Shell.BASH else _ZSH)


def _joined(path: _Path) -> str:
    return "".join(f" {word}" for word in path)


def _list(path: str, entries: Mapping[str, str]) -> str:
    lines = " ".join(shlex.quote(f"{word}:{about}") for word, about in entries.items())
    return f"            {shlex.quote(path)}) printf '%s\\n' {lines} ;;"


def _fish_list(path: str, entries: Mapping[str, str]) -> str:
    lines = " ".join(f"{word}\\t{_fish_quoted(about)}" for word, about in entries.items())
    return f"            case {_fish_quoted(path)}\n                printf '%s\\n' {lines}"


def _fish_quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


_CORE = """\
__twinhost_candidates() {  # the word at the cursor, and those between the command and it
    local current=$1 path='' skip='' word
    shift
    for word in "$@"; do
        if [ -n "$skip" ]; then skip=''; continue; fi
        case "$path $word" in
            %s) skip=yes ;;
            %s) path="$path $word" ;;
            *' --') return 0 ;;
        esac
    done
    if [ -n "$skip" ]; then return 0; fi
    case "$current" in
        -*) case "$path" in
%s
        esac ;;
        *) case "$path" in
%s
        esac ;;
    esac
}
"""
_BASH = """\
_twinhost() {
    local current=${COMP_WORDS[COMP_CWORD]} line
    COMPREPLY=()
    while IFS= read -r line; do
        line=${line%%:*}
        if [[ $line == "$current"* ]]; then COMPREPLY+=("$line"); fi
    done < <(__twinhost_candidates "$current" "${COMP_WORDS[@]:1:COMP_CWORD-1}")
}
complete -o bashdefault -o default -F _twinhost twinhost ./twinhost
"""
_ZSH = """\
_twinhost() {
    local -a candidates
    candidates=("${(@f)$(__twinhost_candidates "${words[CURRENT]}" "${(@)words[2,CURRENT-1]}")}")
    if [[ -n "$candidates" ]]; then _describe twinhost candidates; else _files; fi
}
compdef _twinhost twinhost ./twinhost
"""
_FISH = """\
function __twinhost_candidates
    set -l path ''
    set -l skip no
    set -l words (commandline -opc)
    for word in $words[2..]
        if test $skip = yes
            set skip no
            continue
        end
        if contains -- "$path $word" %s
            set skip yes
        else if contains -- "$path $word" %s
            set path "$path $word"
        else if test "$word" = --
            return
        end
    end
    if test $skip = yes
        return
    end
    if string match -q -- '-*' (commandline -ct)
        switch "$path"
%s
        end
    else
        switch "$path"
%s
        end
    end
end
complete -c twinhost -f -n '__twinhost_candidates | string length -q' -a '(__twinhost_candidates)'
"""
