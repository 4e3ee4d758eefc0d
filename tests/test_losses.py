"""The loss against loops over voxels, and its random draws against their addresses."""

import numpy as np
import pytest
import torch
from torch import nn

from LeFusion.diffusion import NoiseSchedule
from LeFusion.diffusion.denoiser import Denoiser
from LeFusion.errors import UserError
from LeFusion.losses import LesionLoss, histogram_loss, lesion_loss
from LeFusion.textures.histograms import lesion_histogram, match_intensities, wasserstein_distance

SCHEDULE = NoiseSchedule.cosine(300)
BINS = 16


def lesion_problem(seed=0, batch=3, size=(3, 4, 5)):
    """Predicted and true noise with two lesion classes of unequal size; sample 1 has no lesion of class 1."""
    generator = torch.Generator().manual_seed(seed)
    predicted, noise = torch.randn(2, batch, 2, *size, generator=generator).unbind(0)
    lesions = torch.rand(batch, 2, *size, generator=generator) < torch.tensor([0.3, 0.1]).reshape(2, 1, 1, 1)
    lesions[1, 1] = False
    assert bool(lesions[[0, 0, 1, 2, 2], [0, 1, 0, 0, 1]].flatten(1).any(dim=1).all())
    return predicted, noise, lesions


def by_loops(predicted, noise, lesions, loss_type, normalisation):
    """The definition, voxel by voxel."""
    total = 0.0
    for sample in range(len(lesions)):
        for k in range(lesions.shape[1]):
            error, voxels = 0.0, 0
            for voxel in np.ndindex(*lesions.shape[2:]):
                if lesions[(sample, k, *voxel)]:
                    gap = predicted[(sample, k, *voxel)] - noise[(sample, k, *voxel)]
                    error += abs(gap) if loss_type == "l1" else gap**2
                    voxels += 1
            divisor = lesions[sample, k].size if normalisation == "volume" else max(voxels, 1)
            total += error / divisor
    return total / len(lesions)


@pytest.mark.parametrize("normalisation", ["volume", "lesion"])
@pytest.mark.parametrize("loss_type", ["l1", "l2"])
def test_loss_is_its_definition(loss_type, normalisation):
    problem = lesion_problem()
    loss = lesion_loss(*problem, loss_type, normalisation)
    expected = by_loops(*(v.numpy() for v in problem), loss_type, normalisation)
    assert loss.ndim == 0 and float(loss) == pytest.approx(float(expected), rel=1e-5)


def test_the_released_loss_is_the_default():
    problem = lesion_problem()
    assert torch.equal(lesion_loss(*problem), lesion_loss(*problem, "l1", "volume"))


def test_a_lesion_counts_by_its_size_or_equally():
    noise, lesions = torch.zeros(2, 1, 2, 5, 10), torch.zeros(2, 1, 2, 5, 10, dtype=torch.bool)
    lesions[0, 0, 0, 0, :1] = lesions[1, 0, 0, 0, :10] = True  # 1 voxel and 10 voxels of 100
    predicted = torch.zeros_like(noise)
    predicted[0] = 3.0
    assert float(lesion_loss(predicted, noise, lesions, normalisation="volume")) == pytest.approx(3 / 200)
    assert float(lesion_loss(predicted, noise, lesions, normalisation="lesion")) == pytest.approx(3 / 2)
    assert float(lesion_loss(predicted, noise, lesions, "l2", "lesion")) == pytest.approx(9 / 2)


@pytest.mark.parametrize("normalisation", ["volume", "lesion"])
def test_no_gradient_outside_the_masks(normalisation):
    predicted, noise, lesions = lesion_problem()
    predicted.requires_grad_()
    lesion_loss(predicted, noise, lesions, "l2", normalisation).backward()
    assert bool((predicted.grad[~lesions] == 0).all()) and bool((predicted.grad[lesions] != 0).all())


