"""The label page's server: sockets, patience with slow clients, the browser, and what is said at the end."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import signal
import socket
import sys
import threading
import webbrowser
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from qgate.errors import InputError
from qgate.labels.exchange import annotator_name
from qgate.labels.store import LabelStore
from qgate.seeds import parse_seeds
from qgate.web.app import Page, make_app, train_command
from qgate.web.faces import Faces, folder_faces, generator_faces, run_faces
from qgate.web.guard import Access
from qgate.web.orders import Rules

LOOPBACK = ("127.0.0.1", "localhost", "::1")
PORT = 8642
"""The usual port. It stays the same, since a browser keeps unsent answers for each address."""

PORTS = 20
"""Ports that are tried from `PORT` on where the user names none."""

BUSY_SECONDS = 3.0
"""How long an answer waits for another program that writes to the store, until the page says so and sends it again."""

HEADER_SECONDS = 10.0
CONNECTIONS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What `qgate label` was asked for.

    target: the output folder of a run or a folder of images; None where a generator and seeds are given.
    port: None for the usual one or the next that is free, 0 for any.
    token: a token is needed to open the page; a must where others can reach it.
    """

    store: Path
    target: Path | None = None
    generator: str | None = None
    seeds: str | None = None
    truncation: float = 1.0
    device: str = "auto"
    gate: str | None = None
    annotator: str = ""
    rules: Rules = field(default_factory=Rules)
    host: str = "127.0.0.1"
    port: int | None = None
    token: bool = False
    browser: bool = True


def label(request: Request) -> None:
    """Open the page and serve it until the user stops it. Raises InputError for what cannot be used."""
    name = annotator_name(request.annotator) if request.annotator else ""
    if request.host not in LOOPBACK and not request.token:
        raise InputError(f"--host {request.host}: others can reach this address; add --token so that they need one")
    faces = open_faces(request)
    if request.gate is not None:
        from qgate.web.scorer import start_scoring

        start_scoring(faces, request.gate, request.device)
    with LabelStore(request.store, busy_seconds=BUSY_SECONDS) as store:
        page = Page(faces, store, request.rules, name)
        if request.rules.audit and not page.orders.audit_items:
            raise InputError(f"{request.target}: has no accepted faces to audit")
        sockets = listen(request.host, request.port)
        port = sockets[0].getsockname()[1]
        access = _access(request, port)
        url = _address(request.host, port, access.token)
        _say(f"qgate label: {faces.title}, {len(faces)} faces; labels go to {request.store}")
        _say(f"open {url} (stop with Ctrl-C)")
        if request.host not in LOOPBACK:
            _say("warning: the page is open to the network, and unencrypted; whoever has the address above can label")
        if request.browser:
            threading.Timer(0.5, webbrowser.open, [url]).start()
        serve(page, access, sockets)
        _say(page.audit().in_words() if request.rules.audit else farewell(store))


def open_faces(request: Request) -> Faces:
    """The faces that were asked for; InputError where it is not clear which."""
    base = request.store.absolute().parent
    if (request.target is None) == (request.generator is None and request.seeds is None):
        raise InputError("say what to label: a run's output folder, a folder of images, or --generator with --seeds")
    if request.target is None:
        if request.rules.audit:
            raise InputError("--audit: give the output folder of a run, whose accepted faces are sampled")
        if request.seeds is None:
            raise InputError("--seeds is missing: say which faces to label, for example --seeds 6000-6500")
        name = request.generator or "mobile-stylegan"
        return generator_faces(name, request.truncation, parse_seeds(request.seeds), request.device)
    if (request.target / "run.json").is_file():
        return run_faces(request.target, base)
    if request.rules.audit:
        raise InputError(f"{request.target}: is no output folder of a run; --audit samples the accepted faces of one")
    return folder_faces(request.target, base)


def listen(host: str, port: int | None) -> list[socket.socket]:
    """Listening sockets; the first tells the port. On loopback both address families, where there are two."""
    wanted = range(PORT, PORT + PORTS) if port is None else [port]
    failure: OSError | None = None
    for candidate in wanted:
        try:
            first = _bind("127.0.0.1" if host == "localhost" else host, candidate)
        except OSError as error:
            failure = error
            continue
        sockets = [first]
        if host in ("127.0.0.1", "localhost"):
            with contextlib.suppress(OSError):
                sockets.append(_bind("::1", first.getsockname()[1]))
        return sockets
    raise InputError(f"--host {host} --port {wanted[0]}: cannot be listened on ({failure}); give another --port")


def serve(page: Page, access: Access, sockets: list[socket.socket]) -> None:
    """Serve until a signal or Ctrl-C."""
    server = make_server(page, access)
    asyncio.run(server.serve(sockets=sockets))


def make_server(page: Page, access: Access) -> uvicorn.Server:
    """The server, not started yet."""
    config = uvicorn.Config(
        make_app(page, access),
        http=PatientProtocol,
        ws="none",
        lifespan="off",
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=CONNECTIONS,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=3,
        h11_max_incomplete_event_size=16 * 1024,
    )
    return _Server(config)


class _Server(uvicorn.Server):
    """Stops on a signal as on a wish: the signal is not raised again afterwards."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


class PatientProtocol(H11Protocol):
    """Hangs up on clients that take longer than `HEADER_SECONDS` to say what they want."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.their_state is h11.IDLE:
            self._wait()
        elif self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._deadline is not None:
            self._deadline.cancel()

    def _wait(self) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(HEADER_SECONDS, self.transport.close)


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    found = socket.socket(family, socket.SOCK_STREAM)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            found.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        found.bind((host, port))
        # Bound is not taken yet: another server on the same port shows only here.
        found.listen(128)
    except BaseException:
        found.close()
        raise
    return found


def _access(request: Request, port: int) -> Access:
    own = socket.gethostname().lower()
    names = frozenset({own, own.partition(".")[0], request.host.lower()})
    return Access(
        port=port,
        open_host=request.host not in LOOPBACK,
        names=names,
        token=secrets.token_urlsafe(24) if request.token else "",
    )


def _address(host: str, port: int, token: str) -> str:
    name = {"0.0.0.0": socket.gethostname(), "::": socket.gethostname()}.get(host, host)
    if ":" in name:
        name = f"[{name}]"
    # In the fragment, a token reaches no server log and no Referer header.
    return f"http://{name}:{port}/" + (f"#token={token}" if token else "")


def farewell(store: LabelStore) -> str:
    """What is said when the page is closed: what there is, and what makes a gate of it."""
    advice = store.advice()
    return (
        f"{advice.labelled} faces labelled in {store.path}; {advice.in_words()} ({advice.why})\n"
        f"  {train_command(store.path)}"
    )


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
