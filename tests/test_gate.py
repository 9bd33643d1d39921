"""Who may talk to the live viewer, asked over real sockets: its address has a secret, a host and an origin."""

import base64
import socket
from collections.abc import Iterator

import pytest

from dreamfusion.app.gate import Gate
from dreamfusion.app.view import open_server

UPGRADE = {
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": base64.b64encode(bytes(16)).decode(),
}


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    server, address = open_server("127.0.0.1", 0)
    yield address
    server.stop()


@pytest.fixture(scope="module")
def host(address: str) -> str:
    return address.split("/")[2]


@pytest.fixture(scope="module")
def path(address: str) -> str:
    return "/" + address.split("/", 3)[3]


def ask(host: str, path: str, *headers: tuple[str, str], websocket: bool = False) -> bytes:
    """Send a request and return the head of the answer; a websocket is then closed."""
    lines = [f"GET {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers)]
    lines += [f"{name}: {value}" for name, value in UPGRADE.items()] if websocket else []
    where, _, port = host.rpartition(":")
    with socket.create_connection((where, int(port))) as connection:
        connection.sendall("\r\n".join([*lines, "", ""]).encode("utf-8"))
        head = b""
        while b"\r\n\r\n" not in head and (piece := connection.recv(4096)):
            head += piece
    return head


def status(*args: object, **options: object) -> int:
    return int(ask(*args, **options).split()[1])


def test_the_address_opens_the_page_and_its_websocket(host: str, path: str):
    head = ask(host, path, ("Host", host))
    assert head.startswith(b"HTTP/1.1 200")
    for line in (b"Referrer-Policy: no-referrer", b"Cache-Control: no-store", b"frame-ancestors 'none'"):
        assert line in head
    port = host.rpartition(":")[2]
    for name in (host, f"localhost:{port}", f"LOCALHOST:{port}"):
        assert status(host, path, ("Host", name), ("Origin", f"http://{name}"), websocket=True) == 101
    assert status(host, path.rstrip("/"), ("Host", host), ("Origin", f"http://{host}"), websocket=True) == 101
    assert status(host, f"{path}?darkMode", ("Host", host)) == 200
    assert status(host, f"{path}no-such-file", ("Host", host)) == 404


@pytest.mark.parametrize("given", ["/", "/?x", "/wrong/", "//", "/%2e/", "/\u8611/", "/index.html", "*"])
@pytest.mark.parametrize("websocket", [False, True])
def test_nothing_is_let_in_without_the_secret(given: str, websocket: bool, host: str, path: str):
    right = ("Host", host), ("Origin", f"http://{host}")
    assert status(host, given, *right, websocket=websocket) == 403
    token = path.strip("/")
    for near in (token[:-1], f"{token}x", token.swapcase(), f"x/{token}", f"?{token}"):
        assert status(host, f"/{near}", *right, websocket=websocket) == 403


@pytest.mark.parametrize("websocket", [False, True])
def test_no_other_name_stands_for_the_viewer(websocket: bool, host: str, path: str):
    port = host.rpartition(":")[2]
    wrong = (
        "evil.example",
        f"evil.example:{port}",
        "127.0.0.1",
        "127.0.0.1:1",
        f"127.0.0.1.evil.example:{port}",
        "",
        ":",
    )
    for name in (*wrong, f"127.0.0.1.evil.example:{port}", f"192.168.0.7:{port}"):
        head = ask(host, path, ("Host", name), ("Origin", f"http://{name}"), websocket=websocket)
        assert head.startswith(b"HTTP/1.1 403"), name
    assert status(host, path, websocket=websocket) == 403, "no Host at all"
    assert status(host, path, ("Host", host), ("Host", "evil.example"), ("Origin", f"http://{host}")) == 403


def test_no_other_page_uses_the_websocket(host: str, path: str):
    port = host.rpartition(":")[2]
    own = ("Host", host)
    assert status(host, path, own, websocket=True) == 403, "no origin at all"
    others = ("http://evil.example", "null", "", f"https://{host}", "http://127.0.0.1", f"http://localhost:{port}")
    for origin in (*others, f"http://{host}.evil.example"):
        assert status(host, path, own, ("Origin", origin), websocket=True) == 403, origin
        assert status(host, path, own, ("Origin", origin)) == 403, origin
    twice = ("Origin", f"http://{host}"), ("Origin", "http://evil.example")
    assert status(host, path, own, *twice, websocket=True) == 403


def let_in(gate: Gate, host: str) -> bool:
    return gate.refusal(f"/{gate.token}/", [host], [], websocket=False) is None


def test_a_server_for_other_machines_has_its_own_names_and_numbers():
    mine = socket.gethostname()
    for bound in ("0.0.0.0", "::"):
        gate = Gate(bound, 8080)
        assert gate.address == f"http://{mine}:8080/{gate.token}/"
        for name in (mine, "localhost", "192.168.0.7", "[fe80::1]", "[::1]"):
            assert let_in(gate, f"{name}:8080"), name
        for name in ("evil.example", "1.2.3.4.evil.example", "[::1].evil.example"):
            assert not let_in(gate, f"{name}:8080"), name
    named = Gate("node7.cluster", 80)
    assert let_in(named, "node7.cluster"), "browsers leave out port 80"
    assert let_in(named, "node7.cluster:80")
    assert not let_in(named, "node8.cluster")
    assert let_in(Gate("::1", 80), "[::1]")
    assert Gate("::1", 81).address.startswith("http://[::1]:81/")


def test_secrets_are_long_differ_and_are_not_shown():
    one, two = Gate("localhost", 80), Gate("localhost", 80)
    assert one.token != two.token
    assert len(one.token) >= 32
    assert one.token not in repr(one)
