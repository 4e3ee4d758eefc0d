"""Masks and painting by one command, paint=true."""

import csv

import numpy as np
import pytest
from made_masks import HEART, OBLIQUE, SCANS, masks, stored, table
from refusals import assert_refused

import DiffMask.inference.inference as inference


def painted(folder, kinds, names, label_name):
    assert sorted(str(path.relative_to(folder)) for path in folder.rglob("*.nii.gz")) == sorted(
        [f"Image/Image_{kind}/{name}.nii.gz" for kind in kinds for name in names]
        + [f"Mask/Mask_{kind}/{label_name(name)}.nii.gz" for kind in kinds for name in names]
    )
    assert (folder / "Image" / "manifest.csv").is_file() and (folder / "Image" / "preview.png").is_file()


def assert_background(folder, kind, source, mask, name, label_name):
    image = stored(folder / "Image" / f"Image_{kind}" / f"{name}.nii.gz")
    before, made = stored(source), stored(mask)
    lesion = np.isin(made, (1,) if made.max() == 1 else (3, 4))
    assert np.array_equal(image[~lesion], before[~lesion]) and image.dtype == before.dtype
    assert (image[lesion] != before[lesion]).mean() > 0.8
    assert np.array_equal(stored(folder / "Mask" / f"Mask_{kind}" / f"{label_name(name)}.nii.gz"), made)


def as_label(name):
    return name.replace("_CVol_", "_Mask_")


@pytest.mark.usefixtures("quick")
def test_a_chain_from_normal_scans_to_painted_ones(make, scans, save_network, tmp_path):
    painter = save_network("a painter, 'mine'.safetensors")
    code, out, error = make(
        "paint=true",
        "painting.types=2",
        "painting.num_steps=2",
        f'+painting.model_path="{painter}"',
        "+painting.diffusion_depth_size=8",
        "+painting.diffusion_img_size=16",
    )
    assert code == 0, error
    folder = tmp_path / "out"
    names = [f"{scan}_GenMask_1" for scan in SCANS]
    painted(folder / "Painted", (1, 2), names, as_label)
    for scan, name in zip(SCANS, names, strict=True):
        source, mask = scans / "Image" / f"{scan}.nii.gz", folder / "Mask" / f"{name}.nii.gz"
        for kind in (1, 2):
            assert_background(folder / "Painted", kind, source, mask, name, as_label)


@pytest.mark.usefixtures("quick")
def test_a_chain_for_hearts(infarcts, hearts, save_network, tmp_path):
    painter = save_network("h.safetensors", in_channels=2, data_type="emidec", window="minmax")
    code, out, error = infarcts(
        "half_angle_deg=30",
        "paint=true",
        "painting.types=1",
        "painting.num_steps=2",
        "painting.sampler=ddim",
        f"+painting.model_path={painter}",
        "+painting.diffusion_depth_size=8",
        "+painting.diffusion_img_size=48",
    )
    assert code == 0, error
    name = f"{HEART}_GenMask_1"
    painted(tmp_path / "out" / "Painted", (1,), [name], lambda name: name)
    source, mask = hearts / "images" / f"{HEART}.nii.gz", tmp_path / "out" / "Mask" / f"{name}.nii.gz"
    assert_background(tmp_path / "out" / "Painted", 1, source, mask, name, lambda name: name)


@pytest.fixture
def paint(make, scans, save_network, tmp_path):
    """-> paint(*overrides): one mask, painted in two steps; -> the result and the rows of the manifest."""
    painter = save_network("p.safetensors")

    def call(*overrides):
        defaults = {
            "dataset_root_dir": scans / "Image" / f"{SCANS[0]}.nii.gz",  # one scan
            "painting.types": 1,
            "painting.num_steps": 2,
            "+painting.model_path": painter,
            "diffusion_depth_size": 8,
            "diffusion_img_size": 16,
        }
        given = {str(override).split("=", 1)[0] for override in overrides}
        kept = [f"{key}={value}" for key, value in defaults.items() if key not in given]
        result = make("paint=true", *kept, *overrides)
        path = next(tmp_path.rglob("manifest.csv"), None)
        if path is None:
            return result, []
        with open(path, newline="") as file:
            return result, list(csv.DictReader(file))

    return call


