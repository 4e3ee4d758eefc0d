"""From files to tensors and back: the only place that knows file names, axis orders and intensity units.

`scans` finds, reads and writes scans, whatever their format (`nifti`, `itk`), as a `volume`; `axes`, `boxes`,
`grid` and `intensity` change axes, boxes, voxel sizes and units, `cases` pairs images with masks, `loading`
and `dataset` put them together for inference and training.
"""
