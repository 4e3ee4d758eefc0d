"""Radiologists' scores of the lesions of LIDC-IDRI."""

# From 1 to this; calcification 6: absent
HIGHEST_SCORES = {"texture_score": 5, "margin_score": 5, "spiculation": 5, "calcification": 6}
