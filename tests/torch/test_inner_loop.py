"""The three engines of the inner loop agree with one another and with mathematics, in float64."""

from __future__ import annotations

import importlib.util
import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from metarec.engines import choose_engine
from metarec.errors import LearnerError
from metarec.loops import Engine, InnerLoop, Loss
from metarec.torch import gram, inner_loop, reference
from metarec.torch.inner_loop import (
    Episodes,
    Rates,
    adapt,
    masked_mean,
    pointwise_loss,
    query_scores,
)
from metarec.torch.scorer import MLP, Scorer, build_scorer

needs_learn2learn = pytest.mark.skipif(
    importlib.util.find_spec("learn2learn") is None,
    reason="learn2learn is not installed (no C compiler?): its parity is not tested",
)
SIZE, HIDDEN = 20, (8, 6)
SCORER = MLP(HIDDEN)
LOSSES = pytest.mark.parametrize("loss", ["bce", "mse"])
ORDERS = pytest.mark.parametrize("first_order", [False, True], ids=["second", "first"])
STEPS = pytest.mark.parametrize("steps", [1, 5])
OURS = pytest.mark.parametrize("engine", ["gram", "vmap"])
ENGINES = pytest.mark.parametrize(
    "engine", ["gram", "vmap", pytest.param("learn2learn", marks=needs_learn2learn)]
)
ADAPTED: dict[str, frozenset[str] | None] = {
    "all": None,
    "upper": frozenset({"layer1.weight", "layer1.bias", "layer2.weight", "layer2.bias"}),
    "last": frozenset({"layer2.weight", "layer2.bias"}),
}


class Result(NamedTuple):
    """The outer loss, and its gradient by each shared weight and each learning rate."""

    loss: Tensor
    gradients: dict[str, Tensor]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng([3, seed, *shape]).standard_normal(shape))


def draw_parameters(sizes: tuple[int, ...] = (SIZE, *HIDDEN, 1)) -> dict[str, Tensor]:
    parameters = {}
    for layer, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes)):
        weight = draw(fan_in, fan_out) / fan_in**0.5
        parameters[f"layer{layer}.weight"] = weight.requires_grad_()
        parameters[f"layer{layer}.bias"] = draw(fan_out, seed=1).requires_grad_()
    return parameters


def draw_episodes(
    tasks: int = 5, shots: int = 7, queries: int = 6, size: int = SIZE, seed: int = 1
) -> Episodes:
    """Unequal support and query sizes, every fifth task without a shot, padded shots at 0."""
    numbers = torch.arange(tasks)
    mask = (torch.arange(shots) < (numbers % 5 * 2)[:, None]).double()
    query_mask = (torch.arange(queries) < (queries - numbers % 3)[:, None]).double()
    return Episodes(
        support=draw(tasks, shots, size, seed=seed) * mask[..., None],
        support_labels=(draw(tasks, shots, seed=seed + 1) > 0).double() * mask,
        support_mask=mask,
        query=draw(tasks, queries, size, seed=seed + 2),
        query_labels=(draw(tasks, queries, seed=seed + 3) > 0).double(),
        query_mask=query_mask,
    )


def by_layer(steps: int) -> dict[str, Tensor]:
    """A learning rate for each layer and step: weight and bias share it."""
    rates = {}
    for layer in range(len(HIDDEN) + 1):
        rate = (0.1 + 0.02 * draw(steps, seed=layer)).requires_grad_()
        rates |= {f"layer{layer}.weight": rate, f"layer{layer}.bias": rate}
    return rates


def elementwise(parameters: dict[str, Tensor], steps: int) -> dict[str, Tensor]:
    """A learning rate for each single weight, some below 0: one, or one for each step."""
    return {
        name: (0.05 + 0.1 * draw(steps, *value.shape, seed=9)).requires_grad_()
        for name, value in parameters.items()
    }


