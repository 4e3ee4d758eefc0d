"""The Python API: any kind of image in, the same kind out, the voxels that the command writes."""

import pickle
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import nibabel
import numpy as np
import pytest
import torch

import LeFusion.inference.inference as inference
from LeFusion import Painter, UserError
from LeFusion.runtime.commandline import PROJECT_ROOT

SHAPE = (12, 24, 20)
AFFINE = np.array([[0.8, 0, 0, -12.0], [0, 0.9, 0, 31.0], [0, 0, 2.0, 7.0], [0, 0, 0, 1]])
DEMO = PROJECT_ROOT / "data" / "demo" / "LIDC" / "Normal"


@pytest.fixture
def painter(save_network):
    """With the smallest network."""
    settings = {"diffusion_depth_size": 8, "diffusion_img_size": 16, "num_steps": 2}
    return Painter.load(save_network(), device="cpu", **settings)


@pytest.fixture
def scan():
    """(image, mask) with one lesion."""
    image = np.random.default_rng(0).integers(-1000, 300, SHAPE).astype(np.int16)
    mask = np.zeros(SHAPE, np.uint8)
    mask[3:7, 8:13, 6:11] = 1
    return image, mask


def nifti(array, affine=AFFINE):
    return nibabel.Nifti1Image(array, affine)


def file_of(path, array, slope=1.0, inter=0.0):
    image = nibabel.Nifti1Image(array, AFFINE)
    path.parent.mkdir(exist_ok=True)
    nibabel.save(image, path)
    if (slope, inter) != (1.0, 0.0):
        content = bytearray(path.read_bytes())
        content[112:120] = np.array([slope, inter], "<f4").tobytes()  # scl_slope, scl_inter
        path.write_bytes(content)
    return path


def test_every_kind_gives_the_command_s_voxels(painter, scan, command, save_network, tmp_path, monkeypatch):
    sitk = pytest.importorskip("SimpleITK")
    from monai.data import MetaTensor

    monkeypatch.setattr(inference, "save_preview", lambda path, *_: path)
    image, mask = scan
    paths = (
        file_of(tmp_path / "Image" / "a_Vol_1.nii", image),
        file_of(tmp_path / "Mask" / "a_Mask_1.nii", mask),
    )
    sizes = ("diffusion_depth_size=8", "diffusion_img_size=16", "num_steps=2", "device=cpu", "seed=5")
    out = (f"target_img_path={tmp_path / 'out'}", f"target_label_path={tmp_path / 'out'}", "types=2")
    given = (f"model_path={save_network()}", f"dataset_root_dir={tmp_path}", "condition=2")
    code, _, error = command(inference.main, "inference", *sizes, *out, *given)
    assert code == 0, error
    written = np.asanyarray(nibabel.load(tmp_path / "out" / "Image_2" / "a_Vol_1.nii").dataobj)

    options = {"texture": "type 2", "seed": 5, "name": "a_Vol_1", "kind": 2}
    images = [nibabel.load(path) for path in paths]
    of_files = painter.paint(*paths, **options)
    of_nibabel = painter.paint(*images, **options)
    of_simpleitk = painter.paint(*map(sitk.ReadImage, map(str, paths)), **options)
    of_array = painter.paint(image, mask, affine=AFFINE, **options)
    of_tensor = painter.paint(
        torch.from_numpy(image)[None], torch.from_numpy(mask)[None], affine=AFFINE, **options
    )
    meta = MetaTensor(torch.from_numpy(image)[None].float(), affine=torch.from_numpy(AFFINE), meta={"a": "b"})
    of_meta = painter.paint(meta, mask, **options)

    assert not np.array_equal(written, image)
    for painted in (of_files, of_nibabel):
        assert isinstance(painted, nibabel.Nifti1Image) and np.array_equal(painted.affine, images[0].affine)
        assert painted.get_data_dtype() == np.int16 and np.array_equal(painted.dataobj, written)
    assert np.array_equal(sitk.GetArrayFromImage(of_simpleitk).T, written)
    assert of_simpleitk.GetSpacing() == sitk.ReadImage(str(paths[0])).GetSpacing()
    assert of_array.dtype == np.int16 and np.array_equal(of_array, written)
    assert of_tensor.dtype == torch.int16 and np.array_equal(of_tensor[0].numpy(), written)
    assert isinstance(of_meta, MetaTensor) and of_meta.meta["a"] == "b" and of_meta.dtype == torch.float32
    assert np.array_equal(of_meta.affine.numpy(), AFFINE) and of_meta.shape == (1, *SHAPE)
    assert np.array_equal(of_meta[0].numpy().round(), written)


