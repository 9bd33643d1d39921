"""Who may talk to the live viewer and the studio: a page opened at their own address, which has a secret in it.

Any web page can send requests to a server on the same machine, and can let its own name stand for that machine's
address (DNS rebinding). So nothing is read or changed, and no websocket opens, unless three things are right:

- the path begins with the secret, which nobody knows who has not read the address;
- ``Host`` is a name of this server with its port, so that no other name stands for it;
- ``Origin`` is that same host. A browser tells it with every websocket, and a page cannot forge it.
"""

from __future__ import annotations

import dataclasses
import hmac
import http
import ipaddress
import secrets
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

_LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
HEADERS = {
    "Cache-Control": "no-store",
    # Nothing from elsewhere, whatever a text on the page says, and no frame of another page around it.
    "Content-Security-Policy": "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",  # links must not tell the secret
    "X-Content-Type-Options": "nosniff",
}

Answer = Callable[[Any, Any], Any]
"""What websockets asks before a handshake: (connection, request) -> response, or None to open a websocket."""


@dataclass(frozen=True)
class Gate:
    """The names of a server that listens at ``host`` and ``port``, its secret, and the command that started it."""

    host: str
    port: int
    token: str = field(default_factory=lambda: secrets.token_urlsafe(24), repr=False)
    command: str = "dreamfusion view"

    @property
    def address(self) -> str:
        """Where a browser opens the page, with the secret."""
        name = socket.gethostname() if self.host in ("", "0.0.0.0", "::") else self.host
        return f"http://{_in_url(name)}:{self.port}/{self.token}/"

    def refusal(self, path: str, hosts: Sequence[str], origins: Sequence[str], *, websocket: bool) -> str | None:
        """Return why a request is refused, None if it may pass; ``hosts`` and ``origins`` are all such headers."""
        if len(hosts) != 1 or not self._is_own(hosts[0].lower()):
            return f"This page has another name or port. Open the address that was printed. {self._advice()}"
        if (websocket or origins) and [origin.lower() for origin in origins] != [f"http://{hosts[0].lower()}"]:
            return "Another page may not use this one."
        given = path.partition("?")[0].split("/")[1:2]
        if not given or not hmac.compare_digest(given[0].encode("utf-8", "surrogateescape"), self.token.encode()):
            return f"Open the whole address that {self.command} printed: the secret in it lets you in."
        return None

    def _advice(self) -> str:
        return f"Forward port {self.port} under the same number, or give --host the name that you use."

    def _is_own(self, host: str) -> bool:
        """Return whether a ``Host`` header is this server's: its name and its port."""
        name, colon, port = host.rpartition(":")
        if not colon or port.endswith("]"):
            name, port = host, "80"  # browsers leave out the port of http
        if port != str(self.port):
            return False
        own = {_in_url(self.host).lower(), *_LOOPBACK}
        if self.host in ("127.0.0.1", "localhost", "::1"):
            return name in own
        # A number cannot be made to stand for another address, as a name can.
        return name in own | {socket.gethostname().lower()} or _is_number(name)

    def answer(self, within: Answer, connection: Any, request: Any) -> Any:
        """Refuse a request, or pass it on to ``within`` without its secret."""
        headers = request.headers
        websocket = bool(headers.get_all("Upgrade"))
        why = self.refusal(request.path, headers.get_all("Host"), headers.get_all("Origin"), websocket=websocket)
        if why is not None:
            response = connection.respond(http.HTTPStatus.FORBIDDEN, why + "\n")
        else:
            inner = request.path[1 + len(self.token) :]
            response = within(connection, dataclasses.replace(request, path=inner if inner[:1] == "/" else f"/{inner}"))
        if response is not None:
            for name, value in HEADERS.items():
                response.headers[name] = value
        return response


@contextmanager
def guarded(gate: Gate) -> Iterator[list[int]]:
    """Put the gate before every server that websockets starts within; yield the list of their ports.

    viser has no place for such a check. Whoever starts a server has to see that its port is in the list.
    """
    from websockets.asyncio import server as websockets_server

    serve = websockets_server.serve
    ports: list[int] = []

    def serve_behind(handler: Any, host: str, port: int, *, process_request: Answer, **options: Any) -> Any:
        ports.append(port)
        return serve(handler, host, port, process_request=partial(gate.answer, process_request), **options)

    vars(websockets_server)["serve"] = serve_behind
    try:
        yield ports
    finally:
        vars(websockets_server)["serve"] = serve


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _is_number(name: str) -> bool:
    try:
        ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True
