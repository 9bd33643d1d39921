"""Malformed input at every command: options, configurations, checkpoints, meshes, pictures, archives, model folders."""

from __future__ import annotations

import json
import random
import re
import shutil
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

from dreamfusion.app.cli import main
from dreamfusion.io.checkpoints import list_checkpoints
from dreamfusion.standard import EMBEDDED_PRIOR
from faults.forked import Outcome, run

GOOD = {0, 1, 2, 128 + signal.SIGTERM}
"""Exit codes: done, one line, usage, and stopped, for what was asked may take hours."""

VALUES = (
    *[
        "-",
        "--",
        "-1",
        "0",
        "1",
        "nan",
        "inf",
        "-inf",
        "1e309",
        "-0.0",
        "99999999999999999999",
        "0x10",
        "1_0",
        "1,5",
        "True",
        "None",
    ],
    *("", " ", "[red]", "[/]", "[bold", "]", ":smile:", "12:30", "file:x", "a.b.c", "../x", "/dev/null", "/dev/full"),
    *(
        "/proc/self/mem",
        ".",
        "..",
        "~",
        "$(id)",
        "%s%n",
        "\u8611\u83c7",
        "\U0001f344",
        "\u202e",
        "\udcff",
        "a\nb",
        "\t",
    ),
    *(
        "cuda:99",
        "meta",
        "cpu:7",
        "mps",
        "mesh.gltf",
        "x.png",
        "x.mp4",
        "x.obj",
        "x.stl",
        "x.glb",
        "x" * 300,
        "x" * 5000,
    ),
)

OPTIONS = {
    "generate": "preset steps seed output resume device guidance model guidance-scale negative-prompt loss config"
    " nemo-config lora embedding",
    "refine": "mesh prompt preset steps resolution seed output resume device guidance model config nemo-config lora"
    " embedding",
    "render": "output shading azimuth elevation radius focal size light-azimuth light-elevation light-intensity"
    " light-color ambient environment background turntable cameras fps device",
    "export": "format output resolution faces texture-size size-mm device",
    "compose": "output azimuth elevation size light-azimuth light-elevation softness sky environment ground samples"
    " device",
    "prior train": "output steps batch-size image-size lr muon-lr decay-steps precision seed device start-from"
    " world pictures picture-share save-every sample-every",
    "prior sample": "output model steps lora embedding precision image-size guidance-scale negative-prompt seed device",
    "toybox render": "output size shading world",
    "evaluate": "prompts seeds preset output steps config judge jobs",
    "ablate": "prompts seeds preset output steps judge jobs",
    "judge train": "output steps batch-size lr seed world",
    "doctor": "guidance model output precision",
    "guidance compile": "output precision image-size device",
}
"""Options of every command; those that a command does not have are refused by its usage."""

NEEDED = {
    "generate": ["a red mushroom", "--steps", "1", "--preset", "quick"],
    "refine": ["run", "--steps", "1", "--preset", "quick"],
    "render": ["run", "--size", "16"],
    "export": ["run", "--resolution", "16", "--faces", "100", "--texture-size", "64"],
    "compose": ["run", "--size", "16", "16", "--samples", "1"],
    "prior train": ["--steps", "1", "--batch-size", "1", "--image-size", "16"],
    "prior sample": ["a red mushroom", "--steps", "1"],
    "toybox render": ["car", "--size", "16"],
    "evaluate": ["--prompts", "prompts.txt", "--steps", "1", "--preset", "quick", "--jobs", "1"],
    "ablate": ["--prompts", "prompts.txt", "--steps", "1", "--preset", "quick", "--jobs", "1"],
    "judge train": ["--steps", "1", "--batch-size", "2"],
    "doctor": [],
    "guidance compile": ["model", "--output", "compiled"],
}
"""What a command is given besides, so that it would be done in seconds."""


def options(draw: random.Random, folder: Path) -> list[str]:
    """Return a command with one or two options of any value."""
    command = draw.choice(sorted(OPTIONS))
    arguments = [*command.split(), *NEEDED[command]]
    for _ in range(draw.randint(1, 2)):
        arguments.append(f"--{draw.choice(OPTIONS[command].split())}")
        arguments += [draw.choice(VALUES) for _ in range(draw.choice((0, 1, 1, 1, 1, 2)))]
    return arguments


