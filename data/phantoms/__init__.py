"""What the scripts of data/ share. They run from their folder, without the project."""
