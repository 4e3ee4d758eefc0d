"""Samplers against hand-made walks and a data distribution whose perfect network is known in closed form."""

import pytest
import torch

from LeFusion.diffusion import (
    SPACINGS,
    NoiseSchedule,
    compose,
    ddim,
    dpm_solver_pp_2m,
    repaint,
    repaint_times,
    samplers,
    spaced_levels,
    walk_levels,
)
from LeFusion.errors import UserError

SCHEDULE = NoiseSchedule.cosine(300)
SAMPLERS = (repaint, ddim, dpm_solver_pp_2m)
MEANS = torch.tensor([0.2, -0.15], dtype=torch.float64).reshape(1, 2, 1, 1, 1)  # of the two classes
SPREAD = 0.2  # five spreads from the mean to 1, so that clamping x_0 to [-1, 1] plays no part


# --- walks


def test_no_jumps_go_straight_down():
    assert repaint_times(4, 1, 1) == repaint_times(4, 3, 1) == [3, 2, 1, 0, -1]
    assert walk_levels(300, 300) == list(range(299, -2, -1))


@pytest.mark.parametrize(
    "num_steps, jump_length, jump_n_sample, walk",
    [
        (1, 1, 1, [0, -1]),
        (4, 1, 2, [3, 2, 3, 2, 1, 2, 1, 0, 1, 0, -1]),
        (5, 2, 2, [4, 3, 2, 3, 4, 3, 2, 1, 0, 1, 2, 1, 0, -1]),
        (6, 3, 3, [5, 4, 3, 2, 1, 0, 1, 2, 3, 2, 1, 0, 1, 2, 3, 2, 1, 0, -1]),
        (3, 5, 4, [2, 1, 0, -1]),  # a jump longer than the walk never happens
    ],
)
def test_walks_by_hand(num_steps, jump_length, jump_n_sample, walk):
    assert repaint_times(num_steps, jump_length, jump_n_sample) == walk


@pytest.mark.parametrize("num_steps, jump_length, jump_n_sample", [(300, 2, 2), (300, 10, 10), (50, 7, 3)])
def test_walks_move_by_one_and_pass_each_piece_as_often_as_asked(num_steps, jump_length, jump_n_sample):
    walk = repaint_times(num_steps, jump_length, jump_n_sample)
    steps = list(zip(walk, walk[1:], strict=False))
    assert walk[0] == num_steps - 1 and walk[-1] == -1 and walk.count(-1) == 1
    assert {later - earlier for earlier, later in steps} == {1, -1}
    anchors = range(0, num_steps - jump_length, jump_length)
    for level in range(num_steps - 1):
        inside_a_jump = any(anchor <= level < anchor + jump_length for anchor in anchors)
        assert steps.count((level + 1, level)) == (jump_n_sample if inside_a_jump else 1)


@pytest.mark.parametrize("bad", [(0, 1, 1), (5, 0, 1), (5, 1, 0)])
def test_bad_walks_are_refused(bad):
    with pytest.raises(ValueError, match="each must be at least 1"):
        repaint_times(*bad)


@pytest.mark.parametrize("endless", [(300, 2, 10**9), (10**9, 1, 1)])
def test_a_walk_without_end_is_refused(endless):
    assert len(repaint_times(300, 10**9, 10**9)) == 301  # no level is so far below the first: no jump
    with pytest.raises(UserError, match=r"jump_n_sample=\d+: a walk of [\d,]+ steps is longer"):
        repaint_times(*endless)


@pytest.mark.parametrize("asked", [(300, 2, 2), (300, 7, 3), (5, 5, 9), (5, 9, 9), (10, 5, 2)])
def test_the_length_of_a_walk_is_known_before(asked, monkeypatch):
    steps = len(repaint_times(*asked)) - 1
    monkeypatch.setattr(samplers, "MOST_STEPS", steps)
    repaint_times(*asked)
    monkeypatch.setattr(samplers, "MOST_STEPS", steps - 1)
    with pytest.raises(UserError, match=f"a walk of {steps:,} steps"):
        repaint_times(*asked)


