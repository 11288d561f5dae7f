"""A web page to try a model: it takes a sound, and shows its labels, their scores over time and its events.

    audax-zoo app

    sound, model, words -> hear -> top labels, Heard -> show -> picture, events
                                           threshold -> show

The page is made with Gradio (https://gradio.app), of the extra `app`. When the threshold moves, only `show` runs again:
the model computes a sound once. The one request to other machines is for the weights of a chosen model that the package
lacks.
"""

import functools
import html
import importlib
import os
import socket
import tempfile
import threading
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from ._audio import stream
from ._entry import Entry
from ._events import detections, find_events, timeline
from ._example import example
from ._labels import rank
from ._load import load
from ._models import DEFAULT, info, list_models
from ._pretrained import Pretrained
from ._recordings import tag
from ._result import Result

LONGEST = 60  # minutes of a sound; a small file may hold days of silence
ROWS = 8  # labels in the picture
TOP = 5  # labels beside their scores
EVENTS = 1000  # the most rows of the table
VISITORS = 32  # visitors in the queue
AGE = 3600  # seconds until a file of a visitor is deleted
NARROW = 700  # pixels of a telephone's page
FAULTS = (ValueError, OSError, ModuleNotFoundError)  # errors whose sentence is shown to the visitor

# The browser may neither load from nor send to other machines, whatever Gradio's page holds
POLICY = (
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' blob: data:; "
    "connect-src 'self' blob: data:; frame-src 'none'; object-src 'none'"
)
WORDS = "rain, a ticking clock, a barking dog, people who talk, music"
HINT = "The names of the sounds, their scores over time and the events appear here."
CSS = """
.gradio-container { width: 100%; max-width: min(1240px, 100vw) !important; margin: auto; }
#notice { min-height: 2.5em; padding-top: 0.4em; }
#picture .image-container { padding-top: 2.2em; }
#notice .fault { color: #b91c1c; font-weight: 600; }
.dark #notice .fault { color: #fca5a5; }
"""


class Analysis(NamedTuple):
    """The data of a sound that do not depend on the threshold: all labels, the top ones, the scores and the picture."""

    labels: tuple[str, ...]
    top: list[tuple[str, float]]
    result: Result
    picture: Any  # `_plot.Picture`; matplotlib takes long to import


