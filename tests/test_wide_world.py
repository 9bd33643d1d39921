"""The wide world: more kinds, second parts, finishes and two toys at once; and that the small one stays what it was."""

import json
import random

import pytest
import torch

from dreamfusion.errors import DreamFusionError
from dreamfusion.evaluation.lessons import painted_lesson, trace_views
from dreamfusion.evaluation.prompts import default_prompts
from dreamfusion.evaluation.reading import shown, words_of
from dreamfusion.evaluation.training import targets
from dreamfusion.method.cameras import fixed_cameras
from dreamfusion.method.shading import Lights
from dreamfusion.standard import EMBEDDED_PRIOR
from dreamfusion.toybox.captions import PHRASINGS, caption, parse_toy, vocabulary
from dreamfusion.toybox.data import ToyboxData
from dreamfusion.toybox.kinds import ALL_KINDS, KINDS, SURFACES
from dreamfusion.toybox.model import MAX_WORDS, build_tokenizer
from dreamfusion.toybox.paint import TracedViews, paint_traced
from dreamfusion.toybox.render import NOTHING, paint_toys, paint_views, render_toy, signed_distance, trace
from dreamfusion.toybox.world import (
    FINISHES,
    NATURAL_WOOD,
    NEXT_TO,
    ON,
    SMALL,
    WIDE,
    Toy,
    finish_held_out,
    is_held_out,
    placed,
    prior_world,
    together_held_out,
    trim_held_out,
    world_known,
)

MUSHROOM_BY_CAR = Toy("mushroom", "red", relation=NEXT_TO, other=Toy("car", "blue"))
RABBIT_ON_CHAIR = Toy("rabbit", "white", relation=ON, other=Toy("chair", "green"))


def test_there_are_more_kinds_and_the_first_twenty_stay() -> None:
    assert len(WIDE.kinds) >= 40
    assert WIDE.kinds[:20] == SMALL.kinds == tuple(KINDS)
    assert (SMALL.kinds[0], SMALL.kinds[19]) == ("mushroom", "turtle")


def test_words_of_the_small_world_keep_their_numbers() -> None:
    small, wide = vocabulary(SMALL), vocabulary(WIDE)
    shipped = json.loads((EMBEDDED_PRIOR / "tokenizer" / "tokenizer.json").read_text())["model"]["vocab"]
    assert shipped == build_tokenizer().get_vocab()
    assert [shipped[word] for word in small] == list(range(4, 71))
    assert wide[: len(small)] == small
    assert len(set(wide)) == len(wide)
    assert build_tokenizer()("a red mushroom").input_ids == build_tokenizer(wide)("a red mushroom").input_ids


def test_the_drawn_prompts_of_the_small_world_stay() -> None:
    assert list(default_prompts(3).toys) == [
        "a black striped mushroom",
        "a red striped snowman",
        "a pink car with white wheels",
    ]


def test_a_prior_knows_what_its_words_say() -> None:
    assert world_known(vocabulary(SMALL)) == SMALL
    assert world_known(vocabulary(WIDE)) == WIDE
    assert world_known(["a", "red", "mushroom"]) is None
    assert prior_world(str(EMBEDDED_PRIOR)) == prior_world(None) == prior_world("nowhere") == SMALL
    few = world_known({*vocabulary(SMALL), "cat", "tail", "shiny"})
    assert few is not None
    assert few.kinds == (*SMALL.kinds, "cat")
    assert (few.finishes, few.relations, few.trims) == (("shiny",), (), False)


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_every_caption_of_the_wide_world_can_be_read_back(kind: str) -> None:
    toys = [
        Toy(kind, "orange", "spotted", "wide", "orange", "red", "shiny"),
        Toy(kind, "blue", trim_color="red"),
        Toy(kind, finish="wooden"),
        Toy(kind, "red", finish="matte", relation=NEXT_TO, other=Toy("glasses", "blue")),
        Toy(kind, "red", relation=ON, other=Toy("table")),
    ]
    tokenizer = build_tokenizer(vocabulary(WIDE))
    for toy in toys:
        for phrase in PHRASINGS:
            assert parse_toy(phrase(toy), WIDE) == toy
            ids = tokenizer(phrase(toy) + ", overhead view").input_ids
            assert tokenizer.unk_token_id not in ids
            assert len(ids) <= MAX_WORDS


