"""A kept volume is the one that was written, in each format."""

import numpy as np
import pytest

from LeFusion.dataset.scans import ENDINGS, read_volume, write_label_like
from LeFusion.runtime.hashing import sha256_of_scan
from LeFusion.runtime.kept import is_whole


@pytest.fixture
def source(tmp_path):
    import nibabel

    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 5, 6), np.int16), np.eye(4)), tmp_path / "source.nii.gz")
    return read_volume(tmp_path / "source.nii.gz")


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_change_of_any_file_of_a_volume_is_seen(source, tmp_path, ending):
    path = tmp_path / "out" / f"a{ending}"
    write_label_like(source, np.ones(source.raw.shape, np.uint8), path)
    digest = sha256_of_scan(path)
    assert is_whole(path, digest, ()) and is_whole(path, None, (4, 5, 6)) and is_whole(path, "", (4, 5, 6))
    assert not is_whole(path, None, (4, 5, 7))
    for file in sorted(path.parent.iterdir()):
        content = file.read_bytes()
        file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        assert not is_whole(path, digest, (4, 5, 6)), file
        file.unlink()
        if file != path:
            assert not is_whole(path, digest, (4, 5, 6)) and not is_whole(path, None, (4, 5, 6))
        file.write_bytes(content)
    assert is_whole(path, digest, ())
