"""What the label page's server refuses, and whom it hangs up on. Rows 42-48 of the fault table."""

import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from qgate.web import guard, serve
from qgate.web.guard import Access
from qgate.web.serve import PatientProtocol
from tests.label_server import SAME_ORIGIN, Served, make_faces, serve_in_thread

NAMES = ["a.png", "b.jpg", "c.webp"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("label")
    with serve_in_thread(make_faces(folder / "faces", NAMES), folder / "labels.db") as page:
        yield page


@pytest.fixture
def served(server: Served) -> Served:
    return replace(server, before=len(server.page.store.history()))


@pytest.mark.parametrize(
    "host",
    ["evil.com", "evil.com:{port}", "127.0.0.1", "127.0.0.1:1", "localhost.evil.com:{port}", "x@127.0.0.1:{port}"],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_rebound_host_is_refused(served: Served, host: str, method: str) -> None:
    """Row 42: the name that the browser asked for is not ours, though the address is."""
    reply = served.ask(method, "/api/answer", served.answer(), SAME_ORIGIN, host=host.format(port=served.port))

    assert (reply.status, served.kept) == (403, 0)


@pytest.mark.parametrize(("host", "status"), [(b"Host: evil.com\r\n", b"403"), (b"", b"400")])
def test_a_rebound_host_and_none_are_refused_before_the_body_is_read(
    served: Served, host: bytes, status: bytes
) -> None:
    with socket.create_connection(("127.0.0.1", served.port), timeout=10) as client:
        client.sendall(b"POST /api/answer HTTP/1.1\r\n" + host + b"Content-Length: 50\r\n\r\n")

        assert client.recv(100).startswith(b"HTTP/1.1 " + status)


@pytest.mark.parametrize("host", ["127.0.0.1:{port}", "localhost:{port}", "LOCALHOST:{port}", "[::1]:{port}"])
def test_the_names_of_loopback_are_ours(served: Served, host: str) -> None:
    assert served.ask("GET", "/api/about", host=host.format(port=served.port)).status == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site", "Origin": "http://evil.com"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "none"},
        {"Origin": "http://evil.com"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Sec-Fetch-Site": "same-origin", "Origin": "http://evil.com"},
        {},
    ],
)
def test_a_request_of_another_site_writes_nothing(served: Served, headers: dict[str, str]) -> None:
    """Row 43."""
    reply = served.ask("POST", "/api/answer", served.answer(), {"Content-Type": "application/json", **headers})

    assert (reply.status, served.kept) == (403, 0)
    assert not any(name.startswith("access-control") for name in reply.headers)


def test_an_old_browser_is_known_by_its_origin(served: Served) -> None:
    origin = {"Content-Type": "application/json", "Origin": f"http://127.0.0.1:{served.port}"}

    assert served.ask("POST", "/api/answer", served.answer(), origin).status == 200


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
def test_only_json_is_taken(served: Served, kind: str) -> None:
    headers = {"Sec-Fetch-Site": "same-origin", "Content-Type": kind}

    assert served.ask("POST", "/api/answer", served.answer(), headers).status == 415
    assert served.kept == 0


def test_another_site_cannot_show_our_pictures(served: Served) -> None:
    hotlink = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}

    assert served.ask("GET", "/image/0", headers=hotlink).status == 403
    assert served.ask("GET", "/", headers=link).status == 200


@pytest.mark.parametrize(
    "path",
    [
        "/image/../../etc/passwd",
        "/image/%2e%2e/%2e%2e/etc/passwd",
        "/image/..%2f..%2fetc%2fpasswd",
        "/image/0%00.png",
        "/image/-1",
        "/image/99",
        "/image/1.5",
        "/image/99999999999999999999999999",
        "/image/faces/a.png",
        "/image/",
        "/static/../app.py",
        "/static/%2e%2e%2fapp.py",
        "/static/nothing.js",
        "/docs",
        "/openapi.json",
        "//etc/passwd",
    ],
)
def test_pictures_leave_by_id_only(served: Served, path: str) -> None:
    """Row 44."""
    assert served.ask("GET", path).status == 404


def test_a_link_out_of_the_folder_is_never_followed(tmp_path: Path) -> None:
    faces = make_faces(tmp_path / "faces", NAMES)
    make_faces(tmp_path / "secret", ["secret.png"])
    (tmp_path / "faces" / "link.png").symlink_to(tmp_path / "secret" / "secret.png")
    again = make_faces(tmp_path / "faces", NAMES)
    with serve_in_thread(faces, tmp_path / "labels.db") as served:
        (tmp_path / "faces" / "a.png").unlink()
        (tmp_path / "faces" / "a.png").symlink_to(tmp_path / "secret" / "secret.png")
        status = served.ask("GET", "/image/0").status

    assert (len(again), status) == (3, 404)


def test_a_file_that_turned_into_something_else_is_not_given_out(tmp_path: Path) -> None:
    faces = make_faces(tmp_path / "faces", NAMES)
    (tmp_path / "faces" / "a.png").write_text("<script>alert(1)</script>")
    with serve_in_thread(faces, tmp_path / "labels.db") as served:
        assert served.ask("GET", "/image/0").status == 404


