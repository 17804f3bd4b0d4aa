"""Weights come back as they were written, and a damaged file is a sentence."""

import json
from pathlib import Path

import pytest
import torch

from fmsci.errors import UserError
from fmsci.tensors import each_tensor, write_tensors


def test_tensors_come_back_with_their_bits(tmp_path):
    tensors = {
        "parameter": torch.nn.Parameter(torch.randn(3, 4)),
        "step": torch.tensor(7.0),
        "strided": torch.arange(12.0).reshape(3, 4).T,
        "empty": torch.zeros(0, 2),
        "double": torch.randn(5, dtype=torch.float64),
    }
    write_tensors(tmp_path / "t", tensors)
    again = dict(each_tensor(tmp_path / "t"))
    assert again.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert torch.equal(again[name], tensor)
        assert again[name].dtype == tensor.dtype


def test_others_may_read_weights_as_they_may_read_any_file(tmp_path):
    (tmp_path / "any").write_text("")
    write_tensors(tmp_path / "t", {"w": torch.zeros(3)})
    assert (tmp_path / "t").stat().st_mode == (tmp_path / "any").stat().st_mode


def test_a_missing_weights_file_is_a_sentence(tmp_path):
    with pytest.raises(UserError, match=f"^there is no weights file {tmp_path}/t$"):
        dict(each_tensor(tmp_path / "t"))


HEADER = json.dumps({"w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}})


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00" * 8,
        b"\xff" * 100,
        b"\x05\x00\x00\x00\x00\x00\x00\x00notjs",
        len(HEADER).to_bytes(8, "little") + HEADER.encode() + b"\x00" * 15,  # one byte short
        len(HEADER).to_bytes(8, "little") + HEADER.encode() + b"\x00" * 17,
        len(HEADER).to_bytes(8, "little") + HEADER.replace("[4]", "[10000000000000]").encode() + b"\x00" * 16,
        len(HEADER).to_bytes(8, "little") + HEADER.replace("F32", "X99").encode() + b"\x00" * 16,
        b"\x80\x04\x95pickle",
    ],
    ids=["empty", "zeros", "ones", "no json", "short", "long", "huge shape", "unknown type", "pickle"],
)
def test_a_damaged_weights_file_is_a_sentence(tmp_path, content):
    (tmp_path / "t").write_bytes(content)
    with pytest.raises(UserError, match=f"^the weights file {tmp_path}/t is damaged: "):
        dict(each_tensor(tmp_path / "t"))


def test_every_flipped_byte_of_a_weights_header_is_read_or_a_sentence(tmp_path):
    path: Path = tmp_path / "t"
    write_tensors(path, {"alpha": torch.ones(2, 3), "beta": torch.zeros(4)})
    content = path.read_bytes()
    refused = 0
    for place in range(len(content) - 40):
        for bit in (1, 0x80):
            damaged = bytearray(content)
            damaged[place] ^= bit
            path.write_bytes(damaged)
            try:
                dict(each_tensor(path))
            except UserError:
                refused += 1
    assert refused > 100
