"""The one tree of errors. A message names the thing, the value, what is allowed and the next step, in one line.

    QgateError                exit 1   a fault: something broke that the user did not cause
    ├── InputError            exit 2   what the user gave cannot be used
    │   ├── ConfigError                an unknown key or a value out of range
    │   ├── WeightsError               generator weights missing, truncated or of another kind
    │   ├── BundleError                a gate bundle missing, corrupted or incompatible
    │   ├── ImageError                 a file that is no readable PNG, JPEG or WebP image
    │   ├── LabelError                 a label row that breaks the format
    │   ├── StoreError                 a label store that is locked, damaged or has no space
    │   └── OutputError                the output folder: of another run, in use, damaged, no space
    ├── StoppedError          exit 3   stopped on request; the same command resumes
    └── TargetError           exit 4   the count cannot be reached with this threshold and search bound

Only the command line prints errors and exits; everything else raises.
"""

from __future__ import annotations


class QgateError(Exception):
    """A fault that the user did not cause."""

    exit_code = 1


class InputError(QgateError):
    """What the user gave cannot be used."""

    exit_code = 2


class ConfigError(InputError):
    """An unknown key or a value out of range."""


class WeightsError(InputError):
    """Generator weights that are missing, truncated or of another kind."""


class BundleError(InputError):
    """A gate bundle that is missing, corrupted or incompatible."""


class ImageError(InputError):
    """A file that is no readable PNG, JPEG or WebP image."""


class LabelError(InputError):
    """A label row that breaks the format."""


class StoreError(InputError):
    """A label store that cannot be read or written now: it is locked, damaged or has no space."""


class OutputError(InputError):
    """An output folder that belongs to another run, is in use, is damaged or has no space."""


class StoppedError(QgateError):
    """Stopped on request; the same command resumes."""

    exit_code = 3


class TargetError(QgateError):
    """The count cannot be reached with this threshold and search bound."""

    exit_code = 4
