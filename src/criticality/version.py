"""The version that is installed."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("criticality")
except PackageNotFoundError:  # a source tree that was not installed
    __version__ = "0+unknown"
