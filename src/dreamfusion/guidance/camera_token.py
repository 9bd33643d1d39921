"""Where a view is taken from, told to a prior as one more token behind the words.

A text names four views at best, each of them a quarter of the horizon wide, so that a prior which has only words must
average over what it cannot know: left or right side, three quarters or profile, the size in the picture. A prior that
was trained with this token knows the camera, as MVDream (arXiv 2308.16512) and Zero-1-to-3 (arXiv 2303.11328) do, and
draws the same object from every side. Its tokenizer says so by holding the word `CAMERA_WORD`. The token is no more
than numbers that follow from the camera; the prior's own attention learns to read them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dreamfusion.method.cameras import Cameras

CAMERA_WORD = "<camera>"
"""In the vocabulary of a prior that takes the token."""

PICTURES = "pictures"
"""Key in the tokenizer's configuration under which such a prior says what its pictures were like: ``textureless``, true
if some were, of which the token told, and ``full_size``, the true scale of things that a word calls small, such as
{"small": 0.65}, but that were shown from so much nearer that they appeared at full size."""

_TURNS, _TILTS = 6, 3
FEATURES = 2 * (_TURNS + _TILTS) + 1
"""How many numbers describe a camera."""


def camera_features(cameras: Cameras) -> Tensor:
    """Return [B, FEATURES] numbers in [-1, 1]: waves of azimuth and elevation, and how large the object appears.

    The waves are the sines, then the cosines, of 1 to 6 times the azimuth and of 1 to 3 times the elevation. The last
    number is ten times the logarithm of focal length over distance, relative to the middle of the default cameras
    (1.425 over 2.5), limited to [-1, 1]. All are of the camera's true position, jitter included.
    """
    position = cameras.position
    distance = position.norm(dim=1)
    azimuth = torch.atan2(position[:, 1], position[:, 0])
    elevation = torch.asin((position[:, 2] / distance).clamp(-1, 1))
    turns = azimuth[:, None] * torch.arange(1, _TURNS + 1, device=position.device)
    tilts = elevation[:, None] * torch.arange(1, _TILTS + 1, device=position.device)
    zoom = 10 * torch.log(cameras.focal / distance * (2.5 / 1.425)).clamp(-0.1, 0.1)
    return torch.cat([turns.sin(), turns.cos(), tilts.sin(), tilts.cos(), zoom[:, None]], dim=1)


def with_camera(
    words: Tensor,
    features: Tensor | None = None,
    known: Tensor | None = None,
    textureless: Tensor | None = None,
) -> Tensor:
    """Return the tokens [B, L, D] of words followed by one for their cameras, [B, L + 1, D].

    That one is 1, the `camera_features` [B, FEATURES], then zeros. Without ``features``, and where ``known`` [B] is 0,
    it is all zeros, which means that the camera is not known. Where ``textureless`` [B] is 1, the first of the zeros
    is 1: the picture shows the shape alone, white under its light.
    """
    token = words.new_zeros(len(words), 1, words.shape[-1])
    if features is not None:
        token[:, 0, 0] = 1
        token[:, 0, 1 : 1 + FEATURES] = features
    if known is not None:
        token *= known[:, None, None]
    tokens = torch.cat([words, token], dim=1)
    return tokens if textureless is None else with_textureless(tokens, textureless)


def with_textureless(tokens: Tensor, textureless: Tensor) -> Tensor:
    """Return the tokens [B, L + 1, D] of `with_camera` with what ``textureless`` [B] says, 1 for a textureless picture.

    It is said of views whose camera is not known as well.
    """
    tokens = tokens.clone()
    tokens[:, -1, 1 + FEATURES] = textureless.to(tokens)
    return tokens
