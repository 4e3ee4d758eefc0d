"""A run over scans: which are finished, one after the other, and writing one while the next is worked on."""

import hashlib
import json
import resource
import sys
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from tqdm import tqdm

from LeFusion.dataset.cases import find_images, refuse_among_sources
from LeFusion.dataset.scans import read_volume
from LeFusion.errors import MissingFileError, UserError
from LeFusion.insertion.lesions import Inserted, Tools, insert_lesions
from LeFusion.insertion.output import state, write_output, write_report
from LeFusion.insertion.sites import Site, read_sites
from LeFusion.runtime.commandline import choose_device, git_commit, given_path, output_folder, say
from LeFusion.runtime.hashing import sha256_of_file
from LeFusion.settings import InsertSettings

DRAWN = 3  # lesions, where nothing is said
# Settings that change no voxel
INDIFFERENT = {"input", "output", "sites", "masks", "versions", "overwrite", "batch_size", "default_paths"}


def run(settings: InsertSettings) -> list[Path]:
    """Makes what the settings ask for; returns the folders, one for each scan and version."""
    started = time.monotonic()
    output = output_folder(settings.output, "output")
    source = given_path(settings.input)
    scans = find_scans(source)
    refuse_among_sources({"output": output}, [source, given_path(settings.masks)])
    wanted = {name: _lesions(settings, name, list(scans)) for name in scans}
    tools = Tools.of(settings)
    folders, due, stale = _due(settings, output, scans, wanted, tools)
    if stale and not settings.overwrite:
        say(f"made again, as scan, sites, weights or settings have changed: {', '.join(stale)}")
    say(
        f"{len(scans)} scans, {len(folders)} to make: {len(due)} due, {len(folders) - len(due)} finished; on "
        f"{choose_device(settings.device)}"
    )
    noted = _make(settings, scans, wanted, tools, due)
    for line in noted:
        say(f"note: {line}")
    seconds = time.monotonic() - started
    say(f"wrote {len(due)} of {len(folders)} scans with lesions below {output} in {seconds:.0f} s:")
    for folder in folders:
        names = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
        say(f"  {folder}: {', '.join(names)}")
    return list(folders)


def find_scans(path: Path) -> dict[str, Path]:
    """The scans of a path, by name."""
    scans = find_images(path)
    if not scans:
        raise MissingFileError(f"{path}: holds no scan; give a scan, or a folder of scans")
    return scans


def _lesions(settings: InsertSettings, name: str, names: Sequence[str]) -> int | list[int] | list[Site]:
    """What a scan is to get: a count, or its sites."""
    given = [key for key in ("lesions", "sites", "masks") if getattr(settings, key) is not None]
    if len(given) > 1:
        raise UserError(f"{' and '.join(given)} both say where lesions are; give one of them")
    if settings.masks is not None:
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
        numbers = [int(value) for value in read_volume(mask).found_labels if value]
        if not numbers:
            raise UserError(f"{mask}: has no lesion voxel")
        several = len(numbers) > 1
        sites += [
            Site(f"{mask}, lesion {number}" if several else str(mask), mask=mask, label=number)
            for number in numbers
        ]
    return sites


def _due(settings, output: Path, scans: dict[str, Path], wanted: dict, tools: Tools):
    """-> all folders with what they are made from, by (scan, version); those to make; names of stale ones."""
    folders, due, stale = {}, {}, []
    described = settings.model_dump(exclude=INDIFFERENT, mode="json", fallback=str)
    for name, path in scans.items():
        facts = [_digest(path), described, tools.weights, _described(wanted[name])]
        for number in range(1, settings.versions + 1):
            folder = output / (name if settings.versions == 1 else f"{name}_v{number}")
            made_from = hashlib.sha256(json.dumps([*facts, number], default=str).encode()).hexdigest()
            folders[folder] = made_from
            found = state(folder, made_from)
            if found == "stale":
                stale.append(folder.name)
            if found != "whole" or settings.overwrite:
                due[folder] = (name, number, made_from)
    return folders, due, stale


def _digest(path: Path) -> list[str]:
    """Of all that a scan is read from: a file, or the files of a DICOM folder."""
    if path.is_file() and not path.name.endswith((".mhd", ".nhdr")):
        return [sha256_of_file(path)]
    folder = path if path.is_dir() else path.parent
    if path.is_file() or any(file.is_dir() for file in folder.iterdir()):
        return [read_volume(path).sha256]
    return [path.name, *sorted(sha256_of_file(file) for file in folder.iterdir())]


def _described(lesions: int | list) -> list:
    if isinstance(lesions, int) or not isinstance(lesions[0], Site):
        return [lesions]
    return [
        [site.world, site.voxel, site.diameter_mm, site.texture, site.label]
        + ([sha256_of_file(site.mask)] if site.mask else [])
        for site in lesions
    ]


def _make(settings: InsertSettings, scans, wanted, tools: Tools, due) -> list[str]:
    """Makes and writes what is due; one scan is written while the next is worked on. Returns notes."""
    notes: list[str] = []
    writing: Future | None = None
    volume, held = None, None
    with ThreadPoolExecutor(1) as writer, tqdm(total=None, unit="lesion", desc="inserting") as progress:
        for folder, (name, number, made_from) in due.items():
            started = time.monotonic()
            if held != name:
                volume, held = None, name
                volume = read_volume(scans[name])
            inserted = insert_lesions(
                volume,
                tools,
                wanted[name],
                settings.seed,
                number,
                settings.texture,
                settings.diameter_mm,
                progress.update,
            )
            notes += [
                f"{folder.name}, lesion {lesion.instance}: {lesion.note}"
                for lesion in inserted.lesions
                if lesion.note
            ]
            if writing is not None:
                writing.result()
            facts = _facts(settings, tools, scans[name], number, made_from)
            writing = writer.submit(_write, folder, inserted, settings, facts, started)
            del inserted
        if writing is not None:
            writing.result()
    return notes


def _write(folder: Path, inserted: Inserted, settings: InsertSettings, facts: dict, started: float) -> None:
    files = write_output(folder, inserted, settings.save_edit_mask, settings.preview_lesions)
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
