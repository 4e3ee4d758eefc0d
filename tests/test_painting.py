"""Painting with a tiny network: the batch changes nothing, the background is the input, costs are as told."""

import pytest
import torch

from LeFusion.diffusion import NoiseSchedule, UNet3D
from LeFusion.diffusion.denoiser import Denoiser
from LeFusion.errors import UserError
from LeFusion.painting import SamplerSettings, paint

SCHEDULE = NoiseSchedule.cosine(300)
CALLS = [
    SamplerSettings("repaint", num_steps=5, jump_length=2, jump_n_sample=2),
    SamplerSettings("ddim", num_steps=5),
    SamplerSettings("dpmpp", num_steps=6, jump_length=2, jump_n_sample=2),
    SamplerSettings("dpmpp", num_steps=4, guidance_scale=2.0),
    SamplerSettings("ddim", num_steps=4, eta=0.7, spacing="quadratic"),
]
IDS = ["repaint", "ddim", "dpmpp", "guided", "ddim-eta"]
each_setting = pytest.mark.parametrize("settings", CALLS, ids=IDS)


@pytest.fixture(scope="module")
def network() -> UNet3D:
    torch.manual_seed(0)
    sizes = {"dim_mults": (1, 2), "attn_heads": 2, "attn_dim_head": 8}
    return UNet3D(dim=8, in_channels=2, cond_dim=32, **sizes).eval()


@pytest.fixture(scope="module")
def batch() -> dict:
    """Four cases with images, lesions of two classes and histograms of their own."""
    generator = torch.Generator().manual_seed(1)
    lesions = torch.zeros(4, 2, 3, 10, 14, dtype=torch.bool)
    for i in range(4):
        lesions[i, 0, 1:, 1 + i : 5 + i, 2:6] = lesions[i, 1, :2, 2:8, 7 + i : 10 + i] = True
    return {
        "image": torch.rand(4, 1, 3, 10, 14, generator=generator) * 2 - 1,
        "lesions": lesions,
        "histogram": torch.rand(4, 32, generator=generator) / 8,
        "addresses": [(0, f"case {i}", 1) for i in range(4)],
    }


def part(batch, rows):
    return {name: value[rows] for name, value in batch.items()}


@each_setting
def test_a_batch_of_four_is_four_batches_of_one(network, batch, settings):
    together = paint(network, SCHEDULE, settings, **batch)
    for i in range(4):
        alone = paint(network, SCHEDULE, settings, **part(batch, slice(i, i + 1)))
        assert torch.equal(alone[0], together[i])


@each_setting
def test_painted_inside_and_the_input_outside(network, batch, settings):
    before = {name: value.clone() for name, value in batch.items() if torch.is_tensor(value)}
    image = paint(network, SCHEDULE, settings, **batch)
    inside = batch["lesions"].any(dim=1, keepdim=True)
    assert image.shape == batch["image"].shape and image.dtype == torch.float32 and not image.requires_grad
    assert torch.equal(image[~inside], batch["image"][~inside])
    assert float((image[inside] != batch["image"][inside]).float().mean()) > 0.99
    assert float(image[inside].abs().max()) <= 1
    assert all(torch.equal(batch[name], value) for name, value in before.items())


def test_the_same_address_paints_the_same_and_another_one_does_not(network, batch):
    settings = SamplerSettings("ddim", num_steps=3)
    first = paint(network, SCHEDULE, settings, **batch)
    torch.manual_seed(123)
    assert torch.equal(paint(network, SCHEDULE, settings, **batch), first)
    other = paint(network, SCHEDULE, settings, **(batch | {"addresses": [(1, i) for i in range(4)]}))
    assert not torch.equal(other, first)


@each_setting
def test_network_calls_are_counted_truly(network, batch, settings):
    calls = []
    hook = network.register_forward_hook(lambda *_: calls.append(1))
    try:
        paint(network, SCHEDULE, settings, **part(batch, slice(0, 1)))
    finally:
        hook.remove()
    assert len(calls) == settings.network_calls(SCHEDULE)


def test_network_calls_by_hand():
    assert SamplerSettings().network_calls(SCHEDULE) == 300
    assert SamplerSettings("ddim", num_steps=50, guidance_scale=2).network_calls(SCHEDULE) == 100
    # down through 5 levels; once more through two of them at level 2 and again at level 0
    assert SamplerSettings(num_steps=5, jump_length=2, jump_n_sample=2).network_calls(SCHEDULE) == 9


