"""Draws the page of `audax-zoo app` after a visitor uploaded the packaged sound. It needs a Chromium.

python docs/figures/app.py OUT.png
"""

import pathlib
import subprocess
import sys
import tempfile

from PIL import Image

import zoo

sys.path.append(str(pathlib.Path(__file__).parents[2] / "tests"))
from browser import browser

if __name__ == "__main__":
    command = [sys.executable, "-m", "zoo", "app", "--port", "7863"]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            address = server.stdout.readline().split()[0]
            with browser(folder) as page:
                page.open(address, 1280, 880)
                page.upload(zoo.example())
                page.wait("document.querySelector('#picture img')?.naturalWidth > 0")
                page.wait("document.querySelector('.timestamps')?.innerText.includes('0:20')")
                page.value("new Promise(done => setTimeout(done, 1000))")  # bars grow to their length
                page.picture(pathlib.Path(folder, "page.png"))
        finally:
            server.terminate()
            server.wait()
        Image.open(pathlib.Path(folder, "page.png")).convert("RGB").quantize(256).save(sys.argv[1], optimize=True)
