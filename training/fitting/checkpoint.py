"""The state of an unfinished training in the user's cache, so that the same command goes on after a kill.

It can be deleted at any time; then a training begins again.
"""

from __future__ import annotations

import pickle
from typing import Any

import torch

from qgate.cache import cache_dir
from qgate.config import canonical_digest
from qgate.files import replacing


class Checkpoint:
    """One state, replaced as a whole.

    >>> checkpoint = Checkpoint({"labels": "5ac1...", "seed": 0})
    >>> state = checkpoint.load()  # None: begin
    >>> checkpoint.save({"epoch": 1, "network": network.state_dict()})
    """

    def __init__(self, facts: dict[str, Any]) -> None:
        """facts: JSON values, all that decides the state; other facts are another checkpoint."""
        self.path = cache_dir() / "training" / f"{canonical_digest(facts)[:32]}.pt"

    def load(self) -> dict[str, Any] | None:
        """The state that was saved last; None where there is none, or it cannot be read."""
        try:
            state = torch.load(self.path, map_location="cpu", weights_only=True)
        except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError):
            return None
        return state if isinstance(state, dict) else None

    def save(self, state: dict[str, Any]) -> None:
        """Keep a state of tensors, numbers, texts, lists and dicts; a kill leaves this one or the one before."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(self.path) as file:
            torch.save(state, file)

    def clear(self) -> None:
        """Forget the state: the training is done."""
        self.path.unlink(missing_ok=True)
