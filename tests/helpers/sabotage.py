"""Faults that are put into the package on purpose."""

import pytest

from tiny_math_solver.policy.weights import PolicyWeights


def without_the_adapter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let rollouts keep the weights that they were made with: they never see what the update trains."""
    sync, synced = PolicyWeights.sync, set()

    def once(self: PolicyWeights) -> None:
        if id(self) not in synced:
            synced.add(id(self))
            sync(self)

    monkeypatch.setattr(PolicyWeights, "sync", once)
