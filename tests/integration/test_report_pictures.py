#!/usr/bin/env python3
"""The cost report as a reader sees it, in a headless Chromium: at 1440 and 390 pixels, light and dark, nothing is wider
than the screen and nothing is asked of the network. With --pictures DIR the four pictures are kept there. Without Chromium,
and without --full, it is skipped by name: what can be checked without a browser is in unit/test_report_html.c.
full: --full
runtest: release"""
# runtest: release
import argparse
import os
import shutil
import struct
import subprocess
import sys
import tempfile

WIDTHS, THEMES = (1440, 390), ("light", "dark")
FRAME = """<!doctype html><meta name=color-scheme content="light dark"><style>html,body{margin:0;background:Canvas}
iframe{border:0;display:block;width:%dpx;height:%dpx}</style><iframe src="report.html"></iframe>"""


def picture(browser, folder, width, height, theme, out):
    """A frame of that width: headless browsers have windows of 500 pixels at least."""
    page = os.path.join(folder, "frame.html")
    with open(page, "w", encoding="utf-8") as f:
        f.write(FRAME % (width, height))
    done = subprocess.run(
        [browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run",
         "--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={folder}/profile",
         f"--blink-settings=preferredColorScheme={0 if theme == 'dark' else 1}",
         f"--window-size={max(width, 500)},{height}", f"--screenshot={out}", "file://" + page],
        capture_output=True, text=True, timeout=120, check=False)
    assert os.path.exists(out), f"no picture: {done.stderr[-2000:]}"


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
