"""Painting as a function: arrays in, array out, the same voxels as the command writes."""

import csv
import re
from dataclasses import replace
from types import SimpleNamespace

import nibabel
import numpy as np
import pytest
import torch

import LeFusion.inference.inference as inference
from LeFusion.dataset.cases import Case, Layout
from LeFusion.dataset.loading import load_case
from LeFusion.dataset.volume import Volume
from LeFusion.diffusion import load_checkpoint
from LeFusion.errors import UserError
from LeFusion.painter import Painter, paint_lesions
from LeFusion.painting import SamplerSettings
from LeFusion.runtime.commandline import PROJECT_ROOT
from LeFusion.textures.histograms import condition_from_counts

SHAPE, SIZE = (20, 48, 40), (8, 16, 16)
AFFINE = np.diag([0.8, 0.9, 2.0, 1.0])
COUNTS = [0, 0, 0, 1, 2, 4, 5, 3, 1, 0, 0, 0, 0, 0, 0, 0]
# Two that are near each other, but do not fit one box together, and one far from them
LESIONS = (
    (slice(2, 5), slice(3, 8), slice(4, 8)),
    (slice(4, 8), slice(18, 22), slice(5, 9)),
    (slice(15, 17), slice(40, 45), slice(30, 36)),
)


@pytest.fixture
def scan():
    """(image, labels) as LIDC stores them."""
    image = np.random.default_rng(0).integers(-900, 300, SHAPE).astype(np.int16)
    labels = np.zeros(SHAPE, np.uint8)
    for number, place in enumerate(LESIONS, start=1):
        labels[place] = number
    return image, labels


@pytest.fixture
def painter(save_network):
    checkpoint = load_checkpoint(save_network(), "ema")
    return Painter.of(checkpoint, SamplerSettings("ddim", num_steps=2), SIZE)


@pytest.fixture
def paint(command, save_network, tmp_path, monkeypatch):
    """-> paint(image, labels, *overrides): the image and the labels that the command writes."""
    monkeypatch.setattr(inference, "save_preview", lambda path, *_: path)
    network = save_network()

    def call(image, labels, *overrides, affine=AFFINE):
        for folder, name, array in (("Image", "a_Vol_1", image), ("Mask", "a_Mask_1", labels)):
            (tmp_path / folder).mkdir(exist_ok=True)
            nibabel.save(nibabel.Nifti1Image(array, affine), tmp_path / folder / f"{name}.nii.gz")
        code, _, error = command(
            inference.main,
            "inference",
            f"model_path={network}",
            f"dataset_root_dir={tmp_path}",
            f"target_img_path={tmp_path / 'out'}",
            f"target_label_path={tmp_path / 'out'}",
            "diffusion_depth_size=8",
            "diffusion_img_size=16",
            f"condition={COUNTS}",
            "histogram_perturbation=0",
            "types=1",
            "num_steps=2",
            "device=cpu",
            "seed=5",
            *overrides,
        )
        assert code == 0, error
        folder = tmp_path / "out"
        paths = folder / "Image_1" / "a_Vol_1.nii.gz", next((folder / "Mask_1").iterdir())
        return [np.asanyarray(nibabel.load(path).dataobj) for path in paths]

    return call


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("region", ["whole", "lesion"])
def test_the_function_paints_what_the_command_writes(paint, painter, save_network, scan, count, region):
    image, numbers = scan
    labels = ((numbers > 0) & (numbers <= count)).astype(np.uint8)
    written, written_labels = paint(image, labels, f"region={region}", "batch_size=3")
    given = image.copy(), labels.copy()
    painter = Painter.of(load_checkpoint(save_network(), "ema"), painter.sampler, SIZE, region, margin=4)
    histogram = condition_from_counts(COUNTS, 16, 16)
    painted = paint_lesions(
        painter, image, labels, histogram, Layout(), (-1000, 400), seed=5, name="a_Vol_1", kind=1
    )
    assert painted.dtype == image.dtype and np.array_equal(painted, written)
    assert np.array_equal(written_labels, labels)
    assert np.array_equal(painted[labels == 0], image[labels == 0])
    for number in range(1, count + 1):
        lesion = numbers == number
        assert (painted[lesion] != image[lesion]).mean() > 0.9
    assert np.array_equal(image, given[0]) and np.array_equal(labels, given[1])  # nothing given is changed


