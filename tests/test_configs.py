"""Every configuration composes and fits the code; a key that nothing reads is a defect."""

import inspect
import re
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from DiffMask.settings import MaskInferenceSettings, MaskTrainSettings
from LeFusion.dataset.intensity import IntensityMap
from LeFusion.diffusion import NoiseSchedule, UNet3D
from LeFusion.diffusion.denoiser import Denoiser
from LeFusion.errors import UserError
from LeFusion.losses import LesionLoss
from LeFusion.runtime.commandline import PROJECT_ROOT
from LeFusion.settings import (
    CheckDatasetSettings,
    FitTexturesSettings,
    InferenceSettings,
    InsertSettings,
    TrainerSettings,
    TrainSettings,
)
from LeFusion.textures.palette import load_palette
from LeFusion.weights import sampler_settings

CONFIGS = PROJECT_ROOT / "configs"
FRAGMENTS = {"quiet_hydra"}  # included by primary configs, no primary config itself
PRIMARIES = sorted(path.stem for path in CONFIGS.glob("*.yaml") if path.stem not in FRAGMENTS)
PACKAGES = ("LeFusion", "DiffMask", "evaluation_pipeline")
SOURCES = {path: path.read_text() for package in PACKAGES for path in (PROJECT_ROOT / package).rglob("*.py")}
YAML_TEXT = "\n".join(path.read_text() for path in CONFIGS.rglob("*.yaml"))

SETTINGS = {
    "inference": InferenceSettings,
    "insert": InsertSettings,
    "train": TrainSettings,
    "fit_textures": FitTexturesSettings,
    "check_dataset": CheckDatasetSettings,
    "diffmask_inference": MaskInferenceSettings,
    "diffmask_train": MaskTrainSettings,
}
NEEDED = {
    "fit_textures": ["output=textures.json"],
    "insert": ["input=in", "output=out"],
    "experiment=lidc_rim": ["init_weights=edit.safetensors"],
}  # what has no default


def groups_of(primary: str) -> list[str]:
    """The config groups in a primary config's defaults."""
    entries = OmegaConf.load(CONFIGS / f"{primary}.yaml").defaults
    keys = [key for entry in entries if not isinstance(entry, str) for key in entry]
    return [key for key in keys if not key.startswith("override ")]


def options_of(group: str) -> list[str]:
    return sorted(path.stem for path in (CONFIGS / group).glob("*.yaml"))


CHOICES = [(primary, None) for primary in PRIMARIES] + [
    (primary, f"{group}={option}")
    for primary in PRIMARIES
    for group in groups_of(primary)
    for option in options_of(group)
]


def test_the_lists_above_find_something():
    assert {"train", "inference", "diffmask_train"} <= set(PRIMARIES)
    assert {("train", "data_type=lidc"), ("train", "loss=paper"), ("inference", "sampler=ddim")} <= set(
        CHOICES
    )


@pytest.mark.parametrize("primary, choice", CHOICES)
def test_every_choice_fits_the_code(composed, primary, choice):
    config = composed(
        primary, *([choice] if choice else []), *NEEDED.get(primary, []), *NEEDED.get(choice, [])
    )
    settings = SETTINGS[primary].of(config)
    check_data_type(settings)
    if primary in ("inference", "insert"):
        assert sampler_settings(settings, {}).network_calls(NoiseSchedule.cosine(300)) >= 1
    if primary == "train":
        denoiser = Denoiser(settings.model.context, settings.model.prediction)
        with torch.device("meta"):
            network = UNet3D(
                in_channels=denoiser.in_channels(settings.classes),
                out_channels=settings.classes,
                cond_dim=settings.cond_dim,
                **settings.model.of_network(),
            )
        assert_planes_fit(network, config)
        LesionLoss(
            NoiseSchedule.cosine(settings.timesteps), 0, **settings.loss.model_dump(), denoiser=denoiser
        )

    if primary == "diffmask_train":
        with torch.device("meta"):
            network = UNet3D(in_channels=2, out_channels=1, **settings.model.of_network())
        assert_planes_fit(network, config)


def assert_planes_fit(network, config):
    sizes = config["crop_size"][1:] if config["crop_size"] else [config["diffusion_img_size"]]
    assert all(size % network.plane_multiple == 0 for size in sizes)


def check_data_type(settings):
    classes, bins = settings.classes, settings.histogram_bins
    for shares in load_palette(settings.textures, classes * bins, bins).histograms:
        assert shares.reshape(classes, -1).sum(dim=1).tolist() == pytest.approx([1] * classes)
    assert IntensityMap.of(torch.tensor([0.0, 1.0]), settings.window).low < 1
    assert all(Path(path).is_absolute() for path in settings.default_paths.values())


@pytest.mark.parametrize("option", options_of("loss"))
def test_a_loss_lists_every_setting(composed, option):
    names = set(inspect.signature(LesionLoss).parameters) - {
        "schedule",
        "seed",
        "histogram_weight",  # trainer.histogram_loss
        "denoiser",  # model.context, model.prediction
    }
    assert set(composed("train", f"loss={option}")["loss"]) == names


