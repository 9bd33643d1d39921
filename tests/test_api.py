"""The front door: what `import dreamfusion` offers, and that it is the command line in Python."""

import inspect
import logging
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch
import yaml
from torch import Tensor

import dreamfusion
from dreamfusion.app import cli
from support.worlds import SHORT, toy_prior

COMMANDS = ["generate", "refine", "render", "export", "compare", "compose", "evaluate", "sweep"]
FEW = SHORT | {"steps": 2, "checkpoint_every": 2}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> dreamfusion.Result:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("runs") / "mushroom"
    prior = toy_prior("mushroom", views=8, size=16)
    return dreamfusion.generate("a red mushroom", output=str(folder), guidance=prior, config=FEW)


def test_everything_offered_is_there_and_listed():
    assert [name for name in dreamfusion.__all__ if not hasattr(dreamfusion, name)] == []
    assert set(dreamfusion.__all__) <= set(dir(dreamfusion))
    assert {"generate", "Config", "Result", "Guidance", "AnalyticGuidance", "sds", "vsd", "ism"} <= set(
        dir(dreamfusion)
    )
    with pytest.raises(AttributeError, match="no attribute 'generat'"):
        dreamfusion.generat  # noqa: B018


def test_no_module_has_the_name_of_a_function():
    """A module of that name would take the function's place as soon as anything imported it."""
    folder = Path(dreamfusion.__file__).parent
    modules = {path.stem for path in folder.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert modules.isdisjoint(dreamfusion.__all__)
    assert (folder / "py.typed").exists()


def test_importing_is_light():
    heavy = "{'torch', 'numpy', 'pydantic', 'warp', 'diffusers', 'rich'}"
    code = f"import sys, dreamfusion; dir(dreamfusion); print({heavy} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "set()"


def test_there_is_one_version(capsys: pytest.CaptureFixture[str]):
    cli.main(["--version"])
    assert capsys.readouterr().out == f"dreamfusion {dreamfusion.__version__}\n"
    citation = yaml.safe_load((Path(__file__).parents[1] / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == dreamfusion.__version__


@pytest.mark.parametrize("name", COMMANDS)
def test_a_function_takes_what_its_command_takes(name: str):
    of_command = getattr(import_module(f"dreamfusion.app.cli.{name}"), name)
    command, function = (inspect.signature(one).parameters for one in (of_command, getattr(dreamfusion, name)))
    left_out = {"quiet", "json"}  # how a command speaks; a function says nothing
    left_out |= {"resume"} if name == "refine" else set()  # generate continues refinements, too
    left_out |= {"amortized"} if name == "evaluate" else set()  # its tables are of another kind: evaluate_amortized
    assert set(command) - left_out <= set(function)
    for option in set(command) - left_out:
        theirs, ours = command[option].default, function[option].default
        if isinstance(theirs, tuple) and len(theirs) == 1:
            theirs = theirs[0]
        if isinstance(theirs, Path):
            theirs = str(theirs)
        if theirs is not False:  # a switch that is off is None here: the configuration decides
            assert ours == theirs, option


def test_settings_are_a_file_a_mapping_or_a_configuration(finished: dreamfusion.Result, capfd, tmp_path: Path):
    prior = toy_prior("mushroom", views=8, size=16)
    (tmp_path / "few.yaml").write_text(yaml.safe_dump(FEW))
    of_a_file = dreamfusion.generate(
        "a red mushroom", output=tmp_path / "a", guidance=prior, config=str(tmp_path / "few.yaml"), seed=5, assets=False
    )
    again = dreamfusion.generate(output=tmp_path / "b", guidance=prior, config=of_a_file.config, assets=False)
    assert capfd.readouterr() == ("", "")
    assert of_a_file.config.seed == 5
    assert again.config == of_a_file.config
    for one, other in zip(of_a_file.scene.parameters(), again.scene.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.slow
def test_a_run_says_nothing(tmp_path: Path):
    """In a process of its own: libraries speak when they are imported."""
    code = "import dreamfusion; dreamfusion.generate('a red mushroom', config={config}, assets=False)"
    few = FEW | {"guidance": {}, "resolution": 8, "resolution_end": 8}
    command = [sys.executable, "-c", code.format(config=few)]
    said = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert (said.returncode, said.stdout, said.stderr) == (0, "", "")


def test_progress_is_shown_when_asked_for(capfd, tmp_path: Path):
    steps: list[int] = []
    dreamfusion.generate(
        "a red mushroom",
        output=tmp_path / "run",
        guidance=toy_prior("mushroom", views=8, size=16),
        config=FEW,
        assets=False,
        progress=True,
        on_step=lambda step: steps.append(step.number),
    )
    out, err = capfd.readouterr()
    assert out == ""
    assert "2 steps; watch preview.png" in " ".join(err.split())
    assert steps == [1, 2]


def test_a_loss_of_ones_own_replaces_the_configured_one(tmp_path: Path):
    asked_about: list[int] = []

    def nothing(asked: dreamfusion.Asked, z: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        asked_about.append(len(asked.cameras))
        return torch.zeros_like(z)

    rows: list[float] = []
    dreamfusion.generate(
        "a red mushroom",
        output=tmp_path / "run",
        guidance=toy_prior("mushroom", views=8, size=16),
        loss=nothing,
        config=FEW,
        assets=False,
        on_step=lambda step: rows.append(step.metrics["sds_gradient"]),
    )
    assert asked_about == [2, 2]
    assert rows == [0.0, 0.0]


def test_a_result_is_taken_where_a_folder_is(finished: dreamfusion.Result, tmp_path: Path):
    picture = dreamfusion.render(finished, azimuth=[0, 90], size=16, output=str(tmp_path / "two.png"))
    assert picture == tmp_path / "two.png"
    assert picture.stat().st_size > 100
    whole = {"light_azimuth": 90, "light_elevation": 30, "light_intensity": 1, "ambient": 0}  # numbers may be whole
    assert dreamfusion.render(str(finished.folder), size=16, **whole) == finished.folder / "render.png"
    written = dreamfusion.export(finished, format=["ply", "stl"], output=tmp_path / "mesh", resolution=32)
    assert written == [tmp_path / "mesh.ply", tmp_path / "mesh.stl"]
    assert dreamfusion.export(finished, format="stl", resolution=32) == [finished.folder / "mesh.stl"]
    objects = [finished, f"{finished.folder}:1,2"]
    with pytest.raises(dreamfusion.DreamFusionError, match="position for every object"):
        dreamfusion.compose(objects, output=tmp_path / "scene")
    scene = dreamfusion.compose([finished, finished.folder], output=tmp_path / "scene", size=(32, 16), samples=1)
    assert scene == tmp_path / "scene" / "scene.png"
    assert dreamfusion.open_run(str(finished.folder)).config == finished.config


def test_a_refinement_from_a_result(finished: dreamfusion.Result, tmp_path: Path):
    prior = toy_prior("mushroom", views=8, size=16)
    small = {"scene": {"tetrahedra": {"resolution": 12}}}
    refined = dreamfusion.refine(
        finished, guidance=prior, steps=1, resolution=16, config=small, output=tmp_path / "refined", assets=False
    )
    assert refined.config.steps == 1
    assert refined.config.resolution.at(1) == 16


def test_settings_of_a_prior_to_load_reach_the_configuration(tmp_path: Path):
    """Refused before anything is loaded, and the refusal names what was asked for."""
    with pytest.raises(dreamfusion.DreamFusionError, match="no-such-folder"):
        dreamfusion.generate("a red mushroom", model=tmp_path / "no-such-folder", output=tmp_path / "run")
    with pytest.raises(dreamfusion.DreamFusionError, match="guidance_scale"):
        dreamfusion.generate("a red mushroom", guidance_scale=-1.0, output=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_prompts_of_an_evaluation_may_be_a_list(tmp_path: Path, monkeypatch, caplog):
    """The runs themselves are tested elsewhere."""
    from dreamfusion.evaluation import evaluate, judge, report

    seen = []

    def run(output, prompts, **options):
        seen.append((output, list(prompts.toys), options["changes"]))

    monkeypatch.setattr(evaluate, "evaluate", run)
    monkeypatch.setattr(judge, "open_judge", lambda model: None)
    monkeypatch.setattr(report, "write_reports", lambda evaluation, folder: None)
    dreamfusion.evaluate(["a red car", "a blue tree"], output=str(tmp_path), steps=3, config={"views": 1})
    assert seen == [(tmp_path, ["a red car", "a blue tree"], {"views": 1, "steps": 3})]
    (tmp_path / "prompts.txt").write_text("a red car\n\na red car\n")
    with caplog.at_level(logging.INFO, logger="dreamfusion"):
        dreamfusion.evaluate(tmp_path / "prompts.txt", output=tmp_path)
    assert seen[1][1] == ["a red car"]
    assert "line 2 is empty" in caplog.text