def test_captions_of_the_wide_world_by_hand() -> None:
    assert caption(Toy("house", "red", part_color="blue", trim_color="white")) == (
        "a red house with a blue roof and a white door"
    )
    assert caption(Toy("glasses", "black", part_color="green")) == "black glasses with green lenses"
    assert caption(MUSHROOM_BY_CAR) == "a red mushroom next to a blue car"
    assert caption(RABBIT_ON_CHAIR) == "a white rabbit on a green chair"
    assert caption(Toy("teapot", "red", "striped", "small", finish="shiny")) == "a small shiny red striped teapot"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a red cat", "does not know: cat"),
        ("a red house with a white door", "does not know: door"),
        ("a shiny red car", "does not know: shiny"),
    ],
)
def test_the_small_world_refuses_what_it_has_not(text: str, problem: str) -> None:
    with pytest.raises(DreamFusionError, match=problem):
        parse_toy(text)
    assert parse_toy(text, WIDE)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a red cat on a blue apple", "Nothing stands on an apple"),
        ("a small cat next to a blue apple", "leave out sizes and parts"),
        ("a cat and a dog", "name one kind"),
        ("a cat with a red roof", "its parts that can be named are: tail and eyes"),
        ("a shiny wooden cat", "shiny and wooden contradict"),
    ],
)
def test_what_the_wide_world_refuses(text: str, problem: str) -> None:
    with pytest.raises(DreamFusionError, match=problem):
        parse_toy(text, WIDE)


def test_two_toys_next_to_each_other_by_hand() -> None:
    # Half as large, at y = -0.45 and 0.45: the mushroom is on the left of a viewer in front.
    mushroom, car = placed(MUSHROOM_BY_CAR)
    assert (mushroom.scale[0], mushroom.place[1], car.place[1]) == (0.5, -0.45, 0.45)
    low = [0.5 * ALL_KINDS[one.toy.kind].height[0] + one.place[2] for one in (mushroom, car)]
    assert low[0] == pytest.approx(low[1])
    image = render_toy(MUSHROOM_BY_CAR, fixed_cameras(0.0, 5.0), _flat(1), 48, torch.ones(3), "albedo")[0]
    red, blue = (image[0] > 0.8) & (image[1] < 0.2), (image[2] > 0.8) & (image[0] < 0.2)
    assert red[:, :24].sum() > 20
    assert red[:, 24:].sum() == 0
    assert blue[:, 24:].sum() > 20
    assert blue[:, :24].sum() == 0


def test_one_toy_stands_on_another_by_hand() -> None:
    rabbit, chair = placed(RABBIT_ON_CHAIR)
    # The seat of the chair is at z = 0.02, its size 0.7; the rabbit's lowest point is at -0.73, its size 0.45.
    feet = rabbit.place[2] + 0.45 * ALL_KINDS["rabbit"].height[0]
    assert feet == pytest.approx(chair.place[2] + 0.7 * 0.02)
    inside = torch.tensor([[rabbit.place[0], 0.0, rabbit.place[2] - 0.36 * 0.45]])
    own = signed_distance(Toy("rabbit"), torch.tensor([[0.0, 0.0, -0.36]]))
    torch.testing.assert_close(signed_distance(RABBIT_ON_CHAIR, inside), 0.45 * own)


def test_pairs_fit_the_sphere_that_is_traced() -> None:
    axis = torch.linspace(-1, 1, 32)
    points = torch.cartesian_prod(axis, axis, axis)
    for kind in ("mushroom", "ladder", "umbrella", "truck"):
        for relation, other in ((NEXT_TO, "glasses"), (NEXT_TO, "bridge"), (ON, "table"), (ON, "elephant")):
            inside = signed_distance(Toy(kind, relation=relation, other=Toy(other)), points) < 0
            assert points[inside].norm(dim=1).max() < 0.92, (kind, relation, other)


@pytest.mark.parametrize("kind", ["glasses", "table", "umbrella", "windmill"])
def test_heights_are_those_of_the_shape(kind: str) -> None:
    axis = torch.linspace(-1, 1, 64)
    inside = torch.cartesian_prod(axis, axis, axis)
    z = inside[signed_distance(Toy(kind), inside) < 0][:, 2]
    low, high = ALL_KINDS[kind].height
    assert z.min().item() == pytest.approx(low, abs=0.06)
    assert z.max().item() == pytest.approx(high, abs=0.06)


def _flat(count: int) -> Lights:
    return Lights(torch.full((count, 3), 3.0), torch.zeros(count), torch.ones(count))


def test_finishes() -> None:
    """Of a ball-like snowman before a light: a highlight, grain, and neither."""
    light = Lights(torch.tensor([[3.0, 0.0, 0.0]]), torch.tensor([0.6]), torch.tensor([0.4]))
    toys = {name: Toy("snowman", "blue", finish=name) for name in (None, *FINISHES)}
    views = {name: render_toy(toy, fixed_cameras(0.0, 0.0), light, 48, torch.zeros(3))[0] for name, toy in toys.items()}
    assert torch.equal(views["matte"], views[None])
    brighter = views["shiny"] - views["matte"]
    assert brighter.min() >= 0
    assert brighter.max() > 0.3
    darker = (views["matte"] - views["wooden"]).amax(0)
    assert ((darker > 0.05).float().mean() / (views["matte"].amax(0) > 0).float().mean()).item() > 0.15
    assert Toy("snowman", finish="wooden").paint()[0] == NATURAL_WOOD
    bare = render_toy(toys["wooden"], fixed_cameras(0.0, 0.0), light, 48, torch.zeros(3), "textureless")
    assert torch.equal(bare, render_toy(toys[None], fixed_cameras(0.0, 0.0), light, 48, torch.zeros(3), "textureless"))


