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

from LeFusion.commandline import (
    check_whole_numbers,
    given_path,
    output_folder,
    plain,
    required_path,
    run_command,
)
from LeFusion.dataset.cases import Case, Layout, find_cases, output_mask_name
from LeFusion.dataset.dataset import LoadedCase, load_case
from LeFusion.dataset.nifti import Volume, read_volume, write_label_like, write_volume_like
from LeFusion.dataset.transforms import (
    AIR,
    Box,
    crop,
    from_depth_first,
    lesion_box,
    lesion_histogram,
    paste,
    tight_box,
    to_depth_first,
)
from LeFusion.diffusion import Checkpoint, NoiseSchedule, load_checkpoint
from LeFusion.histogram import condition_from_counts, perturb
from LeFusion.inference.report import Manifest, save_preview
from LeFusion.painting import SamplerSettings, paint

PRECISIONS = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
CONDITIONS = ("textures", "own")


@dataclass(frozen=True)
class Output:
    """One image to paint: a case under texture type `kind` (1..types), and where it goes."""

    case: Case
    kind: int
    box: Box
    image_path: Path
    label_path: Path


@dataclass(frozen=True)
class Job:
    """The settings of a run, checked."""

    layout: Layout
    window: tuple[float, float] | str
    bins: int
    size: tuple[int, int, int]
    region: str  # whole or lesion
    margin: int
    plane_multiple: int  # of the network: height and width of a box must be multiples of it
    textures: list[torch.Tensor] | None  # None: each lesion's own histogram
    perturbation: float
    sampler: SamplerSettings
    seed: int

    def box(self, loaded: LoadedCase) -> Box:
        """Where the network looks: a region of `size`, or just around the lesion."""
        lesion = loaded.lesions_dhw.any(dim=0)
        if self.region == "whole":
            return lesion_box(lesion, self.size)
        multiple = (1, self.plane_multiple, self.plane_multiple)
        return tight_box(lesion, lesion.shape, self.margin, self.size, multiple)

    def condition(self, loaded: LoadedCase, kind: int) -> torch.Tensor:
        """The histogram asked for, (cond_dim,); zero for classes that the case lacks."""
        own = lesion_histogram(loaded.image_dhw[None], loaded.lesions_dhw, self.bins)
        if self.textures is None:
            return own
        present = own.reshape(-1, self.bins).sum(dim=1, keepdim=True) > 0
        address = (self.seed, "histogram", loaded.case.name, kind)
        drawn = perturb(self.textures[kind - 1], self.perturbation, self.bins, address)
        return (drawn.reshape(-1, self.bins) * present).flatten()


def run(config: dict) -> Path:
    """Paints as the composed configuration says; returns the folder of the images."""
    device, dtype = _device(config["device"]), PRECISIONS.get(config["precision"])
    if dtype is None:
        raise ValueError(f"precision={config['precision']!r} must be one of {', '.join(PRECISIONS)}")
    _check_numbers(config)
    image_root, label_root = (output_folder(config, f"target_{kind}_path") for kind in ("img", "label"))
    checkpoint = load_checkpoint(required_path(config, "model_path"), config["weights"])
    job = _job(config, checkpoint)
    schedule = NoiseSchedule.cosine(checkpoint.metadata["schedule"]["num_steps"])
    calls = job.sampler.network_calls(schedule)
    network = checkpoint.network.to(device, dtype)

    test_txt = given_path(config["test_txt_dir"])
    split = config["split"] or ("train" if test_txt else "all")
    skipped = [] if config["skip_bad_cases"] else None  # reasons, where the user asked for skipping
    cases = find_cases(required_path(config, "dataset_root_dir"), job.layout, test_txt, split, skipped)
    outputs = _plan(cases, job, config["types"], image_root, label_root, skipped)
    settings = {
        "seed": job.seed,
        "model": Path(config["model_path"]).name,
        "weights": config["weights"],
        "condition": config["condition"],
        "histogram_perturbation": config["histogram_perturbation"],
        "sampler": job.sampler.name,
        "num_steps": job.sampler.num_steps or schedule.num_steps,
        "jump_length": job.sampler.jump_length,
        "jump_n_sample": job.sampler.jump_n_sample,
        "guidance_scale": job.sampler.guidance_scale,
        "intensity_guidance": job.sampler.intensity_guidance,
        "region": job.region,
        "precision": config["precision"],
        "network_calls": calls,
    }
    manifest = Manifest(image_root / "manifest.csv", job.bins, settings)
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
            loaded = load_case(output.case, job.layout, job.window)
            _record(output, loaded, job, manifest, read_volume(output.image_path), seconds=None)
    manifest.write()
    preview = save_preview(image_root / "preview.png", outputs, job, config["preview_cases"])
    _report(manifest, outputs, kept, skipped or [], image_root, label_root, preview)
    return image_root