@pytest.mark.parametrize("length", [64 * 1024 + 1, 10 * 1024 * 1024])
def test_a_large_body_is_refused(served: Served, length: int) -> None:
    """Row 47."""
    head = f"POST /api/answer HTTP/1.1\r\nHost: 127.0.0.1:{served.port}\r\nSec-Fetch-Site: same-origin\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", served.port), timeout=10) as client:
        client.sendall(head.encode())  # refused by the announced length, before any of it is sent

        assert client.recv(100).startswith(b"HTTP/1.1 413")
    assert served.ask("GET", "/api/about").status == 200


def test_a_large_body_in_chunks_is_refused(served: Served) -> None:
    chunk = b"4000\r\n" + b" " * 0x4000 + b"\r\n"
    head = f"POST /api/answer HTTP/1.1\r\nHost: 127.0.0.1:{served.port}\r\nSec-Fetch-Site: same-origin\r\n"
    head += "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    with socket.create_connection(("127.0.0.1", served.port), timeout=10) as client:
        client.sendall(head.encode() + 5 * chunk)

        assert client.recv(100).startswith(b"HTTP/1.1 413")


def test_a_slow_body_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "BODY_SECONDS", 0.3)
    with serve_in_thread(make_faces(tmp_path / "faces", NAMES), tmp_path / "labels.db") as served:
        head = f"POST /api/answer HTTP/1.1\r\nHost: 127.0.0.1:{served.port}\r\nSec-Fetch-Site: same-origin\r\n"
        head += "Content-Type: application/json\r\nContent-Length: 50\r\n\r\n{"
        with socket.create_connection(("127.0.0.1", served.port), timeout=10) as client:
            client.sendall(head.encode())

            assert client.recv(100).startswith(b"HTTP/1.1 408")


def test_clients_that_never_say_what_they_want_are_hung_up_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "HEADER_SECONDS", 0.3)
    with serve_in_thread(make_faces(tmp_path / "faces", NAMES), tmp_path / "labels.db") as served:
        clients = [socket.create_connection(("127.0.0.1", served.port), timeout=10) for _ in range(20)]
        for client in clients:
            client.sendall(b"GET / HTTP/1.1\r\nX-Slow: ")
        assert served.ask("GET", "/api/about").status == 200
        time.sleep(0.4)
        for client in clients:
            assert client.recv(10) == b""
            client.close()


def test_a_flood_of_connections_does_not_end_the_server(served: Served) -> None:
    clients = [socket.create_connection(("127.0.0.1", served.port), timeout=10) for _ in range(150)]
    for client in clients:
        client.sendall(b"\x00\xff garbage\r\n\r\n")
        client.close()

    assert served.ask("GET", "/api/about").status == 200


def test_every_reply_tells_the_browser_what_to_refuse(served: Served) -> None:
    for path, host in (("/", None), ("/image/0", None), ("/gone", None), ("/", "evil.com")):
        headers = served.ask("GET", path, host=host).headers
        policy = headers["content-security-policy"]

        assert "default-src 'none'" in policy and "script-src 'self';" in policy and "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cache-control"] == "no-store"
        assert headers["cross-origin-resource-policy"] == "same-origin"


def test_no_script_of_the_page_writes_html() -> None:
    """Row 48: names and notes of others are text; the browser test shows it in a browser."""
    scripts = (Path(serve.__file__).parent / "static").glob("*.js")
    text = "".join(path.read_text() for path in scripts)

    assert [
        word for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(") if word in text
    ] == []


def test_hostile_names_travel_as_json_text(tmp_path: Path) -> None:
    name = "<img src=x onerror=alert(1)>.png"
    with serve_in_thread(make_faces(tmp_path / "faces", [name]), tmp_path / "labels.db") as served:
        reply = served.post("/api/queue", {"annotator": "anna", "order": "random", "count": 1, "have": []})

        assert reply.headers["content-type"] == "application/json"
        assert reply.json[0]["name"] == f"faces/{name}"


def test_a_token_opens_the_page_and_nothing_else_does(tmp_path: Path) -> None:
    faces = make_faces(tmp_path / "faces", NAMES)
    with serve_in_thread(faces, tmp_path / "labels.db", open_host=True, token="correct-horse") as served:
        assert served.ask("GET", "/").status == 200
        assert served.ask("GET", "/api/about").status == 401
        assert served.ask("GET", "/image/0").status == 401
        assert served.post("/api/answer", served.answer()).status == 401
        assert served.post("/api/session", {"token": "wrong"}).status == 401
        cookie = served.post("/api/session", {"token": "correct-horse"}).headers["set-cookie"]
        opened = {"Cookie": cookie.partition(";")[0]}

        assert "HttpOnly" in cookie and "SameSite=strict" in cookie
        assert served.ask("GET", "/image/0", headers=opened).status == 200
        assert served.post("/api/answer", served.answer(), **opened).status == 200


def test_beyond_loopback_numbers_and_our_own_name_are_ours() -> None:
    access = Access(8642, open_host=True, names=frozenset({"labhost"}))

    assert (
        access.knows_host("192.168.1.7:8642")
        and access.knows_host("labhost:8642")
        and access.knows_host("[fe80::1]:8642")
    )
    assert not access.knows_host("evil.com:8642") and not access.knows_host("192.168.1.7:80")
    assert not Access(8642).knows_host("192.168.1.7:8642")


def test_the_protocol_is_the_patient_one(served: Served) -> None:
    server = serve.make_server(served.page, Access(1))

    assert server.config.http is PatientProtocol
    assert (server.config.access_log, server.config.server_header, server.config.proxy_headers) == (False, False, False)
