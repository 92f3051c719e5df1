"""A headless Chromium, driven through the DevTools protocol over a pipe (https://chromedevtools.github.io/devtools-protocol/):
the little of it that tests of pages need. Standard library only; Skip where there is no Chromium."""

import base64
import json
import os
import queue
import shutil
import subprocess
import tempfile
import threading

from harness import PATIENCE, Skip


class Chromium:
    """One page. `said`: what its console, its policies and its network had to complain of; `asked`: addresses."""

    def __init__(self):
        program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
        if not program:
            raise Skip("no Chromium here")
        self.folder = tempfile.mkdtemp(prefix="spillway-browser-")
        to_read, self.to = os.pipe()
        self.of, to_write = os.pipe()

        def pipes():
            low = [os.dup(fd) for fd in (to_read, to_write)]  # out of the way of 3 and 4
            os.dup2(low[0], 3)
            os.dup2(low[1], 4)
        self.process = subprocess.Popen(
            [program, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run",
             "--disable-background-networking", "--disable-component-update", "--remote-debugging-pipe",
             f"--user-data-dir={self.folder}", "about:blank"],
            preexec_fn=pipes, close_fds=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.close(to_read)
        os.close(to_write)
        self.number, self.answers, self.events = 0, queue.Queue(), queue.Queue()
        self.said, self.asked, self.session = [], [], None
        threading.Thread(target=self._read, daemon=True).start()
        targets = self.call("Target.getTargets")["targetInfos"]
        page = next(t for t in targets if t["type"] == "page")
        self.session = self.call("Target.attachToTarget", targetId=page["targetId"], flatten=True)["sessionId"]
        for area in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{area}.enable")

    def _read(self):
        rest = b""
        while piece := os.read(self.of, 1 << 20):
            *whole, rest = (rest + piece).split(b"\0")
            for message in map(json.loads, whole):
                if "id" in message:
                    self.answers.put(message)
                else:
                    self._event(message["method"], message.get("params", {}))

    def _event(self, method, p):
        if method == "Log.entryAdded" and p["entry"]["level"] in ("error", "warning"):
            self.said.append(p["entry"]["text"])
        elif method == "Runtime.exceptionThrown":
            self.said.append(str(p["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and p["type"] in ("error", "warning"):
            self.said.append(str(p["args"]))
        elif method == "Network.requestWillBeSent":
            self.asked.append(p["request"]["url"])
        elif method == "Page.loadEventFired":
            self.events.put(method)

    def call(self, method, **params):
        self.number += 1
        message = {"id": self.number, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.to, json.dumps(message).encode() + b"\0")
        answer = self.answers.get(timeout=20 * PATIENCE)
        assert answer["id"] == self.number, answer
        assert "error" not in answer, (method, answer)
        return answer["result"]

    def _loaded(self, begin):
        while not self.events.empty():
            self.events.get()
        result = begin()
        self.events.get(timeout=20 * PATIENCE)
        return result

    def open(self, url):
        self._loaded(lambda: self.call("Page.navigate", url=url))

    def run(self, script):
        """The value of an expression; a promise is waited for."""
        r = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in r, r["exceptionDetails"]
        return r["result"].get("value")

    def type(self, selector, text):
        self.run(f"document.querySelector({selector!r}).focus()")
        self.call("Input.insertText", text=text)

    def click(self, selector):
        """As a mouse does; waits for the page that it leads to."""
        at = self.run(f"""(() => {{ const e = document.querySelector({selector!r}); e.scrollIntoView({{block: "center"}});
            const r = e.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2] }})()""")

        def press():
            for kind in ("mousePressed", "mouseReleased"):
                self.call("Input.dispatchMouseEvent", type=kind, x=at[0], y=at[1], button="left", clickCount=1)
        self._loaded(press)

    def screen(self, width, theme, height=900):
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": theme}])

    def picture(self, path, most=None):
        """All of the page, or so much of its height."""
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": min(size["height"], most or size["height"]), "scale": 1}
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)
        with open(path, "wb") as f:
            f.write(base64.b64decode(shot["data"]))

    def close(self):
        try:
            self.session = None
            self.call("Browser.close")
            self.process.wait(10 * PATIENCE)
        except Exception:  # whatever it is: it has to end
            self.process.kill()
            self.process.wait()
        os.close(self.to)
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