def test_by_default_a_real_lesion_of_like_size_is_drawn(painter, scan, save_network):
    """With the data type's textures; with textures of one's own these are mixed."""
    assert painter.default_texture == "realistic"
    for seed in (0, 1):
        image, name = painter.paint_named(*scan, seed=seed)
        assert np.array_equal(image, painter.paint(*scan, "realistic", seed=seed))
        assert name in ("ground-glass", "part-solid", "solid")
    textures = [[0] * n + [1] + [0] * (15 - n) for n in (2, 12)]
    settings = {"diffusion_depth_size": 8, "diffusion_img_size": 16, "num_steps": 2, "textures": textures}
    own = Painter.load(save_network(), device="cpu", **settings)
    assert own.default_texture == "mixture"
    named = [own.paint_named(*scan, seed=seed) for seed in range(6)]
    assert {name for _, name in named} == {"type 1", "type 2"}
    assert np.array_equal(named[3][0], own.paint(*scan, "mixture", seed=3))
    with pytest.raises(UserError, match="^texture='realistic': realistic lesions come from .*textures="):
        own.paint(*scan, "realistic")


def test_true_is_no_texture_number(painter, scan):
    painter.paint(*scan, 1)
    with pytest.raises(UserError, match="^texture=true must be"):
        painter.paint(*scan, True)


def test_scores_of_real_lesions_are_a_texture(painter, scan, save_network):
    settings = {"diffusion_depth_size": 8, "diffusion_img_size": 16, "num_steps": 2}
    scored = Painter.load(save_network(), device="cpu", texture_score=[1, 2], **settings)
    found = painter.paint(*scan, {"texture_score": [1, 2]}, seed=3)
    assert np.array_equal(found, scored.paint(*scan, "realistic", seed=3))
    assert not np.array_equal(found, painter.paint(*scan, {"texture_score": 5}, seed=3))
    with pytest.raises(UserError, match="texture=.*calcification=3: its lesions have no scores"):
        painter.paint(*scan, {"calcification": 3})


