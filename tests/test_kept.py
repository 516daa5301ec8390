"""What is kept of a catalogue is kept for the same weights, features and candidates only."""

from __future__ import annotations

import numpy as np

from metarec.kept import Kept


def test_a_catalogue_is_kept_for_the_same_weights_features_and_candidates_only() -> None:
    made: list[object] = []

    def make() -> object:
        made.append(object())
        return made[-1]

    kept: Kept[object] = Kept()
    meta, features = {"layer0.weight": np.zeros(3)}, object()
    candidates = np.arange(5, dtype=np.int32)
    first = kept.get(meta, features, candidates, make)
    assert kept.get(dict(meta), features, candidates.copy(), make) is first
    assert kept.get(meta, features, candidates[:4], make) is made[1]
    other = {"layer0.weight": np.zeros(3)}
    assert kept.get(other, features, candidates[:4], make) is made[2]
    assert kept.get(other, object(), candidates[:4], make) is made[3]
    assert len(made) == 4
