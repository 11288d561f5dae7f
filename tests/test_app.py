"""The page of `audax-zoo app`, by a process that serves it and a browser that visits it."""

import importlib.util
import os
import re
import signal
import socket
import subprocess
import sys
import types
import urllib.error
import urllib.request

import numpy as np
import pages
import pytest
import soundfile

import zoo
from zoo import app
from zoo.__main__ import main

NO_GRADIO = importlib.util.find_spec("gradio") is None
LABELS = ("rain", "clock_tick")


@pytest.fixture(scope="module")
def clip():
    return zoo.load("resnet_esc10")


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


# What is shown --------------------------------------------------------------------------------------------------------


def test_what_is_heard_is_what_the_zoo_says(clip):
    heard = app._hear(str(zoo.example()), clip)
    (whole,) = zoo.tag(clip, [zoo.example()])
    assert [label for label, _ in heard.top] == [clip.labels[index] for index in np.argsort(-whole.values[0])[:5]]
    np.testing.assert_allclose([score for _, score in heard.top], np.sort(whole.values[0])[:-6:-1], rtol=1e-6)
    for threshold in (0.3, 0.7):
        picture, rows = app._show(heard, threshold, narrow=False)
        events = list(zoo.detect(clip, [zoo.example()], threshold=threshold))
        assert rows == [[f"{e.start:.2f}", f"{e.end:.2f}", e.label, f"{e.score:.3f}"] for e in events] and rows
        assert picture.dtype == np.uint8 and picture.std() > 10


def test_a_telephone_gets_a_narrow_picture_and_all_labels_with_events(clip):
    heard = app._hear(str(zoo.example()), clip)
    wide, narrow = (app._show(heard, 0.0 if narrow else 0.95, narrow)[0].shape for narrow in (False, True))
    assert narrow[1] < 600 < 1200 < wide[1] and narrow[0] > wide[0]  # it has more rows than the best five


def test_the_picture_has_the_extremes_of_the_wave_and_the_features(clip, tmp_path):
    from zoo._plot import picture

    wave = np.zeros(3 * 16000, np.float32)
    wave[20000], wave[40000] = 0.5, -0.25
    soundfile.write(tmp_path / "a.wav", wave, 16000, subtype="FLOAT")
    drawn = picture(tmp_path / "a.wav", 3.0, clip)
    (low, high), columns = drawn.wave.T, len(drawn.wave)
    assert (high.max(), low.min()) == (0.5, -0.25) and np.count_nonzero(high) == np.count_nonzero(low) == 1
    assert abs(np.argmax(high) / columns - 20000 / len(wave)) < 2 / columns
    assert drawn.log_mel.shape == (columns, clip.model.frontend.bins)


def test_a_sound_of_days_in_a_small_file_is_refused(clip, tmp_path, monkeypatch):
    monkeypatch.setattr(app, "LONGEST", 1)
    for seconds in (61, 60):
        soundfile.write(tmp_path / f"{seconds}.flac", np.zeros(seconds * 100, np.float32), 100)
    with pytest.raises(ValueError, match=r"61\.flac is longer than 1 minutes: cut it, or use audax-zoo detect"):
        app._hear(str(tmp_path / "61.flac"), clip)
    assert app._hear(str(tmp_path / "60.flac"), clip).result.duration == 60


def test_visitors_choose_from_models_that_name_sounds():
    names = app._names()
    assert names[:2] == ["resnet_esc10", "resnet_fsdd"] and "ced_tiny_audioset" in names
    assert "clap_unfused" in names and not {"cola_small", "wavlm_base", "timm/resnet18.a1_in1k"} & set(names)


def test_a_model_with_words_takes_those_of_the_visitor(shared, clip):
    words = zoo.load(shared / "oracles" / "clap_unfused")
    assert app._labelled(words, " rain,a ticking clock , ,").labels == ("rain", "a ticking clock")
    assert app._labelled(clip, "rain") is clip
    with pytest.raises(ValueError, match="a dog several times"):
        app._labelled(words, "a dog, a dog")
    with pytest.raises(ValueError, match="clap_unfused takes labels in words: write some into the box"):
        app._labelled(words, " , ")


