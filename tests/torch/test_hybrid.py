"""The hybrid learner in PyTorch: its loss, its adaptation, and that each part does its work."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from metarec.features import Features
from metarec.learner import MetaParameters, Support, Training
from metarec.torch.hybrid import Hybrid, encode, multinomial, tower

USERS, KNOWN, NEW, TASTES = 400, 60, 20, 4
ITEMS = KNOWN + NEW


class Sampler:
    most = 8


@pytest.fixture(scope="module")
def world() -> tuple[np.ndarray, Training]:
    """[USERS, ITEMS] likes of one taste, which items' features tell; the last items are new."""
    rng = np.random.default_rng(0)
    taste, kind = rng.integers(0, TASTES, USERS), rng.integers(0, TASTES, ITEMS)
    likes = rng.random((USERS, ITEMS)) < np.where(taste[:, None] == kind, 0.8, 0.05)
    seen = rng.random((USERS, KNOWN)) < 0.5
    tasks, candidates = np.nonzero(seen)
    vectors = np.eye(TASTES)[kind] + 0.3 * rng.normal(size=(ITEMS, TASTES))
    training = Training(
        kind="user",
        feedback="binary",
        tasks=tasks.astype(np.int32),
        candidates=candidates.astype(np.int32),
        labels=likes[tasks, candidates].astype(np.float32),
        n_tasks=USERS,
        n_candidates=ITEMS,
        known=np.arange(KNOWN, dtype=np.int32),
        texts=("",) * ITEMS,
        features=Features(vectors.astype(np.float32)),
        sampler=Sampler(),  # type: ignore[arg-type]
    )
    return likes, training


def small(**more: Any) -> Hybrid:
    settings: dict[str, Any] = {
        "embedding_size": 8, "hidden_size": 8, "tower_size": 8, "task_batch": 64, "warm_steps": 150,
        "steps": 200, "knn_shrinkage": 5.0, "text_weight": 1.0, "device": "cpu",
    }  # fmt: skip
    return Hybrid(**{**settings, **more})


@pytest.fixture(scope="module")
def fitted(world: tuple[np.ndarray, Training]) -> tuple[Hybrid, MetaParameters]:
    learner = small()
    return learner, learner.fit(world[1])


def support_of(likes: np.ndarray, items: np.ndarray) -> Support:
    """The same items for each user."""
    candidates = np.tile(items.astype(np.int32), (len(likes), 1))
    labels = likes[:, items].astype(np.float32)
    return Support(candidates, labels, np.ones(candidates.shape, bool))


def precision(learner: Hybrid, meta: MetaParameters, likes: np.ndarray, where: np.ndarray) -> float:
    """Share of likes among the three first of some candidates, after five shots."""
    scores = learner.score(learner.adapt(meta, support_of(likes, np.arange(5))), where)
    first = np.argsort(-scores, axis=1)[:, :3]
    return float(np.take_along_axis(likes[:, where], first, axis=1).mean())


@pytest.mark.parametrize("where", ["known", "new"])
def test_it_learns_whom_known_and_new_items_are_for(
    where: str, world: tuple[np.ndarray, Training], fitted: tuple[Hybrid, MetaParameters]
) -> None:
    likes, _ = world
    items = np.arange(5, KNOWN) if where == "known" else np.arange(KNOWN, ITEMS)
    found = precision(*fitted, likes, items.astype(np.int32))
    blind = precision(fitted[0].without_adaptation(), fitted[1], likes, items.astype(np.int32))
    assert found > blind + 0.2, "to each their own"


def test_the_second_phase_leaves_the_first_as_it_was(
    world: tuple[np.ndarray, Training], fitted: tuple[Hybrid, MetaParameters]
) -> None:
    short = small(steps=0).fit(world[1])
    for name in ("items", "user.in", "user.skip.weight", "user.1.bias"):
        assert np.array_equal(short[name], fitted[1][name])
    assert not np.array_equal(short["tower.1.weight"], fitted[1]["tower.1.weight"])


