"""Paints lesions into images.

    python LeFusion/inference/inference.py data_type=lidc model_path=... dataset_root_dir=... \
        target_img_path=... target_label_path=... types=3

Writes Image_1..types and Mask_1..types, a manifest.csv and a preview.png. Outputs that exist are kept, so
that an interrupted run goes on. Several GPUs: torchrun, or accelerate launch. All keys: --help, or
configs/inference.yaml.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import hydra
import numpy as np
import torch
from omegaconf import DictConfig
from tqdm import tqdm

from LeFusion.dataset.cases import (
    Case,
    find_cases,
    locate_folders,
    output_mask_name,
    refuse_among_sources,
)
from LeFusion.dataset.loading import LoadedCase
from LeFusion.dataset.scans import NIFTI_ENDINGS, ending_of, read_volume, write_label_like, write_volume
from LeFusion.dataset.volume import Volume
from LeFusion.diffusion import load_checkpoint
from LeFusion.diffusion.compilation import compile_network
from LeFusion.errors import MissingFileError, UserError, pass_over
from LeFusion.inference.job import Host, Job, make_job
from LeFusion.inference.notes import told
from LeFusion.inference.outputs import Output
from LeFusion.inference.report import Manifest, save_preview
from LeFusion.painting import DTYPES
from LeFusion.runtime.commandline import (
    choose_device,
    given_path,
    output_folder,
    plain,
    run_command,
    say,
    say_weights,
)
from LeFusion.runtime.hashing import sha256_of_file, sha256_of_scan
from LeFusion.runtime.memory import BatchSize
from LeFusion.runtime.overrides import any_path
from LeFusion.runtime.processes import find_share, refuse_nothing_usable
from LeFusion.settings import InferenceSettings
from LeFusion.tasks import Patch, Task, paint_together
from LeFusion.textures.histograms import lesion_histogram
from LeFusion.textures.of_cases import refuse_unknown
from LeFusion.viewer.manifest import write_manifest_page


def run(settings: InferenceSettings) -> Path:
    """Paints as the settings say; returns the folder of the images."""
    share = find_share(settings.shard, settings.shards, settings.device)
    device = choose_device(settings.device)
    image_root = output_folder(settings.target_img_path, "target_img_path")
    label_root = output_folder(settings.target_label_path, "target_label_path")
    model_path = given_path(settings.model_path)
    checkpoint = load_checkpoint(model_path, settings.weights)
    say_weights(model_path, checkpoint.metadata["format"])
    job = make_job(settings, checkpoint)
    checkpoint.network.to(device, DTYPES[settings.precision])
    if settings.compile:
        compile_network(checkpoint.network, cuda_graphs=True)

    skipped = [] if settings.skip_bad_cases else None  # reasons, where the user asked for skipping
    cases = _find_cases(settings, job, image_root, label_root, skipped)
    recorded = _recorded(settings, job, model_path)
    labels = job.layout.lesion_labels
    manifest = Manifest(image_root / "manifest.csv", job.bins, labels, job.unit, recorded, share, job.layout)
    plan = partial(_plan, job, manifest, settings.types, image_root, label_root)
    outputs = share.together(lambda: plan(share.of(cases), skipped, share.main))
    refuse_nothing_usable(share, outputs, skipped, "case")
    due = _due(outputs, job, manifest, settings.overwrite)
    part = "" if share.count == 1 else f" (share {share.index + 1} of {share.count} of {len(cases)} cases)"
    say(
        f"{len(share.of(cases))} cases x {settings.types} types: {len(due)} to paint, "
        f"{len(outputs) - len(due)} kept{part}; {recorded['network_calls']} network calls each "
        f"({recorded['sampler']}, {recorded['num_steps']} steps) on {device}"
    )
    for line in told(share.gather([note for output in due for note in output.notes])):
        say(line)
    size = job.painter.batch_size({output: output.boxes for output in due}, partial(_task, job))
    with tqdm(total=len(due), unit="image", desc="painting", disable=not share.main) as progress:
        for group in _groups(due):
            for _ in _paint(group, job, size, manifest):
                progress.update()
    painted_now = set(due)
    for output in outputs:
        if output not in painted_now and not manifest.has(output.case.name, output.kind):
            written = read_volume(output.image_path)
            _record(output, job.host(output.case), job, manifest, written, seconds=None)
    manifest.write()

    skipped = [*dict.fromkeys(share.gather(skipped or []))]  # each process sees all that have no mask
    painted, kept = (sum(share.gather([number])) for number in (len(due), len(outputs) - len(due)))
    if not share.main:
        return image_root
    for reason in skipped:
        print(f"skipped: {reason}")
    wrote = (
        f"wrote {painted} images below {image_root} and labels below {label_root} ({kept} kept, "
        f"{len(skipped)} cases skipped)"
    )
    if not share.joins:
        print(f"{wrote}, share {settings.shard} of {settings.shards}; the command without shards joins them")
        return image_root
    manifest.join()
    if share.count > 1:
        outputs = plan(cases[: settings.preview_cases], [], False)
    shown = [output for output in outputs if output.image_path.exists()]
    if not shown:
        raise UserError(f"no usable case: {skipped[0]}")
    preview = save_preview(image_root / "preview.png", shown, job, manifest, settings.preview_cases)
    kinds = range(1, settings.types + 1)
    if others := manifest.made_otherwise({(case.name, kind) for case in cases for kind in kinds}):
        print(
            f"note: {others} of the kept outputs were made with other settings; "
            "overwrite=true makes them again"
        )
    print(manifest.summary())
    print(f"{wrote}, {manifest.path} and {preview}")
    if settings.viewer:
        rows, paths = manifest.rows.values(), {case.name: case.image_path for case in cases}
        print(f"wrote {write_manifest_page(image_root / 'viewer.html', rows, job.layout, job.unit, paths)}")
    return image_root


def _find_cases(
    settings: InferenceSettings, job: Job, image_root: Path, label_root: Path, skipped: list[str] | None
) -> list[Case]:
    """The cases to paint, after a look at names and folders. Reasons for skipping go to `skipped`."""
    test_txt = given_path(settings.test_txt_dir)
    split = settings.split or ("train" if test_txt else "all")
    root, mask_dir = given_path(settings.dataset_root_dir), given_path(settings.mask_dir)
    cases = find_cases(root, job.layout, test_txt, split, missing := [], mask_dir, generated=True)
    for reason in missing:
        pass_over(MissingFileError(reason), skipped)
    if not cases:
        raise UserError(f"no usable case: {missing[0]}")
    sources = [*locate_folders(root, job.layout, mask_dir)]
    if settings.lesions_from:
        sources += locate_folders(given_path(settings.lesions_from), job.layout)
    refuse_among_sources({"target_img_path": image_root, "target_label_path": label_root}, sources)
    _check_names(cases, job)
    if isinstance(settings.textures_of, str):
        everything = find_cases(root, job.layout, None, "all", [], mask_dir, generated=True)
        refuse_unknown(settings.textures_of, {case.name for case in everything}, root)
    return cases


def _recorded(settings: InferenceSettings, job: Job, model_path: Path) -> dict[str, Any]:
    """The manifest's columns of settings, as they were used."""
    painter, sampler, schedule = job.painter, job.painter.sampler, job.painter.schedule
    return {
        "seed": job.seed,
        "model": model_path.name,
        "model_sha256": sha256_of_file(model_path)[:16],
        "weights": settings.weights,
        "condition": f"{settings.condition} {settings.asked_scores}".strip(),
        "textures": ", ".join(job.conditions.palette.names),
        "lesions_from": settings.lesions_from or "",
        "histogram_perturbation": settings.histogram_perturbation,
        "sampler": sampler.name,
        "num_steps": sampler.num_steps or schedule.num_steps,
        "jump_length": sampler.jump_length,
        "jump_n_sample": sampler.jump_n_sample,
        "spacing": sampler.spacing,
        "eta": sampler.eta,
        "guidance_scale": sampler.guidance_scale,
        "intensity_guidance": sampler.intensity_guidance,
        "region": painter.region,
        "margin": painter.margin,
        "edit_margin_mm": painter.edit_margin_mm,
        "soft_edge_mm": painter.soft_edge_mm,
        "precision": settings.precision,
        "network_calls": sampler.network_calls(schedule),
    }


