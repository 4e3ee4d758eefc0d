"""A misspelt key or name is one line that says which may be meant."""

import pytest
from hydra.errors import ConfigCompositionException

from LeFusion.inference import inference
from LeFusion.runtime.misspelt import in_one_line


@pytest.mark.parametrize(
    "override, said",
    [
        ("datset_root_dir=x", "there is no key datset_root_dir; did you mean dataset_root_dir? --help"),
        ("layout.lesion_label=[3]", "did you mean layout.lesion_labels?"),
        ("xyzzy=1", "error: xyzzy=1: there is no key xyzzy; --help lists all keys"),
        ("sampler=dim", "there is no sampler=dim; choose one of ddim, dpmpp, repaint"),
        ("data_type=lidcc", "there is no data_type=lidcc; choose one of chest_ct, custom, emidec, lidc"),
    ],
)
def test_a_command_says_it(override, said, monkeypatch, command_line):
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    code, _, error = command_line(inference.main, override)
    assert code == 1 and error.count("\n") == 1
    assert error.startswith("error: ") and said in error


def test_a_key_of_another_command_is_not_offered_again():
    text = "Could not override 'sampler'.\nTo append to your config use +sampler=euler"
    said = in_one_line(ConfigCompositionException(text))
    assert said == "sampler=euler: there is no key sampler; did you mean mask_sampler? --help lists all keys"


def test_another_error_of_hydra_s_is_joined():
    assert in_one_line(ConfigCompositionException("In 'a':\n  this and\n\nthat")) == "In 'a': this and that"
