"""Downloads from a server on this machine."""

import errno
import hashlib
import os
import shutil
import ssl
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from datamodules.download import download, has_checksum

CONTENT = bytes(range(256)) * 4096  # 1 MiB: several reads of the client
CHECKSUM = "sha256:" + hashlib.sha256(CONTENT).hexdigest()


@dataclass
class Server:
    """What the server does with a request, and what it has been asked and has sent."""

    url: str = ""
    ranges: bool = True  # whether it understands Range
    drops: list[int] = field(default_factory=list)  # bytes of the body after which each of the first answers ends
    status: int = 200  # of every answer, unless 200
    redirect: str = ""
    asked: list[str | None] = field(default_factory=list)  # Range header of each request
    sent: list[int] = field(default_factory=list)  # bytes of the body of each answer


@pytest.fixture(autouse=True)
def no_delays_and_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def server() -> Iterator[Server]:
    yield from serve(Server())


def serve(server: Server, certificate: Path | None = None) -> Iterator[Server]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            asked = self.headers.get("Range")
            server.asked.append(asked)
            self.close_connection = True
            if server.redirect and self.path != "/moved/file.bin":
                self.answer(302, b"", Location=server.redirect)
            elif server.status != 200:
                self.answer(server.status, b"no")
            elif asked is None or not server.ranges:
                self.answer(200, CONTENT)
            elif (start := int(asked.removeprefix("bytes=").removesuffix("-"))) < len(CONTENT):
                self.answer(206, CONTENT[start:], Content_Range=f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}")
            else:
                self.answer(416, b"", Content_Range=f"bytes */{len(CONTENT)}")

        def answer(self, status: int, body: bytes, **headers: str) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if server.drops and status in (200, 206):
                body = body[: server.drops.pop(0)]
            server.sent.append(len(body))
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        http.socket = context.wrap_socket(http.socket, server_side=True)
    http.handle_error = lambda request, address: None  # a client that refuses the certificate is no news
    server.url = f"{'https' if certificate else 'http'}://127.0.0.1:{http.server_port}/data/file.bin"
    thread = Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield server
    http.shutdown()
    http.server_close()
    thread.join()


def is_alone(path: Path) -> bool:
    return os.listdir(path.parent) == [path.name]


