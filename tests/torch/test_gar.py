"""GAR's two players each follow their own loss, and pull a generated embedding apart."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from metarec.amortised import initial_mlp
from metarec.errors import LearnerError
from metarec.torch import gar
from metarec.torch.gar import GAR
from metarec.torch.warm_up import Catalogue, NewItems, Pairs

T, N, F, D = 3, 4, 5, 6


def make_statistics(rng: np.random.Generator) -> dict[str, Tensor]:
    statistics = {
        f"{side}.{name}": torch.tensor(rng.uniform(0.5, 1.5, F))
        for side in ("users", "items")
        for name in ("mean", "scale")
    }
    scale, bias = torch.tensor(4.0).double(), torch.tensor(-2.0).double()
    return {**statistics, "base.scale": scale, "base.bias": bias}


def make_learned(rng: np.random.Generator) -> dict[str, Tensor]:
    drawn = {
        **initial_mlp("generator", (D, 7, F), rng),
        **initial_mlp("of_users", (F, 7, F), rng),
        **initial_mlp("of_items", (F, 7, F), rng),
        "log_scale": rng.normal(size=1),
        "bias": rng.normal(size=1),
    }
    return {name: torch.tensor(value).requires_grad_() for name, value in drawn.items()}


def make_pairs(rng: np.random.Generator, of_items: bool = False) -> Pairs:
    """Preferences of T users between N items, or of N users for each of T items."""
    users, items = (N, 1) if of_items else (1, N)

    def normal(*shape: int) -> Tensor:
        return torch.from_numpy(0.3 * rng.standard_normal(shape))

    labels = torch.tensor([[1, 0, 1, 0], [0, 0, 1, 1], [1, 1, 0, 0]]).double()
    mask = torch.ones(T, N).double()
    mask[0, 3] = 0
    return Pairs(
        normal(T, users, F), normal(T, items, F), normal(T, 1, F), normal(T, items, D),
        normal(T, users, D), torch.ones(T, items).double(), normal(T, N), labels, mask,
    )  # fmt: skip


@pytest.mark.parametrize("of_items", [False, True])
def test_the_losses_compare_as_published_all_pairs_of_a_preferred_and_another(
    of_items: bool,
) -> None:
    rng = np.random.default_rng(0)
    pairs = make_pairs(rng, of_items)
    real, fake, distance = (torch.from_numpy(rng.standard_normal((T, N))) for _ in range(3))
    of_discriminator, of_generator = [], []
    for t in range(T):
        for i in range(N):
            for j in range(N):
                if pairs.labels[t, i] > pairs.labels[t, j] and pairs.mask[t, [i, j]].all():
                    margin = real[t, i] - 0.8 * real[t, j] - 0.2 * fake[t, i]
                    of_discriminator.append(-logsigmoid(margin))
                    ranked = -logsigmoid(fake[t, i] - real[t, i])
                    of_generator.append(0.7 * ranked + 0.3 * distance[t, i])
    assert len(of_discriminator) == 2 + 4 + 4
    weights = gar.comparisons(pairs)
    torch.testing.assert_close(
        gar.discriminator_loss(real, fake, weights, 0.2), torch.stack(of_discriminator).mean()
    )
    torch.testing.assert_close(
        gar.generator_loss(real, fake, distance, weights, 0.3), torch.stack(of_generator).mean()
    )


def test_ratings_are_compared_and_an_item_without_other_feedback_is_never_preferred() -> None:
    pairs = make_pairs(np.random.default_rng(0))
    ratings = torch.tensor([[1.5, 0.5, -2, 9], [0, 0, 0, 0], [3, 2, 1, 0]]).double()
    counts = torch.ones(T, N).double()
    counts[2, 0] = 0
    found = gar.comparisons(pairs._replace(labels=ratings, counts=counts)) > 0
    # the fourth of the first task is padding
    expected = {(0, 0, 1), (0, 0, 2), (0, 1, 2), (2, 1, 2), (2, 1, 3), (2, 2, 3)}
    assert {tuple(index) for index in found.nonzero().tolist()} == expected
    nobody = gar.comparisons(pairs._replace(labels=torch.zeros(T, N).double()))
    assert nobody.sum() == 0
    assert nobody.isfinite().all()


def test_the_players_pull_a_generated_score_in_opposite_directions() -> None:
    rng = np.random.default_rng(1)
    pairs = make_pairs(rng)
    weights = gar.comparisons(pairs)
    real, distance = torch.from_numpy(rng.standard_normal((T, N))), torch.zeros(T, N).double()
    fake = torch.from_numpy(rng.standard_normal((T, N))).requires_grad_()
    (down,) = torch.autograd.grad(gar.discriminator_loss(real, fake, weights, 0.1), fake)
    (up,) = torch.autograd.grad(gar.generator_loss(real, fake, distance, weights, 0.1), fake)
    preferred = weights.sum(2) > 0
    assert (down[preferred] > 0).all()
    assert (up[preferred] < 0).all()
    assert (down[~preferred] == 0).all()
    assert (up[~preferred] == 0).all()


@pytest.mark.parametrize("of_items", [False, True])
def test_each_player_gets_the_gradient_of_its_own_loss_alone(of_items: bool) -> None:
    rng = np.random.default_rng(2)
    statistics, learned = make_statistics(rng), make_learned(rng)
    pairs, step = make_pairs(rng, of_items), 1e-5

    def losses(moved: dict[str, Tensor]) -> dict[str, Tensor]:
        parameters = {**statistics, **moved}
        generated = gar.generate(parameters, pairs.content)

        def of(items: Tensor) -> Tensor:
            users, items = gar.of_users(parameters, pairs.users), gar.of_items(parameters, items)
            scale = 4.0 * parameters["log_scale"].exp()
            return scale * (users * items).sum(-1) - 2.0 + parameters["bias"]

        real, fake, weights = of(pairs.items), of(generated), gar.comparisons(pairs)
        apart = ((generated - pairs.items).abs() / statistics["items.scale"]).sum(-1)
        distance = apart.expand(T, N)
        return {
            "generator": gar.generator_loss(real, fake, distance, weights, 0.3),
            "discriminator": gar.discriminator_loss(real, fake, weights, 0.2),
        }

    total, gradients = gar.player_gradients(statistics, learned, pairs, 0.2, 0.3)
    torch.testing.assert_close(total, sum(losses(learned).values()))
    assert set(gradients) == set(learned)
    for name, value in learned.items():
        player = "generator" if name.startswith("generator") else "discriminator"
        direction = torch.from_numpy(rng.standard_normal(value.shape))
        ahead, behind = (
            losses({**learned, name: value + sign * step * direction})[player] for sign in (1, -1)
        )
        expected = ((ahead - behind) / (2 * step)).detach()
        assert (gradients[name] * direction).sum().item() == pytest.approx(
            expected.item(), rel=1e-5, abs=1e-8
        )


def test_known_items_are_scored_by_their_factors_and_new_ones_by_their_text() -> None:
    rng = np.random.default_rng(3)
    parameters = {**make_statistics(rng), **make_learned(rng)}
    content, items = (torch.from_numpy(rng.standard_normal((2, size))) for size in (D, F))
    known = torch.tensor([1.0, 0.0])
    found = gar.catalogue(parameters, Catalogue(content, items, known))
    torch.testing.assert_close(found[0], gar.of_items(parameters, items[0]))
    generated = gar.generate(parameters, content[1])
    torch.testing.assert_close(found[1], gar.of_items(parameters, generated))


def test_feedback_moves_a_generated_embedding_down_the_loss_of_the_factorisation() -> None:
    rng = np.random.default_rng(4)
    parameters = {**make_statistics(rng), **make_learned(rng)}
    content, shots = (torch.from_numpy(rng.standard_normal(size)) for size in ((1, D), (1, 2, F)))
    labels, mask = torch.tensor([[1.0, 0.0]]).double(), torch.tensor([[1.0, 0.0]]).double()
    new = NewItems(content, torch.zeros(1, F).double(), shots, labels, mask)
    found = gar.warm(parameters, new, loss="bce", steps=1, learning_rate=0.1)
    start = gar.generate(parameters, content)
    # the scores of the factorisation, 4 u·v - 2, without what the discriminator learned
    probability = torch.sigmoid(4 * start[0] @ shots[0, 0] - 2)
    moved = start + 0.1 * 4 * (1 - probability) * shots[:, 0]
    torch.testing.assert_close(found, gar.of_items(parameters, moved))


def test_a_share_out_of_range_is_an_error() -> None:
    with pytest.raises(LearnerError, match="fake_weight"):
        GAR(fake_weight=1.1)
    with pytest.raises(LearnerError, match="similarity_weight"):
        GAR(similarity_weight=-0.1)
