"""Who gets through a handshake, and what those hear who do not."""

import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest

from sharetorch.mpc.errors import ConfigurationError, DeadlineExceededError, HandshakeError, WorkerUnreachableError
from sharetorch.mpc.network import certificates, identity
from sharetorch.mpc.network.identity import ALPN_CONTROL, ALPN_PEER, Identity, Peer, accept, dial, tls_failure, verify
from tests.network.tools import WithoutCertificate


def group(folder: Path, *ids: str) -> Path:
    certificates.make_authority(folder)
    for id in ids:
        certificates.issue(folder, id, ["localhost", "127.0.0.1"])
    return folder


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return group(tmp_path_factory.mktemp("keys"), "alice", "bob", "carol")


class Listener:
    """Accepts connections one after the other and notes what came of them."""

    def __init__(self, context: ssl.SSLContext, timeout: float = 5.0) -> None:
        self.sock = socket.create_server(("127.0.0.1", 0))
        self.address: tuple[str, int] = self.sock.getsockname()[:2]
        self.results: list[Peer | Exception] = []
        self.open: list[ssl.SSLSocket] = []
        self._context, self._timeout = context, timeout
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while True:
            try:
                raw, _ = self.sock.accept()
            except OSError:
                return
            try:
                tls, peer = accept(self._context, raw, self._timeout)
            except Exception as error:
                self.results.append(error)
            else:
                self.open.append(tls)
                self.results.append(peer)

    def result(self) -> Peer | Exception:
        """What came of the last connection."""
        for _ in range(500):
            if self.results:
                return self.results[-1]
            time.sleep(0.01)
        raise AssertionError("nobody connected")

    def stop(self) -> None:
        with socket.socket() as last:
            last.connect_ex(self.address)  # wakes the thread
            self.sock.shutdown(socket.SHUT_RDWR)
            self.sock.close()
        self._thread.join(10)
        for tls in self.open:
            tls.close()
        assert not self._thread.is_alive()


@pytest.fixture
def listen() -> Iterator[Callable[..., Listener]]:
    started: list[Listener] = []

    def start(context: ssl.SSLContext, timeout: float = 5.0) -> Listener:
        started.append(Listener(context, timeout))
        return started[-1]

    yield start
    for listener in started:
        listener.stop()


def at_day(monkeypatch: pytest.MonkeyPatch, days: int) -> None:
    """Certificates are made as if it were another day."""
    shifted = datetime.now(UTC) + timedelta(days=days)
    monkeypatch.setattr(certificates, "datetime", SimpleNamespace(now=lambda zone: shifted))


@pytest.mark.parametrize("protocol", [ALPN_PEER, ALPN_CONTROL])
def test_both_ends_learn_id_and_key_of_the_other(keys: Path, listen: Callable[..., Listener], protocol: str) -> None:
    alice, bob = Identity.load(keys, "alice"), Identity.load(keys, "bob")
    listener = listen(bob.server_context())
    tls, peer = dial(alice, listener.address, "bob", protocol, 5)
    with tls:
        assert peer == Peer("bob", bob.public)
        assert listener.result() == Peer("alice", alice.public)
        assert tls.version() == "TLSv1.3"
        assert tls.selected_alpn_protocol() == listener.open[0].selected_alpn_protocol() == protocol
        assert tls.gettimeout() is None and listener.open[0].gettimeout() is None
        assert tls.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        tls.sendall(b"from alice")
        listener.open[0].sendall(b"from bob")
        assert (listener.open[0].recv(20), tls.recv(20)) == (b"from alice", b"from bob")


def test_any_member_is_taken_where_none_is_expected(keys: Path, listen: Callable[..., Listener]) -> None:
    listener = listen(Identity.load(keys, "carol").server_context())
    tls, peer = dial(Identity.load(keys, "alice"), listener.address, None, ALPN_PEER, 5)
    tls.close()
    assert peer.id == "carol"


