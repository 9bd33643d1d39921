"""Training on one's own pictures, and a trained prior that gets more words: what it knew stays exactly."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from PIL import Image

from dreamfusion.errors import DreamFusionError
from dreamfusion.guidance.camera_token import with_camera
from dreamfusion.guidance.pixel import PixelGuidance
from dreamfusion.toybox.captions import vocabulary
from dreamfusion.toybox.data import MixedData, ToyboxData
from dreamfusion.toybox.model import MAX_WORDS
from dreamfusion.toybox.pictures import Pictures, PicturesData
from dreamfusion.toybox.samples import save_samples
from dreamfusion.toybox.text import hidden_states
from dreamfusion.toybox.train import HeldOut, Trainer, TrainSettings, check_settings, train, words_to_learn
from dreamfusion.toybox.world import SMALL, WIDE

TINY = TrainSettings(steps=2, batch_size=2, image_size=16, warmup_steps=2, decay_steps=2, text_steps=2)
Folder = Callable[..., Path]


@pytest.fixture(autouse=True)
def small_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """Train a small network on few views, and draw samples in one step: what is tested here is the trainer."""
    monkeypatch.setattr("dreamfusion.toybox.train.save_samples", partial(save_samples, steps=1))
    monkeypatch.setattr("dreamfusion.toybox.train.HeldOut", partial(HeldOut, batches=1))
    monkeypatch.setattr("dreamfusion.toybox.model.CHANNELS", (8, 8, 16))
    monkeypatch.setattr("dreamfusion.toybox.train.ToyboxData", lambda *a, **k: ToyboxData(*a, **k | {"pool_size": 8}))


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """Write a folder of pictures with the lines of metadata.jsonl that are given, or two good ones."""

    def write(*lines: str) -> Path:
        place = tmp_path / "pictures"
        place.mkdir()
        Image.new("RGB", (40, 20), (255, 0, 0)).save(place / "wide.png")
        picture = Image.new("RGBA", (10, 20), (0, 0, 255, 255))
        picture.paste((0, 255, 0, 0), (0, 0, 10, 10))
        picture.save(place / "clear.png")
        good = (
            '{"file_name": "wide.png", "text": "A red Zebra, side view"}',
            '{"file_name": "clear.png", "text": "a blue zeppelin", "artist": "me"}',
        )
        (place / "metadata.jsonl").write_text("\n".join(lines or good) + "\n", encoding="utf-8")
        return place

    return write


def test_a_folder_of_pictures_by_hand(folder: Folder) -> None:
    pictures = Pictures.read(folder(), 8)
    assert pictures.captions == ("a red zebra , side view", "a blue zeppelin")
    assert pictures.words[0] == "a"
    assert {"zebra", "zeppelin", ","} <= set(pictures.words)
    assert pictures.images.shape == (2, 4, 8, 8)
    assert pictures.images[0].flatten(1).T.unique(dim=0).tolist() == [[255, 0, 0, 255]], "cut to a square"
    assert pictures.images[1, 3, :4].max() == 0, "the upper half is transparent"
    assert pictures.images[1, 3, 4:].tolist() == [[0, 0, 255, 255, 255, 255, 0, 0]] * 4, "padded to a square"
    assert pictures.images[1, :3, 6, 4].tolist() == [0, 0, 255]


def test_a_folder_may_have_a_train_split(folder: Folder) -> None:
    place = folder()
    inner = place / "train"
    inner.mkdir()
    for file in list(place.iterdir()):
        if file.is_file():
            file.rename(inner / file.name)
    assert len(Pictures.read(place, 4).captions) == 2


def test_long_captions_are_cut(folder: Folder) -> None:
    text = " ".join(f"w{i}" for i in range(30))
    pictures = Pictures.read(folder(json.dumps({"file_name": "wide.png", "text": text})), 4)
    assert pictures.captions[0].split() == [f"w{i}" for i in range(MAX_WORDS)]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('{"file_name": "none.png", "text": "a car"}', "names none.png, which is not there"),
        ('{"file_name": "wide.png", "text": " "}', "line 1: the caption of wide.png is empty"),
        ('{"file_name": "wide.png"}', "line 1: give file_name and text"),
        ("not JSON", "line 1: give file_name and text"),
        ('{"file_name": "../wide.png", "text": "a car"}', "lies outside"),
        ('{"file_name": "metadata.jsonl", "text": "a car"}', "cannot be read as a picture"),
        (" ", "is empty"),
    ],
)
def test_bad_metadata_is_one_line(folder: Folder, line: str, problem: str) -> None:
    with pytest.raises(DreamFusionError, match=problem) as error:
        Pictures.read(folder(line), 4)
    assert "\n" not in str(error.value)


def test_a_folder_without_metadata_and_none_at_all(tmp_path: Path) -> None:
    with pytest.raises(DreamFusionError, match=r"has no metadata\.jsonl"):
        Pictures.read(tmp_path, 4)
    with pytest.raises(DreamFusionError, match="no such folder"):
        Pictures.read(tmp_path / "none", 4)
    with pytest.raises(DreamFusionError, match="--picture-share must be"):
        check_settings(TrainSettings(picture_share=0.0))


def test_no_camera_is_known_of_pictures_and_alpha_shows_a_backdrop(folder: Folder) -> None:
    pictures = Pictures.read(folder(), 8)
    data = PicturesData(pictures, seed=0, batch_size=40)
    batch, again = data.batch(3), PicturesData(pictures, seed=0, batch_size=40).batch(3)
    assert torch.equal(batch.images, again.images)
    assert batch.captions == again.captions
    assert batch.camera_known.sum() == 0
    tokens = with_camera(torch.zeros(40, 20, 128), batch.cameras, batch.camera_known, batch.textureless)
    assert tokens[:, -1].abs().max() == 0, "the token of a camera that is not known"
    assert batch.weights.tolist() == [[1, 0, 0, 0]] * 40
    assert set(batch.captions) == {"", *pictures.captions}
    backdrops = {tuple(image[:, 0, 0].tolist()) for image in batch.images}
    assert len(backdrops) > 10, "another backdrop for each transparent picture"


def test_batches_are_mixed_by_their_share(folder: Folder) -> None:
    settings = TrainSettings(batch_size=8, image_size=16, picture_share=0.25)
    pictures = Pictures.read(folder(), 16)
    trainer = Trainer(settings, pictures=pictures)
    assert isinstance(trainer.data, MixedData)
    batch = trainer.data.batch(0)
    assert (len(batch.toys), len(batch.images), len(batch.captions)) == (6, 8, 32)
    assert batch.camera_known[6:].tolist() == [0, 0]
    assert trainer.shows_toys


def answers(prior: Path, texts: list[str]) -> torch.Tensor:
    """Return what a UNet is told of texts, and what it then says of one noisy picture."""
    pipe = PixelGuidance.load(prior)
    with torch.no_grad():
        words = with_camera(hidden_states(pipe.tokenizer, pipe.text_encoder.float(), texts))
        z = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0)).expand(len(texts), -1, -1, -1)
        said = pipe.unet.float()(z, torch.tensor([500]), words).sample
    return torch.cat([words.flatten(1), said.flatten(1)], dim=1)


OLD = ["a red mushroom, front view", "a small blue striped house with a white roof", ""]


def test_a_widened_prior_answers_old_words_as_before(tmp_path: Path) -> None:
    small = Trainer(TINY)
    small.export(tmp_path / "small")
    wide = TrainSettings(**{**vars(TINY), "world": "wide"})
    words = words_to_learn(wide, tmp_path / "small", None)
    assert list(words.all) == vocabulary(WIDE)
    widened = Trainer(wide, words=words)
    widened.start_from(tmp_path / "small")
    widened.export(tmp_path / "wide")
    assert torch.equal(answers(tmp_path / "small", OLD), answers(tmp_path / "wide", OLD))
    rows = widened.parameters["text_encoder.shared.weight"]
    assert len(rows) == 4 + len(vocabulary(WIDE))
    assert rows[-1].std() > 0
    worlds = [PixelGuidance(tmp_path / name).world for name in ("small", "wide")]
    assert worlds == [SMALL, WIDE]
    guidance = PixelGuidance(tmp_path / "wide")
    assert guidance.understood("a crimson kitten").prompt == "a red cat"
    assert guidance.unknown_words("a red cat near a table") == []


@pytest.mark.slow
def test_pictures_alone_teach_new_words_and_resume(tmp_path: Path, folder: Folder) -> None:
    small = Trainer(TINY)
    small.export(tmp_path / "small")
    settings = TrainSettings(**{**vars(TINY), "pictures": str(folder())})
    trainer = train(tmp_path / "run", settings, start_from=tmp_path / "small", save_every=1)
    assert trainer.words.all[: len(vocabulary())] == tuple(vocabulary())
    assert set(trainer.words.all[-trainer.words.learned :]) == {"zebra", "zeppelin"}
    old = PixelGuidance.load(tmp_path / "small").text_encoder.shared.weight
    rows = trainer.parameters["text_encoder.shared.weight"].detach()
    torch.testing.assert_close(rows[: len(old)], old.to(rows), rtol=0, atol=0)
    guidance = PixelGuidance(tmp_path / "run/prior")
    assert guidance.unknown_words("a red zebra") == []
    assert guidance.understood("a red zebra").prompt == "a red zebra"
    assert guidance.unknown_words("a red okapi") == ["okapi"]
    assert not (tmp_path / "run/held_out.jsonl").exists()
    again = train(tmp_path / "run", settings, start_from=tmp_path / "small")
    assert again.words == trainer.words
