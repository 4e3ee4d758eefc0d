"""Read a DICOM series as a volume of the numbers that it stores."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from LeFusion.dataset.dicom_series import Pixels, Series, Slice, arranged, series_at
from LeFusion.dataset.storage import one_line
from LeFusion.dataset.volume import Volume
from LeFusion.errors import UserError

AIR_HU = -900  # padding of a CT that is brighter would look like tissue
HELP = "pip install 'lefusion[dicom-compressed]' brings the decoders"
NO_HELP = "write the series uncompressed first, for example with gdcmconv --raw"


def read_dicom(path: Path) -> Volume:
    """Read the series of a folder, of a multi-frame file, or FOLDER/<SeriesInstanceUID>.

    raw: (columns, rows, slices) in the stored type, where slope and intercept are the same in all slices;
    else the values themselves, int32 or float32. header: the Series, its slices in the same order.

    Raises UserError, in one line that names the path, for what is no even stack of slices (see `arranged`),
    for pixels that cannot be decoded, and for a CT whose padding is brighter than air.
    """
    series, affine = arranged(series_at(path), path)
    _refuse_bright_padding(series, path)
    scale, stack = scale_of(series), None
    for number, stored in enumerate(_stored_slices(series)):
        if scale is None:
            one = series.slices[number]
            stored = stored * np.float64(one.slope) + one.inter
        if stack is None:
            stack = np.empty((len(series.slices), *stored.shape), stored.dtype)
        stack[number] = stored
    if scale is None:
        whole = np.array_equal(stack, np.rint(stack)) and np.abs(stack).max() < 2**31
        stack = stack.astype(np.int32 if whole else np.float32)
    return Volume(path, stack.T, *(scale or (1.0, 0.0)), affine, series)


def scale_of(series: Series) -> tuple[float, float] | None:
    """Slope and intercept of all slices; None where they differ, or the slices' types do."""
    kinds = {(one.pixels.bits_allocated, one.pixels.signed, one.slope, one.inter) for one in series.slices}
    return next(iter(kinds))[2:] if len(kinds) == 1 else None


def decoded(dataset, one: Slice) -> np.ndarray:
    """The stored numbers of the file of a slice, read by pydicom: (rows, columns) or (frames, rows, columns).

    Gives a file without it the transfer syntax that it then has. Raises UserError, naming the file, for
    pixels that cannot be decoded.
    """
    from pydicom.uid import ImplicitVRLittleEndian

    if "TransferSyntaxUID" not in dataset.file_meta:
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    syntax = dataset.file_meta.TransferSyntaxUID
    try:
        frames = dataset.pixel_array
    except Exception as error:  # decoders raise of all kinds
        reason = one_line(error)[:200]
        if syntax.is_compressed:
            raise UserError(
                f"{one.path}: its pixels, compressed as {syntax.name}, cannot be decoded ({reason}); "
                f"{HELP if _lacks_decoder(syntax) else NO_HELP}"
            ) from error
        raise UserError(f"{one.path}: its pixels are damaged ({reason}); copy the file again") from error
    if frames.shape[-2:] != one.pixels.size:
        raise UserError(
            f"{one.path}: its pixels have shape {frames.shape}, its header says {one.pixels.size}"
        )
    return _whole_bits(frames, one.pixels)


def _lacks_decoder(syntax) -> bool:
    """Whether a package would decode this transfer syntax that is not installed."""
    from pydicom.pixels import get_decoder

    try:
        return not get_decoder(syntax).is_available
    except NotImplementedError:  # nobody decodes it
        return False


def _stored_slices(series: Series) -> Iterator[np.ndarray]:
    """The (rows, columns) numbers that each slice stores, in order."""
    import pydicom

    opened, frames = None, None
    for one in series.slices:
        if one.path != opened:
            opened, frames = one.path, decoded(pydicom.dcmread(one.path, force=True), one)
        yield frames if one.frame is None else frames[one.frame]


def _whole_bits(frames: np.ndarray, pixels: Pixels) -> np.ndarray:
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
