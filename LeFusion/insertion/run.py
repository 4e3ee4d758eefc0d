"""A run over scans: which are finished, one after the other, and writing one while the next is worked on."""

import hashlib
import json
import resource
import sys
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from LeFusion.dataset.cases import find_cases, find_images, refuse_among_sources, refuse_masks
from LeFusion.dataset.scans import read_volume
from LeFusion.errors import MissingFileError, UserError, pass_over
from LeFusion.insertion.hearts import insert_infarct
from LeFusion.insertion.lesions import insert_lesions
from LeFusion.insertion.output import state, write_output, write_report
from LeFusion.insertion.result import InsertedScan, Lesion
from LeFusion.insertion.sites import Site, read_sites, sites_in
from LeFusion.insertion.tools import Tools
from LeFusion.runtime.commandline import choose_device, git_commit, given_path, output_folder, say
from LeFusion.runtime.hashing import sha256_of_file, sha256_of_scan
from LeFusion.runtime.processes import find_share
from LeFusion.settings import REGIONS, InsertSettings
from LeFusion.viewer.files import Files, read_scan
from LeFusion.viewer.page import Page, write_page

DRAWN = 3  # lesions, where nothing is said
# Settings that change no voxel
INDIFFERENT = {"input", "output", "sites", "masks", "labels", "versions", "overwrite", "batch_size", "viewer"}
INDIFFERENT |= {"skip_bad_cases"}
# Likewise: the contents of these files count
INDIFFERENT |= {"default_paths", "model_path", "mask_model_path", "realistic_textures"}


Scans = dict[str, tuple[Path, Path | None]]  # name -> the image and, of hearts, its label map
Asked = int | list[int] | list[Site]  # how many lesions a scan gets, [fewest, most], or their sites


class Making(NamedTuple):
    """A scan with lesions: the source's name, which version (from 1), a hash of all that it is made from."""

    scan: str
    version: int
    made_from: str


def run(settings: InsertSettings) -> list[Path]:
    """Makes what the settings ask for; returns the folders, one for each scan and version.

    Of several processes each makes a share of the scans.
    """
    started = time.monotonic()
    share = find_share(device=settings.device)
    output = output_folder(settings.output, "output")
    skipped: list[str] | None = [] if settings.skip_bad_cases else None
    scans = find_scans(settings, skipped)
    read = (settings.input, settings.masks, settings.labels)
    refuse_among_sources({"output": output}, [given_path(path) for path in read])
    wanted = _wanted(settings, scans, skipped)
    if not wanted:
        raise UserError(f"no usable scan: {skipped[0]}")
    scans = {name: scans[name] for name in wanted}
    tools = Tools.of(settings)
    for lesions in wanted.values():
        _check_textures(tools, settings, lesions)
    folders = _makings(settings, output, scans, wanted, tools)
    due = _due(folders, settings.overwrite)
    say(
        f"{len(scans)} scans, {len(folders)} to make: {len(due)} due, {len(folders) - len(due)} finished; on "
        f"{choose_device(settings.device)}"
    )
    share.gather([])  # until all have seen what is there
    mine = share.of(list(scans))
    own = {folder: making for folder, making in due.items() if making.scan in mine}
    if skipped is None and len({name for name, *_ in due.values()}) > 1:
        share.together(lambda: _read_all(scans, tools, own, share.main))
    made, noted = share.together(lambda: _make(settings, scans, wanted, tools, own, skipped, share.main))
    made, noted, skipped = (share.gather(values or []) for values in (made, noted, skipped))
    if not share.main:
        return list(folders)
    for line in noted:
        say(f"note: {line}")
    for reason in dict.fromkeys(skipped):
        say(f"skipped: {reason}")
    folders = {folder: making for folder, making in folders.items() if folder in made or folder not in due}
    if not folders:
        raise UserError(f"no usable scan: {skipped[0]}")
    if settings.viewer:
        say(f"wrote {_write_page(settings, output, scans, folders)}")
    seconds = time.monotonic() - started
    left_out = f", {len(set(skipped))} skipped" if skipped else ""
    say(
        f"wrote {len(made)} of {len(folders)} scans with lesions below {output} in {seconds:.0f} s{left_out}:"
    )
    for folder in folders:
        names = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
        say(f"  {folder}: {', '.join(names)}")
    return list(folders)


