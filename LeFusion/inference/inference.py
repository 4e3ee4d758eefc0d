"""Paints lesions into images.

    python LeFusion/inference/inference.py data_type=lidc model_path=... dataset_root_dir=... \
        target_img_path=... target_label_path=... types=3

Writes Image_1..types and Mask_1..types, a manifest.csv and a preview.png. Outputs that exist are kept, so
that an interrupted run goes on. All keys: --help, or configs/inference.yaml.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import hydra
import numpy as np
import torch
from omegaconf import DictConfig
from tqdm import tqdm

from LeFusion.commandline import choose_device, given_path, output_folder, plain, required_path, run_command
from LeFusion.dataset.cases import Case, find_cases, output_mask_name
from LeFusion.dataset.nifti import Volume, read_volume, write_label_like, write_volume_like
from LeFusion.dataset.transforms import (
    AIR,
    Box,
    crop,
    from_depth_first,
    lesion_histogram,
    paste,
    to_depth_first,
)
from LeFusion.diffusion import NoiseSchedule, load_checkpoint
from LeFusion.inference.job import PRECISIONS, Canvas, Job, make_job
from LeFusion.inference.report import Manifest, save_preview
from LeFusion.painting import paint


@dataclass(frozen=True)
class Output:
    """One image to paint: a case under texture type `kind` (1..types), and where it goes."""

    case: Case
    kind: int
    box: Box
    image_path: Path
    label_path: Path


def run(config: dict) -> Path:
    """Paints as the composed configuration says; returns the folder of the images."""
    device, dtype = choose_device(config["device"]), PRECISIONS.get(config["precision"])
    if dtype is None:
        raise ValueError(f"precision={config['precision']!r} must be one of {', '.join(PRECISIONS)}")
    image_root, label_root = (output_folder(config, f"target_{kind}_path") for kind in ("img", "label"))
    checkpoint = load_checkpoint(required_path(config, "model_path"), config["weights"])
    job = make_job(config, checkpoint)
    schedule = NoiseSchedule.cosine(checkpoint.metadata["schedule"]["num_steps"])
    calls = job.sampler.network_calls(schedule)
    network = checkpoint.network.to(device, dtype)

    test_txt = given_path(config["test_txt_dir"])
    split = config["split"] or ("train" if test_txt else "all")
    skipped = [] if config["skip_bad_cases"] else None  # reasons, where the user asked for skipping
    root, mask_dir = required_path(config, "dataset_root_dir"), given_path(config["mask_dir"])
    cases = find_cases(root, job.layout, test_txt, split, skipped, mask_dir, generated=True)
    outputs = _plan(cases, job, config["types"], image_root, label_root, skipped)
    settings = {
        "seed": job.seed,
        "model": Path(config["model_path"]).name,
        "weights": config["weights"],
        "condition": config["condition"],
        "textures": ", ".join(job.conditions.palette.names),
        "lesions_from": config["lesions_from"] or "",
        "histogram_perturbation": config["histogram_perturbation"],
        "sampler": job.sampler.name,
        "num_steps": job.sampler.num_steps or schedule.num_steps,
        "jump_length": job.sampler.jump_length,
        "jump_n_sample": job.sampler.jump_n_sample,
        "guidance_scale": job.sampler.guidance_scale,
        "intensity_guidance": job.sampler.intensity_guidance,
        "region": job.region,
        "margin": job.margin,
        "precision": config["precision"],
        "network_calls": calls,
    }
    labels = job.layout.lesion_labels
    manifest = Manifest(image_root / "manifest.csv", job.bins, labels, job.unit, settings)
    due = [o for o in outputs if config["overwrite"] or not (o.image_path.exists() and o.label_path.exists())]
    kept = len(outputs) - len(due)
    print(
        f"{len(cases)} cases x {config['types']} types: {len(due)} to paint, {kept} kept; "
        f"{calls} network calls each ({job.sampler.name}, {settings['num_steps']} steps) on {device}"
    )
    with tqdm(total=len(due), unit="image", desc="painting") as progress:
        for batch in _batches(due, config["batch_size"]):
            _paint_batch(batch, job, network, schedule, manifest)
            progress.update(len(batch))

    finished = set(due)
    for output in outputs:
        if output not in finished and not manifest.has(output.case.name, output.kind):
            canvas = job.canvas(output.case)
            _record(output, canvas, job, manifest, read_volume(output.image_path), seconds=None)
    manifest.write()
    preview = save_preview(image_root / "preview.png", outputs, job, config["preview_cases"])
    _report(manifest, outputs, kept, skipped or [], image_root, label_root, preview)
    return image_root


def _plan(
    cases: list[Case], job: Job, types: int, image_root: Path, label_root: Path, skipped: list[str] | None
) -> list[Output]:
    """Reads and checks every case before the first is painted. Reasons for skipping go to `skipped`."""
    outputs = []
    names: dict[str, str] = {}
    for case in tqdm(cases, unit="case", desc="checking", leave=False):
        try:
            canvas = job.canvas(case)
            box = job.box(canvas.loaded)
            for kind in range(1, types + 1):
                job.condition(canvas, kind)
        except ValueError as error:
            reason = (
                str(error)
                if str(case.mask_path) in str(error) or str(case.image_path) in str(error)
                else (f"{case.mask_path}: {error}")
            )
            if skipped is None:
                raise ValueError(f"{reason} (skip_bad_cases=true goes on without such cases)") from None
            skipped.append(reason)
            continue
        ending = ".nii.gz" if case.image_path.name.endswith(".gz") else ".nii"
        label_name = output_mask_name(case.name + ending, job.layout)
        if label_name in names:
            raise ValueError(
                f"{case.name} and {names[label_name]} would both write the label {label_name}; rename one"
            )
        names[label_name] = case.name
        for kind in range(1, types + 1):
            image_path = image_root / f"Image_{kind}" / (case.name + ending)
            label_path = label_root / f"Mask_{kind}" / label_name
            for key, target, source in (
                ("target_img_path", image_path, case.image_path),
                ("target_label_path", label_path, case.mask_path),
            ):
                if target.exists() and target.samefile(source):
                    raise ValueError(f"{target} is a source file; choose another {key}")
            outputs.append(Output(case, kind, box, image_path, label_path))
    if not outputs:
        raise ValueError(f"no usable case: {skipped[0]}")
    return outputs


def _batches(outputs: list[Output], batch_size: int) -> Iterator[list[Output]]:
    """Groups of up to batch_size outputs whose boxes have one size."""
    waiting: dict[tuple, list[Output]] = {}
    for output in outputs:
        group = waiting.setdefault(output.box.size, [])
        group.append(output)
        if len(group) == batch_size:
            yield waiting.pop(output.box.size)
    yield from waiting.values()


def _paint_batch(batch: list[Output], job: Job, network, schedule: NoiseSchedule, manifest: Manifest) -> None:
    start = time.perf_counter()
    cases = {output.case: job.canvas(output.case) for output in batch}
    canvases = [cases[output.case] for output in batch]
    pairs = [(canvas.loaded, output.box) for canvas, output in zip(canvases, batch, strict=True)]
    conditions = [job.condition(canvas, o.kind) for canvas, o in zip(canvases, batch, strict=True)]
    painted = paint(
        network,
        schedule,
        job.sampler,
        torch.stack([crop(loaded.image_dhw[None], box, AIR) for loaded, box in pairs]),
        torch.stack([crop(loaded.lesions_dhw, box, False) for loaded, box in pairs]),
        torch.stack(conditions),
        [(job.seed, output.case.name, output.kind) for output in batch],
        job.denoiser,
    )
    if not bool(torch.isfinite(painted).all()):
        raise ValueError("the network's output is not finite; try precision=no, or another checkpoint")
    seconds = (time.perf_counter() - start) / len(batch)
    axis = job.layout.depth_axis
    for output, canvas, patch in zip(batch, canvases, painted, strict=True):
        case = canvas.loaded
        values = case.to_stored_grid(paste(patch[0], output.box, case.image_dhw))
        back = [from_depth_first(array, axis) for array in (values, case.stored_lesion(job.layout))]
        write_label_like(case.mask_volume, from_depth_first(case.labels_dhw, axis), output.label_path)
        write_volume_like(case.volume, *back, output.image_path)
        _record(output, canvas, job, manifest, read_volume(output.image_path), seconds)
    manifest.write()


def _record(
    output: Output, canvas: Canvas, job: Job, manifest: Manifest, written: Volume, seconds: float | None
) -> None:
    """Measures a written image against what was asked for and what was there, on the stored grid."""
    case, axis = canvas.loaded, job.layout.depth_axis
    values, source = (to_depth_first(volume.values, axis) for volume in (written, case.volume))
    lesions = np.stack([case.labels_dhw == label for label in job.layout.lesion_labels])
    image = torch.from_numpy(np.ascontiguousarray(case.intensity_map.to_network(values)))[None]
    low, high = case.intensity_map.low, case.intensity_map.high
    span = (low, high) if job.unit else (0.0, 1.0)  # of the figures: the image's units, or shares
    shown = [v if job.unit else (v.astype(np.float64) - low) / (high - low) for v in (values, source)]
    difference = np.abs(values.astype(np.float64) - source.astype(np.float64))[~lesions.any(axis=0)]
    manifest.add(
        output.case.name,
        output.kind,
        texture=job.conditions.name(output.case.name, output.kind),
        donor=canvas.donor,
        requested=job.condition(canvas, output.kind),
        obtained=lesion_histogram(image, torch.from_numpy(lesions), job.bins),
        window=span,
        lesions=lesions,
        values=shown[0],
        source=shown[1],
        max_outside=float(difference.max(initial=0.0)),
        seconds=seconds,
        files=(str(output.image_path), str(output.label_path)),
    )


def _report(manifest, outputs, kept, skipped, image_root, label_root, preview) -> None:
    others = manifest.made_otherwise({(o.case.name, o.kind) for o in outputs})
    if others:
        print(
            f"note: {others} of the kept outputs were made with other settings; "
            "overwrite=true makes them again"
        )
    for reason in skipped:
        print(f"skipped: {reason}")
    print(manifest.summary())
    print(
        f"wrote {len(outputs) - kept} images below {image_root} and labels below {label_root} ({kept} kept, "
        f"{len(skipped)} cases skipped), {manifest.path} and {preview}"
    )


@hydra.main(version_base=None, config_path="../../configs", config_name="inference")
def main(config: DictConfig) -> None:
    run_command(lambda: run(plain(config)))


if __name__ == "__main__":
    main()
