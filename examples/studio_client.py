"""A client of the studio: words in, a mesh file out. python examples/studio_client.py ADDRESS "a red mushroom" out.glb

ADDRESS is what `dreamfusion studio` printed. It needs nothing but Python, so that a node of another program, or an
add-on, can stand on it. docs/studio.md describes the interface.
"""

import json
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any


class Studio:
    """A studio at its address; ``owner`` is any text, by which it knows whose jobs are whose."""

    def __init__(self, address: str, owner: str = "") -> None:
        self.address, self.owner = address.rstrip("/"), owner

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """Send a request and return the answer; RuntimeError with the studio's one line if it refuses."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"X-Owner": self.owner, "Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.address}/{path}", data, headers, method=method)
        try:
            with urllib.request.urlopen(request) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            text = error.read().decode()
            raise RuntimeError(json.loads(text)["error"] if text.startswith("{") else text.strip()) from None

    def order(self, kind: str, **options: Any) -> dict[str, Any]:
        """Put an order into the queue, wait until it has ended, and return the job."""
        (job,) = self.ask("POST", "api/jobs", {"kind": kind, **options})["jobs"]
        while job["state"] in ("waiting", "running"):
            time.sleep(0.5)
            job = self.ask("GET", f"api/jobs/{job['id']}")
        if job["state"] != "done":
            raise RuntimeError(job["message"])
        return job

    def download(self, run: str, file: str, path: Path) -> Path:
        """Save a file of a run."""
        quoted = "/".join(urllib.parse.quote(part, safe="") for part in ("runs", run, file))
        with urllib.request.urlopen(f"{self.address}/{quoted}") as response:
            path.write_bytes(response.read())
        return path


def main(address: str, prompt: str, path: Path) -> Path:
    """Make an object and save its mesh."""
    studio = Studio(address)
    job = studio.order("generate", prompt=prompt, preset="quick")
    return studio.download(job["run"], "mesh.glb", path)


if __name__ == "__main__":
    print(main(sys.argv[1], sys.argv[2], Path(sys.argv[3])))