def test_a_second_part_is_painted_and_bears_the_body_otherwise() -> None:
    front = fixed_cameras(0.0, 0.0)
    house = render_toy(Toy("house", "red", trim_color="white"), front, _flat(1), 48, torch.zeros(3))[0]
    assert house[:, 35, 24].min() > 0.9  # the door
    paint = paint_toys([Toy("chair", "red", "striped"), Toy("chair", "red", "striped", trim_color="blue")])
    trim = SURFACES.index("trim")
    assert paint.surface[:, trim].tolist() == [SURFACES.index("body"), trim]


def test_the_paint_kernel_paints_pairs_and_finishes_as_views_are_painted() -> None:
    toys = [
        Toy("mug", "red", "striped", finish="shiny", relation=ON, other=Toy("table", "blue", finish="wooden")),
        Toy("duck", "yellow", finish="wooden"),
    ]
    cameras = fixed_cameras(torch.tensor([20.0, 110.0]), torch.tensor([10.0, 40.0]))
    rays = cameras.rays(48, 48)
    buffers = trace(toys, rays)
    lights = Lights(torch.tensor([[3.0, 1, 2], [-1, 3, 2]]), torch.full((2,), 0.6), torch.full((2,), 0.4))
    behind, paint = torch.tensor([[0.1, 0.2, 0.3], [0.5, 0.5, 0.5]]), paint_toys(toys)
    expected = paint_views(buffers, rays, paint, lights, behind, supersample=2)
    found = paint_traced(TracedViews.of([buffers]), torch.arange(2), cameras, paint, lights, behind)
    # Normals are kept in 8 bits, which a highlight shows, and points on the edge of a mark may fall to either side.
    assert ((found - expected).abs().amax(1) > 0.03).float().mean() < 0.01


def test_batches_of_the_wide_world_hold_nothing_that_is_held_out() -> None:
    data = ToyboxData(0, 96, pool_size=96, image_size=8, caption_dropout=0.0, world=WIDE)
    toys = [toy for step in range(4) for toy in data.batch(step).toys]
    assert not any(is_held_out(toy) for toy in toys)
    assert {toy.finish for toy in toys} == {None, *FINISHES}
    assert {toy.relation for toy in toys} == {None, NEXT_TO, ON}
    assert any(toy.trim_color for toy in toys)
    read = [parse_toy(text.rsplit(",", 1)[0], WIDE) for text in data.batch(0).captions[::4]]
    assert [toy.kind for toy in read] == [toy.kind for toy in data.batch(0).toys]


def test_a_tenth_is_held_out() -> None:
    kinds, colors = (
        WIDE.kinds,
        ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "white", "black"),
    )
    assert sum(trim_held_out(kind, color) for kind in kinds for color in colors) == len(kinds)
    finishes = [finish_held_out(kind, name) for kind in kinds for name in FINISHES]
    assert sum(finishes) / len(finishes) == pytest.approx(0.1, abs=0.01)
    scenes = [together_held_out(one, relation, two) for one in kinds for relation in (NEXT_TO, ON) for two in kinds]
    assert sum(scenes) / len(scenes) == pytest.approx(0.1, abs=0.01)


def test_what_a_judge_of_the_wide_world_reads() -> None:
    assert shown(MUSHROOM_BY_CAR, "front", WIDE) == {
        "kind": "mushroom",
        "color": "red",
        "pattern": "plain",
        "size": None,
        "part_color": None,
        "view": "front",
        "trim_color": None,
        "finish": "matte",
        "relation": "next to",
        "other_kind": "car",
        "other_color": "blue",
    }
    alone = shown(Toy("house", "red"), None, WIDE)
    assert (alone["trim_color"], alone["relation"], alone["other_kind"]) == ("black", "alone", None)
    for toy in default_prompts(60, WIDE).toys.values():
        for name, word in shown(toy, "back", WIDE).items():
            assert word is None or word in words_of(WIDE)[name]


def test_lessons_of_the_wide_world() -> None:
    traced = trace_views(12, 3, 16, WIDE)
    lesson = painted_lesson(traced, random.Random(1), torch.Generator().manual_seed(1), world=WIDE)
    right = targets(lesson.toys, lesson.views, WIDE)
    assert set(right) == set(words_of(WIDE))
    assert lesson.materials.shape[1] == 14, "13 materials and nothing: second parts count as what they are made of"
    assert (traced.buffers.material[traced.buffers.material != NOTHING] >= len(SURFACES)).any()
    torch.testing.assert_close(lesson.materials.sum(dim=1), torch.ones(12, 2, 2))