@pytest.mark.parametrize("normalisation", ["volume", "lesion"])
def test_no_lesion_at_all_is_a_loss_of_zero(normalisation):
    predicted, noise, lesions = lesion_problem()
    assert float(lesion_loss(predicted, noise, lesions & False, "l1", normalisation)) == 0


@pytest.mark.parametrize("normalisation", ["volume", "lesion"])
def test_weights_are_how_much_each_sample_counts(normalisation):
    problem, weight = lesion_problem(), [2.0, 0.0, 5.0]
    loss = lesion_loss(*problem, "l1", normalisation, torch.tensor(weight))
    alone = [float(lesion_loss(*(v[i : i + 1] for v in problem), "l1", normalisation)) for i in range(3)]
    assert float(loss) == pytest.approx(sum(w * a for w, a in zip(weight, alone, strict=True)) / 3, rel=1e-5)


def make_batch(draws, size=(3, 4, 4), classes=2):
    """A batch whose samples depend on their draw only."""
    generators = [torch.Generator().manual_seed(draw) for draw in draws]
    return {
        "image": torch.stack([torch.rand(1, *size, generator=g) * 2 - 1 for g in generators]),
        "lesions": torch.stack([torch.rand(classes, *size, generator=g) < 0.3 for g in generators]),
        "histogram": torch.stack([torch.rand(classes * BINS, generator=g) for g in generators]),
        "draw": list(draws),
    }


class Spy(nn.Module):
    """Predicts zero noise, and keeps what it was shown."""

    def forward(self, x_t, t, cond, dropped):
        self.x_t, self.t, self.cond, self.dropped = x_t, t, cond, dropped
        return torch.zeros_like(x_t)


def shown(draws, seed=0, **options):
    """-> x_t, t, condition and which is dropped, as the network gets them for these draws."""
    spy = Spy()
    LesionLoss(SCHEDULE, seed, **options)(spy, make_batch(draws))
    return spy.x_t, spy.t, spy.cond, spy.dropped


def same(first, second):
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_draws_do_not_depend_on_the_batch():
    together = shown([5, 6, 7], cond_dropout=0.5)
    assert same(shown([7, 5], cond_dropout=0.5), [v[[2, 0]] for v in together])
    assert same(shown([6], cond_dropout=0.5), [v[[1]] for v in together])
    torch.manual_seed(1)  # nor on the global generator
    assert same(shown([5, 6, 7], cond_dropout=0.5), together)


def test_draws_differ_by_number_and_by_seed():
    x_t, t, *_ = shown(range(8))
    assert len(t.unique()) > 4
    other_x_t, other_t, *_ = shown(range(8), seed=1)
    assert not torch.equal(t, other_t) and not torch.equal(x_t, other_x_t)


def test_levels_are_uniform_and_the_condition_is_dropped_as_often_as_asked():
    count = 2000
    spy, batch = Spy(), make_batch(range(4), size=(1, 1, 1))
    batch = {
        k: v[torch.arange(count) % 4] if torch.is_tensor(v) else list(range(count)) for k, v in batch.items()
    }
    LesionLoss(SCHEDULE, 0, cond_dropout=0.25)(spy, batch)
    assert torch.equal(spy.cond, batch["histogram"])
    assert float(spy.dropped.float().mean()) == pytest.approx(0.25, abs=4 * (0.25 * 0.75 / count) ** 0.5)
    assert int(spy.t.min()) < 5 and int(spy.t.max()) == 299
    counts = torch.histc(spy.t.float(), 10, 0, 300)  # 200 expected in each tenth
    assert float(((counts - 200) ** 2 / 200).sum()) < 28  # chi squared, 9 degrees of freedom: 1 in 1000
    dropped_levels = spy.t[spy.dropped].float().mean()  # dropping has nothing to do with the level
    assert float(dropped_levels) == pytest.approx(149.5, abs=4 * 86.6 / (0.25 * count) ** 0.5)


