"""The version that is recorded with every run."""

from importlib import metadata


def code_version() -> str:
    """Return the installed version of Lode."""
    try:
        return metadata.version("lode-engine")
    except metadata.PackageNotFoundError:
        return "0+uninstalled"
