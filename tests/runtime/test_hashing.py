import hashlib

import numpy as np
import SimpleITK
from dicom_files import write_series

from LeFusion.runtime.hashing import sha256_of_file, sha256_of_scan


def test_the_published_digest_of_abc_and_files_of_several_blocks(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"abc")  # FIPS 180-4
    assert sha256_of_file(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    content = bytes(range(256)) * 5000
    path.write_bytes(content)
    assert sha256_of_file(path) == hashlib.sha256(content).hexdigest()


def test_a_scan_is_more_than_its_header(tmp_path):
    values = np.arange(60, dtype=np.uint16).reshape(3, 4, 5)
    for name in ("a.mha", "a.mhd", "a.nhdr"):
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(values), str(tmp_path / name))
    write_series(tmp_path / "series", values)
    found = {}
    for changed in (False, True):
        for name in ("a.mha", "a.mhd", "a.nhdr", "series"):
            found[name, changed] = sha256_of_scan(tmp_path / name)
        for voxels in ("a.mha", "a.raw"):
            content = (tmp_path / voxels).read_bytes()
            (tmp_path / voxels).write_bytes(content[:-1] + b"\x07")
        write_series(tmp_path / "series", values + 1)
    assert all(found[name, False] != found[name, True] for name, _ in found)
    assert sha256_of_scan(tmp_path / "a.mha") == sha256_of_file(tmp_path / "a.mha")