def test_without_dropout_every_condition_is_kept():
    batch = make_batch(range(50))
    spy = Spy()
    LesionLoss(SCHEDULE, 0)(spy, batch)
    assert torch.equal(spy.cond, batch["histogram"]) and not bool(spy.dropped.any())


def test_the_error_counts_in_the_rim_and_the_histogram_in_the_lesion_alone():
    batch = make_batch([3, 4])
    lesions, edit = batch["lesions"], batch["lesions"] | (batch["image"] > 0.5)
    assert bool((edit & ~lesions).any())

    def gradient(**options):
        predicted = torch.zeros(*lesions.shape, requires_grad=True)
        loss = LesionLoss(SCHEDULE, 0, "l2", **options)
        loss(lambda x_t, t, cond, dropped: predicted, batch | {"edit": edit}).backward()
        return predicted.grad

    plain, with_histogram = gradient(), gradient(histogram_weight=5.0)
    assert bool((plain[edit] != 0).all()) and not bool(plain[~edit].any())
    moved = plain != with_histogram
    assert bool(moved.any()) and not bool(moved[~lesions].any())


def test_nan_in_a_histogram_is_refused():
    batch = make_batch(range(3))
    batch["histogram"][1, 2] = torch.nan
    with pytest.raises(UserError, match="NaN"):
        LesionLoss(SCHEDULE, 0)(Spy(), batch)


class Perfect(nn.Module):
    """Knows the image, so it can tell the noise exactly; adds `offset`."""

    def __init__(self, image, offset=0.0):
        super().__init__()
        self.image, self.offset = image, offset

    def forward(self, x_t, t, cond, dropped):
        signal, noise = (v.float().reshape(-1, 1, 1, 1, 1) for v in SCHEDULE.signal_and_noise(t))
        return (x_t - signal * self.image) / noise + self.offset


@pytest.mark.parametrize("loss_type", ["l1", "l2"])
def test_the_network_is_asked_for_the_noise_in_the_image(loss_type):
    batch = make_batch(range(6))
    loss_fn = LesionLoss(SCHEDULE, 0, loss_type, "lesion")
    assert float(loss_fn(Perfect(batch["image"]), batch)) == pytest.approx(0, abs=1e-4)
    # off by 0.5 in every voxel, summed over two classes that every sample has
    assert float(loss_fn(Perfect(batch["image"], 0.5), batch)) == pytest.approx(
        2 * (0.5 if loss_type == "l1" else 0.25), rel=1e-3
    )


@pytest.mark.parametrize("max_weight", [1, 5, 1000])
def test_noisy_levels_count_more_up_to_a_bound(max_weight):
    batch, spy = make_batch(range(40)), Spy()
    LesionLoss(SCHEDULE, 0, "l2", "lesion")(spy, batch)
    signal = SCHEDULE.alphas_cumprod[spy.t]
    weight = ((1 - signal) / signal).clamp(1, max_weight)
    loss = LesionLoss(SCHEDULE, 0, "l2", "lesion", max_weight=max_weight)(spy, batch)
    noise = (spy.x_t - signal.sqrt().reshape(-1, 1, 1, 1, 1) * batch["image"]) / (1 - signal).sqrt().reshape(
        -1, 1, 1, 1, 1
    )  # the network said 0, so that the error is the noise
    expected = lesion_loss(torch.zeros_like(noise), noise, batch["lesions"], "l2", "lesion", weight)
    assert float(loss) == pytest.approx(float(expected), rel=1e-3)
    assert float(weight.max()) == max_weight and float(weight.min()) == 1


