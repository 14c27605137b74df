"""A label page served for a test: in a thread of this process, or as the command in a process of its own."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from qgate.labels.store import LabelStore
from qgate.web.app import Page
from qgate.web.faces import Faces, folder_faces
from qgate.web.guard import Access
from qgate.web.orders import Rules
from qgate.web.serve import BUSY_SECONDS, listen, make_server

SAME_ORIGIN = {"Content-Type": "application/json", "Sec-Fetch-Site": "same-origin"}


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True, slots=True)
class Served:
    """A running page."""

    port: int
    page: Page
    before: int = 0

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    @property
    def kept(self) -> int:
        """Events that the store has taken since the test began."""
        return len(self.page.store.history()) - self.before

    def ask(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None, host: str | None = None
    ) -> Reply:
        """One request on a connection of its own, headers exactly as given besides Host and Content-Length."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
            if host != "":
                connection.putheader("Host", host or f"127.0.0.1:{self.port}")
            data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
            for name, value in (headers or {}).items():
                connection.putheader(name, value)
            if data and "Content-Length" not in (headers or {}):
                connection.putheader("Content-Length", str(len(data)))
            # In one piece: a server that has refused and closed answers what comes later with a reset.
            connection.endheaders(data)
            reply = connection.getresponse()
            return Reply(reply.status, {k.lower(): v for k, v in reply.getheaders()}, reply.read())
        finally:
            connection.close()

    def post(self, path: str, body: Any, **headers: str) -> Reply:
        """A request as our own page makes it."""
        return self.ask("POST", path, body, {**SAME_ORIGIN, **headers})

    def answer(self, item: int = 0, /, **changes: Any) -> dict[str, Any]:
        """The body of an answer."""
        body = {
            "key": f"key-{item}-{time.monotonic_ns()}",
            "faces": self.page.faces.digest,
            "annotator": "anna",
            "item": item,
            "purpose": "random",
            "decision": "clean",
            "severity": 0,
        }
        return {**body, **changes}


@contextmanager
def serve_in_thread(
    faces: Faces,
    store: Path,
    rules: Rules | None = None,
    open_host: bool = False,
    token: str = "",
    busy_seconds: float = BUSY_SECONDS,
) -> Iterator[Served]:
    sockets = listen("127.0.0.1", 0)
    port = sockets[0].getsockname()[1]
    with LabelStore(store, busy_seconds=busy_seconds) as opened:
        page = Page(faces, opened, rules or Rules())
        server = make_server(page, Access(port, open_host, frozenset({"labhost"}), token))
        thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=sockets)))
        thread.start()
        try:
            while not server.started:
                time.sleep(0.005)
            yield Served(port, page)
        finally:
            server.should_exit = True
            thread.join()
            for found in sockets:
                found.close()


def make_faces(folder: Path, names: Sequence[str], size: int = 64) -> Faces:
    """A folder of small images, as faces."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        pixels = np.random.RandomState(number).randint(0, 256, (8, 8, 3), np.uint8)
        Image.fromarray(pixels).resize((size, size)).save(folder / name)
    return folder_faces(folder, folder.parent)


@contextmanager
def serve_command(*arguments: str, cwd: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`qgate label` as a process; yields it and the address that it prints."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-m", "qgate.cli.main", "label", "--no-browser", *arguments]
    process = subprocess.Popen(command, cwd=cwd, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        address = ""
        assert process.stderr is not None
        for line in process.stderr:
            if found := re.search(r"http://\S+", line):
                address = found[0]
                break
        assert address, "the server did not start"
        yield process, address
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
