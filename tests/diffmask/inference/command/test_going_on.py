"""Masks that exist: kept, stale, lost, or of another setting; runs that were interrupted or shared out."""

import numpy as np
import pytest
import torch
from made_masks import OBLIQUE, SCANS, SHAPE, lung_hu, masks, stored, table, write
from refusals import assert_refused

import DiffMask.inference.masks as making
from LeFusion.errors import UserError


def empty_for(monkeypatch, is_empty):
    """A network that answers with nothing where is_empty(scan, number, attempt), else with the sphere."""

    def answer(network, schedule, spheres, asked, *settings):
        rows = [-torch.ones_like(s) if is_empty(*a[2:]) else s for s, a in zip(spheres, asked, strict=True)]
        return torch.stack(rows)

    monkeypatch.setattr(making, "sample_masks", answer)


@pytest.mark.usefixtures("quick")
def test_finished_masks_are_kept_and_lost_ones_made_again(make, tmp_path, files, monkeypatch):
    make("masks_per_scan=2")
    before = files(tmp_path / "out")
    with monkeypatch.context() as patch:
        patch.setattr(making, "sample_masks", None)
        code, out, error = make("masks_per_scan=2")
    assert code == 0 and "0 masks to make, 4 kept" in out and "note:" not in out, error
    assert files(tmp_path / "out") == before
    lost, kept = (f"Mask/{SCANS[i]}_GenMask_2.nii.gz" for i in (0, 1))
    (tmp_path / "out" / lost).unlink()
    time = (tmp_path / "out" / kept).stat().st_mtime_ns
    code, out, _ = make("masks_per_scan=2")
    assert code == 0 and "1 masks to make, 3 kept" in out and files(tmp_path / "out") == before
    assert (tmp_path / "out" / kept).stat().st_mtime_ns == time
    (tmp_path / "out" / "masks.csv").unlink()
    code, out, _ = make("masks_per_scan=2")
    assert code == 0 and "4 masks to make" in out and files(tmp_path / "out") == before
    code, out, _ = make("masks_per_scan=3")
    after = files(tmp_path / "out")
    assert "2 masks to make, 4 kept" in out and len(masks(after)) == 6
    assert all(after[name] == data for name, data in masks(before).items())


@pytest.mark.usefixtures("quick")
def test_masks_of_an_edited_scan_are_stale(make, scans, tmp_path, files):
    make()
    before = files(tmp_path / "out")
    path = scans / "Image" / f"{SCANS[0]}.nii.gz"
    hu = lung_hu()
    hu[0, 0, 0] += 1
    write(path, hu)
    code, out, error = make()
    assert code == 0 and "stale: 1 masks" in out and f"made again: {SCANS[0]}_GenMask_1\n" in out, error
    assert "1 masks to make, 1 kept" in out and masks(files(tmp_path / "out")) == masks(before)
    write(path, hu[:-1])  # on another grid
    assert "1 masks to make, 1 kept" in make()[1]
    assert stored(tmp_path / "out" / "Mask" / f"{SCANS[0]}_GenMask_1.nii.gz").shape == hu[:-1].shape
    write(path, lung_hu(), OBLIQUE + np.eye(4, k=3))  # elsewhere
    assert "1 masks to make, 1 kept" in make()[1]
    assert "0 masks to make, 2 kept" in make()[1]


@pytest.mark.usefixtures("quick")
def test_masks_of_other_weights_under_one_name_are_stale(make, save_mask_network, tmp_path):
    make()
    save_mask_network(step=4)
    code, out, error = make()
    assert code == 0 and "stale: 2 masks" in out and "2 masks to make, 0 kept" in out, error
    assert "0 masks to make, 2 kept" in make()[1]


