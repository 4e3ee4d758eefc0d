"""The noise schedule against identities, and against Bayes' rule worked out on a grid of numbers."""

import math

import pytest
import torch

from LeFusion.diffusion import NoiseSchedule

SCHEDULE = NoiseSchedule.cosine(300)


def level(*t: int) -> torch.Tensor:
    return torch.tensor(t)


def column(*values: float) -> torch.Tensor:
    """(B, 1) float64: one number a sample."""
    return torch.tensor(values, dtype=torch.float64)[:, None]


def test_cosine_follows_its_formula():
    signal = [math.cos((t / 300 + 0.008) / 1.008 * math.pi / 2) ** 2 for t in range(301)]
    expected = torch.tensor([value / signal[0] for value in signal[1:]], dtype=torch.float64)
    # the last beta is clipped, which is what keeps some signal at the noisiest level
    assert torch.allclose(SCHEDULE.alphas_cumprod[:-1].double(), expected[:-1], rtol=1e-6)
    assert SCHEDULE.betas[-1] == pytest.approx(0.9999) and SCHEDULE.betas[:-1].max() < 0.9999
    assert SCHEDULE.alphas_cumprod[-1] == pytest.approx(float(expected[-2]) * 1e-4, rel=1e-3)
    assert SCHEDULE.num_steps == len(SCHEDULE.betas) == len(SCHEDULE.alphas_cumprod) == 300


def test_signal_falls_and_power_is_kept():
    signal, noise = SCHEDULE.signal_and_noise(torch.arange(-1, 300))
    assert signal[0] == 1 and noise[0] == 0
    assert bool((signal.diff() < 0).all()) and bool((noise.diff() > 0).all())
    assert torch.allclose(signal**2 + noise**2, torch.ones(301, dtype=torch.float64))
    assert torch.allclose(signal[1:] ** 2, SCHEDULE.alphas_cumprod.double())


def test_hand_made_schedule():
    schedule = NoiseSchedule(torch.tensor([0.19, 0.51]))  # signal 0.81, then 0.81 * 0.49 = 0.3969
    x_t = schedule.q_sample(column(1, 1), level(0, 1), column(2, 2))
    assert x_t.flatten().tolist() == pytest.approx([0.9 + 2 * 0.19**0.5, 0.63 + 2 * 0.6031**0.5], rel=1e-6)


def test_velocity_by_hand_and_back():
    schedule = NoiseSchedule(torch.tensor([0.36]))  # sqrt(signal) 0.8, sqrt(1 - signal) 0.6
    assert float(schedule.velocity(column(3), level(0), column(2))) == pytest.approx(0.8 * 2 - 0.6 * 3)
    x_0, noise = torch.randn(2, 4, 1, 2, 3, 3, generator=torch.Generator().manual_seed(2)).unbind(0)
    t = level(0, 100, 298, 299)
    velocity = SCHEDULE.velocity(x_0, t, noise)
    found = SCHEDULE.noise_from_velocity(SCHEDULE.q_sample(x_0, t, noise), t, velocity)
    assert torch.allclose(found, noise, atol=1e-5)
    assert torch.allclose(velocity[3], -x_0[3], atol=0.01 * 4)  # at the noisiest level it is the image


@pytest.mark.parametrize("t", [0, 1, 77, 200, 298])
def test_predict_x0_undoes_q_sample(t):
    x_0, noise = torch.randn(2, 3, 2, 4, 4, 5, generator=torch.Generator().manual_seed(0)).unbind(0)
    x_t = SCHEDULE.q_sample(x_0, torch.full((3,), t), noise)
    assert torch.allclose(SCHEDULE.predict_x0(x_t, torch.full((3,), t), noise), x_0, atol=2e-4)


def test_each_sample_has_its_own_level():
    x_0, noise = torch.randn(2, 3, 1, 2, 2, 2, generator=torch.Generator().manual_seed(1)).unbind(0)
    t, s = level(299, 0, 140), level(100, -1, 139)
    for function in (
        lambda i: SCHEDULE.q_sample(x_0[i], t[i], noise[i]),
        lambda i: SCHEDULE.predict_x0(x_0[i], t[i], noise[i]),
        lambda i: SCHEDULE.posterior(x_0[i], noise[i], t[i], s[i])[0],
        lambda i: SCHEDULE.renoise(x_0[i], t[i], noise[i], s[i]),
    ):
        together = function(slice(None))
        assert together.shape == x_0.shape and together.dtype == x_0.dtype
        for i in range(3):
            assert torch.equal(together[i : i + 1], function(slice(i, i + 1)))


def bayes(x_0: float, x_t: float, t: int, s: int) -> tuple[float, float]:
    """Mean and variance of q(x_s | x_t, x_0), by multiplying q(x_t | x_s) and q(x_s | x_0) on a grid."""
    signal = torch.cumprod(1 - SCHEDULE.betas.double(), dim=0)
    x_s = torch.linspace(-8, 8, 800_001, dtype=torch.float64)
    kept = signal[t] / signal[s]
    log_density = -((x_t - kept.sqrt() * x_s) ** 2) / (2 * (1 - kept))
    log_density -= (x_s - signal[s].sqrt() * x_0) ** 2 / (2 * (1 - signal[s]))
    density = (log_density - log_density.max()).exp()
    density /= density.sum()
    mean = (density * x_s).sum()
    return float(mean), float((density * (x_s - mean) ** 2).sum())