def test_a_walk_over_all_levels_is_the_default():
    assert SamplerSettings().walk(SCHEDULE) == list(range(299, -2, -1))
    assert SamplerSettings(num_steps=3).walk(NoiseSchedule.cosine(11)) == [10, 5, 0, -1]


def inside(image, batch):
    return image[batch["lesions"].any(dim=1, keepdim=True)]


def test_guidance_moves_from_no_condition_to_the_condition_and_beyond(network, batch):
    settings = {
        scale: SamplerSettings("ddim", num_steps=3, guidance_scale=scale) for scale in (0.0, 1.0, 1.0001, 2.0)
    }
    painted = {scale: inside(paint(network, SCHEDULE, s, **batch), batch) for scale, s in settings.items()}
    without = paint(network, SCHEDULE, settings[1.0], **(batch | {"histogram": None}))
    assert torch.allclose(painted[0.0], inside(without, batch), atol=1e-5)
    assert not torch.allclose(painted[1.0], painted[0.0], atol=1e-3)
    assert torch.allclose(painted[1.0001], painted[1.0], atol=1e-3)
    assert not torch.allclose(painted[2.0], painted[1.0], atol=1e-3)


def test_guidance_is_the_formula(network, batch):
    """One step from level t to the clean image: x_0 = (x_t - noise level * guided noise) / signal."""
    one = part(batch, slice(0, 1))
    settings = SamplerSettings("ddim", num_steps=1, guidance_scale=3.0)
    schedule = NoiseSchedule(torch.tensor([0.2, 0.2]))  # with enough signal for x_0 to lie within [-1, 1]
    x_ts, noises = [], []

    def keep(_, inputs, output):
        x_ts.append(inputs[0])
        noises.append(output)

    hook = network.register_forward_hook(keep)
    try:
        painted = paint(network, schedule, settings, **one)
    finally:
        hook.remove()
    (conditional, unconditional), t = noises, torch.tensor([1])
    assert torch.equal(x_ts[0], x_ts[1])
    guided = unconditional + 3 * (conditional - unconditional)
    x_0 = schedule.predict_x0(x_ts[0], t, guided).clamp(-1, 1)
    assert float((x_0[one["lesions"]].abs() < 1).float().mean()) > 0.3
    for k in range(2):
        lesion = one["lesions"][:, k]
        assert torch.allclose(painted[:, 0][lesion], x_0[:, k][lesion], atol=1e-5)


def test_a_network_without_condition(batch):
    torch.manual_seed(0)
    network = UNet3D(8, 2, dim_mults=(1, 2), attn_heads=2, attn_dim_head=8).eval()
    settings = SamplerSettings("ddim", num_steps=2)
    image = paint(network, SCHEDULE, settings, **(batch | {"histogram": None}))
    assert image.shape == batch["image"].shape and bool(image.isfinite().all())


def test_unknown_samplers_are_refused():
    with pytest.raises(ValueError, match="sampler 'euler' is unknown; choose one of repaint, ddim, dpmpp"):
        SamplerSettings("euler")


@pytest.mark.parametrize(
    "bad, message",
    [
        ({"num_steps": 301}, r"num_steps=301 must be in 1..300"),
        ({"num_steps": -1}, r"num_steps=-1 must be in 1..300"),
        ({"num_steps": 0}, r"num_steps=0 must be in 1..300"),
        ({"jump_length": 0}, "jump_length=0"),
    ],
)
def test_impossible_walks_are_refused(bad, message):
    with pytest.raises(ValueError, match=message):
        SamplerSettings(**bad).walk(SCHEDULE)


def test_as_many_addresses_as_samples(network, batch):
    with pytest.raises(ValueError, match="3 addresses for a batch of 4"):
        paint(network, SCHEDULE, CALLS[1], **(batch | {"addresses": [(i,) for i in range(3)]}))


@pytest.fixture(scope="module")
def informed() -> UNet3D:
    """A network for the clean context: x_t, surroundings and masks of two classes."""
    torch.manual_seed(0)
    sizes = {"dim_mults": (1, 2), "attn_heads": 2, "attn_dim_head": 8}
    return UNet3D(dim=8, in_channels=5, out_channels=2, cond_dim=32, **sizes).eval()


