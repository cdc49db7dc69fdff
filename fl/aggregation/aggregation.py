"""One round of secure aggregation: uploads, agreement on the received set, the rule.

The aggregators are the parties of an ordinary session. Clients may vanish at any moment: whoever did not reach all
aggregators is not in the set, and the result is exact over the set. After ``close`` nothing more is taken; the shares
become one tensor of the session.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sharetorch.fl.aggregation.errors import AggregationError, UploadError
from sharetorch.fl.aggregation.inbox import DIGEST_BYTES, Inbox
from sharetorch.fl.aggregation.limits import Limits
from sharetorch.fl.aggregation.registry import rule as rule_of
from sharetorch.fl.aggregation.rules import Rule
from sharetorch.fl.aggregation.treatment import Treatment
from sharetorch.fl.aggregation.uploads import ID_BYTES, Piece, Terms
from sharetorch.mpc.cost import Cost, Traffic
from sharetorch.mpc.errors import ModulusError, UnsupportedOperationError
from sharetorch.mpc.fixedpoint import INTEGERS
from sharetorch.mpc.randomness import Entropy, system_entropy
from sharetorch.mpc.ring import PowerRing
from sharetorch.mpc.session import Member, Session, new_id
from sharetorch.mpc.share import ArithmeticShare
from sharetorch.mpc.tensor.shared import Handle, SharedTensor
from sharetorch.mpc.tensor.sharing import session_for
from sharetorch.mpc.virtual import VirtualSession

CLIENT = -2
"""Rank under which bytes from clients are counted."""


class Aggregation:
    """One round.

    Args:
        session: its parties are the aggregators; members in this process.
        dimension: coordinates of an update.
        limits: what clients declare.
        rule: a rule, or the name of one without parameters.
        clip: largest length of an update (L2); longer ones are shortened.
        bounded: whether coordinates and weights are forced into the declared range; None: weights always, coordinates
            if the rule or ``clip`` needs it. Without it a client that breaks its word can make a sum wrap around.
        entropy: source of the round's id; tests give a recorded one.

    Attributes:
        terms: what clients must know.
        treatment: what is done with updates.
        traffic: bytes of uploads and of the agreement.

    Raises:
        DeclaredLimitsError: a number could overflow within the limits.
        TooFewClientsError: the rule needs more clients than are declared.
        RuleError: there is no such rule.
        UnsupportedOperationError: the members are on other machines; or coordinates are to be forced into their range
            by a protocol that does not compare all words of the ring.
        ModulusError: the session does not compute in Z_2^64.
    """

    def __init__(
        self,
        session: Session,
        dimension: int,
        limits: Limits,
        rule: str | Rule = "mean",
        *,
        clip: float | None = None,
        bounded: bool | None = None,
        entropy: Entropy = system_entropy,
    ) -> None:
        self._session = _checked(session)
        made = rule_of(rule) if isinstance(rule, str) else rule
        self.treatment = Treatment(made, limits, clip, bounded)
        if dimension < 1:
            raise AggregationError(f"Updates of {dimension} coordinates cannot be aggregated; give at least 1.")
        self.treatment.require(limits.clients, dimension)
        self.treatment.require_session(session)
        self.terms = Terms(entropy(ID_BYTES), dimension, len(session.parties), limits, made.weighted)
        self.traffic = Traffic()
        self._inboxes = [Inbox(self.terms, rank) for rank in range(self.terms.aggregators)]
        self._clients = 0
        self._updates: SharedTensor | None = None
        self._weights: SharedTensor | None = None
        self._sum: SharedTensor | None = None

    @classmethod
    def among(
        cls,
        *aggregators: Member,
        crypto_provider: Member,
        dimension: int,
        limits: Limits,
        rule: str | Rule = "mean",
        clip: float | None = None,
        bounded: bool | None = None,
        protocol: str | None = None,
    ) -> Aggregation:
        """A round in the session of these workers.

        Args:
            aggregators: two or more; who holds shares.
            crypto_provider: who deals correlated randomness.
            dimension: as for ``Aggregation``.
            limits: as for ``Aggregation``.
            rule: as for ``Aggregation``.
            clip: as for ``Aggregation``.
            bounded: as for ``Aggregation``.
            protocol: how comparisons are made, as for ``share``.
        """
        session = session_for(aggregators, crypto_provider, None, protocol)
        return cls(session, dimension, limits, rule, clip=clip, bounded=bounded)

    def __repr__(self) -> str:
        return f"<Aggregation {self.treatment.rule.name} of {self.terms.dimension} coordinates, {self._session!r}>"

    def receive(self, piece: Piece) -> None:
        """Hand a piece to its aggregator.

        Raises:
            UploadError: as ``Inbox.accept``, or there is no such aggregator.
        """
        if not 0 <= piece.rank < len(self._inboxes):
            raise UploadError(f"{piece!r}: there are {len(self._inboxes)} aggregators, from 0 on.")
        self._inboxes[piece.rank].accept(piece)
        self.traffic.count(CLIENT, piece.rank, len(piece.contents))

    def submit(self, update: Tensor, weight: int | None = None) -> None:
        """Split an update as its client would, and deliver all pieces.

        Args:
            update: as for ``Terms.split``.
            weight: as for ``Terms.split``.
        """
        for piece in self.terms.split(update, weight):
            self.receive(piece)

    def close(self) -> int:
        """Let the aggregators agree on the received set.

        Returns:
            How many clients' updates are in the set.

        Raises:
            UploadSetError: the aggregators do not agree. Nothing was computed.
            TooFewClientsError: the limits or the rule demand more.
            AggregationError: this was done before.

        Cost: 2 rounds; 16 bytes for each upload and 32 from each aggregator to each other one.
        """
        if self._clients:
            raise AggregationError("This round is closed already; begin a new Aggregation for the next one.")
        announced = [inbox.announce() for inbox in self._inboxes]
        digests = [inbox.settle(announced) for inbox in self._inboxes]
        for inbox in self._inboxes:
            inbox.confirm(digests)
        self._count(announced)
        clients = len(self._inboxes[0].order)
        self.treatment.require(clients, self.terms.dimension)
        self._clients = clients
        return clients

    def _hand_over(self) -> None:
        """Let what the aggregators hold become tensors of the session, once."""
        if not self._clients:
            raise AggregationError(
                "The aggregators have not agreed on what they received; close() the round first."
            )
        if self._updates is None:
            held = [inbox.shares() for inbox in self._inboxes]
            self._updates = self._adopt([part.updates for part in held], real=True)
            if self.terms.weighted:
                self._weights = self._adopt([part.weights for part in held], real=False)

    def _total(self) -> SharedTensor:
        """The sum of the updates, integers: each aggregator adds up what it received."""
        if self._sum is None:
            totals = [inbox.total() for inbox in self._inboxes]
            self._sum = self._adopt(totals, real=False)
        return self._sum

    def _count(self, announced: list[tuple[bytes, ...]]) -> None:
        self.traffic.rounds += 2
        for rank, ids in enumerate(announced):
            for peer in range(len(announced)):
                if peer != rank:
                    self.traffic.count(rank, peer, ID_BYTES * len(ids) + DIGEST_BYTES)

    def _adopt(self, shares: list[Tensor], real: bool) -> SharedTensor:
        """What the parties hold, as a tensor of the session."""
        session, number, shape = self._session, new_id(), shares[0].shape
        for member, share in zip(session.parties, shares, strict=True):
            member.store[number] = ArithmeticShare(share)
        if session.provider is not None:
            session.provider.store[number] = ArithmeticShare(session.ring.empty_meta(shares[0]))
        encoding, dtype = (self.terms.limits.encoding, torch.float32) if real else (INTEGERS, torch.int64)
        return SharedTensor(Handle(session, number, encoding), torch.empty(shape, dtype=dtype, device="meta"))

    @property
    def closed(self) -> bool:
        """Whether the aggregators have agreed on what they received."""
        return bool(self._clients)

    @property
    def updates(self) -> SharedTensor:
        """The received updates, shape (n, d), shared.

        Raises:
            AggregationError: the round is not closed.
        """
        self._hand_over()
        assert self._updates is not None
        return self._updates

    @property
    def weights(self) -> SharedTensor | None:
        """The clients' weights, shape (n,), shared integers; None if there are none.

        Raises:
            AggregationError: the round is not closed.
        """
        self._hand_over()
        return self._weights

    def result(self) -> SharedTensor:
        """The rule's result, shared, shape (d,): for a model that stays secret between rounds."""
        if self._sums:
            return self.treatment.rule.finished(self._total(), self._clients, self.terms.limits)
        return self.treatment(self.updates, self.weights)

    def open(self) -> Tensor:
        """The rule's result, opened to the driver: float64, shape (d,)."""
        if self._sums:
            return self.treatment.rule.finished_openly(self._total(), self._clients, self.terms.limits)
        return self.treatment.opened(self.updates, self.weights)

    @property
    def _sums(self) -> bool:
        """Whether nobody needs the updates one by one."""
        return self.closed and self.treatment.additive and self._updates is None

    def cost(self, *, opened: bool = False) -> Cost:
        """Declared price of ``result``, or of ``open``, for the received set."""
        prices = self._session.suite.prices(self.terms.aggregators)
        return self.treatment.cost(self._clients, self.terms.dimension, prices, opened=opened)


def _checked(session: Session) -> Session:
    if not isinstance(session, VirtualSession):
        raise UnsupportedOperationError(
            f"{session!r} has its members on other machines, and uploads do not go through the driver. Let each client "
            "share its update with the parties (pointer.share) and call a Treatment on the shared tensors."
        )
    if not isinstance(session.ring, PowerRing) or session.ring.modulus != 1 << 64:
        raise ModulusError(f"Aggregation works in Z_2^64, not in {session.ring!r}; make the session without field=.")
    return session