def _check_numbers(config: dict) -> None:
    check_whole_numbers(config, batch_size=1, types=1, preview_cases=1, margin=0, seed=0)
    check_whole_numbers(config, diffusion_depth_size=1, diffusion_img_size=1, histogram_bins=1)
    check_whole_numbers(config["schedule_jump_params"], jump_length=1, jump_n_sample=1)
    if config["num_steps"] is not None:
        check_whole_numbers(config, num_steps=1)
    numbers = ["guidance_scale", "histogram_perturbation"]
    if config["intensity_guidance"] is not None:
        numbers.append("intensity_guidance")
    for key in numbers:
        if not isinstance(config[key], int | float):
            raise ValueError(f"{key}={config[key]} must be a number")


def _job(config: dict, checkpoint: Checkpoint) -> Job:
    """Checks the configuration against itself and the checkpoint."""
    layout = Layout(**config["layout"])
    network, metadata, path = checkpoint.network.config, checkpoint.metadata, config["model_path"]
    classes, bins = len(layout.lesion_labels), config["histogram_bins"]
    cond_dim = config["cond_dim"]
    if metadata.get("data_type", config["data_type"]) != config["data_type"]:
        raise ValueError(
            f"{path} was trained on {metadata['data_type']}, not on data_type={config['data_type']}"
        )
    for key, value, wanted in (
        ("diffusion_num_channels", config["diffusion_num_channels"], network["in_channels"]),
        ("cond_dim", cond_dim, network["cond_dim"]),
        ("the number of lesion labels", classes, network["in_channels"]),
        ("histogram_bins", bins, metadata.get("histogram_bins", bins)),
        ("window", config["window"], metadata.get("window", config["window"])),
    ):
        if value != wanted:
            raise ValueError(
                f"{path} needs {key}={wanted}, got {value}; choose the data_type it was trained on"
            )
    if cond_dim != classes * bins:
        raise ValueError(f"cond_dim={cond_dim} must be {classes} classes x {bins} bins = {classes * bins}")
    jumps = config["schedule_jump_params"]
    steps = config["num_steps"]
    sampler = SamplerSettings(
        config["sampler"],
        steps,
        jumps["jump_length"],
        jumps["jump_n_sample"],
        float(config["guidance_scale"]),
        metadata.get("intensity_guidance", 0.0)
        if config["intensity_guidance"] is None
        else config["intensity_guidance"],
    )
    if sampler.guidance_scale != 1 and not metadata.get("loss", {}).get("cond_dropout"):
        raise ValueError(
            f"guidance_scale={sampler.guidance_scale} needs a network trained with loss.cond_dropout > 0; "
            f"{path} was not"
        )
    region = config["region"]
    if region == "auto":
        region = metadata.get("region", "whole")
    if region not in ("whole", "lesion"):
        raise ValueError(f"region={region!r} must be auto, whole or lesion")
    if config["condition"] not in CONDITIONS:
        raise ValueError(f"condition={config['condition']!r} must be one of {', '.join(CONDITIONS)}")
    textures = None
    if config["condition"] == "textures":
        if config["types"] > len(config["textures"]):
            raise ValueError(
                f"types={config['types']} but data_type={config['data_type']} has "
                f"{len(config['textures'])} textures"
            )
        textures = [condition_from_counts(counts, cond_dim, bins) for counts in config["textures"]]
    size = (config["diffusion_depth_size"], config["diffusion_img_size"], config["diffusion_img_size"])
    multiple = checkpoint.network.plane_multiple
    if size[1] % multiple:
        raise ValueError(f"diffusion_img_size={size[1]} must be a multiple of {multiple}")
    window = config["window"]
    return Job(
        layout,
        window if isinstance(window, str) else tuple(window),
        bins,
        size,
        region,
        config["margin"],
        multiple,
        textures,
        config["histogram_perturbation"],
        sampler,
        config["seed"],
    )


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).split("\n")[0]
        raise ValueError(f"device={name!r} cannot be used ({reason}); try auto, cpu or cuda:0") from None
    return device