@pytest.mark.parametrize("settings", CALLS[1:3], ids=IDS[1:3])
def test_clean_context_and_velocity_change_neither_background_nor_batch(informed, batch, settings):
    denoiser = Denoiser("clean", "velocity")
    batch = part(batch, slice(1, 3))
    together = paint(informed, SCHEDULE, settings, **batch, denoiser=denoiser)
    inside = batch["lesions"].any(dim=1, keepdim=True)
    assert torch.equal(together[~inside], batch["image"][~inside])
    assert bool(together.isfinite().all()) and float(together[inside].abs().max()) <= 1
    alone = paint(informed, SCHEDULE, settings, **part(batch, slice(1, 2)), denoiser=denoiser)
    assert torch.equal(alone[0], together[1])


@pytest.mark.parametrize("context", ["noised", "clean"])
def test_what_was_in_the_image_under_a_lesion_does_not_matter(network, informed, batch, context):
    used = informed if context == "clean" else network
    settings, denoiser, batch = (
        SamplerSettings("ddim", num_steps=2),
        Denoiser(context),
        part(batch, slice(0, 2)),
    )
    first = paint(used, SCHEDULE, settings, **batch, denoiser=denoiser)
    inside = batch["lesions"].any(dim=1, keepdim=True)
    other = batch | {"image": batch["image"].masked_fill(inside, 0.77)}
    assert torch.equal(paint(used, SCHEDULE, settings, **other, denoiser=denoiser), first)


def test_nan_in_a_histogram_is_refused_with_its_address(network, batch):
    histogram = batch["histogram"].clone()
    histogram[2, 5] = torch.nan
    with pytest.raises(UserError, match="case 2.*holds NaN"):
        paint(network, SCHEDULE, CALLS[1], **(batch | {"histogram": histogram}))


def test_guided_painting_follows_its_histogram(network, batch):
    painted, batch = {}, part(batch, slice(0, 1))
    for name, bin_ in (("dark", 2), ("bright", 13)):
        given = batch | {"histogram": torch.eye(16)[bin_].repeat(1, 2)}
        for guidance in (0.0, 1.0):
            settings = SamplerSettings("ddim", num_steps=5, intensity_guidance=guidance)
            painted[name, guidance] = paint(network, SCHEDULE, settings, **given)
    lesions = batch["lesions"].any(dim=1)
    apart = {g: (painted["bright", g] - painted["dark", g])[:, 0][lesions].mean() for g in (0.0, 1.0)}
    assert float(apart[1.0]) > 0.8 and float(apart[1.0]) > 2 * abs(float(apart[0.0]))
    for image in painted.values():
        assert torch.equal(image[:, 0][~lesions], batch["image"][:, 0][~lesions])


def test_intensity_guidance_acts_until_the_signal_that_the_weights_say(network, batch):
    none, never, early, late = (
        paint(network, SCHEDULE, SamplerSettings("ddim", num_steps=5, **options), **batch)
        for options in (
            {},
            {"intensity_guidance": 1.0, "guided_signal": 1e-9},
            {"intensity_guidance": 1.0, "guided_signal": 0.5},
            {"intensity_guidance": 1.0, "guided_signal": 1.0},
        )
    )
    assert torch.equal(none, never) and not torch.equal(none, early) and not torch.equal(early, late)


def test_intensity_guidance_outside_0_to_1_is_refused():
    with pytest.raises(ValueError, match="intensity_guidance"):
        SamplerSettings(intensity_guidance=1.5)


def test_spacing_and_eta_reach_the_sampler(network, batch):
    def painted(**options):
        return paint(network, SCHEDULE, SamplerSettings("ddim", 4, **options), **batch)

    plain = painted()
    for options in ({"eta": 0.5}, {"spacing": "trailing"}, {"spacing": "quadratic"}):
        assert not torch.equal(painted(**options), plain), options
    assert SamplerSettings("ddim", 4, spacing="trailing").walk(SCHEDULE) == [299, 224, 149, 74, -1]


@pytest.mark.parametrize(
    "wrong, text",
    [
        ({"eta": 1.5}, "eta=1.5 must be in 0 to 1"),
        ({"name": "dpmpp", "eta": 0.5}, "eta=0.5 is for sampler=ddim; dpmpp has none"),
        ({"spacing": "log"}, "spacing='log' must be one of even, trailing, quadratic"),
    ],
)
def test_options_that_a_sampler_lacks_are_refused(wrong, text):
    with pytest.raises(ValueError, match=text):
        SamplerSettings(**{"name": "ddim"} | wrong)