# The command ----------------------------------------------------------------------------------------------------------


def test_without_gradio_it_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert main(["app", "--port", str(free_port())]) == 2
    assert capsys.readouterr().err == 'audax-zoo: The page needs Gradio: pip install "audax-eqx[app]".\n'


def test_what_cannot_be_served_exits_2_with_a_sentence(monkeypatch, capsys):
    port = free_port()
    monkeypatch.setitem(sys.modules, "gradio", types.ModuleType("gradio"))  # which takes seconds to import
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = server.getsockname()[1]
        for options, sentence in (
            (["--port", str(taken)], f"at 127.0.0.1:{taken} (Address already in use): give another port or host."),
            (["--port", "0"], "takes a port from 1 to 65535 and files of some MB, got 0 and 50."),
            (["--max-size", "-1"], f"takes a port from 1 to 65535 and files of some MB, got {port} and -1."),
            (["--model", "cola_small"], "cola_small has no classes and names no sounds"),
            (["--model", "resnet_esc11"], "did you mean 'resnet_esc10'?"),
        ):
            assert main(["app", "--port", str(port), *options]) == 2
            assert sentence in capsys.readouterr().err


# The page -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """The address of a page that takes 1 MB, the process that serves it, and the folder of its temporary files."""
    if NO_GRADIO:
        pytest.skip("gradio is not installed")
    port, folder = free_port(), tmp_path_factory.mktemp("served")
    flags = "--xla_backend_optimization_level=0"
    environment = os.environ | {"PYTHONPATH": str(pages.ROOT), "TMPDIR": str(folder), "XLA_FLAGS": flags}
    command = [sys.executable, "-m", "zoo", "app", "--port", str(port), "--max-size", "1"]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    line = process.stdout.readline()
    assert line == f"http://127.0.0.1:{port} has the page until Ctrl-C ends it.\n", process.communicate()
    yield line.split()[0], process, folder
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=30)
    assert (process.returncode, error) == (128 + signal.SIGTERM, "audax-zoo: interrupted\n")
    assert not list(folder.iterdir())  # what visitors left


@pytest.fixture(scope="module")
def tab(tmp_path_factory):
    browser = pytest.importorskip("browser", reason="websockets is not installed")
    if browser.PROGRAM is None:
        pytest.skip("there is no Chromium")
    with browser.browser(tmp_path_factory.mktemp("browser")) as page:
        yield page


def test_a_visitor_uploads_a_recording_and_reads_the_labels(served, tab, clip):
    address, _, _ = served
    tab.requests.clear()
    tab.open(address)
    tab.upload(zoo.example())
    tab.wait("document.querySelector('#picture img')?.naturalWidth > 1000")
    (whole,) = zoo.tag(clip, [zoo.example()])
    top = sorted(zip(whole.values[0], clip.labels, strict=True), reverse=True)[:5]
    words = tab.text("#labels").split()
    assert words[1::2] == [label for _, label in top]
    np.testing.assert_allclose([float(word.rstrip("%")) for word in words[2::2]], [100 * s for s, _ in top], atol=1)
    cells = tab.text("#events").split()[-8:]
    for event, start, end, label in zip(
        zoo.detect(clip, [zoo.example()]), cells[::4], cells[1::4], cells[2::4], strict=True
    ):
        assert (f"{event.start:.2f}", f"{event.end:.2f}", event.label) == (start, end, label)
    assert tab.text("#notice").strip() == "rain_clock.ogg, 20.0 s, as resnet_esc10 hears it"
    assert len(tab.requests) > 10 and all(re.match(rf"{address}/|blob:{address}/|data:", url) for url in tab.requests)


def test_a_telephone_has_the_page_in_its_width(served, tab):
    tab.open(served[0], width=390, height=844)
    tab.upload(zoo.example())
    tab.wait("document.querySelector('#picture img')?.naturalWidth > 0")
    assert tab.value("[innerWidth, document.documentElement.scrollWidth]") == [390, 390]
    assert tab.value("document.querySelector('#picture img').naturalWidth") < 600


