"""Intensity guidance: lesions, or their layers, get the intensities asked for; nothing else changes."""

from dataclasses import replace

import pytest
import torch

from LeFusion.diffusion import NoiseSchedule
from LeFusion.guidance import (
    GUIDED_SIGNAL,
    Guide,
    guide_intensity,
)
from LeFusion.ordering import ordered
from LeFusion.textures.layers import depth_below_border, layers_of, rim_layers_of
from LeFusion.textures.look import Look

SCHEDULE = NoiseSchedule.cosine(300)


def guided_noise(noisy, **options):
    given = dict(noisy)
    guide = Guide.whole(given.pop("lesions"), given.pop("histogram"))
    return guide_intensity(guide=guide, **given, **options)


@pytest.fixture(scope="module")
def noisy() -> dict:
    """Predicted noise in x_t, two samples of two classes: what guide_intensity takes.

    The second sample lacks the second class. Shares are whole numbers of the 32 and 16 voxels.
    """
    generator = torch.Generator().manual_seed(0)
    x_t, noise = (torch.randn(2, 2, 4, 8, 8, generator=generator) for _ in range(2))
    lesions = torch.zeros(2, 2, 4, 8, 8, dtype=torch.bool)
    lesions[:, 0, 1:3, 1:5, 2:6] = True
    lesions[0, 1, 1:3, 5:7, 3:7] = True
    histogram = torch.zeros(2, 2, 16)
    histogram[0, 0, [3, 4, 12]] = torch.tensor([0.25, 0.5, 0.25])
    histogram[1, 0, 9:13] = 0.25
    histogram[:, 1, [0, 15]] = torch.tensor([0.125, 0.875])
    t = torch.tensor([250, 200])
    return {
        "noise": noise,
        "x_t": x_t,
        "t": t,
        "lesions": lesions,
        "histogram": histogram.flatten(1),
        "schedule": SCHEDULE,
    }


def implied(noisy, noise):
    return SCHEDULE.predict_x0(noisy["x_t"], noisy["t"], noise)


def test_guided_noise_implies_exactly_the_histogram_asked_for(noisy):
    x_0 = implied(noisy, guided_noise(noisy))
    wanted = noisy["histogram"].unflatten(1, (2, 16))
    for sample, k in ((0, 0), (0, 1), (1, 0)):
        inside = x_0[sample, k][noisy["lesions"][sample, k]]
        assert torch.equal(torch.histc(inside, 16, -1, 1) / len(inside), wanted[sample, k])


def test_guidance_keeps_the_order_of_the_voxels(noisy):
    before, after = implied(noisy, noisy["noise"]), implied(noisy, guided_noise(noisy))
    for sample, k in ((0, 0), (0, 1), (1, 0)):
        lesion = noisy["lesions"][sample, k]
        order = before[sample, k][lesion].argsort(stable=True)
        assert bool((after[sample, k][lesion][order].diff() > 0).all())


@pytest.mark.parametrize("bright", [1, -1])
def test_voxels_beyond_the_clamp_are_ranked_by_their_value_not_their_place(noisy, bright):
    """At the noisiest level nearly all of x_0 lies beyond: taken by place, depth explains the intensities."""
    generator = torch.Generator().manual_seed(5)
    x_t = torch.randn(1, 1, 16, 12, 12, generator=generator).double() + 3 * bright
    lesions = torch.ones(1, 1, 16, 12, 12, dtype=torch.bool)
    t, noise = torch.tensor([299]), torch.randn(x_t.shape, generator=generator).double()
    histogram = torch.full((1, 16), 1 / 16)
    before = SCHEDULE.predict_x0(x_t, t, noise)
    assert float((before.abs() > 1).float().mean()) > 0.95
    after = SCHEDULE.predict_x0(
        x_t, t, guide_intensity(noise, x_t, t, Guide.whole(lesions, histogram), SCHEDULE)
    )
    depth = torch.arange(16.0).double().reshape(16, 1, 1).expand(16, 12, 12).flatten()
    assert abs(float(torch.corrcoef(torch.stack([depth, after.flatten()]))[0, 1])) < 0.05
    assert bool((after.flatten()[before.flatten().argsort()].diff() > 0).all())


def test_guidance_acts_inside_lesions_only_and_changes_nothing_it_was_given(noisy):
    before = {name: value.clone() for name, value in noisy.items() if torch.is_tensor(value)}
    guided = guided_noise(noisy)
    assert torch.equal(guided[~noisy["lesions"]], noisy["noise"][~noisy["lesions"]])
    assert float((guided[noisy["lesions"]] != noisy["noise"][noisy["lesions"]]).float().mean()) > 0.9
    assert all(torch.equal(noisy[name], value) for name, value in before.items())


def test_guidance_acts_where_signal_is_below_its_limit(noisy):
    first, second = SCHEDULE.alphas_cumprod[noisy["t"]].tolist()
    assert first < second
    guided = guided_noise(noisy)
    between = guided_noise(noisy, max_signal=(first + second) / 2)
    assert torch.equal(between[0], guided[0]) and torch.equal(between[1], noisy["noise"][1])
    assert torch.equal(guided_noise(noisy, max_signal=first / 2), noisy["noise"])