def test_a_scaled_image_keeps_its_scaling(painter, scan, tmp_path):
    image, mask = scan
    path = file_of(tmp_path / "a.nii", (image // 2).astype(np.int16), slope=2.0)
    plain = (image // 2 * 2).astype(np.int16)
    for given in (path, nibabel.load(path)):
        painted = painter.paint(given, mask, seed=1)
        stored = np.asanyarray(painted.dataobj.get_unscaled())
        assert (painted.dataobj.slope, stored.dtype) == (2.0, np.int16)
        outside = mask == 0
        assert np.array_equal(np.asanyarray(painted.dataobj)[outside], plain[outside])
        assert (np.asanyarray(painted.dataobj) != plain)[~outside].mean() > 0.9


def test_what_is_given_stays_as_it_is(painter, scan):
    image, mask = scan
    before = image.copy(), mask.copy()
    tensor = torch.from_numpy(image.astype(np.float32)).requires_grad_()
    painter.paint(image, mask)
    painted = painter.paint(tensor, mask)
    assert np.array_equal(image, before[0]) and np.array_equal(mask, before[1])
    assert tensor.requires_grad and not painted.requires_grad and not torch.equal(painted, tensor)


def test_a_list_is_painted_as_its_images_alone(painter, scan):
    image, mask = scan
    together = painter.paint([image, image, image], [mask] * 3, seed=7)
    alone = [painter.paint(image, mask, seed=seed) for seed in (7, 8, 9)]
    assert all(np.array_equal(a, b) for a, b in zip(together, alone, strict=True))
    assert not np.array_equal(alone[0], alone[1])


def test_threads_may_share_a_painter(painter, scan):
    image, mask = scan
    alone = [painter.paint(image, mask, seed=seed) for seed in range(6)]
    with ThreadPoolExecutor(3) as pool:
        together = list(pool.map(lambda seed: painter.paint(image, mask, seed=seed), range(6)))
    assert all(np.array_equal(a, b) for a, b in zip(together, alone, strict=True))


def test_a_painter_can_be_sent_to_a_process(painter, scan):
    sent = pickle.loads(pickle.dumps(painter))
    assert np.array_equal(sent.paint(*scan, seed=3), painter.paint(*scan, seed=3))


def test_numbers_of_numpy_are_numbers(painter, scan):
    assert np.array_equal(painter.paint(*scan, seed=np.int64(3)), painter.paint(*scan, seed=3))


def test_bf16_paints_about_the_same(save_network, scan):
    sizes = {"diffusion_depth_size": 8, "diffusion_img_size": 16, "num_steps": 2, "device": "cpu"}
    image, mask = scan
    exact, coarse = (
        Painter.load(save_network(), precision=precision, **sizes).paint(image, mask)
        for precision in ("no", "bf16")
    )
    lesion = mask > 0
    assert 0 < np.abs(exact[lesion].astype(float) - coarse[lesion]).mean() < 100


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"mask": np.ones((3, 3, 3), np.uint8)}, r"mask: has shape \(3, 3, 3\) but image has"),
        ({"mask": np.zeros(SHAPE, np.uint8)}, "mask: has no lesion voxel"),
        ({"mask": np.full(SHAPE, 9, np.uint8)}, "mask: holds the unknown values 9"),
        ({"mask": np.ones(SHAPE, np.uint8)}, "the lesion spans"),
        ({"mask": "no/such/file.nii"}, "no/such/file.nii: no such file"),
        ({"mask": [np.ones(SHAPE)]}, "mask: is a list"),
        ({"image": np.zeros((2, *SHAPE))}, r"image: has shape \(2, 12, 24, 20\); give one 3D volume"),
        ({"image": np.zeros(SHAPE, complex)}, "image: has data type complex128"),
        ({"image": torch.zeros(SHAPE, dtype=torch.bfloat16)}, "image: has data type torch.bfloat16"),
        ({"image": torch.zeros(SHAPE).to_sparse()}, "image: is a tensor without voxels .*, or sparse"),
        ({"mask": torch.zeros(SHAPE, device="meta")}, "mask: is a tensor without voxels of its own"),
        ({"image": np.full(SHAPE, np.nan)}, "image: holds 5760 NaN or infinite voxels"),
        ({"image": 3}, "image: is a int; give a NumPy array"),
        ({"image": nifti(np.zeros((*SHAPE, 2)))}, r"image: has shape \(12, 24, 20, 2\)"),
        ({"image": [np.zeros(SHAPE)], "mask": []}, "mask: there are 0 masks for 1 images"),
        ({"texture": "bright"}, "^texture='bright' must be .* 'type 1', 'type 2', 'type 3'"),
        ({"texture": True}, "^texture=true must be"),
        ({"texture": [1, 2]}, r"texture=\[1, 2\]: .*takes 16"),
        ({"seed": -1}, "seed=-1 must be a whole number of at least 0"),
        ({"seed": 0.5}, "seed=0.5 must be a whole number"),
        ({"kind": 0}, "kind=0 must be a whole number of at least 1"),
        ({"affine": np.zeros((4, 4))}, "image: its affine"),
        ({"affine": np.eye(3)}, r"affine: has shape \(3, 3\), not \(4, 4\)"),
        ({"image": nifti(np.zeros(SHAPE)), "affine": np.eye(4)}, "affine: is for arrays without one"),
        (
            {"image": nifti(np.zeros(SHAPE)), "mask": nifti(np.ones(SHAPE), np.eye(4))},
            "mask: its affine differs from that of image",
        ),
    ],
)
def test_what_does_not_fit_is_refused(painter, scan, changes, said):
    with pytest.raises(UserError, match=said):
        painter.paint(**{"image": scan[0], "mask": scan[1]} | changes)