@pytest.mark.usefixtures("quick", "spheres_are_masks")
def test_painting_gets_the_settings_of_both_commands(paint, tmp_path):
    odd = tmp_path / "a folder, {odd}=x"
    result, rows = paint(
        "data_type=chest_ct",
        "layout.orientation=null",
        "layout.depth_axis=0",
        "seed=3",
        f'output_dir="{odd}"',
        "masks_per_scan=2",
        "painting.num_steps=null",
        "+painting.textures=[[0,0,0,0,0,0,0,0,0,0,1,1,1,1,0,0]]",
        "+painting.schedule_jump_params.jump_n_sample=3",
    )
    assert result[0] == 0, result[2]
    names = [f"{SCANS[0]}_GenMask_{number}" for number in (1, 2)]
    painted(odd / "Painted", (1,), names, lambda name: name)
    assert {(row["seed"], row["jump_n_sample"], row["num_steps"]) for row in rows} == {("3", "3", "6")}


@pytest.mark.usefixtures("quick", "spheres_are_masks")
def test_what_both_commands_have_reaches_the_painting(composed, tmp_path):
    changed = ["window=[-160,240]", "unit=HA", "spacing_mm=[2,1,1]", "histogram_bins=32", "cond_dim=32"]
    changed += [
        "seed=5",
        "device=cpu",
        "overwrite=true",
        "batch_size=3",
        "compile=true",
        "skip_bad_cases=true",
    ]
    changed += ["textures=mine.json", "layout.lesion_labels=[2]", "default_paths.weights=w.pt", "num_steps=7"]
    config = composed(
        "diffmask_inference", *changed, "weights=model", "model_path=m.pt", "dataset_root_dir=s"
    )
    settings, _, given = inference.read(config | {"paint": True, "output_dir": str(tmp_path / "out")})
    for key in type(given).model_fields.keys() & config.keys() - inference.OF_MASKS - {"dataset_root_dir"}:
        assert getattr(given, key) == getattr(settings, key), key
    assert (given.weights, given.num_steps, given.types) == ("ema", "auto", 3)
    assert given.model_path == "w.pt"  # of the data type, as this run states it
    assert given.mask_dir == str(tmp_path / "out" / "Mask")


@pytest.mark.usefixtures("quick", "spheres_are_masks")
def test_windows_textures_and_bins_reach_the_painted_images(paint, save_network, tmp_path):
    """The four settings that were once accepted and dropped."""
    fine = save_network("fine.safetensors", bins=32, window=[-160, 240])
    counts = [0] * 20 + [1, 3] + [0] * 10
    result, (row,) = paint(
        "window=[-160,240]",
        "histogram_bins=32",
        "cond_dim=32",
        f"textures=[{counts}]",
        f"+painting.model_path={fine}",
        "+painting.histogram_perturbation=0",
    )
    assert result[0] == 0, result[2]
    asked = [float(share) for share in row["requested_histogram"].split()]
    assert asked == pytest.approx([0] * 20 + [0.25, 0.75] + [0] * 10) and row["textures"] == "type 1"
    image = stored(tmp_path / "out" / "Painted" / "Image" / "Image_1" / f"{SCANS[0]}_GenMask_1.nii.gz")
    made = stored(tmp_path / "out" / "Mask" / f"{SCANS[0]}_GenMask_1.nii.gz") > 0
    assert -160 <= image[made].min() and image[made].max() <= 240


@pytest.mark.usefixtures("quick", "spheres_are_masks")
@pytest.mark.parametrize("margin", [2, 0])
def test_edit_masks_of_made_lesions(paint, scans, save_network, tmp_path, margin):
    network = save_network("rim.safetensors", edit_margin_mm=2)
    result, (row,) = paint(
        f"+painting.model_path={network}",
        "+painting.save_edit_mask=true",
        *(["+painting.edit_margin_mm=0"] if margin == 0 else []),
    )
    assert result[0] == 0, result[2]
    image, label = stored(tmp_path / "out" / row["image"]), stored(tmp_path / "out" / row["label"])
    edit = stored(next((tmp_path / "out" / "Painted" / "Image" / "Edit_1").glob("*.nii.gz")))
    source = stored(scans / "Image" / f"{SCANS[0]}.nii.gz")
    assert np.array_equal(image[edit == 0], source[edit == 0])
    rim = (edit == 1) & (label == 0)
    assert rim.any() == (image != source)[label == 0].any() == (margin > 0)
    assert float(row["edit_margin_mm"]) == margin


@pytest.mark.usefixtures("quick", "spheres_are_masks")
@pytest.mark.parametrize(
    "override, texts",
    [
        ("window=[-160,240]", ["window"]),
        ("textures=mine.json", ["mine.json"]),
        ("histogram_bins=32", ["histogram_bins", "32"]),
        ("cond_dim=32", ["cond_dim", "32"]),
        ("+painting.edit_margin_mm=2", ["edit_margin_mm=2 must be 0"]),
    ],
)
def test_what_does_not_fit_the_painter_is_refused(paint, override, texts):
    assert_refused(paint(override)[0], *texts)


