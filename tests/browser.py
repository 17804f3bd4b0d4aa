"""Open a page in a headless Chromium and tell what is wrong with it, as a reader would see it."""

import html
import json
import re
import shutil
import subprocess

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium (apt-get install chromium)")

PROBE = """<script>
const wrong = [];
addEventListener("error", event => wrong.push(event.message || "not loaded: " + event.target.tagName), true);
addEventListener("load", () => {
  for (const picture of document.images) {
    if (!picture.complete || !picture.naturalWidth) wrong.push("missing picture: " + picture.alt);
  }
  const wide = document.documentElement.scrollWidth;
  if (wide > innerWidth) wrong.push("wider than the window: " + wide);
  document.body.setAttribute("data-found", JSON.stringify({pictures: document.images.length, wrong: wrong}));
});
</script>"""


def look_at(page, scratch, width=1200):
    """Return how many pictures a page has, and what is wrong: missing pictures, errors of scripts, too wide a page."""
    probed = scratch / "probed.html"
    probed.write_text(page.read_text().replace("<head>", f"<head>{PROBE}", 1))
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    options += ["--virtual-time-budget=20000", f"--user-data-dir={scratch / 'profile'}"]
    done = subprocess.run(
        [CHROMIUM, *options, f"--window-size={width},900", "--dump-dom", probed.as_uri()],
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    found = re.search(r'data-found="([^"]*)"', done.stdout)
    assert found, done.stderr
    seen = json.loads(html.unescape(found[1]))
    return seen["pictures"], seen["wrong"]
