"""``dreamfusion completion``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, Union

from tyro.conf import DisallowNone, OmitSubcommandPrefixes, Positional, Suppress, subcommand

Shell = Literal["bash", "zsh"]


def completion(shell: Positional[Shell] = "bash") -> None:
    """Print the script that has a shell complete commands, options and their values with Tab.

    For example:
        dreamfusion completion bash > ~/.local/share/bash-completion/completions/dreamfusion
        dreamfusion completion zsh > ~/.zfunc/_dreamfusion

    Args:
        shell: bash or zsh; zsh needs fpath+=~/.zfunc in ~/.zshrc, before its compinit

    """
    import tyro

    from dreamfusion.app.cli import COMMANDS, function_of

    tree: dict[str, Any] = {}
    for name in COMMANDS:
        first, _, second = name.partition(" ")
        if second:
            tree.setdefault(first, {})[second] = function_of(name)
        else:
            tree[first] = function_of(name)
    options = (DisallowNone, OmitSubcommandPrefixes)
    tyro.cli(_one_of(tree), prog="dreamfusion", args=["--tyro-print-completion", shell], config=options)


def _one_of(tree: Mapping[str, Any]) -> Any:
    """Return the type that tyro reads as a choice of commands, with those of a group behind its name."""
    branches = [
        Annotated[Any, subcommand(name, constructor=_group(branch) if isinstance(branch, dict) else branch)]
        for name, branch in tree.items()
    ]
    nothing = Annotated[None, Suppress]  # a choice has two branches at least
    return Union[(*branches, nothing)]  # made of a list


def _group(tree: Mapping[str, Any]) -> Callable[..., None]:
    """Return a command that takes nothing but another command."""

    def choose(command: Any) -> None: ...

    choose.__annotations__ = {"command": _one_of(tree), "return": None}
    return choose
