"""The command that fits texture types: from a table, from a data set, and what it refuses."""

import csv
import os
import subprocess
import sys

import nibabel
import numpy as np
import pytest

import LeFusion.inference.fit_textures as fit_textures
from LeFusion.dataset.cases import Layout
from LeFusion.dataset.loading import load_case
from LeFusion.runtime.commandline import PROJECT_ROOT
from LeFusion.textures.fitted import read_textures
from LeFusion.textures.histograms import lesion_histogram
from LeFusion.textures.picture import ExampleImages

SCRIPT = PROJECT_ROOT / "LeFusion" / "inference" / "fit_textures.py"


@pytest.fixture
def fit(tmp_path, command):
    """-> fit(*overrides): runs the command with its output in tmp_path/out; (exit code, stdout, stderr)."""

    def call(*overrides):
        output = [] if any(o.startswith("output=") for o in overrides) else [f"output={tmp_path}/out/t.json"]
        return command(fit_textures.main, "fit_textures", *output, *overrides)

    return call


def write_table(path, rows, columns=16, names=True):
    """rows: (name, values)."""
    header = [*(["name"] if names else []), "voxels", *(f"h{number:02d}" for number in range(columns))]
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows([*([name] if names else []), 9, *values] for name, values in rows)
    return path


def spikes(*bins):
    """Rows with most voxels in one bin, as counts."""
    return [(f"N{number}", 100 * np.eye(16, dtype=int)[b] + 1) for number, b in enumerate(bins)]


def assert_refused(result, *texts):
    """Exit code 1 and one line on stderr that holds these texts."""
    code, out, error = result
    assert code == 1 and error.rpartition("\r")[2].startswith("error: ") and error.count("\n") == 1, error
    assert "wrote" not in out
    for text in texts:
        assert str(text) in error, error


def types_of(path):
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["case", "type"]
    return {row["case"]: int(row["type"]) for row in rows}


@pytest.fixture
def table(tmp_path):
    return write_table(tmp_path / "lesions.csv", spikes(12, 3, 4, 12, 13, 3))


@pytest.mark.parametrize("types", ["2", "auto"])
def test_from_a_table(fit, table, tmp_path, files, types):
    code, out, error = fit(f"histograms_csv={table}", f"types={types}")
    assert code == 0, error
    assert sorted(files(tmp_path / "out")) == ["t.csv", "t.json", "t.png"]
    textures = read_textures(tmp_path / "out" / "t.json")
    dark, bright = textures.types
    assert (textures.data_type, textures.bins, textures.window) == ("lidc", 16, (-1000, 400))
    assert (dark.lesions, dark.share, dark.medoid) == (3, 0.5, "N1")
    assert dark.histogram[3] == pytest.approx(101 / 116, abs=1e-6) and bright.medoid == "N0"
    assert types_of(tmp_path / "out" / "t.csv") == {"N0": 2, "N1": 1, "N2": 1, "N3": 2, "N4": 2, "N5": 1}
    lines = [line.split("|")[1:-1] for line in out.splitlines() if line.startswith("| type ")]
    assert [line[1].strip() for line in lines] == ["lesions", "3", "3"] and "mean intensity (HU)" in out
    assert lines[1][3].strip() == str(round(dark.mean_intensity)) and lines[1][2].strip() == "50%"
    for name in ("t.json", "t.png", "t.csv"):
        assert f"wrote {tmp_path / 'out' / name}" in out
    assert (tmp_path / "out" / "t.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_rows_in_any_order_give_the_same_files(fit, table, tmp_path, files):
    fit(f"histograms_csv={table}", "types=3")
    before = files(tmp_path / "out")
    write_table(table, spikes(12, 3, 4, 12, 13, 3)[::-1])
    fit(f"histograms_csv={table}", "types=3")
    assert files(tmp_path / "out") == before


def test_a_table_without_names(fit, table, tmp_path):
    write_table(table, spikes(12, 3, 12, 3), names=False)
    assert fit(f"histograms_csv={table}", "types=2")[0] == 0
    assert list(types_of(tmp_path / "out" / "t.csv")) == ["row 1", "row 2", "row 3", "row 4"]


@pytest.mark.parametrize("extra", ["types=2", "types=1"])
def test_from_a_data_set(fit, lidc, tmp_path, extra):
    sick = lidc / "Pathological"
    code, out, error = fit(f"dataset_root_dir={sick / 'Image'}", f"test_txt_dir={sick / 'test.txt'}", extra)
    assert code == 0, error
    names = [f"P-000{number}_Vol_1" for number in (1, 2, 3)]  # the fourth is a test case
    assert list(types_of(tmp_path / "out" / "t.csv")) == names
    textures = read_textures(tmp_path / "out" / "t.json")
    cases = fit_textures.find_cases(sick, Layout())
    expected = {
        case.name: lesion_histogram(loaded.image_dhw[None], loaded.lesions_dhw).tolist()
        for case, loaded in ((case, load_case(case, Layout(), (-1000, 400))) for case in cases)
    }
    for kind in textures.types:
        assert kind.medoid in names and kind.histogram == pytest.approx(expected[kind.medoid], abs=1e-6)
    if extra == "types=1":
        out = " ".join(out.split())
        assert "| type 1 | 3 | 100% |" in out and "| - |" in out


def test_a_lesion_larger_than_the_region_counts_as_a_whole(fit, lidc, tmp_path):
    fit_args = [f"dataset_root_dir={lidc / 'Pathological'}", "test_txt_dir=null", "split=all", "types=2"]
    assert fit(*fit_args)[0] == 0
    whole = (tmp_path / "out" / "t.json").read_bytes()
    assert fit(*fit_args, "diffusion_depth_size=2", "diffusion_img_size=2")[0] == 0
    assert (tmp_path / "out" / "t.json").read_bytes() == whole


def write_heart(root, name, level, with_second, seed):
    """Depth last; label 3 about `level` of the range of 0 to 255 and, if wanted, label 4 a little darker."""
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (24, 20, 3)).astype(np.int16)
    image[0, 0, 0], image[0, 0, 1] = 0, 255
    labels = np.zeros(image.shape, np.uint8)
    labels[2:20, 2:18, 1] = 2
    labels[8:14, 6:12, 1] = 3
    if with_second:
        labels[10:12, 8:10, 1] = 4
    image[labels == 3] = level + rng.integers(-5, 5, (labels == 3).sum())
    image[labels == 4] = level - 60 + rng.integers(-5, 5, (labels == 4).sum())
    for folder, array in (("images", image), ("labels", labels)):
        (root / folder).mkdir(parents=True, exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(array, np.diag([1.5, 1.5, 10, 1])), root / folder / f"{name}.nii.gz")