def find_scans(settings: InsertSettings, skipped: list[str] | None = None) -> Scans:
    """The scans of the input, by name; of hearts each with its label map, of others with None.

    skipped: a list to which hearts without a label map are reported; None makes them an error.
    """
    path, labels, layout = given_path(settings.input), given_path(settings.labels), settings.layout
    if not layout.hearts:
        if labels is not None:
            raise UserError(f"labels={settings.labels} are of hearts, for data_type=emidec; see masks")
        scans = find_images(path, left_out := [], "input")
        for reason in left_out:
            say(f"note: {reason}")
        if not scans:
            raise MissingFileError(f"{path}: holds no scan; give a scan, or a folder of scans")
        refuse_masks(scans, path, layout, "input")
        return {name: (image, None) for name, image in scans.items()}
    if labels is None and path.is_file():
        labels = path.parent.parent / layout.mask_folder
        if path.parent.name != layout.image_folder or not labels.is_dir():
            raise UserError(f"{path}: say with labels= where the label map of this heart is")
    cases = find_cases(path, layout, skipped=(missing := []), mask_dir=labels)
    for reason in missing:
        pass_over(MissingFileError(reason), skipped)
    return {case.name: (case.image_path, case.mask_path) for case in cases}


def _wanted(settings: InsertSettings, scans: Scans, skipped: list[str] | None) -> dict[str, Asked]:
    """What each scan is to get, see `_lesions`; those whose masks or sites cannot be used are passed over."""
    wanted = {}
    for name in scans:
        try:
            wanted[name] = _lesions(settings, name, list(scans))
        except UserError as error:
            if len(scans) == 1:
                raise
            pass_over(error, skipped)
    return wanted


def _lesions(settings: InsertSettings, name: str, names: Sequence[str]) -> Asked:
    """What a scan is to get: a count, or its sites."""
    if settings.layout.hearts:
        for key in ("lesions", "sites", "masks", "diameter_mm"):
            if getattr(settings, key) not in (None, 1, REGIONS):
                raise UserError(
                    f"{key}={getattr(settings, key)} is for lungs; a heart gets one infarct, in its wall or "
                    "under the lesion labels of its label map"
                )
        return 1
    given = [key for key in ("lesions", "sites", "masks") if getattr(settings, key) is not None]
    if len(given) > 1:
        raise UserError(f"{' and '.join(given)} both say where lesions are; give one of them")
    if settings.masks is not None:
        if settings.diameter_mm != REGIONS:
            raise UserError(
                f"diameter_mm={settings.diameter_mm}: the lesions of masks={settings.masks} have their "
                "sizes; leave one out"
            )
        return _masks(given_path(settings.masks), name, len(names))
    if settings.sites is None:
        return settings.lesions or DRAWN
    path = given_path(settings.sites)
    sites = read_sites(path)
    for site in sites:
        if len(names) > 1 and not site.scan:
            raise UserError(f"{site.what}: there are {len(names)} scans; say in the column scan which it is")
        if site.scan and site.scan not in names:
            raise UserError(f"{site.what}: scan={site.scan} is none of the scans: {', '.join(names[:5])}")
    found = [site for site in sites if site.scan in ("", name)]
    if not found:
        raise UserError(f"{path}: has no site for the scan {name}; leave the scan out")
    return found


def _check_textures(tools: Tools, settings: InsertSettings, lesions: Asked) -> None:
    """Raises UserError for an unknown texture before the first scan is read."""
    named = {"": settings.texture}
    named |= {site.what: site.texture for site in sites_in(lesions) if site.texture is not None}
    tools.conditions(named, dict(zip(named, named, strict=True)))


