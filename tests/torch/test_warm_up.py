"""The base model of warm-up learners, steps on first feedback, and whose embedding is whose."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from metarec.amortised import initial_mlp
from metarec.data.dataset import Dataset
from metarec.episodes import EpisodeSampler, labels_of
from metarec.errors import LearnerError
from metarec.factor_inputs import FactorInputs, swapped
from metarec.features import build_features
from metarec.learner import Feedback, Support, TaskKind, Training
from metarec.splits import Split
from metarec.torch import dropoutnet, meta_embedding, mwuf
from metarec.torch.dropoutnet import DropoutNet
from metarec.torch.meta_embedding import MetaEmbedding
from metarec.torch.mwuf import MWUF
from metarec.torch.warm_up import Catalogue, Draw, NewItems, Pairs, warmed_up

F, D, K = 4, 6, 3


def make_training(
    data: Dataset, kind: TaskKind = "user", feedback: Feedback = "binary"
) -> Training:
    split = Split.by_seed(data, 0)
    vectors = np.random.default_rng(0).normal(size=(data.n_items, D)).astype(np.float32)
    threshold = 4.0 if feedback == "binary" else None
    rows = split.rows("train")
    sides, sizes = (data.users[rows], data.items[rows]), (data.n_users, data.n_items)
    turn = 1 if kind == "user" else -1
    sampler = EpisodeSampler(
        split, kind, (0, K), 6, 4, feedback, threshold, 0.0 if feedback == "rating" else 0.5
    )
    return Training(
        kind=kind,
        feedback=feedback,
        tasks=sides[::turn][0],
        candidates=sides[::turn][1],
        labels=labels_of(data.ratings[rows], feedback, threshold),
        n_tasks=sizes[::turn][0],
        n_candidates=sizes[::turn][1],
        known=sampler.known,
        texts=("",) * data.n_items,
        features=build_features(split, vectors, kind, feedback, threshold),
        sampler=sampler,
    )


def tensors(**arrays: np.ndarray) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(np.asarray(value, np.float64)) for name, value in arrays.items()}


def make_parameters(**networks: tuple[int, ...]) -> dict[str, torch.Tensor]:
    rng = np.random.default_rng(1)
    found = {"log_scale": np.full(1, 0.2), "bias": np.full(1, -0.3)}
    for side in ("users", "items"):
        found |= {f"{side}.mean": rng.normal(size=F), f"{side}.scale": rng.uniform(0.5, 2, F)}
    for name, sizes in networks.items():
        found |= initial_mlp(name, sizes, rng)
    base = {"base.scale": torch.tensor(4.0).double(), "base.bias": torch.tensor(-2.0).double()}
    return tensors(**found) | base


def make_new(seed: int = 2) -> NewItems:
    rng = np.random.default_rng(seed)
    mask = np.array([[1, 1, 1], [1, 0, 0], [0, 0, 0]])
    labels = np.array([[1, 0, 1], [1, 0, 0], [0, 0, 0]])
    shots = rng.normal(size=(3, K, F)) * mask[..., None]
    named = tensors(
        content=rng.normal(size=(3, D)), folded=rng.normal(size=(3, F)), shots=shots,
        labels=labels, mask=mask,
    )  # fmt: skip
    return NewItems(**named)


def test_a_step_is_the_written_out_gradient_and_nothing_moves_without_a_shot() -> None:
    parameters, new = make_parameters(), make_new()
    start = torch.from_numpy(np.random.default_rng(3).normal(size=(3, F)))
    # what stands beside the shots is masked out, even where it is not 0
    users = new.shots + 5 * (1 - new.mask.unsqueeze(-1))
    moved = warmed_up(
        parameters, start, users, new.labels, new.mask,
        loss="bce", steps=1, learning_rate=0.1,
    )  # fmt: skip
    scale = 4 * np.exp(0.2)
    for t in range(3):
        gradient = np.zeros(F)
        for k in range(K):
            if new.mask[t, k]:
                user = new.shots[t, k].numpy()
                score = scale * user @ start[t].numpy() - 2 - 0.3
                gradient += (1 / (1 + np.exp(-score)) - float(new.labels[t, k])) * scale * user
        np.testing.assert_allclose(moved[t].detach(), start[t].numpy() - 0.1 * gradient, rtol=1e-12)
    assert torch.equal(moved[2], start[2])


def test_outer_gradients_flow_through_the_step() -> None:
    """With the squared error, v' = v - r s Σ (s u·v + c - y) u, so dv'/dv = I - r s² Σ u u'."""
    parameters, new = make_parameters(), make_new()
    start = torch.from_numpy(np.random.default_rng(3).normal(size=(3, F)))
    jacobian = torch.autograd.functional.jacobian(
        lambda items: warmed_up(
            parameters, items, new.shots, new.labels, new.mask,
            loss="mse", steps=1, learning_rate=0.1,
        ),
        start,
    )  # fmt: skip
    users = new.shots[0].numpy()
    expected = np.eye(F) - 0.1 * (4 * np.exp(0.2)) ** 2 * users.T @ users
    np.testing.assert_allclose(jacobian[0, :, 0], expected, rtol=1e-10, atol=1e-12)
    assert float(jacobian[0, :, 1].abs().max()) == 0.0


