"""Jobs and processes that share the work, and memory that runs out."""

import os
import subprocess
import sys

import pytest
import torch
from painted_regions import CASES, REGION, SCRIPT, manifest_of, volumes
from refusals import assert_refused

import LeFusion.box_painter as painter


def without_times(rows):
    return [{k: v for k, v in row.items() if k not in ("seconds", "image", "label")} for row in rows]


def test_jobs_of_an_array_do_what_one_does(paint, tmp_path, files):
    paint(out="one")
    for job in (2, 0, 1):
        code, out, error = paint("shards=3", f"shard={job}", "types=3")
        assert code == 0 and "3 to paint, 0 kept" in out and "joins them" in out, error
    assert not (tmp_path / "out" / "Image" / "manifest.csv").exists()
    code, out, error = paint()
    assert code == 0 and "0 to paint, 9 kept" in out, error
    assert volumes(files(tmp_path / "out")) == volumes(files(tmp_path / "one"))
    one, out = manifest_of(tmp_path / "one"), manifest_of(tmp_path / "out")
    assert without_times(one) == without_times(out) and all(row["seconds"] for row in out)
    assert sorted(files(tmp_path / "out")) == sorted(files(tmp_path / "one"))  # no part is left


def test_a_job_that_dies_and_starts_again_loses_and_repeats_nothing(paint, tmp_path, files, monkeypatch):
    paint("types=2", out="one")
    painted = []

    def dying(*arguments):
        if len(painted) == 1:
            raise KeyboardInterrupt
        painted.append(arguments)
        return real(*arguments)

    real = painter.paint
    with monkeypatch.context() as patch:
        patch.setattr(painter, "paint", dying)
        with pytest.raises(KeyboardInterrupt):
            paint("types=2", "shards=2", "shard=0", "batch_size=1")
    assert paint("types=2", "shards=2", "shard=1")[0] == 0  # the other job neither waits nor takes over
    assert len(volumes(files(tmp_path / "out"))) == 2 + 4
    code, out, _ = paint("types=2", "shards=2", "shard=0")
    assert code == 0 and "3 to paint, 1 kept" in out
    paint("types=2")
    assert volumes(files(tmp_path / "out")) == volumes(files(tmp_path / "one"))
    assert without_times(manifest_of(tmp_path / "out")) == without_times(manifest_of(tmp_path / "one"))


@pytest.mark.parametrize("given", [("shards=2", "shard=2"), ("shards=0",), ("shard=-1", "shards=2")])
def test_shares_that_do_not_exist_are_refused(paint, given):
    assert_refused(paint(*given), "shard")


def in_two_processes(lidc, tmp_path, *overrides):
    """The finished launch of two processes that paint the normal cases into the folder `two`."""
    model = next(tmp_path.glob("*.safetensors"))
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"),
        *(SCRIPT, *REGION, f"model_path={model}", f"dataset_root_dir={lidc / 'Normal' / 'Image'}"),
        *(f"target_img_path={tmp_path / 'two' / 'Image'}", f"target_label_path={tmp_path / 'two' / 'Mask'}"),
        *("num_steps=2", "types=2", "device=auto", *overrides),
    ]
    return subprocess.run(
        [str(word) for word in command],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def test_two_processes_write_what_one_writes(paint, lidc, tmp_path, files):
    paint("types=2", out="one")
    result = in_two_processes(lidc, tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("wrote 6 images") == 1, result.stdout
    assert volumes(files(tmp_path / "two")) == volumes(files(tmp_path / "one"))
    assert sorted(files(tmp_path / "two")) == sorted(files(tmp_path / "one"))
    rows = manifest_of(tmp_path / "two")
    assert without_times(rows) == without_times(manifest_of(tmp_path / "one"))
    assert {row["case"] for row in rows} == {f"{name}_CVol_2" for name in CASES}


def test_a_bad_case_of_one_process_is_said_without_a_traceback_of_the_other(lidc, save_network, tmp_path):
    save_network()
    (bad,) = (lidc / "Normal" / "Image").rglob("N-0002_*.nii.gz")  # of the second process
    bad.write_bytes(bad.read_bytes()[:300])
    result = in_two_processes(lidc, tmp_path)
    assert result.returncode == 1 and "RuntimeError" not in result.stderr, result.stderr
    errors = [line for line in result.stderr.splitlines() if line.startswith("error")]
    assert "error: stopped, as process 1 has met an error" in errors
    assert any(line.startswith(f"error (process 1): {bad}") for line in errors)
    assert not (tmp_path / "two").exists()


def test_memory_that_runs_out_changes_no_voxel(paint, tmp_path, files, monkeypatch):
    paint("types=2", out="one")
    real = painter.paint

    def full(network, schedule, sampler, image, *rest):
        if len(image) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(network, schedule, sampler, image, *rest)

    monkeypatch.setattr(painter, "paint", full)
    code, out, error = paint("types=2", "batch_size=4")
    assert code == 0, error
    assert "out of memory with 4 samples at once; going on with 2" in out and "going on with 1" in out
    assert volumes(files(tmp_path / "out")) == volumes(files(tmp_path / "one"))


def test_one_image_too_large_for_memory_says_what_needs_least(paint, monkeypatch, tmp_path, files):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(painter, "paint", full)
    assert_refused(paint(), "one sample at a time", "try precision=bf16 region=lesion, which needs least")
    assert not volumes(files(tmp_path / "out"))