def test_values_beyond_the_type_of_the_image_are_refused(save_network, scan):
    """Solid lesions in an image that was stored in 8 bits."""
    sizes = {"diffusion_depth_size": 8, "diffusion_img_size": 16, "num_steps": 1, "device": "cpu"}
    painter = Painter.load(save_network(), window=[-1000, 400], **sizes)
    image = np.full(SHAPE, -128, np.int8)
    with pytest.raises(UserError, match="image: .* do not fit into int8"):
        painter.paint(image, scan[1], texture=[0] * 15 + [1])


@pytest.mark.parametrize(
    "given, settings, said",
    [
        ("no_such_weights", {}, "weights='no_such_weights' is no file and no name; .*lidc.*lidc_edit"),
        ("lidc_edit", {"data_type": "emidec"}, "was trained on lidc, not on data_type=emidec"),
        ("lidc_edit", {"num_steps": 0}, "num_steps=0 must be"),
        ("lidc_edit", {"steps": 5}, "steps: there is no such key"),
        ("lidc_edit", {"dataset_root_dir": "x"}, "dataset_root_dir: is a setting of the command"),
        ("lidc_edit", {"viewer": False}, "viewer: is a setting of the command"),
        ("lidc_edit", {"edit_margin_mm": 7}, "edit_margin_mm=7 must be 0 or what the network"),
        ("lidc_edit", {"device": "tpu"}, "device=tpu must be auto, cpu"),
        ("lidc_edit", {"precision": "fp8"}, "precision=fp8 must be"),
        ("lidc_edit", {"sampler": "euler"}, "sampler='euler' must be one of"),
    ],
)
def test_what_cannot_be_loaded_is_refused(given, settings, said):
    with pytest.raises(UserError, match=said):
        Painter.load(given, **settings)


def test_a_painter_without_settings_says_what_to_do(painter, scan):
    from dataclasses import replace

    with pytest.raises(UserError, match="make it by Painter.load"):
        replace(painter, settings=None).paint(*scan)


def test_bundled_weights_are_found_by_name():
    painter = Painter.load("lidc_edit", device="cpu")
    assert painter.textures == ("ground-glass", "part-solid", "solid") and painter.edit_margin_mm == 4
    assert Painter.load("lidc_small", data_type="chest_ct", device="cpu").settings.spacing_mm == [1, 1, 1]


def test_the_package_is_light_until_a_painter_is_asked_for():
    program = (
        "import sys, LeFusion\nassert 'torch' not in sys.modules and 'hydra' not in sys.modules\n"
        "from LeFusion import Painter\nassert Painter.load and LeFusion.UserError\n"
        "try:\n    LeFusion.nothing\nexcept AttributeError as error:\n    print(error)"
    )
    run = subprocess.run([sys.executable, "-c", program], cwd=PROJECT_ROOT, capture_output=True, text=True)
    assert run.stdout.strip() == "module 'LeFusion' has no attribute 'nothing'", run.stderr


def test_the_examples_of_the_docs_run(monkeypatch, tmp_path):
    text = (PROJECT_ROOT / "docs" / "api.md").read_text()
    examples = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").symlink_to(PROJECT_ROOT / "data")
    names = {}
    load = Painter.load.__func__
    quick = classmethod(lambda cls, *args, **settings: load(cls, *args, **{"num_steps": 1} | settings))
    monkeypatch.setattr(Painter, "load", quick)
    for example in examples:
        exec(example, names)
    assert len(examples) >= 4 and (tmp_path / "painted.nii.gz").is_file()
