"""Makes lesion masks for scans that have none: draws where lesions are, and what shape they have.

    python DiffMask/inference/inference.py data_type=lidc dataset_root_dir=... output_dir=...

Writes Mask/<scan>_GenMask_<n>.nii.gz, masks.csv, preview.png and surfaces.png; with paint=true, LeFusion then
paints lesions into the scans under these masks. Masks that exist are kept, so that an interrupted run goes
on. Several GPUs: torchrun, or accelerate launch. All keys: --help, or configs/diffmask_inference.yaml.
"""

from functools import lru_cache
from pathlib import Path

import hydra
import numpy as np
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError
from tqdm import tqdm

from DiffMask.inference.kinds import Kind, kind_of
from DiffMask.inference.paint import forget_painted, paint, refuse_others
from DiffMask.inference.plan import Draft, Scan, find_scans, plan
from DiffMask.inference.report import (
    ORIGIN,
    MaskTable,
    save_page,
    save_preview,
    save_surface_sheet,
    shown_with,
)
from DiffMask.settings import (
    MaskInferenceSettings,
    refuse_ignored,
)
from LeFusion.dataset.axes import Axes
from LeFusion.dataset.cases import GENERATED, Layout
from LeFusion.dataset.scans import read_volume, write_label_like
from LeFusion.dataset.volume import Volume
from LeFusion.diffusion import load_checkpoint
from LeFusion.errors import UserError, pass_over
from LeFusion.runtime.commandline import (
    PROJECT_ROOT,
    absolute_path,
    given_path,
    output_folder,
    plain,
    run_command,
    say,
)
from LeFusion.runtime.hashing import sha256_of_file
from LeFusion.runtime.kept import is_whole
from LeFusion.runtime.overrides import any_path
from LeFusion.runtime.processes import Share, find_share, refuse_nothing_usable
from LeFusion.settings import InferenceSettings
from LeFusion.textures.choice import choose_conditions

OF_MASKS = {"model_path", "weights", "num_steps"}  # keys that painting has too, for its own network
# What the chain sets, and `painting` may not
OF_THE_CHAIN = {"data_type", "dataset_root_dir", "mask_dir", "target_img_path", "target_label_path"}


def run(
    settings: MaskInferenceSettings, defaults: MaskInferenceSettings, painting: InferenceSettings | None
) -> Path:
    """Makes masks as the settings say, and paints with `painting` where that is given; returns the masks'
    folder. defaults: what the command does where nothing is said."""
    share = find_share(settings.shard, settings.shards, settings.device)
    output_dir = output_folder(settings.output_dir, "output_dir")
    refuse_ignored(settings, defaults)
    skipped = [] if settings.skip_bad_cases else None  # reasons, where the user asked for skipping
    scans = find_scans(settings, skipped)
    if not scans:
        raise UserError(f"no usable scan: {skipped[0]}")
    kind = kind_of(settings, scans)
    if painting and kind.types:
        if painting.types not in (1, defaults.painting["types"]):
            raise UserError(
                f"painting.types={painting.types}: each lesion of spheres={settings.spheres} has a type "
                "and is painted once, with that texture; leave it out"
            )
        painting = painting.model_copy(update={"types": 1, "textures_of": kind.types})
        metadata = load_checkpoint(given_path(painting.model_path), painting.weights).metadata
        choose_conditions(painting, bool(metadata.get("lesion_table")))  # refuses unknown types now
    _make(settings, output_dir, share, scans, skipped, kind)
    del kind  # the memory of a GPU is the painter's now
    if painting:
        paint(painting, share)
    return output_dir / "Mask"


def read(config: dict) -> tuple[MaskInferenceSettings, MaskInferenceSettings, InferenceSettings | None]:
    """The arguments of `run` that a configuration says."""
    settings = MaskInferenceSettings.of(config)
    defaults = MaskInferenceSettings.of(plain(_compose("diffmask_inference")))
    return settings, defaults, painting_settings(config, settings) if settings.paint else None