def refused(
    listener: Listener, who: Identity, expect: str | None = "bob", protocol: str = ALPN_PEER
) -> tuple[str, str]:
    """What dialer and listener say of a connection that must not come about."""
    with pytest.raises(HandshakeError) as caught:
        tls, _ = dial(who, listener.address, expect, protocol, 5)
        with tls:  # On the control channel the first read shows it.
            try:
                assert tls.recv(1) == b"", "got through"
                raise EOFError
            except (OSError, EOFError) as error:
                raise tls_failure(error, "bob") from error
    other = listener.result()
    return str(caught.value), str(other)


@pytest.mark.parametrize("protocol", [ALPN_PEER, ALPN_CONTROL])
def test_without_a_certificate(keys: Path, listen: Callable[..., Listener], protocol: str) -> None:
    listener = listen(Identity.load(keys, "bob").server_context())
    here, there = refused(listener, WithoutCertificate.load(keys, "alice"), protocol=protocol)
    assert "it needs a certificate and we sent none" in here and "sharetorch keygen" in here
    assert "presents no certificate" in there


@pytest.mark.parametrize("protocol", [ALPN_PEER, ALPN_CONTROL])
def test_with_an_expired_certificate(
    tmp_path: Path, listen: Callable[..., Listener], monkeypatch: pytest.MonkeyPatch, protocol: str
) -> None:
    group(tmp_path, "bob")
    at_day(monkeypatch, -10)
    certificates.issue(tmp_path, "alice", days=9)
    alice = Identity.load(tmp_path, "alice")
    assert alice.expires < datetime.now(UTC)
    listener = listen(Identity.load(tmp_path, "bob").server_context())
    here, there = refused(listener, alice, protocol=protocol)
    assert "our certificate has expired" in here and "--renew" in here
    assert "its certificate has expired" in there


def test_of_a_listener_with_an_expired_certificate(
    tmp_path: Path, listen: Callable[..., Listener], monkeypatch: pytest.MonkeyPatch
) -> None:
    group(tmp_path, "alice")
    at_day(monkeypatch, -10)
    certificates.issue(tmp_path, "bob", days=9)
    listener = listen(Identity.load(tmp_path, "bob").server_context())
    here, there = refused(listener, Identity.load(tmp_path, "alice"))
    assert "bob at 127.0.0.1" in here and "its certificate has expired" in here
    assert "our certificate has expired" in there


def test_with_a_certificate_of_tomorrow(
    tmp_path: Path, listen: Callable[..., Listener], monkeypatch: pytest.MonkeyPatch
) -> None:
    group(tmp_path, "bob")
    at_day(monkeypatch, 1)
    certificates.issue(tmp_path, "alice")
    listener = listen(Identity.load(tmp_path, "bob").server_context())
    here, there = refused(listener, Identity.load(tmp_path, "alice"))
    assert "Compare the clocks" in here and "Compare the clocks" in there


class TrustsToo(Identity):
    """Presents its own certificate, but trusts the authority of another group: only the other end can refuse."""

    def client_context(self, protocol: str) -> ssl.SSLContext:
        context = super().client_context(protocol)
        context.load_verify_locations(cafile=self._folder.parent / "ours" / "ca.crt")
        return context


@pytest.mark.parametrize("protocol", [ALPN_PEER, ALPN_CONTROL])
def test_with_a_certificate_of_another_authority(
    tmp_path: Path, listen: Callable[..., Listener], protocol: str
) -> None:
    group(tmp_path / "ours", "bob")
    group(tmp_path / "theirs", "alice")
    listener = listen(Identity.load(tmp_path / "ours", "bob").server_context())
    here, there = refused(listener, TrustsToo.load(tmp_path / "theirs", "alice"), protocol=protocol)
    assert "our certificate is of another authority" in here
    assert "its certificate is of another authority" in there