@pytest.mark.parametrize("module", [meta_embedding, mwuf])
def test_known_items_keep_their_factors_and_the_others_are_generated_from_text(module: Any) -> None:
    parameters = make_parameters(generator=(D, 5, F), scaling=(D, 5, F), shifting=(F, 5, F))
    rng = np.random.default_rng(4)
    content, factors = tensors(
        content=rng.normal(size=(5, D)), factors=rng.normal(size=(5, F))
    ).values()
    known = torch.tensor([1.0, 0, 1, 0, 0]).double()
    found = module.catalogue(parameters, Catalogue(content, factors, known))
    assert torch.equal(found[[0, 2]], factors[[0, 2]])
    generated = module.generate(parameters, content)
    assert torch.equal(found[[1, 3, 4]], generated[[1, 3, 4]])
    # other factors change nothing of what is generated, another text does
    other = module.catalogue(parameters, Catalogue(content, factors + 1, known))
    assert torch.equal(other[[1, 3, 4]], found[[1, 3, 4]])
    assert not torch.allclose(module.generate(parameters, content + 1), generated)


@pytest.mark.parametrize("module", [meta_embedding, mwuf])
def test_without_feedback_a_new_item_is_what_its_text_generates(module: Any) -> None:
    parameters = make_parameters(generator=(D, 5, F), scaling=(D, 5, F), shifting=(F, 5, F))
    new = make_new()
    warmed = module.warm(parameters, new, loss="bce", steps=2, learning_rate=0.1)
    generated = module.generate(parameters, new.content)
    torch.testing.assert_close(warmed[2], generated[2])
    assert not torch.allclose(warmed[:2], generated[:2])


def test_mwuf_scales_shifts_and_counts_the_mean_user_among_those_who_liked() -> None:
    parameters, new = make_parameters(scaling=(D, F), shifting=(F, F)), make_new()
    mean = mwuf.mean_user(parameters, new, "bce")
    expected = (parameters["users.mean"] + new.shots[0, 0] + new.shots[0, 2]) / 3
    torch.testing.assert_close(mean[0], expected)
    torch.testing.assert_close(mean[2], parameters["users.mean"])
    # networks that give 0 neither scale nor shift
    zero = {
        name: torch.zeros_like(value) if name.startswith(("scaling", "shifting")) else value
        for name, value in parameters.items()
    }
    items = new.folded
    torch.testing.assert_close(mwuf.warmed(zero, items, new.content, mean), items)
    turned = mwuf.turn(parameters["items.mean"], parameters["items.mean"])
    length = parameters["items.mean"].norm() / F**0.5
    torch.testing.assert_close(turned, length.expand(F))


