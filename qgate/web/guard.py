"""What stands before every route: who may ask, how much, how long, and what the browser is told to refuse.

A server on loopback is within reach of every web page in the same browser, so the Host header is checked against DNS
rebinding, requests that change something must come from our own page, and bodies are JSON, small and prompt.
Source: `Sec-Fetch-Site` and `Origin` rules of Go 1.25, net/http.CrossOriginProtection.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import json
from dataclasses import dataclass
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_BODY = 64 * 1024
BODY_SECONDS = 10.0
SAFE_METHODS = ("GET", "HEAD")

HEADERS = (
    (
        b"content-security-policy",
        b"default-src 'none'; img-src 'self' blob:; script-src 'self'; style-src 'self'; connect-src 'self'; "
        b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
)


@dataclass(frozen=True, slots=True)
class Access:
    """Who may ask.

    port: the one that we listen on.
    open_host: listens beyond loopback, so that further names of this machine are right in the Host header.
    names: those names; an address in numbers is always one, since it cannot be rebound.
    token: what a client must show, "" for none.
    """

    port: int
    open_host: bool = False
    names: frozenset[str] = frozenset()
    token: str = ""

    @property
    def cookie(self) -> str:
        """Name of the cookie that carries the token; cookies are shared between the ports of a machine."""
        return f"qgate_token_{self.port}"

    def knows_host(self, host: str) -> bool:
        """Whether a Host header names this server."""
        name, port = _split_port(host.lower())
        if port != self.port:
            return False
        if name in ("127.0.0.1", "localhost", "[::1]"):
            return True
        return self.open_host and (name in self.names or _is_address(name))

    def knows_token(self, given: str) -> bool:
        return hmac.compare_digest(self.token.encode(), given.encode())


class Refusal(Exception):
    """A request that is turned away."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason


class Guard:
    """ASGI middleware around the whole application."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app, self._access = app, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        started = False

        async def send_guarded(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message = {**message, "headers": [*message.get("headers", ()), *HEADERS]}
            await send(message)

        try:
            self._check(scope)
            body = await _read_body(receive, _headers(scope))
            await self._app(scope, _replay(body, receive), send_guarded)
        except Refusal as refusal:
            if not started:
                await _refuse(refusal, send_guarded)

    def _check(self, scope: Scope) -> None:
        headers = _headers(scope)
        hosts = headers.get("host", [])
        if len(hosts) != 1 or not self._access.knows_host(hosts[0]):
            raise Refusal(403, "this server does not answer to that host")
        site, mode = _first(headers, "sec-fetch-site"), _first(headers, "sec-fetch-mode")
        if scope["method"] in SAFE_METHODS:
            opening = scope["path"] == "/" and mode == "navigate"
            if site in ("cross-site", "same-site") and not opening:
                raise Refusal(403, "requests from other sites are refused")
        else:
            self._check_change(headers, site, hosts[0])
        public = scope["path"] in ("/", "/api/session") or scope["path"].startswith("/static/")
        if self._access.token and not public and not self._access.knows_token(_token(headers, self._access.cookie)):
            raise Refusal(401, "open the address that qgate printed: it carries the token")

    def _check_change(self, headers: dict[str, list[str]], site: str, host: str) -> None:
        origin = _first(headers, "origin")
        if site:
            ours = site == "same-origin"
        elif origin:
            ours = origin.lower() == f"http://{host.lower()}"
        else:
            ours = bool(self._access.token) and self._access.knows_token(_first(headers, "x-qgate-token"))
        if not ours or (origin and origin.lower() != f"http://{host.lower()}"):
            raise Refusal(403, "requests from other sites are refused")
        if _first(headers, "content-type").partition(";")[0].strip().lower() != "application/json":
            raise Refusal(415, "only application/json is taken")


async def _read_body(receive: Receive, headers: dict[str, list[str]]) -> bytes:
    length = _first(headers, "content-length")
    if length and (not length.isdecimal() or int(length) > MAX_BODY):
        raise Refusal(413, f"a body has at most {MAX_BODY} bytes")
    chunks: list[bytes] = []
    try:
        async with asyncio.timeout(BODY_SECONDS):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise Refusal(400, "the client left")
                chunks.append(message.get("body", b""))
                if sum(map(len, chunks)) > MAX_BODY:
                    raise Refusal(413, f"a body has at most {MAX_BODY} bytes")
                if not message.get("more_body"):
                    return b"".join(chunks)
    except TimeoutError as error:
        raise Refusal(408, f"a body must arrive within {BODY_SECONDS:g} s") from error


def _replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives the body that was read already, then what comes after it."""
    given = False

    async def replayed() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replayed


async def _refuse(refusal: Refusal, send: Send) -> None:
    body = json.dumps({"error": refusal.reason}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    # What is left of a refused body must not be taken for the next request.
    headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _headers(scope: Scope) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    pairs: Any = scope["headers"]
    for name, value in pairs:
        found.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
    return found


def _first(headers: dict[str, list[str]], name: str) -> str:
    return headers.get(name, [""])[0]


def _token(headers: dict[str, list[str]], cookie: str) -> str:
    for part in ";".join(headers.get("cookie", [])).split(";"):
        name, _, value = part.strip().partition("=")
        if name == cookie:
            return value
    return _first(headers, "x-qgate-token")


def _split_port(host: str) -> tuple[str, int]:
    name, colon, port = host.rpartition(":")
    if not colon or (host.endswith("]") and host.startswith("[")):
        return host, 80
    return name, int(port) if port.isascii() and port.isdecimal() else -1


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True
