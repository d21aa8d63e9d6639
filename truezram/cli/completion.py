"""Completion scripts for bash, zsh and fish, generated from the parsers.

All three work alike: from the words before the cursor they find the command that is being written (words that are the
value of an option do not count), and offer its options, its commands, and values if these are known: choices,
algorithms, names of devices (asked of ``truezram list`` at that moment), files.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable

from truezram.cli.reference import Argument, Command
from truezram.engine.algorithms import algorithms

DEVICES = "truezram --no-tui list 2>/dev/null | awk 'NR > 1 && $1 != \"total\" { print $1 }'"
"""Prints the names of the existing devices."""


def _kind(argument: Argument) -> tuple[str, str]:
    """(kind, words) of an argument's values: "words", "devices", "files" or "" for what cannot be known."""
    if argument.choices:
        return "words", " ".join(argument.choices)
    if argument.value in ("NAME[:LEVEL]", "A"):
        return "words", " ".join(algorithm.name for algorithm in algorithms())
    if argument.value == "DEVICE":
        return "devices", ""
    return ("files", "") if "FILE" in argument.value or "PATH" in argument.value else ("", "")


def _offered(command: Command) -> list[str]:
    """Commands first, then options."""
    return [c.path[-1] for c in command.commands] + [flag for option in command.options for flag in option.flags]


def _valued(command: Command) -> list[tuple[str, Argument]]:
    return [(flag, option) for option in command.options if option.value for flag in option.flags]


def _bash_fill(kind: str, words: str) -> str:
    """The command that sets COMPREPLY."""
    return {
        "words": f'COMPREPLY=($(compgen -W {shlex.quote(words)} -- "$cur"))',
        "devices": f'COMPREPLY=($(compgen -W "$({DEVICES})" -- "$cur"))',
        "files": 'compopt -o filenames 2>/dev/null; COMPREPLY=($(compgen -f -- "$cur"))',
        "": "COMPREPLY=()",
    }[kind]


def bash(root: Command) -> str:
    """For ``source <(truezram completions bash)`` or a file in bash-completion's folder."""
    known, valued, values, rest = [], [], [], []
    for command in root.walk():
        known.append(command.name)
        for flag, option in _valued(command):
            kind, words = _kind(option)
            valued.append(f"{command.name}:{flag}")
            values.append(f"    '{command.name}:{flag}') {_bash_fill(kind, words)}; return ;;")
        lines = [f'COMPREPLY=($(compgen -W {shlex.quote(" ".join(_offered(command)))} -- "$cur"))']
        for position in command.positionals:
            kind, words = _kind(position)
            if kind:
                lines.append(f"[[ $cur == -* ]] || {{ {_bash_fill(kind, words)}; }}")
        rest.append(f"    '{command.name}') " + "; ".join(lines) + " ;;")
    return f"""# bash completion of truezram, made by `truezram completions bash`.
_truezram() {{
  local cur=${{COMP_WORDS[COMP_CWORD]}} prev=${{COMP_WORDS[COMP_CWORD-1]}} cmd=truezram skip= word i
  COMPREPLY=()
  # --option=VALUE comes as three words.
  [[ $cur == = ]] && cur=
  [[ $prev == = && COMP_CWORD -ge 2 ]] && prev=${{COMP_WORDS[COMP_CWORD-2]}}
  for ((i = 1; i < COMP_CWORD; i++)); do
    word=${{COMP_WORDS[i]}}
    [[ $word == = ]] && {{ skip=1; continue; }}
    if [[ -n $skip ]]; then skip=; continue; fi
    case "$cmd $word" in
{_patterns(known[1:])}) cmd="$cmd $word"; continue ;;
    esac
    case "$cmd:$word" in
{_patterns(valued)}) skip=1 ;;
    esac
  done
  case "$cmd:$prev" in
{chr(10).join(values)}
  esac
  case "$cmd" in
{chr(10).join(rest)}
  esac
}}
complete -F _truezram truezram
"""


def _patterns(words: list[str]) -> str:
    return "    " + " | \\\n    ".join(f"'{word}'" for word in words)


def _zsh_text(text: str) -> str:
    """Text inside a quoted specification of _arguments, where brackets and colons have a meaning."""
    for char in "\\[]:":
        text = text.replace(char, "\\" + char)
    return text


