"""Every key of every command refuses values of another type, in one line that names it."""

from functools import lru_cache

import pytest
from hydra import compose, initialize_config_dir
from hypothesis import given
from hypothesis import strategies as st
from properties import drawn
from pydantic import BaseModel, ValidationError

from DiffMask.settings import MaskInferenceSettings, MaskTrainSettings
from LeFusion.dataset.cases import Layout
from LeFusion.errors import UserError
from LeFusion.runtime.commandline import PROJECT_ROOT, plain
from LeFusion.settings import (
    CheckDatasetSettings,
    FitTexturesSettings,
    InferenceSettings,
    InsertSettings,
    LayoutSettings,
    TrainSettings,
)

COMMANDS = {
    "inference": InferenceSettings,
    "insert": InsertSettings,
    "train": TrainSettings,
    "fit_textures": FitTexturesSettings,
    "check_dataset": CheckDatasetSettings,
    "diffmask_inference": MaskInferenceSettings,
    "diffmask_train": MaskTrainSettings,
}
NAN, INF = float("nan"), float("inf")
WRONG = {  # what is tried for every key: name of the type -> value
    "flag": True,
    "number": 1.5,
    "negative": -1,
    "text": "maybe",
    "list": [1],
    "group": {"a": 1},
    "null": None,
    "nan": NAN,
    "inf": INF,
    "lists": [[1, 2]],
    "integer": 5,
    "huge": 10**5000,
}
NAMES = "text", "integer"  # of a texture
ANY_TEXT = {"text"}
NUMBER, COUNT, GIVEN = {"number", "integer"}, {"integer"}, {"number", "negative", "integer", "null"}
# The types of WRONG that a key takes, by its name, or by command and name
TAKES = {
    **dict.fromkeys(("data_type", "dataset_root_dir", "model_path", "results_folder"), ANY_TEXT),
    **dict.fromkeys(("target_img_path", "target_label_path", "output_folder", "output_dir"), ANY_TEXT),
    **dict.fromkeys(("layout.image_folder", "layout.mask_folder", "layout.output_mask_infix"), ANY_TEXT),
    **dict.fromkeys(("test_txt_dir", "mask_dir", "lesions_from", "donors_test_txt"), ANY_TEXT | {"null"}),
    **dict.fromkeys(("donor", "unit", "reference_image", "reference_mask"), ANY_TEXT | {"null"}),
    **dict.fromkeys(("init_weights", "histograms_csv", "lesion_table"), ANY_TEXT | {"null"}),
    "realistic_textures": ANY_TEXT | {"null"},
    "published_textures": ANY_TEXT | {"null", "lists"},
    "default_condition": {"null"},
    "save_edit_mask": {"flag"},
    **dict.fromkeys(("input", "output", "mask_model_path"), ANY_TEXT),
    **dict.fromkeys(("sites", "masks", "labels"), ANY_TEXT | {"null"}),
    **dict.fromkeys(("lesions", "mask_steps"), COUNT | {"null"}),
    **dict.fromkeys(("versions", "preview_lesions"), COUNT),
    "texture": ANY_TEXT | COUNT | {"null"},
    **dict.fromkeys(
        ("texture_score", "margin_score", "spiculation", "calcification"), COUNT | {"null", "list"}
    ),
    **dict.fromkeys(("masks_from", "organ_masks", "lesion_masks"), ANY_TEXT | {"null"}),
    **dict.fromkeys(("overwrite", "skip_bad_cases", "compile", "augment", "cache", "viewer"), {"flag"}),
    **dict.fromkeys(("separate", "paint", "skip_empty", "shrink", "show_lesions"), {"flag"}),
    **dict.fromkeys(("masks_per_scan", "max_redraws", "preview_masks", "max_shift"), COUNT),
    **dict.fromkeys(("validation_masks", "validation_steps"), COUNT),
    **dict.fromkeys(("border_mm", "angle_deg", "half_angle_deg"), GIVEN),
    "diameter_mm": GIVEN - {"null"},
    **dict.fromkeys(("transmurality", "no_reflow_share"), GIVEN),
    "spheres": ANY_TEXT,
    "painting": {"group"},
    "smoothing": NUMBER | {"null"},
    "heights": {"null"},
    **dict.fromkeys(("trainer.compile", "trainer.gradient_checkpointing"), {"flag"}),
    **dict.fromkeys(("diffusion_depth_size", "diffusion_img_size", "histogram_bins"), COUNT),
    **dict.fromkeys(("types", "preview_cases", "margin", "batch_size", "shards", "shard"), COUNT),
    **dict.fromkeys(("schedule_jump_params.jump_length", "schedule_jump_params.jump_n_sample"), COUNT),
    **dict.fromkeys(("model.dim", "model.attn_heads", "model.attn_dim_head", "timesteps", "seed"), COUNT),
    **dict.fromkeys(("trainer.train_num_steps", "trainer.batch_size", "trainer.seed"), COUNT),
    **dict.fromkeys(("trainer.gradient_accumulate_every", "trainer.warmup_steps"), COUNT),
    **dict.fromkeys(("trainer.save_and_sample_every", "trainer.num_workers"), COUNT),
    **dict.fromkeys(("trainer.train_lr", "trainer.histogram_loss", "guidance_scale"), NUMBER),
    **dict.fromkeys(("trainer.keep_checkpoints", "num_steps", "like_size"), COUNT | {"null"}),
    **dict.fromkeys(("diffusion_num_channels", "cond_dim", "intensity_guidance"), {"null"}),
    **dict.fromkeys(("layout.cavity_label", "layout.myocardium_label"), {"null"}),
    **dict.fromkeys(("spacing_mm", "crop_size", "lesion_contrast", "modality", "label_names"), {"null"}),
    "label_names": {"null", "group"},
    "layout.lesion_labels": {"list"},
    "layout.other_labels": set(),
    "layout.reference_label": {"null"},
    "layout.orientation": {"null"},
    "layout.instances": {"flag"},
    "layout.mask_names": set(),
    "default_paths": set(),
    "textures": ANY_TEXT | {"null", "lists"},
    "textures_of": {"null", "group", "text"},
    "texture_shares": {"null", "list"},
    "condition": {"text", "negative", "integer", "list", "null"},
    "split": {"null"},
    "loss.max_weight": NUMBER,
    "edit_margin_mm": NUMBER,
    "least_margin_mm": NUMBER | {"null"},
    "cache_gb": NUMBER,
    "soft_edge_mm": NUMBER | {"null"},
    "model.dim_mults": {"list"},
    "trainer.max_grad_norm": NUMBER | {"null"},
}
ONLY = {
    ("inference", "edit_margin_mm"): NUMBER | {"null"},  # where commands differ
    ("insert", "edit_margin_mm"): NUMBER | {"null"},
    ("insert", "diameter_mm"): NUMBER,
    ("train", "split"): set(),
    ("train", "turns"): {"flag"},
    ("fit_textures", "split"): set(),
    ("fit_textures", "output"): set(),
    ("diffmask_train", "split"): set(),
    ("diffmask_train", "trainer.histogram_loss"): set(),
}


