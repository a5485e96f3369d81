"""The loopback server: who gets the page, what changes with the files, and how it ends."""

import http.client
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.live import LiveServer, Source, stamp


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "ledger"
    path.write_text("one")
    return path


@pytest.fixture
def server(file: Path) -> Iterator[LiveServer]:
    """A server of the file's content."""
    with LiveServer(Source(file.read_text, lambda: [file])) as made:
        yield made


def ask(
    server: LiveServer, path: str | None = None, method: str = "GET", **headers: str
) -> tuple[int, str, dict[str, str]]:
    """Status, text and headers of an answer; by default to the right address."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, f"/{server.token}/" if path is None else path, headers=names)
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, text, {name.lower(): value for name, value in answer.getheaders()}


def test_the_address_shows_the_page(server: LiveServer) -> None:
    status, text, headers = ask(server)
    assert (status, text) == (200, "one")
    assert server.address == f"http://127.0.0.1:{server.port}/{server.token}/"
    assert len(server.token) >= 32
    assert headers["cache-control"] == "no-store"
    assert headers["referrer-policy"] == "no-referrer", "the token does not leave with a link"
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert ask(server, method="HEAD")[:2] == (200, "")
    assert ask(server, f"/{server.token}/?x=1")[0] == 200


@pytest.mark.parametrize("path", ["/", "/favicon.ico", "/wrong/", "/{token}x/", "/{token}/../", "/x/{token}/", "/%E9"])
def test_without_the_token_it_is_forbidden(server: LiveServer, path: str) -> None:
    status, text, _ = ask(server, path.format(token=server.token))
    assert status == 403
    assert "one" not in text
    assert server.token not in text


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:{port}", "127.0.0.1", "127.0.0.1:1", "localhost.evil:{port}"]
)
def test_another_host_is_forbidden_even_with_the_token(server: LiveServer, host: str) -> None:
    """A web page whose name points at this machine."""
    assert ask(server, Host=host.format(port=server.port))[0] == 403


def test_localhost_is_this_machine(server: LiveServer) -> None:
    assert ask(server, Host=f"localhost:{server.port}")[0] == 200


def test_it_listens_on_loopback_alone(server: LiveServer) -> None:
    assert server._server.socket.getsockname()[0] == "127.0.0.1"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing: chooses the address of this machine
        except OSError:
            pytest.skip("this machine has no other address")
        other = probe.getsockname()[0]
    if other.startswith("127."):
        pytest.skip("this machine has no other address")
    with pytest.raises(OSError, match="refused"):
        socket.create_connection((other, server.port), timeout=5)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_nothing_can_be_sent(server: LiveServer, method: str) -> None:
    assert ask(server, method=method)[0] == 501


def test_an_unchanged_page_is_not_sent_again(server: LiveServer, file: Path) -> None:
    tag = ask(server)[2]["etag"]
    assert ask(server, If_None_Match=tag)[:2] == (304, "")
    file.write_text("two, longer")
    status, text, headers = ask(server, If_None_Match=tag)
    assert (status, text) == (200, "two, longer")
    assert headers["etag"] != tag


def test_a_file_that_cannot_be_read_now_is_tried_again(server: LiveServer, file: Path) -> None:
    file.unlink()
    assert ask(server)[0] == 503
    file.write_text("back")
    assert ask(server)[:2] == (200, "back")


def test_it_ends_with_its_threads_and_prints_nothing(file: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = threading.active_count()
    with LiveServer(Source(file.read_text, lambda: [file])) as server:
        assert ask(server)[0] == 200
        assert ask(server, "/")[0] == 403
        port = server.port
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=5)
    assert threading.active_count() <= before + 1, "a connection may take a moment to close"
    assert capfd.readouterr() == ("", "")


def test_stamps_are_of_files_that_exist(tmp_path: Path) -> None:
    file = tmp_path / "a"
    assert stamp([file]) == ()
    file.write_text("1")
    first = stamp([file])
    file.write_text("12")
    assert stamp([file, tmp_path / "none"]) != first
