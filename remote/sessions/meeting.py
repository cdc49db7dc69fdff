"""How one member of a session gets connected to all others.

The member of lower rank dials, twice: one connection for the frames of each. Both prove their certificates, and the
first makes the pair's secret (``mpc/network/handshake.py``).
"""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress

from sharetorch.mpc.errors import DeadlineExceededError, HandshakeError
from sharetorch.mpc.network import handshake
from sharetorch.mpc.network.handshake import Hello, Pair, PairKeys, SessionDocument
from sharetorch.mpc.network.identity import ALPN_PEER, Identity, Peer, dial
from sharetorch.mpc.network.links import Incoming, Link, Outgoing, Times, hang_up
from sharetorch.mpc.ring import Ring

Address = tuple[str, int]


class Meeting:
    """One member's side of connecting a session.

    Args:
        document: what the members agree on.
        session: its id.
        rank: of this member.
        identity: its keys.
        addresses: of members, as this worker knows them; if it knows none, those of the document count.
        seconds: for each connection.
    """

    def __init__(
        self,
        document: SessionDocument,
        session: bytes,
        rank: int,
        identity: Identity,
        addresses: Mapping[str, Address],
        seconds: float,
    ) -> None:
        self._document = document
        self._session = session
        self._rank = rank
        self._identity = identity
        self._addresses = addresses
        self._seconds = seconds
        self._arrived: dict[int, tuple[PairKeys, dict[int, ssl.SSLSocket]]] = {}
        self._met: set[int] = set()
        self._over: Exception | None = None
        self._changed = threading.Condition()

    def accept(self, sock: ssl.SSLSocket, peer: Peer, hello: Hello) -> None:
        """Take a connection another member has dialed; runs in the thread of that connection.

        Raises:
            HandshakeError: it is not of that member, or one too many.
        """
        if hello.other != self._rank or hello.dialer >= self._rank:
            raise HandshakeError(f"{peer.id} connected as member {hello.dialer} to {hello.other}; that is wrong.")
        pair = self._pair(hello.dialer)
        handshake.check_peer(peer, pair.low_entry)
        with self._changed:
            if hello.purpose == handshake.BACK:  # the dialer may have finished the exchange before this side has
                self._changed.wait_for(self._has_begun(hello.dialer), self._seconds)
            known = self._arrived.get(hello.dialer)
            met = hello.dialer in self._met
        if met or (known is None) != (hello.purpose == handshake.FORTH) or (known and hello.purpose in known[1]):
            raise HandshakeError(f"{peer.id} connected twice for the same purpose; the connection is closed.")
        if known is None:
            keys = handshake.exchange_as_high(sock, hello, pair, self._identity)
        else:
            keys = known[0]
            handshake.check_join(hello, pair, keys)
        with self._changed:
            if self._over is not None or hello.purpose in self._arrived.get(hello.dialer, (keys, {}))[1]:
                raise HandshakeError(f"{peer.id} connected to a session that is over, or twice.")
            self._arrived.setdefault(hello.dialer, (keys, {}))[1][hello.purpose] = sock
            self._changed.notify_all()

    def _has_begun(self, peer: int) -> Callable[[], bool]:
        return lambda: peer in self._arrived or peer in self._met or self._over is not None

    def connect(self, ring: Ring, times: Times) -> tuple[dict[int, bytes], dict[int, Link]]:
        """Connect to all other members.

        Returns:
            The secret with each of them, and the connections, by rank.

        Raises:
            NetworkError: one cannot be reached, or is not who it should be.
        """
        secrets: dict[int, bytes] = {}
        links: dict[int, Link] = {}
        try:
            for peer in range(len(self._document.members)):
                if peer != self._rank:
                    keys, out, into = self._dial(peer) if peer > self._rank else self._await(peer)
                    secrets[peer] = keys.secret
                    links[peer] = self._link(peer, keys, out, into, ring, times)
        except BaseException:
            for link in links.values():
                link.incoming.close()
                link.outgoing.close()
            raise
        return secrets, links

    def stop(self, reason: Exception) -> None:
        """Wait for nobody any more."""
        with self._changed:
            self._over = self._over or reason
            self._changed.notify_all()

    def close(self) -> None:
        """Close connections that nobody took over."""
        with self._changed:
            socks = [sock for _, found in self._arrived.values() for sock in found.values()]
            self._arrived.clear()
        for sock in socks:
            with suppress(OSError):
                hang_up(sock)
            sock.close()

    def _pair(self, peer: int) -> Pair:
        low, high = sorted((self._rank, peer))
        members = self._document.members
        return Pair(self._session, low, high, members[low], members[high])

    def _dial(self, peer: int) -> tuple[PairKeys, ssl.SSLSocket, ssl.SSLSocket]:
        pair = self._pair(peer)
        entry = pair.high_entry
        address = self._addresses.get(entry.id) if self._addresses else (entry.host, entry.port)
        if address is None:
            raise HandshakeError(
                f"{self._identity.id} knows no address of {entry.id}, and with [peers] in its configuration it takes "
                "none from drivers. Enter it there."
            )
        first, found = dial(self._identity, address, entry.id, ALPN_PEER, self._seconds)
        try:
            handshake.check_peer(found, entry)
            first.settimeout(self._seconds)
            keys = handshake.exchange_as_low(first, pair, self._identity)
            second, found = dial(self._identity, address, entry.id, ALPN_PEER, self._seconds)
        except BaseException:
            first.close()
            raise
        handshake.check_peer(found, entry)
        handshake.join_as_low(second, pair, keys)
        return keys, first, second

    def _await(self, peer: int) -> tuple[PairKeys, ssl.SSLSocket, ssl.SSLSocket]:
        def complete() -> bool:
            return self._over is not None or (peer in self._arrived and len(self._arrived[peer][1]) == 2)

        with self._changed:
            arrived = self._changed.wait_for(complete, 2 * self._seconds)
            if self._over is not None:
                raise self._over
            if not arrived:
                name = self._document.members[peer].id
                late = DeadlineExceededError(
                    f"{name} did not connect to {self._identity.id} in time. Check that each worker reaches the "
                    "others' addresses: sharetorch doctor."
                )
                late.member = name
                raise late
            self._met.add(peer)
            keys, socks = self._arrived.pop(peer)
        return keys, socks[handshake.BACK], socks[handshake.FORTH]

    def _link(
        self, peer: int, keys: PairKeys, out: ssl.SSLSocket, into: ssl.SSLSocket, ring: Ring, times: Times
    ) -> Link:
        name = self._document.members[peer].id
        return Link(
            Outgoing(out, name, keys.direction(self._session, self._rank, peer), ring, times),
            Incoming(into, name, keys.direction(self._session, peer, self._rank), ring, times),
        )
