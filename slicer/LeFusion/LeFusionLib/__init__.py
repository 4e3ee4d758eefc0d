"""What the module for 3D Slicer does besides Qt and nodes. Python 3.9 and NumPy, as Slicer brings them."""
