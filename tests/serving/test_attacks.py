"""The server attacked: everything is refused in one line, and it still answers."""

import asyncio
import gc
import http.client
import os
import resource
import socket
import struct
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from serving.conftest import BOUNDARY, MOST, Answer, Served, form

from kinembed.serving.answers import Answers
from kinembed.serving.desk import Desk
from kinembed.serving.guard import Guard
from kinembed.serving.listening import Timed
from kinembed.serving.web import make_application

File = tuple[str, bytes]
KIND = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}


@pytest.fixture(autouse=True)
def _still_answering(served: Served) -> Iterator[None]:
    """Whatever was sent, the server answers afterwards and holds nothing."""
    yield
    assert served.ask("GET", "/health").json["status"] == "ok"
    deadline = time.monotonic() + 5
    while served.desk.inside or served.desk.budget.held:
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "http://127.0.0.1:1", "https://localhost", "file://"]
)
def test_a_form_of_another_site_is_refused(served: Served, photo: File, origin: str) -> None:
    found = served.post("/search?crops=true", ("photo", *photo), Origin=origin)
    assert found.status == 403 and "another site" in found.error
    assert not any("access-control" in name for name in found.headers)


@pytest.mark.parametrize("site", ["cross-site", "same-site", "anything"])
def test_a_browser_says_where_a_request_comes_from(served: Served, photo: File, site: str) -> None:
    assert served.post("/search", ("photo", *photo), Sec_Fetch_Site=site).status == 403
    headers = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "no-cors"}
    assert served.ask("GET", "/health", headers=headers).status == 403
    headers["Sec-Fetch-Mode"] = "navigate"  # a link is none
    assert served.ask("GET", "/health", headers=headers).status == 200


def test_its_own_page_may_ask(served: Served, photo: File) -> None:
    for name in ("127.0.0.1", "localhost", "[::1]", "LOCALHOST."):
        host = f"{name}:{served.port}"
        own = {"Host": host, "Origin": f"http://{host}", "Sec_Fetch_Site": "same-origin"}
        assert served.post("/search?crops=true", ("photo", *photo), **own).status == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example", "evil.example:8000", "127.0.0.1.evil.example", "localhost.evil.example",
        "0.0.0.0", "127.0.0.2", "", "[::2]", "localhost@evil.example", "127.0.0.1:1:2", "[", "2130706433",
        "127.0.0.1:80@evil.example", "[::1", "[::1]x", "::1", "127.0.0.1:x", "[127.0.0.1",
    ],
)  # fmt: skip
def test_a_rebound_name_is_refused(served: Served, host: str) -> None:
    found = served.ask("GET", "/health", headers={"Host": host})
    assert found.status in (400, 421)


def raw(
    served: Served, request: bytes, then: Callable[[socket.socket], Any] | None = None
) -> bytes:
    """Sends bytes as they are; all that comes back."""
    with socket.create_connection(("127.0.0.1", served.port), timeout=20) as line:
        line.sendall(request)
        if then is not None:
            then(line)
        found = b""
        while True:
            try:
                block = line.recv(65536)
            except OSError:
                return found
            if not block:
                return found
            found += block


def test_two_hosts_or_none_are_refused(served: Served) -> None:
    for hosts in (b"", b"Host: localhost\r\nHost: evil.example\r\n"):
        answer = raw(served, b"GET /health HTTP/1.1\r\n" + hosts + b"Connection: close\r\n\r\n")
        assert answer.split(b" ", 2)[1] in (b"400", b"421")
    old = raw(served, b"GET /health HTTP/1.0\r\n\r\n")
    assert old.split(b" ", 2)[1] == b"421"


def test_no_preflight_is_granted(served: Served) -> None:
    asked = {
        "Origin": "http://evil.example",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "x",
    }
    found = served.ask("OPTIONS", "/compare", headers=asked)
    assert found.status == 403
    assert not any("access-control" in name for name in found.headers)


def test_ten_gigabytes_are_refused_unread(served: Served) -> None:
    head = f"POST /search HTTP/1.1\r\nHost: localhost\r\nContent-Length: {10 << 30}\r\n"
    answer = raw(served, head.encode() + f"Content-Type: {KIND['Content-Type']}\r\n\r\n".encode())
    assert answer.split(b" ", 2)[1] == b"413" and b"connection: close" in answer.lower()


