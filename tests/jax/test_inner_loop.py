"""The inner loop in JAX is PyTorch's: float64 parity on the same weights and episodes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from metarec.errors import LearnerError
from metarec.features import Features
from metarec.inputs import Inputs
from metarec.jax import episodic as jax_episodic
from metarec.jax import inner_loop as jax_loop
from metarec.jax import scorer as jax_scorer
from metarec.loops import InnerLoop
from metarec.torch import episodic as torch_episodic
from metarec.torch import inner_loop as torch_loop
from metarec.torch import scorer as torch_scorer

TASKS, K, Q, D, CHANNELS, EXTRAS = 6, 5, 4, 7, 2, 1
SCORERS = (
    "mlp", "mlp_item", "cosine", "dot", "bilinear", "fusion_fixed", "fusion_learned",
    "fusion_attention",
)  # fmt: skip


@pytest.fixture(autouse=True)
def float64() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


class Case:
    """One scorer in both frameworks: the same weights, the same ragged episodes."""

    def __init__(self, name: str, loss: str = "bce", hidden: tuple[int, ...] = (6, 3)) -> None:
        rng = np.random.default_rng(0)
        self.loss: Any = loss
        self.torch = torch_scorer.build_scorer(name, hidden, 4)
        self.jax = jax_scorer.build_scorer(name, hidden, 4)
        # of an item task: two channels of context, and an extra column
        features = Features(np.zeros((3, D), np.float32), np.zeros((2, D), np.float32))
        inputs = Inputs(features, "binary", {"inputs.mean": np.zeros(D, np.float32)})
        assert (inputs.size, inputs.channels, inputs.extras) == (D, CHANNELS, EXTRAS)
        drawn = self.torch.initial(inputs, np.random.default_rng(1))
        same = self.jax.initial(inputs, np.random.default_rng(1))
        for key, value in drawn.items():
            assert np.array_equal(same[key], value)
        self.weights = {
            key: value + 0.05 * rng.standard_normal(value.shape) for key, value in drawn.items()
        }
        there = np.arange(TASKS) % (K + 1)
        self.support_mask = (np.arange(K) < there[:, None]).astype(float)
        self.query_mask = np.ones((TASKS, Q))
        self.query_mask[1, 0] = self.query_mask[3, 2:] = 0
        self.support = [rng.standard_normal((TASKS, K, *s)) for s in ((D,), (CHANNELS, D), (1,))]
        self.query = [rng.standard_normal((TASKS, Q, *s)) for s in ((D,), (CHANNELS, D), (1,))]
        self.support_labels = rng.integers(0, 2, (TASKS, K)).astype(float)
        self.query_labels = rng.integers(0, 2, (TASKS, Q)).astype(float)
        self.query_labels[:, 0] = 1

    def arrays(self, scorer: Any, convert: Any) -> list[Any]:
        return [
            scorer.assemble(*map(convert, self.support)),
            convert(self.support_labels), convert(self.support_mask),
            scorer.assemble(*map(convert, self.query)),
            convert(self.query_labels), convert(self.query_mask),
        ]  # fmt: skip

    def in_torch(self, inner: InnerLoop, kind: Any, **settings: Any) -> tuple[Any, Any, Any]:
        weights = {k: torch.tensor(v, requires_grad=True) for k, v in self.weights.items()}
        episodes = torch_loop.Episodes(*self.arrays(self.torch, torch.tensor))
        names, rates = settings.get("names"), settings.get("rates")
        scores = torch_loop.query_scores(
            self.torch, weights, episodes, loss=self.loss, inner=inner,
            names=names(self.torch)(weights) if names else None,
            rates=rates(weights) if rates else None,
            every_step=settings.get("every_step", False),
        )  # fmt: skip
        last = scores[-1] if settings.get("every_step") else scores
        loss = torch_episodic.outer_loss(kind, self.loss, last, episodes)
        gradient = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
        return scores.detach().numpy(), loss.item(), dict(zip(weights, gradient, strict=True))

    def in_jax(self, inner: InnerLoop, kind: Any, **settings: Any) -> tuple[Any, Any, Any]:
        episodes = jax_loop.Episodes(*self.arrays(self.jax, jnp.asarray))

        def loss_of(weights: Any) -> Any:
            names, rates = settings.get("names"), settings.get("rates")
            scores = jax_loop.query_scores(
                self.jax, weights, episodes, loss=self.loss, inner=inner,
                names=names(self.jax)(weights) if names else None,
                rates=rates(weights) if rates else None,
                every_step=settings.get("every_step", False),
            )  # fmt: skip
            last = scores[-1] if settings.get("every_step") else scores
            return jax_episodic.outer_loss(kind, self.loss, last, episodes), scores

        weights = {key: jnp.asarray(value) for key, value in self.weights.items()}
        (loss, scores), gradient = jax.jit(jax.value_and_grad(loss_of, has_aux=True))(weights)
        return np.asarray(scores), float(loss), gradient


def check(case: Case, inner: InnerLoop, kind: str = "softmax", **settings: Any) -> None:
    """Loss to 1e-10, meta-gradients to 1e-8 relative."""
    scores, loss, gradient = case.in_torch(inner, kind, **settings)
    its_scores, its_loss, its_gradient = case.in_jax(inner, kind, **settings)
    np.testing.assert_allclose(its_scores, scores, rtol=1e-9, atol=1e-10)
    assert its_loss == pytest.approx(loss, abs=1e-10)
    for name, value in gradient.items():
        expected = np.zeros(case.weights[name].shape) if value is None else value.numpy()
        size = max(np.linalg.norm(expected), 1e-12)
        assert np.linalg.norm(np.asarray(its_gradient[name]) - expected) <= 1e-8 * size, name


@pytest.mark.parametrize("steps", [0, 1, 5])
@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("engine", ["gram", "vmap"])
@pytest.mark.parametrize("loss", ["bce", "mse"])
def test_both_engines_agree_with_pytorch(
    engine: Any, first_order: bool, steps: int, loss: str
) -> None:
    inner = InnerLoop(steps, 0.2, first_order, engine)
    check(Case("mlp", loss), inner, "pointwise")


@pytest.mark.parametrize("name", SCORERS)
def test_every_scorer_agrees_with_pytorch(name: str) -> None:
    check(Case(name), InnerLoop(3, 0.1))


@pytest.mark.parametrize("engine", ["gram", "vmap"])
@pytest.mark.parametrize("first_order", [False, True])
def test_both_engines_agree_with_pytorch_of_a_bilinear_form(engine: Any, first_order: bool) -> None:
    # the softmax does not see the bias
    check(Case("bilinear"), InnerLoop(3, 0.2, first_order, engine), "pointwise")
    check(Case("bilinear"), InnerLoop(2, 0.2, first_order, engine), "pointwise", every_step=True)


@pytest.mark.parametrize("name", SCORERS)
def test_a_catalogue_is_scored_as_pytorch_does(name: str) -> None:
    case = Case(name)
    rng = np.random.default_rng(2)
    catalogue = rng.standard_normal((9, D)), rng.standard_normal((9, EXTRAS))
    context = rng.standard_normal((TASKS, CHANNELS, D))
    fast = {k: v + 0.1 * rng.standard_normal((TASKS, *v.shape)) for k, v in case.weights.items()}
    for weights in (case.weights, fast):
        ours, theirs = (
            scorer.score_catalogue(
                {k: to(v) for k, v in weights.items()}, to(context), *map(to, catalogue)
            )
            for scorer, to in ((case.jax, jnp.asarray), (case.torch, torch.tensor))
        )
        np.testing.assert_allclose(np.asarray(ours), theirs.numpy(), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name", ["mlp", "cosine"])
def test_only_the_last_layer_adapts_where_that_is_asked(name: str) -> None:
    check(Case(name), InnerLoop(3, 0.3), names=lambda scorer: scorer.last)


def test_rates_by_layer_and_step_and_by_weight_agree_with_pytorch() -> None:
    case = Case("mlp")
    layers = {key.partition(".")[0] for key in case.weights}
    by_layer = {layer: [0.1 + 0.05 * n, 0.2, 0.07] for n, layer in enumerate(sorted(layers))}

    def of_layers(weights: Any) -> Any:
        to = torch.tensor if isinstance(weights["layer0.bias"], torch.Tensor) else jnp.asarray
        rates = {layer: to(np.array(values)) for layer, values in by_layer.items()}
        return {key: rates[key.partition(".")[0]] for key in weights}

    check(case, InnerLoop(3, 0.0, engine="gram"), rates=of_layers)
    check(case, InnerLoop(3, 0.0, engine="gram"), rates=of_layers, every_step=True)
    check(case, InnerLoop(2, 0.0), rates=lambda w: {k: 0.1 * v[None] for k, v in w.items()})


@pytest.mark.parametrize("name", ["mlp", "bilinear"])
def test_fast_weights_are_those_of_pytorch_by_either_engine(name: str) -> None:
    case = Case(name)
    support, labels, mask = case.arrays(case.torch, torch.tensor)[:3]
    weights = {key: torch.tensor(value) for key, value in case.weights.items()}
    theirs = torch_loop.adapt(
        case.torch, weights, support, labels, mask, loss="bce", inner=InnerLoop(4, 0.2)
    )
    for engine in ("gram", "vmap"):
        chosen: Any = engine
        ours = jax_loop.adapt(
            case.jax,
            {key: jnp.asarray(value) for key, value in case.weights.items()},
            *case.arrays(case.jax, jnp.asarray)[:3],
            loss="bce",
            inner=InnerLoop(4, 0.2, engine=chosen),
        )
        for key, value in theirs.items():
            np.testing.assert_allclose(np.asarray(ours[key]), value.numpy(), rtol=1e-9, atol=1e-10)


def test_an_engine_that_is_not_exact_or_not_here_is_an_error() -> None:
    with pytest.raises(LearnerError, match="engine=auto or vmap"):
        Case("dot").in_jax(InnerLoop(1, 0.1, engine="gram"), "pointwise")
    with pytest.raises(LearnerError, match="backend=torch"):
        Case("mlp").in_jax(InnerLoop(1, 0.1, engine="learn2learn"), "pointwise")