def test_a_broken_file_shows_the_sentence(served, tab, tmp_path):
    broken = tmp_path / "my <i> broken_one.wav"
    broken.write_text("no sound")
    tab.open(served[0])
    tab.upload(broken)
    sentence = tab.wait("document.querySelector('#notice .fault')?.innerText")
    assert re.fullmatch(r"my i broken_one\.wav cannot be read as sound: .*\.", sentence), sentence
    assert not tab.value("!!document.querySelector('#picture img')")


def test_a_warning_stands_beside_the_sound(served, tab, tmp_path):
    wave = np.random.default_rng(0).uniform(-0.5, 0.5, 16000)
    soundfile.write(tmp_path / "turned.wav", np.stack([wave, -wave], axis=1), 16000)
    tab.open(served[0])
    tab.upload(tmp_path / "turned.wav")
    tab.wait("!!document.querySelector('#picture img')")
    first, second = tab.text("#notice").strip().splitlines()
    assert first == "turned.wav, 1.0 s, as resnet_esc10 hears it"
    assert second.startswith("turned.wav has channels in opposite phase") and second.count("turned.wav") == 1


def test_a_model_that_cannot_be_had_shows_the_sentence(served, tab):
    tab.open(served[0])
    tab.upload(zoo.example())
    tab.wait("!!document.querySelector('#picture img')")
    tab.choose("ced_tiny_audioset")
    sentence = tab.wait("document.querySelector('#notice .fault')?.innerText")
    assert "is neither in the Hub's cache nor reachable: connect to the network once" in sentence
    assert not tab.value("!!document.querySelector('#words')")
    tab.choose("clap_unfused")
    tab.wait("document.querySelector('#words textarea, #words input')?.value.startsWith('rain, ')")
    tab.choose("resnet_esc10")
    tab.wait("/as resnet_esc10 hears it/.test(document.querySelector('#notice').innerText)")
    assert tab.text("#labels").split()[1] == "rain"


def test_a_large_file_is_refused_by_page_and_server(served, tab, tmp_path):
    address, _, folder = served
    soundfile.write(tmp_path / "long.wav", np.zeros(600_000), 16000)
    tab.open(address)
    tab.upload(tmp_path / "long.wav")
    tab.wait("/exceed the maximum allowed size of 1\\.0 MB/i.test(document.body.innerText)")
    assert tab.text("#notice") == app.HINT
    body = (
        b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.wav"\r\n\r\n'
        + bytes(2**21)
        + b"\r\n--x--\r\n"
    )
    header = {"Content-Type": "multipart/form-data; boundary=x"}
    with pytest.raises(urllib.error.HTTPError, match="413"):
        urllib.request.urlopen(urllib.request.Request(f"{address}/gradio_api/upload", body, header))
    assert not [path for path in folder.rglob("*") if path.is_file() and path.stat().st_size > 2**20]


def test_a_visitor_moves_the_threshold_and_records(served, tab):
    tab.open(served[0])
    tab.wait("!!document.querySelector('input[type=range]')")
    tab.value("[...document.querySelectorAll('button')].find(each => /packaged/.test(each.innerText)).click()")
    tab.wait("!!document.querySelector('#picture img')")
    before = tab.text("#events")
    tab.value("slider = document.querySelector('input[type=range]'); slider.value = 0.9; 0")
    tab.value(
        "for (const name of ['input', 'change', 'pointerup']) slider.dispatchEvent(new Event(name, {bubbles: true}))"
    )
    tab.wait("!/rain/.test(document.querySelector('#events').innerText)")
    assert "rain" in before
    tab.click("button[aria-label='Record audio']")
    tab.click(".record-button")
    tab.wait("/0:01/.test(document.body.innerText)")
    tab.click(".stop-button")
    tab.wait("/^audio\\.wav, .* as resnet_esc10 hears it/.test(document.querySelector('#notice').innerText)")


def test_nobody_else_comes_in_and_no_other_file_goes_out(served):
    address, _, _ = served
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.2", int(address.rpartition(":")[2])), timeout=5)
    assert "'self'" in urllib.request.urlopen(address).headers["content-security-policy"]
    for path in (pages.README, "/etc/hosts"):
        with pytest.raises(urllib.error.HTTPError, match=r"403|404"):
            urllib.request.urlopen(f"{address}/gradio_api/file={path}")
