"""Slips of the hand on the command line: unknown options, wrong values, and completion, which prevents them."""

import subprocess
import sys
from pathlib import Path

import pytest

from dreamfusion.app.cli import COMMANDS, dispatch, function_of
from dreamfusion.app.cli.mistakes import mistake, options_of

COMPLETE = """
source "$1"; shift
COMP_WORDS=(dreamfusion "$@"); COMP_CWORD=$#; COMP_LINE="${COMP_WORDS[*]}"; COMP_POINT=${#COMP_LINE}
$(complete -p dreamfusion | sed 's/.*-F \\([^ ]*\\).*/\\1/') dreamfusion "${COMP_WORDS[COMP_CWORD]}"
echo "${COMPREPLY[*]}"
"""


def said(line: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as stopped:
        dispatch(line.split())
    assert stopped.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    return err.strip().removeprefix("error: ")


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("generate x --stepz 3", "generate has no option --stepz. Did you mean --steps?"),
        ("generate x --guidance_scal=3", "generate has no option --guidance-scal. Did you mean --guidance-scale?"),
        ("generate x --out here", "generate has no option --out. Did you mean --output?"),
        ("generate x -s 3", "generate has no option -s. Did you mean --steps or --seed?"),
        (
            "generate --prompt x",
            "generate has no option --prompt. Give the prompt without it: dreamfusion generate PROMPT.",
        ),
        ("generate x --texture-size 64", "generate has no option --texture-size. It belongs to export."),
        ("generate x --colour red", "generate has no option --colour. See dreamfusion generate --help."),
        ("generate x --loss sdz", "--loss cannot be 'sdz': give sds, vsd, ism. Did you mean sds?"),
        ("refine --preset=ultra", "--preset cannot be 'ultra': give quick, default, high, nemo-dmtet."),
        ("generate x --steps many", "--steps takes a whole number, not 'many'."),
        ("render r --azimuth -20 left", "--azimuth takes a number, not 'left'."),
        ("prior train --step 3", "prior train has no option --step. Did you mean --steps?"),
        ("sweep a.txt --sets a=1", "sweep has no option --sets. Did you mean --set?"),
        ("studio --no-brows", "studio has no option --no-brows. Did you mean --no-browser?"),
    ],
)
def test_a_slip_is_one_line_with_what_was_meant(line: str, told: str, capsys: pytest.CaptureFixture[str]):
    assert said(line, capsys) == told


@pytest.mark.parametrize(
    "line",
    [
        "generate x --steps 3 --perp-neg --no-quiet --guidance_scale 1e2 --lora a.safetensors b:0.5 --preset quick",
        "generate --nemo-config a.yaml guidance.x=1 a +b=c --steps=3",
        "render r --azimuth -20 0 1e1 --size 64",
        "sweep a.txt --set a=1,2 --set b=3 --seeds 2",
        "generate x --steps many --help",
    ],
)
def test_what_is_right_is_left_to_the_parser(line: str):
    name, *words = line.split()
    assert mistake(name, function_of(name), words, []) is None


def test_every_option_of_every_command_has_its_flag():
    for name in COMMANDS:
        flags, alone = options_of(function_of(name))
        assert flags or alone, name
    flags, alone = options_of(function_of("sweep"))
    assert alone == ["prompts"]
    assert {"--set", "--slurm", "--no-slurm"} <= flags.keys()
    assert "--vary" not in flags
    assert flags["--preset"].choices[:3] == ("quick", "default", "high")
    assert (flags["--minutes"].number, flags["--cpus"].number) == (int, float)


@pytest.mark.skipif(sys.platform == "win32", reason="a script for bash")
def test_bash_completes_commands_options_and_values(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as ended:
        dispatch(["completion", "bash"])
    assert not ended.value.code
    script = tmp_path / "completion.bash"
    script.write_text(capsys.readouterr().out)

    def completed(*words: str) -> list[str]:
        command = ["bash", "-c", COMPLETE, "bash", str(script), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()

    assert completed("gen") == ["generate"]
    assert {"evaluate", "sample", "train"} <= set(completed("prior", ""))
    assert completed("prior", "train", "--st") == ["--steps", "--start-from"]
    assert completed("guidance", "co") == ["compile"]
    assert completed("generate", "a red car", "--preset", "q") == ["quick"]
