"""The look at a page finds what is wrong with it."""

from tests.browser import look_at, needs_browser

DOT = "data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7"


def page(path, body):
    path.write_text(f"<!DOCTYPE html><html><head><title>t</title></head><body>{body}</body></html>")
    return path


@needs_browser
def test_a_page_is_seen_as_it_is(tmp_path):
    assert look_at(page(tmp_path / "good.html", f'<img src="{DOT}" alt="a dot">'), tmp_path) == (1, [])
    body = (
        f'<img src="{DOT}" alt="a dot"><img src="data:image/png;base64,AAAA" alt="no dot">'
        '<div style="width:5000px">w</div>'
        "<script>undefined_name()</script>"
    )
    pictures, wrong = look_at(page(tmp_path / "bad.html", body), tmp_path)
    assert pictures == 2
    assert "missing picture: no dot" in wrong
    assert any("undefined_name" in one for one in wrong)
    assert any("wider than the window" in one for one in wrong)