def test_md5_where_it_is_refused_for_security(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = hashlib.new

    def hardened(name: str, data: bytes = b"", *, usedforsecurity: bool = True) -> object:
        if name == "md5" and usedforsecurity:
            raise ValueError("disabled for FIPS")
        return real(name, data, usedforsecurity=usedforsecurity)

    monkeypatch.setattr(hashlib, "new", hardened)
    file = tmp_path / "file"
    file.write_bytes(b"abc")
    assert has_checksum(file, "md5:900150983cd24fb0d6963f7d28e17f72")  # RFC 1321, A.5
    assert not has_checksum(file, "md5:900150983cd24fb0d6963f7d28e17f73")


@pytest.mark.parametrize("algorithm", ["md5", "sha256", "sha512"])
def test_a_file_is_fetched_under_its_own_name(server: Server, tmp_path: Path, algorithm: str) -> None:
    checksum = f"{algorithm}:{hashlib.new(algorithm, CONTENT).hexdigest()}"
    path = download(server.url + "?version=2", checksum, tmp_path / "a" / "b")
    assert path == tmp_path / "a" / "b" / "file.bin"
    assert path.read_bytes() == CONTENT
    assert is_alone(path)
    assert server.asked == [None]


def test_a_file_is_on_the_disk_before_it_gets_its_name(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed = []
    monkeypatch.setattr(os, "fsync", lambda file: flushed.append((os.fstat(file).st_size, os.listdir(tmp_path))))
    download(server.url, CHECKSUM, tmp_path)
    assert flushed == [(len(CONTENT), ["file.bin.part"])]


def test_a_file_that_is_there_makes_no_request(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file.bin").write_bytes(CONTENT)
    assert download(server.url, CHECKSUM, tmp_path) == tmp_path / "file.bin"
    assert server.asked == []


def test_a_wrong_file_that_is_there_is_replaced(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file.bin").write_bytes(CONTENT[:-1])
    assert download(server.url, CHECKSUM, tmp_path).read_bytes() == CONTENT


def test_a_partial_file_is_completed_by_the_rest_alone(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file.bin.part").write_bytes(CONTENT[:1000])
    path = download(server.url, CHECKSUM, tmp_path)
    assert path.read_bytes() == CONTENT
    assert is_alone(path)
    assert server.asked == ["bytes=1000-"]
    assert server.sent == [len(CONTENT) - 1000]


def test_a_server_without_ranges_starts_over(server: Server, tmp_path: Path) -> None:
    server.ranges = False
    (tmp_path / "file.bin.part").write_bytes(b"x" * (len(CONTENT) + 10))  # longer than the file: must be cut
    assert download(server.url, CHECKSUM, tmp_path).read_bytes() == CONTENT
    assert server.asked == [f"bytes={len(CONTENT) + 10}-"]


def test_a_dropped_connection_is_resumed(server: Server, tmp_path: Path) -> None:
    server.drops = [300_000, 0, 500_000]
    assert download(server.url, CHECKSUM, tmp_path).read_bytes() == CONTENT
    assert server.asked == [None, "bytes=300000-", "bytes=300000-", "bytes=800000-"]
    assert sum(server.sent) == len(CONTENT)


def test_the_fourth_dropped_connection_is_the_last(server: Server, tmp_path: Path) -> None:
    server.drops = [10] * 10
    with pytest.raises(ConnectionError, match=r"file\.bin .*40 of 1048576 bytes.*source=FOLDER"):
        download(server.url, CHECKSUM, tmp_path)
    assert len(server.asked) == 4
    assert (tmp_path / "file.bin.part").read_bytes() == CONTENT[:40]  # the next run goes on from here


def test_a_complete_partial_file_is_taken(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file.bin.part").write_bytes(CONTENT)
    path = download(server.url, CHECKSUM, tmp_path)
    assert path.read_bytes() == CONTENT
    assert is_alone(path)
    assert sum(server.sent) == 0


@pytest.mark.parametrize("part", [CONTENT + b"x", b"x" * len(CONTENT)], ids=["too long", "wrong"])
def test_a_partial_file_beyond_the_end_is_fetched_anew(server: Server, tmp_path: Path, part: bytes) -> None:
    (tmp_path / "file.bin.part").write_bytes(part)
    assert download(server.url, CHECKSUM, tmp_path).read_bytes() == CONTENT
    assert server.asked == [f"bytes={len(part)}-", None]


def test_a_wrong_checksum_leaves_nothing(server: Server, tmp_path: Path) -> None:
    wrong = "sha256:" + "0" * 64
    with pytest.raises(ValueError) as raised:
        download(server.url, wrong, tmp_path)
    for part in (server.url, wrong, CHECKSUM, "try again", "source="):
        assert part in str(raised.value)
    assert os.listdir(tmp_path) == []
    assert len(server.asked) == 1


def test_a_checksum_may_be_written_in_capitals(server: Server, tmp_path: Path) -> None:
    assert download(server.url, CHECKSUM.upper(), tmp_path).read_bytes() == CONTENT


def test_a_missing_file_is_not_asked_for_again(server: Server, tmp_path: Path) -> None:
    server.status = 404
    with pytest.raises(ConnectionError, match=r"file\.bin .*404.*Not Found.*source=FOLDER"):
        download(server.url, CHECKSUM, tmp_path)
    assert len(server.asked) == 1
    assert not (tmp_path / "file.bin").exists()


def test_a_busy_server_is_asked_again(server: Server, tmp_path: Path) -> None:
    server.status = 503
    with pytest.raises(ConnectionError, match="503"):
        download(server.url, CHECKSUM, tmp_path)
    assert len(server.asked) == 4


def test_nobody_listens(server: Server, tmp_path: Path) -> None:
    with pytest.raises(ConnectionError, match=r"127\.0\.0\.1:1/file\.bin .*refused.*source=FOLDER") as raised:
        download("http://127.0.0.1:1/file.bin", CHECKSUM, tmp_path)
    assert "\n" not in str(raised.value)


def test_a_name_that_does_not_exist(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def unknown(*args: object, **kwargs: object) -> None:
        raise OSError(errno.EHOSTUNREACH, "No route to host")  # as socket.gaierror, an OSError of no finer class

    monkeypatch.setattr("socket.create_connection", unknown)
    with pytest.raises(ConnectionError, match="No route to host.*source=FOLDER"):
        download("https://example.invalid/file.bin", CHECKSUM, tmp_path)


def test_a_silent_server_times_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    monkeypatch.setattr("datamodules.download.TIMEOUT", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/file.bin"
        with pytest.raises(ConnectionError, match="timed out.*source=FOLDER"):
            download(url, CHECKSUM, tmp_path)


def test_a_route_lost_in_the_middle_is_resumed(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from http.client import HTTPResponse

    read, calls = HTTPResponse.read, []

    def lost(self: HTTPResponse, amount: int | None = None) -> bytes:
        calls.append(amount)
        if len(calls) == 2:
            raise OSError(errno.ENETUNREACH, "Network is unreachable")  # not a ConnectionError
        return read(self, amount)

    monkeypatch.setattr(HTTPResponse, "read", lost)
    assert download(server.url, CHECKSUM, tmp_path).read_bytes() == CONTENT
    assert len(server.asked) == 2
    assert server.asked[1] is not None


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
def test_a_full_disk_is_said_as_it_is(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file.bin.part").symlink_to("/dev/full")
    with pytest.raises(OSError) as raised:
        download(server.url, CHECKSUM, tmp_path)
    assert raised.value.errno == errno.ENOSPC
    assert not isinstance(raised.value, ConnectionError)
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    "url", ["http://example.org/file.bin", "ftp://127.0.0.1/file.bin", "file:///etc/passwd", "http://127.0.0.1.org/f"]
)
def test_only_https_goes_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setattr("socket.create_connection", lambda *args, **kwargs: pytest.fail("it connected"))
    with pytest.raises(ValueError, match="https"):
        download(url, CHECKSUM, tmp_path)


def test_a_redirect_on_this_machine_is_followed(server: Server, tmp_path: Path) -> None:
    server.redirect = "/moved/file.bin"
    (tmp_path / "file.bin.part").write_bytes(CONTENT[:1000])
    assert download(server.url, CHECKSUM, tmp_path).read_bytes() == CONTENT
    assert server.asked == ["bytes=1000-", "bytes=1000-"]


def test_a_redirect_to_plain_http_elsewhere_is_refused(server: Server, tmp_path: Path) -> None:
    server.redirect = "http://example.invalid/file.bin"
    with pytest.raises(ConnectionError, match="https.*source=FOLDER"):
        download(server.url, CHECKSUM, tmp_path)
    assert len(server.asked) == 1


@pytest.fixture
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Self-signed certificate of 127.0.0.1, with its key."""
    if not shutil.which("openssl"):
        pytest.skip("openssl is not installed")
    path = tmp_path_factory.mktemp("tls") / "certificate.pem"
    options = "-x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=127.0.0.1 -addext subjectAltName=IP:127.0.0.1"
    command = ["openssl", "req", *options.split(), "-keyout", str(path), "-out", str(path) + ".crt"]
    subprocess.run(command, check=True, capture_output=True)
    path.write_bytes(path.read_bytes() + Path(str(path) + ".crt").read_bytes())
    return path


def test_https_is_never_redirected_to_http(
    server: Server, certificate: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate) + ".crt")
    secure = serve(Server(), certificate)
    first = next(secure)
    assert download(first.url, CHECKSUM, tmp_path / "direct").read_bytes() == CONTENT
    first.redirect = server.url  # plain http on this machine, which may be asked directly but not be sent to
    with pytest.raises(ConnectionError, match="https.*source=FOLDER"):
        download(first.url, CHECKSUM, tmp_path / "redirected")
    assert server.asked == []
    next(secure, None)


def test_an_unknown_certificate_is_refused(certificate: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", os.devnull)
    secure = serve(Server(), certificate)
    with pytest.raises(ConnectionError, match="certificate.*source=FOLDER"):
        download(next(secure).url, CHECKSUM, tmp_path)
    next(secure, None)