def build(model: str | os.PathLike = DEFAULT, *, models: Sequence[str] | None = None) -> Any:
    """The page as `gradio.Blocks`. It begins with `model`: a name, a folder or a Hub repo, as `zoo.load` takes them.

    `models` are the names from which visitors choose; by default all models of the zoo that name sounds. Raises what
    `zoo.load` raises, ValueError for a model without classes, and ModuleNotFoundError without the extra.
    """
    gradio = _gradio()
    name = os.fspath(model)
    load_once = functools.lru_cache(maxsize=2)(load)  # the page's first model, and one more
    entry = load_once(name).entry
    if not (entry.classifies or _has_words(entry)):
        raise ValueError(f"{name} has no classes and names no sounds: audax-zoo list has models that do.")
    choices = list(dict.fromkeys([name, *(_names() if models is None else models)]))

    def update_words(choice_name: str) -> Any:
        """Shows the box for words if the model has words."""
        return gradio.update(visible=_has_words(entry if choice_name == name else info(choice_name)))

    def hear(path: str | None, choice_name: str, words: str, threshold: float, width: float) -> tuple[Any, ...]:
        """The results for a sound; only a sentence if it cannot be read."""
        if path is None:
            return None, HINT, gradio.update(visible=False), None, None, None
        try:
            with warnings.catch_warnings(record=True) as user_warnings:  # sounds are processed one at a time
                warnings.simplefilter("always", UserWarning)
                clip = load_once(choice_name)
                analysis = _hear(path, _labelled(clip, words))
        except FAULTS as error:
            return None, _notice(path, fault=str(error)), gradio.update(visible=False), None, None, None
        line = f"{path}, {analysis.result.duration:.1f} s, as {clip.entry.name} hears it"
        remarks = dict.fromkeys(str(item.message) for item in user_warnings if item.category is UserWarning)
        notice, visible = _notice(path, line, *remarks), gradio.update(visible=True)
        return analysis, notice, visible, dict(analysis.top), *show(analysis, threshold, width)

    def show(analysis: Analysis | None, threshold: float, width: float) -> tuple[Any, Any]:
        return (None, None) if analysis is None else _show(analysis, threshold, width < NARROW)

    with gradio.Blocks(title="audax-zoo", analytics_enabled=False, delete_cache=(AGE // 6, AGE)) as page:
        gradio.Markdown("# What does it hear?\nDrop or record a sound, and a model names what is in it, and when.")
        width, state = gradio.Number(1280, visible=False), gradio.State(time_to_live=AGE)
        with gradio.Row():
            with gradio.Column(scale=2, min_width=320):
                sound = gradio.Audio(label="Sound", sources=["upload", "microphone"], type="filepath", buttons=[])
                sample = gradio.Button("Take the packaged sound", size="sm")
                about = "One that the package lacks is fetched when it is first chosen."
                choice = gradio.Dropdown(choices, value=name, label="Model", info=about, interactive=len(choices) > 1)
                words = gradio.Textbox(
                    WORDS, label="Labels in your own words", info="with commas between them; Enter takes them",
                    max_lines=3, max_length=1000, visible=_has_words(entry), elem_id="words",
                )  # fmt: skip
                threshold = gradio.Slider(
                    0.05, 0.95, 0.5, step=0.05, label="Threshold", info="the score from which on a sound is an event"
                )
            with gradio.Column(scale=5, min_width=320):
                notice = gradio.HTML(HINT, elem_id="notice", padding=False)
                with gradio.Column(visible=False) as results:
                    with gradio.Row():
                        top = gradio.Label(
                            label="Labels", num_top_classes=TOP, show_heading=False, min_width=300, elem_id="labels"
                        )
                        events = gradio.Dataframe(
                            label="Events, in seconds", headers=["from", "to", "label", "score"], datatype="str",
                            buttons=[], interactive=False, max_height=240, min_width=300, elem_id="events",
                        )  # fmt: skip
                    image = gradio.Image(
                        label="Over time", buttons=["download", "fullscreen"], format="png", elem_id="picture",
                        alt_text="The waveform, the log-mel picture and the scores of labels over time",
                    )  # fmt: skip
        queue_options = {"concurrency_limit": 1, "concurrency_id": "model", "api_visibility": "private"}
        with_width = "(...values) => [...values.slice(0, -1), window.innerWidth]"
        sample.click(lambda: str(example()), outputs=sound, api_visibility="private")
        choice.change(update_words, choice, words, api_visibility="private", show_progress="hidden")
        gradio.on(
            [sound.change, choice.change, words.submit], hear, [sound, choice, words, threshold, width],
            [state, notice, results, top, image, events], js=with_width, show_progress_on=notice,
            trigger_mode="always_last", **queue_options,
        )  # fmt: skip
        threshold.release(
            show, [state, threshold, width], [image, events], js=with_width, show_progress="hidden",
            trigger_mode="always_last", **queue_options,
        )  # fmt: skip
    return page.queue(max_size=VISITORS, api_open=False)


def serve(
    model: str | os.PathLike = DEFAULT,
    *,
    models: Sequence[str] | None = None,
    host: str = "127.0.0.1",
    port: int = 7860,
    max_size: float = 50,
    ready: Callable[[str], None] = lambda address: None,
) -> None:
    """Serves the page that `build` makes until a signal ends it. Only this machine can open it, unless `host` is
    another of its addresses.

    Files of more than `max_size` MB are refused. Visitors' files lie in a temporary folder that is deleted when the
    call ends. `ready` is called with the address when the page answers. Raises what `build` raises, ValueError for
    numbers that make no sense, and OSError for an address that cannot be used.
    """
    if not host:
        raise ValueError(
            "The page takes the address to listen on, got an empty one: give 127.0.0.1 for this machine only."
        )
    if not (0 < max_size < 1e6 and 0 < port < 65536):
        raise ValueError(f"The page takes a port from 1 to 65535 and files of some MB, got {port} and {max_size:g}.")
    try:
        socket.create_server((host, port)).close()
    except OSError as error:
        cause = str(error.strerror).partition(" (while")[0]
        raise OSError(f"The page cannot be served at {host}:{port} ({cause}): give another port or host.") from None
    gradio, page = _gradio(), build(model, models=models)
    for name in ("no_proxy", "NO_PROXY"):  # Gradio sends the page a request to see if it answers
        os.environ[name] = ",".join(filter(None, [os.environ.get(name), host, "localhost"]))
    font = ["system-ui", "sans-serif"]
    theme = gradio.themes.Default(
        primary_hue="blue", neutral_hue="slate", font=font, font_mono=["ui-monospace", "monospace"]
    )
    try:
        page.launch(
            server_name=host, server_port=port, max_file_size=round(max_size * 2**20), theme=theme, css=CSS,
            share=False, quiet=True, prevent_thread_lock=True, ssr_mode=False, pwa=False, mcp_server=False,
            run_history=False, footer_links=[], app_kwargs={"middleware": [_policy()]},
        )  # fmt: skip
        ready(f"http://{host}:{port}")
        threading.Event().wait()
    finally:
        page.close(verbose=False)
        _folder().cleanup()


# The model's outputs --------------------------------------------------------------------------------------------------


def _labelled(clip: Pretrained, words: str) -> Pretrained:
    """The model; for a model with words, its zero-shot classifier of the labels in `words`, separated by commas.

    Raises ValueError for no labels, and for equal ones.
    """
    if not _has_words(clip.entry):
        return clip
    labels = [label.strip() for label in words.split(",") if label.strip()]
    if not labels:
        raise ValueError(f"{clip.entry.name} takes labels in words: write some into the box, with commas between them.")
    return clip.zero_shot(labels)


def _hear(path: str, clip: Pretrained) -> Analysis:
    """The results for a sound. Raises ValueError for one that cannot be read or is too long."""
    from ._plot import picture

    samples = 0
    for block in stream(path, clip.sample_rate):
        samples += len(block)
        if samples > LONGEST * 60 * clip.sample_rate:
            raise ValueError(
                f"{path} is longer than {LONGEST} minutes: cut it, or use audax-zoo detect, which takes any length."
            )
    (whole,) = tag(clip, [path])
    ((result, _),) = detections(
        clip, [path], labels=None, threshold=0.5, release=None, smooth=0.0, min_duration=0.0, max_gap=0.0,
        each="window", window=None, hop=None,
    )  # fmt: skip
    top = rank(whole.values[0], clip.labels, TOP)
    return Analysis(clip.labels, top, result, picture(path, result.duration, clip))


def _show(analysis: Analysis, threshold: float, narrow: bool) -> tuple[np.ndarray, list[list[str]]]:
    """The picture, and the rows of the table of events."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    from ._plot import panels

    result, labels = analysis.result, analysis.labels
    thresholds = np.full(len(labels), threshold)
    events = find_events(result.source, labels, *timeline(result), thresholds, thresholds)
    loudest = sorted(events, key=lambda event: -event.score)
    candidates = [label for label, _ in analysis.top] + [event.label for event in loudest]
    rows_of_picture = list(dict.fromkeys(candidates))[:ROWS]
    canvas = FigureCanvasAgg(panels(analysis.picture, result, labels, rows_of_picture, events, narrow))
    canvas.draw()
    rows = [[f"{e.start:.2f}", f"{e.end:.2f}", e.label, f"{e.score:.3f}"] for e in events[:EVENTS]]
    return np.asarray(canvas.buffer_rgba())[..., :3], rows


def _notice(path: str, *lines: str, fault: str = "") -> str:
    """Lines and a fault as HTML, with the name of the visitor's file in place of its path."""
    texts = [html.escape(text.replace(path, os.path.basename(path))) for text in (*lines, fault)]
    return "<br>".join(filter(None, [*texts[:-1], texts[-1] and f'<span class="fault">{texts[-1]}</span>']))


# Gradio ---------------------------------------------------------------------------------------------------------------


def _names() -> list[str]:
    """The models of the zoo that name sounds, packaged models first."""
    entries = {name: info(name) for name in list_models()}
    names = [name for name, entry in entries.items() if _has_words(entry) or (entry.classifies and _has_labels(entry))]
    return sorted(names, key=lambda name: (entries[name].checkpoint is not None, name))


def _has_labels(entry: Entry) -> bool:
    return bool(entry.labels) or (entry.checkpoint is not None and entry.checkpoint.label_file is not None)


def _has_words(entry: Entry) -> bool:
    """Whether a model takes any texts as labels."""
    return "text" in entry.model


def _gradio() -> Any:
    """Gradio, without its telemetry and with our folder for its files. Raises ModuleNotFoundError that names the
    remedy."""
    os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_TEMP_DIR": _folder().name}
    try:
        return importlib.import_module("gradio")
    except ModuleNotFoundError:
        raise ModuleNotFoundError('The page needs Gradio: pip install "audax-eqx[app]".') from None


@functools.cache
def _folder() -> tempfile.TemporaryDirectory:
    """The temporary folder for visitors' files."""
    return tempfile.TemporaryDirectory(prefix="audax-app-", ignore_cleanup_errors=True)


def _policy() -> Any:
    """The middleware that forbids the browser requests to other machines."""
    from starlette.middleware import Middleware

    class Policy:
        def __init__(self, app: Any):
            self.app = app

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            async def answer(message: Any) -> None:
                if message["type"] == "http.response.start":
                    message["headers"] = [*message["headers"], (b"content-security-policy", POLICY.encode())]
                await send(message)

            await self.app(scope, receive, answer)

    return Middleware(Policy)