def test_of_a_listener_of_another_authority(tmp_path: Path, listen: Callable[..., Listener]) -> None:
    group(tmp_path / "ours", "alice")
    group(tmp_path / "theirs", "bob")
    listener = listen(Identity.load(tmp_path / "theirs", "bob").server_context())
    here, there = refused(listener, Identity.load(tmp_path / "ours", "alice"))
    assert "its certificate is of another authority" in here
    assert "our certificate is of another authority" in there


@pytest.mark.parametrize("protocol", [ALPN_PEER, ALPN_CONTROL])
def test_of_another_member_than_expected(keys: Path, listen: Callable[..., Listener], protocol: str) -> None:
    listener = listen(Identity.load(keys, "carol").server_context())
    with pytest.raises(HandshakeError, match="has the certificate of 'carol', not of 'bob'"):
        dial(Identity.load(keys, "alice"), listener.address, "bob", protocol, 5)


def test_with_a_certificate_that_names_nobody(
    tmp_path: Path, listen: Callable[..., Listener], monkeypatch: pytest.MonkeyPatch
) -> None:
    group(tmp_path, "bob")
    monkeypatch.setattr(certificates, "name_of", lambda id, public: f"https://{id}")
    certificates.issue(tmp_path, "alice")
    nameless = Identity(tmp_path, "alice", certificates.Ed25519PrivateKey.generate(), datetime.now(UTC))
    listener = listen(Identity.load(tmp_path, "bob").server_context())
    here, there = refused(listener, nameless)
    assert "refuses our certificate" in here
    assert "names 0 members instead of one" in there


def test_with_an_older_version_of_tls(keys: Path, listen: Callable[..., Listener]) -> None:
    listener = listen(Identity.load(keys, "bob").server_context())
    context = Identity.load(keys, "alice").client_context(ALPN_PEER)
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_2
    with socket.create_connection(listener.address) as raw, pytest.raises(ssl.SSLError):
        context.wrap_socket(raw)
    assert "does not speak TLS 1.3" in str(listener.result())


def test_with_another_protocol(keys: Path, listen: Callable[..., Listener]) -> None:
    listener = listen(Identity.load(keys, "bob").server_context())
    with pytest.raises(HandshakeError, match="speaks no protocol of ours, not sharetorch/9"):
        dial(Identity.load(keys, "alice"), listener.address, "bob", "sharetorch/9", 5)
    assert "Compare the versions of ShareTorch" in str(listener.result())


def test_what_is_no_tls(keys: Path, listen: Callable[..., Listener]) -> None:
    listener = listen(Identity.load(keys, "bob").server_context())
    with socket.create_connection(listener.address, 5) as raw:
        raw.sendall(b"GET / HTTP/1.1\r\n\r\n")
        while raw.recv(100):
            pass
    assert "does not speak TLS 1.3" in str(listener.result())


