"""The configuration: typed, validated once when a run starts, and passed down."""

from flywheel.config.loading import load_config, resolve_path
from flywheel.config.schema import Config
from flywheel.config.student import Student

__all__ = ["Config", "Student", "load_config", "resolve_path"]
