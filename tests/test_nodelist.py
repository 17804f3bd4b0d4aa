"""Slurm's compact host lists: expanded as scontrol does, or refused."""

import pytest

from fmsci.errors import UserError
from fmsci.nodelist import MAX_HOSTS, expand_nodelist


@pytest.mark.parametrize(
    ("text", "hosts"),
    [
        ("node1", ["node1"]),
        ("login1,gpu-a.example.org", ["login1", "gpu-a.example.org"]),
        ("gpu[1-3]", ["gpu1", "gpu2", "gpu3"]),
        ("gpu[07-09,12],login1", ["gpu07", "gpu08", "gpu09", "gpu12", "login1"]),  # padding kept
        ("gpu[098-101]", ["gpu098", "gpu099", "gpu100", "gpu101"]),
        ("n[9-11]", ["n9", "n10", "n11"]),  # no padding where none is written
        ("n[0000]", ["n0000"]),
        ("n[5]", ["n5"]),
        ("n[3,1,3]", ["n3", "n1", "n3"]),  # the order of the list
        ("r[1-2]n[3-4]", ["r1n3", "r1n4", "r2n3", "r2n4"]),
        ("r[1-2]n[1,5]-ib", ["r1n1-ib", "r1n5-ib", "r2n1-ib", "r2n5-ib"]),
        ("a[1-2]b[01]c[3,4]", ["a1b01c3", "a1b01c4", "a2b01c3", "a2b01c4"]),
        ("[1-2][3]", ["13", "23"]),
        ("a[1],b,c[2-3]d", ["a1", "b", "c2d", "c3d"]),
        ("x" + "[1]" * 2000, ["x" + "1" * 2000]),
    ],
    ids=lambda value: str(value)[:25],
)
def test_lists_expand_in_order(text, hosts):
    assert expand_nodelist(text) == hosts


def test_the_longest_range_is_expanded():
    hosts = expand_nodelist(f"n[1-{MAX_HOSTS}]")
    assert (len(hosts), hosts[-1]) == (MAX_HOSTS, f"n{MAX_HOSTS}")


@pytest.mark.parametrize(
    "text",
    ["gpu[1-2", "gpu1-2]", "gpu[[1]]", "a,,b", ",a", "a,", "a b", "a, b", "gpu[1 -2]\n", "gpu]1[", "[", "]", ","],
)
def test_what_is_no_list_is_refused(text):
    with pytest.raises(UserError, match=r"is not a node list such as gpu\[01-04,07\]"):
        expand_nodelist(text)


@pytest.mark.parametrize(
    ("inside", "part"),
    [("", ""), ("1-", "1-"), ("-1", "-1"), ("1,,2", ""), ("x", "x"), ("1-2-3", "1-2-3"), ("1-x", "1-x"), ("²", "²")],
)
def test_what_is_no_number_is_named(inside, part):
    with pytest.raises(UserError, match=f"'{part}' is no number or range"):
        expand_nodelist(f"gpu[{inside}]")


def test_an_empty_list_is_refused():
    with pytest.raises(UserError, match="the node list is empty"):
        expand_nodelist("")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("n[5-1]", "the range '5-1' runs backwards or is too long"),
        ("n[0-999999999999]", "the range '0-999999999999' runs backwards or is too long"),
        ("n[0-100000]", "the range '0-100000' runs backwards or is too long"),
        ("n[1-" + "9" * 5000 + "]", "is no number or range"),
        ("a[0-9999]b[0-9999]", "names more than 100,000 hosts"),
        ("a" + "[0-9]" * 60, "names more than 100,000 hosts"),
    ],
    ids=lambda value: value[:25],
)
def test_absurd_ranges_are_refused_without_being_made(text, reason):
    with pytest.raises(UserError, match=reason):
        expand_nodelist(text)
