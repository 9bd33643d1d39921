"""Where kernels run: Warp on CPU and CUDA, the PyTorch twins elsewhere (Apple MPS), chosen here and nowhere else.

A Warp launch on the CPU runs on one core but releases the interpreter lock, so the work is shared out over
``torch.get_num_threads()`` Python threads. Each part writes its own outputs, hence the results are the same bits
whatever the number of threads.
"""

import contextlib
import ctypes
import functools
import mmap
import os
import stat
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
import warp as wp
from torch import Tensor

CPU_GRAIN = 256
"""Items that one CPU index of a launch handles in an inner loop; on CUDA it is one item per thread."""

_starting = threading.Lock()
_first_launch = threading.Lock()
_launched: set[tuple[int, torch.device]] = set()


@contextlib.contextmanager
def _no_driver_warning() -> Iterator[None]:
    # Warp's C library writes a line about the missing CUDA driver to file descriptor 2, past every Python setting.
    saved = os.dup(2)
    with open(os.devnull, "w") as sink:
        os.dup2(sink.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)


def _start() -> None:
    with _starting:  # two threads may ask at once
        _start_once()


@functools.cache
def _start_once() -> None:
    """Start Warp without its banner."""
    if hasattr(wp, "LOG_WARNING"):
        wp.config.log_level = wp.LOG_WARNING
    else:  # older releases
        wp.config.quiet = True  # type: ignore[attr-defined]
    with contextlib.nullcontext() if torch.cuda.is_available() else _no_driver_warning():
        try:
            wp.init()
        except OSError:  # no home to keep compiled kernels in, as in containers and on clusters
            wp.config.kernel_cache_dir = _own_folder()
            wp.init()
    if not _can_write(Path(str(wp.config.kernel_cache_dir))):
        wp.build.init_kernel_cache(_own_folder())  # type: ignore[attr-defined]


def _can_write(folder: Path) -> bool:
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def _own_folder() -> str:
    """Return a folder for temporary files that lasts longer than this process and that nobody else can write to."""
    user = os.getuid() if hasattr(os, "getuid") else 0
    folder = Path(tempfile.gettempdir()) / f"dreamfusion-kernels-{user}"
    with contextlib.suppress(OSError):
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
        # What lies there is run: a folder that somebody else has put there first is not to be trusted.
        if stat.S_ISDIR(status.st_mode) and status.st_uid == user and not status.st_mode & 0o022:
            return str(folder)
    return tempfile.mkdtemp(prefix="dreamfusion-kernels-")


def uses_warp(device: torch.device) -> bool:
    """Say whether kernels on ``device`` run in Warp (else in their PyTorch twins)."""
    match device.type:
        case "cpu":
            _start()
            return True
        case "cuda":
            _start()
            return wp.is_cuda_available()
        case _:
            return False


def array(tensor: Tensor, dtype: Any = None) -> Any:
    """Return a zero-copy launch argument for a contiguous tensor; the last axis becomes a vector ``dtype`` if given."""
    return wp.from_torch(tensor.detach(), dtype=dtype, return_ctype=True)


def launch(kernel: wp.Kernel, dim: int | tuple[int, ...], arguments: Sequence[Any], device: torch.device) -> None:
    """Launch ``kernel`` on ``device``, on CUDA in PyTorch's current stream."""

    def run() -> None:
        if device.type == "cuda":
            wp.launch(kernel, dim, inputs=arguments, stream=wp.stream_from_torch(device))
        else:
            wp.launch(kernel, dim, inputs=arguments, device="cpu")

    if (id(kernel), device) in _launched:
        run()
        return
    with _first_launch:  # the first launch compiles, which is not safe from two threads at once
        run()
        _launched.add((id(kernel), device))


def large_empty(rows: int, columns: int, device: torch.device) -> Tensor:
    """Return an uninitialised float32 tensor [rows, columns], on Linux CPUs in huge pages where that pays.

    The C library hands blocks above 32 MiB back to the system when they are freed, so each new one is mapped page by
    page at first touch: for 60 MiB, 28 ms with small pages and 6 ms with huge ones.
    """
    tensor = torch.empty(rows, columns, device=device)
    if device.type == "cpu" and tensor.nbytes >= 2**25 and hasattr(mmap, "MADV_HUGEPAGE"):
        start = -(-tensor.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
        length = ctypes.c_size_t(tensor.data_ptr() + tensor.nbytes - start)
        ctypes.CDLL(None).madvise(ctypes.c_void_p(start), length, mmap.MADV_HUGEPAGE)  # advice: may be refused
    return tensor


@functools.cache
def _pool(process: int, workers: int) -> ThreadPoolExecutor:
    # Keyed by process, because the threads of a pool do not survive a fork.
    return ThreadPoolExecutor(workers, thread_name_prefix="dreamfusion-kernel")


def in_parallel(work: Callable[[int, int], None], device: torch.device) -> None:
    """Call ``work(part, parts)`` for all parts: one per CPU thread, a single one on CUDA."""
    parts = torch.get_num_threads() if device.type == "cpu" else 1
    if parts == 1:
        work(0, 1)
        return
    others = [_pool(os.getpid(), parts - 1).submit(work, part, parts) for part in range(1, parts)]
    try:
        work(0, parts)
    finally:
        # Wait even after an error here: the other parts write into memory that the caller would free.
        for other in others:
            other.result()


def grain(device: torch.device) -> int:
    """Return how many items one launch index handles on ``device``."""
    return CPU_GRAIN if device.type == "cpu" else 1


def launch_over(kernel: wp.Kernel, count: int, arguments: Sequence[Any], device: torch.device, lanes: int = 1) -> None:
    """Launch ``kernel`` over ``count`` items (times ``lanes``), split into contiguous ranges over the threads.

    The kernel's last three arguments are ``first``, ``last`` and ``grain``; its launch index is (lane, block), and
    it handles the items first + block * grain ... of that block up to ``last``.
    """
    if count == 0:
        return
    step = grain(device)

    def work(part: int, parts: int) -> None:
        first, last = count * part // parts, count * (part + 1) // parts
        if last > first:
            blocks = -(-(last - first) // step)
            launch(kernel, (lanes, blocks), [*arguments, first, last, step], device)

    in_parallel(work, device)