def _zsh_action(argument: Argument) -> str:
    kind, words = _kind(argument)
    return {"words": f"({words})", "devices": "_truezram_devices", "files": "_files", "": " "}[kind]


def zsh(root: Command) -> str:
    """For a file ``_truezram`` in a folder of ``$fpath``."""
    functions = []
    for command in root.walk():
        specs = []
        for option in command.options:
            value = f":{_zsh_text(option.value)}:{_zsh_action(option)}" if option.value else ""
            specs += [f"*{flag}[{_zsh_text(option.help)}]{value}" for flag in option.flags]
        for index, position in enumerate(command.positionals, 1):
            place = "*" if position.several else str(index)
            specs.append(f"{place}:{_zsh_text(position.value)}:{_zsh_action(position)}")
        name = "_".join(["", *command.path]).replace("-", "_")
        body = [f"{name}() {{"]
        if command.commands:
            specs += ["1: :->command", "*:: :->rest"]
            body += ["  local curcontext=$curcontext state line", "  typeset -A opt_args"]
        body += ["  _arguments -s -S" + (" -C" if command.commands else "") + " \\"]
        body += [f"    {shlex.quote(spec)}" + (" \\" if spec is not specs[-1] else "") for spec in specs]
        if command.commands:
            pairs = " ".join(shlex.quote(f"{c.path[-1]}:{_zsh_text(c.help)}") for c in command.commands)
            body += ["  case $state in", f"    command) local -a verbs=({pairs}); _describe command verbs ;;"]
            body += ["    rest) case $line[1] in"]
            body += [f"      {c.path[-1]}) {name}_{c.path[-1].replace('-', '_')} ;;" for c in command.commands]
            body += ["    esac ;;", "  esac"]
        functions.append("\n".join([*body, "}"]))
    return (
        "#compdef truezram\n# zsh completion of truezram, made by `truezram completions zsh`.\n"
        f'_truezram_devices() {{\n  local -a names=(${{(f)"$({DEVICES})"}})\n  compadd -a names\n}}\n'
        + "\n".join(functions)
        + '\nif [[ $funcstack[1] == _truezram ]]; then _truezram "$@"; else compdef _truezram truezram; fi\n'
    )


def _fish_quote(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def fish(root: Command) -> str:
    """For ``truezram completions fish | source`` or a file in fish's completions folder."""
    commands = list(root.walk())
    known = " ".join(_fish_quote(command.name) for command in commands)
    valued = " ".join(_fish_quote(f"{c.name}:{flag}") for c in commands for flag, _ in _valued(c))
    lines = []
    for command in commands:
        start = f"complete -c truezram -n \"__truezram_at '{command.name}'\""
        lines += [f"{start} -f -a {c.path[-1]} -d {_fish_quote(c.help)}" for c in command.commands]
        for option in command.options:
            flags = " ".join(f"-l {flag[2:]}" if flag.startswith("--") else f"-s {flag[1:]}" for flag in option.flags)
            lines.append(f"{start} {flags}{_fish_value(option)} -d {_fish_quote(option.help)}")
        lines += [f"{start}{_fish_values(position)}" for position in command.positionals if _kind(position)[0]]
    return f"""# fish completion of truezram, made by `truezram completions fish`.
function __truezram_devices
    {DEVICES}
end
function __truezram_at --argument-names wanted
    set -l cmd truezram
    set -l skip 0
    for word in (commandline -opc)[2..]
        if test $skip = 1
            set skip 0
        else if contains -- "$cmd $word" {known}
            set cmd "$cmd $word"
        else if contains -- "$cmd:$word" {valued}
            set skip 1
        end
    end
    test "$cmd" = "$wanted"
end
complete -c truezram -f
{chr(10).join(lines)}
"""


def _fish_values(argument: Argument) -> str:
    kind, words = _kind(argument)
    if kind == "files":
        return " -F"
    return " -f" + {"words": f" -a {_fish_quote(words)}", "devices": " -a '(__truezram_devices)'", "": ""}[kind]


def _fish_value(option: Argument) -> str:
    """The part of a `complete` line that is about an option's value."""
    return f" -r{_fish_values(option)}" if option.value else " -f"


SHELLS: dict[str, Callable[[Command], str]] = {"bash": bash, "zsh": zsh, "fish": fish}
