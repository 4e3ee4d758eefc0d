"""What a network is shown and what its output means, against networks whose answer is known."""

import pytest
import torch
from torch import nn

from LeFusion.diffusion import NoiseSchedule
from LeFusion.diffusion.denoiser import Denoiser

SCHEDULE = NoiseSchedule.cosine(300)
LEVELS = torch.tensor([0, 40, 150, 260, 299])


class Answer(nn.Module):
    """Answers with what it was made with, and keeps what it was shown."""

    def __init__(self, output):
        super().__init__()
        self.output = output

    def forward(self, x, t, condition, dropped):
        self.seen, self.t, self.condition, self.dropped = x.clone(), t, condition, dropped
        return self.output


@pytest.fixture
def problem():
    """Five samples at five levels, two lesion classes: x_0, noise, and what `Denoiser.noise` is given."""
    generator = torch.Generator().manual_seed(0)
    size = (3, 6, 7)
    image = torch.rand(5, 1, *size, generator=generator) * 2 - 1
    noise = torch.randn(5, 2, *size, generator=generator)
    lesions = torch.zeros(5, 2, *size, dtype=torch.bool)
    lesions[:, 0, 1:, 1:4, 1:3] = lesions[:, 1, :2, 2:5, 4:6] = True
    x_0 = image.expand(-1, 2, -1, -1, -1)
    given = {
        "x_t": SCHEDULE.q_sample(x_0, LEVELS, noise),
        "t": LEVELS,
        "condition": torch.rand(5, 32, generator=generator),
        "image": image,
        "lesions": lesions,
        "schedule": SCHEDULE,
    }
    return x_0, noise, given


def deviations():
    return (v.float().reshape(-1, 1, 1, 1, 1) for v in SCHEDULE.signal_and_noise(LEVELS))


def test_the_paper_is_the_default(problem):
    _, noise, given = problem
    network = Answer(noise)
    assert torch.equal(Denoiser().noise(network, **given), noise)
    assert torch.equal(network.seen, given["x_t"]) and torch.equal(network.t, LEVELS)
    assert network.condition is given["condition"] and network.dropped is None
    dropped = torch.tensor([True, False, True, False, False])
    Denoiser("clean").noise(network, **given, dropped=dropped)
    assert network.condition is given["condition"] and network.dropped is dropped
    assert Denoiser() == Denoiser("noised", "noise")


@pytest.mark.parametrize("context", ["noised", "clean"])
def test_the_true_velocity_gives_the_true_noise(problem, context):
    x_0, noise, given = problem
    signal, spread = deviations()
    network = Answer(signal * noise - spread * x_0)
    found = Denoiser(context, "velocity").noise(network, **given)
    assert torch.allclose(found, noise, atol=1e-5)
    # and so any velocity implies the x_0 that it should: signal x_t - spread v
    network = Answer(torch.randn(noise.shape, generator=torch.Generator().manual_seed(1)))
    found = Denoiser(context, "velocity").noise(network, **given)
    implied = (given["x_t"] - spread * found)[1:4] / signal[1:4]
    assert torch.allclose(implied, (signal * given["x_t"] - spread * network.output)[1:4], atol=1e-4)


@pytest.mark.parametrize("prediction", ["noise", "velocity"])
def test_noise_is_float32_whatever_the_network_computes_in(problem, prediction):
    _, noise, given = problem
    exact = Denoiser("noised", prediction).noise(Answer(noise), **given)
    found = Denoiser("noised", prediction).noise(Answer(noise.bfloat16()), **given)
    assert found.dtype == torch.float32 and torch.allclose(found, exact, atol=0.02)


def test_input_channels():
    assert [Denoiser().in_channels(classes) for classes in (1, 2, 3)] == [1, 2, 3]
    assert [Denoiser("clean").in_channels(classes) for classes in (1, 2, 3)] == [3, 5, 7]
    assert Denoiser("clean", "velocity").in_channels(2) == 5


def test_clean_context_shows_the_surroundings_and_where_the_lesions_are(problem):
    _, noise, given = problem
    network = Answer(noise)
    Denoiser("clean").noise(network, **given)
    assert network.seen.shape[1] == Denoiser("clean").in_channels(2)
    x_t, surroundings, masks = network.seen.split((2, 1, 2), dim=1)
    inside = given["lesions"].any(dim=1, keepdim=True)
    assert torch.equal(x_t, given["x_t"]) and torch.equal(masks, given["lesions"].float())
    assert torch.equal(surroundings[~inside], given["image"][~inside])
    assert not bool(surroundings[inside].any())


def test_clean_context_shows_the_label_and_blanks_all_that_is_painted(problem):
    _, noise, given = problem
    network, edit = Answer(noise), given["lesions"].clone()
    edit[:, 0, :, :5, :4] = True
    Denoiser("clean").noise(network, **given, edit=edit)
    _, surroundings, masks = network.seen.split((2, 1, 2), dim=1)
    painted = edit.any(dim=1, keepdim=True)
    assert torch.equal(masks, given["lesions"].float()) and not torch.equal(edit, given["lesions"])
    assert torch.equal(surroundings[~painted], given["image"][~painted])
    assert not bool(surroundings[painted].any())


@pytest.mark.parametrize("prediction", ["noise", "velocity"])
@pytest.mark.parametrize("context", ["noised", "clean"])
def test_the_clean_image_inside_a_lesion_never_reaches_the_network(problem, context, prediction):
    _, noise, given = problem
    denoiser, network = Denoiser(context, prediction), Answer(noise)
    first, shown = denoiser.noise(network, **given), network.seen
    inside = given["lesions"].any(dim=1, keepdim=True)
    before = given["image"].clone()
    other = given["image"].masked_fill(inside, torch.nan)
    assert torch.equal(denoiser.noise(network, **(given | {"image": other})), first)
    assert torch.equal(network.seen, shown)
    assert torch.equal(given["image"], before)
    if context == "clean":  # whereas a change outside does
        denoiser.noise(network, **(given | {"image": before.masked_fill(~inside, 0.5)}))
        assert not torch.equal(network.seen, shown)


def test_a_checkpoint_says_how_it_was_trained():
    assert Denoiser.of({}) == Denoiser.of({"step": 3}) == Denoiser()
    for context in ("noised", "clean"):
        for prediction in ("noise", "velocity"):
            metadata = {"context": context, "prediction": prediction, "step": 3}
            assert Denoiser.of(metadata) == Denoiser(context, prediction)
    assert Denoiser.of({"context": "clean"}) == Denoiser("clean", "noise")


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"context": "both"}, "context='both' must be one of noised, clean"),
        ({"prediction": "x_0"}, "prediction='x_0' must be one of noise, velocity"),
        ({"prediction": None}, "prediction=None must be"),
    ],
)
def test_other_ways_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        Denoiser(**wrong)
    with pytest.raises(ValueError, match=message):
        Denoiser.of(wrong)