def test_strength_is_how_far_intensities_move(noisy):
    """x_0 beyond [-1, 1] counts as its end, as in every sampler."""
    none, half, full = (implied(noisy, guided_noise(noisy, strength=s)) for s in (0.0, 0.5, 1.0))
    lesions = noisy["lesions"]
    assert torch.allclose(none[lesions], implied(noisy, noisy["noise"]).clamp(-1, 1)[lesions], atol=1e-5)
    assert torch.allclose(half[lesions], ((none + full) / 2)[lesions], atol=1e-5)
    small = noisy | {"x_t": noisy["x_t"] / 50, "noise": noisy["noise"] / 50}  # well within [-1, 1]
    assert torch.allclose(guided_noise(small, strength=0.0), small["noise"], atol=1e-6)


def test_guidance_of_one_class_or_sample_leaves_the_others_alone(noisy):
    guided = guided_noise(noisy)
    other = noisy["histogram"].clone()
    other[:, 16:] = torch.eye(16)[5]
    changed = guided_noise(noisy | {"histogram": other})
    assert torch.equal(changed[:, 0], guided[:, 0])
    assert not torch.equal(changed[0, 1], guided[0, 1])
    for rows in ([1], [1, 0]):
        some = {name: value[rows] if torch.is_tensor(value) else value for name, value in noisy.items()}
        assert torch.equal(guided_noise(some), guided[rows])


def test_classes_without_voxels_or_histogram_are_not_guided(noisy):
    guided = guided_noise(noisy)
    assert torch.equal(guided[1, 1], noisy["noise"][1, 1])  # no voxels
    histogram = noisy["histogram"].clone()
    histogram[0, :16] = 0
    guided = guided_noise(noisy | {"histogram": histogram})
    assert torch.equal(guided[0, 0], noisy["noise"][0, 0])
    assert not torch.equal(guided[0, 1], noisy["noise"][0, 1])


def ball(size=16, radius=6.5):
    place = torch.stack(torch.meshgrid(*[torch.arange(size) - (size - 1) / 2] * 3, indexing="ij"))
    return place.square().sum(dim=0).sqrt() <= radius


@pytest.fixture(scope="module")
def layered() -> dict:
    """A ball whose rim is to be dark and whose inside bright."""
    generator = torch.Generator().manual_seed(2)
    x_t, noise = (torch.randn(1, 1, 16, 16, 16, generator=generator) for _ in range(2))
    lesion = ball()
    layers = torch.zeros(1, 3, 16)
    layers[0, 0, 2], layers[0, 1, 8], layers[0, 2, 13] = 0.3, 0.3, 0.4
    look = Look(layers.sum(dim=1).flatten(), layers, (1.0, 3.0))
    guide = Guide.of(lesion[None], look.histogram[None], look, (1, 1, 1))
    return {"noise": noise, "x_t": x_t, "t": torch.tensor([150]), "guide": guide, "schedule": SCHEDULE}


def test_each_layer_gets_its_own_intensities(layered):
    x_0 = implied(layered, guide_intensity(**layered))[0, 0]
    layers = layers_of(ball(), (1, 1, 1), (1.0, 3.0))
    for layer, bin_ in enumerate((2, 8, 13)):
        inside = x_0[layers == layer]
        low = -1 + bin_ / 8
        assert len(inside) > 50 and bool(((inside >= low) & (inside <= low + 1 / 8)).all())
    outside = layered["guide"].layers[0, 0] < 0
    assert torch.equal(outside, ~ball())
    assert torch.equal(guide_intensity(**layered)[0, 0][outside], layered["noise"][0, 0][outside])


def test_a_layer_without_histogram_is_left_alone(layered):
    (histograms,) = (given.clone() for given in layered["guide"].histograms)
    histograms[:, 1] = 0
    guided = guide_intensity(
        **(layered | {"guide": Guide(layered["guide"].layers, (histograms,), (None,), (None,))})
    )
    changed = guided[0, 0] != layered["noise"][0, 0]
    layers = layers_of(ball(), (1, 1, 1), (1.0, 3.0))
    assert not bool(changed[layers == 1].any()) and bool(changed[layers == 2].all())


