"""MVDream: both layouts are the published network, four views look at each other, and runs draw cameras for it."""

import json
from pathlib import Path

import pytest
import torch

from dreamfusion.config import build_config, parse_config
from dreamfusion.errors import DreamFusionError
from dreamfusion.guidance.compiled.compiling import compile_prior
from dreamfusion.guidance.families import open_prior
from dreamfusion.guidance.mvdream import MVDream, camera_numbers
from dreamfusion.method.asking import Question
from dreamfusion.method.cameras import CameraRange, fixed_cameras, orbit_cameras, sample_cameras
from dreamfusion.method.optimize import draw_views, optimize
from dreamfusion.method.ranks import ALONE
from dreamfusion.method.state import State
from dreamfusion.runs.fitting import fit_views
from dreamfusion.runs.generate import generate
from dreamfusion.toybox.samples import sample_grid
from support.mvdream import SIDE, multi_view_unet, save_original, save_port, unet_weights
from support.worlds import SMALLEST

CPU = torch.device("cpu")
SMALL = SMALLEST | {"prompt": "a b", "views": 4}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    torch.set_num_threads(1)
    return save_port(tmp_path_factory.mktemp("port"))


@pytest.fixture(scope="module")
def prior(folder) -> MVDream:
    opened = open_prior(folder)
    assert isinstance(opened, MVDream)
    assert (opened.sample_size, opened.latent_shape) == (2 * SIDE, (4, SIDE, SIDE))
    return opened


def question(prior: MVDream, **values):
    config = parse_config(SMALL | values)
    cameras = orbit_cameras(4, elevation_deg=15)
    return Question(prior, config, "a b").about(cameras, torch.zeros(4, dtype=torch.bool)), cameras


def views(seed: int = 0) -> torch.Tensor:
    return torch.randn(4, 4, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))


def test_a_camera_in_its_numbers_by_hand():
    # From the front: +y to the right, z up, and backward is +x, where the camera stands, at distance 1.
    front = camera_numbers(fixed_cameras(0.0, 0.0, radius=2.5))
    assert front.reshape(4, 4).tolist() == [[0, 0, 1, 1], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]]
    # From its left side, +y: the front is at the right.
    side = camera_numbers(fixed_cameras(90.0, 0.0)).reshape(4, 4)
    torch.testing.assert_close(side[:3, 0], torch.tensor([-1.0, 0.0, 0.0]), atol=1e-6, rtol=0)
    torch.testing.assert_close(side[:3, 3], torch.tensor([0.0, 1.0, 0.0]), atol=1e-6, rtol=0)


@pytest.mark.parametrize("layout", ["port", "original"])
def test_it_is_the_published_network(layout, folder, tmp_path):
    prior = open_prior(folder if layout == "port" else save_original(tmp_path))
    asked, cameras = question(prior)
    t, z = torch.tensor([300] * 4), views()
    found = prior.predict_noise(z, t, asked.positive)
    expected = multi_view_unet(unet_weights(), z, t, asked.positive.tokens, camera_numbers(cameras))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_the_views_of_a_set_see_each_other_and_no_other(prior):
    asked, _ = question(prior)
    twice = asked.positive.followed_by(asked.positive)
    t, z = torch.full((8,), 300), torch.cat([views(0), views(1)])
    before = prior.predict_noise(z, t, twice)
    z[0] += 1
    change = (prior.predict_noise(z, t, twice) - before).abs().flatten(1).amax(dim=1)
    assert (change[:4] > 1e-4).all()
    assert (change[4:] == 0).all()


def test_both_texts_are_told_the_cameras(prior):
    asked, cameras = question(prior, guidance={"perp_neg": True})
    for texts in (asked.positive, asked.negative, *asked.negatives.texts):
        torch.testing.assert_close(texts.camera, camera_numbers(cameras))
    assert asked.guided(views(), torch.full((4,), 500)).shape == (4, 4, SIDE, SIDE)


def test_cameras_in_sets():
    sets = sample_cameras(8, CameraRange(set_size=4), torch.Generator().manual_seed(0))
    turns = sets.azimuth_deg.reshape(2, 4)
    assert turns.diff(dim=1).flatten().tolist() == pytest.approx([90] * 6, abs=1e-3)
    assert (turns[0, 0] - turns[1, 0]).abs() > 1
    for shared in (sets.elevation_deg, sets.radius, sets.focal):
        assert (shared.reshape(2, 4) == shared.reshape(2, 4)[:, :1]).all()
    sized = sample_cameras(4, CameraRange(radius_by_focal=True), torch.Generator().manual_seed(0))
    plain = sample_cameras(4, CameraRange(), torch.Generator().manual_seed(0))
    torch.testing.assert_close(sized.radius, plain.radius * 2 * plain.focal)
    config = parse_config(SMALL | {"views": 8, "cameras": {"set_size": 4}, "shading": {"albedo_probability": 0.5}})
    drawn = draw_views(config, 0.5, State.fresh(config, CPU).generators)
    assert len(set(drawn.shading[:4])) == len(set(drawn.shading[4:])) == 1
    assert (drawn.backdrop[:4] == drawn.backdrop[0]).all()
    assert list(ALONE.portions(8, 2, 4)) == [slice(0, 4), slice(4, 8)]
    with pytest.raises(DreamFusionError, match=r"multiple of cameras\.set_size, which is 4"):
        parse_config(SMALL | {"views": 6, "cameras": {"set_size": 4}})