def test_classes_share_the_anatomy_and_have_their_own_noise():
    spy, batch = Spy(), make_batch(range(4))
    LesionLoss(SCHEDULE, 0)(spy, batch)
    signal, noise = (v.float().reshape(-1, 1, 1, 1, 1) for v in SCHEDULE.signal_and_noise(spy.t))
    drawn = (spy.x_t - signal * batch["image"]) / noise
    first, second = drawn[:, 0].flatten(), drawn[:, 1].flatten()
    assert abs(float(torch.corrcoef(torch.stack([first, second]))[0, 1])) < 4 / len(first) ** 0.5
    assert float(drawn.var()) == pytest.approx(1, abs=4 * (2 / drawn.numel()) ** 0.5)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"loss_type": "huber"}, "loss_type='huber' must be one of l1, l2"),
        ({"normalisation": "mean"}, "normalisation='mean' must be one of volume, lesion"),
        ({"cond_dropout": 1.0}, r"cond_dropout=1.0 must be in \[0, 1\)"),
        ({"cond_dropout": -0.1}, "cond_dropout=-0.1"),
        ({"max_weight": 0.5}, "max_weight=0.5 must be at least 1"),
        ({"histogram_weight": -0.5}, "histogram_loss=-0.5 must be at least 0"),
    ],
)
def test_bad_settings_are_refused_before_training(options, message):
    with pytest.raises(ValueError, match=message):
        LesionLoss(SCHEDULE, 0, **options)


def test_bad_names_are_refused_by_the_loss_itself():
    with pytest.raises(ValueError, match="loss_type='L1'"):
        lesion_loss(*lesion_problem(), "L1")
    with pytest.raises(ValueError, match="normalisation='none'"):
        lesion_loss(*lesion_problem(), "l1", "none")


def textured(seed=0, batch=3, size=(4, 6, 8)):
    """x_0 and lesions of two classes whose intensities follow the histograms given with them."""
    generator = torch.Generator().manual_seed(seed)
    x_0 = torch.rand(batch, 2, *size, generator=generator) * 2 - 1
    lesions = torch.zeros(batch, 2, *size, dtype=torch.bool)
    lesions[:, 0, :, :, :4] = lesions[:, 1, :, :3, 5:] = True
    histogram = torch.rand(batch, 2, BINS, generator=generator) ** 3
    histogram = histogram / histogram.sum(dim=2, keepdim=True)
    for i in range(batch):
        for k in range(2):
            x_0[i, k][lesions[i, k]] = match_intensities(x_0[i, k][lesions[i, k]], histogram[i, k])
    return x_0, lesions, histogram.flatten(1)


def test_lesions_with_their_histograms_cost_nothing():
    x_0, lesions, histogram = textured()
    assert float(histogram_loss(x_0, lesions, histogram, softness=0.01).max()) < 0.015  # of whole voxels
    others = histogram_loss(x_0, lesions, histogram.roll(1, dims=0))
    assert others.shape == (3,) and float(others.min()) > 0.05


@pytest.mark.parametrize("shift", [-0.5, -0.125, 0.125, 0.375, 0.75])
def test_a_shifted_lesion_costs_its_wasserstein_distance(shift):
    """In shares of the range: |shift| / 2, as long as nothing leaves the range."""
    lesions = torch.ones(1, 1, 4, 8, 8, dtype=torch.bool)
    x_0 = torch.linspace(-0.45, 0.2, lesions.numel()).reshape(1, 1, 4, 8, 8) - shift / 4
    wanted = lesion_histogram(x_0[0], lesions[0], BINS)
    obtained = lesion_histogram(x_0[0] + shift, lesions[0], BINS)
    distance = wasserstein_distance(wanted, obtained, BINS, (0, 1))
    assert distance == pytest.approx(abs(shift) / 2, abs=1e-3)
    loss = histogram_loss(x_0 + shift, lesions, wanted[None], softness=0.01)
    assert float(loss) == pytest.approx(distance, rel=0.01)


def test_a_histogram_apart_in_one_bin_edge_by_hand():
    x_0 = torch.tensor([-0.9, -0.9, 0.9, 0.9]).reshape(1, 1, 1, 2, 2)
    histogram = torch.tensor([[0.25, 0.75]])  # two bins: half of the voxels below 0, a quarter wanted
    lesions = torch.ones(1, 1, 1, 2, 2, dtype=torch.bool)
    assert float(histogram_loss(x_0, lesions, histogram, softness=0.01)) == pytest.approx(0.25 / 2)
    soft = torch.sigmoid(torch.tensor(0.9 / 0.5))  # below the edge by 0.9, with a softness of half a bin (1)
    expected = abs(0.5 * soft + 0.5 * (1 - soft) - 0.25) / 2
    assert float(histogram_loss(x_0, lesions, histogram, softness=0.5)) == pytest.approx(float(expected))


