"""The amortised network: what it puts out is an ordinary scene, its training resumes exactly, its results are runs."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from dreamfusion.amortized.curriculum import Vocabulary
from dreamfusion.amortized.instant import at_once, instant, open_amortized
from dreamfusion.amortized.network import NetworkSize, SceneNetwork, seed_noise, text_features
from dreamfusion.amortized.scene import AmortizedScene
from dreamfusion.amortized.training import AmortizeSettings, train_amortized
from dreamfusion.config import SceneConfig, parse_config
from dreamfusion.errors import DreamFusionError, Stopped
from dreamfusion.evaluation import amortized as evaluation
from dreamfusion.evaluation import worker
from dreamfusion.evaluation.judge import ToyboxJudge
from dreamfusion.evaluation.prompts import PromptList
from dreamfusion.experiments import warmstart
from dreamfusion.experiments.warmstart import WarmStartSettings, first_equal, run_warmstart
from dreamfusion.fields.nerf import NerfField
from dreamfusion.guidance.analytic import AnalyticGuidance
from dreamfusion.guidance.base import Embeddings
from dreamfusion.method.optimize import Step, draw_views
from dreamfusion.runs.generate import generate
from dreamfusion.toybox.captions import parse_toy
from dreamfusion.toybox.kinds import KINDS
from dreamfusion.toybox.world import is_held_out
from support.worlds import SHORT

SIZE = NetworkSize(basis=3, levels=2, width=8)
VOCABULARY = Vocabulary(("mushroom",), 0)
SCENE = {"nerf": {"grid": {"levels": 3, "base_resolution": 4, "max_resolution": 8}, "hidden_width": 8}}
CHANGES: dict[str, Any] = {
    "views": 1,
    "resolution": 8,
    "device": "cpu",
    "checkpoint_every": 4,
    "preview_every": 100,
    "scene": SCENE,
    "loss": {"normal_smooth_3d": 0.0},
}
SETTINGS = AmortizeSettings(10, VOCABULARY, SIZE)


class Reader(AnalyticGuidance):
    """Two grey pictures, mixed by the length of the prompt: words that differ are told apart."""

    def __init__(self) -> None:
        super().__init__(torch.stack([torch.full((3, 8, 8), v) for v in (0.2, 0.9)]), torch.ones(2, 4))

    def embed(self, prompts: Sequence[str]) -> Embeddings:
        share = torch.tensor([0.1 + 0.01 * (len(prompt) % 80) for prompt in prompts])
        return Embeddings(torch.stack([share, 1 - share], dim=1)[:, None])


def network() -> SceneNetwork:
    return SceneNetwork(SceneConfig.model_validate(SCENE).nerf, 2, SIZE, seed=3)


# --- what is learned --------------------------------------------------------------------------------------------------


def test_the_vocabulary_leaves_out_what_is_held_out():
    whole = Vocabulary()
    captions = whole.captions()
    assert len(whole.pairs(new=False)) == 180
    assert len(whole.pairs(new=True)) == 20
    assert len(captions) > 500
    toys = [parse_toy(caption) for caption in captions]
    assert not any(is_held_out(toy) for toy in toys)
    assert all(is_held_out(parse_toy(caption)) for caption in whole.pairs(new=True))
    assert {toy.kind for toy in toys} == set(KINDS)
    assert {toy.size for toy in toys} == {None, "tall", "wide"}
    assert any(toy.pattern for toy in toys)
    assert any(toy.part_color for toy in toys)


def test_every_prompt_has_its_turn():
    prompts = VOCABULARY.prompts(25)
    assert len(prompts) == 25
    assert set(prompts[:9]) == set(prompts[9:18]) == set(VOCABULARY.captions())
    assert prompts[:9] != prompts[9:18]
    assert VOCABULARY.prompts(10) == prompts[:10]


def test_features_are_what_the_words_add():
    features = text_features(Reader(), ["red", "green"])
    assert features.norm(dim=1).tolist() == pytest.approx([2**0.5] * 2)
    torch.testing.assert_close(features[0], torch.tensor([1.0, -1.0]))  # a greater share of the first picture


# --- the network and its scenes ---------------------------------------------------------------------------------------


def test_the_network_puts_out_the_parameters_of_a_field():
    net = network()
    values = net(torch.ones(2), seed_noise(0))
    field = NerfField(SceneConfig.model_validate(SCENE).nerf)
    assert {name: value.shape for name, value in values.items()} == {
        name: value.shape for name, value in field.named_parameters()
    }
    first_levels = field.layout.offsets[2]
    assert values["table"][:first_levels].abs().sum() > 0
    assert values["table"][first_levels:].abs().sum() == 0  # fine levels are left to an optimisation
    other = net(-torch.ones(2), seed_noise(0))
    assert not torch.equal(values["table"], other["table"])
    assert not torch.equal(values["table"], net(torch.ones(2), seed_noise(1))["table"])
    assert torch.equal(values["density_network.0.weight"], other["density_network.0.weight"])


def test_the_table_is_a_mean_and_a_mixture():
    net = network()
    with torch.no_grad():
        net.mean.fill_(0.5)
        net.coefficients.weight.zero_()
        net.coefficients.bias.copy_(torch.tensor([1.0, 0.0, -2.0]))
    table = net(torch.ones(2), seed_noise(0))["table"][: net.modulated]
    torch.testing.assert_close(table, 0.5 + net.basis[0] - 2 * net.basis[2])


def test_gradients_of_a_rendering_reach_all_of_the_network():
    config = parse_config(SHORT | {"prompt": "x", "scene": SCENE})
    net = network()
    torch.nn.init.normal_(net.biases.weight, std=0.01, generator=torch.Generator().manual_seed(0))
    scene = AmortizedScene(config.scene, net, torch.ones(2, 2), [4, 5])
    generators = {name: torch.Generator().manual_seed(1) for name in ("camera", "light", "shading", "background")}
    out = scene.render(draw_views(config, 0.0, generators), torch.Generator().manual_seed(2))
    (out.rgb.sum() + out.opacity.sum()).backward()
    assert [name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum()] == []
    assert set(scene.state_dict()) == {f"network.{name}" for name in net.state_dict()}


# --- training ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("amortized") / "network"
    train_amortized(folder, SETTINGS, guidance_model=Reader(), changes=CHANGES)
    return folder


def test_a_stopped_training_goes_on_to_the_same_bits(trained: Path, tmp_path: Path):
    def stop(step: Step) -> None:
        if step.number == 6:
            raise KeyboardInterrupt

    with pytest.raises(Stopped):
        train_amortized(tmp_path / "a", SETTINGS, guidance_model=Reader(), changes=CHANGES, on_step=stop)
    with pytest.raises(DreamFusionError, match="has not ended: go on with dreamfusion amortize train"):
        open_amortized(tmp_path / "a")
    steps: list[int] = []
    path = train_amortized(
        tmp_path / "a", SETTINGS, guidance_model=Reader(), changes=CHANGES, on_step=lambda s: steps.append(s.number)
    )
    assert steps == [7, 8, 9, 10]
    assert path.read_bytes() == (trained / "network.safetensors").read_bytes()
    with pytest.raises(DreamFusionError, match=r"--guidance-scale 3\.0, not 4"):
        train_amortized(
            tmp_path / "a", AmortizeSettings(10, VOCABULARY, SIZE, 4.0), guidance_model=Reader(), changes=CHANGES
        )


def test_training_changes_what_the_network_makes(trained: Path):
    before = SceneNetwork(open_amortized(trained).config.scene.nerf, 2, SIZE, SETTINGS.seed)
    after = open_amortized(trained).network
    assert (before.basis - after.basis).abs().max() > 1e-3


# --- results ----------------------------------------------------------------------------------------------------------


def test_an_instant_object_is_a_run_that_can_be_optimised_further(trained: Path, tmp_path: Path):
    changes = {name: CHANGES[name] for name in ("views", "resolution", "device", "loss")}
    made = instant(
        "a red mushroom",
        trained,
        output=tmp_path / "run",
        guidance_model=Reader(),
        assets=False,
        steps=2,
        seed=7,
        collapse_check=0.0,
        **changes,
    )
    expected = open_amortized(trained).network(text_features(Reader(), ["a red mushroom"])[0], seed_noise(7))
    torch.testing.assert_close(made.scene.field.table, expected["table"])
    warm = generate(resume=tmp_path / "run", guidance_model=Reader(), assets=False)
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 2
    assert not torch.equal(warm.scene.field.table, expected["table"])


def test_kinds_that_were_not_learned_are_told(trained: Path, tmp_path: Path):
    notes: list[str] = []
    instant("a blue car", trained, output=tmp_path / "r", guidance_model=Reader(), assets=False, on_note=notes.append)
    assert "was trained on mushroom alone" in notes[-1]


def test_evaluation_tells_seen_from_held_out(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(worker, "VIEW_SIZE", 8)
    monkeypatch.setattr(evaluation, "overlap", lambda field, toy, smoothing: 0.5)  # tested elsewhere, and slow
    pairs = evaluation.all_pairs(open_amortized(trained))
    assert len(pairs.toys) == 10
    seen, new = VOCABULARY.pairs(new=False)[0], VOCABULARY.pairs(new=True)[0]
    chosen = PromptList({text: parse_toy(text) for text in (seen, new)})
    record = evaluation.evaluate_amortized(trained, tmp_path, chosen, Reader(), ToyboxJudge())
    assert set(record["scores"]) == {"seen", "held out"}
    assert 0 <= record["scores"]["held out"]["color_precision"] <= 1
    assert record["scores"]["held out"]["iou"] == 0.5
    assert json.loads((tmp_path / "amortized.json").read_text())["prompts"].keys() == {seen, new}
    assert "| held out | 1 |" in (tmp_path / "amortized.md").read_text()


def test_a_warm_start_is_watched_and_compared(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(warmstart, "VIEW_SIZE", 8)
    monkeypatch.setattr(warmstart, "overlap", lambda field, toy, smoothing: 0.5)
    changes = {name: CHANGES[name] for name in ("views", "resolution", "device", "loss")} | {"collapse_check": 0.0}
    settings = WarmStartSettings((VOCABULARY.pairs(new=True)[0],), trained, steps=3, every=2)
    looked: dict[bool, torch.Tensor] = {}
    original = warmstart._look

    def look(state, config, prompt, *rest):
        found = original(state, config, prompt, *rest)
        looked[state.scene.config.nerf.hidden_width == 8] = state.scene.field.table.detach().clone()
        return found

    monkeypatch.setattr(warmstart, "_look", look)
    found = run_warmstart(tmp_path / "a", settings, Reader(), ToyboxJudge(), changes=changes)
    for outcome in found.outcomes.values():
        assert [name for name in outcome.figures if name.startswith("iou")] == ["iou at 0", "iou at 2", "iou at 3"]
        assert len(outcome.pictures["views"]) == 3
    report = (tmp_path / "a" / "warmstart.md").read_text()
    assert "| 3 | 0.500 | 0.500 |" in report
    assert "Begun with the soft ball: as good as the end of the ordinary run from step 0 on." in report
    # Looking changes nothing: runs that are looked at less end with the same parameters.
    before = dict(looked)
    run_warmstart(tmp_path / "b", replace(settings, every=100), Reader(), ToyboxJudge(), changes=changes)
    assert set(before) == {True, False}, "one has the small network's field, the other the preset's"
    assert all(torch.equal(table, looked[warm]) for warm, table in before.items())
    beginning = open_amortized(trained).scene(
        text_features(Reader(), list(settings.prompts))[0], 0, torch.device("cpu")
    )
    assert not torch.equal(before[True], beginning.field.table)


def test_the_first_step_of_equal_quality_by_hand():
    rows = [(0, 0.2, 1.0), (20, 0.79, 0.99), (40, 0.7, 1.0), (60, 0.785, 0.98), (80, 0.9, 1.0)]
    curve = {step: {"iou": overlap, "right": right} for step, overlap, right in rows}
    assert first_equal(curve, {"iou": 0.8, "right": 1.0}) == 60, "at 40 it was worse again"
    assert first_equal(curve, {"iou": 0.93, "right": 1.0}) is None


# --- bad input --------------------------------------------------------------------------------------------------------


def test_what_cannot_be_trained_is_refused():
    with pytest.raises(DreamFusionError, match="--kinds: give some of mushroom"):
        Vocabulary(("unicorn",))
    with pytest.raises(DreamFusionError, match="--steps must be at least 9, one for each prompt"):
        AmortizeSettings(8, VOCABULARY).check()
    with pytest.raises(DreamFusionError, match="--basis must be at least 1"):
        AmortizeSettings(10, VOCABULARY, NetworkSize(basis=0)).check()


def test_what_cannot_be_made_at_once_is_refused(trained: Path, tmp_path: Path):
    nothing: dict[str, Any] = {"resume": None}
    with pytest.raises(DreamFusionError, match="holds no amortised network: train one with"):
        at_once("a red mushroom", tmp_path, "default", None, {}, nothing, print)
    with pytest.raises(DreamFusionError, match="leave out --resume"):
        at_once("a red mushroom", trained, "default", None, {}, {"resume": tmp_path}, print)
    with pytest.raises(DreamFusionError, match="--prompts: 'a blue car' is none of the pairs"):
        run_warmstart(tmp_path / "w", WarmStartSettings(("a blue car",), trained), Reader(), ToyboxJudge())
    with pytest.raises(DreamFusionError, match="--every must be at least 1"):
        WarmStartSettings(("a blue mushroom",), trained, every=0).check()
    with pytest.raises(DreamFusionError, match="--instant needs a prompt"):
        at_once(None, trained, "default", None, {}, nothing, print)
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("amortized.json", "config.yaml"):
        (copy / name).write_bytes((trained / name).read_bytes())
    (copy / "network.safetensors").write_bytes(b"half")
    with pytest.raises(DreamFusionError, match="is damaged"):
        open_amortized(copy)
