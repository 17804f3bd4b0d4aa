"""Every setting: typed, documented, unknown key = error with a suggestion; YAML plus ``key=value`` overrides."""

from fmsci.config.cluster import NodeSettings, PipelineSettings, SiteSettings
from fmsci.config.load import assign, dump_settings, load_settings, with_overrides
from fmsci.config.scaling import ScalingSettings
from fmsci.config.schema import Open, Schema, parse
from fmsci.config.sections import GenerateSettings, TrainSettings
from fmsci.config.study import StudySettings

__all__ = [
    "GenerateSettings",
    "NodeSettings",
    "Open",
    "PipelineSettings",
    "ScalingSettings",
    "Schema",
    "SiteSettings",
    "StudySettings",
    "TrainSettings",
    "assign",
    "dump_settings",
    "load_settings",
    "parse",
    "with_overrides",
]