def test_the_defaults_are_the_papers(composed):
    config = composed("train")
    settings = TrainSettings.of(config)
    assert settings.trainer == TrainerSettings(histogram_loss=0)
    assert Denoiser(settings.model.context, settings.model.prediction) == Denoiser()
    model = settings.model.of_network()
    assert model == {"dim": 64, "dim_mults": [1, 2, 4, 8], "attn_heads": 8, "attn_dim_head": 32}
    assert config["timesteps"] == 300 and config["crop_size"] is None
    assert config["loss"] == {
        "loss_type": "l1",
        "normalisation": "volume",
        "cond_dropout": 0.0,
        "max_weight": 1,
    }
    paint = composed("inference")
    assert (paint["sampler"], paint["num_steps"], paint["guidance_scale"]) == ("ddim", "auto", 1)
    walk = composed("inference", "sampler=repaint")
    assert (walk["sampler"], walk["num_steps"]) == ("repaint", None)
    assert walk["schedule_jump_params"] == {"jump_length": 2, "jump_n_sample": 2}
    assert (paint["weights"], paint["types"], paint["precision"]) == ("ema", 3, "no")
    masks = composed("diffmask_train")
    settings = MaskTrainSettings.of(masks)
    assert settings.trainer.model_dump() == TrainerSettings(histogram_loss=0).model_dump()
    assert (settings.model.of_network(), settings.model.prediction) == (model, "noise")
    assert masks["timesteps"] == 300 and masks["crop_size"] is None and masks["loss_type"] == "l1"


def is_read(key: str, sources) -> bool:
    """Named as a string or as an attribute in one of the sources."""
    named = re.compile(rf"""["']{re.escape(key)}["']|\.{re.escape(key)}\b""")
    return any(named.search(text) for text in sources)


def reached_from(command: Path) -> set[Path]:
    """A command's file and the modules of the project that it imports, directly or not."""
    reached, waiting = set(), [command]
    while waiting:
        path = waiting.pop()
        if path in SOURCES and path not in reached:
            reached.add(path)
            modules = re.findall(r"^\s*from ([\w.]+) import", SOURCES[path], re.MULTILINE)
            waiting += [(PROJECT_ROOT / module.replace(".", "/")).with_suffix(".py") for module in modules]
    return reached


def is_interpolated(key: str) -> bool:
    return re.search(rf"\$\{{(oc\.select:)?{re.escape(key)}[.,}}]", YAML_TEXT) is not None


@pytest.mark.parametrize("primary", PRIMARIES)
def test_every_key_of_a_primary_config_is_read_by_its_command(primary):
    commands = [path for path, text in SOURCES.items() if f'config_name="{primary}"' in text]
    assert len(commands) == 1, f"{primary}.yaml belongs to {len(commands)} commands"
    keys = set(OmegaConf.load(CONFIGS / f"{primary}.yaml")) - {"defaults", "hydra"}
    sources = [SOURCES[path] for path in reached_from(commands[0])]
    unread = {key for key in keys if not is_read(key, sources) and not is_interpolated(key)}
    assert not unread, f"{primary}.yaml: nothing reads {sorted(unread)}"


def test_every_key_of_a_trainer_is_read():
    """Those of the groups model and loss are handed on to what refuses unknown names."""
    assert not {key for key in TrainerSettings.model_fields if not is_read(key, SOURCES.values())}


@pytest.mark.parametrize("group", sorted(path.name for path in CONFIGS.iterdir() if path.is_dir()))
def test_every_key_of_a_global_group_is_read(group):
    for option in options_of(group):
        path = CONFIGS / group / f"{option}.yaml"
        if not path.read_text().startswith("# @package _global_"):
            continue  # handed on as a whole to a class or function, which refuses unknown names
        content = OmegaConf.load(path)
        unread = {
            key
            for key in content
            if key != "defaults" and not is_read(key, SOURCES.values()) and not is_interpolated(key)
        }
        assert not unread, f"{path.name}: nothing reads {sorted(unread)}"
        for key in content.get("default_paths", {}):
            assert is_interpolated(f"default_paths.{key}"), f"{path.name}: nothing uses default_paths.{key}"


@pytest.mark.parametrize("primary", PRIMARIES)
def test_hydra_leaves_nothing_behind(primary):
    from hydra import compose, initialize_config_dir

    with initialize_config_dir(str(CONFIGS), version_base=None):
        config = compose(primary, return_hydra_config=True)
    assert config.hydra.output_subdir is None and config.hydra.run.dir == "." and not config.hydra.job.chdir


@pytest.mark.parametrize("primary", ["train", "diffmask_train"])
@pytest.mark.parametrize(
    "override", ["data_type=lidcc", "batchsize=4", "trainer.batchsize=4", "model.depth=3"]
)
def test_a_misspelt_name_is_refused(composed, primary, override):
    from hydra.errors import HydraException

    with pytest.raises(HydraException):
        composed(primary, override)


def test_the_rim_is_trained_from_weights(composed):
    with pytest.raises(UserError, match="^init_weights: give the last checkpoint of experiment=lidc_edit"):
        composed("train", "experiment=lidc_rim")
