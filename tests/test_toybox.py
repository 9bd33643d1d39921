import json
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from dreamfusion.errors import DreamFusionError
from dreamfusion.guidance.pixel import PixelGuidance
from dreamfusion.io import checkpoints
from dreamfusion.method.cameras import Cameras, fixed_cameras
from dreamfusion.method.prompts import VIEWS
from dreamfusion.method.shading import Lights
from dreamfusion.toybox.captions import PHRASINGS, caption, parse_toy, vocabulary
from dreamfusion.toybox.card import read_log
from dreamfusion.toybox.data import ToyboxData
from dreamfusion.toybox.hardness import Hardness, mean_by_sort
from dreamfusion.toybox.kinds import ACCENT, ALL_KINDS, BODY, KINDS, MATERIALS, PART, SURFACES, TRIM
from dreamfusion.toybox.model import MAX_WORDS, build_pipeline, build_tokenizer
from dreamfusion.toybox.muon import Muon, orthogonalized
from dreamfusion.toybox.paint import TracedViews, paint_traced
from dreamfusion.toybox.render import (
    NOTHING,
    GeometryBuffers,
    paint_toys,
    paint_views,
    pattern_marks,
    render_toy,
    signed_distance,
    trace,
)
from dreamfusion.toybox.samples import save_samples, toybox_sheet
from dreamfusion.toybox.text import CODE_LENGTH, code, train_text
from dreamfusion.toybox.train import UNLIMITED, HeldOut, Trainer, TrainSettings, fitted, train, training_times
from dreamfusion.toybox.world import COLORS, PATTERNS, SIZES, Toy, as_shown, held_out, is_held_out, part_held_out


def flat_light(count: int) -> Lights:
    return Lights(torch.full((count, 3), 3.0), torch.zeros(count), torch.ones(count))


def grid(resolution: int) -> torch.Tensor:
    axis = (torch.arange(resolution) + 0.5) / resolution * 2 - 1
    return torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1).reshape(-1, 3)


def test_signed_distances_by_hand():
    # The snowman's lowest ball: centre (0, 0, -0.36), radius 0.40.
    points = torch.tensor([[0.0, 0, -0.36], [0.5, 0, -0.36], [0.0, 0, -0.96]])
    torch.testing.assert_close(
        signed_distance(Toy("snowman"), points), torch.tensor([-0.40, 0.10, 0.20]), atol=1e-4, rtol=0
    )
    # The seat of the chair is a box with its lower face at z = -0.14; 0.08 below it nothing else is near.
    assert signed_distance(Toy("chair"), torch.tensor([[0.0, 0, -0.22]])).item() == pytest.approx(0.08, abs=1e-4)


def test_the_mug_is_hollow_but_has_a_bottom():
    inside, wall, bottom = signed_distance(Toy("mug"), torch.tensor([[0.0, 0, 0.4], [0.0, 0.38, 0.3], [0.0, 0, -0.45]]))
    assert inside > 0
    assert wall < 0
    assert bottom < 0


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_toys_fit_the_sphere_mirror_themselves_and_have_a_front(kind: str):
    points = grid(48)
    inside = signed_distance(Toy(kind), points) < 0
    assert 100 < inside.sum() < len(points) / 4
    assert points[inside].norm(dim=1).max() < 0.9
    mirrored = signed_distance(Toy(kind), points * torch.tensor([1.0, -1, 1])) < 0
    assert (inside == mirrored).float().mean() > 0.999
    views = render_toy(
        Toy(kind, "red"), fixed_cameras(torch.tensor([0.0, 180.0]), 10.0), flat_light(2), 48, torch.ones(3)
    )
    changed = (views[0] - views[1].flip(-1)).abs().amax(0) > 0.2
    assert changed.float().mean() > 0.004, "front and back look alike"


def test_traced_depth_ends_on_the_surface_and_normals_point_outwards():
    cameras = fixed_cameras(torch.tensor([0.0, 60.0]), 20.0)
    rays = cameras.rays(64, 64)
    buffers = trace([Toy("duck")] * 2, rays)
    hit = buffers.material != NOTHING
    points = (rays.origins + rays.directions * buffers.depth[..., None])[hit]
    assert signed_distance(Toy("duck"), points).abs().max() < 5e-3
    outside = points + 0.02 * buffers.normal[hit]
    assert (signed_distance(Toy("duck"), outside) > 0).float().mean() > 0.99
    torch.testing.assert_close(buffers.normal[hit].norm(dim=-1), torch.ones(int(hit.sum())), atol=1e-4, rtol=0)