def _ending(case: Case) -> str:
    return ending_of(case.image_path) or NIFTI_ENDINGS[0]


def _check_names(cases: list[Case], job: Job) -> None:
    names: dict[str, str] = {}
    for case in cases:
        label_name = output_mask_name(case.name + _ending(case), job.layout)
        if label_name in names:
            raise UserError(
                f"{case.name} and {names[label_name]} would both write the label {label_name}; rename one"
            )
        names[label_name] = case.name


def _plan(
    job: Job,
    manifest: Manifest,
    types: int,
    image_root: Path,
    label_root: Path,
    cases: Sequence[Case],
    skipped: list[str] | None,
    shown: bool,
) -> list[Output]:
    """Reads and checks every case before the first is painted. Reasons for skipping go to `skipped`; shown:
    whether progress is."""
    outputs = []
    for case in tqdm(cases, unit="case", desc="checking", leave=False, disable=not shown):
        try:
            host = job.host(case)
            boxes = job.painter.boxes(host.loaded)
            wanted = [job.looks(host, kind) for kind in range(1, types + 1)]
            notes = job.notes_on(host.loaded)
        except ValueError as error:
            names_it = str(case.mask_path) in str(error) or str(case.image_path) in str(error)
            reason = str(error) if names_it else f"{case.mask_path}: {error}"
            pass_over(UserError(reason), skipped)
            continue
        ending = _ending(case)
        label_name = output_mask_name(case.name + ending, job.layout)
        for kind, looks in enumerate(wanted, start=1):
            image_path = image_root / f"Image_{kind}" / (case.name + ending)
            label_path = label_root / f"Mask_{kind}" / label_name
            made_from = manifest.made_from(host, job.requested(host, looks))
            shape = host.loaded.volume.raw.shape
            output = Output(case, kind, boxes, looks, image_path, label_path, shape, made_from, notes)
            for key, target, source in (
                ("target_img_path", image_path, case.image_path),
                ("target_label_path", label_path, case.mask_path),
                ("target_img_path", output.edit_path, case.mask_path),
            ):
                if target.exists() and source.exists() and target.samefile(source):
                    raise UserError(f"{target} is a source file; choose another {key}")
            outputs.append(output)
    return outputs