def _plan(
    cases: list[Case], job: Job, types: int, image_root: Path, label_root: Path, skipped: list[str] | None
) -> list[Output]:
    """Reads and checks every case before the first is painted. Reasons for skipping go to `skipped`."""
    outputs = []
    names: dict[str, str] = {}
    for case in tqdm(cases, unit="case", desc="checking", leave=False):
        try:
            box = job.box(load_case(case, job.layout, job.window))
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
        label_name = output_mask_name(case.image_path.name, job.layout)
        if label_name in names:
            raise ValueError(
                f"{case.name} and {names[label_name]} would both write the label {label_name}; rename one"
            )
        names[label_name] = case.name
        for kind in range(1, types + 1):
            image_path = image_root / f"Image_{kind}" / case.image_path.name
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
    cases = {output.case: load_case(output.case, job.layout, job.window) for output in batch}
    loaded = [cases[output.case] for output in batch]
    conditions = [job.condition(case, output.kind) for case, output in zip(loaded, batch, strict=True)]
    painted = paint(
        network,
        schedule,
        job.sampler,
        torch.stack(
            [crop(case.image_dhw[None], output.box, AIR) for case, output in zip(loaded, batch, strict=True)]
        ),
        torch.stack(
            [crop(case.lesions_dhw, output.box, False) for case, output in zip(loaded, batch, strict=True)]
        ),
        torch.stack(conditions),
        [(job.seed, output.case.name, output.kind) for output in batch],
    )
    if not bool(torch.isfinite(painted).all()):
        raise ValueError("the network's output is not finite; try precision=no, or another checkpoint")
    seconds = (time.perf_counter() - start) / len(batch)
    for output, case, patch in zip(batch, loaded, painted, strict=True):
        values = to_depth_first(case.volume.values, job.layout.depth_axis)
        patch_values = case.intensity_map.to_source(patch[0].double()).numpy()
        values = paste(patch_values, output.box, np.asarray(values, dtype=np.float64))
        lesion = case.lesions_dhw.any(dim=0).numpy()
        back = [from_depth_first(array, job.layout.depth_axis) for array in (values, lesion)]
        labels = np.asarray(case.mask_volume.values, dtype=np.uint8)
        write_label_like(case.mask_volume, labels, output.label_path)
        write_volume_like(case.volume, *back, output.image_path)
        _record(output, case, job, manifest, read_volume(output.image_path), seconds)
    manifest.write()


def _record(
    output: Output, case: LoadedCase, job: Job, manifest: Manifest, written: Volume, seconds: float | None
) -> None:
    """Measures a written image against what was asked for and what was there."""
    values = to_depth_first(written.values, job.layout.depth_axis)
    image = torch.from_numpy(np.ascontiguousarray(case.intensity_map.to_network(values)))[None]
    lesion = case.lesions_dhw.any(dim=0).numpy()
    source = to_depth_first(case.volume.values, job.layout.depth_axis)
    difference = np.abs(values.astype(np.float64) - source.astype(np.float64))[~lesion]
    manifest.add(
        output.case.name,
        output.kind,
        requested=job.condition(case, output.kind),
        obtained=lesion_histogram(image, case.lesions_dhw, job.bins),
        window=(case.intensity_map.low, case.intensity_map.high),
        lesion_values=values[lesion],
        source_values=source[lesion],
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
