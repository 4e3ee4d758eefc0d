"""Lesions in whole scans: sites, masks, painting in sequence, and what is written. Stands on LeFusion and on
DiffMask, which makes the masks."""