def prompts(draw: random.Random, folder: Path) -> list[str]:
    """Return a command with any prompt, or a file of such."""
    texts = [draw.choice(VALUES) + draw.choice((" ", "", ",")) + draw.choice(VALUES) for _ in range(3)]
    if draw.random() < 0.5:
        command = draw.choice((["generate", "--steps", "1"], ["prior", "sample", "--steps", "1"], ["toybox", "render"]))
        return [*command, texts[0].replace("\0", "")]
    (folder / "prompts.txt").write_bytes("\n".join(texts).encode("utf-8", "surrogateescape") + _noise(draw))
    return ["evaluate", "--prompts", "prompts.txt", "--steps", "1", "--jobs", "1"]


def configurations(draw: random.Random, folder: Path) -> list[str]:
    """Return a command with a YAML file that is damaged, nested, or full of values of another kind."""
    text = (folder / "run/config.yaml").read_text(encoding="utf-8")
    lines = text.splitlines()
    for _ in range(draw.randint(1, 3)):
        place = draw.randrange(len(lines))
        key = lines[place].partition(":")[0]
        value = draw.choice(
            (*VALUES[:40], "[" * 2000, "{a: " * 500, "!!python/object/apply:os.system ['id']", "&a [*a]")
        )
        lines[place] = draw.choice((f"{key}: {value}", value, "", lines[place] * 2))
    data = "\n".join(lines).encode("utf-8", "surrogateescape")
    if draw.random() < 0.3:
        data = _damaged(draw, data)
    where = draw.choice(("new.yaml", "run/config.yaml"))
    (folder / where).write_bytes(data)
    if where == "new.yaml":
        option = draw.choice(("--config", "--nemo-config"))
        return ["generate", "a red mushroom", option, "new.yaml", *(["--steps", "1"] if option == "--config" else [])]
    return draw.choice((["generate", "--resume", "run"], ["render", "run", "--size", "16"], ["export", "run"]))


def checkpoints(draw: random.Random, folder: Path) -> list[str]:
    """Return a command on a run with damaged checkpoints, logs or marks."""
    found = [file for path in list_checkpoints(folder / "run/checkpoints").values() for file in path.iterdir()]
    found += [folder / "run/metrics.jsonl", folder / "run/.dreamfusion"]
    for file in draw.sample(sorted(found), draw.randint(1, len(found))):
        match draw.randrange(4):
            case 0:
                file.unlink()
            case 1:
                file.unlink()
                file.mkdir()
            case _:
                file.write_bytes(_damaged(draw, file.read_bytes()))
    return draw.choice((["generate", "--resume", "run"], ["render", "run", "--size", "16"], ["refine", "run"]))


def meshes(draw: random.Random, folder: Path) -> list[str]:
    """Return a command on a damaged mesh."""
    suffix = draw.choice(("glb", "obj", "ply", "stl"))
    file = folder / f"bad.{suffix}"
    source = folder / f"run/mesh.{suffix}"
    file.write_bytes(_damaged(draw, source.read_bytes()) if source.exists() else _noise(draw))
    if suffix == "glb" and draw.random() < 0.5:
        return ["compose", "bad.glb", "--size", "16", "16", "--samples", "1"]
    return ["refine", "--mesh", file.name, "--prompt", "a red mushroom", "--steps", "1"]


def pictures(draw: random.Random, folder: Path) -> list[str]:
    """Return a command on a damaged picture, or on a list of cameras."""
    if draw.random() < 0.5:
        value: object = draw.choice((0, None, {}, [], [[]], [{}], [{"azimuth_deg": "x"}], [{"camera_to_world": [[1]]}]))
        text = (
            json.dumps(value) if draw.random() < 0.7 else draw.choice(("[" * 5000, "", "[NaN]", '[{"radius": 1e999}]'))
        )
        (folder / "cameras.json").write_bytes(text.encode() + (_noise(draw) if draw.random() < 0.2 else b""))
        return ["render", "run", "--size", "16", "--cameras", "cameras.json"]
    suffix = draw.choice(("png", "hdr", "exr", "jpg"))
    data = (folder / "run/contact_sheet.png").read_bytes()
    (folder / f"bad.{suffix}").write_bytes(_damaged(draw, data) if draw.random() < 0.7 else _noise(draw))
    option = draw.choice(("--background", "--environment"))
    return ["render", "run", "--size", "16", option, f"bad.{suffix}"]