HEART = [
    "layout.image_folder=images",
    "layout.mask_folder=labels",
    "layout.mask_names=[]",
    "layout.lesion_labels=[3,4]",
    "layout.other_labels=[1,2]",
    "layout.depth_axis=2",
    "window=minmax",
    "cond_dim=32",
]


def test_two_classes_of_which_one_may_be_absent(fit, tmp_path):
    root = tmp_path / "heart"
    for number, (level, second) in enumerate(
        [(210, False), (215, True), (212, False), (110, False), (105, True)]
    ):
        write_heart(root, f"P{number}", level, second, seed=number)
    code, out, error = fit(*HEART, f"dataset_root_dir={root}", "test_txt_dir=null", "split=all", "types=2")
    assert code == 0, error
    textures = read_textures(tmp_path / "out" / "t.json")
    assert (textures.classes, textures.window) == (2, "minmax")
    assert [(kind.medoid, kind.lesions) for kind in textures.types] == [("P4", 2), ("P1", 3)]
    assert textures.types[1].mean_intensity == pytest.approx((215 + 155) / 2 / 255, abs=0.04)
    assert "mean intensity (share of the volume's range)" in out and "| 0.3" in out


def test_the_picture_names_the_labels_and_shows_lesions_unless_told_otherwise(fit, tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(fit_textures, "save_texture_picture", lambda *given: shown.append(given[4:]))
    for number in range(4):
        write_heart(tmp_path / "hearts", f"Case_P{number}", 150 + 20 * number, number % 2 == 0, seed=number)
    common = (f"dataset_root_dir={tmp_path / 'hearts'}", "data_type=emidec", "test_txt_dir=null", "split=all")
    for words in ((), ("show_lesions=false",), ("label_names=null",)):
        code, _, error = fit(*common, "types=2", *words)
        assert code == 0, error
    assert shown[0][0] == ["infarct", "no-reflow"] and isinstance(shown[0][2], ExampleImages)
    assert shown[1][2] is None
    assert shown[2][0] == ["label 3", "label 4"]


def test_the_example_is_a_square_around_the_largest_slice(lidc):
    cases = fit_textures.find_cases(lidc / "Pathological", Layout())
    image, lesions = ExampleImages(cases, Layout(), (-1000, 400)).slice(0)
    assert image.shape == (16, 16) and lesions.shape == (1, 16, 16) and lesions.sum() == 5 * 4
    loaded = load_case(cases[0], Layout(), (-1000, 400))
    level = int(np.flatnonzero(loaded.lesions_dhw[0].any(dim=2).any(dim=1))[0])
    np.testing.assert_array_equal(image[lesions[0]], loaded.image_dhw[level][loaded.lesions_dhw[0, level]])


# --- what is refused


@pytest.mark.parametrize(
    "row, texts",
    [
        ([-1] + [1] * 15, ["line 4", "-1.0", "numbers >= 0"]),
        (["nan"] + [1] * 15, ["line 4", "nan", "finite"]),
        ([""] + [1] * 15, ["line 4", "finite"]),
        (["a"] + [1] * 15, ["line 4", "'a'"]),
        ([0] * 16, ["line 4", "all zero"]),
        ([1] * 15, ["line 4", "finite"]),
        ([1] * 18, ["line 4", "2 values more than the header"]),
    ],
)
def test_a_bad_row_is_named(fit, table, tmp_path, row, texts):
    rows = spikes(12, 3, 4, 12)
    rows[2] = ("N2", row)
    write_table(table, rows)
    assert_refused(fit(f"histograms_csv={table}", "types=2"), table, *texts)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "content, texts",
    [
        ("", ["h00 to h15", "none of them"]),
        ("name,mean\nA,3\n", ["h00 to h15", "none of them"]),
        ("name," + ",".join(f"h{i:02d}" for i in range(16)) + "\n", ["has no lesion"]),
        ("name," + ",".join(f"h{i:02d}" for i in range(32)) + "\n", ["cond_dim=16", "h31"]),
        ("name," + ",".join(f"h{i:02d}" for i in range(15)) + "\n", ["cond_dim=16", "h14"]),
    ],
)
def test_a_bad_table_is_refused(fit, table, tmp_path, content, texts):
    table.write_text(content)
    assert_refused(fit(f"histograms_csv={table}"), table, *texts)
    assert not (tmp_path / "out").exists()


