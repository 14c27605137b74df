"""Which qgate this is."""

from importlib import metadata

try:
    __version__ = metadata.version("qgate")
except metadata.PackageNotFoundError:  # a source folder on a machine where nothing is installed
    __version__ = "unknown"