def models(draw: random.Random, folder: Path) -> list[str]:
    """Return a command on a model whose files are damaged or say odd things."""
    shutil.copytree(EMBEDDED_PRIOR, folder / "model", dirs_exist_ok=True)
    files = [path for path in sorted((folder / "model").rglob("*")) if path.suffix in (".json", ".safetensors")]
    for file in draw.sample(files, draw.randint(1, 2)):
        data = file.read_bytes()
        as_json = file.suffix == ".json" and draw.random() < 0.7
        file.write_bytes(_odd_json(draw, data) if as_json else _damaged(draw, data))
    return draw.choice(
        (
            ["generate", "a red mushroom", "--steps", "1", "--model", "model"],
            ["prior", "sample", "a red mushroom", "--steps", "1", "--model", "model"],
            ["doctor", "--model", "model"],
        )
    )


KINDS: dict[str, Callable[[random.Random, Path], list[str]]] = {
    "options": options,
    "prompts": prompts,
    "configurations": configurations,
    "checkpoints": checkpoints,
    "meshes": meshes,
    "pictures": pictures,
    "models": models,
}


def wrong(kind: str, draw: random.Random, folder: Path, template: Path) -> tuple[str | None, str]:
    """Run a case of a kind in ``folder`` and return what is wrong, None if nothing is, and its command."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(template, folder)
    arguments = KINDS[kind](draw, folder)
    mine = {path: path.read_bytes() for path in (folder / "mine.txt", folder / "mine.png", folder / "mine/mine.txt")}
    beside = set(folder.parent.iterdir())
    outcome = run(partial(main, arguments), folder, limit_s=20, stop_first=True)
    found = complaint(outcome)
    if found is None and {path: path.read_bytes() if path.exists() else None for path in mine} != mine:
        found = "a file of the user's is gone or changed"
    if found is None and set(folder.parent.iterdir()) != beside:
        found = f"wrote outside: {set(folder.parent.iterdir()) - beside}"
    if found is None and outcome.code in (0, 1) and (stray := sorted(folder.rglob(".tmp-*"))):
        found = f"left behind: {stray[0].relative_to(folder)}"
    return found, " ".join(map(repr, arguments))


def complaint(outcome: Outcome) -> str | None:
    """Return what is wrong with how a command ended."""
    if "Traceback (most recent call last)" in outcome.text:
        return outcome.text[-3000:]
    if outcome.code not in GOOD:
        return f"ended with {outcome.code}: {outcome.text[-1000:]}"
    if outcome.code == 1 and not re.search(r"error: \S|fail", outcome.text):
        return f"does not say what is wrong: {outcome.text[-500:]}"
    return None


def _noise(draw: random.Random) -> bytes:
    return draw.randbytes(draw.choice((0, 1, 10, 1000)))


def _damaged(draw: random.Random, data: bytes) -> bytes:
    """Return a file cut short, with bits flipped, or with a piece of noise inside."""
    if not data:
        return _noise(draw)
    place = draw.randrange(len(data))
    match draw.randrange(3):
        case 0:
            return data[:place]
        case 1:
            changed = bytearray(data)
            for _ in range(draw.choice((1, 1, 8))):
                changed[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
            return bytes(changed)
        case _:
            return data[:place] + _noise(draw) + data[place + draw.randrange(100) :]


def _odd_json(draw: random.Random, data: bytes) -> bytes:
    """Return JSON with one value replaced by one of another kind."""
    tree = json.loads(data)
    node = tree
    while isinstance(node, dict) and node:
        key = draw.choice(sorted(node))
        if not isinstance(node[key], dict) or not node[key] or draw.random() < 0.3:
            odd: tuple[object, ...] = (None, -1, 0, 10**30, 1e308, "x", [], {}, [[]], True, "../../x", float("nan"))
            node[key] = draw.choice(odd)
            break
        node = node[key]
    return json.dumps(tree).encode()
