"""The command line as a user meets it, in its own process, with the embedded prior."""

import inspect
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

import dreamfusion as dreamfusion_package
from dreamfusion.app.cli import COMMANDS, dispatch, main
from dreamfusion.app.cli.generate import generate
from dreamfusion.app.cli.judge_train import judge_train
from dreamfusion.app.cli.prior_train import prior_train
from dreamfusion.app.cli.refine import refine
from dreamfusion.config import build_config, load_config
from dreamfusion.config.presets import PRESETS, RefinePreset
from dreamfusion.errors import DreamFusionError
from dreamfusion.evaluation.training import JudgeSettings
from dreamfusion.toybox.train import TrainSettings
from support.families import save_sd

# Few and small views: what is tested is that all parts work together.
TINY = """
steps: 3
views: 1
resolution: 8
checkpoint_every: 2
pictures: {video_frames: 3, video_resolution: 32, sheet_resolution: 32, thumbnail_resolution: 32}
"""


def dreamfusion(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "200", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "dreamfusion", *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=3600)


def refused(*arguments: str, cwd: Path) -> str:
    """Run, expect one clear line and exit code 1, and return the line."""
    result = dreamfusion(*arguments, cwd=cwd)
    assert result.returncode == 1, result.stderr
    return only_line(result.stderr)


def only_line(stderr: str) -> str:
    assert "Traceback" not in stderr
    lines = [line for line in stderr.splitlines() if line.strip()]
    assert len(lines) == 1, stderr
    assert lines[0].startswith("error:")
    return lines[0]