def test_a_traced_silhouette_agrees_with_the_distance_field():
    rays = fixed_cameras(30.0, 10.0).rays(24, 24)
    traced = trace([Toy("chair")], rays).material[0] != NOTHING
    t = torch.linspace(1.5, 4.0, 600)
    along = rays.origins[0, :, :, None] + rays.directions[0, :, :, None] * t[:, None]
    sampled = (signed_distance(Toy("chair"), along.reshape(-1, 3)) < 0).reshape(24, 24, -1).any(-1)
    assert (traced == sampled).float().mean() > 0.985


def test_paint_views_paints_background_and_body():
    rays = fixed_cameras(0.0, 0.0).rays(32, 32)
    image = paint_views(
        trace([Toy("snowman")], rays),
        rays,
        paint_toys([Toy("snowman")], colors=[(0.2, 0.4, 0.6)]),
        flat_light(1),
        torch.tensor([[1.0, 0, 0]]),
    )
    torch.testing.assert_close(image[0, :, 0, 0], torch.tensor([1.0, 0, 0]))
    torch.testing.assert_close(image[0, :, 25, 16], torch.tensor([0.2, 0.4, 0.6]))  # the lowest ball


def test_a_tenth_of_the_pairs_is_held_out_and_never_painted():
    pairs = [(kind, color) for kind in KINDS for color in COLORS]
    assert sum(held_out(*pair) for pair in pairs) == len(pairs) // 10
    assert sum(part_held_out(*pair) for pair in pairs) == len(pairs) // 10
    data = ToyboxData(0, 64, pool_size=8, image_size=16, caption_dropout=0.0)
    toys = [parse_toy(text.rsplit(",", 1)[0]) for step in range(5) for text in data.batch(step).captions[::4]]
    assert not any(is_held_out(toy) for toy in toys)
    assert {toy.pattern for toy in toys} == {None, *PATTERNS}
    assert 0.2 < sum(toy.part_color is not None for toy in toys) / len(toys) < 0.5
    assert is_held_out(Toy("mushroom", "green"))
    assert is_held_out(Toy("mushroom", "red", part_color="pink"))
    assert not is_held_out(Toy("mushroom", "red"))


def test_sizes_scale_the_shape():
    points = grid(32)
    for size, factors in SIZES.items():
        scaled = signed_distance(Toy("mug", size=size), points) < 0
        assert torch.equal(scaled, signed_distance(Toy("mug"), points / torch.tensor(factors)) < 0), size
    views = fixed_cameras(0.0, 0.0)
    pixels = [(trace([Toy("house", size=s)], views.rays(64, 64)).material != NOTHING).sum() for s in (None, "small")]
    assert pixels[1] / pixels[0] == pytest.approx(0.65**2, abs=0.06)  # a little nearer or farther, hence not exact


def test_patterns_by_hand():
    points = torch.tensor([[0.0, 0.0, 0.05], [0.0, 0.0, 0.25], [0.0, 0.4, 0.05], [0.22, 0.22, 0.22]])
    marks = pattern_marks(points.expand(4, -1, -1), torch.tensor([0, 1, 2, 3]))
    assert marks.tolist() == [
        [False, False, False, False],  # plain
        [True, False, True, False],  # rings 0.19 high, the first above z = 0 marked
        [
            True,
            False,
            True,
            True,
        ],  # balls of radius 0.15 around the lattice points 0.44 apart, and half-way in all axes
        [True, True, True, False],  # cubes of 0.26; the one at the origin is centred in y
    ]
    mirrored = pattern_marks((points * torch.tensor([1.0, -1, 1])).expand(4, -1, -1), torch.tensor([0, 1, 2, 3]))
    assert torch.equal(marks, mirrored)


def test_paint_of_parts_and_patterns():
    toys = [Toy("house", "yellow", part_color="blue"), Toy("house", "red"), Toy("mug", "red", "striped")]
    palette = paint_toys(toys).palette
    body, part, accent = (list(MATERIALS).index(name) for name in (BODY, "part", ACCENT))
    close = lambda image, material, color: palette[image, material].tolist() == pytest.approx(color)  # noqa: E731
    assert close(0, body, COLORS["yellow"])
    assert close(0, part, COLORS["blue"])
    assert close(0, accent, MATERIALS["dark"])
    assert close(1, part, MATERIALS["wood"])
    assert close(2, part, COLORS["red"])  # a handle is of the mug's own colour unless a caption says otherwise
    assert close(2, accent, MATERIALS["paper"])
    image = render_toy(toys[2], fixed_cameras(90.0, 0.0), flat_light(1), 32, torch.zeros(3))
    flat = image[0].flatten(1).T
    for color in (COLORS["red"], MATERIALS["paper"]):
        assert ((flat - torch.tensor(color)).abs().amax(1) < 0.01).sum() > 50


