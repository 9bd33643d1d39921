"""The command line: ``dreamfusion generate "a red mushroom"`` and its companions, a file for each command.

``dreamfusion --help`` loads nothing but this module, and a command only its own file: torch, diffusers and Warp take
seconds to import.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from importlib import import_module
from inspect import signature
from textwrap import fill
from typing import Annotated, NoReturn, get_type_hints

from dreamfusion import __version__

COMMANDS = {
    "generate": "Make a 3D object from words.",
    "refine": "Turn a finished run into a mesh and optimise that, at a higher resolution.",
    "render": "Render a finished run from any camera, under any light.",
    "export": "Write the mesh of a finished run for other programs: GLB, OBJ, PLY, STL or USDZ.",
    "compare": "Put two results side by side into one page, to turn together: before and after refine, or two seeds.",
    "compose": "Place several results on a ground and write a picture with shadows, a GLB scene and a viewer page.",
    "view": "Look at a run in the browser while it goes on: newest mesh, light, new prompt, stop.",
    "studio": "Open a page to make objects on: prompts, a queue, live previews, all runs to turn, refine and download.",
    "config": "Say what the keys of the configuration mean, which values they take, and their defaults.",
    "prior train": (
        "Train the small prior on the toybox; run it again to continue exactly, with more --steps to go further."
    ),
    "prior sample": "Draw pictures from a prior: what it believes the words look like.",
    "prior evaluate": (
        "Score a prior of the toybox: its loss, what its samples show, how true and how different they are."
    ),
    "guidance compile": (
        "Compile a prior for ONNX Runtime, with TensorRT where it is; generate --model OUTPUT then runs it."
    ),
    "toybox render": "Show toys of the procedural world that priors are trained on.",
    "sweep": "Run many prompts with many seeds and settings on Ray or Slurm, and show what comes out, best first.",
    "evaluate": "Score many runs: R-Precision, geometry against the truth, two-faced objects, failures.",
    "ablate": "Measure what each part of the method contributes, or what the guidance scale does.",
    "experiment figure2": "Compare ancestral sampling with score distillation of pictures (paper Figure 2).",
    "experiment jacobian": "Compare score distillation with the loss that sends its gradient through the denoiser.",
    "experiment grid": (
        "Compare guidance scales and seeds in 3D, and measure how different the objects are (paper Figure 9)."
    ),
    "experiment warmstart": (
        "Measure how much sooner a run is good that begins with an instant object of an amortised network."
    ),
    "amortize train": "Train a network that makes an object at once; run it again to continue exactly.",
    "judge train": (
        "Train the toybox judge, which reads off pictures what they show; run it again to continue exactly."
    ),
    "judge evaluate": (
        "Examine the toybox judge on true pictures: how often it reads each attribute right where it can be seen."
    ),
    "completion": "Print the script that has a shell complete commands, options and their values with Tab.",
    "doctor": "Say what this machine has, which device and kernels are used, and what to do about what is missing.",
}
"""Every command and the first line of its function, which stands in the file of its name."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; `terminal.run` says how a command ends."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if _command(arguments) not in COMMANDS:  # help comes at once: it needs none of the rest
        dispatch(arguments)
        return
    from dreamfusion.app.cli.output import console
    from dreamfusion.app.terminal import run
    from dreamfusion.io.quiet import quiet_libraries

    quiet_libraries()
    warnings.filterwarnings("ignore", module=r"(diffusers|transformers|huggingface_hub|torch)\b")
    run(lambda: dispatch(arguments), console)


def dispatch(arguments: Sequence[str]) -> None:
    """Run the command that the arguments begin with; raises what it raises.

    Without one, or with --help in its place, print what there is. An unknown one ends with exit code 2.
    """
    name = _command(arguments)
    if name in COMMANDS:
        _run(name, list(arguments[len(name.split()) :]))
    elif list(arguments) == ["--version"]:
        print(f"dreamfusion {__version__}")
    elif arguments and arguments[-1] not in ("-h", "--help", name):
        _refuse(" ".join(arguments[: len(name.split()) + 1]))
    else:
        print(_help(name))


def _command(arguments: Sequence[str]) -> str:
    """Return the command that the arguments begin with, or the group of several, or nothing."""
    for count in (2, 1):
        name = " ".join(arguments[:count])
        if name in COMMANDS or any(command.startswith(f"{name} ") for command in COMMANDS if name):
            return name
    return ""


def function_of(name: str) -> Callable[..., None]:
    """Return the function of a command, loaded from its file."""
    identifier = name.replace(" ", "_")
    function: Callable[..., None] = getattr(import_module(f"{__name__}.{identifier}"), identifier)
    return function


def _run(name: str, options: list[str]) -> None:
    """Run a command with its options; tyro explains them, and what is wrong with them beyond a slip."""
    import tyro

    from dreamfusion.app.cli.mistakes import mistake

    function = function_of(name)
    everything = ((other, function_of(other)) for other in COMMANDS)
    if (wrong := mistake(name, function, options, everything)) is not None:
        _exit(wrong)
    types = get_type_hints(function, include_extras=True)
    for parameter in signature(function).parameters.values():
        if parameter.default is None:  # "(default: None)" tells a reader nothing: the texts say what happens
            types[parameter.name] = Annotated[types[parameter.name], tyro.conf.arg(help_behavior_hint="")]
    function.__annotations__ = types
    tyro.cli(function, prog=f"dreamfusion {name}", args=options, config=(tyro.conf.DisallowNone,))


def _help(group: str) -> str:
    """Return the list of the commands, or of those of a group."""
    names = [name for name in COMMANDS if name.startswith(group)]
    lines = [f"usage: dreamfusion {f'{group} ' if group else ''}COMMAND ...", ""]
    lines += [] if group else ["Text to 3D: words in, a 3D object out.", ""]
    for name in names:
        text = fill(COMMANDS[name], 100, initial_indent=f"  {name:22}", subsequent_indent=" " * 24)
        lines.append(text)
    lines += ["", "dreamfusion COMMAND --help explains a command and its options."]
    lines += [] if group else ["dreamfusion --version says which version this is."]
    return "\n".join(lines)


def _refuse(name: str) -> None:
    """Name an unknown command and the one that is most like it, and exit."""
    close = get_close_matches(name, COMMANDS, n=1)
    hint = f" Did you mean {close[0]}?" if close else " See dreamfusion --help."
    _exit(f"There is no command {name}.{hint}")


def _exit(line: str) -> NoReturn:
    print(f"error: {line}", file=sys.stderr)
    raise SystemExit(2)
