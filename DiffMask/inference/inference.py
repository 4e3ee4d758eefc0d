"""Makes lesion masks for scans that have none: draws where lesions are, and what shape they have.

    python DiffMask/inference/inference.py data_type=lidc dataset_root_dir=... output_dir=...

Writes Mask/<scan>_GenMask_<n>.nii.gz, masks.csv, preview.png and surfaces.png; with paint=true, LeFusion then
paints lesions into the scans under these masks. Masks that exist are kept, so that an interrupted run goes
on. Several GPUs: torchrun, or accelerate launch. All keys: --help, or configs/diffmask_inference.yaml.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

import hydra
import numpy as np
import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from tqdm import tqdm

from DiffMask.inference.plan import FROM_MASKS, PLACED, Draft, SectorDrafts, SphereDrafts, find_scans
from DiffMask.inference.report import MaskTable, heart_facts, lung_facts, save_preview, save_surface_sheet
from DiffMask.postprocess import clean_mask
from DiffMask.sampling import sample_masks
from DiffMask.sphere import Ellipsoid, drawn_axes, drawn_ellipsoid, encode_guide, sphere_encoding
from LeFusion.dataset.cases import GENERATED, Layout
from LeFusion.dataset.grid import from_depth_first
from LeFusion.dataset.nifti import Volume, read_volume, write_label_like
from LeFusion.diffusion import SAMPLERS, Checkpoint, NoiseSchedule, address_seed, load_checkpoint
from LeFusion.diffusion.compilation import compile_network
from LeFusion.errors import UserError
from LeFusion.runtime.commandline import (
    PROJECT_ROOT,
    check_whole_numbers,
    choose_device,
    given_path,
    output_folder,
    plain,
    required_path,
    run_command,
    say,
)
from LeFusion.runtime.memory import BatchSize
from LeFusion.runtime.processes import Share, find_share

RELEASED_SPACING_MM = (1.0, 1.0, 1.0)
# What decides a mask besides the network, as the table records it
SPHERE_SETTINGS = (
    "masks_from",
    "organ_masks",
    "lesion_masks",
    "diameter_mm",
    "border_mm",
    "inside_share",
    "vessel_share",
    "separate",
)
SECTOR_SETTINGS = (
    "angle_deg",
    "half_angle_deg",
    "transmurality",
    "heights",
    "no_reflow_share",
)
HANDED_ON = ("layout.", "spacing_mm=", "default_paths.", "seed=", "device=", "skip_bad_cases=", "overwrite=")


def run(config: dict, overrides: Sequence[str] = ()) -> Path:
    """Makes masks as the composed configuration says; returns their folder.

    overrides: those of the command line, of which the painting gets the ones that concern it.
    """
    share = find_share(config["shard"], config["shards"], config["device"])
    output_dir = output_folder(config, "output_dir")
    _check_settings(config)
    layout = Layout(**config["layout"])
    required_path(config, "dataset_root_dir")
    scans = find_scans(config, layout)
    hearts = layout.myocardium_label is not None
    maker = None
    if hearts:
        drafts_of, settings = (
            SectorDrafts(config, layout),
            {"seed": config["seed"], **_given(config, SECTOR_SETTINGS)},
        )
    else:
        maker = ShapeMaker(config)
        drafts_of = SphereDrafts(config, layout, scans, maker.size, maker.spacing_mm)
        settings = maker.settings | {"spheres": config["spheres"], **_given(config, SPHERE_SETTINGS)}
    drafts, skipped = _plan(share.of(scans), drafts_of, config["skip_bad_cases"], share.main)
    if not drafts and share.count == 1:
        raise UserError(f"no usable scan: {skipped[0]}")
    table = MaskTable(output_dir / "masks.csv", settings, share)
    paths = {draft.name: output_dir / "Mask" / f"{draft.name}.nii.gz" for draft in drafts}
    if config["paint"]:
        others = tuple(f"{scan.name}{GENERATED}" for scan in scans) if share.count > 1 else ()
        _refuse_others(output_dir, set(paths), others)
    due = [d for d in drafts if config["overwrite"] or not (paths[d.name].exists() and table.has(d.name))]
    part = "" if share.count == 1 else f" (share {share.index + 1} of {share.count} of {len(scans)} scans)"
    usable = len(share.of(scans)) - len(skipped)
    say(f"{usable} scans{part}: {len(due)} masks to make, {len(drafts) - len(due)} kept")
    source, written = lru_cache(maxsize=1)(read_volume), 0
    with tqdm(total=len(due), unit="mask", desc="making masks", disable=not share.main) as progress:
        for draft, labels, attempt in _heart_masks(due) if hearts else maker.masks(due):
            progress.update()
            if labels is None:
                reason = (
                    f"{draft.scan.path}: mask {draft.number} came out empty in {attempt} draws with "
                    f"seed={config['seed']}; try another seed, a larger diameter_mm, or more max_redraws"
                )
                if not config["skip_bad_cases"]:
                    raise UserError(reason)
                skipped.append(reason)
                continue
            written += 1
            _forget_painted(output_dir, draft)
            _write(draft, labels, source(draft.scan.path), layout, paths[draft.name])
            facts = (
                heart_facts(draft, layout)
                if hearts
                else lung_facts(draft, labels, source(draft.scan.path), layout)
            )
            table.add(draft.name, draft.scan.name, draft.number, attempt, facts)
            table.write()
    skipped = share.gather(skipped)
    written, kept = (sum(share.gather([number])) for number in (written, len(drafts) - len(due)))
    wrote = f"wrote {written} masks below {output_dir / 'Mask'} ({kept} kept, {len(skipped)} skipped)"
    if share.main:
        for reason in skipped:
            print(f"skipped: {reason}")
        if share.joins:
            _finish(config, scans, drafts_of, drafts, share, table, layout, hearts, skipped)
            print(f"{wrote}, {table.path}, {output_dir / 'preview.png'} and {output_dir / 'surfaces.png'}")
        else:
            print(f"{wrote}, share {share.job} of {share.jobs}; the command without shards joins the tables")
    if config["paint"]:
        _paint(config, output_dir, overrides, share)
    return output_dir / "Mask"


def _finish(config, scans, drafts_of, drafts, share, table, layout, hearts, skipped) -> None:
    """What is seen of the whole run: one table, pictures, a summary."""
    output_dir = table.path.parent
    table.join()
    if share.count > 1:  # the pictures show the first scans, whoever made their masks
        drafts, _ = _plan(scans[: config["preview_masks"]], drafts_of, True, False)
    paths = {draft.name: output_dir / "Mask" / f"{draft.name}.nii.gz" for draft in drafts}
    made = [draft for draft in drafts if paths[draft.name].exists() and table.has(draft.name)]
    if not made:
        raise UserError(f"no mask was made: {skipped[0]}")
    shown = made[: config["preview_masks"]]
    save_preview(output_dir / "preview.png", shown, paths, layout, hearts)
    save_surface_sheet(output_dir / "surfaces.png", shown, paths, layout, hearts)
    others = table.made_otherwise(draft.name for draft in made)
    if others:
        print(
            f"note: {others} of the kept masks were made with other settings; overwrite=true makes them again"
        )
    print(table.summary())


class ShapeMaker:
    """Spheres -> masks by a network. size, spacing_mm: of the box that it works in."""

    def __init__(self, config: dict):
        path = required_path(config, "model_path")
        self.checkpoint = _mask_network(path, config["weights"])
        metadata = self.checkpoint.metadata
        self.config, self.device = config, choose_device(config["device"])
        self.schedule = NoiseSchedule.cosine(metadata["schedule"]["num_steps"])
        depth, side = config["diffusion_depth_size"], config["diffusion_img_size"]
        self.size = tuple(metadata.get("size", (depth, side, side)))
        self.spacing_mm = tuple(metadata.get("spacing_mm", RELEASED_SPACING_MM))
        if max(self.spacing_mm) > 1.01 * min(self.spacing_mm):
            raise UserError(f"{path}: was trained on voxels of {self.spacing_mm} mm; masks are made on cubes")
        steps = config["num_steps"]
        if steps is not None and steps > self.schedule.num_steps:
            raise UserError(
                f"num_steps={steps} must be at most the {self.schedule.num_steps} levels of {path}"
            )
        self.settings = {
            "seed": config["seed"],
            "model": path.name,
            "weights": config["weights"],
            "sampler": config["mask_sampler"],
            "num_steps": steps or self.schedule.num_steps,
            "smoothing": config["smoothing"] or "",
        }

    def masks(self, drafts: Sequence[Draft]) -> Iterator[tuple[Draft, np.ndarray | None, int]]:
        """-> (draft, its mask (D, H, W) uint8 in the draft's box, draws); no mask where all came out empty.

        The noise is addressed by (seed, scan, number, attempt).
        """
        network = self.checkpoint.network.to(self.device)
        if self.config["compile"]:
            compile_network(network, cuda_graphs=True)
        size = self.config["batch_size"]
        self.at_once = BatchSize(size, "use a GPU with more memory, or device=cpu")
        for start in range(0, len(drafts), size):
            todo, made = list(drafts[start : start + size]), {}
            for attempt in range(self.config["max_redraws"] + 1):
                for draft, soft in zip(todo, self._sample(todo, attempt), strict=True):
                    smoothing = self.config["smoothing"]
                    if smoothing == "paper":  # its table is for the network's voxels
                        smooth = clean_mask(soft.numpy(), smoothing="paper")
                        soft = (
                            -torch.ones_like(soft) if smooth is None else torch.from_numpy(smooth * 2.0 - 1)
                        )
                        smoothing = None
                    inside = draft.grid.to_scan(soft, draft.box)
                    mask = clean_mask(inside, draft.organ, smoothing, draft.spacing_mm)
                    if mask is not None:
                        made[draft.name] = mask.astype(np.uint8), attempt
                todo = [draft for draft in todo if draft.name not in made]
                if not todo:
                    break
            for draft in drafts[start : start + size]:
                mask, attempt = made.get(draft.name, (None, self.config["max_redraws"]))
                yield draft, mask, attempt + 1

    def _ellipsoid(self, draft: Draft, attempt: int) -> Ellipsoid | None:
        """How long the lesion is and which way: that of a training lesion of like size, turned at random."""
        if self.checkpoint.metadata.get("guide", "sphere") == "sphere":
            return None
        address = (self.config["seed"], "ellipsoid", draft.scan.name, draft.number, attempt)
        generator = torch.Generator().manual_seed(address_seed(*address))
        radius_mm = draft.placement.diameter_mm / 2
        axes = drawn_axes(self.checkpoint.metadata["ellipsoids"], radius_mm, generator)
        grid = draft.grid
        middle = [n // 2 for n in grid.size]
        return drawn_ellipsoid(axes * radius_mm / max(grid.spacing_mm), middle, generator)

    def _sample(self, drafts: Sequence[Draft], attempt: int) -> list[torch.Tensor]:
        pieces = self.at_once.run(drafts, lambda some: self._sample_at_once(some, attempt))
        return [soft for _, made in pieces for soft in made]

    def _sample_at_once(self, drafts: Sequence[Draft], attempt: int) -> list[torch.Tensor]:
        encoding = sphere_encoding(self.checkpoint.metadata)
        spheres = [
            encode_guide(d.grid.sphere(d.placement.diameter_mm), self._ellipsoid(d, attempt), encoding)[None]
            for d in drafts
        ]
        soft = sample_masks(
            self.checkpoint.network,
            self.schedule,
            torch.stack(spheres),
            [(self.config["seed"], "mask", d.scan.name, d.number, attempt) for d in drafts],
            self.config["mask_sampler"],
            self.config["num_steps"],
            self.checkpoint.metadata.get("prediction", "noise"),
        )
        return list(soft[:, 0])


def _mask_network(path: Path, weights: str) -> Checkpoint:
    checkpoint = load_checkpoint(path, weights)
    network = checkpoint.metadata["network"]
    if network["in_channels"] != 2 or network["out_channels"] != 1 or network.get("cond_dim"):
        raise UserError(
            f"{path} takes {network['in_channels']} channels and gives {network['out_channels']}: it is no "
            "mask network (noisy mask and sphere -> mask); give one that DiffMask/train/train.py made"
        )
    return checkpoint


def _check_settings(config: dict) -> None:
    check_whole_numbers(config, masks_per_scan=1, max_redraws=0, batch_size=1, seed=0, preview_masks=1)
    check_whole_numbers(config, diffusion_depth_size=1, diffusion_img_size=1)
    if config["num_steps"] is not None:
        check_whole_numbers(config, num_steps=1)
    if config["mask_sampler"] not in SAMPLERS:
        raise UserError(f"mask_sampler={config['mask_sampler']!r} must be one of {', '.join(SAMPLERS)}")
    smoothing = config["smoothing"]
    number = isinstance(smoothing, int | float) and not isinstance(smoothing, bool) and smoothing > 0
    if smoothing not in (None, "paper") and not number:
        raise UserError(f"smoothing={smoothing} must be null, paper or a number of mm above 0")
    for key in (
        "diameter_mm",
        "border_mm",
        "angle_deg",
        "half_angle_deg",
        "transmurality",
        "no_reflow_share",
    ):
        if not _is_range(config[key], config[key] is None or isinstance(config[key], int | float)):
            raise UserError(f"{key}={config[key]} must be a number, a range [low, high], or null")
    if not _is_range(config["heights"], config["heights"] is None):
        raise UserError(f"heights={config['heights']} must be a range [low, high] from 0 to 1, or null")
    if config["paint"] and config["shards"] > 1:
        raise UserError(f"paint=true needs all masks, not those of shard={config['shard']}; paint afterwards")
    for key in ("separate", "paint", "overwrite", "skip_bad_cases", "compile"):
        if not isinstance(config[key], bool):
            raise UserError(f"{key}={config[key]} must be true or false")
    for key in ("inside_share", "vessel_share"):
        if not isinstance(config[key], int | float) or not 0 <= config[key] <= 1:
            raise UserError(f"{key}={config[key]} must be a number from 0 to 1")
    if not isinstance(config["spheres"], str):
        raise UserError(f"spheres={config['spheres']} must be {PLACED}, {FROM_MASKS} or a CSV file")


def _is_range(value, else_fine: bool) -> bool:
    if not isinstance(value, list):
        return else_fine
    return len(value) == 2 and all(isinstance(v, int | float) for v in value) and value[0] <= value[1]


def _given(config: dict, keys: Sequence[str]) -> dict[str, str]:
    return {f"given_{key}": "" if config[key] is None else str(config[key]) for key in keys}


def _plan(scans, drafts_of, skip: bool, shown: bool) -> tuple[list[Draft], list[str]]:
    """Reads and checks every scan before the first mask is made. Reasons for skipping are returned."""
    drafts, skipped = [], []
    for scan in tqdm(scans, unit="scan", desc="placing", leave=False, disable=not shown):
        try:
            drafts += drafts_of(scan)
        except (ValueError, FileNotFoundError) as error:
            if not skip:
                raise UserError(f"{error} (skip_bad_cases=true goes on without such scans)") from None
            skipped.append(str(error))
    return drafts, skipped


def _heart_masks(drafts: Sequence[Draft]) -> Iterator[tuple[Draft, np.ndarray, int]]:
    for draft in drafts:
        yield draft, draft.labels, draft.facts["attempt"] + 1


def _write(draft: Draft, labels: np.ndarray, source: Volume, layout: Layout, path: Path) -> None:
    """The whole label map (hearts), or the lesion in an otherwise empty one, on the scan's grid."""
    axis = layout.depth_axis
    if draft.box is not None:
        shape = np.moveaxis(np.empty(source.raw.shape, np.bool_), axis, 0).shape
        whole = np.zeros(shape, np.uint8)
        whole[draft.box] = labels * layout.lesion_labels[0]
        labels = whole
    write_label_like(source, from_depth_first(labels, axis), path)


def _refuse_others(output_dir: Path, names: set[str], starts: tuple[str, ...]) -> None:
    """Painting takes all masks of the folder, so those of another run must not be among them.

    starts: how names of masks begin that other processes of this run make.
    """
    for path in sorted((output_dir / "Mask").glob("*.nii*")):
        name = path.name.removesuffix(".gz").removesuffix(".nii")
        if name not in names and not name.startswith(starts or "/"):
            raise UserError(
                f"{path} is not of this run and would be painted; move it away, or give another output_dir"
            )


def _forget_painted(output_dir: Path, draft: Draft) -> None:
    """What was painted under an earlier mask of this name would be kept under the new one."""
    for path in (output_dir / "Painted" / "Image").glob("Image_*/*"):
        if path.name.removesuffix(".gz").removesuffix(".nii") == draft.name:
            path.unlink()


def _paint(config: dict, output_dir: Path, overrides: Sequence[str], share: Share) -> None:
    """Runs the command that paints, on the scans with their new masks; each process of a launch a share."""
    given = [o for o in overrides if o.startswith(HANDED_ON)]
    paths = {
        "dataset_root_dir": given_path(config["dataset_root_dir"]),
        "mask_dir": output_dir / "Mask",
        "target_img_path": output_dir / "Painted" / "Image",
        "target_label_path": output_dir / "Painted" / "Mask",
    }
    command = [
        sys.executable,
        str(PROJECT_ROOT / "LeFusion" / "inference" / "inference.py"),
        *(o for o in overrides if o.startswith("data_type=")),
        *given,
        *(f"{key}={_quoted(str(path))}" for key, path in paths.items()),
        *(f"{key}={value}" for key, value in _flat(config["painting"])),
    ]
    say("painting: " + " ".join(command[1:]))
    # Not a process of this launch: it would wait for itself
    environment = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE")}

    def paint(*part: str) -> None:
        code = subprocess.run([*command, *part], env=environment).returncode
        if code:
            raise UserError(
                f"the masks are in {output_dir / 'Mask'}, but painting them failed with exit code {code}"
            )

    if share.count > 1:
        share.gather([])  # until all masks are there
        paint(f"shards={share.count}", f"shard={share.index}")
        share.gather([])  # until all is painted
    if share.main:
        paint()  # everything or, after the shares, what joins their tables


def _flat(settings: dict, prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in settings.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield (
                f"{prefix}{key}",
                "null" if value is None else _quoted(value) if isinstance(value, str) else str(value),
            )


def _quoted(text: str) -> str:
    """For Hydra's grammar, in which a backslash counts only before a quote."""
    return '"' + re.sub(r'(\\+)("|$)', r"\1\1\2", text).replace('"', '\\"') + '"'


@hydra.main(version_base=None, config_path="../../LeFusion/configs", config_name="diffmask_inference")
def main(config: DictConfig) -> None:
    run_command(lambda: run(plain(config), HydraConfig.get().overrides.task))


if __name__ == "__main__":
    main()