def test_batches_are_a_function_of_seed_and_step():
    make = lambda seed: ToyboxData(seed, 4, pool_size=8, pool_steps=2, image_size=16)  # noqa: E731
    first, again, other = make(1), make(1), make(2)
    a = [first.batch(step) for step in range(4)]
    b = again.batch(3)  # without the ones before
    assert torch.equal(a[3].images, b.images)
    assert a[3].captions == b.captions
    assert torch.equal(a[3].weights, b.weights)
    assert not torch.equal(a[0].images, other.batch(0).images)
    assert a[0].images.min() >= 0
    assert a[0].images.max() <= 1


def test_the_paint_kernel_is_compose():
    toys = [Toy("mug", "red", "striped"), Toy("duck", "yellow", "spotted"), Toy("house", "blue", "checkered")]
    cameras = fixed_cameras(torch.tensor([20.0, 110.0, -70.0]), torch.tensor([10.0, 40.0, 70.0]))
    rays = cameras.rays(2 * 24, 2 * 24)
    traced = TracedViews.of([trace(toys[:2], cameras[:2].rays(48, 48)), trace(toys[2:], cameras[2:].rays(48, 48))])
    lights = Lights(torch.tensor([[3.0, 1, 2], [-1, 3, 2], [0, 0, 4]]), torch.full((3,), 0.6), torch.full((3,), 0.4))
    behind = torch.tensor([[0.1, 0.2, 0.3], [0.5, 0.5, 0.5], [1.0, 0.9, 0.8]])
    paint = paint_toys(toys)
    kept = GeometryBuffers(traced.material, traced.normal.float() / 127, traced.depth.float())
    expected = paint_views(kept, rays, paint, lights, behind, supersample=2)
    found = paint_traced(traced, torch.arange(3), cameras, paint, lights, behind)
    assert found.shape == (3, 3, 24, 24)
    # Points on the edge of a mark may fall to either side of it.
    assert ((found - expected).abs().amax(1) > 1e-3).float().mean() < 0.005
    order = torch.tensor([2, 0])
    some = paint.pick(order)
    lit = Lights(lights.position[order], lights.diffuse[order], lights.ambient[order])
    seen = Cameras(**{name: value[order] for name, value in vars(cameras).items()})
    assert torch.equal(paint_traced(traced, order, seen, some, lit, behind[order]), found[order])


def test_a_small_toy_is_shown_at_full_size_and_textureless_pictures_are_white():
    assert as_shown(Toy("mug", "red", size="small")) == Toy("mug", "red")
    assert as_shown(Toy("mug", size="tall")) == Toy("mug", size="tall")
    batch = ToyboxData(0, 96, pool_size=16, image_size=16, caption_dropout=0.0).batch(0)
    white = batch.textureless.bool()
    assert 2 <= white.sum() <= 25  # 0.12 of 96
    spread = batch.images.amax(1) - batch.images.amin(1)  # of the channels: backdrops have a faint tint
    assert spread[white].max() < 0.3
    assert (spread[~white].amax(dim=(1, 2)) > 0.3).float().mean() > 0.6
    assert any(toy.color in text for toy, text in zip(batch.toys, batch.captions[::4], strict=True))


def test_hardness_by_hand():
    hardness = Hardness()
    assert hardness.weight("kind", "mug") == 1.0
    toys = [Toy("mug", "red"), Toy("mug", "red", "striped"), Toy("car", "red", part_color="blue")]
    means = mean_by_sort(torch.tensor([0.1, 0.2, 0.3]), toys)
    assert means["kind"] == pytest.approx({"mug": 0.15, "car": 0.3})
    assert means["pattern"] == pytest.approx({"plain": 0.2, "striped": 0.2})
    assert means["part"] == pytest.approx({"usual": 0.15, "named": 0.3})
    hardness.look(means)
    assert hardness.weight("kind", "car") == pytest.approx(0.3 / 0.225)
    assert hardness.weight("kind", "mug") == pytest.approx(0.15 / 0.225)
    assert hardness.weight("pattern", "striped") == 1.0
    hardness.look({"kind": {"car": 0.9}})  # half of which counts
    assert hardness.means["kind"]["car"] == pytest.approx(0.6)
    assert hardness.weight("kind", "car") == 1.5  # of 0.6 / 0.375


