"""Prompts: view-dependent texts, and how much each of them counts for a camera (paper section 3.2, step 3).

The front view of an object and its back view are different pictures, so the diffusion prior is asked for the view
that was rendered: the prompt gets ", front view" and so on appended, chosen by where the camera stands.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from dreamfusion.config import ViewMode, ViewTexts
from dreamfusion.errors import DreamFusionError

VIEWS = ("front", "side", "back", "overhead")
"""The named views, in the order of every tensor that has one entry per view."""

_DEFAULT_TEXTS = ViewTexts()


def validate_prompt(prompt: str) -> str:
    """Return the prompt with white space tidied; raise DreamFusionError if nothing is left of it."""
    tidy = " ".join(prompt.split())
    if not tidy:
        raise DreamFusionError('The prompt is empty: say what to make, for example "a red mushroom".')
    if any("\ud800" <= character <= "\udfff" for character in tidy):
        raise DreamFusionError("The prompt holds bytes that are no text: type it again, in a terminal with UTF-8.")
    return tidy


def view_prompts(prompt: str, texts: ViewTexts = _DEFAULT_TEXTS) -> list[str]:
    """Return the prompt as seen from each of `VIEWS`, four strings; DreamFusionError for an empty prompt."""
    prompt = validate_prompt(prompt)
    return [prompt + getattr(texts, view) for view in VIEWS]


def view_weights(
    azimuth_deg: Float[Tensor, " B"],
    elevation_deg: Float[Tensor, " B"],
    mode: ViewMode = "nearest",
    texts: ViewTexts = _DEFAULT_TEXTS,
) -> Float[Tensor, "B 4"]:
    """Return how much each of `VIEWS` counts for each camera, [B, 4]; rows sum to 1.

    ``azimuth_deg`` and ``elevation_deg`` are [B] in degrees; azimuths may be outside [-180, 180]. The text embedding
    of a camera is its row of weights times the four embeddings. "nearest" is one-hot by the thresholds of ``texts``:
    the paper's appendix A.2 reports that taking the nearest embedding worked well. "interpolated" is linear in
    |azimuth|, from front (0) over side (90) to back (180), as in NVIDIA's NeMo and in the paper's body text; above
    ``overhead_deg`` it is the overhead view alone.
    """
    turn = (torch.remainder(azimuth_deg + 180.0, 360.0) - 180.0).abs()
    around = _nearest(turn, texts) if mode == "nearest" else _interpolated(turn)
    overhead = (elevation_deg > texts.overhead_deg).to(around.dtype)[:, None]
    return torch.cat([around * (1 - overhead), overhead], dim=-1)


def perp_neg_weights(
    azimuth_deg: Float[Tensor, " B"], elevation_deg: Float[Tensor, " B"], texts: ViewTexts = _DEFAULT_TEXTS
) -> Float[Tensor, "B 2"]:
    """Return how strongly each camera is pushed away from the front and from the side view, [B, 2], at most about 0.

    Perp-Neg (arXiv 2304.04968) takes weights -(a exp(-b r) + c) that vanish where the negative view is
    the true one. The constants are threestudio's, as is r = 1 - |azimuth| / 90 in the front half, from 0 at the side
    to 1 at the front, and 2 - |azimuth| / 90 in the back half, from 0 at the back to 1 at the side. Above
    ``overhead_deg`` both are 0. Angles are [B], in degrees.
    """
    turn = (torch.remainder(azimuth_deg + 180.0, 360.0) - 180.0).abs()
    r = 1.0 - turn / 90.0
    ahead = r >= 0
    front = torch.where(ahead, _decay(r, 4.0, -2.426), _decay(r + 1.0, 1.0, 0.967))
    side = torch.where(ahead, _decay(1.0 - r, 4.0, -2.426), _decay(r + 1.0, 1.0, -0.606))
    below = (elevation_deg <= texts.overhead_deg).to(turn.dtype)
    return -torch.stack([front, side], dim=-1) * below[:, None]


def _decay(r: Tensor, a: float, c: float, b: float = 0.5) -> Tensor:
    return a * torch.exp(-b * r) + c


def _nearest(turn: Tensor, texts: ViewTexts) -> Tensor:
    """One-hot [B, 3] over front, side, back for the unsigned azimuth ``turn`` in [0, 180]."""
    front = turn <= texts.front_deg
    back = (turn >= 180.0 - texts.back_deg) & ~front
    return torch.stack([front, ~(front | back), back], dim=-1).to(turn.dtype)


def _interpolated(turn: Tensor) -> Tensor:
    """Hat functions [B, 3] around 0, 90 and 180 degrees for the unsigned azimuth ``turn`` in [0, 180]."""
    centres = torch.tensor([0.0, 90.0, 180.0], dtype=turn.dtype, device=turn.device)
    return (1.0 - (turn[:, None] - centres).abs() / 90.0).clamp(min=0.0)