def _due(outputs: Sequence[Output], job: Job, manifest: Manifest, overwrite: bool) -> list[Output]:
    """Outputs that are to be painted: those that are not there, that were made from something else, or whose
    files are not as they were written."""
    there = set() if overwrite else {o for o in outputs if all(f.exists() for f in o.files(job))}
    stale = {o for o in there if manifest.is_stale(o.case.name, o.kind, o.made_from)}
    damaged = {o: found for o in there - stale if (found := o.damaged_file(job, manifest))}
    if damaged:
        say(
            f"{len(damaged)} outputs are damaged or were changed and are made again, such as "
            f"{min(damaged.values())}: it is not the file that was written"
        )
    if stale:
        first = min(o.image_path for o in stale)
        say(
            f"{len(stale)} outputs are stale and are made again, such as {first}: image, mask, weights or "
            "settings have changed since"
        )
    return [o for o in outputs if o in stale or o in damaged or o not in there]


def _groups(outputs: list[Output]) -> list[list[Output]]:
    """Outputs that are painted together: all of one box, those of several boxes case by case."""
    groups: dict[Case | None, list[Output]] = {}
    for output in outputs:
        groups.setdefault(None if len(output.boxes) == 1 else output.case, []).append(output)
    return list(groups.values())


def _paint(outputs: Sequence[Output], job: Job, size: BatchSize, manifest: Manifest) -> Iterator[Output]:
    """Paints all boxes of these outputs; each is written, and yielded, when its last box is done."""
    boxes = {output: output.boxes for output in outputs}
    for done in paint_together(job.painter.paint_boxes, boxes, partial(_task, job), size):
        for output, (patches, seconds) in done.items():
            _write(output, patches, job, manifest, seconds)
        manifest.write()
        yield from done


