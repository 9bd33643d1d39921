"""Video: frames to a file that every browser, phone and player opens: H.264 in MP4, VP9 in WebM, or GIF."""

from __future__ import annotations

import contextlib
import errno
import subprocess
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import IO

import imageio_ffmpeg
import torch
from torch import Tensor

from dreamfusion.assets.images import to_uint8
from dreamfusion.errors import DreamFusionError
from dreamfusion.io.files import write_atomically


def find_ffmpeg() -> str:
    """Return the path of the ffmpeg program; raise `DreamFusionError` if there is none."""
    try:
        return imageio_ffmpeg.get_ffmpeg_exe()
    except RuntimeError as error:
        raise DreamFusionError(
            "No ffmpeg was found: reinstall imageio-ffmpeg, or name a program in IMAGEIO_FFMPEG_EXE."
        ) from error


def save_video(frames: Iterable[Tensor], path: Path | str, fps: float = 30.0) -> None:
    """Write frames [3, H, W] in [0, 1], all of one size, atomically, in the format of ``path``: .mp4, .webm or .gif.

    The frames are taken one at a time, so a generator can render them on the way. An odd height or width, which
    yuv420p does not have, is made even by repeating the last row or column. Raises `DreamFusionError` if ffmpeg is
    missing or fails, or the file cannot be written; an earlier file then stays as it was.
    """
    stream: Iterator[Tensor] = iter(frames)
    first = next(stream, None)
    if first is None:
        raise ValueError("a video needs at least one frame")
    height, width = (size + size % 2 for size in first.shape[-2:])
    program = find_ffmpeg()
    with write_atomically(path) as temporary:
        _encode(_command(program, temporary, width, height, fps), chain([first], stream), first.shape)


def _command(program: str, path: Path, width: int, height: int, fps: float) -> list[str]:
    """Return the ffmpeg command that reads raw RGB frames from its standard input."""
    # With a protocol, for ffmpeg would take what stands before a colon in a name for one.
    target = f"file:{path.absolute()}"
    source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", f"{fps:g}", "-i", "-"]
    if path.suffix.lower() == ".gif":
        # A palette of the film's own: the general one shows bands.
        return [
            program,
            "-y",
            "-v",
            "error",
            *source,
            "-vf",
            "split[a][b];[a]palettegen[p];[b][p]paletteuse",
            target,
        ]
    # Without the conversion to BT.709 and its tags, players guess the colour matrix, and most guess wrong.
    colors = ["-vf", "scale=out_color_matrix=bt709:out_range=tv,format=yuv420p"]
    colors += ["-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "bt709", "-color_range", "tv"]
    # veryfast takes half the time of medium, and its files of our films are no larger.
    # faststart puts the index first, so that a browser starts to play before it has the whole file.
    codec = ["-c:v", "libx264", "-crf", "18", "-preset", "veryfast", "-movflags", "+faststart"]
    if path.suffix.lower() == ".webm":
        codec = ["-c:v", "libvpx-vp9", "-crf", "24", "-b:v", "0", "-row-mt", "1"]
    return [program, "-y", "-v", "error", *source, "-an", *codec, *colors, target]


def _encode(command: list[str], frames: Iterable[Tensor], shape: torch.Size) -> None:
    """Feed the frames to ffmpeg; raise OSError for a full disk and `DreamFusionError` for any other failure."""
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin is not None
        try:
            _feed(process.stdin, frames, shape)
            complaint = process.communicate()[1]
        except BaseException:
            process.kill()
            with contextlib.suppress(OSError):  # what is still buffered has no reader any more
                process.stdin.close()
            raise
    if process.returncode != 0:
        lines = complaint.decode("utf-8", "replace").strip().splitlines() or ["no reason given"]
        if any("No space left" in line for line in lines):
            raise OSError(errno.ENOSPC, lines[0])
        raise DreamFusionError(f"ffmpeg could not write the video ({lines[0]}): try `dreamfusion doctor`.")


def _feed(pipe: IO[bytes], frames: Iterable[Tensor], shape: torch.Size) -> None:
    for frame in frames:
        if frame.shape != shape:
            raise ValueError(f"frames differ in size: {list(shape)} and {list(frame.shape)}")
        pixels = to_uint8(_even(frame)).tobytes()
        try:
            pipe.write(pixels)
        except OSError:
            return  # ffmpeg has given up, and says why on its standard error


def _even(frame: Tensor) -> Tensor:
    height, width = frame.shape[-2:]
    if height % 2 == 0 and width % 2 == 0:
        return frame
    return torch.nn.functional.pad(frame[None], (0, width % 2, 0, height % 2), mode="replicate")[0]
