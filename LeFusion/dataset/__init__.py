"""From files to tensors and back: the only place that knows file names, axis orders and intensity units.

`nifti` reads and writes single files, `transforms` changes units, axes and boxes (each with its inverse),
`cases` pairs images with masks, `dataset` puts the three together for training and inference.
"""