def test_what_is_painted_around_a_lesion_gets_the_intensities_around_a_real_one(layered):
    """Where they are known, and not in the rest of the rim."""
    inner, outer = layered["guide"].histograms[0], torch.zeros(5, 16)
    outer[0, 4] = outer[1, 1] = 1
    look = Look(inner.sum(dim=1).flatten(), inner, (1.0, 3.0), rim=outer)
    rim = ball(radius=9.0) & ~ball()
    rim[:8] = False
    given = (ball()[None], look.histogram[None], look, (1, 1, 1))
    with_rim, without = Guide.of(*given, rim=rim[None]), Guide.of(*given)
    assert torch.equal(with_rim.layers >= 0, (ball() | rim)[None, None])
    assert torch.equal(without.layers, layered["guide"].layers)
    x_0 = implied(layered, guide_intensity(**(layered | {"guide": with_rim})))[0, 0]
    around = rim_layers_of(depth_below_border(ball(), (1, 1, 1)), rim)
    for layer, low in ((0, -0.5), (1, -0.875)):
        found = x_0[around == layer]
        assert len(found) > 50 and bool(((found >= low) & (found <= low + 1 / 8)).all())
    changed = guide_intensity(**(layered | {"guide": with_rim}))[0, 0] != layered["noise"][0, 0]
    assert not bool(changed[around == 2].any()) and bool((around == 2).any())
    unknown = replace(look, rim=None)
    assert torch.equal(Guide.of(given[0], given[1], unknown, (1, 1, 1), rim=rim[None]).layers, without.layers)


def test_the_scan_s_vessels_are_the_brightest_around_a_lesion(layered):
    """They are not guided, and the others get what is left of the histogram."""
    inner, outer = layered["guide"].histograms[0], torch.zeros(5, 16)
    outer[:2, 1], outer[:2, 12] = 0.5, 0.5
    look = Look(inner.sum(dim=1).flatten(), inner, (1.0, 3.0), rim=outer)
    rim = ball(radius=9.0) & ~ball()
    around = rim_layers_of(depth_below_border(ball(), (1, 1, 1)), rim)
    vessels = torch.zeros_like(rim)
    vessels[:, :, 8:] = True  # half of the rim
    given = (ball()[None], look.histogram[None], look, (1, 1, 1))
    guide = Guide.of(*given, rim=rim[None], vessels=vessels)
    assert torch.equal(guide.layers[0, 0] >= 0, ball() | (rim & ~vessels))
    x_0 = implied(layered, guide_intensity(**(layered | {"guide": guide})))[0, 0]
    assert float(x_0[(around == 0) & ~vessels].max()) <= -0.75
    without = Guide.of(*given, rim=rim[None])
    x_0 = implied(layered, guide_intensity(**(layered | {"guide": without})))[0, 0]
    assert float((x_0[around == 0] > 0.4).float().mean()) == pytest.approx(0.5, abs=0.01)
    assert torch.equal(Guide.of(*given, vessels=vessels).layers, Guide.of(*given).layers)


def test_layers_are_guided_to_the_end_and_whole_lesions_are_not(layered):
    assert float(SCHEDULE.alphas_cumprod[0]) > GUIDED_SIGNAL
    late = layered | {"t": torch.tensor([0])}
    assert not torch.equal(guide_intensity(**late), layered["noise"])
    whole = Guide.whole(ball()[None, None], layered["guide"].histograms[0].sum(dim=1).flatten()[None])
    assert torch.equal(guide_intensity(**(late | {"guide": whole})), layered["noise"])


def test_a_batch_of_layered_and_whole_lesions_is_that_of_each_alone(layered):
    whole = Guide.whole(ball()[None, None], layered["guide"].histograms[0].sum(dim=1).flatten()[None])
    both = Guide.stack([layered["guide"], whole])
    twice = {name: torch.cat([layered[name]] * 2) for name in ("noise", "x_t", "t")}
    guided = guide_intensity(**twice, guide=both, schedule=SCHEDULE)
    for row, guide in enumerate((layered["guide"], whole)):
        assert torch.equal(guided[row : row + 1], guide_intensity(**(layered | {"guide": guide})))
        assert torch.equal(both.rows(slice(row, row + 1)).layers, guide.layers)


def test_where_the_noise_of_the_scan_is_known_voxels_are_ranked_by_the_order(layered):
    """Each layer keeps its intensities, in the order of LeFusion.ordering, rays and all."""
    inner, outer = layered["guide"].histograms[0], torch.full((5, 16), 1 / 16)
    look = Look(inner.sum(dim=1).flatten(), inner, (1.0, 3.0), grain=(0.1, 1.0, 2.0, 2.0), rim=outer)
    rim = ball(radius=9.0) & ~ball()
    guide = Guide.of(ball()[None], look.histogram[None], look, (1, 1, 1), rim=rim[None])
    given = layered | {"guide": guide}
    plain = layered | {"guide": replace(guide, grain=(None,))}
    found, network = (implied(one, guide_intensity(**one))[0, 0] for one in (given, plain))
    order = ordered(implied(layered, layered["noise"])[0, 0], guide.targets(0, 0), look.grain, guide.rays[0])
    for voxels, _ in guide.targets(0, 0):
        assert torch.allclose(found[voxels].sort().values, network[voxels].sort().values, atol=1e-4)
        by_order = found[voxels][order[voxels].argsort()]
        assert bool((by_order.diff() > -1e-4).all()) and not torch.allclose(found[voxels], network[voxels])
    assert guide.rays[0] is not None and not torch.equal(
        order, ordered(implied(layered, layered["noise"])[0, 0], guide.targets(0, 0), look.grain)
    )
