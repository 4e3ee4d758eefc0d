"""What weights say about how they are to be used."""

import pytest

from LeFusion.data_types import default_settings
from LeFusion.diffusion import NoiseSchedule
from LeFusion.settings import InferenceSettings
from LeFusion.weights import sampler_settings


@pytest.mark.parametrize(
    "given, metadata, calls", [("auto", {}, 10), ("auto", {"num_steps": 3}, 3), (5, {"num_steps": 3}, 5)]
)
def test_weights_say_how_many_calls_they_need(given, metadata, calls):
    settings = InferenceSettings.of(default_settings("lidc", "ddim", num_steps=given))
    assert sampler_settings(settings, metadata).network_calls(NoiseSchedule.cosine(300)) == calls


def test_the_paper_s_walk_has_all_levels_whatever_the_weights_say():
    settings = InferenceSettings.of(default_settings("lidc", "repaint"))
    assert sampler_settings(settings, {"num_steps": 3}).num_steps is None
