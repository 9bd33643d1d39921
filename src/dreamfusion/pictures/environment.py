"""Light from all around: equirectangular pictures, what they show, and how they light a surface.

A picture [H, W, 3] holds linear light. Its middle column is azimuth 0, its left half is towards +y, its top is above.
The light that a diffuse surface gets is so smooth in its normal that nine numbers per colour hold it to about a
percent (Ramamoorthi and Hanrahan 2001, "An efficient representation for irradiance environment maps").
"""

from __future__ import annotations

import io
import math
import subprocess
import warnings
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from dreamfusion.assets.gltf import to_linear
from dreamfusion.assets.video import find_ffmpeg
from dreamfusion.errors import DreamFusionError
from dreamfusion.method.shading import harmonics
from dreamfusion.pictures.skies import SKIES, directions, made_sky

MOST_PIXELS = 2**26
"""Of a picture that is read: 8192 x 8192, which as floats take 0.8 GB."""

_HIGH_RANGE = (".hdr", ".exr")


def load_environment(path: Path | str) -> Tensor:
    """Return the linear light [H, W, 3] of an .hdr or .exr file, of an ordinary (sRGB) picture, or one that ships.

    Those are called as in `dreamfusion.pictures.skies`: studio, sunset or overcast.
    Raises DreamFusionError if it cannot be read.
    """
    if str(path) in SKIES:
        return made_sky(str(path))
    path = Path(path)
    if path.suffix.lower() in _HIGH_RANGE:
        return torch.from_numpy(_decode(path))
    return torch.from_numpy(to_linear(load_picture(path).permute(1, 2, 0).numpy()))


def load_picture(path: Path | str) -> Tensor:
    """Return an ordinary picture [3, H, W] in [0, 1]; DreamFusionError if it cannot be read."""
    try:
        with warnings.catch_warnings(), Image.open(path) as picture:
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the size is looked at here
            if picture.width * picture.height > MOST_PIXELS:
                raise DreamFusionError(
                    f"The picture {path} has {picture.width} x {picture.height} pixels: shrink it to at most "
                    f"{MOST_PIXELS // 2**20} million."
                )
            pixels = np.asarray(picture.convert("RGB"), dtype=np.float32)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = getattr(error, "strerror", None) or "it is damaged or of an unknown format"
        raise DreamFusionError(f"Cannot read the picture {path}: {reason}.") from None
    return torch.from_numpy(pixels / 255.0).permute(2, 0, 1)


def _decode(path: Path) -> np.ndarray:
    """Return the floats of a high-range picture, which ffmpeg turns into the simplest of such formats, PFM."""
    if not path.is_file():
        raise DreamFusionError(f"Cannot read the picture {path}: there is no such file.")
    command = [find_ffmpeg(), "-v", "error", "-i", str(path), "-frames:v", "1", "-pix_fmt", "gbrpf32le"]
    result = subprocess.run([*command, "-c:v", "pfm", "-f", "image2pipe", "-"], capture_output=True)
    stream = io.BytesIO(result.stdout)
    try:
        if stream.readline().strip() != b"PF":
            raise ValueError
        width, height = (int(number) for number in stream.readline().split())
        order = "<f4" if float(stream.readline()) < 0 else ">f4"
        pixels = np.frombuffer(stream.read(), order).reshape(height, width, 3)[::-1]  # rows from the bottom
    except ValueError:
        raise DreamFusionError(f"Cannot read the picture {path}: it is damaged or of an unknown format.") from None
    return np.nan_to_num(pixels.astype(np.float32)).clip(0.0, 1e6)


def look_up(environment: Float[Tensor, "H W 3"], toward: Float[Tensor, "*n 3"]) -> Float[Tensor, "*n 3"]:
    """Return the light [..., 3] that comes from unit directions [..., 3], interpolated between pixels."""
    height, width, _ = environment.shape
    column = (0.5 - torch.atan2(toward[..., 1], toward[..., 0]) / (2 * math.pi)) * width
    row = torch.acos(toward[..., 2].clamp(-1, 1)) / math.pi * height
    # One column more on either side, so that the picture closes around.
    closed = torch.cat([environment[:, -1:], environment, environment[:, :1]], dim=1).permute(2, 0, 1)[None]
    grid = torch.stack([(column + 1) / (width + 2) * 2 - 1, row / height * 2 - 1], dim=-1).reshape(1, 1, -1, 2)
    found = torch.nn.functional.grid_sample(closed, grid, padding_mode="border", align_corners=False)
    return found[0, :, 0].T.reshape(toward.shape)


def irradiance_coefficients(environment: Float[Tensor, "H W 3"]) -> Float[Tensor, "9 3"]:
    """Return [9, 3]: times `harmonics` of a normal, the linear light that a white diffuse surface sends back.

    That is the environment convolved with the clamped cosine, over pi (equations 7 to 9 of the paper).
    """
    height, width, _ = environment.shape
    edges = torch.cos(torch.linspace(0, math.pi, height + 1))
    solid_angle = (edges[:-1] - edges[1:])[:, None] * (2 * math.pi / width)
    values = harmonics(directions(height, width)) * solid_angle[..., None]
    cosine = torch.tensor([1.0] + [2 / 3] * 3 + [1 / 4] * 5)
    return cosine[:, None] * torch.einsum("hwk,hwc->kc", values, environment)
