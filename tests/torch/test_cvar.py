"""CVAR's distance, what its embeddings depend on, and where its losses reach."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from metarec.amortised import initial_mlp
from metarec.errors import LearnerError
from metarec.torch import cvar
from metarec.torch.cvar import CVAR, Latent
from metarec.torch.warm_up import Catalogue, Draw, NewItems, Pairs, WarmUps
from metarec.warm_up import DEVIATION

T, N, K, F, D, Z = 3, 4, 2, 5, 6, 2


def make_parameters(rng: np.random.Generator) -> dict[str, Tensor]:
    drawn = {
        **initial_mlp("encoder", (F, 7, 2 * Z), rng),
        **initial_mlp("prior", (D, 7, 2 * Z), rng),
        **initial_mlp("decoder", (Z + 1, 7, F), rng),
        "log_scale": np.zeros(1),
        "bias": np.zeros(1),
    }
    statistics = {"items.mean": rng.normal(size=F), "items.scale": rng.uniform(0.5, 1.5, F)}
    return {
        **{name: torch.tensor(value) for name, value in statistics.items()},
        **{name: torch.tensor(value).requires_grad_() for name, value in drawn.items()},
        "base.scale": torch.tensor(4.0).double(),
        "base.bias": torch.tensor(-2.0).double(),
    }


class OneDraw(Draw):
    """The same pairs and new items at each step; everything is cold."""

    def __init__(self, of_items: bool = False) -> None:
        rng = np.random.default_rng(7)
        users, items = (N, 1) if of_items else (1, N)

        def normal(*shape: int) -> Tensor:
            return torch.from_numpy(0.5 * rng.standard_normal(shape))

        labels = torch.tensor([[1, 0, 1, 0], [0, 0, 1, 1], [1, 1, 0, 0]]).double()
        counts = torch.from_numpy(rng.integers(1, 9, (T, items))).double()
        self.drawn = Pairs(
            normal(T, users, F), normal(T, items, F), normal(T, 1, F), normal(T, items, D),
            normal(T, users, D), counts, normal(T, N), labels, torch.ones(T, N).double(),
        )  # fmt: skip
        shots, mask = torch.tensor([[1, 0], [1, 1], [0, 1]]), torch.tensor([[1, 1], [1, 1], [1, 0]])
        new = NewItems(
            self.drawn.content[:, 0], normal(T, F), normal(T, K, F), shots.double(), mask.double()
        )
        self.new = WarmUps(new, self.drawn.users, labels, self.drawn.mask)
        for name, value in {
            "loss": "bce", "kind": "softmax", "seed": 0, "device": torch.device("cpu"),
            "is_of_items": of_items,
        }.items():  # fmt: skip
            object.__setattr__(self, name, value)

    @property
    def of_items(self) -> bool:
        return bool(self.__dict__["is_of_items"])

    def __setattr__(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    def pairs(self, step: int) -> Pairs:
        return self.drawn

    def warm_ups(self, step: int) -> WarmUps:
        return self.new


def loss_of(parameters: dict[str, Tensor], draw: OneDraw, **weights: float) -> Tensor:
    return cvar.outer_loss(
        parameters, draw, 0, cold_share=1.0,
        **{"reconstruction_weight": 0.0, "alignment_weight": 0.0, **weights},
    )  # fmt: skip


def reached(loss: Tensor, parameters: dict[str, Tensor]) -> set[str]:
    """The networks whose weights the loss gives a gradient."""
    learned = {name: value for name, value in parameters.items() if value.requires_grad}
    gradients = torch.autograd.grad(
        loss, list(learned.values()), retain_graph=True, materialize_grads=True
    )
    return {
        name.partition("0")[0]
        for name, gradient in zip(learned, gradients, strict=True)
        if name.endswith("0.weight") and gradient.abs().max() > 1e-9
    }


def test_the_distance_is_that_of_the_best_transport_between_the_distributions() -> None:
    rng = np.random.default_rng(0)
    mean, other = torch.from_numpy(rng.standard_normal((2, Z)))
    deviation, another = torch.from_numpy(rng.uniform(0.2, 2, (2, Z)))
    found = cvar.wasserstein(Latent(mean, deviation), Latent(other, another))
    # Fréchet's form of W₂² between normal distributions: the mean squares, and a trace
    one, two = deviation.diag() ** 2, another.diag() ** 2
    trace = torch.trace(one + two - 2 * (one @ two).sqrt())
    torch.testing.assert_close(found, ((mean - other) ** 2).sum() + trace)
    assert cvar.wasserstein(Latent(mean, deviation), Latent(mean, deviation)) == 0


def test_a_generated_embedding_depends_on_content_and_frequency_only() -> None:
    parameters = make_parameters(np.random.default_rng(1))
    rng = np.random.default_rng(2)
    content = torch.from_numpy(rng.standard_normal((T, D)))
    one, two = (torch.from_numpy(rng.standard_normal((T, F))) for _ in range(2))

    def known(items: Tensor, count: float = 0.0) -> Tensor:
        return cvar.catalogue(parameters, Catalogue(content, items, torch.full((T,), count)))

    torch.testing.assert_close(known(one), known(two), rtol=0, atol=0)
    torch.testing.assert_close(known(one, 1.0), one, rtol=0, atol=0)
    none, some = torch.zeros(T).double(), torch.full((T,), 5.0).double()
    torch.testing.assert_close(known(one), cvar.generate(parameters, content, none))
    assert not torch.allclose(known(one), cvar.generate(parameters, content, some))
    moved = cvar.generate(parameters, content + 1, none)
    assert not torch.allclose(known(one), moved)
    mean = cvar.prior(parameters, content).mean
    torch.testing.assert_close(known(one), cvar.decode(parameters, mean, none))


def test_latents_are_drawn_with_their_mean_and_standard_deviation() -> None:
    parameters = make_parameters(np.random.default_rng(1))
    latent = cvar.prior(parameters, torch.ones(1, D).double())
    noise = torch.from_numpy(np.random.default_rng(0).standard_normal((100_000, Z)))
    drawn = cvar.sample(latent, noise)
    torch.testing.assert_close(drawn.mean(0), latent.mean[0], atol=0.01, rtol=0)
    torch.testing.assert_close(drawn.std(0), latent.deviation[0], atol=0, rtol=0.02)
    untrained = {name: torch.zeros_like(value) for name, value in parameters.items()}
    deviation = cvar.prior(untrained, torch.ones(1, D).double()).deviation
    torch.testing.assert_close(deviation, torch.full((1, Z), DEVIATION).double())


@pytest.mark.parametrize("of_items", [False, True])
def test_each_term_reaches_its_own_networks(of_items: bool) -> None:
    parameters, draw = make_parameters(np.random.default_rng(3)), OneDraw(of_items)
    ranked = loss_of(parameters, draw)
    assert reached(ranked, parameters) == {"prior", "decoder"}
    reconstructed = loss_of(parameters, draw, reconstruction_weight=1.0) - ranked
    assert reached(reconstructed, parameters) == {"encoder", "decoder"}
    aligned = loss_of(parameters, draw, alignment_weight=1.0) - ranked
    assert reached(aligned, parameters) == {"encoder", "prior"}
    both = loss_of(parameters, draw, alignment_weight=3.0, reconstruction_weight=2.0)
    torch.testing.assert_close(both, ranked + 2 * reconstructed + 3 * aligned)


@pytest.mark.parametrize("of_items", [False, True])
def test_the_terms_of_the_autoencoder_are_means_over_items_with_feedback(of_items: bool) -> None:
    parameters, draw = make_parameters(np.random.default_rng(3)), OneDraw(of_items)
    draw.drawn.counts[1, 0] = 0
    aligned = loss_of(parameters, draw, alignment_weight=1.0) - loss_of(parameters, draw)
    distances = cvar.wasserstein(
        cvar.posterior(parameters, draw.drawn.items), cvar.prior(parameters, draw.drawn.content)
    )
    torch.testing.assert_close(aligned, distances[draw.drawn.counts > 0].mean() / Z)
    # without deviations and with a decoder that knows the mean item only
    constant = {
        name: torch.zeros_like(value) if name.startswith("decoder") else value
        for name, value in parameters.items()
    }
    error = loss_of(constant, draw, reconstruction_weight=1.0) - loss_of(constant, draw)
    apart = (draw.drawn.items - parameters["items.mean"]) / parameters["items.scale"]
    torch.testing.assert_close(error, (apart[draw.drawn.counts > 0] ** 2).mean())


def test_the_loss_of_scores_sees_the_frequency_of_evaluation() -> None:
    parameters = make_parameters(np.random.default_rng(4))

    def ranked(draw: OneDraw) -> float:
        return loss_of(parameters, draw).item()

    for of_items in (False, True):
        draw = OneDraw(of_items)
        before = ranked(draw)
        draw.drawn = draw.drawn._replace(counts=draw.drawn.counts + 7)
        assert ranked(draw) == before, "how often meta-train knows the item tells nothing"
    new = draw.new.new
    draw.new = draw.new._replace(new=new._replace(labels=torch.ones(T, K).double()))
    assert ranked(draw) != before, "the shots that count do"
    assert cvar.shots_that_count(new, "bce").tolist() == [1, 2, 0]
    assert cvar.shots_that_count(new, "mse").tolist() == [2, 2, 1]


def test_feedback_moves_a_generated_embedding_down_the_loss_of_the_factorisation() -> None:
    parameters = make_parameters(np.random.default_rng(5))
    parameters["bias"] = torch.ones(1).double()
    new = OneDraw(of_items=True).new.new
    found = cvar.warm(parameters, new, loss="bce", steps=1, learning_rate=0.1)
    start = cvar.generate(parameters, new.content, torch.tensor([1.0, 2.0, 0.0]).double())
    # the scores of the factorisation, 4 u·v - 2, without what was learned beside it
    probability = torch.sigmoid(4 * torch.einsum("tf,tkf->tk", start, new.shots) - 2)
    residual = (new.labels - probability) * new.mask
    torch.testing.assert_close(
        found, start + 0.1 * 4 * torch.einsum("tk,tkf->tf", residual, new.shots)
    )


def test_a_setting_out_of_range_is_an_error() -> None:
    with pytest.raises(LearnerError, match="reconstruction_weight"):
        CVAR(reconstruction_weight=-1.0)
    with pytest.raises(LearnerError, match="alignment_weight"):
        CVAR(alignment_weight=-1.0)
    with pytest.raises(LearnerError, match="latent_size"):
        CVAR(latent_size=0)
