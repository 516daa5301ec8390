"""ANIL, Reptile, Meta-SGD and MAML++ do what their papers write, in float64."""

from __future__ import annotations

import functools
import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from metarec import loops
from metarec.data.dataset import Dataset
from metarec.engines import choose_engine
from metarec.episodes import EpisodeSampler, labels_of
from metarec.errors import LearnerError
from metarec.features import build_features
from metarec.learner import MetaParameters, Training
from metarec.loops import RATE, InnerLoop, step_weights
from metarec.splits import Split
from metarec.torch import episodic, reptile
from metarec.torch.anil import ANIL
from metarec.torch.episodic import Adaptation
from metarec.torch.inner_loop import (
    Episodes,
    masked_mean,
    pointwise_loss,
    query_scores,
)
from metarec.torch.maml_plus_plus import MAMLPlusPlus, by_layer, multi_step_objective
from metarec.torch.meta_sgd import MetaSGD, elementwise
from metarec.torch.reptile import Reptile, pseudo_gradients
from metarec.torch.scorer import MLP
from metarec.torch.spaces import WeightSpace
from metarec.weights import layer_of, rates_by_weight

TASKS, SHOTS, QUERIES, SIZE, HIDDEN = 5, 7, 6, 9, (8, 6)
LINEAR, NETWORK = MLP(()), MLP(HIDDEN)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng([5, seed, *shape]).standard_normal(shape))


def draw_parameters(sizes: tuple[int, ...] = (SIZE, *HIDDEN, 1)) -> dict[str, Tensor]:
    parameters = {}
    for layer, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes)):
        parameters[f"layer{layer}.weight"] = draw(fan_in, fan_out) / fan_in**0.5
        parameters[f"layer{layer}.bias"] = draw(fan_out, seed=1)
    return parameters


def draw_episodes() -> Episodes:
    """The first task has no shot, every other one query less."""
    numbers = torch.arange(TASKS)
    mask = (torch.arange(SHOTS) < 2 * numbers[:, None]).double()
    query_mask = (torch.arange(QUERIES) < (QUERIES - numbers % 2)[:, None]).double()
    return Episodes(
        support=draw(TASKS, SHOTS, SIZE) * mask[..., None],
        support_labels=(draw(TASKS, SHOTS, seed=1) > 0).double() * mask,
        support_mask=mask,
        query=draw(TASKS, QUERIES, SIZE, seed=2),
        query_labels=(draw(TASKS, QUERIES, seed=3) > 0).double(),
        query_mask=query_mask,
    )


def make_training(data: Dataset) -> Training:
    """Likes and dislikes of users, features at random."""
    split = Split.by_seed(data, 0)
    rows = split.rows("train")
    sampler = EpisodeSampler(
        split, "user", k_shot=(0, 8), query_size=8, task_batch=8, feedback="binary", negatives=0.5
    )
    vectors = np.random.default_rng(0).standard_normal((data.n_items, 6)).astype(np.float32)
    features = build_features(split, vectors, "user", "binary", 4.0)
    labels = labels_of(data.ratings[rows], "binary", 4.0)
    return Training(
        "user", "binary", data.users[rows], data.items[rows], labels, data.n_users, data.n_items,
        sampler.known, (), features, sampler,
    )  # fmt: skip


def learned(meta_parameters: MetaParameters, other: MetaParameters) -> set[str]:
    return {name for name, value in meta_parameters.items() if (value != other[name]).any()}


def test_anil_learns_all_layers_and_adapts_the_last(tiny_dataset: Dataset) -> None:
    training = make_training(tiny_dataset)
    settings = {"hidden_sizes": (8, 6), "validate_every": 3}
    first = ANIL(steps=0, **settings).fit(training)  # type: ignore[arg-type]
    learner = ANIL(steps=3, **settings)  # type: ignore[arg-type]
    meta_parameters = learner.fit(training)
    weights = {name for name in meta_parameters if name.startswith("layer")}
    assert len(weights) == 6
    assert learned(meta_parameters, first) == weights
    adapted = learner.adapt(meta_parameters, training.sampler.batch(0).support)
    for name in weights:
        tasks = (8,) if name.startswith("layer2") else ()
        assert adapted.parameters[name].shape == (*tasks, *meta_parameters[name].shape)