def test_a_listener_that_is_no_worker(keys: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            raw, _ = server.accept()
            with raw:
                raw.recv(4096)
                raw.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(HandshakeError, match="does not speak TLS 1.3"):
            dial(Identity.load(keys, "alice"), server.getsockname()[:2], "bob", ALPN_PEER, 5)
        thread.join()


def test_a_listener_that_closes_at_once(keys: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=lambda: server.accept()[0].close())
        thread.start()
        with pytest.raises(HandshakeError, match="closed the connection during the handshake"):
            dial(Identity.load(keys, "alice"), server.getsockname()[:2], "bob", ALPN_PEER, 5)
        thread.join()


def test_nobody_answers(keys: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()[:2]
    with pytest.raises(WorkerUnreachableError, match=f"Nobody answers for bob at 127.0.0.1:{address[1]}"):
        dial(Identity.load(keys, "alice"), address, "bob", ALPN_PEER, 5)
    with pytest.raises(WorkerUnreachableError, match="Compare the address"):
        dial(Identity.load(keys, "alice"), ("no-such-host.invalid", 1), "bob", ALPN_PEER, 5)


def test_a_listener_that_says_nothing(keys: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        begin = time.monotonic()
        with pytest.raises(DeadlineExceededError, match=r"did not complete the handshake within 0\.3 s"):
            dial(Identity.load(keys, "alice"), server.getsockname()[:2], "bob", ALPN_PEER, 0.3)
        assert time.monotonic() - begin < 2


def test_a_listener_that_never_accepts(keys: Path) -> None:
    """The handshake is complete for the client; the byte that says so does not come."""
    context = Identity.load(keys, "bob").server_context()
    with socket.create_server(("127.0.0.1", 0)) as server:
        kept: list[ssl.SSLSocket] = []

        def half() -> None:
            kept.append(context.wrap_socket(server.accept()[0], server_side=True))

        thread = threading.Thread(target=half)
        thread.start()
        with pytest.raises(DeadlineExceededError):
            dial(Identity.load(keys, "alice"), server.getsockname()[:2], "bob", ALPN_PEER, 0.5)
        thread.join()
        kept[0].close()


@pytest.mark.parametrize("slow", [False, True])
def test_a_client_that_says_nothing_or_too_little(keys: Path, listen: Callable[..., Listener], slow: bool) -> None:
    listener = listen(Identity.load(keys, "bob").server_context(), timeout=0.5)
    begin = time.monotonic()
    with socket.create_connection(listener.address, 5) as raw:
        while not listener.results and time.monotonic() - begin < 5:
            if slow:
                try:
                    raw.sendall(b"\x16\x03\x01\x00\xff\x01"[:1])
                except OSError:
                    break
            time.sleep(0.05)
    assert isinstance(listener.result(), HandshakeError if slow else DeadlineExceededError)
    assert time.monotonic() - begin < 3


def test_handshakes_cannot_be_drawn_out(keys: Path, listen: Callable[..., Listener]) -> None:
    """The header of a long record, then byte after byte: the time is for everything together."""
    listener = listen(Identity.load(keys, "bob").server_context(), timeout=0.6)
    begin = time.monotonic()
    with socket.create_connection(listener.address, 5) as raw:
        raw.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
        while not listener.results and time.monotonic() - begin < 5:
            try:
                raw.sendall(b"\x00")
            except OSError:
                break
            time.sleep(0.05)
    assert isinstance(listener.result(), DeadlineExceededError)
    assert time.monotonic() - begin < 2


def test_sessions_are_not_resumed(keys: Path, listen: Callable[..., Listener]) -> None:
    listener = listen(Identity.load(keys, "bob").server_context())
    alice = Identity.load(keys, "alice")
    tls, _ = dial(alice, listener.address, "bob", ALPN_PEER, 5)
    with tls:
        assert tls.session is None or not tls.session.has_ticket


# ---------------------------------------------------------------------------------------------------- signatures


def test_a_signature_holds_for_its_message_and_key_alone(keys: Path) -> None:
    alice, bob = Identity.load(keys, "alice"), Identity.load(keys, "bob")
    signature = alice.sign(b"message")
    verify(alice.public, signature, b"message")
    wrong = [
        (alice.public, signature, b"messagE"),
        (bob.public, signature, b"message"),
        (alice.public, signature[:-1], b"message"),
        (alice.public, bytes(64), b"message"),
        (alice.public[:-1], signature, b"message"),
        (b"", b"", b""),
    ]
    for public, found, data in wrong:
        with pytest.raises(HandshakeError, match="does not hold"):
            verify(public, found, data)


# --------------------------------------------------------------------------------------------------------- files


def test_keys_are_readable_by_their_owner_alone(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        group(tmp_path / "keys", "alice")
    finally:
        os.umask(old)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "keys").iterdir()}
    assert modes.pop("ca.crt") == modes.pop("alice.crt") == 0o644
    assert modes == {"ca.key": 0o600, "alice.key": 0o600, "alice.identity": 0o600}
    assert (tmp_path / "keys").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("name", ["alice.key", "alice.identity"])
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_key_others_may_read_is_refused(tmp_path: Path, name: str, mode: int) -> None:
    group(tmp_path, "alice")
    (tmp_path / name).chmod(mode)
    with pytest.raises(ConfigurationError, match=f"mode {mode:04o}.*chmod 600"):
        Identity.load(tmp_path, "alice")


def test_the_authoritys_key_must_be_private_too(tmp_path: Path) -> None:
    group(tmp_path)
    (tmp_path / "ca.key").chmod(0o644)
    with pytest.raises(ConfigurationError, match="chmod 600"):
        certificates.issue(tmp_path, "alice")


def test_all_missing_files_are_named(tmp_path: Path) -> None:
    group(tmp_path, "alice")
    (tmp_path / "alice.key").unlink()
    (tmp_path / "ca.crt").unlink()
    with pytest.raises(ConfigurationError, match="has no alice.key, ca.crt.*sharetorch keygen"):
        Identity.load(tmp_path, "alice")
    with pytest.raises(ConfigurationError, match="bob.crt, bob.key, bob.identity, ca.crt"):
        Identity.load(tmp_path / "nowhere", "bob")


@pytest.mark.parametrize("name", ["alice.crt", "alice.key", "alice.identity", "ca.crt"])
def test_broken_files_are_named_and_not_quoted(tmp_path: Path, name: str) -> None:
    group(tmp_path, "alice")
    (tmp_path / name).write_text("-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwsecretXX\n-----END PRIVATE KEY-----\n")
    with pytest.raises(ConfigurationError, match=name) as caught:
        Identity.load(tmp_path, "alice")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        ("bob.crt", "alice.crt", "is the certificate of 'bob', not of 'alice'"),
        ("bob.key", "alice.key", "is not the key of"),
        ("bob.identity", "alice.identity", "names another identity key"),
        ("../other/ca.crt", "ca.crt", "is not signed by the authority"),
        ("alice.key", "alice.identity", "holds no Ed25519 key"),
        ("ca.crt", "alice.crt", "names no member"),
    ],
)
def test_files_that_do_not_belong_together(tmp_path: Path, source: str, target: str, message: str) -> None:
    folder = group(tmp_path / "keys", "alice", "bob")
    group(tmp_path / "other")
    (folder / target).write_bytes((folder / source).read_bytes())
    with pytest.raises(ConfigurationError, match=message):
        Identity.load(folder, "alice")