def test_known_items_have_vectors_of_their_own_and_new_ones_the_towers(
    world: tuple[np.ndarray, Training], fitted: tuple[Hybrid, MetaParameters]
) -> None:
    learner, meta = fitted
    plain = small(knn_weight=0.0)
    likes = world[0][:3]
    adapted = learner.adapt(meta, support_of(likes, np.arange(5)))
    both = np.array([7, KNOWN + 2], np.int32)
    without = plain.score(plain.adapt(meta, support_of(likes, np.arange(5))), both)
    tensors = {name: torch.from_numpy(value) for name, value in meta.items() if "tower" in name}
    new = tower(tensors, torch.from_numpy(meta["content"][both[1:]]))[:, 0].detach().numpy()
    items = np.stack([meta["items"][:, 7], new], axis=1)
    expected = np.einsum("tme,mce->tc", adapted.users.numpy(), items) / 2
    assert without == pytest.approx(expected, rel=1e-4, abs=1e-5)
    gained = learner.score(adapted, both) - without
    assert gained[:, 1] == pytest.approx(0), "a new item has no neighbours"
    assert np.abs(gained[:, 0]).max() > 0.01


def test_the_loss_is_the_likelihood_of_a_like() -> None:
    rng = np.random.default_rng(0)
    users, items = rng.normal(size=(3, 2, 4)), rng.normal(size=(2, 5, 5))
    likes = rng.random((3, 2, 5)) < 0.5
    asked = likes | (rng.random((3, 2, 5)) < 0.7)
    total = 0.0
    for member in range(2):
        terms = []
        for user in range(3):
            logits = items[member, :, :4] @ users[user, member] + items[member, :, 4]
            among = np.log(np.exp(logits[asked[user, member]]).sum())
            terms += [among - logits[item] for item in np.flatnonzero(likes[user, member])]
        total += float(np.mean(terms))
    found = multinomial(*(torch.tensor(one) for one in (users, items, likes * 1.0, asked)))
    assert float(found) == pytest.approx(total, rel=1e-9)


def test_a_shot_that_is_masked_does_not_count() -> None:
    rng = np.random.default_rng(0)
    shapes = {
        "in": (2, 20, 3), "skip.weight": (2, 3, 3), "skip.bias": (2, 3), "0.weight": (2, 3, 4),
        "0.bias": (2, 4), "1.weight": (2, 4, 3), "1.bias": (2, 3),
    }  # fmt: skip
    weights = {f"user.{name}": torch.tensor(rng.normal(size=of)) for name, of in shapes.items()}
    support = torch.tensor(rng.integers(0, 20, (5, 2, 6)))
    mask = torch.tensor((rng.random((5, 2, 6)) < 0.5) * 1.0)
    beside = torch.where(mask > 0, support, 7)
    torch.testing.assert_close(encode(weights, support, mask), encode(weights, beside, mask))


def test_members_are_trained_on_users_of_their_own(fitted: tuple[Hybrid, MetaParameters]) -> None:
    first, second = fitted[1]["items"]
    assert np.abs(first - second).max() > 0.1


def test_an_interrupted_training_ends_in_the_same_bits(
    world: tuple[np.ndarray, Training], fitted: tuple[Hybrid, MetaParameters]
) -> None:
    kept: dict[str, Any] = {}

    class Checkpointer:
        def load(self) -> Any:
            return kept.get("state")

        def save(self, tensors: dict[str, np.ndarray], state: dict[str, Any]) -> None:
            kept["state"] = ({name: value.copy() for name, value in tensors.items()}, dict(state))
            if state["step"] == 50:
                raise KeyboardInterrupt

    watched = replace(world[1], checkpointer=Checkpointer())  # type: ignore[arg-type]
    with pytest.raises(KeyboardInterrupt):
        small(validate_every=50).fit(watched)
    found = small(validate_every=50).fit(watched)
    assert {name: value.tobytes() for name, value in found.items()} == {
        name: value.tobytes() for name, value in fitted[1].items()
    }