def quadratic(rows: Tensor, labels: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """H and c of a task's mean of half squared errors, `w' H w / 2 - c' w`, the bias last in w."""
    kept = mask == 1
    inputs = torch.cat([rows[kept], rows.new_ones(int(kept.sum()), 1)], dim=1)
    return inputs.T @ inputs / len(inputs), inputs.T @ labels[kept] / len(inputs)


@pytest.mark.parametrize("dual", [False, True], ids=["weights", "rows"])
@pytest.mark.parametrize("steps", [1, 4])
def test_reptile_on_quadratics_is_its_closed_form(
    dual: bool, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From w gradient descent leads to `w* + (I - lr H)^s (w - w*)`: of the support, then query."""
    if not dual:
        monkeypatch.setattr(reptile, "space_of", WeightSpace)
    parameters, episodes, rate = draw_parameters((SIZE, 1)), draw_episodes(), 0.05
    start = torch.cat([parameters["layer0.weight"].flatten(), parameters["layer0.bias"]])
    moves, losses = [], []
    for task in zip(*episodes, strict=True):
        now = start
        for part in (task[:3], task[3:]):
            if part[2].any():
                hessian, linear = quadratic(*part)
                # fewer rows than weights: the minimum of least norm, where descent goes too
                best = torch.linalg.pinv(hessian) @ linear
                power = torch.linalg.matrix_power(torch.eye(SIZE + 1) - rate * hessian, steps)
                before, now = now, best + power @ (now - best)
        rows, labels, mask = task[3:]
        losses.append(0.5 * ((rows @ before[:-1] + before[-1] - labels)[mask == 1] ** 2).mean())
        moves.append(now - start)
    expected = -torch.stack(moves).mean(0) / (2 * steps * rate)
    method = Adaptation(LINEAR, InnerLoop(steps, rate))
    value, found = pseudo_gradients(method, "mse")(parameters, episodes, 0)
    torch.testing.assert_close(value, torch.stack(losses).mean())
    torch.testing.assert_close(found["layer0.weight"].flatten(), expected[:-1], rtol=1e-9, atol=0)
    torch.testing.assert_close(found["layer0.bias"], expected[-1:], rtol=1e-9, atol=0)


def test_reptile_with_a_step_on_each_part_is_joint_training_and_first_order_maml() -> None:
    """Nichol et al., section 5.1: `g_1(phi) + g_2(phi - lr g_1(phi))`, here halved."""
    parameters = {name: value.requires_grad_() for name, value in draw_parameters().items()}
    episodes, inner = draw_episodes(), InnerLoop(1, 0.3, first_order=True)

    def mean_loss(scores: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
        return masked_mean(pointwise_loss("bce", scores, labels), mask).mean()

    of_support = mean_loss(
        NETWORK.forward(parameters, episodes.support),
        episodes.support_labels,
        episodes.support_mask,
    )
    of_query = mean_loss(
        query_scores(NETWORK, parameters, episodes, loss="bce", inner=inner),
        episodes.query_labels,
        episodes.query_mask,
    )
    expected = slopes(of_support, parameters) + slopes(of_query, parameters)
    value, found = pseudo_gradients(Adaptation(NETWORK, inner), "bce")(parameters, episodes, 0)
    assert found.keys() == parameters.keys()
    torch.testing.assert_close(value, of_query.detach())
    flat = torch.cat([found[name].flatten() for name in parameters])
    torch.testing.assert_close(flat, expected / 2, rtol=1e-9, atol=1e-12)


def test_meta_sgd_steps_along_its_own_rate_of_each_weight() -> None:
    """On linear regression `w - alpha * grad`, with alpha of both signs."""
    weights, episodes = draw_parameters((SIZE, 1)), draw_episodes()
    alpha = {RATE + name: 0.3 * draw(*value.shape, seed=7) for name, value in weights.items()}
    assert min(value.min() for value in alpha.values()) < 0
    method = Adaptation(LINEAR, InnerLoop(1, 0.0), rates=elementwise)
    scores = method.query_scores({**weights, **alpha}, episodes, "mse")
    start = torch.cat([weights["layer0.weight"].flatten(), weights["layer0.bias"]])
    rates = torch.cat([alpha["rate.layer0.weight"].flatten(), alpha["rate.layer0.bias"]])
    torch.testing.assert_close(scores[0], episodes.query[0] @ start[:-1] + start[-1])
    for task in range(1, TASKS):
        hessian, linear = quadratic(
            episodes.support[task], episodes.support_labels[task], episodes.support_mask[task]
        )
        fast = start - rates * (hessian @ start - linear)
        torch.testing.assert_close(scores[task], episodes.query[task] @ fast[:-1] + fast[-1])


def test_the_rates_of_meta_sgd_start_alike_and_learn(tiny_dataset: Dataset) -> None:
    training = make_training(tiny_dataset)
    make = functools.partial(MetaSGD, inner_learning_rate=0.02, hidden_sizes=(8,))
    first = make(steps=0).fit(training)
    rates = {name for name in first if name.startswith(RATE)}
    assert {name.removeprefix(RATE) for name in rates} == {
        f"layer{layer}.{part}" for layer in (0, 1) for part in ("weight", "bias")
    }
    for name in rates:
        assert first[name].shape == first[name.removeprefix(RATE)].shape
        assert (first[name] == np.float32(0.02)).all()
    assert rates <= learned(make(steps=3).fit(training), first)


def test_rates_of_single_weights_rule_the_dual_form_out() -> None:
    weights = draw_parameters()
    arrays = {name: value.numpy() for name, value in weights.items()}
    rates = elementwise({n: torch.from_numpy(x) for n, x in rates_by_weight(arrays, 0.1).items()})
    assert choose_engine(NETWORK.dual, weights, InnerLoop(1, 0.1), rates, None) == "vmap"
    with pytest.raises(LearnerError, match="engine=gram"):
        choose_engine(NETWORK.dual, weights, InnerLoop(1, 0.1, engine="gram"), rates, None)


def test_the_loss_moves_from_all_steps_to_the_last() -> None:
    """`max(1 - t / M, 0) / N` for all but the last, which takes the rest of 1."""
    for step in (0, 1, 25, 99):
        early = (1 - step / 100) / 4
        assert step_weights(step, 4, 100) == pytest.approx([early] * 3 + [1 - 3 * early])
    assert step_weights(0, 4, 100) == pytest.approx([1 / 4] * 4)
    for step, annealing in ((100, 100), (1000, 100), (0, 0)):
        assert step_weights(step, 4, annealing).tolist() == [0, 0, 0, 1]
    assert step_weights(3, 1, 100).tolist() == [1]


def plus_plus(steps: int = 3) -> tuple[Adaptation, dict[str, Tensor]]:
    """Its method, and weights with a rate for each layer and step, all with a gradient."""
    parameters = draw_parameters()
    for layer in range(3):
        parameters[f"{RATE}layer{layer}"] = 0.1 + 0.03 * draw(steps, seed=layer)
    rates = functools.partial(by_layer, steps=steps)
    method = Adaptation(NETWORK, InnerLoop(steps, 0.1), rates=rates)
    return method, {name: value.requires_grad_() for name, value in parameters.items()}


def slopes(value: Tensor, parameters: dict[str, Tensor]) -> Tensor:
    found = torch.autograd.grad(value, list(parameters.values()), retain_graph=True)
    return torch.cat([part.flatten() for part in found])


@pytest.mark.parametrize("kind", ["pointwise", "softmax"])
def test_the_multi_step_loss_weighs_the_loss_after_each_step(kind: loops.OuterLoss) -> None:
    (method, parameters), episodes = plus_plus(), draw_episodes()
    losses = []
    for steps in (1, 2, 3):
        # the rates of the first steps are those of a method with fewer steps
        fewer = replace(
            method,
            inner=replace(method.inner, steps=steps),
            rates=functools.partial(by_layer, steps=steps),
        )
        scores = fewer.query_scores(parameters, episodes, "bce")
        losses.append(episodic.outer_loss(kind, "bce", scores, episodes))
    objective = multi_step_objective(method, "bce", kind, 0, 10)
    for step in (0, 4, 10, 30):
        weights = step_weights(step, 3, 10).tolist()
        expected = sum(weight * loss for weight, loss in zip(weights, losses, strict=True))
        value = objective(parameters, episodes, step)
        torch.testing.assert_close(value, expected)
        torch.testing.assert_close(slopes(value, parameters), slopes(expected, parameters))


def test_second_derivatives_come_in_after_the_first_order_steps() -> None:
    (method, parameters), episodes = plus_plus(), draw_episodes()
    objective = multi_step_objective(method, "bce", "pointwise", 2, 0)
    by_order = {}
    for first_order in (True, False):
        other = replace(method, inner=replace(method.inner, first_order=first_order))
        scores = other.query_scores(parameters, episodes, "bce")
        value = episodic.outer_loss("pointwise", "bce", scores, episodes)
        by_order[first_order] = slopes(value, parameters)
    assert not torch.allclose(by_order[True], by_order[False], rtol=1e-3)
    for step in range(4):
        found = slopes(objective(parameters, episodes, step), parameters)
        torch.testing.assert_close(found, by_order[step < 2])


def test_a_rate_by_layer_and_step_leaves_the_dual_form_exact_and_does_not_go_beyond() -> None:
    method, parameters = plus_plus(steps=3)
    weights = episodic.weights_of(parameters)
    for steps in (2, 3):
        rates = by_layer(parameters, steps)
        assert (
            choose_engine(method.scorer.dual, weights, InnerLoop(steps, 0.1), rates, None) == "gram"
        )
        for name in weights:
            torch.testing.assert_close(rates[name], parameters[RATE + layer_of(name)][:steps])
    with pytest.raises(LearnerError, match=r"inner_steps=4.* 3 steps"):
        by_layer(parameters, 4)


def test_fewer_steps_than_were_trained_may_be_taken_and_not_more(tiny_dataset: Dataset) -> None:
    training = make_training(tiny_dataset)
    make = functools.partial(MAMLPlusPlus, hidden_sizes=(8,), steps=3)
    first = make(inner_steps=3, steps=0).fit(training)
    meta_parameters = make(inner_steps=3).fit(training)
    names = {f"{RATE}layer0", f"{RATE}layer1"}
    assert names <= learned(meta_parameters, first)
    assert all(first[name] == pytest.approx([0.01] * 3) for name in names)
    support = training.sampler.batch(0).support
    scores = {}
    for steps in (1, 2, 3):
        learner = make(inner_steps=steps)
        learner.restore(training)
        scores[steps] = learner.score(learner.adapt(meta_parameters, support), training.known)
    assert np.abs(scores[1] - scores[2]).max() > 1e-4 < np.abs(scores[2] - scores[3]).max()
    learner = make(inner_steps=4)
    learner.restore(training)
    with pytest.raises(LearnerError, match="3 steps"):
        learner.adapt(meta_parameters, support)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Reptile(inner_steps=0),
        lambda: Reptile(inner_learning_rate=0.0),
        lambda: MAMLPlusPlus(inner_steps=0),
        lambda: MAMLPlusPlus(first_order_steps=-1),
        lambda: MAMLPlusPlus(multi_step_loss_steps=-1),
    ],
)
def test_arguments_out_of_range_are_errors(make: object) -> None:
    with pytest.raises(Exception, match=r"inner_steps"):
        make()  # type: ignore[operator]