@pytest.mark.parametrize("num_steps", [2, 7, 50, 299, 300])
def test_levels_are_evenly_spread(num_steps):
    walk = walk_levels(300, num_steps)
    assert walk[0] == 299 and walk[-2:] == [0, -1] and len(walk) == num_steps + 1
    strides = [earlier - later for earlier, later in zip(walk[:-2], walk[1:-1], strict=True)]
    assert min(strides) >= 1 and max(strides) - min(strides) <= 1
    assert walk_levels(300, 4) == [299, 199, 100, 0, -1]


@pytest.mark.parametrize("spacing", SPACINGS)
def test_any_number_of_levels_is_distinct_and_has_the_noisiest(spacing):
    for num_steps in range(1, 301):
        levels = spaced_levels(300, num_steps, spacing)
        assert len(levels) == num_steps and levels == sorted(set(levels))
        assert levels[0] >= 0 and levels[-1] == 299
    assert spaced_levels(300, 300, spacing) == list(range(300))


def test_spacings_by_hand():
    assert spaced_levels(300, 4, "trailing") == [74, 149, 224, 299]
    assert spaced_levels(300, 4, "quadratic") == [0, 33, 133, 299]  # 299 (i / 3)^2
    assert spaced_levels(20, 10, "quadratic")[:4] == [0, 1, 2, 3]  # rounding would repeat 0 and 1
    assert walk_levels(300, 4, spacing="trailing") == [299, 224, 149, 74, -1]
    with pytest.raises(ValueError, match="spacing='log'"):
        spaced_levels(300, 4, "log")


def test_jumps_are_counted_in_visited_levels():
    straight, jumping = walk_levels(300, 20), walk_levels(300, 20, 2, 3)
    index = {level: i for i, level in enumerate(reversed(straight[:-1]))} | {-1: -1}
    assert [index[level] for level in jumping] == repaint_times(20, 2, 3)


@pytest.mark.parametrize("num_steps", [0, -3, 301])
def test_bad_numbers_of_steps_are_refused(num_steps):
    with pytest.raises(ValueError, match=rf"num_steps={num_steps} must be in 1..300"):
        walk_levels(300, num_steps)


# --- the region outside the lesions


def problem(batch=2, classes=2, size=(4, 6, 6), dtype=torch.float32):
    """A random known image, and a box of lesion for each class with known image around it."""
    known = torch.rand(batch, 1, *size, generator=torch.Generator().manual_seed(3)).to(dtype) * 2 - 1
    lesions = torch.zeros(batch, classes, *size, dtype=torch.bool)
    for k in range(classes):
        lesions[:, k, 1:3, 1:5, 1 + 2 * k : 3 + 2 * k] = True
    return known, lesions


class Spy:
    """Predicts no noise, and keeps what it was shown."""

    def __init__(self):
        self.seen = []

    def __call__(self, x_t, t):
        self.seen.append((x_t.clone(), t.clone()))
        return torch.zeros_like(x_t)