def test_ten_gigabytes_without_a_length_are_cut_off(served: Served) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = form([("photo", "x.jpg", b"")]).partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
    chunk = b"10000\r\n" + bytes(65536) + b"\r\n"
    sent = 0

    def send(line: socket.socket) -> None:
        nonlocal sent
        line.sendall(f"{len(start):x}\r\n".encode() + start + b"\r\n")
        try:
            while sent < 10 << 30:
                line.sendall(chunk)
                sent += 65536
        except OSError:
            pass  # cut off

    head = "POST /search HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n"
    raw(served, head.encode() + f"Content-Type: {KIND['Content-Type']}\r\n\r\n".encode(), send)
    assert sent < 50 * MOST
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert after - before < 50_000  # KiB


def test_a_bomb_is_refused_before_it_is_decoded(served: Served) -> None:
    def part(kind: bytes, content: bytes) -> bytes:
        sum_ = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + sum_

    size = struct.pack(">II5B", 50_000, 50_000, 8, 0, 0, 0, 0)
    packed = zlib.compress(bytes(10_000_000), 9)
    png = b"\x89PNG\r\n\x1a\n" + part(b"IHDR", size) + part(b"IDAT", packed) + part(b"IEND", b"")
    found = served.post("/represent", ("photo", "bomb.png", png))
    assert found.status == 422 and "50000 x 50000 px" in found.error


def test_a_thousand_broken_photos(served: Served, photo: File) -> None:
    _, whole = photo
    kinds = (whole[:200], b"\xff\xd8\xff\xe0" + bytes(100), b"GIF89a" + bytes(20), b"no photo")
    line = http.client.HTTPConnection("127.0.0.1", served.port, timeout=30)
    line.connect()
    line.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for number in range(1000):
        body = form([("photo", "x.jpg", kinds[number % 4] + str(number).encode())])
        line.request("POST", "/represent?crops=true", body, KIND)
        found = line.getresponse()
        answer = Answer(found.status, {}, found.read())
        assert answer.status == 422 and answer.error.startswith("x.jpg: ")
    line.close()
    assert served.post("/represent?crops=true", ("photo", *photo)).status == 200


@pytest.mark.parametrize(
    "name",
    [
        "../../etc/passwd", "/etc/passwd", "..\\x.jpg", "a/../b.jpg", "", ".", "..",
        ".ssh", "~root", "x\x00.jpg", "a//b.jpg", "x" * 300, "a/" * 30 + "b", "c:x", "x\x1b[2J",
    ],
)  # fmt: skip
def test_a_path_in_a_name_is_refused(served: Served, photo: File, name: str) -> None:
    found = served.post("/represent?crops=true", ("photo", name, photo[1]))
    assert found.status in (400, 422) and "\x1b" not in found.error


def test_names_of_any_writing_are_taken(served: Served, photo: File) -> None:
    names = ["👨\u200d👩\u200d👧 2.jpg", "At 9.41\u202fAM.png", "👪" * 60, "ü\u00a0x.jpg"]
    names += ["10:30?.jpg"] if os.name == "posix" else []
    for name in names:
        found = served.post("/represent?crops=true", ("photo", name, photo[1]))
        assert found.status == 200 and found.json["people"][0]["path"] == name, found.content


def test_head_answers_as_get_does_and_a_form_may_have_a_preamble(
    served: Served, photo: File
) -> None:
    for path in ("/health", "/openapi.json"):
        found = served.ask("HEAD", path)
        assert found.status == 200 and not found.content
        assert found.headers["content-length"] == served.ask("GET", path).headers["content-length"]
    body = form([("photo", *photo)])
    for preamble in (b"\r\n", b"of MIME\r\n", b"x" * 3000 + b"\r\n", b"--" + b"\r\n"):
        found = served.ask("POST", "/represent?crops=true", preamble + body, KIND)
        assert found.status == 200, (preamble, found.content)
    for other in (b"x" + body, b"x" * 5000):
        found = served.ask("POST", "/represent?crops=true", other, KIND)
        assert found.status in (400, 422) and found.error.startswith("the form"), found.content