@pytest.mark.parametrize("direction", [-1, 1])
def test_the_gradient_moves_intensities_to_the_histogram(direction):
    generator = torch.Generator().manual_seed(0)
    lesions = torch.rand(1, 1, 4, 8, 8, generator=generator) < 0.5
    x_0 = (0.5 * torch.rand(1, 1, 4, 8, 8, generator=generator) - 0.25).requires_grad_()
    histogram = torch.zeros(1, BINS)
    histogram[0, 13 if direction > 0 else 2] = 1.0
    before = histogram_loss(x_0, lesions, histogram)
    before.sum().backward()
    downhill = -x_0.grad
    assert not bool(downhill[~lesions].any())
    assert bool((direction * downhill[lesions] > 0).all())
    after = histogram_loss(x_0.detach() + direction * 0.1 * lesions, lesions, histogram)
    assert float(after) < float(before.detach())


def test_the_gradient_is_finite_wherever_intensities_are():
    x_0 = torch.tensor([-1e4, -1.0, -0.875, 0.0, 1.0, 1e4]).reshape(1, 1, 1, 2, 3).requires_grad_()
    histogram = torch.full((1, BINS), 1 / BINS)
    loss = histogram_loss(x_0, torch.ones(1, 1, 1, 2, 3, dtype=torch.bool), histogram, softness=0.01)
    loss.sum().backward()
    assert bool(loss.isfinite().all()) and bool(x_0.grad.isfinite().all())


def test_classes_without_voxels_or_histogram_cost_nothing():
    x_0, lesions, histogram = textured()
    wrong = histogram.roll(1, dims=0).unflatten(1, (2, BINS))
    each = [histogram_loss(x_0[:, [k]], lesions[:, [k]], wrong[:, k]) for k in range(2)]
    assert torch.allclose(histogram_loss(x_0, lesions, wrong.flatten(1)), each[0] + each[1], atol=1e-6)

    absent = lesions.clone()
    absent[:, 0] = False
    assert torch.allclose(histogram_loss(x_0, absent, wrong.flatten(1)), each[1], atol=1e-6)
    assert not bool(histogram_loss(x_0, lesions & False, wrong.flatten(1)).any())
    given = wrong.clone()
    given[:, 1] = 0
    assert torch.allclose(histogram_loss(x_0, lesions, given.flatten(1)), each[0], atol=1e-6)
    x_0.requires_grad_()
    costs = histogram_loss(x_0, lesions, torch.zeros(3, 2 * BINS))
    assert not bool(costs.any()) and bool(costs.isfinite().all())


def test_a_sample_costs_the_same_in_any_batch():
    x_0, lesions, histogram = textured()
    together = histogram_loss(x_0, lesions, histogram.roll(1, dims=0))
    wrong = histogram.roll(1, dims=0)
    for rows in ([2, 0], [1]):
        assert torch.equal(histogram_loss(x_0[rows], lesions[rows], wrong[rows]), together[rows])


def test_without_weight_the_loss_is_the_plain_one():
    batch, spy = make_batch(range(6)), Spy()
    plain = LesionLoss(SCHEDULE, 0, cond_dropout=0.3)(spy, batch)
    weighted = LesionLoss(SCHEDULE, 0, cond_dropout=0.3, histogram_weight=0.0)(spy, batch)
    assert torch.equal(plain, weighted)


def true_histograms(batch):
    """The batch with the histograms of its own lesions."""
    pairs = zip(batch["image"], batch["lesions"], strict=True)
    return batch | {"histogram": torch.stack([lesion_histogram(*pair, BINS) for pair in pairs])}