def _masks(path: Path, name: str, scans: int) -> list[Site]:
    """Sites of masks: one file with instances, or several with one lesion each."""
    if not path.exists():
        raise MissingFileError(f"masks={path}: no such file or folder")
    files = find_images(path)
    if path.is_dir() and (path / name).is_dir():
        files = find_images(path / name)
    elif path.is_dir() and name in files:
        files = {name: files[name]}
    elif scans > 1:
        raise MissingFileError(f"{path}: holds no {name}.nii.gz and no folder {name}, the masks of that scan")
    if not files:
        raise MissingFileError(f"masks={path}: holds no mask")
    sites = []
    for mask in files.values():
        found = read_volume(mask).found_labels
        wrong = [value for value in found if value < 0 or value != int(value)]
        if wrong:
            raise UserError(
                f"{mask}: holds {wrong[0]:g}, which is no label; make it a mask, with 0 outside and 1, 2, 3, "
                "... in lesions"
            )
        numbers = [int(value) for value in found if value]
        if not numbers:
            raise UserError(f"{mask}: has no lesion voxel; draw a lesion, or leave the mask out")
        several = len(numbers) > 1
        sites += [
            Site(f"{mask}, lesion {number}" if several else str(mask), mask=mask, label=number)
            for number in numbers
        ]
    return sites


def _makings(
    settings: InsertSettings, output: Path, scans: Scans, wanted: dict[str, Asked], tools: Tools
) -> dict[Path, Making]:
    """All that the run is to make, by folder."""
    found = {}
    described = settings.model_dump(exclude=INDIFFERENT, mode="json", fallback=str)
    tables = [sha256_of_file(path) for path in map(given_path, _tables(settings))]
    for name, paths in scans.items():
        read = [_digest(path) for path in paths if path]
        facts = [*read, described, tables, tools.weights, _described(wanted[name])]
        for number in range(1, settings.versions + 1):
            folder = output / (name if settings.versions == 1 else f"{name}_v{number}")
            made_from = hashlib.sha256(json.dumps([*facts, number], default=str).encode()).hexdigest()
            found[folder] = Making(name, number, made_from)
    return found


def _due(folders: dict[Path, Making], overwrite: bool) -> dict[Path, Making]:
    """Those of the folders that are to be made, or made again."""
    states = {folder: state(folder, making.made_from) for folder, making in folders.items()}
    for kind, reason in (("stale", "scan, sites, weights or settings"), ("damaged", "written files")):
        names = [folder.name for folder, found in states.items() if found == kind]
        if names and not overwrite:
            say(f"made again, as {reason} have changed: {', '.join(names)}")
    return {folder: making for folder, making in folders.items() if overwrite or states[folder] != "whole"}


def _tables(settings: InsertSettings) -> list[str]:
    """Files of textures."""
    return [path for path in (settings.textures, settings.realistic_textures) if isinstance(path, str)]


def _digest(path: Path) -> list[str]:
    """Of all that a scan is read from: a file, or the files of a DICOM folder."""
    if path.is_file():
        return [sha256_of_scan(path)]
    folder = path if path.is_dir() else path.parent  # that of one of its series
    return [path.name, *sorted(sha256_of_file(file) for file in folder.iterdir() if file.is_file())]


def _described(lesions: Asked) -> list:
    described = [
        [site.world, site.voxel, site.diameter_mm, site.texture, site.label]
        + ([sha256_of_scan(site.mask)] if site.mask else [])
        for site in sites_in(lesions)
    ]
    return described or [lesions]


def _read_all(scans: Scans, tools: Tools, due: dict[Path, Making], shown: bool) -> None:
    """Reads what is due once: a bad scan stops the run before the first lesion is made."""
    names = dict.fromkeys(name for name, *_ in due.values())
    for name in tqdm(names, unit="scan", desc="checking", leave=False, disable=not shown):
        try:
            tools.refuse(read_volume(scans[name][0]))
        except UserError as error:
            pass_over(error, None)