def test_dropped_factors_are_the_mean_and_leave_content_alone() -> None:
    parameters = make_parameters(user_tower=(F + D, 5, 3), item_tower=(F + D, 5, 3))
    new = make_new()
    drop = torch.tensor([True, False, True])
    factors = dropoutnet.dropped(parameters, "items", new.folded, drop)
    assert torch.equal(factors[[0, 2]], parameters["items.mean"].expand(2, F))
    assert torch.equal(factors[1], new.folded[1])
    # a cold item's factors do not matter, a known one's do
    known = torch.tensor([0.0, 1, 0]).double()
    first, second = (
        dropoutnet.catalogue(parameters, Catalogue(new.content, new.folded + shift, known))
        for shift in (0, 1)
    )
    assert torch.equal(first[[0, 2]], second[[0, 2]])
    assert not torch.allclose(first[1], second[1])


class OneBatch(Draw):
    """A draw of the same pairs at each step."""

    def __init__(self) -> None:
        # the class is frozen, and nothing else of it is needed
        object.__setattr__(self, "device", torch.device("cpu"))
        rng = np.random.default_rng(5)
        pairs = Pairs(
            **tensors(
                users=rng.normal(size=(2, 1, F)), items=rng.normal(size=(2, 3, F)),
                folded=rng.normal(size=(2, 1, F)), content=rng.normal(size=(2, 3, D)),
                profile=rng.normal(size=(2, 1, D)), counts=np.ones((2, 3)),
                base=rng.normal(size=(2, 3)), labels=np.ones((2, 3)),
                mask=np.array([[1, 1, 0], [1, 0, 0]]),
            )
        )  # fmt: skip
        object.__setattr__(self, "drawn", pairs)

    @property
    def of_items(self) -> bool:
        return False

    def pairs(self, step: int) -> Pairs:
        return self.drawn

    def rng(self, step: int) -> np.random.Generator:
        return np.random.default_rng(step)


