"""The Khronos glTF validator, which judges what is written."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest


def gltf_validator() -> Path:
    """The Khronos validator where `.ci/gltf-validator` puts it; the test is skipped where it is not."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = Path(os.environ.get("GLTF_VALIDATOR") or cache / "dreamfusion/gltf-validator-2.0.0-dev.3.10")
    if shutil.which("node") is None or not folder.is_dir():
        pytest.skip("the Khronos glTF validator is not installed: run .ci/gltf-validator (needs npm, and node)")
    return folder / "node_modules/gltf-validator"


VALIDATE = """
const validator = require(process.argv[1]), data = require("fs").readFileSync(process.argv[2]);
validator.validateBytes(new Uint8Array(data)).then(report => console.log(JSON.stringify(report)));
"""


def report(path):
    """Return what the validator says about a GLB file."""
    command = ["node", "-e", VALIDATE, str(gltf_validator()), str(path)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
