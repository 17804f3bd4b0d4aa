"""Files that no reader of samples may take: ``fmsci predict`` and ``fmsci data import`` are both given them all."""

import os

import h5py
import numpy as np

K = [0.02, 0.03, 0.004]


def write(path, fields, tensor, **attributes):
    with h5py.File(path, "w") as file:
        file["fields"], file["tensor"] = fields, tensor
        file.attrs.update(attributes)
    return path


def with_fields(make):
    """Return what writes a file with a whole tensor and the fields that ``make`` puts there."""

    def build(path):
        with h5py.File(path, "w") as file:
            file["tensor"] = np.tile(K, (3, 1))
            make(file, path)

    return build


def other(path):
    """Write a whole file beside ``path``."""
    return write(path.with_name("other.h5"), np.ones((3, 2, 16, 16)), np.tile(K, (3, 1)))


def external_link(file, path):
    file["fields"] = h5py.ExternalLink(other(path).name, "/fields")


def by_detour(file, path):
    file["away"] = h5py.ExternalLink(other(path).name, "/")
    file["fields"] = h5py.SoftLink("/away/fields")


def link_to_a_pipe(file, path):
    os.mkfifo(path.with_name("pipe.h5"))
    file["fields"] = h5py.ExternalLink("pipe.h5", "/fields")


def raw_storage(file, path):
    secret = path.with_name("secret")
    secret.write_bytes(bytes(3 * 4 * 2 * 256))
    file.create_dataset("fields", (3, 2, 16, 16), "f4", external=[(str(secret), 0, 3 * 2048)])


def virtual(source, shape=(3, 2, 16, 16)):
    def make(file, path):
        layout = h5py.VirtualLayout(shape, "f8")
        layout[:3, :, :16, :16] = h5py.VirtualSource(source(path), "fields", (3, 2, 16, 16))
        file.create_virtual_dataset("fields", layout)

    return make


def pipe(path):
    os.mkfifo(path.with_name("pipe.h5"))
    return "pipe.h5"


def linked_away(path):
    path.with_name("link.h5").symlink_to("/proc/self/mem")
    return "link.h5"


def shows_raw(path):
    with h5py.File(path.with_name("other.h5"), "w") as file:
        raw_storage(file, path)
    return "other.h5"


def unwritten(file, path):
    file.create_dataset("fields", (3, 2, 16, 16), "f4")


def declared(file, path):
    file.create_dataset("fields", (3, 2, 1 << 20, 1 << 20), "f4", chunks=(1, 1, 64, 64))


HOSTILE = [
    ("missing", lambda path: None, "there is no file IN"),
    ("pickle", lambda path: path.write_bytes(b"\x80\x04pickle" * 99), "IN is not an HDF5 file that can be read"),
    ("folder", lambda path: path.mkdir(), "IN is not an HDF5 file that can be read"),
    ("pipe", os.mkfifo, "IN is not an HDF5 file that can be read: it is a pipe or a device, not a file"),
    ("device", lambda path: path.symlink_to("/dev/zero"), "IN is not an HDF5 file that can be read: it is a pipe"),
    ("nothing", with_fields(lambda file, path: None), "IN has no dataset 'fields'"),
    ("group", with_fields(lambda file, path: file.create_group("fields")), "IN has no dataset 'fields'"),
    (
        "flat",
        lambda path: write(path, np.ones((2, 16, 16)), np.ones((2, 3))),
        "IN: fields is (2, 16, 16) but should be",
    ),
    ("three", lambda path: write(path, np.ones((2, 3, 16, 16)), np.ones((2, 3))), "IN: fields is (2, 3, 16, 16) but"),
    ("none", lambda path: write(path, np.ones((0, 2, 16, 16)), np.ones((0, 3))), "IN: fields is (0, 2, 16, 16) but"),
    (
        "rows",
        lambda path: write(path, np.ones((2, 2, 16, 16)), np.ones((3, 3))),
        "IN: tensor is (3, 3) but should be (2",
    ),
    (
        "names",
        lambda path: write(path, np.ones((2, 2, 16, 16)), np.ones((2, 3)), columns=["a"]),
        "IN: its attribute col",
    ),
    ("text", lambda path: write(path, np.full((2, 2, 16, 16), b"a"), np.ones((2, 3))), "IN: 'fields' holds |S1, but"),
    (
        "words",
        lambda path: write(path, np.ones((2, 2, 16, 16)), np.full((2, 3), b"1.5")),
        "IN: 'tensor' holds |S3, but",
    ),
    (
        "complex",
        lambda path: write(path, np.ones((2, 2, 16, 16), "c8"), np.ones((2, 3))),
        "IN: 'fields' holds complex64",
    ),
    ("empty", lambda path: write(path, h5py.Empty("f4"), np.ones((2, 3))), "IN: 'fields' is empty"),
    ("no rows", lambda path: write(path, np.ones((2, 2, 16, 16)), h5py.Empty("f4")), "IN: 'tensor' is empty"),
    ("link", with_fields(external_link), "IN: 'fields' is a link to other.h5"),
    ("detour", with_fields(by_detour), "IN: 'fields' is a link to /away/fields"),
    ("link to a pipe", with_fields(link_to_a_pipe), "IN: 'fields' is a link to pipe.h5"),
    ("raw", with_fields(raw_storage), "IN: 'fields' is kept in "),
    ("virtual, far", with_fields(virtual(lambda path: str(other(path)))), "IN: 'fields' is kept in /"),
    ("virtual, up", with_fields(virtual(lambda path: "../other.h5")), "IN: 'fields' is kept in ../other.h5: it lies"),
    ("virtual, linked", with_fields(virtual(linked_away)), "IN: 'fields' is kept in link.h5"),
    ("virtual, pipe", with_fields(virtual(pipe)), "IN: 'fields' is kept in pipe.h5: it is no file"),
    ("virtual, lost", with_fields(virtual(lambda path: "lost.h5")), "IN: 'fields' is kept in lost.h5: No such file"),
    (
        "virtual, raw",
        with_fields(virtual(shows_raw)),
        "IN: 'fields' is kept in other.h5: the dataset fields is stored in",
    ),
    (
        "virtual, huge",
        with_fields(virtual(lambda path: other(path).name, (3, 2, 1 << 20, 1 << 20))),
        "IN: 'fields' declares (3, 2, 1048576, 1048576), more than the files it shows hold",
    ),
    ("unwritten", with_fields(unwritten), "IN: 'fields' was never written"),
    ("huge", with_fields(declared), "IN: 'fields' declares (3, 2, 1048576, 1048576), more than its "),
    ("not finite", lambda path: write(path, np.full((2, 2, 16, 16), np.nan), np.ones((2, 3))), "IN: sample 0 "),
]
"""Name, what writes the file, how the sentence about it begins (IN is its path)."""