def outer(
    parameters: dict[str, Tensor],
    episodes: Episodes,
    inner: InnerLoop,
    *,
    scorer: Scorer = SCORER,
    loss: Loss = "bce",
    rates: Rates | None = None,
    names: frozenset[str] | None = None,
    every_step: bool = False,
) -> Result:
    """The mean loss of the queries after adaptation, after every step with different weights."""
    scores = query_scores(
        scorer, parameters, episodes,
        loss=loss, inner=inner, rates=rates, names=names, every_step=every_step,
    )  # fmt: skip
    losses = masked_mean(
        pointwise_loss(loss, scores, episodes.query_labels.expand(scores.shape)),
        episodes.query_mask.expand(scores.shape),
    ).mean(-1)
    if every_step:
        assert len(losses) == inner.steps
        losses = (torch.arange(1, inner.steps + 1) * losses).sum()
    by = {**parameters, **{f"rate of {name}": rate for name, rate in (rates or {}).items()}}
    found = torch.autograd.grad(
        losses, list(by.values()), allow_unused=True, materialize_grads=True
    )
    return Result(losses.detach(), dict(zip(by, found, strict=True)))


def assert_parity(ours: Result, theirs: Result) -> None:
    """Losses to 1e-10, gradients to 1e-8 relative; where there is none, there is none."""
    assert abs(ours.loss - theirs.loss) <= 1e-10
    assert ours.gradients.keys() == theirs.gradients.keys()
    for name, gradient in theirs.gradients.items():
        assert (ours.gradients[name] - gradient).norm() <= 1e-8 * gradient.norm(), name


@needs_learn2learn
@LOSSES
@ORDERS
@pytest.mark.parametrize(
    ("steps", "every_step"), [(1, False), (5, False), (5, True)], ids=["1", "5", "every-of-5"]
)
@pytest.mark.parametrize("adapted", ADAPTED)
@pytest.mark.parametrize("learned_rates", [False, True], ids=["one-rate", "rates"])
def test_the_three_engines_agree_in_loss_and_meta_gradient(
    loss: Loss,
    first_order: bool,
    steps: int,
    every_step: bool,
    adapted: str,
    learned_rates: bool,
) -> None:
    parameters, episodes = draw_parameters(), draw_episodes()
    rates = by_layer(steps) if learned_rates else None
    inner = InnerLoop(steps, 0.1, first_order)
    results = {
        engine: outer(
            parameters, episodes, replace(inner, engine=engine),
            loss=loss, rates=rates, names=ADAPTED[adapted], every_step=every_step,
        )
        for engine in ("gram", "vmap", "learn2learn")
    }  # fmt: skip
    assert all(value.norm() > 0 for value in list(results["learn2learn"].gradients.values())[:6])
    assert_parity(results["gram"], results["learn2learn"])
    assert_parity(results["vmap"], results["learn2learn"])


@needs_learn2learn
@LOSSES
@ORDERS
@pytest.mark.parametrize(("steps", "of_steps"), [(1, 1), (5, 1), (5, 5)])
def test_rates_of_single_weights_agree_with_the_reference(
    loss: Loss, first_order: bool, steps: int, of_steps: int
) -> None:
    parameters, episodes = draw_parameters(), draw_episodes()
    rates = elementwise(parameters, of_steps)
    inner = InnerLoop(steps, 0.1, first_order)
    ours, theirs = (
        outer(parameters, episodes, replace(inner, engine=engine), loss=loss, rates=rates)
        for engine in ("auto", "learn2learn")
    )
    assert all(value.norm() > 0 for value in theirs.gradients.values())
    assert_parity(ours, theirs)


@needs_learn2learn
@ORDERS
@pytest.mark.parametrize("name", ["fusion_learned", "fusion_attention", "cosine"])
def test_scorers_with_weights_that_are_no_layers_agree_with_the_reference(
    name: str, first_order: bool
) -> None:
    """Of fusion only the layers adapt: what embeds learns in the outer loop alone, through both."""
    from metarec.features import Features
    from metarec.inputs import Inputs

    size = 6
    inputs = Inputs(
        Features(np.zeros((2, size), np.float32)), "binary", {"inputs.mean": np.zeros(size)}
    )
    scorer = build_scorer(name, hidden_sizes=(5,), embedding_size=4)
    parameters = {
        key: draw(*value.shape, seed=number).requires_grad_()
        for number, (key, value) in enumerate(
            scorer.initial(inputs, np.random.default_rng(0)).items()
        )
    }
    names = frozenset(key for key in parameters if key.startswith("layer")) or None
    engines: list[Engine] = ["vmap", *(["gram"] if scorer.dual else [])]  # type: ignore[list-item]
    results = {
        engine: outer(
            parameters, draw_episodes(size=2 * size), InnerLoop(3, 0.1, first_order, engine),
            scorer=scorer, names=names,
        )
        for engine in (*engines, "learn2learn")
    }  # fmt: skip
    for engine in engines:
        assert_parity(results[engine], results["learn2learn"])