def _task(job: Job, output: Output, part: int, earlier: Sequence[Patch]) -> Task:
    host = job.host(output.case)
    address = (job.seed, output.case.name, output.kind)
    return Task(host.loaded, part, output.boxes, output.looks[part], address, earlier)


def _write(output: Output, patches: list[Patch], job: Job, manifest: Manifest, seconds: float) -> None:
    host = job.host(output.case)
    case = host.loaded
    labels = case.labels_dhw if case.instances_dhw is None else case.instances_dhw
    write_label_like(case.mask_volume, case.axes.to_stored(labels), output.label_path)
    painted = job.painter.painted(case, patches, output.image_path)
    output.edit_path.unlink(missing_ok=True)  # of an earlier image, maybe with another margin
    if job.save_edit_mask:
        write_label_like(
            case.mask_volume,
            case.axes.to_stored(job.painter.stored_edit(case).astype(np.uint8)),
            output.edit_path,
        )
    write_volume(painted)
    _record(output, host, job, manifest, painted, seconds)


def _record(
    output: Output, host: Host, job: Job, manifest: Manifest, written: Volume, seconds: float | None
) -> None:
    """Measures a written image against what was asked for and what was there, on the stored grid."""
    case, layout = host.loaded, job.layout
    parts = case.parts(job.painter.size)
    values, source = (
        np.concatenate([case.values_of(part, volume) for part in parts]) for volume in (written, case.volume)
    )
    labels = np.concatenate([case.labels_dhw[part.stored_place.slices][part.stored] for part in parts])
    lesions = np.stack([labels == label for label in layout.lesion_labels])
    image = torch.from_numpy(case.intensity_map.to_network(values))[None]
    low, high = case.intensity_map.low, case.intensity_map.high
    span = (low, high) if job.unit else (0.0, 1.0)  # of the figures: the image's units, or shares
    shown = [v if job.unit else (v.astype(np.float64) - low) / (high - low) for v in (values, source)]
    manifest.add(
        output.case.name,
        output.kind,
        texture=job.conditions.name(output.case.name, output.kind, output.looks),
        scores="; ".join(filter(None, map(job.conditions.scores, output.looks))),
        donor=host.donor,
        made_from="" if seconds is None else output.made_from,  # of what was there already it is not known
        requested=job.requested(host, output.looks),
        obtained=lesion_histogram(image, torch.from_numpy(lesions), job.bins),
        window=span,
        lesions=lesions,
        values=shown[0],
        source=shown[1],
        max_rim=_largest_change_outside(case, written, case.stored_lesion()),
        max_outside=_largest_change_outside(case, written, job.painter.stored_edit(case)),
        seconds=seconds,
        files=(str(output.image_path), str(output.label_path), str(output.case.image_path)),
        hashes={column: sha256_of_scan(path) for path, column in output.files(job).items()},
    )


def _largest_change_outside(case: LoadedCase, written: Volume, inside: np.ndarray) -> float:
    """In the image's units, over all voxels outside of (D', H', W') bool."""
    changed = (written.raw != case.volume.raw) & ~case.axes.to_stored(inside)
    if not changed.any():
        return 0.0
    values, source = (volume.values[changed].astype(np.float64) for volume in (written, case.volume))
    return float(np.abs(values - source).max())


@any_path
@hydra.main(version_base=None, config_path="../configs", config_name="inference")
def main(config: DictConfig) -> None:
    run_command(lambda: run(InferenceSettings.of(plain(config))))


if __name__ == "__main__":
    main()
