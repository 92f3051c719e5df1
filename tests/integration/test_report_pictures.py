#!/usr/bin/env python3
"""The cost report as a reader sees it, in a headless Chromium: at 1440 and 390 pixels, light and dark, it can be drawn; nothing
is wider than the screen, nothing is asked of the network, every chart has a name. With --pictures DIR the four pictures are kept
there. Without Chromium, and without --full, it is skipped by name: what can be checked without a browser is in
unit/test_report_html.c."""
# runtest: release
import argparse
import html
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile

WIDTHS, THEMES = (1440, 390), ("light", "dark")
FRAME = """<!doctype html><meta name=color-scheme content="light dark"><style>html,body{margin:0;background:Canvas}
iframe{border:0;display:block;width:%dpx;height:%dpx}</style><iframe src="report.html"></iframe>"""
MEASURE = """<!doctype html><iframe style="border:0;width:%dpx;height:900px" srcdoc="%s"></iframe><p id=said></p><script>
onload = () => { const f = document.querySelector("iframe"), d = f.contentDocument;
  document.getElementById("said").textContent = JSON.stringify({
    wide: d.documentElement.scrollWidth, asked: f.contentWindow.performance.getEntriesByType("resource").length,
    styled: f.contentWindow.getComputedStyle(d.querySelector("section")).borderRadius,
    charts: d.querySelectorAll("svg[role=img]").length,
    unnamed: [...d.querySelectorAll("svg[role=img]")].filter(s => !s.querySelector("title").textContent).length}) }
</script>"""


def chromium(browser, folder, page, *flags):
    path = os.path.join(folder, "frame.html")
    with open(path, "w", encoding="utf-8") as f:
        f.write(page)
    return subprocess.run(
        [browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run",
         "--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={folder}/profile", *flags, "file://" + path],
        capture_output=True, text=True, timeout=120, check=False)


def picture(browser, folder, width, height, theme, out):
    """A frame of that width: headless browsers have windows of 500 pixels at least."""
    done = chromium(browser, folder, FRAME % (width, height),
                    f"--blink-settings=preferredColorScheme={0 if theme == 'dark' else 1}",
                    f"--window-size={max(width, 500)},{height}", f"--screenshot={out}")
    assert os.path.exists(out), f"no picture: {done.stderr[-2000:]}"


def measure(browser, folder, width):
    with open(os.path.join(folder, "report.html"), encoding="utf-8") as f:
        page = f.read()
    done = chromium(browser, folder, MEASURE % (width, html.escape(page)), "--dump-dom")
    said = re.search(r"<p id=\"said\">(.*?)</p>", done.stdout)
    assert said and said[1], done.stderr[-2000:]
    r = json.loads(html.unescape(said[1]))
    assert r["wide"] <= width and r["asked"] == 0 and r["unnamed"] == 0 and r["charts"] >= 10, r
    assert r["styled"] == "12px", r  # its own policy lets its rules through


def size(path):
    with open(path, "rb") as f:
        return struct.unpack(">II", f.read(24)[16:])


def main():
    a = argparse.ArgumentParser()
    a.add_argument("--build", default="build")
    a.add_argument("--shared")
    a.add_argument("--full", action="store_true")
    a.add_argument("--pictures")
    a.add_argument("--height", type=int, default=2400)
    o = a.parse_args()
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if not (o.full or o.pictures) or not browser:
        print("skipped: report pictures (" + ("no Chromium here" if o.full or o.pictures else "only with --full") + ")")
        return 0
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([os.path.join(o.build, "tests", "test_report_html"), "--write", folder], check=True)
        for width in WIDTHS:
            measure(browser, folder, width)
            for theme in THEMES:
                out = os.path.join(o.pictures or folder, f"report-{width}-{theme}.png")
                picture(browser, folder, width, o.height, theme, out)
                w, h = size(out)
                assert (w, h) == (max(width, 500), o.height), f"{out}: {w} x {h}"
                assert os.path.getsize(out) > 20000, f"{out} shows next to nothing"
                print(f"ok {width} px, {theme}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
