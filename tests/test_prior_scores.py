import json
from pathlib import Path

import pytest
import torch

from dreamfusion.errors import DreamFusionError
from dreamfusion.evaluation.features import frechet_distance, mean_pair_distance, principal_directions
from dreamfusion.evaluation.judge import ToyboxJudge
from dreamfusion.evaluation.network import Reader, save_reader
from dreamfusion.evaluation.prior import (
    Exam,
    PriorTrial,
    draw_exam,
    evaluate_prior,
    losses_by_word,
    noise_losses,
    true_pictures,
    words_right,
    write_scores,
)
from dreamfusion.evaluation.reading import WORDS
from dreamfusion.guidance.base import Embeddings, Guidance
from dreamfusion.guidance.pixel import PixelGuidance
from dreamfusion.io.files import TABLE_BEGIN, TABLE_END
from dreamfusion.method.cameras import fixed_cameras
from dreamfusion.standard import EMBEDDED_PRIOR
from dreamfusion.toybox.scores import score_tables
from dreamfusion.toybox.world import Toy, is_held_out

TINY = PriorTrial(toys=4, steps=2, scales=(2.0,), levels=(0.2, 0.8), diverse_toys=2, diverse_samples=2)


# Features


def test_the_frechet_distance_of_two_normal_distributions_by_hand():
    """Of means 0 and (3, 4), deviations (1, 2) and (2, 2): 25 + (2 - 1)^2."""
    corners = torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1]]).repeat(100, 1) * (399 / 400) ** 0.5
    one, two = corners * torch.tensor([1.0, 2]), corners * 2 + torch.tensor([3.0, 4])
    assert frechet_distance(one, two) == pytest.approx(26, rel=1e-4)
    assert frechet_distance(one, one) == pytest.approx(0, abs=1e-4)


def test_the_distance_of_pairs_by_hand():
    """Three points of a triangle with sides 3, 4 and 5, and three that are one."""
    triangle = torch.tensor([[0.0, 0], [3, 0], [3, 4]])
    assert mean_pair_distance(triangle[None]) == pytest.approx(4)
    assert mean_pair_distance(torch.stack([triangle, torch.ones(3, 2)])) == pytest.approx(2, abs=1e-3)