@pytest.mark.parametrize("sample", SAMPLERS)
@pytest.mark.parametrize("walk", [walk_levels(300, 12), walk_levels(300, 9, 2, 2)], ids=["straight", "jumps"])
def test_the_network_sees_the_known_image_noised_to_its_level(sample, walk):
    known, lesions = problem()
    outside = ~lesions.any(dim=1, keepdim=True).expand(lesions.shape)
    spies = {}
    for constant, image in ((0.0, known), (1.0, torch.zeros_like(known))):
        spies[constant] = Spy()
        noise = lambda like, constant=constant: torch.full_like(like, constant)  # noqa: E731
        sample(spies[constant], image, lesions, noise, SCHEDULE, walk)
        assert [int(t[0]) for _, t in spies[constant].seen] == [
            earlier for earlier, later in zip(walk, walk[1:], strict=False) if later < earlier
        ]
        assert all(t.shape == (2,) and t.unique().numel() == 1 for _, t in spies[constant].seen)
    for x_t, t in spies[0.0].seen:  # no noise: exactly the known image, fainter
        signal = SCHEDULE.signal_and_noise(t)[0].float().reshape(-1, 1, 1, 1, 1)
        assert torch.equal(x_t[outside], (signal * known).expand(lesions.shape)[outside])
        # the start without noise is 0, and no noise predicted in it keeps it 0, in all channels of any lesion
        assert bool((x_t[~outside] == 0).all())
    for x_t, t in spies[1.0].seen:  # no image: exactly the noise of the level
        level = SCHEDULE.signal_and_noise(t)[1].float().reshape(-1, 1, 1, 1, 1)
        assert torch.equal(x_t[outside], level.expand(lesions.shape)[outside])


@pytest.mark.parametrize("sample", SAMPLERS)
def test_the_known_image_is_noised_afresh_at_each_step(sample):
    known, lesions = problem()
    spy, generator = Spy(), torch.Generator().manual_seed(0)
    sample(spy, known, lesions, lambda x: torch.randn(x.shape, generator=generator), SCHEDULE, [290, 280, -1])
    first, second = (
        (x_t - signal.float() * known)[:, 0, 0].flatten()
        for x_t, t in spy.seen
        for signal in [SCHEDULE.signal_and_noise(t)[0][0]]
    )
    assert abs(float(torch.corrcoef(torch.stack([first, second]))[0, 1])) < 0.5


@pytest.mark.parametrize("sample", SAMPLERS)
def test_neither_known_image_nor_lesions_are_changed(sample):
    known, lesions = problem()
    before = known.clone(), lesions.clone()
    sample(Spy(), known, lesions, torch.randn_like, SCHEDULE, walk_levels(300, 4, 1, 2))
    assert torch.equal(known, before[0]) and torch.equal(lesions, before[1])


@pytest.mark.parametrize("sample", SAMPLERS)
def test_the_result_lies_in_the_window_whatever_the_network_says(sample):
    known, lesions = problem()
    for nonsense in (-50.0, 50.0):
        x_0 = sample(
            lambda x, t, v=nonsense: torch.full_like(x, v),
            known,
            lesions,
            torch.randn_like,
            SCHEDULE,
            walk_levels(300, 5),
        )
        assert x_0.shape == lesions.shape and float(x_0[lesions].abs().max()) <= 1


def test_compose_takes_each_class_from_its_channel_and_keeps_the_rest():
    known, lesions = problem()
    x_0 = torch.tensor([10.0, 20.0]).reshape(1, 2, 1, 1, 1).expand(lesions.shape)
    image = compose(x_0, known, lesions)
    assert image.shape == known.shape
    assert bool((image[lesions[:, :1]] == 10).all()) and bool((image[lesions[:, 1:]] == 20).all())
    outside = ~lesions.any(dim=1, keepdim=True)
    assert torch.equal(image[outside], known[outside]) and bool(known.abs().max() <= 1)


@pytest.mark.parametrize("sample", SAMPLERS)
@pytest.mark.parametrize(
    "spoil",
    [
        lambda known, lesions: (known[0], lesions),
        lambda known, lesions: (known.expand(-1, 2, -1, -1, -1), lesions),
        lambda known, lesions: (known, lesions.float()),
        lambda known, lesions: (known, lesions[..., :-1]),
        lambda known, lesions: (known[:1], lesions),
    ],
    ids=["no batch", "two channels", "not bool", "other size", "other batch"],
)
def test_shapes_that_do_not_fit_are_refused(sample, spoil):
    with pytest.raises(ValueError, match="must"):
        sample(Spy(), *spoil(*problem()), torch.randn_like, SCHEDULE, [10, -1])


# --- what is sampled: data whose voxels are independent, N(MEANS[k], SPREAD^2), and their perfect network


