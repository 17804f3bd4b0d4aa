"""The file format: contiguous HDF5 shards under one manifest. docs/format.md is its written form. The only room with
h5py."""

from fmsci.shards.layout import SPLITS
from fmsci.shards.manifest import Manifest, read_manifest
from fmsci.shards.reader import SplitReader, open_split

__all__ = ["SPLITS", "Manifest", "SplitReader", "open_split", "read_manifest"]
