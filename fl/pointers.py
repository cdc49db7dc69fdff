"""Pointers to the model and the settings that a ``TrainConfig`` sent to a worker."""

from __future__ import annotations

from typing import Any
from weakref import WeakValueDictionary

import msgspec
from torch import Tensor

from sharetorch.fl.graphs import StepSource
from sharetorch.fl.structs import StepForm
from sharetorch.fl.training import Wanted
from sharetorch.remote.claimed import Claimed
from sharetorch.remote.messages import Evaluate, Fetch, Train
from sharetorch.remote.requests import Handle


class ModelPointer(Claimed):
    """A model that was sent with a ``TrainConfig``.

    Attributes:
        handle: the claim on it.
    """

    def __init__(self, handle: Handle, original: Any) -> None:
        self.handle = handle
        self._original = original

    def get(self, user: str | None = None, reason: str | None = None) -> TrainedModel:
        """Fetch the trained model; the worker forgets it.

        Raises:
            GetNotPermittedError: the worker's policy does not allow it.
            ObjectNotFoundError: it was fetched before.
        """
        model = self._fetched(True, user, reason)
        self.handle.drop()
        return model

    def fetched(self, user: str | None = None, reason: str | None = None) -> TrainedModel:
        """A copy of the model as it is now; the worker keeps it and can train on."""
        return self._fetched(False, user, reason)

    def _fetched(self, remove: bool, user: str | None, reason: str | None) -> TrainedModel:
        (state,) = self.handle.link.request(Fetch([self.handle.number], remove, user, reason)).values
        return TrainedModel(state.load_into(self._original))

    def __repr__(self) -> str:
        return f"[ModelPointer -> {self.location.id}:{self.id_at_location}]"


class TrainedModel:
    """A model that came back from a worker; calling it calls the model.

    Attributes:
        obj: the model.
    """

    def __init__(self, obj: Any) -> None:
        self.obj = obj

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The model's output."""
        return self.obj(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name == "obj":
            raise AttributeError(name)
        return getattr(self.obj, name)

    def __repr__(self) -> str:
        return f"<TrainedModel {self.obj!r}>"


class ConfigPointer(Claimed):
    """Training settings at a worker.

    Attributes:
        handle: the claim on them.
        model: the model they train.
    """

    def __init__(self, handle: Handle, model: ModelPointer, source: StepSource) -> None:
        self.handle = handle
        self.model = model
        self._source = source
        latest[(handle.link.owner.id, handle.link.worker.id)] = self

    def ask(self, message: Train | Evaluate) -> list[Any]:
        """Have the worker train or evaluate; if it lacks the graph for a shape of its data, record it and ask again."""
        values = self.handle.link.request(message).values
        if values[1]:
            forms = msgspec.convert(values[1], list[StepForm])
            options = {**message.options, "steps": [self._source.step(form) for form in forms]}
            values = self.handle.link.request(msgspec.structs.replace(message, options=options)).values
        return values  # type: ignore[no-any-return]

    def fit(self, dataset_key: str, user: str | None = None) -> Tensor | None:
        """Train on one of the worker's data sets; see ``fit``."""
        loss: Tensor | None = self.ask(Train(self.handle.number, dataset_key, _options(user=user)))[0]
        return loss

    def evaluate(self, dataset_key: str, wanted: Wanted, user: str | None = None) -> dict[str, Any]:
        """Evaluate on one of the worker's data sets; see ``evaluate``."""
        options = _options(user=user) | {"wanted": msgspec.to_builtins(wanted)}
        figures: dict[str, Any] = self.ask(Evaluate(self.handle.number, dataset_key, options))[0]
        return figures

    def __repr__(self) -> str:
        return f"[ConfigPointer -> {self.location.id}:{self.id_at_location}]"


latest: WeakValueDictionary[tuple[str, str], ConfigPointer] = WeakValueDictionary()
"""The settings last sent from one node to another, as long as somebody holds them."""


def _options(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}
