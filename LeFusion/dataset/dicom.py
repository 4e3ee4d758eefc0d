"""Read a DICOM series as a volume of the numbers that it stores."""

from pathlib import Path

import numpy as np

from LeFusion.dataset.dicom_series import Pixels, Series, Slice, arranged, series_at
from LeFusion.dataset.storage import one_line
from LeFusion.dataset.volume import Volume
from LeFusion.errors import UserError

AIR_HU = -900  # padding of a CT that is brighter would look like tissue
HELP = "pip install 'lefusion[dicom-compressed]' brings the decoders"


def read_dicom(path: Path) -> Volume:
    """Read the series of a folder, of a multi-frame file, or FOLDER/<SeriesInstanceUID>.

    raw: (columns, rows, slices) in the stored type, where slope and intercept are the same in all slices;
    else the values themselves, int32 or float32. header: the Series, its slices in the same order.

    Raises UserError, in one line that names the path, for what is no even stack of slices (see `arranged`),
    for pixels that cannot be decoded, and for a CT whose padding is brighter than air.
    """
    series, affine = arranged(series_at(path), path)
    slices = series.slices
    kinds = {(one.pixels.bits_allocated, one.pixels.signed) for one in slices}
    scales = {(one.slope, one.inter) for one in slices}
    _refuse_bright_padding(series, path)
    one_scale = len(kinds) == 1 and len(scales) == 1
    stack = None
    for number, stored in enumerate(stored_slices(series)):
        one = slices[number]
        if not one_scale:
            stored = stored.astype(np.float64) * one.slope + one.inter
        if stack is None:
            stack = np.empty((len(slices), *stored.shape), stored.dtype)
        stack[number] = stored
    slope, inter = scales.pop() if one_scale else (1.0, 0.0)
    if not one_scale:
        whole = np.array_equal(stack, np.rint(stack)) and np.abs(stack).max() < 2**31
        stack = stack.astype(np.int32 if whole else np.float32)
    return Volume(path, stack.T, slope, inter, affine, series)


def stored_slices(series: Series):
    """The (rows, columns) numbers that each slice stores, in order."""
    opened, frames = None, None
    for one in series.slices:
        if one.path != opened:
            opened, frames = one.path, decoded(one)
        yield frames if one.frame is None else frames[one.frame]


def decoded(one: Slice) -> np.ndarray:
    """The stored numbers of a file, (rows, columns) or (frames, rows, columns)."""
    import pydicom

    name = None
    try:
        dataset = pydicom.dcmread(one.path, force=True)
        dataset.file_meta.setdefault("TransferSyntaxUID", pydicom.uid.ImplicitVRLittleEndian)
        name = dataset.file_meta.TransferSyntaxUID
        frames = dataset.pixel_array
    except OSError:
        raise
    except Exception as error:  # decoders raise of all kinds
        reason = one_line(error)[:200]
        if getattr(name, "is_compressed", False):
            raise UserError(
                f"{one.path}: its pixels, compressed as {name.name}, cannot be decoded ({reason}); {HELP}"
            ) from error
        raise UserError(f"{one.path}: its pixels are damaged ({reason}); copy the file again") from error
    if frames.shape[-2:] != one.pixels.size:
        raise UserError(
            f"{one.path}: its pixels have shape {frames.shape}, its header says {one.pixels.size}"
        )
    return whole_bits(frames, one.pixels)


def whole_bits(frames: np.ndarray, pixels: Pixels) -> np.ndarray:
    """Stored numbers without what other bits may hold (overlays), and with their sign."""
    if frames.dtype.kind not in "iu" or pixels.bits_stored == pixels.bits_allocated:
        return frames
    unsigned = np.dtype(f"u{frames.dtype.itemsize}")
    wide = 8 * frames.dtype.itemsize
    bits = frames.view(unsigned) if frames.dtype.isnative else frames.astype(frames.dtype.newbyteorder("="))
    bits = bits.view(unsigned) << np.array(wide - 1 - pixels.high_bit, unsigned)
    kind = np.dtype(f"{'i' if pixels.signed else 'u'}{frames.dtype.itemsize}")
    return bits.view(kind) >> np.array(wide - pixels.bits_stored, kind)


def _refuse_bright_padding(series: Series, path: Path) -> None:
    """Padding as dark as air or darker (-1024, -2000, -3024 HU) is air to every window."""
    for one in series.slices:
        padding = one.pixels.padding
        if series.modality != "CT" or padding is None:
            continue
        if padding < 0 and not one.pixels.signed:
            padding += 1 << one.pixels.bits_allocated
        value = padding * one.slope + one.inter
        if value > AIR_HU:
            raise UserError(
                f"{path}: where nothing was measured it stores {padding} (PixelPaddingValue), which is "
                f"{value:g} HU; set these pixels to air (-1000 HU)"
            )
