"""What is told while a model is fetched and read, which may take minutes: lines to the logger `standard.LOADING`.

Small models, such as the embedded prior, are read in a moment and not told of.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread

from huggingface_hub import constants
from huggingface_hub.file_download import repo_folder_name

from dreamfusion.standard import LOADING

LEAST_BYTES = 200_000_000
"""Files that together are smaller are read before anybody wonders."""
EVERY_SECONDS = 5.0

_logger = logging.getLogger(LOADING)
_logger.setLevel(logging.INFO)  # who listens decides; without a listener Python shows warnings alone


def tell_reading(what: str, files: Iterable[Path]) -> None:
    """Tell that files are read next, with their size."""
    size = sum(file.stat().st_size for file in files)
    if size >= LEAST_BYTES:
        _logger.info("reading %s, %s", what, in_bytes(size))


@contextmanager
def told_download(name: str, every: float = EVERY_SECONDS) -> Iterator[None]:
    """Tell every few seconds how much of a hub model has come, while the block lasts; nothing if nothing comes."""
    folder = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=name, repo_type="model") / "blobs"
    before, ended = _size(folder), Event()

    def tell() -> None:
        last = before
        while not ended.wait(every):
            now = _size(folder)
            if now > last:
                _logger.info("downloading %s, %s so far, %s/s", name, in_bytes(now), in_bytes((now - last) / every))
            last = now

    teller = Thread(target=tell, daemon=True)
    teller.start()
    try:
        yield
    finally:
        ended.set()
        teller.join()


def in_bytes(size: float) -> str:
    """Return a size as people say it."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def _size(folder: Path) -> int:
    """Return the bytes of the files in a folder, of which some may be just arriving or vanishing."""
    size = 0
    with suppress(OSError):
        for file in folder.iterdir():
            with suppress(OSError):
                size += file.stat().st_size
    return size
