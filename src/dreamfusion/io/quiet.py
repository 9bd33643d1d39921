"""Libraries' notices, which a user of this package cannot act on."""

from __future__ import annotations

import os


def quiet_libraries() -> None:
    """Keep the notices of libraries that are imported later off the screen, unless the environment asks for them."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