@pytest.fixture
def refused_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """The same in this process, which has imported everything already."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        assert stopped.value.code == 1
        return only_line(capsys.readouterr().err)

    return run


@pytest.mark.slow
def test_generate_render_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "tiny.yaml").write_text(TINY)
    made = dreamfusion("generate", "a red mushroom", "--config", "tiny.yaml", "--seed", "3", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    assert made.stdout.split() == [
        f"runs/a-red-mushroom/{n}" for n in ("contact_sheet.png", "turntable.mp4", "mesh.glb", "viewer.html")
    ]
    assert all((tmp_path / path).is_file() for path in made.stdout.split())
    monkeypatch.chdir(tmp_path)
    main(["render", "runs/a-red-mushroom", "--size", "32", "--azimuth", "0", "90"])
    assert (tmp_path / "runs/a-red-mushroom/render.png").is_file()
    main(["generate", "--resume", "runs/a-red-mushroom", "--steps", "4"])
    assert len((tmp_path / "runs/a-red-mushroom/metrics.jsonl").read_text().splitlines()) == 4


@pytest.mark.slow
def test_generate_with_a_model_of_stable_diffusions_format(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    model = save_sd(tmp_path / "model")
    (tmp_path / "tiny.yaml").write_text(TINY)
    options = ("--guidance", "sd", "--model", str(model), "--config", "tiny.yaml", "--steps", "3", "--device", "cpu")
    monkeypatch.chdir(tmp_path)
    main(["generate", "a red mushroom", *options])
    written = capsys.readouterr().out.split()
    assert written == [
        f"runs/a-red-mushroom/{n}" for n in ("contact_sheet.png", "turntable.mp4", "mesh.glb", "viewer.html")
    ]
    assert all((tmp_path / path).stat().st_size > 1000 for path in written)
    config = load_config(tmp_path / "runs/a-red-mushroom/config.yaml")
    assert (config.guidance.kind, config.guidance.model, config.steps) == ("sd", str(model), 3)
    rows = (tmp_path / "runs/a-red-mushroom/metrics.jsonl").read_text().splitlines()
    assert [json.loads(row)["step"] for row in rows] == [1, 2, 3]
    assert all(json.loads(row)["sds_gradient"] > 0 for row in rows)


@pytest.mark.slow
def test_prior_sample_toybox_and_doctor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    main(["prior", "sample", "a red car", "--steps", "1", "--output", "s.png"])
    main(["toybox", "render", "red car", "--size", "16", "--output", "t.png"])
    assert (tmp_path / "s.png").is_file()
    assert (tmp_path / "t.png").is_file()
    checked = dreamfusion("doctor", cwd=tmp_path)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "Embedded prior" in checked.stdout + checked.stderr


def words(text: str) -> list[str]:
    return re.findall(r"(?<![\w{|-])[a-z]+(?=[,;:]?(?:\s|$))", text)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_explains_every_option_in_one_line(command: str, tmp_path: Path):
    result = dreamfusion(*command.split(), "--help", cwd=tmp_path)
    assert result.returncode == 0
    options = re.split(r"\n\s*--(?=[a-z])", re.sub("[│╭╮╰╯─]", " ", result.stdout))[1:]
    assert options or command == "completion"  # which takes a word alone
    for option in options:
        lines = [line for line in option.splitlines() if line.strip()]
        # The explanation stands behind the name, or below where the name is long.
        name, *below = lines
        explanation = below if len(words(name.split(maxsplit=1)[-1])) < 2 else [name, *below]
        assert len(explanation) == 1, option
        assert len(words(explanation[0])) >= 2, option


def test_the_help_names_every_command_and_loads_no_library(tmp_path: Path):
    code = "import sys; from dreamfusion.app.cli import main; main(['--help']); print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    *shown, loaded = result.stdout.splitlines()
    for name, summary in COMMANDS.items():
        assert any(line.startswith(f"  {name} ") and summary.split()[0] in line for line in shown), name
    assert not {"torch", "warp", "tyro", "rich", "pydantic", "numpy"} & set(loaded.split())


def test_summaries_are_the_first_lines_of_the_commands():
    for name, summary in COMMANDS.items():
        identifier = name.replace(" ", "_")
        command = getattr(import_module(f"dreamfusion.app.cli.{identifier}"), identifier)
        assert inspect.getdoc(command).splitlines()[0] == summary


def test_groups_of_commands_have_a_help_of_their_own(capsys: pytest.CaptureFixture[str]):
    for arguments in (["prior"], ["prior", "--help"]):
        dispatch(arguments)
        text = capsys.readouterr().out
        assert "prior train" in text
        assert "generate " not in text


def test_help_has_no_raw_markup(capsys: pytest.CaptureFixture[str]):
    for name in COMMANDS:
        with pytest.raises(SystemExit):
            dispatch([*name.split(), "--help"])
        text = capsys.readouterr().out
        assert "``" not in text
        assert "{None}" not in text
        assert f"dreamfusion {name}" in text.split("For example:")[1], "an example"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["generat", "a red car"], "There is no command generat. Did you mean generate?"),
        (["prior", "trian"], "There is no command prior trian. Did you mean prior train?"),
        (["--verbose"], "There is no command --verbose. See dreamfusion --help."),
    ],
)
def test_unknown_commands_get_a_suggestion(arguments, line, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as stopped:
        dispatch(arguments)
    assert stopped.value.code == 2
    assert line in capsys.readouterr().err


def test_version(capsys: pytest.CaptureFixture[str]):
    dispatch(["--version"])
    assert capsys.readouterr().out == f"dreamfusion {dreamfusion_package.__version__}\n"


def test_config_says_what_keys_mean(capsys: pytest.CaptureFixture[str]):
    dispatch(["config", "cameras.focal_min"])
    assert capsys.readouterr().out == (
        "cameras.focal_min: 1.35\n    number, > 0\n    least focal length in image widths (paper 3.2)\n"
    )
    dispatch(["config", "optim"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "optim.optimizer: adam"
    assert all(line.startswith(("optim.", " ")) for line in lines)
    dispatch(["config", "--search", "Perp-Neg"])
    assert capsys.readouterr().out.startswith("guidance.perp_neg: false\n")
    with pytest.raises(DreamFusionError, match=r"no key cameras\.focal\. Did you mean cameras\.focal_m"):
        dispatch(["config", "cameras.focal"])
    with pytest.raises(DreamFusionError, match="No key has 'zzz'"):
        dispatch(["config", "--search", "zzz"])


@pytest.mark.slow
def test_bad_input_gets_one_line(tmp_path: Path, refused_here: Callable[..., str]):
    assert "prompt is empty" in refused_here("generate", " ")
    assert "Nothing to make" in refused_here("generate")
    unknown = refused("generate", "a red zebra", cwd=tmp_path)
    assert "zebra" in unknown
    assert "mushroom" in unknown
    assert "--guidance diffusers --model" in unknown
    assert "is not on this machine" in refused("generate", "a cat", "--model", "no-such/model", cwd=tmp_path)
    assert "There is no folder" in refused_here("generate", "a cat", "--model", "./missing")
    assert "--model" in refused_here("generate", "a cat", "--guidance", "diffusers")
    assert "steps" in refused_here("generate", "a red car", "--steps", "0")
    assert "guidance_scale" in refused_here("generate", "a red car", "--guidance-scale", "-2")
    assert "no run to resume" in refused_here("generate", "--resume", "nowhere")
    assert "No device" in refused_here("generate", "a red car", "--device", "cuda:77")
    (tmp_path / "file").write_text("")
    refused_here("generate", "a red car", "--output", "file")
    refused_here("render", "nowhere")
    refused_here("toybox", "render", "red zebra")
    assert not (tmp_path / "runs").exists(), "nothing is left of a run that could not begin"


def test_an_unknown_format_gets_one_line_too(refused_here: Callable[..., str]):
    line = refused_here("export", "nowhere", "--format", "glb", "fbx")
    assert line == "error: No mesh format is called fbx: give glb, obj, ply, stl, usdz."


@pytest.mark.parametrize("command", ["render", "export"])
def test_render_and_export_take_a_device(command: str, monkeypatch: pytest.MonkeyPatch):
    asked = []

    def record(folder, device="auto"):
        asked.append(device)
        raise DreamFusionError("enough")

    monkeypatch.setattr(f"dreamfusion.{'pictures.render' if command == 'render' else 'runs.results'}.open_run", record)
    with pytest.raises(DreamFusionError, match="enough"):
        dispatch([command, "runs/a", "--device", "cuda:1"])
    assert asked == ["cuda:1"]


def test_an_unknown_option_is_named(tmp_path: Path):
    result = dreamfusion("generate", "a red car", "--stepz", "3", cwd=tmp_path)
    assert result.returncode != 0
    assert "stepz" in result.stdout + result.stderr
    assert "--steps" in result.stdout + result.stderr, "what was meant"


def test_the_options_of_the_losses_reach_the_configuration(monkeypatch: pytest.MonkeyPatch):
    asked = {}

    def record(prompt, *, on_start, on_step, on_note, resume, output, **options):
        asked.update(options)
        raise DreamFusionError("enough")

    monkeypatch.setattr("dreamfusion.runs.generate.generate", record)
    with pytest.raises(DreamFusionError, match="enough"):
        dispatch(["generate", "a red car", "--loss", "ism", "--perp-neg"])
    config = build_config("default", {"prompt": "a", "loss": asked["loss"], "guidance": asked["guidance"]})
    assert config.loss.kind == "ism"
    assert config.guidance.perp_neg
    assert config.guidance.negative_prompt == ""


def test_a_configuration_of_nemo_and_what_overrides_it_reach_the_run(monkeypatch: pytest.MonkeyPatch):
    asked = {}

    def record(prompt, **options):
        asked.update(options, prompt=prompt)
        raise DreamFusionError("enough")

    monkeypatch.setattr("dreamfusion.runs.generate.generate", record)
    with pytest.raises(DreamFusionError, match="enough"):
        dispatch(["generate", "a red car", "--nemo-config", "theirs.yaml", "--guidance", "toybox"])
    assert (asked["prompt"], asked["nemo_config"]) == ("a red car", Path("theirs.yaml"))
    assert asked["guidance"] == {"kind": "toybox"}


def test_the_presets_of_the_command_line_are_all_presets():
    offered = get_type_hints(generate)["preset"], get_type_hints(refine)["preset"]
    assert [get_args(kind) for kind in offered] == [PRESETS, get_args(RefinePreset)]


@pytest.mark.parametrize(("command", "settings"), [(prior_train, TrainSettings), (judge_train, JudgeSettings)])
def test_defaults_of_trainings_are_those_of_their_settings(command, settings):
    offered = {name: option.default for name, option in inspect.signature(command).parameters.items()}
    shared = [field for field in fields(settings) if field.name in offered]
    assert len(shared) >= 4
    told = {field.name: offered[field.name] for field in shared}
    if command is prior_train:
        assert told.pop("steps") is None  # or --minutes; 8000 without either, as its help says
    assert told == {field.name: field.default for field in shared if field.name in told}
