"""What every request passes: the gate of the live viewer, and headers that keep the page to itself."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dreamfusion.app.gate import HEADERS, Gate

_PAGE = (
    "default-src 'self'; img-src 'self' data: blob:; base-uri 'none'; form-action 'none'; object-src 'none'; "
    "frame-ancestors {around}"
)


class Guard:
    """Lets in who has the address that ``gate`` gave out, or anybody where there is no gate (a public demonstration).

    ``around`` are the pages that may show this one in a frame.
    """

    def __init__(self, app: ASGIApp, gate: Gate | None, around: Sequence[str] = ()) -> None:
        self.app, self.gate = app, gate
        self._policy = _PAGE.format(around=" ".join(around) or "'none'")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, without its secret, or refuse it."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return  # there are no websockets here

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, self._policy if name == "Content-Security-Policy" else value)
            await send(message)

        await self._inner(scope)(scope, receive, answer)

    def _inner(self, scope: Scope) -> ASGIApp:
        """Return what answers a request."""
        if self.gate is None:
            return self.app
        headers, path = Headers(scope=scope), scope["path"]
        why = self.gate.refusal(path, headers.getlist("host"), headers.getlist("origin"), websocket=False)
        if why is not None:
            return PlainTextResponse(why + "\n", 403)
        prefix = f"/{self.gate.token}"
        if path == prefix:
            return RedirectResponse(f"{prefix}/")
        scope["root_path"] = prefix
        return self.app
