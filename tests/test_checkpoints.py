import json
import logging
import math
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch

from dreamfusion.errors import DreamFusionError
from dreamfusion.io import files
from dreamfusion.io.checkpoints import (
    NotFiniteError,
    generator_states,
    latest_checkpoint,
    list_checkpoints,
    load_checkpoint,
    pack,
    restore_generators,
    save_checkpoint,
    unpack,
)
from dreamfusion.io.claims import claim

TENSORS = {
    "grid": torch.arange(6.0).reshape(2, 3),
    "steps": torch.tensor(7),
    "half": torch.ones(3, dtype=torch.bfloat16),
}
STATE = {"prompt": "a red mushroom 蘑菇", "loss": 0.1 + 0.2, "best": math.inf, "nested": {"list": [1, None, True]}}


def identical(a, b):
    """Same types, same structure, same bits."""
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return list(a) == list(b) and all(identical(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(identical(x, y) for x, y in zip(a, b, strict=True))
    return a == b


def test_round_trip_is_exact(tmp_path):
    path = save_checkpoint(tmp_path / "checkpoints", 123, TENSORS, STATE)
    assert path.name == "step_000123"
    loaded = load_checkpoint(path)
    assert loaded.step == 123
    assert identical({key: loaded.tensors[key] for key in TENSORS}, TENSORS)
    assert identical(loaded.state, STATE)


def test_strided_and_differentiable_tensors_are_saved(tmp_path):
    weights = torch.nn.Parameter(torch.arange(6.0).reshape(2, 3))
    path = save_checkpoint(tmp_path, 1, {"t": weights.t(), "e": torch.ones(1, 2).expand(3, 2)}, {})
    loaded = load_checkpoint(path).tensors
    assert loaded["t"].tolist() == [[0, 3], [1, 4], [2, 5]]
    assert loaded["e"].tolist() == [[1, 1]] * 3


def test_newest_are_kept(tmp_path):
    for step in (1, 2, 30, 1_000_000):
        save_checkpoint(tmp_path, step, TENSORS, {}, keep=2)
    assert list(list_checkpoints(tmp_path)) == [30, 1_000_000]
    assert latest_checkpoint(tmp_path).name == "step_1000000"


def test_going_back_discards_the_abandoned_future(tmp_path):
    for step in (10, 20, 30, 15):
        save_checkpoint(tmp_path, step, TENSORS, {}, keep=5)
    assert list(list_checkpoints(tmp_path)) == [10, 15]


def test_same_step_is_replaced(tmp_path):
    for value in (1, 2):
        save_checkpoint(tmp_path, 5, TENSORS, {"value": value})
    assert load_checkpoint(tmp_path / "step_000005").state == {"value": 2}
    assert os.listdir(tmp_path) == ["step_000005"]


def test_no_checkpoints_yet(tmp_path):
    assert latest_checkpoint(tmp_path) is None
    assert latest_checkpoint(tmp_path / "absent") is None


def truncate(path):
    path.write_bytes(path.read_bytes()[:-5])


def flip(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [truncate, flip, lambda path: path.unlink(), lambda path: path.write_bytes(b"")])
def test_damaged_tensors_are_refused_and_passed_over(damage, tmp_path, caplog):
    earlier = save_checkpoint(tmp_path, 1, TENSORS, {})
    later = save_checkpoint(tmp_path, 2, TENSORS, {})
    damage(later / "tensors.safetensors")
    with pytest.raises(DreamFusionError, match=r"step_000002.tensors.safetensors is damaged .*: delete") as caught:
        load_checkpoint(later)
    assert "\n" not in str(caught.value)
    with caplog.at_level(logging.WARNING):
        assert latest_checkpoint(tmp_path) == earlier
    assert "step_000002" in caplog.text


@pytest.mark.parametrize("text", ["", '{"format": 1, "st', "[]", "{}", "\x00\x00"])
def test_damaged_state_is_refused(text, tmp_path):
    path = save_checkpoint(tmp_path, 1, TENSORS, {})
    (path / "state.json").write_text(text)
    with pytest.raises(DreamFusionError, match=r"state.json is damaged"):
        load_checkpoint(path)
    with pytest.raises(DreamFusionError, match="None of the 1 checkpoints"):
        latest_checkpoint(tmp_path)


@pytest.mark.parametrize("position", [0.1, 0.4, 0.7, 0.95])
def test_a_flipped_bit_of_the_state_is_noticed_and_passed_over(position, tmp_path, caplog):
    earlier = save_checkpoint(tmp_path, 1, TENSORS, STATE)
    later = save_checkpoint(tmp_path, 2, TENSORS, STATE)
    data = bytearray((later / "state.json").read_bytes())
    place = next(i for i in range(int(len(data) * position), len(data)) if chr(data[i]).isalnum())
    data[place] ^= 1
    (later / "state.json").write_bytes(data)
    with pytest.raises(DreamFusionError, match=r"state.json is damaged|has format"):
        load_checkpoint(later)
    assert latest_checkpoint(tmp_path) == earlier
    assert len(caplog.records) == 1
    assert "\n" not in caplog.records[0].getMessage()


def test_a_checkpoint_of_another_run_is_passed_over(tmp_path):
    for name in ("one", "other"):
        with claim(tmp_path / name, new=True):
            save_checkpoint(tmp_path / name / "checkpoints", 1, TENSORS, {"name": name})
            save_checkpoint(tmp_path / name / "checkpoints", 2, TENSORS, {"name": name})
    mine = tmp_path / "one/checkpoints"
    shutil.rmtree(mine / "step_000002")
    shutil.copytree(tmp_path / "other/checkpoints/step_000002", mine / "step_000002")
    with pytest.raises(DreamFusionError, match="belongs to another run"):
        load_checkpoint(mine / "step_000002")
    assert load_checkpoint(latest_checkpoint(mine)).state == {"name": "one"}
    shutil.move(mine / "step_000001", mine / "step_000003")
    with pytest.raises(DreamFusionError, match="it is of step 1"):
        load_checkpoint(mine / "step_000003")
    # A mark that was damaged takes its id from the checkpoints, which stay readable.
    (tmp_path / "other/.dreamfusion").write_text("{")
    with claim(tmp_path / "other") as name:
        assert name == json.loads((tmp_path / "other/checkpoints/step_000002/state.json").read_text())["run"]
        assert load_checkpoint(latest_checkpoint(tmp_path / "other/checkpoints")).step == 2


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_numbers_that_are_not_finite_are_never_saved(value, tmp_path):
    earlier = save_checkpoint(tmp_path, 1, TENSORS, {})
    with pytest.raises(NotFiniteError, match=r"step 2 is not finite \(x\)"):
        save_checkpoint(tmp_path, 2, {"x": torch.tensor([1.0, value])}, {})
    assert os.listdir(tmp_path) == ["step_000001"]
    assert latest_checkpoint(tmp_path) == earlier


def test_other_formats_and_other_folders_are_refused(tmp_path):
    path = save_checkpoint(tmp_path, 1, TENSORS, {})
    record = json.loads((path / "state.json").read_text())
    assert record["format"] == 2
    for other in (0, 3, 99):
        (path / "state.json").write_text(json.dumps(record | {"format": other}))
        with pytest.raises(DreamFusionError, match=rf"format {other}.*upgrade"):
            load_checkpoint(path)
    (path / "state.json").write_text(json.dumps({name: record[name] for name in record if name != "checksum"}))
    with pytest.raises(DreamFusionError):
        load_checkpoint(path)
    (path / "state.json").write_text(json.dumps(record | {"format": 1}))
    assert load_checkpoint(path).step == 1, "the format before had no checksum of the state"
    with pytest.raises(DreamFusionError, match="no checkpoint"):
        load_checkpoint(tmp_path)


@pytest.mark.skipif(os.name != "posix", reason="needs limits on the size of files")
def test_tensors_that_do_not_fit_keep_the_earlier_checkpoint(tmp_path):
    """The writer of tensors reports errors of the disk in its own way; a limit on the size of files provokes one."""
    import resource

    earlier = save_checkpoint(tmp_path, 1, TENSORS, {})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
        with pytest.raises(DreamFusionError, match=r"Cannot write .*step_000002: the file is too large"):
            save_checkpoint(tmp_path, 2, {"x": torch.zeros(100_000)}, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert os.listdir(tmp_path) == ["step_000001"]
    assert latest_checkpoint(tmp_path) == earlier


def test_full_disk_keeps_the_earlier_checkpoint(tmp_path, monkeypatch):
    earlier = save_checkpoint(tmp_path, 1, TENSORS, {})

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(DreamFusionError, match="disk is full"):
        save_checkpoint(tmp_path, 2, TENSORS, {})
    assert os.listdir(tmp_path) == ["step_000001"]
    assert latest_checkpoint(tmp_path) == earlier


SAVE_FOREVER = """
import itertools, sys, torch
from dreamfusion.io.checkpoints import save_checkpoint
for step in itertools.count(1):
    save_checkpoint(sys.argv[1], step, {"x": torch.full((200_000,), float(step))}, {"step": step}, keep=2)
"""


@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
def test_kill_leaves_only_whole_checkpoints(tmp_path):
    """Kill a process that does nothing but save, at odd moments; all that is left under a final name loads."""
    for attempt in range(2):
        process = subprocess.Popen([sys.executable, "-c", SAVE_FOREVER, str(tmp_path)])
        deadline = time.monotonic() + 60
        while not list_checkpoints(tmp_path) and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.05 + 0.0137 * attempt)
        process.send_signal(signal.SIGKILL)
        process.wait()
        found = list_checkpoints(tmp_path)
        assert found
        for step, path in found.items():
            loaded = load_checkpoint(path)
            assert loaded.step == loaded.state["step"] == step
            assert torch.equal(loaded.tensors["x"], torch.full((200_000,), float(step)))
    (tmp_path / ".tmp-leftover").mkdir(exist_ok=True)
    save_checkpoint(tmp_path, 10**6, {}, {})
    assert not list(tmp_path.glob(".tmp-*"))


def trained(optimizer_class, steps, **settings):
    torch.manual_seed(0)
    parameters = [torch.nn.Parameter(torch.randn(4, 3)), torch.nn.Parameter(torch.randn(5))]
    groups = [{"params": parameters[:1], "lr": 0.1}, {"params": parameters[1:]}]
    optimizer = optimizer_class(groups, **settings)
    advance(parameters, optimizer, steps)
    return parameters, optimizer


def advance(parameters, optimizer, steps):
    for _ in range(steps):
        optimizer.zero_grad()
        sum((p**2).sin().sum() for p in parameters).backward()
        optimizer.step()


@pytest.mark.parametrize(
    ("optimizer_class", "settings"),
    [
        (torch.optim.Adam, {"lr": 0.01, "betas": (0.9, 0.99), "eps": 1e-15}),
        (torch.optim.AdamW, {"lr": torch.tensor(0.01), "amsgrad": True}),
        (torch.optim.SGD, {"lr": 0.01, "momentum": 0.9}),
        (torch.optim.RMSprop, {"lr": 0.01}),
    ],
)
def test_optimizers_continue_bit_equal(optimizer_class, settings, tmp_path):
    parameters, optimizer = trained(optimizer_class, 3, **settings)
    tensors, state = pack(optimizer.state_dict(), "optimizer")
    tensors |= {f"parameter.{i}": p for i, p in enumerate(parameters)}
    loaded = load_checkpoint(save_checkpoint(tmp_path, 3, tensors, {"optimizer": state}))
    assert identical(unpack(loaded.state["optimizer"], loaded.tensors), optimizer.state_dict())

    others, other = trained(optimizer_class, 0, **settings)
    with torch.no_grad():
        for i, p in enumerate(others):
            p.copy_(loaded.tensors[f"parameter.{i}"])
    other.load_state_dict(unpack(loaded.state["optimizer"], loaded.tensors))
    advance(parameters, optimizer, 4)
    advance(others, other, 4)
    assert all(torch.equal(a, b) for a, b in zip(parameters, others, strict=True))


def test_pack_keeps_every_kind_of_value():
    tree = {
        "state": {0: {"step": 5, "mean": torch.ones(2), "nothing": None}, (1, "x"): [True, 1, 1.0, -0.0, math.inf]},
        "betas": (0.9, (0.99, [])),
        "$tensor": "a key that looks like a mark",
        "empty": {},
    }
    tensors, state = pack(tree, "it")
    assert list(tensors) == ["it.state.0.mean"]
    text = json.dumps(pack({0: 1, "betas": (0.9,)}, "it")[1])
    assert text == '{"$items": [[0, 1], ["betas", {"$tuple": [0.9]}]]}'
    del tree["state"][(1, "x")]
    tensors, state = pack(tree, "it")
    assert identical(unpack(json.loads(json.dumps(state)), tensors), tree)


def test_pack_refuses_what_it_cannot_keep():
    with pytest.raises(TypeError, match=r"it.a.1 is a set"):
        pack({"a": [1, {2}]}, "it")
    with pytest.raises(ValueError, match=r"it.a.b"):
        pack({"a.b": torch.ones(1), "a": {"b": torch.ones(1)}}, "it")


def test_generators_continue_where_they_were(tmp_path):
    generators = {name: torch.Generator().manual_seed(seed) for seed, name in enumerate(("camera", "noise"))}
    torch.randn(7, generator=generators["noise"])
    states = generator_states(generators)
    assert set(states) == {"generator.camera", "generator.noise"}
    assert all(state.dtype == torch.uint8 for state in states.values())
    loaded = load_checkpoint(save_checkpoint(tmp_path, 1, states, {}))
    expected = [torch.randn(3, generator=g) for g in generators.values()]
    fresh = {name: torch.Generator() for name in generators}
    restore_generators(fresh, loaded.tensors)
    assert all(torch.equal(a, torch.randn(3, generator=g)) for a, g in zip(expected, fresh.values(), strict=True))


def test_unsuitable_generator_states_are_refused():
    with pytest.raises(DreamFusionError, match='"light"'):
        restore_generators({"light": torch.Generator()}, {})
    with pytest.raises(DreamFusionError, match="--device"):
        restore_generators({"light": torch.Generator()}, {"generator.light": torch.zeros(16, dtype=torch.uint8)})