@pytest.mark.usefixtures("quick", "spheres_are_masks")
def test_masks_of_edited_spheres_and_organs_are_stale(make, scans, tmp_path):
    organ = np.ones(SHAPE, np.uint8)
    for name in SCANS:
        write(tmp_path / "organs" / f"{name}.nii.gz", organ)
    spheres = tmp_path / "spheres.csv"
    centres = [",".join(str(v) for v in (OBLIQUE @ (12, 20, 30 - n, 1))[:3]) for n in range(2)]

    def again(first):
        rows = [f"{name},{row},6\n" for name, row in zip(SCANS, (first, centres[0]), strict=True)]
        spheres.write_text("case,x,y,z,diameter_mm\n" + "".join(rows))
        code, out, error = make(f"spheres={spheres}", f"organ_masks={tmp_path / 'organs'}")
        assert code == 0, error
        return out

    assert "2 masks to make, 0 kept" in again(centres[0])
    assert "0 masks to make, 2 kept" in again(centres[0])
    assert f"made again: {SCANS[0]}_GenMask_1\n" in again(centres[1])
    organ[0, 0, 0] = 0
    write(tmp_path / "organs" / f"{SCANS[1]}.nii.gz", organ)
    assert f"made again: {SCANS[1]}_GenMask_1\n" in again(centres[1])


@pytest.mark.usefixtures("quick")
def test_overwrite_makes_masks_again(make, tmp_path, files):
    make()
    before = files(tmp_path / "out")
    (tmp_path / "out" / "Mask" / f"{SCANS[0]}_GenMask_1.nii.gz").write_bytes(b"damaged")
    code, out, _ = make("overwrite=true")
    assert code == 0 and "2 masks to make, 0 kept" in out and files(tmp_path / "out") == before


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    "change",
    [
        "seed=1",
        "weights=model",
        "mask_sampler=repaint",
        "num_steps=3",
        "smoothing=2",
        "diameter_mm=5",
        "border_mm=8",
    ],
)
def test_another_setting_gives_other_masks_and_is_noted(make, tmp_path, files, change):
    if change == "weights=model":
        make("weights=ema")
    else:
        make()
    before = masks(files(tmp_path / "out"))
    code, out, error = make(change)
    assert code == 0 and masks(files(tmp_path / "out")) == before, error
    assert "note: 2 of the kept masks were made with other settings" in out
    code, out, _ = make(change, "overwrite=true")
    after = masks(files(tmp_path / "out"))
    assert code == 0 and "note:" not in out and set(after) == set(before)
    assert all(after[name] != before[name] for name in before)


@pytest.mark.usefixtures("quick")
def test_an_interrupted_run_goes_on(make, tmp_path, files, monkeypatch):
    unbroken = tmp_path / "unbroken" / "out"
    make("masks_per_scan=2", f"output_dir={unbroken}")
    real, calls = making.sample_masks, []

    def interrupted(*arguments):
        calls.append(1)
        if len(calls) == 3:
            raise UserError("the power went out")
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(making, "sample_masks", interrupted)
        assert_refused(make("masks_per_scan=2", "batch_size=1"), "the power went out")
    partial, expected = files(tmp_path / "out"), files(unbroken)
    assert sorted(partial) == [
        *(f"Mask/{SCANS[0]}_GenMask_{n}.nii.gz" for n in (1, 2)),
        "masks.part-0-of-1.jsonl",
    ]
    assert all(expected[name] == data for name, data in masks(partial).items())
    code, out, error = make("masks_per_scan=2", "batch_size=1")
    assert code == 0 and "2 masks to make, 2 kept" in out, error
    assert files(tmp_path / "out") == expected


@pytest.mark.usefixtures("quick")
def test_a_mask_that_is_always_empty_is_an_error_with_scan_and_seed(make, scans, tmp_path, monkeypatch):
    empty_for(monkeypatch, lambda *_: True)
    path = scans / "Image" / f"{SCANS[0]}.nii.gz"
    result = make("seed=7", "max_redraws=2", "masks_per_scan=2")
    assert_refused(result, path, "mask 1", "empty in 3 draws", "seed=7")
    assert not (tmp_path / "out").exists()
    assert_refused(make("skip_bad_cases=true", "max_redraws=0"), "no mask was made", path, "1 draws")