def _make(
    settings: InsertSettings,
    scans: Scans,
    wanted: dict[str, Asked],
    tools: Tools,
    due: dict[Path, Making],
    skipped: list[str] | None,
    shown: bool,
) -> tuple[list[Path], list[str]]:
    """Makes and writes what is due; one scan is written while the next is worked on.

    Returns the folders written, and notes. Reasons for skipping go to `skipped`; shown: whether progress is.
    """
    made: list[Path] = []
    notes: list[str] = []
    writing: Future | None = None
    volume, held = None, None
    total = sum(_steps(wanted[name]) for name, *_ in due.values())
    bar = tqdm(total=total, unit="lesion", desc="inserting", disable=not shown)
    with ThreadPoolExecutor(1) as writer, bar as progress:
        for folder, (name, number, made_from) in due.items():
            started = time.monotonic()
            drawn = settings.seed, number, settings.texture
            try:
                if held != name:
                    volume, held = None, None
                    volume, held = read_volume(scans[name][0]), name
                if settings.layout.hearts:
                    inserted = insert_infarct(volume, scans[name][1], tools, *drawn, done=progress.update)
                else:
                    asked = *drawn, settings.diameter_mm
                    inserted = insert_lesions(volume, tools, wanted[name], *asked, done=progress.update)
            except UserError as error:
                if len(scans) == 1 and settings.versions == 1:
                    raise
                pass_over(error, skipped)
                continue
            made.append(folder)
            notes += _notes(folder.name, inserted.lesions)
            if writing is not None:
                writing.result()
            facts = _facts(settings, tools, scans[name][0], number, made_from)
            writing = writer.submit(_write, folder, inserted, settings, facts, started)
            del inserted
        if writing is not None:
            writing.result()
    return made, notes


def _write_page(settings: InsertSettings, output: Path, scans: Scans, folders: dict[Path, Making]) -> Page:
    """viewer.html. Versions of a scan are shown one by one: of whole CTs memory would not hold all."""
    layout, unit, read = settings.layout, settings.unit or "", []
    for folder, (name, *_) in folders.items():
        image = next(path for path in folder.iterdir() if path.name.startswith("image"))
        numbered = not layout.hearts
        files = [Files("with lesions", folder / "labels.nii.gz", image, numbered)]
        read.append(partial(read_scan, folder.name, scans[name][0], files, layout, unit))
    return write_page(output / "viewer.html", read, output.name)


def _notes(name: str, lesions: Sequence[Lesion]) -> list[str]:
    """A line where lesions are not as they were asked for."""
    noted = [lesion for lesion in lesions if lesion.note]
    if not noted:
        return []
    first = f"lesion {noted[0].instance}: {noted[0].note}"
    if len(noted) == 1:
        return [f"{name}, {first}"]
    return [
        f"{name}: {len(noted)} of {len(lesions)} lesions are not quite as asked for, such as {first}; see "
        "the column note of lesions.csv"
    ]


def _steps(lesions: Asked) -> int:
    """How many lesions a scan gets, at most."""
    if isinstance(lesions, int):
        return lesions
    return len(sites_in(lesions)) or lesions[1]


def _write(
    folder: Path, inserted: InsertedScan, settings: InsertSettings, facts: dict, started: float
) -> None:
    shown = settings.save_edit_mask, settings.preview_lesions
    files = write_output(folder, inserted, *shown, facts["lefusion"] or "unknown")
    facts["seconds"] = round(time.monotonic() - started, 1)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    facts["peak_memory_mb"] = round(peak / (1 << 20 if sys.platform == "darwin" else 1 << 10))
    write_report(folder, facts, files)


def _facts(settings: InsertSettings, tools: Tools, source: Path, number: int, made_from: str) -> dict:
    """Of the report, but for what is known at the end."""
    installed = None
    with suppress(PackageNotFoundError):
        installed = version("lefusion")
    return {
        "lefusion": installed,
        "git_commit": git_commit(),
        "source": str(source),
        "version": number,
        "made_from": made_from,
        "weights_sha256": tools.weights,
        "device": str(choose_device(settings.device)),
        "settings": settings.model_dump(mode="json", fallback=str),
    }