@pytest.fixture
def typed(tmp_path):
    """-> typed(*types): a table of two spheres with these textures."""

    def write_table(*types):
        rows = zip((20, 34), types, strict=True)
        rows = [[*(OBLIQUE @ (12, 20, column, 1))[:3].tolist(), 6, kind] for column, kind in rows]
        path = tmp_path / "sites.csv"
        path.write_text("x,y,z,diameter,type\n" + "".join(",".join(map(str, row)) + "\n" for row in rows))
        return f"spheres={path}"

    return write_table


@pytest.mark.usefixtures("quick", "spheres_are_masks")
@pytest.mark.parametrize("condition", ["textures", "mixture"])
def test_each_site_is_painted_with_its_type(paint, typed, tmp_path, condition):
    result, rows = paint(typed(3, "type 2"), "painting.types=3", f"+painting.condition={condition}")
    assert result[0] == 0, result[2]
    names = [f"{SCANS[0]}_GenMask_{number}" for number in (1, 2)]
    assert [(row["case"], row["type"], row["texture"]) for row in rows] == [
        (names[0], "1", "type 3"),
        (names[1], "1", "type 2"),
    ]
    painted(tmp_path / "out" / "Painted", (1,), names, as_label)
    assert [row["type"] for row in table(tmp_path / "out")] == ["3", "type 2"]
    result, rows = paint(typed(3, 1), f"+painting.condition={condition}")
    assert "stale: 1 masks" in result[1] and [row["texture"] for row in rows] == ["type 3", "type 1"]


@pytest.mark.usefixtures("quick", "spheres_are_masks")
def test_types_are_kept_for_later_without_painting(make, scans, typed, tmp_path):
    code, out, error = make(typed("a", 7), f"dataset_root_dir={scans / 'Image' / SCANS[0]}.nii.gz")
    assert code == 0 and "| type " not in out, error
    assert [row["type"] for row in table(tmp_path / "out")] == ["a", "7"]


@pytest.mark.parametrize(
    "types, override, texts",
    [
        ((1, "hard"), "seed=1", [f"{SCANS[0]}_GenMask_2", "'hard'", "1 to 3", "'type 1'"]),
        ((1, 4), "seed=1", [f"{SCANS[0]}_GenMask_2", "4", "1 to 3"]),
        ((1, 2), "painting.types=2", ["painting.types=2", "sites.csv", "leave it out"]),
        ((1, 2), "+painting.condition=own", ["condition=own", "textures_of"]),
    ],
)
def test_types_that_cannot_be_are_refused_before_any_mask(paint, typed, tmp_path, types, override, texts):
    given = ["painting.types=3"] * ("painting.types" not in override)
    assert_refused(paint(typed(*types), override, *given)[0], *texts)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "override, texts",
    [
        ("+painting.stepz=3", ["painting.stepz", "no such key"]),
        ("+painting.schedule_jump_params.jump=3", ["painting.schedule_jump_params.jump"]),
        ("+painting.data_type=emidec", ["painting.data_type", "leave it out"]),
        ("painting.sampler=euler", ["painting.sampler=euler"]),
    ],
)
def test_a_misspelt_setting_of_painting_is_one_line_before_any_mask(paint, tmp_path, override, texts):
    assert_refused(paint(override)[0], *texts)
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("quick", "spheres_are_masks")
def test_what_painting_refuses_leaves_the_masks(make, tmp_path, files):
    painting_refused = make("paint=true", "+painting.model_path=nowhere.safetensors")
    assert_refused(painting_refused, tmp_path / "out" / "Mask", "painting failed", "nowhere.safetensors")
    assert len(masks(files(tmp_path / "out"))) == 2


@pytest.mark.usefixtures("quick")
def test_masks_of_another_run_are_not_painted(make, tmp_path, monkeypatch):
    painted = []
    monkeypatch.setattr(inference, "paint", lambda *arguments: painted.append(arguments))
    assert make("masks_per_scan=2")[0] == 0
    result = make("masks_per_scan=1", "paint=true")
    assert_refused(result, tmp_path / "out" / "Mask", "_GenMask_2", "move it away")
    assert not painted and make("masks_per_scan=2", "paint=true")[0] == 0 and len(painted) == 1