def painting_settings(config: dict, settings: MaskInferenceSettings) -> InferenceSettings:
    """The settings of LeFusion's inference under the masks of this run.

    What both commands have is as in this run's configuration; what `painting` says comes last. Raises
    UserError for a key that inference has not.
    """
    given, output_dir = settings.painting, absolute_path(settings.output_dir)
    for key in sorted(OF_THE_CHAIN & set(given)):
        raise UserError(f"painting.{key}: this command sets it; leave it out")
    chosen = [f"sampler={given['sampler']}"] if "sampler" in given else []
    try:
        painting = _compose("inference", *chosen)
    except HydraException as error:
        raise UserError(f"painting.{chosen[0]}: {error}") from None
    shared = {key: value for key, value in config.items() if key in painting and key not in OF_MASKS}
    paths = {
        "dataset_root_dir": str(given_path(settings.dataset_root_dir)),
        "mask_dir": str(output_dir / "Mask"),
        "target_img_path": str(output_dir / "Painted" / "Image"),
        "target_label_path": str(output_dir / "Painted" / "Mask"),
    }
    for key, value in (shared | paths).items():
        painting[key] = value
    OmegaConf.set_struct(painting, True)
    try:
        painting.merge_with(given)
    except ConfigKeyError as error:
        raise UserError(f"painting.{error.full_key}: inference has no such key; see its --help") from None
    return InferenceSettings.of(plain(painting), "painting")


def _compose(name: str, *overrides: str) -> DictConfig:
    """A primary configuration, also where Hydra has not started this process."""
    if GlobalHydra.instance().is_initialized():
        return compose(name, list(overrides))
    with initialize_config_dir(str(PROJECT_ROOT / "configs"), version_base=None):
        return compose(name, list(overrides))


def _make(
    given: MaskInferenceSettings,
    output_dir: Path,
    share: Share,
    scans: list[Scan],
    skipped: list[str] | None,
    kind: Kind,
) -> None:
    """Makes the masks of this process's scans, their table and, in the main process, the pictures.

    skipped: reasons, where the user asked for skipping.
    """
    drafts = share.together(lambda: plan(share.of(scans), kind.drafts_of, skipped, share.main))
    refuse_nothing_usable(share, drafts, skipped, "scan")
    table = MaskTable(output_dir / "masks.csv", kind.recorded, share)
    paths = {draft.name: output_dir / "Mask" / f"{draft.name}.nii.gz" for draft in drafts}
    if given.paint:
        others = tuple(f"{scan.name}{GENERATED}" for scan in scans) if share.count > 1 else ()
        refuse_others(output_dir, set(paths), others)
    origins = {draft.name: _origin(draft, kind.digest) for draft in drafts}
    due = _due(drafts, origins, paths, table, given.overwrite)
    part = "" if share.count == 1 else f" (share {share.index + 1} of {share.count} of {len(scans)} scans)"
    usable = len({draft.scan.name for draft in drafts})
    say(f"{usable} scans{part}: {len(due)} masks to make, {len(drafts) - len(due)} kept")
    written = _write_masks(given, kind, due, origins, paths, table, skipped, share.main)
    skipped = [*dict.fromkeys(share.gather(skipped or []))]  # each process sees all that have no mask
    written, kept = (sum(share.gather([number])) for number in (written, len(drafts) - len(due)))
    wrote = f"wrote {written} masks below {output_dir / 'Mask'} ({kept} kept, {len(skipped)} skipped)"
    if share.main:
        for reason in skipped:
            print(f"skipped: {reason}")
        if share.joins:
            _finish(given, scans, kind, drafts, share, table, skipped)
            print(f"{wrote}, {table.path}, {output_dir / 'preview.png'} and {output_dir / 'surfaces.png'}")
        else:
            print(f"{wrote}, share {share.job} of {share.jobs}; the command without shards joins the tables")


