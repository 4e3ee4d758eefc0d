"""A pool of painted items: the same whatever paints it, and a share of it new every epoch."""

import numpy as np
import pytest
from monai.transforms import RandomizableTransform

from LeFusion import PaintedPool, UserError


class Draws(RandomizableTransform):
    """Adds a random number to an item."""

    def __call__(self, data):
        return {**data, "drawn": int(self.R.randint(10**6))}


ITEMS = [{"number": number, "array": np.zeros(2)} for number in range(3)]


def epochs(count=5, **options):
    with PaintedPool(ITEMS, Draws(), **options) as pool:
        found = []
        for _ in range(count):
            pool.next_epoch()
            found.append(
                [(item["number"], item["drawn"]) for item in map(pool.__getitem__, range(len(pool)))]
            )
    return found


def test_an_epoch_exchanges_its_share():
    found = epochs(copies=2, refresh=0.5, workers=0)
    assert [number for number, _ in found[0]] == [0, 1, 2, 0, 1, 2]
    assert len({drawn for _, drawn in found[0]}) == 6
    changed = [[a != b for a, b in zip(*pair, strict=True)] for pair in zip(found, found[1:], strict=False)]
    first, second = [True] * 3 + [False] * 3, [False] * 3 + [True] * 3
    assert changed == [first, second, first, second]


def test_processes_make_the_same():
    assert epochs(3, workers=1, refresh=0.7) == epochs(3, workers=0, refresh=0.7)


def test_another_seed_makes_others():
    assert epochs(1, workers=0, seed=1) != epochs(1, workers=0, seed=2)


def test_what_is_taken_can_be_changed():
    pool = PaintedPool(ITEMS, Draws(), workers=0)
    pool.next_epoch()
    pool[0]["array"] += 1
    assert pool[0]["array"].tolist() == [0, 0] and ITEMS[0]["array"].tolist() == [0, 0]


@pytest.mark.parametrize(
    "options, said",
    [
        ({"refresh": 0}, "refresh=0 must be from above 0 to 1"),
        ({"copies": 0}, "copies=0 must be a whole number of at least 1"),
        ({"workers": -1}, "workers=-1 must be"),
        ({"seed": None}, "seed=None must be"),
        ({"transform": dict}, "transform: has no set_random_state"),
    ],
)
def test_mistakes_are_refused(options, said):
    with pytest.raises(UserError, match=said):
        PaintedPool(**{"items": ITEMS, "transform": Draws(), "workers": 0} | options)


def test_an_epoch_has_to_begin():
    with pytest.raises(UserError, match="call next_epoch"):
        PaintedPool(ITEMS, Draws(), workers=0)[0]
