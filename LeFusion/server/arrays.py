"""Arrays over the wire: .npz files of which nothing is run and nothing is larger than allowed."""

import io
import math
import zipfile
import zlib
from collections.abc import Collection, Mapping

import numpy as np

from LeFusion.errors import UserError

HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
NUMBERS = "iufb"  # kinds of data types


def read_arrays(content: bytes, known: Collection[str], most_bytes: int) -> dict[str, np.ndarray]:
    """The arrays of an .npz file, as np.savez and np.savez_compressed write it.

    Raises UserError, one line that names the array, for what is no .npz file, arrays that are not `known`,
    that hold anything but numbers (Python objects would be unpickled), that are damaged, or that take more
    than `most_bytes` together once they are unpacked.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return _members(archive, known, most_bytes)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise UserError(f"the body is no .npz file ({error}); send what np.savez writes") from None


def _members(archive: zipfile.ZipFile, known: Collection[str], most_bytes: int) -> dict[str, np.ndarray]:
    arrays, left = {}, most_bytes
    for member in archive.infolist():
        name = member.filename.removesuffix(".npy")
        if name not in known or name in arrays:
            raise UserError(
                f"array {name[:40]!r} is not expected; send {', '.join(sorted(known))}, each once"
            )
        with archive.open(member) as file:
            data = file.read(left + 1)  # what the archive says about its size may be wrong
        if len(data) > left:
            raise UserError(f"the arrays take more than {most_bytes / 1e6:g} MB; send only what is needed")
        left -= len(data)
        arrays[name] = _array(name, data)
    return arrays


def _array(name: str, data: bytes) -> np.ndarray:
    file = io.BytesIO(data)
    try:
        shape, by_columns, dtype = HEADERS[np.lib.format.read_magic(file)](file)
    except (ValueError, KeyError) as error:
        raise UserError(f"array {name!r} is damaged ({' '.join(str(error).split())[:100]})") from None
    if dtype.hasobject or dtype.kind not in NUMBERS:
        raise UserError(f"array {name!r} holds {dtype}, not numbers; Python objects are not read")
    if len(data) - file.tell() != math.prod(shape) * dtype.itemsize:
        raise UserError(f"array {name!r} is damaged: its size is not that of {shape} {dtype}")
    array = np.frombuffer(data, dtype, offset=file.tell())
    return array.reshape(shape, order="F" if by_columns else "C").astype(dtype.newbyteorder("="))


def write_arrays(arrays: Mapping[str, np.ndarray]) -> bytes:
    """An .npz file."""
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()