@pytest.mark.usefixtures("quick")
def test_an_empty_mask_is_drawn_again_with_other_noise(make, tmp_path, monkeypatch):
    asked = []

    def until_the_third(scan, number, attempt):
        asked.append((scan, number, attempt))
        return (scan, attempt) in ((SCANS[1], 0), (SCANS[1], 1))

    empty_for(monkeypatch, until_the_third)
    code, _, error = make()
    assert code == 0, error
    assert [row["draws"] for row in table(tmp_path / "out")] == ["1", "3"]
    assert asked == [(SCANS[0], 1, 0), *((SCANS[1], 1, attempt) for attempt in (0, 1, 2))]


@pytest.mark.usefixtures("quick")
def test_after_an_empty_mask_the_others_are_kept(make, tmp_path, files, monkeypatch):
    with monkeypatch.context() as patch:
        empty_for(patch, lambda scan, *_: scan == SCANS[1])
        assert_refused(make("max_redraws=1"), SCANS[1], "2 draws")
        partial = files(tmp_path / "out")
        assert sorted(partial) == [f"Mask/{SCANS[0]}_GenMask_1.nii.gz", "masks.part-0-of-1.jsonl"]
        code, out, error = make("max_redraws=1", "skip_bad_cases=true")
        assert code == 0, error
        (reason,) = [line for line in out.split("\n") if line.startswith("skipped: ")]
        assert SCANS[1] in reason and "seed=0" in reason
        assert masks(files(tmp_path / "out")) == masks(partial) and len(table(tmp_path / "out")) == 1
        assert "wrote 0 masks" in out and "1 kept, 1 skipped" in out
    empty_for(monkeypatch, lambda *_: False)
    code, out, _ = make()
    assert code == 0 and "1 masks to make, 1 kept" in out
    assert masks(partial).items() < masks(files(tmp_path / "out")).items()


@pytest.mark.usefixtures("quick")
def test_a_mask_whose_row_is_lost_and_that_comes_out_empty(make, tmp_path, monkeypatch):
    make()
    (tmp_path / "out" / "masks.csv").unlink()
    empty_for(monkeypatch, lambda scan, *_: scan == SCANS[1])
    code, out, error = make("skip_bad_cases=true")
    assert code == 0 and f"skipped: {tmp_path}" in out, error


def test_jobs_of_an_array_make_what_one_makes(make, tmp_path, files):
    make("masks_per_scan=2")
    one = files(tmp_path / "out")
    (tmp_path / "out").rename(tmp_path / "one")
    for job in (1, 0):
        code, out, error = make("masks_per_scan=2", "shards=2", f"shard={job}")
        assert code == 0 and "joins the tables" in out, error
    assert not (tmp_path / "out" / "masks.csv").exists()
    code, out, error = make("masks_per_scan=2")
    assert code == 0 and f"0 masks to make, {2 * len(SCANS)} kept" in out, error
    assert files(tmp_path / "out") == one


@pytest.mark.usefixtures("quick")
def test_memory_that_runs_out_changes_no_mask(make, tmp_path, files, monkeypatch):
    make("masks_per_scan=2")
    one = files(tmp_path / "out")
    (tmp_path / "out").rename(tmp_path / "one")
    sizes, real = [], making.sample_masks

    def full(network, schedule, spheres, *rest):
        sizes.append(len(spheres))
        if len(spheres) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(network, schedule, spheres, *rest)

    monkeypatch.setattr(making, "sample_masks", full)
    code, out, error = make("masks_per_scan=2", "batch_size=2")
    assert code == 0 and "out of memory with 2 samples at once; going on with 1" in out, error
    assert sizes[:2] == [2, 1] and set(sizes[1:]) == {1}
    assert files(tmp_path / "out") == one