def perfect(x_t, t, schedule=SCHEDULE):
    """E[noise | x_t] for Gaussian data; x_t (B, 2, ...) float64."""
    signal, noise = (v.reshape(-1, 1, 1, 1, 1) for v in schedule.signal_and_noise(t))
    return noise * (x_t - signal * MEANS) / (signal**2 * SPREAD**2 + noise**2)


def expected_variance(walk, eta):
    """Variance after the walk of the DDIM family (Song et al. 2021, eq. 12 and 16); eta = 1 is the ancestral
    sampler of RePaint. For Gaussian data a step is linear, so that the variance follows from step to step."""
    (signal, noise), variance = SCHEDULE.signal_and_noise(torch.arange(-1, 300)), 1.0
    signal, noise = signal.roll(-1).tolist(), noise.roll(-1).tolist()  # so that index -1 is level -1
    for t, s in zip(walk, walk[1:], strict=False):
        if s > t:
            kept = (signal[s] / signal[t]) ** 2
            variance = kept * variance + 1 - kept
            continue
        gain = signal[t] * SPREAD**2 / (signal[t] ** 2 * SPREAD**2 + noise[t] ** 2)  # of E[x_0 | x_t]
        added = eta**2 * (noise[s] / noise[t]) ** 2 * (1 - (signal[t] / signal[s]) ** 2)
        gain = signal[s] * gain + (noise[s] ** 2 - added) ** 0.5 * (1 - signal[t] * gain) / noise[t]
        variance = gain**2 * variance + added
    return variance


def check_draws(variance, sample, walk, allowed, **options):
    """20,000 independent voxels have the means of the classes, and the variance to 4 standard errors plus
    `allowed` (a share of it)."""
    size = (12, 32, 32)
    known = torch.full((2, 1, *size), -0.7, dtype=torch.float64)
    lesions = torch.zeros(2, 2, *size, dtype=torch.bool)
    lesions[:, 0, 1:11, :, :16] = lesions[:, 1, 1:11, :, 16:] = True
    generator = torch.Generator().manual_seed(0)
    noise = lambda like: torch.randn(like.shape, generator=generator, dtype=like.dtype)  # noqa: E731
    x_0 = sample(perfect, known, lesions, noise, SCHEDULE, walk, **options)
    deviations = (x_0 - MEANS)[lesions]
    count = len(deviations)
    assert count == 20_480
    for k in range(2):  # the mean needs no allowance: the perfect network keeps it at every level
        mean = float((x_0[:, k] - MEANS[0, k])[lesions[:, k]].mean())
        assert abs(mean) < 4 * (variance / (count / 2)) ** 0.5
    assert abs(float(deviations.var()) / variance - 1) < 4 * (2 / count) ** 0.5 + allowed


@pytest.mark.parametrize(
    "sample, eta, walk, options",
    [
        (repaint, 1, walk_levels(300, 300), {}),
        (repaint, 1, walk_levels(300, 60, 2, 2), {}),
        (ddim, 0, walk_levels(300, 50), {}),
        (ddim, 0, walk_levels(300, 50, 5, 2), {}),
        (ddim, 0.5, walk_levels(300, 50), {"eta": 0.5}),
        (ddim, 1, walk_levels(300, 50), {"eta": 1.0}),
    ],
    ids=["repaint", "repaint-jumps", "ddim", "ddim-jumps", "ddim-half", "ddim-eta1"],
)
def test_repaint_and_ddim_draw_what_their_equations_say(sample, eta, walk, options):
    check_draws(expected_variance(walk, eta), sample, walk, allowed=0, **options)