def test_binary_and_missing_tables_are_refused(fit, table):
    table.write_bytes(b"\xff\xfe\x00name")
    assert_refused(fit(f"histograms_csv={table}"), table, "no table")
    table.unlink()
    assert_refused(fit(f"histograms_csv={table}"), table, "no such file")


def test_names_that_occur_twice_are_refused(fit, table):
    rows = spikes(12, 3, 4)
    write_table(table, [*rows, rows[1]])
    assert_refused(fit(f"histograms_csv={table}"), table, "line 5", "'N1'", "only once")


@pytest.mark.parametrize(
    "overrides, texts",
    [
        (["types=7"], ["types=7", "got 4"]),
        (["types=0"], ["types=0", "at least 1"]),
        (["types=three"], ["types=three"]),
        (["seed=-1"], ["seed=-1"]),
        (["histogram_bins=8", "cond_dim=16"], ["cond_dim=16 must be 8", "1 classes x 8 bins"]),
        (["output=null"], ["output=null must be the path of a .json file"]),
        (["output=types.yaml"], ["types.yaml", ".json"]),
    ],
)
def test_bad_settings_are_refused(fit, table, tmp_path, overrides, texts):
    assert_refused(fit(f"histograms_csv={table}", *overrides), *texts)
    assert not (tmp_path / "out").exists()


def test_the_table_is_not_overwritten(fit, table, files):
    before = files(table.parent)
    assert_refused(
        fit(f"histograms_csv={table}", f"output={table.with_suffix('.json')}"), table, "another output"
    )
    assert files(table.parent) == before


def test_a_place_that_cannot_be_written_is_refused_before_work(fit, table, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setattr(fit_textures, "read_histograms", lambda *_: pytest.fail("too late"))
    assert_refused(
        fit(f"histograms_csv={table}", f"output={tmp_path}/file/t.json"), "cannot be written", "file"
    )


def test_a_full_disk_leaves_no_json(fit, table, tmp_path, monkeypatch):
    """The picture and the table come first, so that types are never there without them."""
    written = []

    def replace(source, target):
        if len(written) == 2:
            raise OSError(28, "No space left on device")
        written.append(os.path.basename(target))
        os.rename(source, target)

    monkeypatch.setattr(os, "replace", replace)
    assert_refused(fit(f"histograms_csv={table}", "types=2"), "t.json", "No space left")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["t.csv", "t.png"] == sorted(written)


def test_a_bad_data_set_is_refused(fit, lidc, tmp_path):
    sick = lidc / "Pathological"
    assert_refused(fit(f"dataset_root_dir={tmp_path}/none", "test_txt_dir=null"), "none", "no such folder")
    given = [f"dataset_root_dir={sick}", f"test_txt_dir={sick / 'test.txt'}"]
    assert_refused(fit(*given, "split=test", "types=2"), sick, "types=2", "got 1")
    next((sick / "Mask" / "P-0002").iterdir()).unlink()
    assert_refused(fit(*given, "types=2"), "P-0002", "missing")
    assert not (tmp_path / "out").exists()


def test_as_a_script(table, tmp_path):
    command = [sys.executable, str(SCRIPT), "histograms_csv=lesions.csv", "types=2", "output=here/a.json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert sorted(path.name for path in (tmp_path / "here").iterdir()) == ["a.csv", "a.json", "a.png"]
    assert read_textures(tmp_path / "here" / "a.json").types[0].lesions == 3


def test_help_and_misspelt_keys(command_line):
    code, out, _ = command_line(fit_textures.main, "--help")
    assert code == 0 and "histograms_csv" in out and "data_type: " in out
    code, _, error = command_line(fit_textures.main, "type=3")
    assert code == 1 and "type" in error
