"""Every setting: typed, documented, unknown key = error with a suggestion; YAML plus ``key=value`` overrides."""

from fmsci.config.cluster import NodeSettings, PipelineSettings, SiteSettings
from fmsci.config.load import dump_settings, load_settings
from fmsci.config.schema import Schema, parse
from fmsci.config.sections import GenerateSettings, StudySettings, TrainSettings

__all__ = [
    "GenerateSettings",
    "NodeSettings",
    "PipelineSettings",
    "Schema",
    "SiteSettings",
    "StudySettings",
    "TrainSettings",
    "dump_settings",
    "load_settings",
    "parse",
]