@pytest.mark.parametrize("dropout", [0.0, 1.0])
def test_dropoutnet_learns_the_scores_of_the_base_model(dropout: float) -> None:
    parameters = make_parameters(user_tower=(F + D, 5, 3), item_tower=(F + D, 5, 3))
    draw = OneBatch()
    loss = dropoutnet.outer_loss(parameters, draw, 0, dropout, "base")
    pairs = draw.drawn
    users, items = pairs.users, pairs.items
    if dropout:
        users, items = (
            parameters[f"{s}.mean"].expand_as(x) for s, x in (("users", users), ("items", items))
        )
    product = (
        dropoutnet.tower(parameters, "users", users, pairs.profile)
        * dropoutnet.tower(parameters, "items", items, pairs.content)
    ).sum(-1)
    expected = ((product - pairs.base) ** 2)[pairs.mask > 0].mean()
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("feedback", ["binary", "rating"])
def test_a_task_is_folded_in_by_ridge_towards_the_mean_task(
    tiny_dataset: Dataset, feedback: Feedback
) -> None:
    training = make_training(tiny_dataset, feedback=feedback)
    inputs, _ = FactorInputs.fit(training, F)
    support = training.sampler.batch(0).support
    folded = inputs.fold_in(support)
    prior = inputs["task_mean"].astype(np.float64)
    base, weight, centre, regularisation = inputs["settings"]
    rows = inputs["factors"].astype(np.float64)
    system = base * rows.T @ rows + regularisation * np.eye(F)
    for t in range(len(support)):
        a, b = system.copy(), system @ prior
        for k in np.flatnonzero(support.mask[t]):
            label, y = support.labels[t, k], rows[support.candidates[t, k]]
            if feedback == "rating" or label > 0:
                target = label - centre if feedback == "rating" else (1 + weight) / weight
                a += weight * np.outer(y, y)
                b += weight * target * y
        np.testing.assert_allclose(folded[t], np.linalg.solve(a, b), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(inputs.fold_in(support.first(0))[0], inputs["task_mean"])


@pytest.mark.parametrize("feedback", ["binary", "rating"])
def test_swapped_users_are_exact_and_an_item_is_left_out_of_them_exactly(
    tiny_dataset: Dataset, feedback: Feedback
) -> None:
    training = make_training(tiny_dataset, feedback=feedback)
    _, episodes = FactorInputs.fit(training, F)
    found = swapped(episodes.found, training)
    user = int(training.tasks[0])
    own = np.flatnonzero(
        (training.tasks == user) & ((feedback == "rating") | (training.labels > 0))
    )
    rows = found.tasks.astype(np.float64)

    def solve(keep: np.ndarray, common: np.ndarray) -> np.ndarray:
        y = rows[training.candidates[keep]]
        target = training.labels[keep] - found.centre if found.ratings else np.ones(len(keep))
        system = common + found.regularisation * np.eye(F) + found.weight * y.T @ y
        return np.linalg.solve(system, (found.base + found.weight) * target @ y)

    gram = found.base * rows.T @ rows
    np.testing.assert_allclose(found.candidates[user], solve(own, gram), rtol=1e-4, atol=1e-5)
    item = int(training.candidates[own[0]])
    left = found.without(
        np.array([[user]], np.int32), np.array([item], np.int32),
        training.labels[own[:1]][None], np.ones((1, 1), bool),
    )  # fmt: skip
    expected = solve(own[1:], gram - found.base * np.outer(rows[item], rows[item]))
    np.testing.assert_allclose(left[0, 0], expected, rtol=1e-3, atol=1e-4)
    assert np.abs(expected - found.candidates[user]).max() > 1e-3


def test_pairs_leave_the_users_own_feedback_out_of_the_items(tiny_dataset: Dataset) -> None:
    training = make_training(tiny_dataset)
    _, episodes = FactorInputs.fit(training, F)
    batch, pairs = training.sampler.batch(0), episodes.pairs(0)
    liked = (batch.query_observed & batch.query_mask & (batch.query_labels > 0)).nonzero()
    t, n = liked[0][0], liked[1][0]
    counts = episodes.found.counts[batch.query[t, n]]
    assert pairs.counts[t, n] == counts - 1
    kept = episodes.found.candidates[batch.query[t, n]]
    assert np.abs(pairs.items[t, n] - kept).max() > 1e-4


@pytest.mark.parametrize("make", [MetaEmbedding, MWUF, DropoutNet])
@pytest.mark.parametrize("kind", ["user", "item"])
def test_the_zero_step_row_is_blind_to_the_support(
    tiny_dataset: Dataset, make: Any, kind: TaskKind
) -> None:
    training = make_training(tiny_dataset, kind)
    learner = make(embedding_size=F, steps=3)
    meta = learner.fit(training)
    support = training.sampler.batch(0).support
    blind, seeing = learner.without_adaptation(), learner
    none = Support(support.candidates, support.labels, np.zeros_like(support.mask), support.tasks)
    scores = blind.score(blind.adapt(meta, support), training.known)
    np.testing.assert_array_equal(scores, seeing.score(seeing.adapt(meta, none), training.known))
    assert not np.allclose(scores, seeing.score(seeing.adapt(meta, support), training.known))


@pytest.mark.parametrize(
    "make",
    [
        lambda: MetaEmbedding(cold_weight=1.5),
        lambda: MetaEmbedding(warm_up_steps=-1),
        lambda: MWUF(cold_share=0.0),
        lambda: MWUF(warm_up_learning_rate=-0.1),
        lambda: DropoutNet(dropout=-0.1),
        lambda: DropoutNet(target="clicks"),  # type: ignore[arg-type]
    ],
)
def test_arguments_out_of_range_are_errors(make: Any) -> None:
    with pytest.raises(Exception, match=r"cold|warm_up|dropout"):
        make()


def test_saved_meta_parameters_need_the_features_back(tiny_dataset: Dataset) -> None:
    training = make_training(tiny_dataset)
    meta = MetaEmbedding(embedding_size=F, steps=1).fit(training)
    with pytest.raises(LearnerError, match="call fit first"):
        MetaEmbedding(embedding_size=F).adapt(meta, training.sampler.batch(0).support)
