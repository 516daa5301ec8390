"""What every test gets: checked annotations, one thread, seeds, no network, a small data set."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

# Before anything that reads them is imported.
for _threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_threads, "1")  # two test processes share two cores
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Tests compile many small programs and run each a few times.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", TOKENIZERS_PARALLELISM="false")

from jaxtyping import install_import_hook

# Every annotation under metarec/ is checked at each call: array dtypes and shapes included.
install_import_hook("metarec", "beartype.beartype")

import absl.logging
import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from metarec.data.dataset import Dataset

# Flax brings absl, whose log handler closes its stream when Hydra sets logging up, and by default
# that is pytest's own capture. A stream that is the interpreter's own is never closed.
absl.logging.get_absl_handler().python_handler.stream = sys.__stderr__

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"

# Derandomised: the gate gives the same answer twice. HYPOTHESIS_PROFILE=search looks further.
settings.register_profile(
    "gate",
    deadline=None,
    derandomize=True,
    max_examples=25,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("search", deadline=None, max_examples=1000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "gate"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips the tests whose device or data are not there, and says so."""
    needing_gpu = [item for item in items if item.get_closest_marker("gpu")]
    if needing_gpu and not _has_gpu():
        for item in needing_gpu:
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))
    for item in items:
        for marker in item.iter_markers("shared_data"):
            folder = SHARED_DATA.joinpath(*marker.args)
            if not folder.is_dir():
                reason = f"../shared/data/{'/'.join(marker.args)} is absent"
                item.add_marker(pytest.mark.skip(reason=reason))


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def pytest_collection_finish() -> None:
    """Holds PyTorch, where the collected tests have imported it, to one thread."""
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is downloaded unasked: only this machine can be reached."""
    connect = socket.socket.connect

    def connect_here(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in _HERE:
            _refuse(address)
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", connect_here)


_HERE = {"127.0.0.1", "::1", "localhost"}


@pytest.fixture(autouse=True)
def seeded() -> None:
    """What a library draws unasked, such as a fresh model's weights, is the same in every run."""
    if torch := sys.modules.get("torch"):
        torch.manual_seed(0)


def _refuse(address: Any) -> NoReturn:
    pytest.fail(f"a test tried to reach {address[0]}: tests must not need the network")


@pytest.fixture
def shared_data() -> Path:
    """The folder of real data that may not be redistributed; use with the marker `shared_data`."""
    return SHARED_DATA


@pytest.fixture(scope="session")
def tiny_dataset() -> Dataset:
    """60 users, 80 items, 15 to 40 ratings a user of 1 to 5, times, titles and genres.

    Users have tastes for genres, items have a quality and a popularity, and users join over two
    years: so there is something to learn, from ratings and from text, and time can split it.
    """
    return make_tiny_dataset()


def make_tiny_dataset(seed: int = 0, n_users: int = 60, n_items: int = 80) -> Dataset:
    """The data set of the fixture `tiny_dataset`, a pure function of its arguments."""
    from metarec.data.dataset import CleaningReport, Dataset

    rng = np.random.default_rng(seed)
    names = np.array(["Comedy", "Crime", "Drama", "Horror", "Romance", "War"])
    has = np.zeros((n_items, len(names)), dtype=bool)
    for item in range(n_items):
        has[item, rng.choice(len(names), size=rng.integers(1, 4), replace=False)] = True

    taste = rng.normal(size=(n_users, len(names)))
    liking = taste @ (has / np.sqrt(has.sum(axis=1, keepdims=True))).T
    liking += 0.7 * rng.normal(size=n_items) + 0.3 * rng.normal(size=(n_users, n_items))
    edges = np.quantile(liking, [0.08, 0.22, 0.5, 0.8])
    ratings = 1 + np.searchsorted(edges, liking)

    popularity = 1 / np.sqrt(5 + rng.permutation(n_items))
    joined = rng.integers(0, 730, size=n_users)
    users, items, times = [], [], []
    for user in range(n_users):
        n = rng.integers(15, 41)
        items.append(rng.choice(n_items, size=n, replace=False, p=popularity / popularity.sum()))
        users.append(np.full(n, user))
        day = joined[user] + np.sort(rng.uniform(0, 60, size=n))
        times.append(1_400_000_000 + (day * 86_400).astype(np.int64))
    user, item = np.concatenate(users), np.concatenate(items)

    adjectives = ("Silent", "Golden", "Last", "Broken", "Hidden", "Distant", "Little", "Burning")
    nouns = ("Harbour", "Winter", "Garden", "Letter", "River", "Night", "Brother", "Promise")
    titles = [f"The {adjective} {noun}" for adjective in adjectives for noun in nouns]
    titles += [f"Case Number {number}" for number in range(len(titles), n_items)]
    text = pd.DataFrame(
        {"title": titles[:n_items], "genres": [", ".join(names[row]) for row in has]}, dtype=object
    )
    return Dataset(
        name="tiny",
        users=user.astype(np.int32),
        items=item.astype(np.int32),
        ratings=ratings[user, item].astype(np.float32),
        times=np.concatenate(times),
        user_ids=np.array([f"u{user}" for user in range(n_users)]),
        item_ids=np.array([f"i{item}" for item in range(n_items)]),
        item_text=text,
        user_text=None,
        feedback="rating",
        rating_scale=(1.0, 5.0),
        report=CleaningReport(read=len(user), kept=len(user)),
    )