def test_digits_of_other_scripts_are_no_numbers(served: Served, photo: File, other: File) -> None:
    one = "%D9%A1"  # the Arabic one
    assert (
        served.post(f"/compare?crops=true&face={one}", ("a", *photo), ("b", *other)).status == 422
    )
    for setting in ("face", "top", "prior"):
        asked = f"/search?crops=true&{setting}={one}"
        assert served.post(asked, ("photo", *photo)).status == 422, setting


def test_the_folder_of_an_old_browser_is_left_out(served: Served, photo: File) -> None:
    found = served.post("/represent?crops=true", ("photo", r"C:\photos\x.jpg", photo[1]))
    assert found.json["people"][0]["path"] == "x.jpg"


def test_other_forms_are_refused(served: Served, photo: File, other: File) -> None:
    jpeg = photo[1]
    for kind, body, status in (
        ("application/json", b'{"photo": "x"}', 415),
        ("application/x-www-form-urlencoded", b"photo=x", 415),
        ("text/plain", b"photo=x", 415),
        ("multipart/form-data", form([("photo", "x.jpg", jpeg)]), 415),
        ("multipart/form-data; boundary=", form([("photo", "x.jpg", jpeg)]), 415),
        ("multipart/form-data; boundary=other", form([("photo", "x.jpg", jpeg)]), 400),
        ("multipart/mixed; boundary=" + BOUNDARY, form([("photo", "x.jpg", jpeg)]), 415),
        ("", jpeg, 415),
        (KIND["Content-Type"], jpeg, 400),
        (KIND["Content-Type"], b"", 400),
        (KIND["Content-Type"], form([("photo", "x.jpg", jpeg)])[:-30], 400),
        (KIND["Content-Type"], form([]), 422),
        (KIND["Content-Type"], form([("photo", "x.jpg", b"")]), 422),
        (KIND["Content-Type"], form([("other", "x.jpg", jpeg)]), 422),
        (KIND["Content-Type"], form([("photo", "x.jpg", jpeg)] * 2), 422),
        (KIND["Content-Type"], form([("photo", "x.jpg", jpeg), ("b", "x.jpg", jpeg)]), 422),
        (KIND["Content-Type"], form([("photo", "x", b"1")]).replace(b'; filename="x"', b""), 422),
        (KIND["Content-Type"], form([("p" * 9000, "x", b"1")]), 400),
        (KIND["Content-Type"], form([("photo", "x", b"1")] ).replace(b"\r\n\r\n", b"\r\nA: 1" * 200 + b"\r\n\r\n"), 400),
    ):  # fmt: skip
        found = served.ask("POST", "/represent", body, {"Content-Type": kind} if kind else {})
        assert found.status == status and found.error, (kind, body[:80], found.content)
    twice = served.post("/compare", ("a", *photo), ("a", *other))
    assert twice.status == 422 and twice.error == "the form: a has two files, wanted one"


def test_it_says_nothing_that_a_page_elsewhere_could_use(served: Served) -> None:
    headers = served.ask("GET", "/health").headers
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["content-security-policy"].startswith("default-src 'none'")
    assert headers["cache-control"] == "no-store" and "server" not in headers


def test_methods_and_garbage(served: Served) -> None:
    for method in ("PUT", "DELETE", "PATCH", "TRACE", "GET"):
        assert served.ask(method, "/compare").status == 405
    for garbage in (b"\x16\x03\x01\x02\x00", b"GET / HTTP/9\r\n\r\n", b"A" * 70_000):
        answer = raw(served, garbage + b"\r\n\r\n")
        assert answer == b"" or answer.split(b" ", 2)[1] == b"400"


@pytest.fixture(scope="module")
def impatient(answers: Answers, serving: Callable[..., Served]) -> Served:
    """A server that waits half a second for headers, and for photos."""

    class Impatient(Timed):
        head_seconds = 0.5

    desk = Desk(4, MOST, 0.5)
    application = make_application(answers, desk, is_described=False)
    return serving(application, desk, protocol=Impatient)


def test_who_sends_headers_slowly_is_cut(impatient: Served) -> None:
    began = time.monotonic()
    lines = [socket.create_connection(("127.0.0.1", impatient.port), timeout=10) for _ in range(40)]
    stop = threading.Event()

    def drip() -> None:
        while not stop.wait(0.1):
            for line in lines:
                with suppress(OSError):
                    line.send(b"a")

    dripping = threading.Thread(target=drip)
    for line in lines:
        line.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: ")
    dripping.start()
    assert impatient.ask("GET", "/health").status == 200
    for line in lines:
        with suppress(ConnectionError):
            assert line.recv(100) == b""
    stop.set()
    dripping.join()
    for line in lines:
        line.close()
    assert time.monotonic() - began < 5


