"""``python -m benchmarks.gpu_kernels [--arch 90 ...]``: every Warp kernel compiled for GPUs, without one.

Warp brings the compiler. Printed is what a compiled kernel says of itself: the registers that a thread takes, and the
bytes of its stack, to which what has no room in registers is spilled. With 32 registers or fewer a multiprocessor has
all its threads at work, with 255 one in eight.
"""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import struct
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import warp as wp
from elftools.elf.elffile import ELFFile
from rich.console import Console
from rich.table import Table

from dreamfusion import kernels
from dreamfusion.kernels import backend, hashgrid

ARCHITECTURES = (75, 80, 86, 90, 100, 120)
"""Turing, Ampere (data centre, desktop), Hopper, Blackwell (data centre, desktop)."""
FEATURES = (2, 4)
"""Features per entry of the hash grid in the presets: NeMo's and the paper's, and our own."""
_WITH_KERNELS = ("dreamfusion.toybox.render", "dreamfusion.toybox.paint")

_INFO, _SYMBOLS = ".nv.info", ".symtab"
_PER_FUNCTION = 4  # the format of a record that has a size of its own
_FRAME_SIZE, _REGISTERS = 0x11, 0x2F


@dataclass(frozen=True)
class Compiled:
    """What one kernel takes on one architecture: registers per thread, and bytes of stack per thread."""

    module: str
    kernel: str
    arch: int
    registers: int
    stack: int


def modules() -> list[str]:
    """Return the names of all Warp modules of the package, with the hash grids of all `FEATURES`."""
    backend._start()  # Warp, without its banner
    names = [f"{kernels.__name__}.{module.name}" for module in pkgutil.iter_modules(kernels.__path__)]
    for name in (*names, *_WITH_KERNELS):
        importlib.import_module(name)
    for features in FEATURES:
        for along in (False, True):
            hashgrid._kernels(features, along)
        hashgrid._slope_kernel(features)
    known = wp._src.context.user_modules
    return sorted(name for name, module in known.items() if name.startswith("dreamfusion") and module.kernels)


def compile_module(name: str, arch: int, folder: Path) -> list[Compiled]:
    """Compile a module for an architecture into a folder, and return what its kernels take."""
    (file,) = wp.compile_aot_module(name, arch=arch, module_dir=folder, use_ptx=False)
    with open(file, "rb") as stream:
        numbers = dict(_numbers(ELFFile(stream)))
    compiled = []
    for key, kernel in wp.get_module(name).kernels.items():
        symbol = f"{kernel.get_mangled_name()}_cuda_kernel_forward"
        taken = numbers[symbol, _REGISTERS], numbers[symbol, _FRAME_SIZE]
        compiled.append(Compiled(name.removeprefix("dreamfusion."), key, arch, *taken))
    return compiled


def _numbers(file: ELFFile) -> Iterator[tuple[tuple[str, int], int]]:
    """Yield ((function, attribute), number) for what a compiled file says of its functions."""
    names = [symbol.name for symbol in file.get_section_by_name(_SYMBOLS).iter_symbols()]
    data, at = file.get_section_by_name(_INFO).data(), 0
    while at < len(data):
        form, attribute, size = struct.unpack_from("<BBH", data, at)
        at += 4
        if form != _PER_FUNCTION:
            continue
        if size == 8:
            symbol, number = struct.unpack_from("<II", data, at)
            yield (names[symbol], attribute), number
        at += size


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_kernels", description=__doc__)
    parser.add_argument("--arch", type=int, nargs="+", choices=ARCHITECTURES, default=list(ARCHITECTURES))
    options = parser.parse_args()
    found: dict[tuple[str, str], dict[int, Compiled]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in modules():
            for arch in options.arch:
                for row in compile_module(name, arch, Path(folder)):
                    found.setdefault((row.module, row.kernel), {})[arch] = row
    table = Table("module", "kernel", *(f"sm_{arch}" for arch in options.arch), title="registers (bytes of stack)")
    for (module, kernel), of in found.items():
        table.add_row(module, kernel, *(_cell(of[arch]) for arch in options.arch))
    Console(width=160).print(table)


def _cell(row: Compiled) -> str:
    return f"{row.registers}" + (f" ({row.stack})" if row.stack else "")


if __name__ == "__main__":
    main()
