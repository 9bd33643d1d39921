import random
from functools import partial
from pathlib import Path

import pytest
import torch

from dreamfusion.errors import DreamFusionError
from dreamfusion.evaluation.exam import examine, table, tellable
from dreamfusion.evaluation.judge import ToyboxJudge, open_judge
from dreamfusion.evaluation.judging import true_views
from dreamfusion.evaluation.lessons import (
    Lesson,
    Lessons,
    TracedViews,
    mirrored,
    painted_lesson,
    random_paint,
    roughen,
    trace_views,
)
from dreamfusion.evaluation.network import IMAGE_SIZE, Reader, is_reader, load_reader, save_reader
from dreamfusion.evaluation.prompts import default_prompts, shape
from dreamfusion.evaluation.reading import WORDS, shown
from dreamfusion.evaluation.training import (
    JudgeSettings,
    JudgeTraining,
    keep_size,
    places_loss,
    reading_loss,
    targets,
    train_judge,
)
from dreamfusion.evaluation.worker import AZIMUTHS_DEG, BEHIND
from dreamfusion.method.cameras import fixed_cameras
from dreamfusion.toybox.captions import parse_toy
from dreamfusion.toybox.kinds import KINDS, MATERIALS
from dreamfusion.toybox.render import trace
from dreamfusion.toybox.world import SMALL, Toy