def test_a_function_call_on_a_resampled_grid_is_the_command_s(paint, painter, scan):
    image, numbers = scan
    labels = (numbers > 0).astype(np.uint8)
    spacing = "spacing_mm=[1,0.9,1.8]"
    written, _ = paint(image, labels, spacing)
    histogram = condition_from_counts(COUNTS, 16, 16)
    options = {"affine": AFFINE, "spacing_mm": (1, 0.9, 1.8), "seed": 5, "name": "a_Vol_1"}
    painted = paint_lesions(painter, image, labels, histogram, Layout(), (-1000, 400), **options)
    assert np.array_equal(painted, written)


@pytest.mark.parametrize("dtype, factor", [(np.int16, 1), (np.float32, 1.37)])
def test_on_a_resampled_grid_the_scan_stays_where_the_network_changes_nothing(
    painter, scan, monkeypatch, dtype, factor
):
    image, numbers = (scan[0].astype(dtype) * dtype(factor)), scan[1]
    image[::3] = 2000  # beyond the window
    painter = replace(painter, edit_margin_mm=2.0)
    added = []

    def paint(self, tasks):
        (task,) = tasks
        seen = task.loaded.image_under(task.earlier, task.boxes[task.number])
        return (seen + added[0] * (seen < 0.9))[None]

    monkeypatch.setattr(Painter, "paint_boxes", paint)
    options = {"affine": AFFINE, "spacing_mm": (1, 0.9, 1.8), "name": "a"}
    given = (painter, image, (numbers > 0).astype(np.uint8), None, Layout(), (-1000, 400))
    added[:] = [0.0]
    assert np.array_equal(paint_lesions(*given, **options), image)
    added[:] = [0.1]
    inside = (numbers > 0) & (image > -1000) & (image < 300)
    moved = paint_lesions(*given, **options)[inside].astype(float) - image[inside]
    assert 0 < moved.min() + 1 and moved.max() <= 71 and moved.mean() > 20  # 70 HU, less beside bright voxels


@pytest.mark.parametrize("spacing", [None, (1, 0.9, 1.8)])
def test_lesions_beside_each_other_keep_their_own_paint(painter, scan, spacing):
    """The rim of a lesion reaches into its neighbour: the neighbour's voxels are painted for itself alone."""
    image, labels = scan[0], np.zeros(SHAPE, np.uint8)
    labels[2:8, 4:18, 4:18], labels[2:8, 19:33, 4:18] = 1, 2  # one voxel apart, a box each
    affine = {"affine": AFFINE, "spacing_mm": spacing}
    layout = Layout(instances=True)
    edits = []
    painter = replace(painter, edit_margin_mm=2.0, region="lesion")
    paint = Painter.paint_boxes

    def watched(self, tasks):
        (task,) = tasks
        edits.append((self._edit(task.loaded, task.loaded.parts(SIZE)[task.number], task.loaded.whole), task))
        return paint(self, tasks)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Painter, "paint_boxes", watched)
        painted = paint_lesions(painter, image, labels, None, layout, (-1000, 400), name="a", **affine)
    assert len(edits) == 2
    for edit, task in edits:
        own, other = (
            task.loaded.parts(SIZE)[n].lesions(task.loaded.whole) for n in (task.number, 1 - task.number)
        )
        assert bool((edit & ~own).any()) and torch.equal(edit & own, own)
        assert not bool((edit & other & ~own).any())
    assert (painted[labels > 0] != image[labels > 0]).mean() > 0.8
    (case,) = {id(task.loaded): task.loaded for _, task in edits}.values()
    stored = case.axes.to_stored(painter.stored_edit(case))
    assert np.array_equal(painted[~stored], image[~stored]) and (stored & (labels == 0)).any()


def test_the_first_part_has_the_noise_of_a_lesion_alone(painter, scan):
    image, numbers = scan
    paint = {
        count: paint_lesions(
            painter, image, (numbers <= count) * (numbers > 0), None, Layout(), (-1000, 400), name="a"
        )
        for count in (1, 3)
    }
    assert np.array_equal(paint[1][LESIONS[0]], paint[3][LESIONS[0]])


