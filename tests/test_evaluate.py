import json
import math
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from tokenizers.processors import TemplateProcessing
from transformers import AutoModel, AutoTokenizer, CLIPConfig, CLIPModel

from dreamfusion.errors import DreamFusionError
from dreamfusion.evaluation import ablation
from dreamfusion.evaluation.evaluate import (
    Evaluation,
    Record,
    evaluate,
    from_json,
    judge_views,
    summarize,
    threads_each,
    to_json,
    without_unclear_backs,
)
from dreamfusion.evaluation.geometry import best_alignment, compare_surfaces, iou, overlap, score_geometry, toy_volume
from dreamfusion.evaluation.judge import ClipJudge, open_judge, preprocess
from dreamfusion.evaluation.judging import covered, saturation, speckle, words_read
from dreamfusion.evaluation.lessons import Lessons
from dreamfusion.evaluation.prompts import PromptList, chosen_prompts, default_prompts, distinct_shapes, read_prompts
from dreamfusion.evaluation.reading import shown
from dreamfusion.evaluation.report import markdown, publish, show, web_page, write_reports
from dreamfusion.evaluation.statistics import Estimate, bootstrap, lowest_tenth, share
from dreamfusion.evaluation.training import JudgeSettings, train_judge
from dreamfusion.evaluation.worker import BEHIND
from dreamfusion.runs.results import SHADINGS
from dreamfusion.scenes.scene import PICTURE_BACKDROP
from dreamfusion.toybox.captions import caption, parse_toy
from dreamfusion.toybox.kinds import KINDS
from dreamfusion.toybox.model import build_tokenizer
from dreamfusion.toybox.render import signed_distance
from dreamfusion.toybox.world import Toy, held_out, is_held_out


