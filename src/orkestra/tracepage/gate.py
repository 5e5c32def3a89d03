"""Who may ask: only pages and programs of this machine, by the address that the page has."""

from collections.abc import Collection
from typing import Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# The page needs nothing but its own files: what hostile traces may smuggle in must not run.
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self';"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS: Final = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": _POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class Gate:
    """Refuses requests for other hosts, and puts the headers on every answer.

    A page elsewhere can have its name resolved to 127.0.0.1 and then ask as if it were ours; the
    browser still sends that name as the host.
    """

    def __init__(self, app: ASGIApp, *, hosts: Collection[str]) -> None:
        """Guard an application.

        Args:
            app: What answers.
            hosts: The values of the Host header that it answers to.
        """
        self._app = app
        self._hosts = frozenset(hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
            await send(message)

        app = self._app
        if Headers(scope=scope).get("host", "").lower() not in self._hosts:
            app = JSONResponse({"message": "This host is not served here"}, status_code=421)
        await app(scope, receive, send_with_headers)
