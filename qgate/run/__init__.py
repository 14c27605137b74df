"""One run: settings in, a finished dataset out."""