@pytest.fixture(scope="module")
def tiny_judge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A judge that has hardly learned anything, made by the training itself."""
    folder = tmp_path_factory.mktemp("judge") / "judge"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dreamfusion.evaluation.training.Lessons", partial(Lessons, chunk=4, chunks=2))
        return train_judge(folder, JudgeSettings(steps=2, batch_size=4, warmup_steps=1))


def test_what_captions_claim_by_hand():
    assert shown(parse_toy("a small red striped car with blue wheels"), "side") == {
        "kind": "car",
        "color": "red",
        "pattern": "striped",
        "size": "small",
        "part_color": "blue",
        "view": "side",
    }
    silent = shown(parse_toy("a yellow house"))
    assert silent == {
        "kind": "house",
        "color": "yellow",
        "pattern": "plain",
        "size": "usual",
        "part_color": "brown",  # of wood, as a house's roof is if nothing is said
        "view": None,
    }
    assert shown(parse_toy("a yellow house with a brown roof")) == silent
    assert shown(parse_toy("a purple mug"))["part_color"] == "purple", "its handle is of the mug's colour"
    assert shown(parse_toy("a green mushroom"))["part_color"] == "cream", "a colour without a name of its own"
    assert shown(Toy("car", size="tall")) == {
        "kind": "car",
        "color": None,
        "pattern": None,
        "size": "tall",
        "part_color": None,
        "view": None,
    }


def test_there_is_a_word_for_all_that_can_be_shown():
    for kind in KINDS:
        for name, word in shown(Toy(kind, "red"), "front").items():
            assert word in WORDS[name]


def test_targets_leave_out_what_is_not_known():
    right = targets([Toy("snowman", "orange"), Toy("mushroom")], ["back", "front"])
    assert right["kind"].tolist() == [1, 0]
    assert right["color"].tolist() == [1, -1]
    assert right["pattern"].tolist() == [3, -1]
    assert right["view"].tolist() == [2, 0]


def test_the_loss_by_hand():
    """Two pictures, two attributes; the second picture shows nothing of the second."""
    read = {"a": torch.tensor([[0.5, 0.5], [0.25, 0.75]]).log(), "b": torch.tensor([[0.1, 0.9], [0.6, 0.4]]).log()}
    right = {"a": torch.tensor([0, 1]), "b": torch.tensor([1, -1])}
    expected = -torch.tensor([0.5, 0.75, 0.9]).log().sum() / 2
    torch.testing.assert_close(reading_loss(read, right), expected)


def test_a_caption_is_as_likely_as_all_that_it_claims(tiny_judge: Path):
    judge = ToyboxJudge(tiny_judge)
    images = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    read = judge.read(images)
    for name, words in WORDS.items():
        assert read[name].shape == (3, len(words))
        torch.testing.assert_close(read[name].exp().sum(dim=1), torch.ones(3))
    texts = ["a car", "a red duck, front view"]
    similarity = judge.similarity(images, texts)
    usual = WORDS["size"].index("usual")
    car = read["kind"][:, WORDS["kind"].index("car")] + read["size"][:, usual]
    torch.testing.assert_close(similarity[:, 0], car)
    claims = {
        "kind": "duck",
        "color": "red",
        "pattern": "plain",
        "size": "usual",
        "part_color": "orange",
        "view": "front",
    }
    duck = sum(read[name][:, WORDS[name].index(word)] for name, word in claims.items())
    torch.testing.assert_close(similarity[:, 1], duck)
    assert torch.equal(judge.first(images, texts), similarity.argmax(1))
    assert judge.features(images).shape == (3, 256)


def test_a_judge_is_read_as_it_was_written(tmp_path: Path):
    torch.manual_seed(0)
    reader = Reader(WORDS, width=8).eval()
    images = torch.rand(2, 3, IMAGE_SIZE, IMAGE_SIZE)
    with torch.no_grad():
        before = reader(images)
        save_reader(reader, tmp_path / "judge", {"steps": 3})
        after = load_reader(tmp_path / "judge").eval()(images)
    for name in WORDS:  # half precision
        torch.testing.assert_close(after[name], before[name], atol=5e-3, rtol=0)


def test_a_training_is_the_same_again_and_goes_on_from_a_judge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("dreamfusion.evaluation.training.Lessons", partial(Lessons, chunk=4, chunks=2, every=1))
    settings = JudgeSettings(steps=4, small_steps=2, batch_size=4, warmup_steps=1, decay_steps=2)

    def stop(training: JudgeTraining) -> dict[str, float]:
        if training.step == 3:
            raise RuntimeError("stopped")
        return train_step(training)

    train_step = JudgeTraining.train_step
    whole = train_judge(tmp_path / "whole", settings, save_every=2)
    monkeypatch.setattr(JudgeTraining, "train_step", stop)
    with pytest.raises(RuntimeError, match="stopped"):
        train_judge(tmp_path / "stopped", settings, save_every=2)
    monkeypatch.setattr(JudgeTraining, "train_step", train_step)
    resumed = train_judge(tmp_path / "stopped", settings, save_every=2)
    assert (whole / "model.safetensors").read_bytes() == (resumed / "model.safetensors").read_bytes()

    further = train_judge(tmp_path / "further", settings, start_from=whole)
    assert (further / "model.safetensors").read_bytes() != (whole / "model.safetensors").read_bytes()
    assert '"started_from": "whole"' in (further / "training.json").read_text()


def test_the_rates_of_a_training():
    settings = JudgeSettings(steps=100, warmup_steps=10, decay_steps=20)
    assert [settings.lr_factor(step) for step in (0, 9, 50, 80, 90, 100)] == [0.1, 1, 1, 1, 0.5, 0]


def test_weights_keep_their_size_by_hand():
    weight = torch.tensor([[3.0, 4.0], [0.0, 0.0]])
    keep_size([weight])
    # The rows' root mean square length is 5 / sqrt(2) before, and 1 afterwards.
    torch.testing.assert_close(weight, torch.tensor([[3.0, 4.0], [0.0, 0.0]]) * 2**0.5 / 5)


def test_what_is_where_is_judged_by_hand():
    """One cell, half of it of material 0; the reader gives it 1/4, and a normal that is wrong by 0.1 on each axis."""
    materials = torch.zeros(1, 15, 1, 1)
    materials[0, [0, 14]] = 0.5
    lesson = Lesson(torch.zeros(1, 3, 8, 8), [Toy("car")], ["front"], materials, torch.zeros(1, 3, 1, 1))
    shares = torch.full((1, 15, 1, 1), 1e-6)
    shares[0, 0], shares[0, 14] = 0.25, 0.75
    where = torch.cat([shares.log(), torch.full((1, 3, 1, 1), 0.1)], dim=1)
    expected = -0.5 * (torch.tensor(0.25).log() + torch.tensor(0.75).log()) + 0.03
    torch.testing.assert_close(places_loss(where, lesson), expected, atol=1e-4, rtol=0)


def test_a_judge_of_another_world_is_refused(tmp_path: Path):
    words = WORDS | {"kind": ("bus", "zebra")}
    save_reader(Reader(words, width=8), tmp_path / "old", {})
    with pytest.raises(DreamFusionError, match="another world"):
        train_judge(tmp_path / "new", JudgeSettings(steps=1), start_from=tmp_path / "old")
    with pytest.raises(DreamFusionError, match=r"'a red car'.*judge train"):
        ToyboxJudge(tmp_path / "old").similarity(torch.rand(1, 3, 64, 64), ["a red car"])


def test_a_dual_encoder_of_an_earlier_version_is_not_taken_for_a_reader(tmp_path: Path):
    (tmp_path / "config.json").write_text('{"model_type": "vision-text-dual-encoder"}', encoding="utf-8")
    assert not is_reader(tmp_path)
    assert not is_reader(tmp_path / "nothing")
    save_reader(Reader(WORDS, width=8), tmp_path / "judge", {})
    assert is_reader(tmp_path / "judge")


def test_a_missing_judge_is_named(tmp_path: Path):
    with pytest.raises(DreamFusionError, match="judge train"):
        open_judge(tmp_path / "nothing")
    with pytest.raises(DreamFusionError, match="judge train"):
        ToyboxJudge(tmp_path / "nothing")


def test_lessons_are_of_both_sorts_and_a_function_of_the_seed():
    traced = trace_views(8, seed=3)
    assert [toy.size for toy in traced.toys[1::2]].count("small") == 0
    assert traced.cameras.radius[0::2].min() >= 2.55
    assert traced.cameras.radius[1::2].max() <= 2.65
    lessons = Lessons(5, 4, chunk=4, chunks=2, every=2)
    first, later = lessons.batch(1), lessons.batch(3)
    assert torch.equal(Lessons(5, 4, chunk=4, chunks=2, every=2).batch(3).images, later.images)
    assert not torch.equal(first.images, later.images)
    assert all(images.min() >= 0 and images.max() <= 1 for images in (first.images, later.images))
    small = Lessons(5, 4, size=32, chunk=4, chunks=2).batch(0)
    assert small.images.shape == (4, 3, 32, 32)
    assert small.materials.shape == (4, len(MATERIALS) + 1, 4, 4)


def test_white_shapes_are_told_without_colours():
    traced = trace_views(2, seed=0).pick([0] * 64)
    lesson = painted_lesson(traced, random.Random(0), torch.Generator().manual_seed(0))
    bare = [toy.color is None for toy in lesson.toys]
    assert 2 < sum(bare) < 24
    chroma = (lesson.images.amax(1) - lesson.images.amin(1))[bare]
    assert all(toy == shape(traced.toys[0]) for toy, plain in zip(lesson.toys, bare, strict=True) if plain)
    assert chroma.max() < 0.25, "nothing but the tint of the backdrop"


def test_a_mirror_image_is_of_the_other_side():
    """A view from the left is that from the right, mirrored; normals change their sign along y."""
    cameras = fixed_cameras(torch.tensor([60.0, -60.0]), 20.0)
    toys = [Toy("duck")] * 2
    traced = TracedViews(toys, cameras, trace(toys, cameras.rays(64, 64)), torch.tensor([True, True]))
    lesson = painted_lesson(traced, random.Random(0), torch.Generator().manual_seed(0))
    turned = mirrored(lesson)
    # Of each cell sixteen pixels are looked at, and not the same ones from the other side.
    assert (turned.materials[0] - lesson.materials[1]).abs().mean() < 0.01
    assert (turned.normals[0] - lesson.normals[1]).abs().mean() < 0.02
    assert (lesson.normals[0] - lesson.normals[1]).abs().mean() > 0.1
    assert lesson.materials[0, list(MATERIALS).index("body")].max() == 1
    assert torch.equal(turned.images, lesson.images.flip(-1))


def test_a_part_that_has_the_colour_of_the_toy_anyhow_is_not_named():
    painted = [random_paint(Toy("mug"), random.Random(seed)) for seed in range(200)]
    assert all(toy.part_color != toy.color for toy in painted)
    assert any(toy.part_color == toy.color for toy in (random_paint(Toy("car"), random.Random(s)) for s in range(200)))


def test_roughened_pictures_stay_pictures():
    images = torch.rand(4, 3, 24, 24)
    rough = roughen(images, torch.Generator().manual_seed(0))
    assert rough.shape == images.shape
    assert rough.min() >= 0
    assert rough.max() <= 1
    assert not torch.equal(rough, images)


def test_what_can_be_told_from_a_picture():
    """A striped house from in front, above, behind, and a border of views; penguins as a shape and from behind."""
    toys = [Toy("house", "red", "striped")] * 4 + [Toy("penguin"), Toy("penguin", "red", part_color="blue")]
    cameras = fixed_cameras(
        torch.tensor([0.0, 0.0, 180.0, 43.0, 0.0, 180.0]), torch.tensor([10.0, 89.0, 10.0, 10.0, 10.0, 10.0])
    )
    buffers = trace(toys, cameras.rays(64, 64))
    traced = TracedViews(toys, cameras, buffers, torch.ones(6, dtype=torch.bool))
    lesson = Lesson(torch.zeros(6, 3, 64, 64), toys, [""] * 6, torch.zeros(0), torch.zeros(0))
    told = {name: counts.tolist() for name, counts in tellable(traced, lesson).items()}
    assert told["kind"] == [True] * 6
    assert told["color"] == [True, False, True, True, True, True], "from above a house is all roof"
    assert told["pattern"][:3] == [True, False, True]
    assert told["part_color"] == [True, True, True, True, True, False], "a belly is not seen from behind"
    assert told["size"] == [True, False, True, True, True, True]
    assert told["view"] == [True, True, True, False, True, True]


def test_the_marks_of_an_exam_by_hand(monkeypatch: pytest.MonkeyPatch):
    """A judge that calls everything a red car seen from the front is right about the cars, the red ones and so on."""

    class Fixed:
        words, world = WORDS, SMALL

        def read(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
            read = {name: torch.zeros(len(images), len(words)) for name, words in WORDS.items()}
            for name, word in zip(WORDS, ("car", "red", "plain", "usual", "red", "front"), strict=True):
                read[name][:, WORDS[name].index(word)] = 1
            return read

    marks = examine(Fixed(), count=40, seed=0)
    traced = trace_views(40, 0, 128)
    cars = torch.tensor([toy.kind == "car" for toy in traced.toys])
    assert marks.finished["kind"] == pytest.approx(cars[0::2].float().mean().item())
    assert marks.asked["kind"] == pytest.approx(cars[1::2].float().mean().item())
    assert marks.counted["kind"] == 40
    assert all(false == "car" != true for true, false, _ in marks.mistakes["kind"])
    assert f"| kind | {100 * marks.finished['kind']:.1f} % |" in table(marks)


def test_the_true_views_of_a_toy():
    views = true_views(Toy("house", "red"))
    assert {name: tuple(images.shape) for name, images in views.items()} == {
        "albedo": (8, 3, 64, 64),
        "lambertian": (8, 3, 64, 64),
        "textureless": (8, 3, 64, 64),
        BEHIND: (3, 3, 64, 64),
    }
    # From the front, a dark door stands in the middle below; from behind, the red wall.
    front, back = (views["albedo"][AZIMUTHS_DEG.index(azimuth)] for azimuth in (0.0, 180.0))
    assert front[:, 44:48, 30:34].mean() < 0.2
    assert back[0, 44:48, 30:34].mean() > 0.8


def test_the_shipped_judge_knows_the_toybox():
    """Every twentieth prompt of the evaluation, from all sides."""
    judge = open_judge()
    assert isinstance(judge, ToyboxJudge)
    for toy in list(default_prompts().toys.values())[::20]:
        read, right = judge.read(true_views(toy)["lambertian"]), shown(toy)
        for name in ("kind", "color", "pattern", "size"):
            assert WORDS[name][int(read[name].exp().mean(0).argmax())] == right[name]