@LOSSES
@ORDERS
@pytest.mark.parametrize("every_step", [False, True])
@pytest.mark.parametrize("channels", [1, 2])
def test_a_bilinear_form_adapts_in_dual_form_as_by_its_weights(
    loss: Loss, first_order: bool, every_step: bool, channels: int
) -> None:
    size, scorer = 4, build_scorer("bilinear")
    shapes = {
        "interaction": (channels, size, size), "prior": (size,), "bias": (1,),
        **({"extra": (2,)} if channels == 2 else {}),
    }  # fmt: skip
    parameters = {
        name: draw(*shape, seed=number).requires_grad_()
        for number, (name, shape) in enumerate(shapes.items())
    }
    episodes = draw_episodes(size=size * (1 + channels) + 2 * (channels - 1))
    results, fast = [], []
    for engine in ("gram", "vmap"):
        inner = InnerLoop(3, 0.2, first_order, engine)  # type: ignore[arg-type]
        results.append(
            outer(
                parameters, episodes, inner, scorer=scorer, loss=loss, every_step=every_step
            )
        )  # fmt: skip
        fast.append(
            adapt(
                scorer, parameters, episodes.support, episodes.support_labels,
                episodes.support_mask, loss=loss, inner=inner,
            )
        )  # fmt: skip
    assert_parity(*results)
    for name, value in fast[1].items():
        torch.testing.assert_close(fast[0][name], value, rtol=1e-10, atol=1e-10)


@ORDERS
@pytest.mark.parametrize("every_step", [False, True])
def test_more_tasks_than_a_block_are_the_same_tasks(first_order: bool, every_step: bool) -> None:
    parameters, episodes = draw_parameters(), draw_episodes(tasks=2 * inner_loop.BLOCK + 3)
    rates = by_layer(2)
    inner = InnerLoop(2, 0.1, first_order)
    ours, theirs = (
        outer(
            parameters, episodes, replace(inner, engine=engine), rates=rates, every_step=every_step
        )
        for engine in ("gram", "vmap")
    )
    assert_parity(ours, theirs)


