"""Whether the numbers of a CT are Hounsfield units; files often hold raw scanner values instead."""

from collections.abc import Sequence

import numpy as np

from LeFusion.dataset.intensity import Window
from LeFusion.dataset.volume import Volume
from LeFusion.errors import UserError

LUNG = -500  # HU; a window that begins below shows lung
FAT_TO_AIR = (-1100, -200)  # HU; what nearly every CT has, noise included
BONE = 700  # HU; not a tenth of a CT is above
PICTURE = 255  # the brightest of a picture's grey levels
NORMALISED = 10  # a range from minus this to this is no CT
LABELS = 10  # a mask has no more different values


def refuse_other_units(image: Volume, window: Window) -> None:
    """Raises UserError, naming the file, for a CT whose values are not in HU: raw scanner values
    (HU + 1024), a rescale intercept taken twice, values brought to [-1, 1], a picture, another modality.

    window: of the network; without a fixed one that begins below 0 the image is no CT, and all pass.
    """
    if not isinstance(window, Sequence) or isinstance(window, str) or not window[0] < 0:
        return
    if image.modality not in (None, "", "CT"):
        raise UserError(
            f"{image.path}: its modality is {image.modality}, but a CT is needed (in HU, {window}); give"
            " the CT series, or another data_type"
        )
    values, low = image.values, window[0]
    lowest, highest = float(values.min()), float(values.max())
    if lowest == highest:
        return  # it says nothing
    reason = ""
    if -NORMALISED <= lowest and highest <= NORMALISED:
        reason = "that is a normalised image"
    elif highest < low or highest < 300 and float(np.median(values)) < min(low, LUNG) - 400:
        reason = "that is too dark; was the rescale intercept applied twice?"
    elif lowest >= 0 and highest <= PICTURE and low <= LUNG:
        reason = "that is a picture of 8 bits"
    elif not ((values > FAT_TO_AIR[0]) & (values < FAT_TO_AIR[1])).any():
        if low <= LUNG or float(np.percentile(values, 90)) > BONE:
            reason = "nothing is as dark as air; raw scanner values are HU + 1024"
    if reason and lowest >= 0 and highest <= PICTURE and len(image.found_labels) <= LABELS:
        labels = ", ".join(f"{value:g}" for value in image.found_labels)
        raise UserError(
            f"{image.path}: holds nothing but {labels}, so it is a mask and no scan in HU; give the scan, or "
            "the folder of scans alone"
        )
    if reason:
        raise UserError(
            f"{image.path}: its values, {lowest:g} to {highest:g}, are not in HU ({reason}); convert it to "
            "HU (air -1000, water 0) and store it as int16"
        )