def _write_masks(
    given: MaskInferenceSettings,
    kind: Kind,
    due: list[Draft],
    origins: dict[str, dict[str, str]],
    paths: dict[str, Path],
    table: MaskTable,
    skipped: list[str] | None,
    shown: bool,
) -> int:
    """Makes and writes what is due, with a row each; returns how many. origins, paths: by name of a draft."""
    source, written = lru_cache(maxsize=1)(read_volume), 0
    with tqdm(total=len(due), unit="mask", desc="making masks", disable=not shown) as progress:
        for draft, labels, draws in kind.masks(due):
            progress.update()
            if labels is None:
                reason = (
                    f"{draft.scan.path}: mask {draft.number} came out empty in {draws} draws with "
                    f"seed={given.seed}; try another seed, a larger diameter_mm, or more max_redraws"
                )
                pass_over(UserError(reason), skipped)
                continue
            written += 1
            path, scan = paths[draft.name], source(draft.scan.path)
            forget_painted(table.path.parent, draft)
            _write(draft, labels, scan, given.layout, path)
            names, facts = (draft.name, draft.scan.name, draft.number), kind.facts(draft, labels, scan)
            page = shown_with(draft.scan, given.layout, given.unit)
            table.add(*names, draws, facts, origins[draft.name], sha256_of_file(path), page)
            table.write()
    return written


def _origin(draft: Draft, weights: str) -> dict[str, str]:
    """What a mask is made from: weights, the scan and what belongs to it, the texture asked for."""
    origin = dict(zip(ORIGIN, (weights, draft.inputs), strict=True))
    return origin if draft.type is None else origin | {"type": str(draft.type)}


def _due(
    drafts: list[Draft], origins: dict[str, dict], paths: dict[str, Path], table: MaskTable, overwrite: bool
) -> list[Draft]:
    """Masks that are to be made: those that are not there, that were made from something else, or whose files
    are not as they were written. origins, paths: by name of the draft."""
    there = [d for d in drafts if paths[d.name].exists() and table.has(d.name) and not overwrite]
    same = {d.name: d for d in there if table.has_of(d.name, origins[d.name])}
    kept = {name for name, d in same.items() if is_whole(paths[name], table.sha256(name), d.stored_shape)}
    damaged = [name for name in same if name not in kept]
    if damaged:
        say(
            f"{len(damaged)} masks are damaged or were changed and are made again, such as "
            f"{paths[damaged[0]]}: it is not the file that was written"
        )
    stale = [draft.name for draft in there if draft.name not in same]
    if stale:
        say(
            f"stale: {len(stale)} masks were made from another scan, sphere or organ, with other weights or "
            f"by an earlier version; made again: {', '.join(stale[:5])}{', ...' * (len(stale) > 5)}"
        )
    return [draft for draft in drafts if draft.name not in kept]


def _finish(
    given: MaskInferenceSettings,
    scans: list[Scan],
    kind: Kind,
    drafts: list[Draft],
    share: Share,
    table: MaskTable,
    skipped: list[str],
) -> None:
    """What is seen of the whole run: one table, pictures, a summary."""
    output_dir, layout = table.path.parent, given.layout
    table.join()
    if share.count > 1:  # the pictures show the first scans, whoever made their masks
        drafts = plan(scans[: given.preview_masks], kind.drafts_of, [], False)
    paths = {draft.name: output_dir / "Mask" / f"{draft.name}.nii.gz" for draft in drafts}
    made = [draft for draft in drafts if paths[draft.name].exists() and table.has(draft.name)]
    if not made:
        raise UserError(f"no mask was made: {skipped[0]}")
    shown = made[: given.preview_masks]
    save_preview(output_dir / "preview.png", shown, paths, layout)
    save_surface_sheet(output_dir / "surfaces.png", shown, paths, layout)
    if given.viewer:
        print(f"wrote {save_page(output_dir / 'viewer.html', made, paths, layout, given.unit or '')}")
    others = table.made_otherwise(draft.name for draft in made)
    if others:
        print(
            f"note: {others} of the kept masks were made with other settings; overwrite=true makes them again"
        )
    print(table.summary())


def _write(draft: Draft, labels: np.ndarray, source: Volume, layout: Layout, path: Path) -> None:
    """The whole label map (hearts), or the lesion in an otherwise empty one, on the scan's grid."""
    axes = Axes.of(source, layout)
    if draft.box is not None:
        whole = np.zeros(axes.to_dhw(source.raw).shape, layout.label_dtype)
        whole[draft.box] = labels * layout.lesion_labels[0]
        labels = whole
    write_label_like(source, axes.to_stored(labels), path)


@any_path
@hydra.main(version_base=None, config_path="../../LeFusion/configs", config_name="diffmask_inference")
def main(config: DictConfig) -> None:
    run_command(lambda: run(*read(plain(config))))


if __name__ == "__main__":
    main()
