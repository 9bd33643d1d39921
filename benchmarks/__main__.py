"""``python -m benchmarks [PART ...] [--quick] [--json FILE]``: speed and memory; each ratio is taken within one run."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from benchmarks import assets, guidance, hashgrid, imports, iteration, mesh

PARTS = {
    "imports": imports.rows,
    "hashgrid": hashgrid.rows,
    "iteration": iteration.rows,
    "architectures": iteration.architectures,
    "assets": assets.rows,
    "mesh": mesh.rows,
    "runs": iteration.whole_runs,
    "guidance": guidance.rows,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)}; all if none is given")
    parser.add_argument("--quick", action="store_true", help="fewer repetitions and no whole default run")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows to this file")
    options = parser.parse_args()
    unknown = sorted(set(options.parts) - set(PARTS))
    if unknown:
        parser.error(f"there is no part {', '.join(unknown)}: choose from {', '.join(PARTS)}")
    table = Table("name", "value", "unit", "baseline", "ratio", title=f"{torch.get_num_threads()} CPU threads")
    rows = []
    for part in options.parts or PARTS:
        for row in PARTS[part](options.quick):
            rows.append(row)
            numbers = ["" if value is None else f"{value:.3g}" for value in (row.value, row.baseline, row.ratio)]
            table.add_row(row.name, numbers[0], row.unit, numbers[1], numbers[2])
    Console().print(table)
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1))


if __name__ == "__main__":
    main()