@lru_cache
def composed(command: str) -> dict:
    needed = {
        "fit_textures": ["output=textures.json"],
        "insert": ["input=in", "output=out", "data_type=lidc"],
    }
    with initialize_config_dir(str(PROJECT_ROOT / "configs"), version_base=None):
        return plain(compose(command, needed.get(command, [])))


def leaves(values: dict, model: type[BaseModel], start: str = "") -> list[str]:
    """The keys below which there are no fields."""
    found = []
    for key, value in values.items():
        field = model.model_fields[key].annotation
        inner = LayoutSettings if key == "layout" else field
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            found += leaves(value, inner, f"{start}{key}.")
        else:
            found.append(f"{start}{key}")
    return found


def changed(values: dict, key: str, value) -> dict:
    first, _, rest = key.partition(".")
    return values | {first: changed(values[first], rest, value) if rest else value}


CASES = [(command, key) for command, model in COMMANDS.items() for key in leaves(composed(command), model)]


def test_the_cases_are_those_of_the_configurations():
    assert len(CASES) > 100
    assert {("inference", "schedule_jump_params.jump_length"), ("train", "trainer.seed")} <= set(CASES)
    assert ("check_dataset", "layout.depth_axis") in CASES
    used = {key for _, key in CASES}
    assert set(TAKES) <= used and set(ONLY) <= set(CASES)


@pytest.mark.parametrize("command, key", CASES, ids=lambda value: value)
def test_a_key_takes_its_own_types_only(command, key):
    taken = ONLY.get((command, key), TAKES.get(key, set()))
    for name, value in WRONG.items():
        values = changed(composed(command), key, value)
        if name in taken:
            COMMANDS[command].of(values)
            continue
        with pytest.raises(UserError) as refused:
            COMMANDS[command].of(values)
        line = str(refused.value)
        assert key.rpartition(".")[2] in line and "\n" not in line and len(line) < 400, (name, line)
        assert "pydantic" not in line and "Input should" not in line, (name, line)


@pytest.mark.parametrize("command, model", COMMANDS.items(), ids=lambda value: str(value))
def test_fields_and_keys_are_the_same(command, model):
    def fields(model: type[BaseModel], values: dict) -> None:
        assert set(model.model_fields) == set(values)
        for key, field in model.model_fields.items():
            if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
                fields(field.annotation, values[key])

    fields(model, composed(command))
    fields(LayoutSettings, composed(command)["layout"])
    assert set(LayoutSettings.model_fields) == set(Layout.__dataclass_fields__)