def test_instances_are_written_as_they_were_read(paint, scan):
    image, numbers = scan
    written, labels = paint(image, numbers, "layout.instances=true")
    assert np.array_equal(labels, numbers)
    assert np.array_equal(written, paint(image, (numbers > 0).astype(np.uint8), "overwrite=true")[0])


def test_the_manifest_has_one_row_over_all_lesions(paint, scan, tmp_path):
    image, numbers = scan
    labels = (numbers > 0).astype(np.uint8)
    written, _ = paint(image, labels)
    with open(tmp_path / "out" / "manifest.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    assert float(row["lesion_mean"]) == pytest.approx(written[labels == 1].mean(), rel=1e-4)
    assert float(row["source_mean"]) == pytest.approx(image[labels == 1].mean(), rel=1e-4)
    assert float(row["max_abs_difference_outside"]) == 0


@pytest.mark.parametrize(
    "gpu, sizes", [(False, [(5, 8, 8), (6, 8, 8), (4, 8, 8)]), (True, [(8, 16, 16)] * 3)]
)
def test_on_a_gpu_lesions_of_like_size_have_boxes_of_one_size(tmp_path, scan, gpu, sizes):
    image, numbers = scan
    labels = (numbers > 0).astype(np.uint8)
    case = Case("a", tmp_path / "a", tmp_path / "mask")
    read = {
        case.image_path: Volume(case.image_path, image, 1, 0, AFFINE, None),
        case.mask_path: Volume(case.mask_path, labels, 1, 0, AFFINE, None),
    }.get
    loaded = load_case(case, Layout(), (-1000, 400), read=read)
    network = SimpleNamespace(
        plane_multiple=8,
        parameters=lambda: iter([SimpleNamespace(device=torch.device("cuda" if gpu else "cpu"))]),
    )
    painter = Painter(network, None, None, None, SIZE, "lesion", 1)
    assert [box.size for box in painter.boxes(loaded)] == sizes


def test_later_lesions_see_the_earlier_ones(painter, scan, monkeypatch):
    image, numbers = scan
    labels = (numbers > 0).astype(np.uint8)
    seen = {}
    paint = Painter.paint_boxes

    def watched(self, tasks):
        (task,) = tasks
        seen[task.number] = task.loaded.image_under(task.earlier, task.loaded.whole)[0]
        return paint(self, tasks)

    monkeypatch.setattr(Painter, "paint_boxes", watched)
    painted = paint_lesions(painter, image, labels, None, Layout(), (-1000, 400))
    expected = torch.from_numpy(painted[LESIONS[0]].astype(np.float32) + 1000) / 700 - 1
    assert torch.allclose(seen[1][LESIONS[0]], expected, atol=1 / 700)


def test_the_example_of_the_docs_runs(monkeypatch):
    text = (PROJECT_ROOT / "docs" / "painting.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    monkeypatch.chdir(PROJECT_ROOT)
    names = {}
    exec(example.replace("num_steps=10", "num_steps=1"), names)
    lesion = names["labels"] == 1
    assert (names["painted"] != names["image"])[lesion].mean() > 0.9


@pytest.mark.parametrize(
    "changes, text",
    [
        ({"labels": np.ones((2, 3, 4), np.uint8)}, "labels of a: has shape"),
        ({"labels": np.full(SHAPE, 7, np.uint8)}, "labels of a: holds the unknown values 7"),
        ({"labels": np.ones(SHAPE, np.uint8)}, "the lesion spans"),
        ({"affine": np.zeros((4, 4)), "spacing_mm": (1, 1, 1)}, "a: its affine"),
    ],
)
def test_what_does_not_fit_is_refused(painter, scan, changes, text):
    given = {"image": scan[0], "labels": (scan[1] > 0).astype(np.uint8), "histogram": None, "name": "a"}
    with pytest.raises(UserError, match=text):
        paint_lesions(painter, layout=Layout(), window=(-1000, 400), **(given | changes))
