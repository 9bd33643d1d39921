"""What the embedded prior is told and understands: near words, textureless views, and sizes that cost no detail."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trimesh

from dreamfusion.config import SceneConfig, load_config, parse_config
from dreamfusion.errors import DreamFusionError
from dreamfusion.evaluation.geometry import score_geometry
from dreamfusion.evaluation.prompts import read_prompts
from dreamfusion.fields.tetrahedra import TetrahedraConfig
from dreamfusion.guidance.base import Embeddings, Reading
from dreamfusion.guidance.camera_token import FEATURES
from dreamfusion.guidance.pixel import PixelGuidance
from dreamfusion.method.asking import Question
from dreamfusion.method.cameras import fixed_cameras
from dreamfusion.method.optimize import optimize
from dreamfusion.method.shading import Lights, headlights
from dreamfusion.method.state import State
from dreamfusion.runs.generate import generate
from dreamfusion.scenes.mesh import MeshScene
from dreamfusion.scenes.scene import Finished
from dreamfusion.toybox.model import build_pipeline
from dreamfusion.toybox.render import signed_distance
from dreamfusion.toybox.samples import sample_grid
from dreamfusion.toybox.world import Toy
from support.worlds import toy_config, toy_prior


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An untrained prior of few channels, saved as one that was trained."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dreamfusion.toybox.model.CHANNELS", (8, 8, 16))
        path = tmp_path_factory.mktemp("prior") / "new"
        build_pipeline(16).save_pretrained(path, safe_serialization=True)
        yield path


@pytest.fixture(scope="module")
def prior(folder: Path) -> PixelGuidance:
    return PixelGuidance(folder)


@pytest.fixture(scope="module")
def older(folder: Path) -> PixelGuidance:
    """The same as it was before its pictures were told of."""
    path = Path(shutil.copytree(folder, folder.with_name("old")))
    file = path / "tokenizer/tokenizer_config.json"
    config = json.loads(file.read_text())
    assert config.pop("pictures") == {"textureless": True, "full_size": {"small": 0.65}}
    file.write_text(json.dumps(config))
    return PixelGuidance(path)


def test_only_what_was_shown_at_full_size_is_scaled(prior: PixelGuidance, older: PixelGuidance):
    assert prior.true_scale("a small red rabbit") == 0.65
    assert prior.true_scale("a tiny red bunny") == 0.65
    assert prior.true_scale("a tall red rabbit") == prior.true_scale("a red rabbit") == 1.0
    assert older.true_scale("a small red rabbit") == 1.0


def test_textureless_views_are_told_to_a_prior_that_knows_them(prior: PixelGuidance, older: PixelGuidance):
    texts = Embeddings(torch.zeros(3, 4, 32))
    told = prior.told_textureless(texts, torch.tensor([False, True, False])).tokens
    assert told.nonzero().tolist() == [[1, 3, 1 + FEATURES]]  # the first number behind those of the camera
    assert texts.tokens.count_nonzero() == 0
    assert older.told_textureless(texts, torch.tensor([True] * 3)) is texts


def test_words_are_read_as_their_meaning_before_the_view(prior: PixelGuidance, monkeypatch: pytest.MonkeyPatch):
    read: list[str] = []
    embed = prior.embed
    monkeypatch.setattr(prior, "embed", lambda prompts: read.extend(prompts) or embed(prompts))
    config = parse_config({"prompt": "crimson toadstools", "guidance": {"negative_prompt": "azure"}})
    question = Question(prior, config, config.prompt)
    views = ["front", "side", "back", "overhead"]
    assert read == [*(f"a red mushroom, {view} view" for view in views), "blue"]

    cameras, white = fixed_cameras(torch.tensor([0.0, 90.0]), 0.0), torch.tensor([False, True])
    asked = question.about(cameras, white)
    for texts in (asked.positive, asked.negative):
        assert texts.tokens[:, -1, 1 + FEATURES].tolist() == [0.0, 1.0]
    assert asked.positive.tokens[:, -1, 0].tolist() == [1.0, 1.0]  # the camera is known there, and not here:
    assert asked.negative.tokens[:, -1, 0].tolist() == [0.0, 0.0]


def test_samples_are_of_the_words_meaning(prior: PixelGuidance, monkeypatch: pytest.MonkeyPatch):
    asked: list[Any] = []
    monkeypatch.setattr(prior, "sample", lambda texts, **_: asked.append(texts) or torch.zeros(len(texts), 3, 16, 16))
    sample_grid(prior, ["a bunny"], views=False)
    assert asked == [["a rabbit"] * 4]


def test_unknown_words_get_proposals(prior: PixelGuidance):
    prior.check_vocabulary("a crimson bunny")
    with pytest.raises(DreamFusionError, match=r"does not know: pengwine \(nearest: .*penguin.*It knows: .*penguin"):
        prior.check_vocabulary("a red pengwine")


def test_prompts_of_an_evaluation_are_read_likewise(tmp_path: Path):
    file = tmp_path / "prompts.txt"
    file.write_text("a crimson bunny\na red rabbit\n", encoding="utf-8")
    prompts = read_prompts(file)
    assert prompts.toys == {"a red rabbit": Toy("rabbit", "red")}
    assert prompts.notes == (
        "line 1 is read as 'a red rabbit' (crimson: red, bunny: rabbit)",
        "line 2 repeats 'a red rabbit'; left out",
    )


def test_the_loop_tells_which_views_are_textureless():
    told: list[torch.Tensor] = []
    prior = toy_prior("mushroom", views=8, size=16)
    prior.told_textureless = lambda texts, which: told.append(which) or texts
    shading = {"albedo_until": 0.5, "albedo_probability": 0.0, "textureless_probability": 1.0}
    config = toy_config(steps=2, views=2, resolution=16, shading=shading)
    list(optimize(config, prior, State.fresh(config, torch.device("cpu"))))
    assert [which.tolist() for which in told] == [[False, False]] * 2 + [[True, True]] * 2  # two texts a step


def test_a_finished_scene_is_seen_from_farther_away():
    scene = MeshScene(SceneConfig(kind="mesh", tetrahedra=TetrahedraConfig(resolution=12)))
    half = Finished(scene, 0.5)
    near, far = (fixed_cameras(30.0, 20.0, radius=radius) for radius in (2.7, 5.4))
    light = headlights(near)
    (small,) = half.layers(near, ["lambertian"], (24, 24), lights=light)
    twice = Lights(2 * light.position, light.diffuse, light.ambient)
    (whole,) = scene.layers(far, ["lambertian"], (24, 24), lights=twice)
    torch.testing.assert_close(small.rgb, whole.rgb)
    torch.testing.assert_close(small.depth, whole.depth / 2)
    assert 0 < small.opacity.sum() < 0.3 * scene.layers(near, ["albedo"], (24, 24))[0].opacity.sum()
    np.testing.assert_allclose(half.mesh(0).vertices, scene.mesh(0).vertices / 2)
    x = torch.tensor([[0.1, 0.0, 0.05], [0.3, 0.3, 0.0]])
    assert torch.equal(half.field.density(x), scene.field.density(2 * x))
    assert torch.equal(half.field.albedo(x), scene.field.albedo(2 * x))


def test_a_small_toy_is_scored_against_the_small_truth():
    class Solid:
        def density(self, x: torch.Tensor) -> torch.Tensor:
            return 22.0 * torch.exp(-signed_distance(Toy("mushroom"), x) / 0.008).clamp(max=50.0)

        def albedo(self, x: torch.Tensor) -> torch.Tensor:
            return torch.ones_like(x)

    class Scene:
        field = Solid()

    score = score_geometry(Finished(Scene(), 0.65).field, Toy("mushroom", "red", size="small"))  # type: ignore[arg-type]
    assert score.iou_unaligned > 0.85
    assert score.scale == pytest.approx(1.0, abs=0.06)


@pytest.mark.parametrize("asked", [None, 2.0])
def test_a_run_is_as_large_as_its_words_say(asked: float | None, tmp_path: Path):
    notes: list[str] = []
    prior = toy_prior("mushroom", views=8, size=16)
    prior.true_scale = lambda prompt: 0.5 if prompt == "a wee red mushroom" else 1.0
    prior.understood = lambda prompt: Reading("a small red mushroom", ("wee: small",)) if prompt else Reading(prompt)
    result = generate(
        "a wee red mushroom",
        guidance_model=prior,
        output=tmp_path / "run",
        on_note=notes.append,
        device="cpu",
        steps=2,
        views=1,
        resolution=16,
        pictures={"video": False},
        scene={} if asked is None else {"scale": asked},
    )
    scale = asked or 0.5
    assert notes == ['"a wee red mushroom" is read as "a small red mushroom" (wee: small)']
    assert load_config(tmp_path / "run/config.yaml").scene.scale == scale
    written = trimesh.load(result.mesh, force="mesh").extents
    distilled = np.ptp(result.scene.mesh(32, 1000).vertices, axis=0)
    assert sorted(written) == pytest.approx(sorted(scale * distilled), rel=0.02)
