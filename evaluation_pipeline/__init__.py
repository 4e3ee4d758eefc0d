"""What the synthetic data is worth. Meets the other packages through NIfTI files on disk only."""
