"""--help: the comments of a configuration, the values that it would have, and nothing about Hydra."""

import re

import pytest
from omegaconf import OmegaConf

import DiffMask.inference.inference
import DiffMask.train.train
import LeFusion.inference.fit_textures
import LeFusion.inference.inference
import LeFusion.inference.insert
import LeFusion.train.check_dataset
import LeFusion.train.train
from LeFusion.runtime.commandline import CONFIGS, PROJECT_ROOT

COMMANDS = {
    "inference": LeFusion.inference.inference,
    "insert": LeFusion.inference.insert,
    "train": LeFusion.train.train,
    "check_dataset": LeFusion.train.check_dataset,
    "fit_textures": LeFusion.inference.fit_textures,
    "diffmask_inference": DiffMask.inference.inference,
    "diffmask_train": DiffMask.train.train,
}


@pytest.fixture
def said(command_line):
    """-> said(name of the configuration, *arguments): what --help prints."""

    def call(command: str, *words: str) -> str:
        code, out, error = command_line(COMMANDS[command].main, *words, "--help")
        assert code == 0 and not error, error
        return out

    return call


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_every_setting_and_its_comment(said, command):
    text = said(command)
    file = CONFIGS / f"{command}.yaml"
    for key in OmegaConf.load(file):
        assert key in ("defaults", "hydra") or re.search(rf"^{key}:", text, re.M), key
    comments = re.findall(
        r"#.*", file.read_text(encoding="utf-8").partition("\n\n")[2].partition("hydra:")[0]
    )
    assert len(comments) > 3 and not [comment for comment in comments if comment not in text]
    assert "${" not in text and "hydra" not in text and "data_type: " in text
    assert len(text.splitlines()) < 150


def test_help_shows_the_values_of_what_was_chosen(said):
    text = said(
        "inference", "data_type=emidec", "sampler=repaint", "types=7", f"target_img_path={PROJECT_ROOT}"
    )
    assert f"\ndataset_root_dir: {PROJECT_ROOT}/data/EMIDEC/" in text
    assert "\ndata_type: emidec  # or chest_ct, custom, lidc, nnunet" in text
    assert "\nsampler: repaint  # or ddim, dpmpp" in text
    assert "sampler=repaint sets:\n\n# The paper's sampler" in text and "\n  jump_length: 2" in text
    groups = said("train", "experiment=lidc_edit")
    assert "\nmodel: small  # or paper" in groups and "model=small sets, as model.KEY:" in groups
    assert "\nexperiment: lidc_edit  # or emidec_edit" in groups