def test_what_is_hard_is_drawn_more_often():
    hardness = Hardness()
    hardness.look({"kind": {kind: 2.0 if kind == "mug" else 1.0 for kind in KINDS}, "part": {"named": 3, "usual": 1}})
    counts = []
    for drawn in (None, hardness):
        data = ToyboxData(0, 2000, pool_size=40, image_size=4, hardness=drawn)
        toys = data.batch(0).toys
        counts.append((sum(toy.kind == "mug" for toy in toys), sum(toy.part_color is not None for toy in toys)))
    assert counts[1][0] > 1.2 * counts[0][0] > 0
    # Of parts, 0.45 with the factor 1.5 against 0.55 with 1 / 1.5.
    assert counts[0][1] / 2000 == pytest.approx(0.45, abs=0.04)
    assert counts[1][1] / 2000 == pytest.approx(0.675 / (0.675 + 0.3667), abs=0.04)


def test_captions_fit_the_tokenizer_and_have_no_unknown_word():
    tokenizer = build_tokenizer()
    longest = Toy("snowman", "orange", "checkered", "small", "orange")
    for phrase in PHRASINGS:
        ids = tokenizer(phrase(longest) + ", overhead view").input_ids
        assert tokenizer.unk_token_id not in ids
        assert len(ids) <= MAX_WORDS
    assert tokenizer("a red zebra").input_ids.count(tokenizer.unk_token_id) == 1
    assert set(KINDS) | set(COLORS) <= set(vocabulary())


def test_captions_by_hand():
    toy = Toy("house", "yellow", "striped", "small", "blue")
    assert [phrase(toy) for phrase in PHRASINGS] == [
        "a small yellow striped house with a blue roof",
        "a small striped yellow house and a blue roof",
        "small yellow striped house with a blue roof",
        "a small striped toy house in yellow with a blue roof",
        "a photo of a small yellow striped house with a blue roof",
        "a picture of a small striped yellow house and a blue roof",
    ]
    assert caption(Toy("car", "orange", part_color="orange")) == "an orange car with orange wheels"
    assert caption(Toy("mug")) == "a mug"


@pytest.mark.parametrize("kind", KINDS)
def test_every_caption_can_be_read_back(kind: str):
    toys = [
        Toy(kind),
        Toy(kind, "red"),
        Toy(kind, "orange", "spotted", "wide", "orange"),
        Toy(kind, "blue", part_color="red"),
    ]
    for toy in toys:
        for phrase in PHRASINGS:
            assert parse_toy(phrase(toy)) == toy


def test_caption_dropout_is_a_tenth():
    data = ToyboxData(3, 500, pool_size=4, image_size=8)
    captions = data.batch(0).captions
    counts = Counter(caption == "" for caption in captions[::4])
    assert counts[True] / 500 == pytest.approx(0.1, abs=0.05)


def test_toy_names():
    assert parse_toy("red mushroom") == Toy("mushroom", "red")
    assert parse_toy("Car").kind == "car"
    for wrong in ("", "red", "red zebra", "mauve car", "a car and a duck"):
        with pytest.raises(DreamFusionError, match="mushroom"):
            parse_toy(wrong)
    with pytest.raises(DreamFusionError, match="red and blue contradict"):
        parse_toy("a red blue car")
    with pytest.raises(DreamFusionError, match="A car has no roof"):
        parse_toy("a car with a red roof")


def test_the_sheet_has_a_row_for_each_toy():
    one, two = toybox_sheet(["red car"], size=16), toybox_sheet(["red car", "blue duck"], size=16)
    assert two.shape[1] > one.shape[1]


def test_orthogonalized_pushes_singular_values_towards_one():
    torch.manual_seed(0)
    for shape in ((6, 20), (20, 6)):
        matrix = torch.randn(*shape) @ torch.diag(torch.logspace(0, -1, shape[1]))
        values = torch.linalg.svdvals(orthogonalized(matrix))
        assert values.min() > 0.5
        assert values.max() < 1.3
        u, _, v = torch.linalg.svd(matrix, full_matrices=False)
        assert (orthogonalized(matrix) * (u @ v)).sum() / (u @ v).norm() ** 2 > 0.8  # near the polar factor


