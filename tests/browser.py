"""Open a page in a headless Chromium and tell what is wrong with it, as a reader would see it."""

import html
import json
import os
import re
import select
import shutil
import subprocess
import unicodedata

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
  const found = JSON.stringify({pictures: document.images.length, wrong: wrong});
  document.body.setAttribute("data-found", found);
  if (parent !== window) parent.postMessage([name, found], "*");
});
</script>"""

FRAMES = """<!DOCTYPE html><html><head><meta charset="utf-8"><script>
addEventListener("message", event => document.body.setAttribute("data-found-" + event.data[0], event.data[1]));
</script></head><body>FRAMES</body></html>"""


def look_at(page, scratch, width=1200):
    """Return how many pictures a page has, and what is wrong: missing pictures, errors of scripts, too wide a page."""
    return look_at_all([(page, width)], scratch)[0]


def look_at_all(pages, scratch):
    """Return the same for several (page, width), each in a frame of its own in one window.

    A frame may be as narrow as a phone; Chromium's windows are 500 pixels wide at least.
    """
    frames = []
    for number, (page, width) in enumerate(pages):
        probed = scratch / f"probed-{number}.html"
        probed.write_text(page.read_text().replace("<head>", f"<head>{PROBE}", 1))
        size = f'width="{width}" height="800" frameborder="0"'
        frames.append(f'<iframe name="{number}" src="{probed.name}" {size}></iframe>')
    whole = scratch / "frames.html"
    whole.write_text(FRAMES.replace("FRAMES", "\n".join(frames)))
    printed = chromium(scratch, "--window-size=1400,900", "--virtual-time-budget=20000", "--dump-dom", whole.as_uri())
    told = {int(key): html.unescape(text) for key, text in re.findall(r'data-found-(\d+)="([^"]*)"', printed)}
    assert sorted(told) == list(range(len(pages))), printed[:1000]
    found = [json.loads(told[number]) for number in range(len(pages))]
    return [(one["pictures"], one["wrong"]) for one in found]


def text_in_print(page, scratch):
    """Return what a page says on paper, without spaces: where a word is broken they tell nothing."""
    import pypdf

    paper = scratch / "page.pdf"
    chromium(scratch, "--no-pdf-header-footer", f"--print-to-pdf={paper}", page.as_uri())
    said = "".join(sheet.extract_text() for sheet in pypdf.PdfReader(paper).pages)
    return "".join(unicodedata.normalize("NFKC", said).split())  # no ligatures


def chromium(scratch, *words):
    """Run Chromium without a window, and return what it prints."""
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    done = subprocess.run(
        [CHROMIUM, *options, f"--user-data-dir={scratch / 'profile'}", *words],
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


EVERYTHING = """
(() => {
  const texts = [], pictures = [];
  const walk = node => {
    if (node.nodeType === Node.TEXT_NODE) texts.push(node.textContent);
    if (node.tagName === "IMG") pictures.push([node.currentSrc, node.naturalWidth, node.naturalHeight]);
    for (const child of [...(node.shadowRoot ? node.shadowRoot.childNodes : []), ...node.childNodes]) {
      if (!["SCRIPT", "STYLE", "TEMPLATE"].includes(child.tagName)) walk(child);
    }
  };
  if (document.body) walk(document.body);
  return [texts.map(text => text.trim()).filter(Boolean), pictures];
})()
"""
"""Texts and pictures of a page, those inside its custom elements too: a dump of the page leaves these out."""


class Browser:
    """A headless Chromium that is asked through a pipe what its page shows; ``with`` ends it."""

    def __init__(self, scratch):
        (theirs, self._to), (self._from, answers) = os.pipe(), os.pipe()
        options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        options += ["--remote-debugging-pipe", "--window-size=1500,1400", f"--user-data-dir={scratch / 'profile'}"]
        self._process = subprocess.Popen(
            ["bash", "-c", f'exec "$@" 3<&{theirs} 4>&{answers}', "bash", CHROMIUM, *options],
            pass_fds=(theirs, answers),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs)
        os.close(answers)
        self._number, self._session, self._held = 0, {}, b""

    def __enter__(self):
        return self

    def __exit__(self, *error):
        os.close(self._to)
        os.close(self._from)
        self._process.terminate()
        self._process.wait(timeout=60)

    def visit(self, address):
        """Open a page in place of the last one."""
        self._session = {}
        target = self._ask("Target.createTarget", url=address)["targetId"]
        self._session = {"sessionId": self._ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]}

    def seen(self):
        """Return the page's texts, and (address, width, height) of its pictures, as it is now; none while it loads."""
        found = self._answer("Runtime.evaluate", expression=EVERYTHING, returnByValue=True)
        return found.get("result", {}).get("result", {}).get("value", ([], []))

    def _ask(self, method, **parameters):
        answer = self._answer(method, **parameters)
        assert "error" not in answer, answer
        return answer["result"]

    def _answer(self, method, **parameters):
        self._number += 1
        asked = {"id": self._number, "method": method, "params": parameters, **self._session}
        os.write(self._to, json.dumps(asked).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._number:
                return answer

    def _read(self):
        while b"\0" not in self._held:
            assert select.select([self._from], [], [], 240)[0], "the browser does not answer"
            part = os.read(self._from, 1 << 16)
            assert part, "the browser has ended"
            self._held += part
        message, _, self._held = self._held.partition(b"\0")
        return json.loads(message)