@pytest.mark.parametrize("id", ["", "ca", "../alice", "a/b", "a b", "-a", ".a", "ä", "a" * 65, "a\n", "a?key=00"])
def test_ids_that_are_none(tmp_path: Path, id: str) -> None:
    with pytest.raises(ConfigurationError, match="is no id of a worker"):
        Identity.load(tmp_path, id)
    with pytest.raises(ConfigurationError, match="is no id of a worker"):
        certificates.issue(tmp_path, id)


@pytest.mark.parametrize("host", ["", "a b", "host:80", "-a", "a..b", "a" * 64, "https://x", ".".join(["a"] * 200)])
def test_hosts_that_are_none(tmp_path: Path, host: str) -> None:
    with pytest.raises(ConfigurationError, match="neither a name of a host nor an IP address"):
        certificates.issue(tmp_path, "alice", [host])


def test_nothing_is_overwritten_unasked(tmp_path: Path) -> None:
    group(tmp_path, "alice")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for call in (
        lambda: certificates.make_authority(tmp_path),
        lambda: certificates.issue(tmp_path, "alice"),
        lambda: certificates.request(tmp_path, "alice"),
    ):
        with pytest.raises(ConfigurationError, match="nothing was changed"):
            call()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_renewing_keeps_the_identity(tmp_path: Path) -> None:
    group(tmp_path, "alice")
    before, key = Identity.load(tmp_path, "alice"), (tmp_path / "alice.key").read_bytes()
    certificates.issue(tmp_path, "alice", days=500, renew=True)
    after = Identity.load(tmp_path, "alice")
    assert after.public == before.public and after.expires > before.expires + timedelta(days=100)
    assert (tmp_path / "alice.key").read_bytes() != key
    certificates.issue(tmp_path, "alice", replace=True)
    assert Identity.load(tmp_path, "alice").public != before.public