class SolidToy:
    """A field that is a toy: dense inside, over a soft edge, moved and scaled as asked."""

    def __init__(self, toy: Toy, scale: float = 1.0, shift: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> None:
        self.toy, self.scale, self.shift = toy, scale, torch.tensor(shift)

    def density(self, x: torch.Tensor) -> torch.Tensor:
        distance = self.scale * signed_distance(self.toy, (x - self.shift) / self.scale)
        return 22.0 * torch.exp(-distance / 0.008).clamp(max=50.0)

    def albedo(self, x: torch.Tensor) -> torch.Tensor:
        return torch.full_like(x, 0.5)


class Oracle:
    """Stands in for a judge: it sees the number that the pictures hold, the index of their caption."""

    name = "oracle"

    def first(self, images: torch.Tensor, texts: list[str]) -> torch.Tensor:
        return (images.mean(dim=(1, 2, 3)) * 100).round().long().clamp(max=len(texts) - 1)


# Geometry


def test_overlap_by_hand():
    a, b = np.zeros((4, 4, 4), bool), np.zeros((4, 4, 4), bool)
    a[:2], b[1:3] = True, True
    assert iou(a, b) == pytest.approx(1 / 3)
    assert iou(np.zeros_like(a), np.zeros_like(a)) == 0


def test_the_true_shape_scores_nearly_one():
    score = score_geometry(SolidToy(Toy("duck")), Toy("duck"))
    assert score.iou > 0.93
    assert score.scale == pytest.approx(1.0)
    assert score.chamfer < 0.02
    assert score.normal_error_deg < 15


def test_alignment_undoes_scale_and_shift():
    toy = Toy("duck")
    moved = score_geometry(SolidToy(toy, scale=0.8, shift=(0.1, -0.08, 0.05)), toy)
    assert moved.iou > 0.88
    assert moved.iou_unaligned < 0.6
    assert moved.scale == pytest.approx(1.25, rel=0.04)
    assert moved.chamfer < 0.03


def test_alignment_does_not_turn_a_car_around():
    truth = toy_volume(Toy("duck"))
    assert best_alignment(truth[::-1], truth).iou < 0.75
    assert best_alignment(truth, truth).iou == pytest.approx(1.0)


def test_a_wrong_shape_scores_low():
    assert score_geometry(SolidToy(Toy("chair")), Toy("car")).iou < 0.45


def test_surfaces_by_hand():
    """Two parallel planes 0.1 apart, one with normals turned by 60 degrees."""
    axis = np.linspace(0, 1, 11)
    plane = np.stack(np.meshgrid(axis, axis, [0.0], indexing="ij"), -1).reshape(-1, 3)
    up = np.tile([0.0, 0, 1], (len(plane), 1))
    tilted = np.tile([math.sin(math.radians(60)), 0, math.cos(math.radians(60))], (len(plane), 1))
    distance, angle = compare_surfaces(plane, up, plane + 0.1 * up, tilted)
    assert distance == pytest.approx(0.1)
    assert angle == pytest.approx(60)


# Statistics


def test_shares_by_hand():
    none = share(0, 40)
    assert none is not None
    assert none.value == none.low == 0
    assert none.high == pytest.approx(0.0876, abs=1e-3)  # z^2 / (n + z^2)
    half = share(5, 10)
    assert half is not None
    assert (half.low, half.high) == pytest.approx((0.2366, 0.7634), abs=1e-3)
    assert share(0, 0) is None


def test_the_lowest_tenth_by_hand():
    values = np.array([[0.0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10], [5.0] * 11])
    assert lowest_tenth(values, axis=1).tolist() == [1, 5]


def test_bootstrap_covers_the_mean():
    values = np.random.default_rng(0).normal(2.0, 1.0, 400).tolist()
    estimate = bootstrap(values)
    assert estimate is not None
    assert estimate.value == pytest.approx(np.mean(values))
    assert (estimate.high - estimate.low) / 2 == pytest.approx(1.96 / 20, rel=0.15)
    assert bootstrap([]) is None
    constant = bootstrap([0.7] * 5, np.median)
    assert constant == Estimate(0.7, 0.7, 0.7, 5)


# Prompts


def test_the_default_prompts_are_eighty_of_all_kinds_half_of_them_held_out():
    toys = default_prompts().toys
    assert len(toys) == 80
    new = [toy for toy in toys.values() if is_held_out(toy)]
    assert len(new) == 40
    assert sum(held_out(toy.kind, str(toy.color)) for toy in new) == 20, "the others by the colour of their part"
    assert {kind: sum(toy.kind == kind for toy in toys.values()) for kind in KINDS} == dict.fromkeys(KINDS, 4)
    assert all(caption(toy) == prompt for prompt, toy in toys.items())
    assert len({tuple(shown(toy).values()) for toy in toys.values()}) == 80, "no two look alike"
    for name, least in (("pattern", 25), ("size", 15), ("part_color", 30)):
        assert sum(getattr(toy, name) is not None for toy in toys.values()) >= least
    assert default_prompts() == default_prompts()


def test_prompts_are_drawn_by_number_or_read_from_a_file(tmp_path: Path):
    assert list(chosen_prompts("6").toys) == list(default_prompts().toys)[:6]
    assert chosen_prompts(None) == default_prompts()
    (tmp_path / "mine.txt").write_text("a red car\n", encoding="utf-8")
    assert list(chosen_prompts(str(tmp_path / "mine.txt")).toys) == ["a red car"]
    with pytest.raises(DreamFusionError, match="at least 2"):
        chosen_prompts("1")


def test_a_prompt_file_is_read_with_notes(tmp_path: Path):
    file = tmp_path / "prompts.txt"
    file.write_text("a red car\n\n  a  red car \na small duck\n", encoding="utf-8")
    prompts = read_prompts(file)
    assert prompts.toys == {"a red car": Toy("car", "red"), "a small duck": Toy("duck", size="small")}
    assert prompts.notes == ("line 2 is empty; left out", "line 3 repeats 'a red car'; left out")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a red car\na red zebra\na taupe car\n", r"line 2: .*zebra.*\(1 more such lines\)"),
        (b"\n\n", "holds no prompt"),
        ("ein rötes car".encode("latin-1"), "not UTF-8"),
    ],
)
def test_bad_prompt_files(tmp_path: Path, content: bytes, message: str):
    file = tmp_path / "prompts.txt"
    file.write_bytes(content)
    with pytest.raises(DreamFusionError, match=message):
        read_prompts(file)
    with pytest.raises(DreamFusionError, match="Cannot read"):
        read_prompts(tmp_path / "missing.txt")