@pytest.mark.parametrize("weight", [0.5, 3.0])
def test_the_histogram_of_the_implied_lesion_is_added_by_weight_and_level(weight):
    batch, spy = true_histograms(make_batch(range(8), size=(3, 8, 8))), Spy()
    options = {"cond_dropout": 0.4, "normalisation": "lesion"}
    plain = LesionLoss(SCHEDULE, 0, **options)(spy, batch)
    weighted = LesionLoss(SCHEDULE, 0, histogram_weight=weight, **options)(spy, batch)
    signal = SCHEDULE.alphas_cumprod[spy.t].sqrt()
    implied = (spy.x_t / signal.reshape(-1, 1, 1, 1, 1)).clamp(-1, 1)  # the network said: no noise
    kept = ~spy.dropped
    assert 0 < int(kept.sum()) < 8
    gaps = histogram_loss(implied, batch["lesions"], batch["histogram"]) * signal * kept
    assert float(gaps.sum()) > 0.1
    assert float(weighted) == pytest.approx(float(plain) + weight * float(gaps.sum()) / 8, rel=1e-4)


def test_a_perfect_network_pays_nothing_for_histograms_either():
    batch = true_histograms(make_batch(range(6), size=(3, 8, 8)))
    loss_fn = LesionLoss(SCHEDULE, 0, "l1", "lesion", histogram_weight=1.0)
    wrong = batch | {"histogram": torch.eye(BINS)[0].repeat(6, 2)}
    assert float(loss_fn(Perfect(batch["image"]), batch)) < 0.02
    assert float(loss_fn(Perfect(batch["image"]), wrong)) > 0.2


def test_the_histogram_loss_reaches_the_network():
    """Its gradient is what the plain loss's lacks: towards more noise where the lesion should be darker."""
    batch = make_batch(range(6), size=(3, 8, 8))
    batch["image"] = batch["image"] / 4  # so that x_0 stays within [-1, 1]
    batch["histogram"] = torch.eye(BINS)[1].repeat(6, 2)
    gradients = []
    for weight in (0.0, 1.0):
        network = Perfect(batch["image"])
        network.offset = nn.Parameter(torch.zeros(6, 2, 3, 8, 8))
        LesionLoss(SCHEDULE, 0, "l2", histogram_weight=weight)(network, batch).backward()
        gradients.append(network.offset.grad)
    added = gradients[1] - gradients[0]
    assert not bool(added[~batch["lesions"]].any())
    assert float(added[batch["lesions"]].max()) <= 1e-6  # more noise: a darker lesion: a lower loss
    assert float(added[batch["lesions"]].min()) < -1e-4


class PerfectVelocity(Perfect):
    """Knows the image; sees the clean context and answers with the velocity."""

    def forward(self, seen, t, cond, dropped):
        self.seen, x_t = seen, seen[:, :2]
        signal, spread = (v.float().reshape(-1, 1, 1, 1, 1) for v in SCHEDULE.signal_and_noise(t))
        noise = super().forward(x_t, t, cond, dropped)
        return signal * noise - spread * self.image


def test_the_denoiser_says_what_the_network_sees_and_predicts():
    batch = make_batch(range(6))
    loss_fn = LesionLoss(SCHEDULE, 0, "l1", "lesion", denoiser=Denoiser("clean", "velocity"))
    network = PerfectVelocity(batch["image"])
    assert float(loss_fn(network, batch)) == pytest.approx(0, abs=1e-4)
    inside = batch["lesions"].any(dim=1, keepdim=True)
    assert network.seen.shape[1] == 5
    assert torch.equal(network.seen[:, 2:3], batch["image"].masked_fill(inside, 0))
    assert float(LesionLoss(SCHEDULE, 0, "l1", "lesion")(Perfect(batch["image"], 1.0), batch)) > 1
    assert torch.equal(network.seen[:, :2], shown(range(6))[0])  # the same draws as without context