def test_a_run_fits_its_cameras_to_the_prior(prior, tmp_path):
    told: list[str] = []
    steps = []
    result = generate(
        **SMALL, guidance_model=prior, output=tmp_path / "run", assets=False, on_step=steps.append, on_note=told.append
    )
    assert result.config.cameras.set_size == 4
    assert result.config.guidance.view_texts.front == ""
    assert any("judges 4 views together" in line for line in told)
    assert [step.number for step in steps] == list(range(1, 21))
    assert all(step.metrics["sds_gradient"] > 0 and step.metrics["grad_norm"] > 0 for step in steps)


@pytest.mark.parametrize("kind", ["vsd", "ism"])
def test_the_other_losses_run_on_it(prior, kind):
    config = parse_config(SMALL | {"steps": 2, "cameras": {"set_size": 4}, "loss": {"kind": kind}})
    steps = [step.metrics for step in optimize(config, prior, State.fresh(config, CPU))]
    assert all(row["sds_gradient"] > 0 for row in steps)


def test_samples_are_four_sides_of_one_object(prior, monkeypatch):
    asked = []
    monkeypatch.setattr(
        prior, "predict_noise", lambda z, t, texts: asked.append((len(z), texts.camera)) or torch.zeros_like(z)
    )
    sample_grid(prior, ["a b"], steps=2)
    count, camera = asked[0]
    assert count == 8
    torch.testing.assert_close(camera[:4], camera[4:])
    positions = camera[:4].reshape(4, 4, 4)[:, :3, 3]
    torch.testing.assert_close(positions[0], -positions[2] * torch.tensor([1.0, 1.0, -1.0]), atol=1e-6, rtol=0)


def test_the_preset_has_its_numbers():
    config = build_config("mvdream", {"prompt": "a"})
    assert (config.views, config.cameras.set_size, config.guidance.guidance_scale) == (8, 4, 50.0)
    assert (config.cameras.fov_min_deg, config.cameras.fov_max_deg) == (15.0, 60.0)
    assert (config.cameras.radius_min, config.cameras.radius_max, config.cameras.radius_by_focal) == (0.8, 1.0, True)
    assert (config.cameras.elevation_min_deg, config.cameras.elevation_max_deg) == (0.0, 30.0)
    assert [config.guidance.t_min.at(x) for x in (0.0, 0.8, 1.0)] == pytest.approx([0.98, 0.02, 0.02])
    assert config.guidance.t_max.at(0.4) == pytest.approx(0.74)
    assert [config.resolution.at(x) for x in (0.49, 0.51)] == [64, 256]


def test_what_it_cannot_do_is_one_line(prior, folder, tmp_path):
    ignored = lambda line: None  # noqa: E731
    for values, words in (
        ({"views": 6}, "multiple of 4"),
        ({"guidance": {"tell_cameras": False}}, "must be told the cameras"),
    ):
        with pytest.raises(DreamFusionError, match=words) as caught:
            fit_views(parse_config(SMALL | values), prior, ignored)
        assert "\n" not in str(caught.value)
    with pytest.raises(DreamFusionError, match="must be told their cameras"):
        prior.predict_noise(views(), torch.full((4,), 5), prior.embed(["a"] * 4))
    with pytest.raises(DreamFusionError, match="is not compiled"):
        compile_prior(folder, tmp_path / "engine")
    (tmp_path / "none.pt").write_bytes(b"x")
    with pytest.raises(DreamFusionError, match=r"as none\.yaml"):
        open_prior(tmp_path / "none.pt")


@pytest.mark.parametrize(
    ("part", "change", "words"),
    [
        ("unet", {"ip_dim": 16}, "ip_dim"),
        ("unet", {"camera_dim": None}, "left over"),
        ("unet", {"channel_mult": [1, 2, 2]}, "missing"),
    ],
)
def test_another_layout_is_one_line(part, change, words, tmp_path):
    folder = save_port(tmp_path / "port")
    file = folder / part / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(DreamFusionError, match=words) as caught:
        open_prior(folder)
    assert "\n" not in str(caught.value)


def test_a_folder_whose_class_is_not_known_is_refused(tmp_path):
    folder = save_port(tmp_path / "port")
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"vae": ["mv_unet", "OtherVae"]}))
    with pytest.raises(DreamFusionError, match="only parts of diffusers and transformers"):
        open_prior(folder)