@pytest.mark.parametrize(
    "sample, walk, allowed",
    [
        (repaint, walk_levels(300, 300), 0.06),  # 5 % too narrow; the price of ancestral steps
        (ddim, walk_levels(300, 50), 0.13),  # 12 % too narrow; 6 % with 100 levels
        (dpm_solver_pp_2m, walk_levels(300, 100), 0.03),
        (dpm_solver_pp_2m, walk_levels(300, 100, 10, 2), 0.03),
        (dpm_solver_pp_2m, walk_levels(300, 25), 0.1),
    ],
    ids=["repaint", "ddim-50", "dpmpp-100", "dpmpp-100-jumps", "dpmpp-25"],
)
def test_the_data_distribution_comes_out(sample, walk, allowed):
    """`allowed` is the discretisation error, which is known for these data; more levels make it smaller."""
    check_draws(SPREAD**2, sample, walk, allowed)


def fixed_start(lesions_shape=(1, 2, 1, 4, 4), seed=0):
    """A small volume that is all lesion. -> known, lesions, and a maker of the same noise each time."""
    known = torch.zeros(lesions_shape[0], 1, *lesions_shape[2:], dtype=torch.float64)

    def fresh_noise():
        generator = torch.Generator().manual_seed(seed)
        return lambda like: torch.randn(like.shape, generator=generator, dtype=like.dtype)

    return known, torch.ones(lesions_shape, dtype=torch.bool), fresh_noise


def test_ddim_with_eta_1_is_the_ancestral_sampler():
    known, lesions, noise = fixed_start()
    for walk in (walk_levels(300, 20), walk_levels(300, 20, 3, 2)):
        outcomes = [
            sampler(perfect, known, lesions, noise(), SCHEDULE, walk, **options)
            for sampler, options in ((repaint, {}), (ddim, {"eta": 1.0}))
        ]
        # both draw the same noise in the same order, but for one more draw of repaint at the very end
        assert torch.allclose(*outcomes, atol=1e-9)


def test_dpm_solver_is_ddim_where_it_has_no_previous_step():
    """At the start, after a jump and at the end; were history kept in a jump, the last walk would differ."""
    known, lesions, noise = fixed_start()
    for walk in ([200, 120, -1], [200, 120, 160, 80, -1], [200, 120, 200, 120, -1]):
        outcomes = [f(perfect, known, lesions, noise(), SCHEDULE, walk) for f in (ddim, dpm_solver_pp_2m)]
        assert torch.allclose(*outcomes, atol=1e-9)
    second_order = [
        f(perfect, known, lesions, noise(), SCHEDULE, [200, 120, 60, -1]) for f in (ddim, dpm_solver_pp_2m)
    ]
    assert not torch.allclose(*second_order, atol=1e-4)


def test_orders_of_convergence():
    """Without noise both samplers solve the probability flow, which for Gaussian data scales the deviation
    from the mean like the spread. Half the step: DDIM's error halves, DPM-Solver++(2M)'s falls fourfold."""
    schedule = NoiseSchedule.cosine(4000)
    signal, noise_level = schedule.signal_and_noise(torch.arange(4000))
    log_snr = (signal / noise_level).log()
    known, lesions, noise = fixed_start()

    def error(sample, steps):
        wanted = torch.linspace(-1.5, 1.5, steps + 1, dtype=torch.float64)
        levels = (log_snr[:, None] - wanted).abs().argmin(dim=0)
        first, last = levels[0], levels[-1]
        x = noise()(torch.empty(lesions.shape, dtype=torch.float64))
        spread = (signal**2 * SPREAD**2 + noise_level**2).sqrt()
        at_last = (x - signal[first] * MEANS) * spread[last] / spread[first]
        exact = MEANS + signal[last] * SPREAD**2 / spread[last] ** 2 * at_last
        denoise = lambda x, t: perfect(x, t, schedule)  # noqa: E731
        return float(
            (sample(denoise, known, lesions, noise(), schedule, [*levels.tolist(), -1]) - exact).norm()
        )

    assert 1.7 < error(ddim, 20) / error(ddim, 40) < 2.4
    assert 3.3 < error(dpm_solver_pp_2m, 20) / error(dpm_solver_pp_2m, 40) < 5
    assert error(dpm_solver_pp_2m, 20) < error(ddim, 20) / 5
