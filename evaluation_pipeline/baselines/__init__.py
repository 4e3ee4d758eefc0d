"""Simple ways to make lesions, for generated ones to stand against."""