def test_muon_finds_the_minimum_of_a_quadratic():
    torch.manual_seed(0)
    target, weight = torch.randn(4, 3, 3, 3), torch.nn.Parameter(torch.zeros(4, 3, 3, 3))
    optimizer = Muon([weight], lr=0.1)
    for step in range(200):
        optimizer.param_groups[0]["lr"] = 0.1 * (1 - step / 200)
        optimizer.zero_grad()
        (weight - target).square().sum().backward()
        optimizer.step()
    assert (weight - target).abs().max() < 0.05


def test_codes_by_hand():
    plain = code(Toy("mushroom"), "front")
    assert len(plain) == CODE_LENGTH == 20 + 10 + 3 + 3 + 10 + 4
    assert plain[0].item() == pytest.approx(0.95)
    assert plain[20:30].abs().sum() == 0  # no colour is said
    assert plain[46].item() == pytest.approx(0.75)
    full = code(Toy("turtle", "black", "checkered", "wide", "red"), "overhead")
    assert full.gt(0).nonzero().flatten().tolist() == [19, 29, 32, 35, 36, 49]


@pytest.mark.long
def test_the_text_encoder_learns_to_tell_attributes_apart():
    torch.manual_seed(0)
    pipe = build_pipeline(16)
    error = train_text(pipe.tokenizer, pipe.text_encoder, pipe.unet, steps=250)
    assert error < 0.2  # of 1, of which the cameras are 0.2; the prior's own training goes on for four times as long

    def apart(texts: list[str]) -> torch.Tensor:
        tokens = pipe.tokenizer(texts, padding="max_length", max_length=MAX_WORDS, return_tensors="pt")
        with torch.no_grad():
            hidden = pipe.text_encoder(tokens.input_ids, attention_mask=tokens.attention_mask).last_hidden_state
            return torch.pdist(pipe.unet.add_embedding(hidden))

    kinds = apart([f"a red {kind}, front view" for kind in KINDS])
    colors = apart([f"a {color} car, front view" for color in COLORS])
    views = apart([f"a red car, {view} view" for view in VIEWS])
    phrasings = apart(["a red car, front view", "red car, front view", "a toy car in red, front view"])
    for distances in (kinds, colors, views):
        assert distances.min() > phrasings.max()
    assert apart(["a red house with a blue roof", "a blue house with a red roof"]).min() > phrasings.max()
    assert not any(p.requires_grad for p in pipe.text_encoder.parameters())


TINY = TrainSettings(steps=4, batch_size=2, image_size=16, warmup_steps=2, decay_steps=2, text_steps=2)


@pytest.fixture
def small_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """Train on few views and draw samples in one step: what is tested here is the trainer."""
    monkeypatch.setattr("dreamfusion.toybox.train.save_samples", partial(save_samples, steps=1))
    monkeypatch.setattr("dreamfusion.toybox.train.HeldOut", partial(HeldOut, batches=2))
    monkeypatch.setattr("dreamfusion.toybox.model.CHANNELS", (8, 8, 16))
    monkeypatch.setattr("dreamfusion.toybox.train.ToyboxData", lambda *a, **k: ToyboxData(*a, **k | {"pool_size": 8}))


def test_learning_rate_is_a_trapezoid():
    settings = TrainSettings(steps=100, warmup_steps=10, decay_steps=20)
    assert [settings.lr_factor(s) for s in (0, 9, 50, 80, 90, 99)] == pytest.approx([0.1, 1, 1, 1, 0.5, 0.05])


def test_nearly_half_of_the_images_are_shown_at_high_noise():
    times = torch.cat([training_times(32, torch.Generator().manual_seed(seed)) for seed in range(50)])
    assert times.min() >= 0
    assert times.max() < 1
    assert (times >= 0.75).float().mean().item() == pytest.approx(0.45, abs=0.01)
    assert (times >= 0.875).float().mean().item() == pytest.approx(0.225, abs=0.01)
    # 0.375 is half of 0.75, and 0.5 ** (2 / 3) = 0.63 of the other 0.55 are below it.
    assert (times < 0.375).float().mean().item() == pytest.approx(0.3465, abs=0.01)