def test_certificates_end_with_their_authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certificates.make_authority(tmp_path, days=30)
    certificates.issue(tmp_path, "alice", days=365)
    assert Identity.load(tmp_path, "alice").expires < datetime.now(UTC) + timedelta(days=31)
    at_day(monkeypatch, 40)
    with pytest.raises(ConfigurationError, match="authority's certificate expired"):
        certificates.issue(tmp_path, "bob")


@pytest.mark.parametrize("days", [0, -1, 36501])
def test_days_that_are_none(tmp_path: Path, days: int) -> None:
    with pytest.raises(ConfigurationError, match="Name 1 to 36500"):
        certificates.make_authority(tmp_path, days=days)
    assert list(tmp_path.iterdir()) == []


def test_without_an_authority_nothing_is_issued(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="has no authority: ca.crt is missing"):
        certificates.issue(tmp_path, "alice")
    group(tmp_path / "a")
    group(tmp_path / "b")
    (tmp_path / "a" / "ca.key").write_bytes((tmp_path / "b" / "ca.key").read_bytes())
    with pytest.raises(ConfigurationError, match="is not the key of ca.crt"):
        certificates.issue(tmp_path / "a", "alice")


def test_a_member_can_make_its_own_keys(tmp_path: Path, listen: Callable[..., Listener]) -> None:
    authority, own = group(tmp_path / "authority", "bob"), tmp_path / "own"
    found = certificates.request(own, "alice", ["10.0.0.7", "alice.example"])
    assert certificates.sign(authority, found) == "alice"
    assert not (authority / "alice.key").exists() and not (authority / "alice.identity").exists()
    for name in ("alice.crt", "ca.crt"):
        (own / name).write_bytes((authority / name).read_bytes())
    alice = Identity.load(own, "alice")
    listener = listen(Identity.load(authority, "bob").server_context())
    tls, _ = dial(alice, listener.address, "bob", ALPN_PEER, 5)
    tls.close()
    assert listener.result() == Peer("alice", alice.public)
    with pytest.raises(ConfigurationError, match="nothing was changed"):
        certificates.sign(authority, found)


def test_requests_that_are_none(tmp_path: Path) -> None:
    group(tmp_path, "bob")
    found = certificates.request(tmp_path / "own", "alice")
    changed = bytearray(certificates.x509.load_pem_x509_csr(found.read_bytes()).public_bytes(certificates.Encoding.DER))
    changed[-1] ^= 1
    request = certificates.x509.load_der_x509_csr(bytes(changed))
    found.write_bytes(request.public_bytes(certificates.Encoding.PEM))
    with pytest.raises(ConfigurationError, match="does not hold"):
        certificates.sign(tmp_path, found)
    with pytest.raises(ConfigurationError, match="is no request"):
        certificates.sign(tmp_path, tmp_path / "bob.crt")
    with pytest.raises(ConfigurationError, match="is no request"):
        certificates.sign(tmp_path, tmp_path / "nothing.csr")


def test_no_text_shows_a_private_key(keys: Path) -> None:
    alice = Identity.load(keys, "alice")
    assert alice._private.private_bytes_raw().hex() not in repr(alice) and "alice" in repr(alice)
    assert not hasattr(alice, "__dict__")


def test_a_bare_end_of_file_is_explained() -> None:
    assert "closed the connection" in str(tls_failure(EOFError(), "bob"))
    assert "closed the connection" in str(tls_failure(ConnectionResetError(), "bob"))
    error = HandshakeError("as it was")
    assert tls_failure(error, "bob") is error
    assert "bob failed: strange" in str(tls_failure(ValueError("strange"), "bob"))
    assert identity.PUBLIC_BYTES == 32
