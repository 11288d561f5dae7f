"""A headless Chromium by its DevTools protocol: pages as a visitor has them.

https://chromedevtools.github.io/devtools-protocol/
"""

import base64
import contextlib
import json
import pathlib
import shutil
import subprocess
import time

from websockets.sync.client import connect

PROGRAM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
OPTIONS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream", "--remote-debugging-port=0",
)  # fmt: skip
PATIENCE = 60  # seconds


class Page:
    """One tab. `requests` are the addresses that it has asked for."""

    def __init__(self, socket):
        self.socket, self.count, self.requests = socket, 0, []
        for domain in ("Page", "Runtime", "Network", "DOM"):
            self.call(f"{domain}.enable")

    def call(self, method, **parameters):
        """What the method of the protocol gives."""
        self.count += 1
        self.socket.send(json.dumps({"id": self.count, "method": method, "params": parameters}))
        while True:
            message = json.loads(self.socket.recv(timeout=PATIENCE))
            if message.get("method") == "Network.requestWillBeSent":
                self.requests.append(message["params"]["request"]["url"])
            if message.get("id") == self.count:
                assert "error" not in message, f"{method}: {message['error']['message']}"
                return message["result"]

    def open(self, address, width=1280, height=900):
        """Goes to the address, in a window of so many pixels."""
        telephone = width < 500
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=telephone
        )
        self.call("Page.navigate", url=address)

    def value(self, expression):
        """What the expression of JavaScript gives."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def wait(self, expression):
        """The value of the expression, once it is true to JavaScript."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            if value := self.value(expression):
                return value
            time.sleep(0.1)
        raise AssertionError(f"{expression} is {value!r} after {PATIENCE} s; the page: {self.text()}")

    def text(self, selector="body"):
        """What a visitor reads there."""
        return self.value(f"document.querySelector({json.dumps(selector)})?.innerText ?? ''")

    def click(self, selector):
        """Clicks on the first such element, once there is one."""
        name = json.dumps(selector)
        self.wait(f"!!document.querySelector({name})")
        self.value(f"document.querySelector({name}).click()")

    def upload(self, path, selector="input[type=file]"):
        """Gives the file to the first such element, once there is one."""
        self.wait(f"!!document.querySelector({json.dumps(selector)})")
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", files=[str(path)], nodeId=node)

    def choose(self, option):
        """Chooses from Gradio's list of models."""
        self.wait("!!document.querySelector('input[aria-label=Model]')")
        self.value("document.querySelector('input[aria-label=Model]').focus()")
        element = (
            f"[...document.querySelectorAll('[role=option]')].find(e => e.innerText.includes({json.dumps(option)}))"
        )
        self.wait(f"!!{element}")
        self.value(f"{element}.dispatchEvent(new MouseEvent('mousedown', {{bubbles: true}}))")

    def picture(self, path, whole=False):
        """Writes what there is to see as PNG, with `whole` the page to its end."""
        data = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)["data"]
        pathlib.Path(path).write_bytes(base64.b64decode(data))


@contextlib.contextmanager
def browser(folder):
    """A tab of a Chromium that keeps its things in `folder`."""
    command = [PROGRAM, *OPTIONS, f"--user-data-dir={folder}", "about:blank"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        for line in process.stderr:
            if line.startswith("DevTools listening on "):
                break
        else:
            raise AssertionError(f"{PROGRAM} ended with {process.wait()}")
        whole = line.split()[-1]  # the browser's own address, ws://127.0.0.1:1234/devtools/browser/ID
        with connect(whole) as socket:
            socket.send(json.dumps({"id": 1, "method": "Target.createTarget", "params": {"url": "about:blank"}}))
            target = json.loads(socket.recv(timeout=PATIENCE))["result"]["targetId"]
        with connect(f"{whole.partition('/devtools/')[0]}/devtools/page/{target}", max_size=None) as socket:
            yield Page(socket)
    finally:
        process.terminate()
        process.wait(PATIENCE)
        process.stderr.close()
