"""Is synthetic data faithful, diverse and not memorised? One module for each question."""
