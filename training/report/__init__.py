"""The report of a training: curves, pictures and the page."""