def test_who_sends_photos_slowly_is_told(impatient: Served, photo: File) -> None:
    head = b"POST /represent HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999\r\n"
    request = head + f"Content-Type: {KIND['Content-Type']}\r\n\r\n--".encode()
    answers: list[bytes] = []
    threads = [
        threading.Thread(target=lambda: answers.append(raw(impatient, request))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert [answer.split(b" ", 2)[1] for answer in answers] == [b"408"] * 4
    assert impatient.desk.inside == 0 and impatient.desk.budget.held == 0


def test_who_is_killed_on_the_way_leaves_nothing_behind(
    served: Served, answers: Answers, photo: File, monkeypatch: Any, caplog: Any
) -> None:
    searches: list[bool] = []

    def search(person: Any, config: Any, check: Callable[[], object]) -> dict[str, object]:
        searches.append(True)
        for _ in range(500):
            check()
            time.sleep(0.01)
        raise AssertionError("nobody told it that its client is gone")

    monkeypatch.setattr(answers, "search", search)
    body = form([("photo", *photo)])
    head = f"POST /search?crops=true HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
    request = head.encode() + f"Content-Type: {KIND['Content-Type']}\r\n\r\n".encode() + body
    for sent in (request[:-500], request):
        with socket.create_connection(("127.0.0.1", served.port), timeout=20) as line:
            line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset
            line.sendall(sent)
            deadline = time.monotonic() + 10
            while served.desk.inside == 0 or (sent == request and not searches):
                assert time.monotonic() < deadline
                time.sleep(0.01)
        while served.desk.inside:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    time.sleep(0.1)  # until the search looks
    gc.collect()  # asyncio logs what nobody looked at when it goes
    assert searches == [True] and caplog.messages == []


def test_who_waits_when_the_server_ends_is_told() -> None:
    async def forever(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(60)

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def end() -> None:
        headers = [(b"host", b"localhost")]
        scope = {"type": "http", "method": "GET", "path": "/health", "headers": headers}
        guard = Guard(forever, ("localhost",), most=1)
        asking = asyncio.ensure_future(guard(scope, send, send))  # type: ignore[arg-type]
        await asyncio.sleep(0)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking

    asyncio.run(end())
    assert sent[0]["status"] == 503 and b"this server ends" in sent[1]["body"]
    assert (b"retry-after", b"10") in sent[0]["headers"]


def test_photos_of_all_requests_together_are_bounded(
    answers: Answers, serving: Callable[..., Served], photo: File
) -> None:
    desk = Desk(4, MOST, 20)
    desk.budget.most = len(photo[1])
    small = serving(make_application(answers, desk, is_described=False), desk)
    found = small.post("/represent?crops=true", ("photo", *photo))
    assert found.status == 503 and "retry-after" in found.headers and desk.budget.held == 0


def test_other_names_are_known_when_they_are_given(
    answers: Answers, serving: Callable[..., Served]
) -> None:
    desk = Desk(4, MOST, 20)
    application = make_application(answers, desk, is_described=False)
    there = serving(application, desk, names=("photos.home",), own_address=True)
    for host, status in (
        ("photos.home", 200), ("Photos.Home:80", 200), ("127.0.0.1", 200),
        ("evil.example", 421), ("127.0.0.2", 421), ("localhost", 421),
    ):  # fmt: skip
        assert there.ask("GET", "/health", headers={"Host": host}).status == status, host


def test_nothing_is_written_anywhere(served: Served, photo: File) -> None:
    opened: list[str] = []
    is_on = [True]

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if is_on[0] and event == "open" and arguments[1] and set(arguments[1]) & set("wax+"):
            opened.append(str(arguments[0]))

    sys.addaudithook(hook)
    large = photo[1] + bytes(200_000)  # what follows a JPEG's end does not matter
    assert served.post("/search?crops=true", ("photo", "large.jpg", large)).status == 200
    is_on[0] = False
    assert opened == []
