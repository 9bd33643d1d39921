"""Two hosts on one machine: network namespaces with a cable between them, which can be cut."""

from __future__ import annotations

import ctypes
import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

_CLONE_NEWNET = 0x40000000


class Cable:
    """Two network namespaces with the addresses 10.77.0.1 and 10.77.0.2, and one cable."""

    def __init__(self) -> None:
        mark = secrets.token_hex(3)
        self.hosts = [f"df{mark}{end}" for end in "ab"]
        self.ends = [f"v{mark}{end}" for end in "ab"]

    def lay(self) -> None:
        """Make the hosts and connect them."""
        for host in self.hosts:
            _ip("netns", "add", host)
            _ip("-n", host, "link", "set", "lo", "up")
        _ip("link", "add", self.ends[0], "type", "veth", "peer", "name", self.ends[1])
        for number, (host, end) in enumerate(zip(self.hosts, self.ends, strict=True), 1):
            _ip("link", "set", end, "netns", host)
            _ip("-n", host, "addr", "add", f"10.77.0.{number}/24", "dev", end)
            _ip("-n", host, "link", "set", end, "up")

    def enter(self, number: int) -> None:
        """Move this process to a host, 0 or 1."""
        with open(f"/run/netns/{self.hosts[number]}") as place:
            if ctypes.CDLL(None, use_errno=True).setns(place.fileno(), _CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")
        os.environ["GLOO_SOCKET_IFNAME"] = self.ends[number]

    def cut(self) -> None:
        """Cut the cable at the first host's end, from within it: packets vanish, nobody hears of an end."""
        _ip("link", "set", self.ends[0], "down")


@contextmanager
def two_hosts() -> Iterator[Cable]:
    """Give two connected hosts while the block lasts; the test is skipped where that is not allowed."""
    cable = Cable()
    if shutil.which("ip") is None:
        pytest.skip("no ip here: apt-get install iproute2")
    try:
        cable.lay()
    except subprocess.CalledProcessError as error:
        _clear(cable)
        pytest.skip(f"no network namespaces here: {error.stderr.strip()}")
    try:
        yield cable
    finally:
        _clear(cable)


def _clear(cable: Cable) -> None:
    for host in cable.hosts:
        subprocess.run(["ip", "netns", "del", host], capture_output=True, check=False)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], capture_output=True, text=True, check=True)