def test_shapes_leave_out_colours():
    toys = [parse_toy(p) for p in ("a red car", "a blue striped car with white wheels", "a small red car")]
    assert distinct_shapes(toys) == ["a car", "a small car"]


# The judge


@pytest.fixture(scope="module")
def tiny_judge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A judge that has hardly learned anything, made by the training itself."""
    folder = tmp_path_factory.mktemp("judge") / "judge"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dreamfusion.evaluation.training.Lessons", partial(Lessons, chunk=4, chunks=2))
        return train_judge(folder, JudgeSettings(steps=2, batch_size=4, warmup_steps=1))


@pytest.fixture(scope="module")
def tiny_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real CLIP model, as OpenAI's are stored, tiny and random."""
    folder = tmp_path_factory.mktemp("clip")
    tokenizer = build_tokenizer()
    # CLIP reads what a text says at its end.
    end_mark = ("</s>", tokenizer.eos_token_id)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[end_mark])
    common = {"hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 2, "num_hidden_layers": 1}
    end = tokenizer.eos_token_id
    text = common | {"vocab_size": len(tokenizer), "max_position_embeddings": 20, "eos_token_id": end}
    vision = common | {"image_size": 32, "patch_size": 8}
    torch.manual_seed(0)
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_clip_gives_the_logits_of_the_model_itself(tiny_clip: Path):
    """Those of transformers' own forward pass, with the tokens and pixels that CLIP expects."""
    model = AutoModel.from_pretrained(tiny_clip, torch_dtype=torch.float32).eval()
    size = model.config.vision_config.image_size
    images, texts = torch.rand(2, 3, size, size), ["a red car", "a blue duck"]
    tokens = AutoTokenizer.from_pretrained(tiny_clip)(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        out = model(
            input_ids=tokens.input_ids,
            attention_mask=tokens.attention_mask,
            pixel_values=preprocess(images, size),
        )
    judge = open_judge(tiny_clip)
    assert isinstance(judge, ClipJudge)
    similarity = judge.similarity(images, texts)
    torch.testing.assert_close(similarity * model.logit_scale.exp(), out.logits_per_image, atol=1e-4, rtol=1e-4)
    assert torch.equal(judge.first(images, texts), similarity.argmax(1))


def test_preprocessing_by_hand():
    image = torch.full((1, 3, 10, 10), 0.5)
    pixels = preprocess(image, 4)
    assert pixels.shape == (1, 3, 4, 4)
    torch.testing.assert_close(pixels[0, 0], torch.full((4, 4), (0.5 - 0.48145466) / 0.26862954))


# Scores


def test_views_are_judged_by_hand():
    """The oracle reads the answer from the picture's grey level, in hundredths."""
    prompts = PromptList({p: parse_toy(p) for p in ("a red car", "a blue car", "a small duck")})
    right, wrong = torch.full((8, 3, 4, 4), 0.01), torch.full((8, 3, 4, 4), 0.02)
    mixed = torch.cat([right[:6], wrong[:2]])
    behind = right[:3]
    views = {"albedo": right, "lambertian": mixed, "textureless": torch.zeros(8, 3, 4, 4), BEHIND: behind}
    scores = judge_views(views, "a blue car", prompts.toys["a blue car"], Oracle(), prompts)
    assert scores["albedo_precision"] == 1.0
    assert scores["color_precision"] == 0.75
    assert scores["geo_precision"] == 1.0  # shapes: "a car", "a small duck"
    # Asked for front or back, it says back (index 1) of every view, then front of two of three.
    assert scores["janus"] is False
    behind = torch.stack([torch.zeros(3, 4, 4), torch.zeros(3, 4, 4), right[0]])
    assert judge_views(views | {BEHIND: behind}, "a red car", Toy("car"), Oracle(), prompts)["janus"] is True
    assert "pattern_right" not in scores, "only the toybox judge reads words"


class Literate:
    """Reads the same from every picture, each with a probability of its own."""

    def __init__(self) -> None:
        self.words = {"kind": ("car", "duck"), "pattern": ("striped", "plain"), "size": ("small", "usual")}
        self.words["part_color"] = ("red",)

    def read(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        kind = torch.tensor([[0.9, 0.1], [0.4, 0.6], [0.45, 0.55]])
        pattern = torch.tensor([[0.9, 0.1], [0.4, 0.6], [0.4, 0.6]])  # in the mean 0.57 striped, though two say plain
        return {"kind": kind.log(), "pattern": pattern.log(), "size": kind.log(), "part_color": torch.zeros(3, 1)}


def test_words_are_read_by_their_mean_probability():
    views = torch.zeros(3, 3, 4, 4)
    read = words_read(views, Toy("car", "red", "striped", "tall"), Literate())
    assert read["kind_read"] == pytest.approx(1 / 3)
    assert read["pattern_right"] is True
    assert read["size_right"] is False
    assert read["part_color_right"] is None, "none is named"
    assert words_read(views, Toy("car", "red", "checkered"), Literate())["pattern_right"] is False


def test_colourfulness_and_speckle_by_hand():
    textureless = torch.tensor(PICTURE_BACKDROP)[None, :, None, None].repeat(1, 1, 8, 8)
    textureless[..., 1:6, 1:6] = 0.5
    assert covered(textureless).sum() == 25
    albedo = textureless.clone()
    albedo[..., 1:6, 1:6] = torch.tensor([0.9, 0.3, 0.1])[:, None, None]
    assert saturation(albedo, textureless) == pytest.approx(0.8)
    assert speckle(textureless) == 0
    textureless[..., 3, 3] = 0.6  # one pixel of the nine whose surroundings are the object's, 0.1 brighter
    assert speckle(textureless) == pytest.approx(0.1 / 9)
    nothing = torch.tensor(PICTURE_BACKDROP)[None, :, None, None].repeat(1, 1, 8, 8)
    assert saturation(nothing, nothing) is None
    assert speckle(nothing) is None


def test_failed_runs_count_as_zero_and_are_not_dropped():
    records = [
        Record("a", 0, False, color_precision=1.0, geo_precision=0.5, janus=False, iou=0.8, chamfer=0.1),
        Record("b", 0, True, error="The scene is empty", kind_read=0.0, pattern_right=False),
        Record("c", 0, True, kind_read=0.75, pattern_right=True, iou=0.8, color_precision=0.5, geo_precision=0.25),
    ]
    summary = summarize(records)
    value = lambda name: summary[name].value  # noqa: E731
    assert value("color_precision") == 0.5
    assert value("geo_precision") == 0.25
    assert value("iou_median") == 0.8
    assert value("iou_lowest_tenth") == pytest.approx(0.16)  # a tenth of the way from the first to the last of three
    assert value("failed") == pytest.approx(1 / 3)
    assert value("pattern_right") == 0.5
    assert value("unrecognisable") == 0.5  # of those whose kind was asked for
    assert summary["size_right"] is None
    assert value("janus_rate") == 0.0
    assert summary["janus_rate"].count == 1
    assert summary["chamfer"].count == 1


def test_toys_with_unclear_backs_have_no_janus_verdict():
    records = [Record("a", 0, False, janus=True), Record("a", 1, False, janus=False), Record("b", 0, False, janus=True)]
    truth = [Record("a", 0, False, janus=True), Record("b", 0, False, janus=False)]
    kept = without_unclear_backs(records, truth)
    assert [record.janus for record in kept] == [None, None, True]
    assert summarize(kept)["janus_rate"].count == 1


def test_reports_come_from_the_json_alone(tmp_path: Path):
    settings = {"preset": "quick", "seeds": 1, "changes": {}, "judge": "x", "prompts": 2}
    records = [
        Record("a red car", 0, False, None, 1.0, 1.0, 1.0, janus=True, iou=0.8, part_color_right=False),
        Record("a <b> duck", 0, True, error="The scene is <empty>"),
    ]
    evaluation = from_json(to_json(Evaluation(settings, records, [])))
    assert evaluation.records == records
    table = markdown(evaluation)
    assert "| R-Precision, color | 50 % (0 to 100) | 100 % (100 to 100) | 0 % (0 to 0) | – | at least 97 % |" in table
    assert "| a red car | 0 | no | 100 % | 100 % | part color | 0.80 | yes |  |" in table
    assert "failed: The scene is <empty>" in table
    folder = tmp_path / "runs" / "a-red-car" / "0"
    folder.mkdir(parents=True)
    views = {name: torch.rand(8, 3, 64, 64).half() for name in SHADINGS} | {BEHIND: torch.rand(3, 3, 64, 64).half()}
    save_file(views, folder / "views.safetensors")
    page = web_page(evaluation, tmp_path)
    assert page.count("data:image/png;base64,") == 4
    assert "&lt;empty&gt;" in page
    assert "<empty>" not in page
    write_reports(evaluation, tmp_path)
    assert (tmp_path / "report.html").read_text() == page
    picture = np.asarray(Image.open(tmp_path / "overview.png"))
    shown, prompt, failed = picture[:64, :260], picture[64:], picture[:64, 300:]
    assert shown.std() > 50
    assert prompt.min() < 100
    assert (failed == 255).all(), "a failed run is left white"
    assert show(Estimate(12.4, 10, 15, 3), "°") == "12° (10 to 15)"


# Whole evaluations, with real processes


def test_runs_side_by_side_share_the_cores(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("dreamfusion.evaluation.evaluate.usable_cores", lambda: 8)
    assert [threads_each(jobs, {}) for jobs in (1, 3, 16)] == [8, 2, 1]
    assert threads_each(2, {"OMP_NUM_THREADS": "1"}) == 1, "what the user asks for holds"
    assert threads_each(2, {"OMP_NUM_THREADS": "2,1"}) == 4, "a list, one number per level of nesting"


TINY = {"steps": 2, "views": 1, "resolution": 16, "device": "cpu"}


@pytest.mark.slow
def test_a_small_evaluation_resumes_and_counts_failures(tmp_path: Path, tiny_judge: Path):
    prompts = PromptList({p: parse_toy(p) for p in ("a red mushroom", "a green tree")})
    seen: list[int] = []
    judge = open_judge(tiny_judge)
    first = evaluate(
        tmp_path, prompts, changes=TINY, judge=judge, jobs=1, on_progress=lambda done, count, what: seen.append(done)
    )
    assert seen == [1, 2]
    assert [record.error for record in first.records] == [None, None]
    for record in first.records:
        assert 0 < record.iou < 1
        assert record.iou >= record.iou_unaligned
        assert record.opacity is not None
        assert 0 < record.opacity < 1
    values = json.loads((tmp_path / "evaluation.json").read_text())
    assert values["summary"]["all"]["failed"]["value"] == 0
    assert len(values["runs"]) == len(values["truth"]) == 2
    write_reports(first, tmp_path)
    assert "a red mushroom" in (tmp_path / "report.html").read_text()

    # Called again: the finished run is kept, the one that lost its score is done again, to the same result.
    run = tmp_path / "runs" / "a-red-mushroom" / "0"
    kept, again = run / "score.json", tmp_path / "runs" / "a-green-tree" / "0" / "score.json"
    before, score = kept.stat().st_mtime_ns, json.loads(again.read_text())
    again.unlink()
    second = evaluate(tmp_path, prompts, changes=TINY, judge=judge, jobs=1)
    assert kept.stat().st_mtime_ns == before
    assert second.records[1].iou == pytest.approx(score["iou"])

    with pytest.raises(DreamFusionError, match="other settings"):
        evaluate(tmp_path, prompts, changes=TINY | {"steps": 3}, judge=judge, jobs=1)

    # A run that fails is counted: its checkpoint and its score are damaged here.
    kept.unlink()
    for file in (run / "run" / "checkpoints").rglob("*.safetensors"):
        file.write_bytes(b"damaged")
    third = evaluate(tmp_path, prompts, changes=TINY, judge=judge, jobs=1)
    assert third.records[0].error
    assert third.summary()["all"]["failed"].value == 0.5
    assert third.records[1].error is None


@pytest.mark.long
def test_a_small_ablation(tmp_path: Path, tiny_judge: Path, monkeypatch: pytest.MonkeyPatch):
    prompts = PromptList({"a red mushroom": Toy("mushroom", "red")})
    two = {name: ablation.COMPONENTS[name] for name in ("base", "+ textureless")}
    monkeypatch.setattr(ablation, "COMPONENTS", two)
    judge = open_judge(tiny_judge)
    results = ablation.ablate(tmp_path, prompts, changes=TINY, judge=judge, jobs=1)
    assert list(results) == ["base", "+ textureless"]
    table = (tmp_path / "ablation.md").read_text()
    assert table.splitlines()[0] == "| | albedo | shaded | textureless | IoU |"
    assert set(json.loads((tmp_path / "ablation.json").read_text())) == set(two)
    assert (tmp_path / "ablation.svg").read_text().count("<rect") >= 1 + 4 + 4
    config = (tmp_path / "base/runs/a-red-mushroom/0/run/config.yaml").read_text()
    assert "azimuth_max_deg: 60.0" in config
    with pytest.raises(DreamFusionError, match="guidance cannot be changed"):
        ablation.ablate(tmp_path / "x", prompts, "guidance", changes={"guidance": {"t_max": 0.9}}, judge=judge)


def test_the_guidance_sheet_has_a_row_per_scale_and_a_column_per_seed(tmp_path: Path):
    one = ablation.guidance_sheet(tmp_path, "a red mushroom", 1)
    two = ablation.guidance_sheet(tmp_path, "a red mushroom", 2)
    assert two.shape[1] == one.shape[1]
    assert two.shape[2] > one.shape[2]


def test_the_command_line_refuses_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    from dreamfusion.app.cli import main

    file = tmp_path / "prompts.txt"
    file.write_text("a red zebra\n", encoding="utf-8")
    settings = tmp_path / "settings.yaml"
    settings.write_text("stepz: 3\n", encoding="utf-8")
    for arguments, message in [
        (["evaluate", "--config", str(settings)], "stepz"),
        (["evaluate", "--prompts", str(tmp_path / "missing.txt")], "Cannot read"),
        (["evaluate", "--prompts", str(file)], "zebra"),
        (["evaluate", "--judge", str(tmp_path / "nothing")], "judge train"),
        (["ablate", "--prompts", str(file)], "zebra"),
    ]:
        with pytest.raises(SystemExit) as stop:
            main([*arguments, "--output", str(tmp_path / "out")])
        assert stop.value.code == 1
        assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()


def test_the_tables_in_the_documents_are_those_of_the_evaluation(tmp_path):
    root = Path(__file__).parents[1]
    (tmp_path / "docs").mkdir()
    names = ["README.md", "docs/evaluation.md", "docs/evaluation.json"]
    for name in names:
        (tmp_path / name).write_bytes((root / name).read_bytes())
    publish(tmp_path)
    for name in names:
        assert (tmp_path / name).read_text() == (root / name).read_text(), "python -m dreamfusion.evaluation.report"


def test_without_a_surface_nothing_overlaps():
    mushroom = Toy("mushroom")
    assert overlap(SolidToy(mushroom, scale=1e-3), mushroom) == 0.0, "an empty scene"
