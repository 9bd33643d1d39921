"""What is told while a model is fetched and read."""

import logging
import threading
from pathlib import Path

import pytest
from huggingface_hub import constants

from dreamfusion.guidance.families import open_prior
from dreamfusion.guidance.reading import telling
from dreamfusion.guidance.reading.telling import in_bytes, told_download
from dreamfusion.standard import LOADING
from support.families import save_sd


def test_sizes_are_said_as_people_say_them():
    assert [in_bytes(size) for size in (4_000_000, 340_400_000, 5_060_000_000)] == ["4 MB", "340 MB", "5.1 GB"]


def test_a_large_model_is_told_part_by_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.INFO, LOADING)
    model = save_sd(tmp_path / "model")
    open_prior(model)
    assert caplog.messages == [], "a small one is read in a moment"
    monkeypatch.setattr(telling, "LEAST_BYTES", 1)
    open_prior(model)
    first, rest = caplog.messages
    assert first.startswith("reading text_encoder, ")
    assert sorted(rest.removeprefix("reading ").split(", ")[:-1]) == ["unet", "vae"]
    size = (model / "text_encoder/model.safetensors").stat().st_size
    assert first.endswith(in_bytes(size))


def test_a_download_tells_what_has_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    blobs = tmp_path / "models--some--model" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / "earlier").write_bytes(bytes(7_000_000))
    caplog.set_level(logging.INFO, LOADING)
    told = threading.Event()
    listener = logging.Handler()
    listener.emit = lambda record: told.set()
    logging.getLogger(LOADING).addHandler(listener)
    try:
        with told_download("some/model", every=0.01):
            (tmp_path / "new").write_bytes(bytes(5_000_000))
            (tmp_path / "new").rename(blobs / "new.incomplete")
            assert told.wait(60)
    finally:
        logging.getLogger(LOADING).removeHandler(listener)
    assert caplog.messages[0].startswith("downloading some/model, 12 MB so far, ")