@pytest.mark.slow
def test_training_resumes_exactly_and_leaves_a_prior_that_loads(
    tmp_path: Path, small_data: None, monkeypatch: pytest.MonkeyPatch
):
    whole = train(tmp_path / "whole", TINY, save_every=100, sample_every=100, check_every=1)
    # The disk is full at the second checkpoint, of step 4: that of step 2 is gone on from.
    save_file, saved = checkpoints.save_file, []

    def full_from_the_second(tensors: dict[str, torch.Tensor], path: Path) -> None:
        saved.append(path)
        if len(saved) == 2:
            raise SafetensorError("I/O error: No space left on device (os error 28)")
        save_file(tensors, path)

    monkeypatch.setattr(checkpoints, "save_file", full_from_the_second)
    with pytest.raises(DreamFusionError, match="the disk is full"):
        train(tmp_path / "parts", TINY, save_every=2, sample_every=100, check_every=1)
    assert [path.name for path in (tmp_path / "parts/checkpoints").iterdir()] == ["step_000002"]
    resumed = train(tmp_path / "parts", TINY, save_every=100, sample_every=100, check_every=1)
    assert resumed.hardness.means == whole.hardness.means
    logs = [(tmp_path / run / "held_out.jsonl").read_text() for run in ("whole", "parts")]
    assert logs[0] == logs[1]
    assert [json.loads(row)["step"] for row in logs[0].splitlines()] == [1, 2, 3, 4]
    for name, parameter in whole.parameters.items():
        assert torch.equal(parameter, resumed.parameters[name]), name
        assert torch.equal(whole.ema[name], resumed.ema[name]), name

    index = json.loads((tmp_path / "parts/prior/model_index.json").read_text())
    assert index["_class_name"] == "IFPipeline"
    assert index["tokenizer"][1] == "PreTrainedTokenizerFast"
    guidance = PixelGuidance(tmp_path / "parts/prior")
    assert guidance.sample_size == 16
    name = "unet.conv_in.weight"
    torch.testing.assert_close(
        guidance.denoiser.conv_in.weight, resumed.ema[name], atol=1e-3, rtol=1e-3
    )  # half precision
    assert (tmp_path / "parts/samples/step_000004.png").stat().st_size > 1000
    card = (tmp_path / "parts/prior/README.md").read_text()
    assert "--steps 4 --batch-size 2 --image-size 16" in card
    assert "green mushroom" in card
    assert "| noise: high |" in card
    assert "| kind: " in card

    further = Trainer(TINY)
    further.start_from(tmp_path / "parts/prior")
    torch.testing.assert_close(further.parameters[name], resumed.ema[name], atol=1e-3, rtol=1e-3)


def test_another_architecture_is_not_resumed(tmp_path: Path, small_data: None):
    Trainer(TINY).save(tmp_path)
    with pytest.raises(DreamFusionError, match=r"has --image-size 16, not 32"):
        train(tmp_path, replace(TINY, image_size=32))


def test_a_training_by_the_clock_by_hand():
    settings = TrainSettings(steps=UNLIMITED, decay_steps=100)
    # 300 steps took 150 seconds: 49 seconds are 98 steps, a quarter of all.
    assert fitted(settings, 1200, 300, 150.0, 700.0) is settings
    ending = fitted(settings, 1200, 300, 150.0, 49.0)
    assert (ending.steps, ending.decay_steps) == (1298, 98)
    assert [ending.lr_factor(step) for step in (1200, 1249, 1298)] == pytest.approx([1.0, 0.5, 0.0])
    # Of a short sitting, of 20 steps in all, the decay takes a quarter.
    assert fitted(settings, 10, 10, 10.0, 10.0) is settings
    assert fitted(settings, 15, 15, 15.0, 5.0).decay_steps == 5
    assert fitted(replace(settings, steps=17), 15, 15, 15.0, 5.0).steps == 17
    assert fitted(settings, 15, 15, 15.0, -1.0).steps == 15


def test_a_row_that_a_full_disk_cut_short_is_left_out(tmp_path: Path):
    log = tmp_path / "log.jsonl"
    assert read_log(log) == []
    log.write_text('{"step": 50, "loss": 0.5}\n{"step": 100, "lo')
    assert read_log(log) == [{"step": 50, "loss": 0.5}]


def test_a_loss_that_is_not_finite_stops_the_training(small_data: None):
    trainer = Trainer(replace(TINY, batch_size=1))
    with torch.no_grad():
        trainer.prior.unet.conv_in.weight.fill_(float("nan"))
    with pytest.raises(DreamFusionError, match="step 0"):
        trainer.train_step()


def test_materials_of_all_parts_are_known():
    for kind in ALL_KINDS.values():
        used = {primitive.material for primitive in kind.primitives if not primitive.carve}
        assert {BODY, PART, TRIM} - {BODY} <= used <= set(SURFACES)
        assert {kind.part[1], kind.trim[1]} <= set(MATERIALS)
        assert kind.part[0] != kind.trim[0]
        assert kind.front
