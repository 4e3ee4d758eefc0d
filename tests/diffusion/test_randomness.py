"""Randomness by address: the same on every machine, in any order, in any batch."""

import pytest
import torch

from LeFusion.diffusion import AddressedNoise, address_seed, randomness

A, B, C = (7, "case A", 1), (7, "case B", 1), (7, "case A", 2)


def test_seeds_never_change():
    """Written down once: another value would change every image that users have made."""
    assert address_seed(0, "LIDC-IDRI-0001_CVol_1", 1) == 3_071_288_500_183_270_236
    assert address_seed() == 5_460_801_731_388_113_703


def test_every_part_of_an_address_counts():
    addresses = [(), (1,), ("1",), (1, 2), (12,), ("1", 2), (2, 1), ("1, 2",), A, B, C]
    seeds = {address_seed(*address) for address in addresses}
    assert len(seeds) == len(addresses)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_noise_depends_on_the_address_only():
    like = torch.empty(3, 2, 4, 5, 6)
    together = AddressedNoise([A, B, C])(like)
    assert together.shape == like.shape and together.dtype == torch.float32
    assert torch.equal(AddressedNoise([C, A, B])(like), together[[2, 0, 1]])
    for i, address in enumerate((A, B, C)):
        assert torch.equal(AddressedNoise([address])(like[:1])[0], together[i])


def test_noise_follows_the_dtype_of_the_sample():
    assert AddressedNoise([A])(torch.empty(1, 3, dtype=torch.float64)).dtype == torch.float64


def test_noise_moves_on_and_does_not_touch_the_global_generator():
    torch.manual_seed(0)
    expected = torch.randn(4)
    torch.manual_seed(0)
    noise = AddressedNoise([A, B])
    first, second = noise(torch.empty(2, 500)), noise(torch.empty(2, 500))
    assert torch.equal(torch.randn(4), expected)
    draws = torch.cat([first, second])
    assert torch.corrcoef(draws).fill_diagonal_(0).abs().max() < 5 / 500**0.5  # all four unrelated


@pytest.mark.parametrize("ahead", [1, 2, 5])
def test_noise_drawn_ahead_is_the_same(ahead):
    now, early = AddressedNoise([A, B]), AddressedNoise([A, B], ahead)
    for shape in [(2, 7, 9)] * 4 + [(2, 3)] * 2 + [(2, 7, 9)]:  # another shape takes back what was drawn
        assert torch.equal(early(torch.empty(shape)), now(torch.empty(shape)))
    assert torch.equal(early.levels(10), now.levels(10))
    assert torch.equal(early(torch.empty(2, 3)), now(torch.empty(2, 3)))


def test_noise_is_drawn_ahead_in_a_thread(monkeypatch):
    asked, real = [], randomness.DRAWER

    class Drawer:
        def submit(self, draw, *arguments):
            asked.append(arguments)
            return real.submit(draw, *arguments)

    monkeypatch.setattr(randomness, "DRAWER", Drawer())
    AddressedNoise([A])(torch.empty(1, 3))  # on a CPU, a thread would take the network's time
    assert asked == []
    AddressedNoise([A], 2)(torch.empty(1, 3))
    assert asked == [(torch.Size([3]),)] * 2


def test_noise_is_standard_normal():
    draws = AddressedNoise([A, B])(torch.empty(2, 50_000)).flatten()
    error = 100_000**-0.5
    assert abs(float(draws.mean())) < 4 * error
    assert abs(float(draws.var()) - 1) < 4 * 2**0.5 * error
    assert float((draws.abs() < 1).float().mean()) == pytest.approx(0.6827, abs=4 * 0.466 * error)


def test_another_batch_size_is_refused():
    with pytest.raises(ValueError, match="2 addresses for a batch of 3"):
        AddressedNoise([A, B])(torch.empty(3, 4))


def test_levels_depend_on_the_address_and_are_uniform():
    addresses = [(0, n) for n in range(3000)]
    levels = AddressedNoise(addresses).levels(10)
    assert levels.shape == (3000,) and levels.dtype == torch.int64
    assert torch.equal(AddressedNoise(addresses[7:9]).levels(10), levels[7:9])
    counts = torch.bincount(levels, minlength=10).float()  # 300 expected of each
    assert len(counts) == 10 and float(((counts - 300) ** 2 / 300).sum()) < 28  # 1 in 1000


def test_a_power_below_one_draws_noisy_levels_more_often():
    addresses = [(0, n) for n in range(3000)]
    levels = AddressedNoise(addresses).levels(100, 0.4)
    assert levels.dtype == torch.int64 and int(levels.min()) >= 0 and int(levels.max()) <= 99
    assert torch.equal(AddressedNoise(addresses[7:9]).levels(100, 0.4), levels[7:9])
    for share in (0.3, 0.6, 0.85):  # P(level < share of all) = share^(1 / 0.4)
        assert float((levels < 100 * share).float().mean()) == pytest.approx(share**2.5, abs=0.03)