@pytest.mark.parametrize("t, s", [(1, 0), (150, 149), (299, 298), (40, 0), (150, 30), (299, 250), (298, 1)])
def test_posterior_is_bayes_rule(t, s):
    expected_mean, expected_variance = bayes(0.4, -0.9, t, s)
    mean, variance, log_variance = SCHEDULE.posterior(column(0.4), column(-0.9), level(t), level(s))
    assert float(mean) == pytest.approx(expected_mean, abs=1e-5)
    assert float(variance) == pytest.approx(expected_variance, rel=1e-4)
    assert float(log_variance) == pytest.approx(math.log(expected_variance), abs=1e-4)


def test_posterior_of_neighbours_is_the_default():
    x_0, x_t, t = column(0.4, 0.1), column(-0.9, 2.0), level(299, 7)
    by_name, by_default = (SCHEDULE.posterior(x_0, x_t, t, s) for s in (t - 1, None))
    for a, b in zip(by_name, by_default, strict=True):
        assert torch.allclose(a, b, rtol=1e-9)


@pytest.mark.parametrize("t", [0, 5, 299])
def test_posterior_at_the_clean_image_is_x_0_without_variance(t):
    mean, variance, log_variance = SCHEDULE.posterior(column(0.4), column(-0.9), level(t), level(-1))
    assert float(mean) == pytest.approx(0.4, abs=1e-12) and float(variance) == 0
    assert float(log_variance) == pytest.approx(math.log(1e-20))


def test_posterior_variances_broadcast_over_a_volume():
    x = torch.zeros(2, 1, 3, 4, 5)
    mean, variance, log_variance = SCHEDULE.posterior(x, x, level(3, 4))
    assert mean.shape == x.shape and variance.shape == log_variance.shape == (2, 1, 1, 1, 1)


@pytest.mark.parametrize("s, t", [(-1, 0), (-1, 299), (0, 40), (100, 101), (100, 200)])
def test_renoise_in_one_move_is_renoise_step_by_step(s, t):
    """What is tracked is the distribution: the factor of the signal and the variance of the noise."""
    one, zero = column(1), column(0)
    signal, variance = 1.0, 0.0
    for v in range(s + 1, t + 1):
        kept = float(SCHEDULE.renoise(one, level(v), zero))
        added = float(SCHEDULE.renoise(zero, level(v), one))
        signal, variance = signal * kept, variance * kept**2 + added**2
    assert float(SCHEDULE.renoise(one, level(t), zero, level(s))) == pytest.approx(signal, rel=1e-9)
    assert float(SCHEDULE.renoise(zero, level(t), one, level(s))) ** 2 == pytest.approx(variance, rel=1e-9)
    # noising x_s to t gives what q_sample to t would have given
    (signal_s,), (noise_s,) = SCHEDULE.signal_and_noise(level(s))
    assert float(signal_s) * signal == pytest.approx(
        float(SCHEDULE.q_sample(one, level(t), zero)), rel=1e-9, abs=1e-15
    )
    assert float(noise_s) ** 2 * signal**2 + variance == pytest.approx(
        float(SCHEDULE.q_sample(zero, level(t), one)) ** 2, rel=1e-9
    )


@pytest.mark.parametrize(
    "betas",
    [[], [0.1, 0.0], [0.1, 1.0], [-0.1], [float("nan")], [[0.1, 0.2]]],
    ids=["empty", "zero", "one", "negative", "nan", "two-dimensional"],
)
def test_bad_betas_are_refused(betas):
    with pytest.raises(ValueError, match="betas must be"):
        NoiseSchedule(torch.tensor(betas))


def test_a_schedule_has_a_level():
    with pytest.raises(ValueError, match="num_steps=0"):
        NoiseSchedule.cosine(0)


def test_one_level_for_all_samples_is_that_level_for_each():
    """To the bit: samplers give one, the loss one for each sample."""
    x_0, x_t, noise = torch.randn(3, 4, 2, 5, 5, 5, generator=torch.Generator().manual_seed(0))
    for t, s in ((0, -1), (150, 120), (299, 298)):
        many, fewer = torch.full((4,), t), torch.full((4,), s)
        assert torch.equal(SCHEDULE.q_sample(x_0, t, noise), SCHEDULE.q_sample(x_0, many, noise))
        assert torch.equal(SCHEDULE.predict_x0(x_t, t, noise), SCHEDULE.predict_x0(x_t, many, noise))
        assert torch.equal(SCHEDULE.renoise(x_t, t, noise, s), SCHEDULE.renoise(x_t, many, noise, fewer))
        assert torch.equal(SCHEDULE.renoise(x_t, t, noise), SCHEDULE.renoise(x_t, many, noise))
        for one, each in zip(
            SCHEDULE.posterior(x_0, x_t, t, s), SCHEDULE.posterior(x_0, x_t, many, fewer), strict=True
        ):
            assert torch.equal(one.expand_as(each), each)
