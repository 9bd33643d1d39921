"""What the benchmarks write and say of it, and that the kernels compile for GPUs (speed itself decides no test)."""

import json
import re
from pathlib import Path

import pytest
from rich.console import Console

import dreamfusion
from benchmarks import Row, __main__, gpu_kernels, record


def shown(table) -> str:
    console = Console(width=200)
    with console.capture() as captured:
        console.print(table)
    return captured.get()


def test_a_file_says_where_and_of_what_it_was_measured(tmp_path):
    record.save(tmp_path / "a.json", [Row("step", 0.5, "s", 1.0, 2.0)])
    written = json.loads((tmp_path / "a.json").read_text())
    assert written["version"] == dreamfusion.__version__
    assert written["machine"]["threads"] >= 1
    assert written["machine"]["processor"] is not None
    assert written["rows"] == [{"name": "step", "value": 0.5, "unit": "s", "baseline": 1.0, "ratio": 2.0}]


def test_two_files_are_compared_row_by_row(tmp_path):
    record.save(tmp_path / "a.json", [Row("step", 0.5, "s", 1.0, 2.0), Row("gone", 1, "s")])
    record.save(tmp_path / "b.json", [Row("new", 1, "s"), Row("step", 0.2, "s", 1.0, 5.0)])
    text = shown(record.compare(tmp_path / "a.json", tmp_path / "b.json"))
    (row,) = (line for line in text.splitlines() if "step" in line)
    assert re.findall(r"[\d.]+", row) == ["0.5", "0.2", "2.5", "2", "5"]
    assert "gone" not in text
    assert "two machines" not in text
    other = json.loads((tmp_path / "b.json").read_text())
    other["machine"]["cores"] = 1000
    (tmp_path / "b.json").write_text(json.dumps(other))
    assert "two machines" in shown(record.compare(tmp_path / "a.json", tmp_path / "b.json"))


@pytest.mark.parametrize("text", ["{", "[]", '{"rows": []}'])
def test_another_file_is_refused_in_one_line(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(SystemExit, match=r"error: .*a\.json is not a file that --json writes\."):
        record.compare(tmp_path / "a.json", tmp_path / "a.json")


def test_a_part_without_its_library_is_left_out_with_a_note(monkeypatch, capsys):
    monkeypatch.setitem(__main__.PARTS, "guidance", "no_such_module.rows")
    assert list(__main__.measured("guidance", quick=True)) == []
    assert "guidance: left out from here on. No module named 'benchmarks.no_such_module'" in capsys.readouterr().err


def test_every_part_is_there():
    for place in __main__.PARTS.values():
        module, _, function = place.partition(".")
        text = (Path(__main__.__file__).parent / f"{module}.py").read_text()
        assert f"def {function}(" in text


def test_every_file_with_kernels_is_compiled_for_gpus():
    package = Path(dreamfusion.__file__).parent
    files = {file for file in package.rglob("*.py") if re.search(r"^\s*@wp\.kernel", file.read_text(), re.M)}
    names = {".".join(file.relative_to(package.parent).with_suffix("").parts) for file in files}
    modules = gpu_kernels.modules()
    assert names - {"dreamfusion.kernels.hashgrid"} <= set(modules)
    grids = {f"dreamfusion_hashgrid_{n}{part}" for n in gpu_kernels.FEATURES for part in ("", "_along", "_slope")}
    assert grids <= set(modules)


@pytest.mark.parametrize("arch", [75, 120])
def test_a_kernel_compiles_for_a_gpu_that_is_not_there(tmp_path, arch):
    gpu_kernels.modules()
    rows = gpu_kernels.compile_module("dreamfusion.kernels.marching", arch, tmp_path)
    assert {row.kernel for row in rows} == {"_count", "_fill"}
    assert all(16 <= row.registers <= 255 for row in rows)
    assert all(row.arch == arch and row.stack == 0 for row in rows)
    assert next(tmp_path.glob(f"*sm{arch}.cubin")).read_bytes().startswith(b"\x7fELF")