@pytest.mark.parametrize(
    "command, key, value, line",
    [
        ("inference", "overwrite", "maybe", "overwrite=maybe must be true or false"),
        ("inference", "compile", 5, "compile=5 must be true or false"),
        ("inference", "types", True, "types=true must be a whole number of at least 1"),
        ("inference", "shards", "abc", "shards=abc must be a whole number of at least 1"),
        ("inference", "num_steps", True, "num_steps=true must be auto, null or a whole number of at least 1"),
        ("inference", "precision", [1], "precision=[1] must be one of no, bf16, fp16"),
        ("inference", "device", "meta", "device=meta must be auto, cpu, cuda, cuda:0, cuda:1, ... or mps"),
        ("inference", "device", None, "device=null must be auto, cpu, cuda, cuda:0, cuda:1, ... or mps"),
        (
            "inference",
            "soft_edge_mm",
            1e200,
            "soft_edge_mm=1e+200 must be null or a number of mm from 0 to 100",
        ),
        ("train", "edit_margin_mm", 101, "edit_margin_mm=101 must be a number of mm from 0 to 100"),
        ("inference", "guidance_scale", -1, "guidance_scale=-1 must be a number of at least 0"),
        ("inference", "target_img_path", 5, "target_img_path=5 must be a path (./5 where it is a number)"),
        ("inference", "cond_dim", 8, "cond_dim=8 must be 16, 1 classes x 16 bins; or leave it out"),
        (
            "inference",
            "layout.depth_axis",
            3,
            "layout.depth_axis=3 must be null or a whole number from 0 to 2",
        ),
        ("inference", "layout", 3, "layout=3 must be a group of keys"),
        (
            "insert",
            "lesions",
            [6, 1],
            "lesions=[6, 1] must be null, a whole number of at least 1 or [fewest,",
        ),
        ("insert", "diameter_mm", 0, "diameter_mm=0 must be regions, lidc, a number above 0 or [low,"),
        ("train", "layout.lesion_labels", 1, "layout.lesion_labels=1 must be a list of whole numbers from 1"),
        ("train", "crop_size", [4, 8, True], "crop_size=[4, 8, true] must be null or three whole numbers"),
        ("train", "spacing_mm", [INF, 1, 1], "spacing_mm=[inf, 1, 1] must be null or three numbers above 0"),
        ("train", "spacing_mm", [-1, 1, 1], "spacing_mm=[-1, 1, 1] must be null or three numbers above 0"),
        ("train", "spacing_mm", 0, "spacing_mm=0 must be null or three numbers above 0"),
        (
            "train",
            "window",
            [5, 5],
            "window=[5, 5] must be minmax, [low, high] or {percentiles: ",
        ),
        ("train", "window", {"percentiles": [1, 101]}, "window={percentiles: [1, 101]} must be minmax"),
        ("train", "trainer.ema_decay", 1, "trainer.ema_decay=1 must be a number from 0 to below 1"),
        (
            "diffmask_inference",
            "diameter_mm",
            [5, 4],
            "diameter_mm=[5, 4] must be regions, lidc, a number or [low, high]",
        ),
        ("diffmask_inference", "heights", [0.6, 0.4], "heights=[0.6, 0.4] must be null or [low, high]"),
        ("diffmask_train", "model.context", "clean", "model.context=clean must be noised: masks have no"),
        ("diffmask_train", "trainer.histogram_loss", 1, "trainer.histogram_loss=1 must be 0: masks have no"),
        ("fit_textures", "types", "three", "types=three must be auto or a whole number of at least 1"),
    ],
)
def test_what_is_wrong_is_said(command, key, value, line):
    with pytest.raises(UserError) as refused:
        COMMANDS[command].of(changed(composed(command), key, value))
    assert str(refused.value).startswith(line) and "\n" not in str(refused.value)


@pytest.mark.parametrize("key, value", [("cond_dim", 32), ("diffusion_num_channels", 2)])
def test_sizes_that_follow_from_others_may_be_given(key, value):
    values = composed("inference")
    labels = changed(values, "layout.lesion_labels", [1, 2])
    settings = InferenceSettings.of(labels | {key: value})
    assert (settings.cond_dim, settings.diffusion_num_channels) == (32, 2)
    with pytest.raises(UserError, match=f"{key}={value} must be {value // 2}, "):
        InferenceSettings.of(values | {key: value})


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-3, 70_000),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["auto", "all", "minmax", "SPL", "../..", "\0", "a=b", "${seed}", "1e3", "cuda:1"]),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.one_of(st.text(max_size=5), st.integers()), inner, max_size=3),
    ),
    max_leaves=6,
)


@drawn(200)
@given(st.lists(st.tuples(st.sampled_from(CASES), VALUES), min_size=1, max_size=3))
def test_any_values_are_settings_or_one_line(changes):
    """Of the command of the first; keys that it has not are refused by name."""
    command = changes[0][0][0]
    values = composed(command)
    try:
        for (_, key), value in changes:
            values = changed(values, key, value)
    except (AttributeError, KeyError, TypeError):
        return  # below a value that an earlier change has made no group
    try:
        settings = COMMANDS[command].of(values)
    except UserError as error:
        line = str(error)
        assert "\n" not in line and "pydantic" not in line and "Input should" not in line, line
        assert any(key.rpartition(".")[2] in line for (_, key), _ in changes), line
    else:
        with pytest.raises(ValidationError, match="frozen"):
            settings.data_type = "other"