@LOSSES
@ORDERS
@pytest.mark.parametrize("every_step", [False, True])
def test_rates_that_the_host_does_not_read_do_the_same(
    loss: Loss, first_order: bool, every_step: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU, which would have to be waited for."""
    parameters, episodes, rates = draw_parameters(), draw_episodes(), by_layer(3)
    inner = InnerLoop(3, 0.1, first_order, "gram")
    results = []
    for readable in (True, False):
        monkeypatch.setattr(gram, "_readable", lambda values, found=readable: found)
        results.append(
            outer(parameters, episodes, inner, loss=loss, rates=rates, every_step=every_step)
        )
    assert_parity(results[1], results[0])


@OURS
@LOSSES
@pytest.mark.parametrize("rated", ["one", "by_layer"])
def test_the_second_order_meta_gradient_is_the_slope_of_the_loss(
    engine: Engine, loss: Loss, rated: str
) -> None:
    parameters, episodes = draw_parameters(), draw_episodes()
    rates = by_layer(3) if rated == "by_layer" else None
    inner = InnerLoop(3, 0.1, engine=engine)
    gradients = outer(parameters, episodes, inner, loss=loss, rates=rates).gradients
    weight_rates = {name: rate for name, rate in (rates or {}).items() if "weight" in name}
    direction = {name: draw(*value.shape, seed=5) for name, value in parameters.items()}
    of_rates = {name: draw(*rate.shape, seed=6) for name, rate in weight_rates.items()}
    slope = sum((gradients[name] * along).sum() for name, along in direction.items())
    slope += sum((gradients[f"rate of {name}"] * x).sum() for name, x in of_rates.items())
    step = 1e-6

    def shifted(sign: int) -> Tensor:
        moved = {
            name: (value.detach() + sign * step * direction[name]).requires_grad_()
            for name, value in parameters.items()
        }
        faster = {}
        for name, rate in weight_rates.items():
            value = (rate.detach() + sign * step * of_rates[name]).requires_grad_()
            faster |= {name: value, name.replace("weight", "bias"): value}
        return outer(moved, episodes, inner, loss=loss, rates=faster or None).loss

    torch.testing.assert_close(slope, (shifted(1) - shifted(-1)) / (2 * step), rtol=1e-6, atol=1e-9)


@OURS
@STEPS
def test_first_order_takes_the_gradient_at_the_fast_weights(engine: Engine, steps: int) -> None:
    """The definition of first order: the mean over tasks of the query's gradient at phi~."""
    parameters, episodes = draw_parameters(), draw_episodes()
    inner = InnerLoop(steps, 0.1, first_order=True, engine=engine)
    fast = {
        name: value.detach().requires_grad_()
        for name, value in adapt(
            SCORER, parameters, episodes.support, episodes.support_labels, episodes.support_mask,
            loss="bce", inner=inner,
        ).items()
    }  # fmt: skip
    losses = pointwise_loss("bce", SCORER.forward(fast, episodes.query), episodes.query_labels)
    value = masked_mean(losses, episodes.query_mask).mean()
    expected = torch.autograd.grad(value, list(fast.values()))
    found = outer(parameters, episodes, inner)
    second = outer(parameters, episodes, replace(inner, first_order=False))
    torch.testing.assert_close(found.loss, second.loss, rtol=1e-12, atol=0)
    for (name, gradient), at_fast in zip(found.gradients.items(), expected, strict=True):
        torch.testing.assert_close(gradient, at_fast.sum(0), rtol=1e-8, atol=1e-12)
        assert not torch.allclose(second.gradients[name], gradient, rtol=1e-3)


@OURS
def test_one_step_on_linear_regression_is_the_closed_form(engine: Engine) -> None:
    parameters, episodes = draw_parameters((SIZE, 1)), draw_episodes()
    fast = adapt(
        MLP(()), parameters, episodes.support, episodes.support_labels, episodes.support_mask,
        loss="mse", inner=InnerLoop(1, 0.3, engine=engine),
    )  # fmt: skip
    weight, bias = parameters["layer0.weight"], parameters["layer0.bias"]
    for task in range(len(episodes.support)):
        shots = int(episodes.support_mask[task].sum())
        inputs, labels = episodes.support[task, :shots], episodes.support_labels[task, :shots, None]
        residual = (inputs @ weight + bias - labels) / max(shots, 1)
        torch.testing.assert_close(fast["layer0.weight"][task], weight - 0.3 * inputs.T @ residual)
        torch.testing.assert_close(fast["layer0.bias"][task], bias - 0.3 * residual.sum(0))


@OURS
@pytest.mark.parametrize("adapted", ADAPTED)
def test_the_queries_are_scored_by_the_fast_weights_of_adapt(engine: Engine, adapted: str) -> None:
    parameters, episodes = draw_parameters(), draw_episodes()
    inner, names = InnerLoop(3, 0.1, engine=engine), ADAPTED[adapted]
    fast = adapt(
        SCORER, parameters, episodes.support, episodes.support_labels, episodes.support_mask,
        loss="bce", inner=inner, names=names,
    )  # fmt: skip
    for name, value in parameters.items():
        moved = names is None or name in names
        assert fast[name].shape == ((5, *value.shape) if moved else value.shape)
        assert moved or torch.equal(fast[name], value)
    torch.testing.assert_close(
        query_scores(SCORER, parameters, episodes, loss="bce", inner=inner, names=names),
        SCORER.forward(fast, episodes.query),
        rtol=1e-10,
        atol=1e-12,
    )


@ENGINES
def test_padded_shots_and_the_order_of_tasks_do_not_matter(engine: Engine) -> None:
    parameters, episodes = draw_parameters(), draw_episodes()

    def run(episodes: Episodes) -> Tensor:
        inner = InnerLoop(3, 0.1, engine=engine)
        return query_scores(SCORER, parameters, episodes, loss="bce", inner=inner)

    scores = run(episodes)
    garbage = episodes._replace(
        support_labels=torch.where(episodes.support_mask == 1, episodes.support_labels, 7.0),
        support=torch.where(episodes.support_mask[..., None] == 1, episodes.support, 3.0),
    )
    torch.testing.assert_close(run(garbage), scores)
    flipped = Episodes(*(part.flip(0) for part in episodes))
    torch.testing.assert_close(run(flipped).flip(0), scores)


@ENGINES
def test_without_shots_and_without_steps_nothing_adapts(engine: Engine) -> None:
    parameters, episodes = draw_parameters(), draw_episodes()
    unadapted = SCORER.forward(parameters, episodes.query)

    def run(steps: int, episodes: Episodes, every_step: bool = False) -> Tensor:
        inner = InnerLoop(steps, 0.1, engine=engine)
        return query_scores(
            SCORER, parameters, episodes, loss="bce", inner=inner, every_step=every_step
        )

    assert torch.equal(run(0, episodes), unadapted)
    assert run(0, episodes, every_step=True).shape == (0, *unadapted.shape)
    adapted = run(3, episodes)
    torch.testing.assert_close(adapted[0], unadapted[0])
    assert not torch.allclose(adapted[1], unadapted[1])
    none = episodes._replace(
        support=episodes.support[:, :0],
        support_labels=episodes.support_labels[:, :0],
        support_mask=episodes.support_mask[:, :0],
    )
    torch.testing.assert_close(run(3, none), unadapted)


def test_the_engine_gram_is_chosen_exactly_where_it_is_exact() -> None:
    parameters = draw_parameters()
    auto, forced = InnerLoop(2, 0.1), InnerLoop(2, 0.1, engine="gram")
    rates = by_layer(2)
    apart = {name: rate.detach().clone() for name, rate in rates.items()}
    by_unit = torch.full((1, HIDDEN[1]), 0.1)
    exact: list[tuple[Rates | None, frozenset[str] | None]] = [
        *((None, names) for names in ADAPTED.values()),
        (rates, None),
        (_same(torch.tensor(0.1)), None),
        (_same(torch.full((2, 1, 1), 0.1)), None),
        (rates, ADAPTED["last"]),
    ]
    for given, names in exact:
        assert choose_engine(SCORER.dual, parameters, auto, given, names) == "gram"
        assert choose_engine(SCORER.dual, parameters, forced, given, names) == "gram"
    inexact: list[tuple[Scorer, Rates | None, frozenset[str] | None]] = [
        (SCORER, apart, None),
        (SCORER, elementwise(parameters, 1), None),
        (SCORER, {**rates, **dict.fromkeys(("layer1.weight", "layer1.bias"), by_unit)}, None),
        (SCORER, None, frozenset({"layer0.weight", "layer0.bias"})),
        (SCORER, None, frozenset({"layer2.weight"})),
        (SCORER, None, frozenset({"layer1.weight", "layer1.bias"})),
        (SCORER, None, frozenset({*parameters, "fusion.logits"})),
        (build_scorer("dot"), None, None),
        (build_scorer("bilinear"), None, frozenset({"prior", "bias"})),
        (build_scorer("bilinear"), rates, None),
    ]
    of_form = dict.fromkeys(("interaction", "prior", "bias"), torch.zeros(1))
    assert choose_engine("linear", of_form, auto, None, None) == "gram"
    assert choose_engine("linear", of_form, forced, None, frozenset(of_form)) == "gram"
    for scorer, given, names in inexact:
        assert choose_engine(scorer.dual, parameters, auto, given, names) == "vmap"
        with pytest.raises(LearnerError, match=r"learner\.engine=gram .* choose .*auto or vmap"):
            choose_engine(scorer.dual, parameters, forced, given, names)
    for engine in ("vmap", "learn2learn"):
        asked = InnerLoop(2, 0.1, engine=engine)  # type: ignore[arg-type]
        assert choose_engine(SCORER.dual, parameters, asked, None, None) == engine


def _same(rate: Tensor) -> Rates:
    """One tensor for the weight and the bias of each layer."""
    return {
        f"layer{layer}.{part}": rate
        for layer in range(len(HIDDEN) + 1)
        for part in ("weight", "bias")
    }


@pytest.mark.parametrize(
    "make",
    [
        lambda: InnerLoop(-1, 0.1),
        lambda: InnerLoop(1, -0.1),
        lambda: InnerLoop(1, 0.1, engine="fast"),  # type: ignore[arg-type]
    ],
)
def test_settings_out_of_range_are_errors(make: Callable[[], InnerLoop]) -> None:
    with pytest.raises(Exception, match=r"inner|engine"):
        make()


def test_learn2learn_that_is_missing_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import builtins

    real = builtins.__import__

    def fail(name: str, *args: object, **kwargs: object) -> object:
        if name == "learn2learn":
            raise ImportError("No module named 'learn2learn'")
        return real(name, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", fail)
    with pytest.raises(LearnerError, match=r"requirements/learn2learn\.txt"):
        reference.import_learn2learn()