def test_principal_directions_are_where_most_varies():
    features = torch.randn(200, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([0.1, 5, 1])
    directions = principal_directions(features, 2)
    torch.testing.assert_close(directions.T @ directions, torch.eye(2), atol=1e-5, rtol=0)
    assert directions[0].abs().max() < 0.1
    assert directions[1, 1].abs() > 0.99, "the largest comes last"


# The exam


def test_an_exam_is_half_held_out_and_has_no_small_toys():
    exam = draw_exam(PriorTrial(toys=40))
    assert len(exam.toys) == len(exam.views) == len(exam.cameras) == 40
    assert sum(is_held_out(toy) for toy in exam.toys) == 20
    assert all(toy.size != "small" for toy in exam.toys)
    assert exam.texts[0].startswith("a ")
    assert exam.texts[0].endswith(f", {exam.views[0]} view")
    assert draw_exam(PriorTrial(toys=40)).texts == exam.texts


class Blind(Guidance):
    """A prior that always guesses that there is no noise: its error is that of a constant."""

    device = torch.device("cpu")
    sample_size = 16
    alphas_cumprod = torch.linspace(0.99, 0.01, 100)

    def embed(self, prompts):
        return Embeddings(torch.zeros(len(prompts), 1, 1))

    def encode(self, image):
        return 2 * image - 1

    def predict_noise(self, z_t, t, embeddings):
        return torch.zeros_like(z_t)


def test_the_loss_of_a_blind_prior_by_hand():
    """The error of eps is eps itself, of mean square 1; that of v is it over alpha."""
    exam = draw_exam(TINY)
    losses = noise_losses(Blind(), exam, true_pictures(exam, 16, 0), TINY)
    assert losses.shape == (2, 4)
    for row, t in zip(losses, (20, 80), strict=True):
        torch.testing.assert_close(row, torch.full((4,), 1 / Blind.alphas_cumprod[t].item()), rtol=0.2, atol=0)


def test_losses_are_averaged_by_word():
    toys = [Toy("car", "red"), Toy("car", "blue", "striped"), Toy("duck", "red")]
    exam = Exam(toys, fixed_cameras(torch.zeros(3), 0.0), ["front", "side", "front"])
    trial = PriorTrial(levels=(0.25, 0.75))
    table = losses_by_word(torch.tensor([[1.0, 2, 3], [3.0, 4, 5]]), exam, trial)
    assert table["noise level"] == {"0.25": 2.0, "0.75": 4.0}
    assert table["kind"] == {"car": 2.5, "duck": 4.0}
    assert table["color"] == {"blue": 3.0, "red": 3.0}
    assert table["pattern"] == {"plain": 3.0, "striped": 3.0}
    assert table["view"] == {"front": 3.0, "side": 3.0}


class Reads:
    """A judge that reads kind, pattern and view number by number; everything else is always right."""

    words = WORDS

    def __init__(self, exam: Exam) -> None:
        self.exam = exam

    def read(self, images):
        """The picture holds (kind, pattern) as the levels of its first two channels, in hundredths."""
        from dreamfusion.evaluation.training import targets

        read = {n: torch.nn.functional.one_hot(t, len(WORDS[n])).float() for n, t in self._right(targets).items()}
        for channel, name in enumerate(("kind", "pattern")):
            word = (images[:, channel].mean(dim=(1, 2)) * 100).round().long()
            read[name] = torch.nn.functional.one_hot(word, len(WORDS[name])).float()
        return read

    def _right(self, targets):
        return targets(self.exam.toys, self.exam.views)


def test_words_count_where_the_judge_can_tell_and_the_prompt_names_them():
    kinds, patterns = (WORDS[name].index for name in ("kind", "pattern"))
    toys = [Toy("car", "red", "striped"), Toy("car", "red"), Toy("duck", "red", "spotted")]
    exam = Exam(toys, fixed_cameras(torch.zeros(3), 0.0), ["front"] * 3)

    def pictures(*rows):
        return torch.tensor([[k / 100, p / 100, 0.0] for k, p in rows])[:, :, None, None].expand(-1, -1, 2, 2)

    car, duck = kinds("car"), kinds("duck")
    striped, spotted, plain = patterns("striped"), patterns("spotted"), patterns("plain")
    truth = pictures((car, striped), (car, plain), (duck, striped))  # the spots of the duck cannot be seen
    samples = pictures((car, plain), (car, striped), (car, spotted))
    shares = words_right(Reads(exam), exam, samples, truth)
    assert shares["kind"] == pytest.approx(2 / 3)
    assert shares["pattern"] == 0.0, "of the first alone: the second names none, the third's is hidden"
    assert shares["size"] is None
    assert shares["color"] == 1.0
    assert shares["all"] == 0.0
    assert words_right(Reads(exam), exam, truth, truth)["all"] == 1.0


def test_a_prior_is_scored_and_its_card_shows_it(tmp_path: Path):
    torch.manual_seed(0)
    save_reader(Reader(WORDS, width=8), tmp_path / "judge", {})
    seen: list[tuple[int, int, str]] = []
    scores = evaluate_prior(
        PixelGuidance(EMBEDDED_PRIOR),
        ToyboxJudge(tmp_path / "judge"),
        TINY,
        name="prior",
        on_progress=lambda *row: seen.append(row),
    )
    assert [row[0] for row in seen] == [0, 1, 2, 3]
    assert all(0 < value < 1 for value in scores["loss"]["noise level"].values())
    assert scores["samples"]["2"]["frechet"] > 0
    card = tmp_path / "prior"
    card.mkdir()
    (card / "README.md").write_text(f"# Card\n{TABLE_BEGIN}\nnothing\n{TABLE_END}\nend\n", encoding="utf-8")
    write_scores(scores, tmp_path / "out", card)
    written = json.loads((card / "scores.json").read_text(encoding="utf-8"))
    assert score_tables(written) in (card / "README.md").read_text(encoding="utf-8")
    assert (tmp_path / "out" / "scores.md").read_text(encoding="utf-8") == score_tables(written)
    (card / "README.md").write_text("# Card\n", encoding="utf-8")
    with pytest.raises(DreamFusionError, match="no place for the table"):
        write_scores(scores, tmp_path / "out", card)


def test_the_tables_by_hand():
    scores = {
        "settings": {"toys": 40, "steps": 10, "diversity_scale": 3.0},
        "loss": {"noise level": {"0.3": 0.02, "0.9": 0.05}, "kind": {"car": 0.03, "duck": 0.01, "mug": 0.02}},
        "samples": {"3": dict.fromkeys(("kind", "color", "pattern", "part_color", "view"), 0.5)},
        "frechet_of_truth": 1.25,
        "diversity": {"samples": 2.5, "true pictures": 3.0},
    }
    scores["samples"]["3"] |= {"size": None, "all": 0.25, "frechet": 4.5}
    table = score_tables(scores)
    assert "| 3 | 50 % | 50 % | 50 % | – | 50 % | 50 % | 25 % | 4.50 |" in table
    assert "| kind | duck 0.0100 | car 0.0300 |" in table
    assert "| loss | 0.0200 | 0.0500 |" in table
