"""`audax-zoo`: the zoo from the shell. Recordings of any length are read in windows of the model's native length."""

import argparse
import dataclasses
import io
import json
import math
import os
import pathlib
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import tqdm
from jaxtyping import Float

from ._audio import UNREADABLE, SoundError, Window, cut, stream, window_size
from ._convert import convert
from ._entry import Entry
from ._example import example
from ._load import DEFAULT, info, list_models, load, repo_of
from ._pretrained import Pretrained, rank
from ._publish import republish
from ._search import sounds as _sounds
from ._verify import verify
from ._weights import atomic


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns the exit code: 0, 1 when some files could not be read or some models are not what
    they should be, 2 for what cannot be done.
    """
    options = _parser().parse_args(arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):  # a name that its encoding does not have costs no result
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda text, *_, **__: print(f"audax-zoo: {text}", file=sys.stderr)
            return options.run(options)
    except BrokenPipeError:  # the reader of our output, `head` say, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, OSError, ModuleNotFoundError) as error:
        print(f"audax-zoo: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("audax-zoo: interrupted", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="audax-zoo", description="Pretrained audio networks in JAX.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(run: Callable, help: str, description: str = "") -> argparse.ArgumentParser:
        made = commands.add_parser(
            run.__name__.strip("_"), help=help, description=f"{help[0].upper()}{help[1:]}. {description}"
        )
        made.set_defaults(run=run)
        return made

    listing = command(_list, "a table of the models")
    listing.add_argument("pattern", nargs="?", default="*", help="a shell pattern, '*audioset*'")
    about = command(_info, "all that is known of a model")
    about.add_argument("name", metavar="NAME")

    model_help = f"a name of `audax-zoo list`, a folder or a Hub repo (default: {DEFAULT})"
    cut = "Recordings are cut into windows of the model's native length, and the last is filled up with silence"
    tag = command(_tag, "name the sounds in files", f"{cut}; probabilities are averaged over them.")
    tag.add_argument(
        "files",
        nargs="*",
        metavar="FILE|FOLDER",
        help="folders are searched for sound files (default: a packaged sound)",
    )
    tag.add_argument("-k", type=_positive, default=5, help="how many labels (default: 5)")
    tag.add_argument("--model", default=DEFAULT, metavar="NAME", help=model_help)
    tag.add_argument("--json", action="store_true", help="print one JSON object a file")
    tag.add_argument(
        "--plot",
        type=pathlib.Path,
        metavar="OUT.png",
        help="draw the log-mel picture and the labels over time of one file",
    )

    embed = command(_embed, "write the embeddings of files", f"{cut}; a file's embedding is the mean over them.")
    embed.add_argument("files", nargs="+", metavar="FILE|FOLDER", help="folders are searched for sound files")
    embed.add_argument("-o", "--output", type=pathlib.Path, required=True, metavar="OUT.npz|OUT.parquet")
    embed.add_argument("--model", default=DEFAULT, metavar="NAME", help=model_help)
    embed.add_argument("--frames", action="store_true", help="one embedding a time step instead of one a file")

    conversion = command(
        _convert,
        "turn a checkpoint of audax into a model's folder",
        "The architecture is recognised from the checkpoint; the options tell what no checkpoint does.",
    )
    conversion.add_argument("source", type=pathlib.Path, metavar="SRC", help="path/to/checkpoint_123")
    conversion.add_argument("folder", type=pathlib.Path, metavar="DST", help="the folder to write, for zoo.load")
    conversion.add_argument("--sample-rate", type=_positive, default=16000, metavar="HZ", help="default: 16000")
    conversion.add_argument(
        "--window", type=float, default=5.0, metavar="SECONDS", help="the native length (default: 5)"
    )
    conversion.add_argument("--labels", type=pathlib.Path, metavar="FILE", help="the labels, UTF-8, one a line")
    conversion.add_argument("--task", choices=("multiclass", "multilabel"), help="default: multilabel for 527 labels")
    conversion.add_argument(
        "--model",
        choices=("COLA", "SimCLR"),
        help="which it is, for COLA with the dot product and SimCLR keep the same arrays (default: COLA)",
    )

    publication = command(
        _publish,
        "upload a model to the Hub",
        "Its files become one commit, none where they are there already. The token is HF_TOKEN's or `hf auth login`'s.",
    )
    publication.add_argument("name", metavar="FOLDER|NAME", help="what zoo.save wrote, or any name that loads")
    publication.add_argument("repo", metavar="USER/NAME", help="created where it does not exist")
    publication.add_argument("--private", action="store_true", help="create it as a private repo")
    publication.add_argument("--revision", metavar="R", help="the branch, created where it does not exist")
    publication.add_argument("--dry-run", action="store_true", help="print the files and their sizes, send nothing")

    verification = command(
        _verify,
        "check that models are still what the zoo says of them",
        "On the Hub: the repo, the labels, the names and shapes of the weights' arrays, without the weights, and the "
        "licence. In the package or a folder: the golden output. The exit code is 1 if a model is not as it should be.",
    )
    verification.add_argument(
        "names", nargs="*", metavar="NAME", help="names of `audax-zoo list`, folders or Hub repos (default: all names)"
    )
    verification.add_argument(
        "--full", action="store_true", help="fetch and run models, too, for what is known of their outputs"
    )
    return parser


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"takes a whole number of at least 1, got {text!r}")
    return int(text)


def _list(options: argparse.Namespace) -> int:
    rows = [("name", "task", "classes", "Hz", "window", "license", "metric")]
    for name in list_models(options.pattern):
        entry = info(name)
        sizes = str(entry.classes), str(entry.sample_rate), f"{entry.window:g} s"
        rows.append((name, entry.task, *sizes, entry.license or "", _metrics(entry)))
    _table(rows)
    return 0


def _table(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _info(options: argparse.Namespace) -> int:
    entry = info(options.name)
    for key, value in dataclasses.asdict(entry).items():
        if key == "labels":
            value = ", ".join(value)
            if not value and (checkpoint := entry.checkpoint) and checkpoint.label_file:
                value = f"in {checkpoint.label_file} of {checkpoint.label_repo or checkpoint.repo}"
            elif not value and any(each["dataset"] == "ImageNet-1k" for each in entry.metrics):
                value = "none, for the classes are ImageNet's, which name no sounds"
        elif isinstance(value, dict):
            value = ", ".join(f"{option}={setting}" for option, setting in value.items())
        elif key == "metrics":
            value = _metrics(entry)
        if value not in (None, "", ()):
            print(f"{key + ':':12}{value}")
    return 0


def _metrics(entry: Entry) -> str:
    return "; ".join(f"{each['dataset']} {each['metric']} {each['value']} ({each['source']})" for each in entry.metrics)


def _tag(options: argparse.Namespace) -> int:
    draw = None if options.plot is None else _picture(options.plot, options.files)
    if info(options.model).task == "contrastive":
        raise ValueError(f"{options.model} was trained without labels and names no sounds: audax-zoo embed uses it.")
    files = _sounds(options.files or [str(example())])
    if options.plot is not None:
        _picture(options.plot, files)  # a folder may hold several
    clip = load(options.model)

    def tag(file: str) -> None:
        parts = [(np.asarray(clip.probabilities(each.wave)), each.samples) for each in _windows(file, clip)]
        probabilities = np.stack([part for part, _ in parts])
        top = rank(_mean(parts), clip.labels, options.k)
        if options.json:
            tags = [{"label": label, "probability": round(value, 6)} for label, value in top]
            print(json.dumps({"file": file, "model": clip.entry.name, "tags": tags}), flush=True)
        else:
            print(file, *(f"  {value:.3f}  {label}" for label, value in top), sep="\n", flush=True)
        if draw is not None:
            with atomic(options.plot) as temporary:
                draw(temporary, file, clip, probabilities, [label for label, _ in top])

    return _each(files, tag)


def _picture(path: pathlib.Path, files: Sequence[str]) -> Callable[..., None]:
    """What draws the picture of a file. Raises before the work what would stop it in the end."""
    if len(files) > 1:
        raise ValueError(f"--plot draws one file, got {len(files)}: tag them one by one.")
    if path.suffix != ".png":
        raise ValueError(f"--plot writes a .png, got {path.name!r}.")
    _writable(path)
    try:
        from ._plot import plot  # matplotlib takes long to import
    except ModuleNotFoundError:
        raise ModuleNotFoundError('A picture needs matplotlib: pip install "audax-eqx[plot]".') from None
    return plot


def _embed(options: argparse.Namespace) -> int:
    if options.output.suffix not in (".npz", ".parquet"):
        raise ValueError(f"embed writes .npz or .parquet, got {options.output.name!r}.")
    if options.output.suffix == ".parquet":
        _parquet()
    _writable(options.output)
    recordings, clip = _sounds(options.files), load(options.model)
    files, embeddings, times = [], [], []

    def embed(file: str) -> None:
        if options.frames:
            rows, seconds = _frames(file, clip)
        else:
            parts = [(np.asarray(clip.embed(each.wave)), each.samples) for each in _windows(file, clip)]
            rows, seconds = _mean(parts)[None], None
        files.extend([file] * len(rows))
        embeddings.append(rows)
        times.append(seconds)

    code = _each(recordings, embed, progress=True)
    if not embeddings:
        raise ValueError(f"None of the files could be read: {options.output} is not written.")
    columns = {"files": np.asarray(files), "embeddings": np.concatenate(embeddings)}
    if options.frames:
        columns["times"] = np.concatenate(times)
    with atomic(options.output) as temporary:
        (_write_npz if options.output.suffix == ".npz" else _write_parquet)(temporary, columns)
    print(f"{options.output}: {columns['embeddings'].shape[0]} embeddings of width {columns['embeddings'].shape[1]}")
    return code


def _convert(options: argparse.Namespace) -> int:
    labels = [] if options.labels is None else options.labels.read_text(encoding="utf-8").splitlines()
    settings = {name: getattr(options, name) for name in ("sample_rate", "window", "task", "model")}
    folder = convert(options.source, options.folder, labels=labels, **settings)
    entry = info(folder)
    parts = (entry.frontend["type"], entry.network["type"], entry.model["type"])
    print(f"{folder}: {', '.join(parts)}" + (f" with {entry.classes} classes" if entry.classes else ""))
    return 0


def _publish(options: argparse.Namespace) -> int:
    settings = {name: getattr(options, name) for name in ("private", "revision", "dry_run")}
    print(republish(options.name, options.repo, **settings))
    return 0


def _verify(options: argparse.Namespace) -> int:
    names = options.names or list_models()
    for name in names:
        repo_of(name)  # a name of nothing is told before anything is fetched
    reports = [verify(name, full=options.full) for name in tqdm.tqdm(names, unit="model", disable=None)]
    rows = [(each.name, each.repo, ", ".join(each.checked) or "-", each.result) for each in reports]
    _table([("name", "repo", "checked", "result"), *rows])
    return 1 if any(each.fault for each in reports) else 0


def _each(files: Sequence[str], work: Callable[[str], None], progress: bool = False) -> int:
    """Does the work on each file; the files that cannot be read are reported at the end, and make the exit code 1."""
    failed = []
    for file in tqdm.tqdm(files, unit="file", disable=None if progress else True):
        try:
            work(file)
        except UNREADABLE as error:  # one recording, whatever its fault, does not cost the others
            failed.append(f"  {file}: {error}")
    if failed:
        print(f"audax-zoo: {len(failed)} of {len(files)} files could not be read:", *failed, sep="\n", file=sys.stderr)
    return 1 if failed else 0


def _windows(file: str, clip: Pretrained, **cuts: int) -> Iterator[Window]:
    """The file in windows of the model's native length; `cuts` are options of `cut`."""
    least, samples = clip.model.frontend.min_samples, 0
    size = window_size(clip.entry.window, clip.sample_rate)
    for window in cut(stream(file, clip.sample_rate), size, **cuts):
        samples = window.end
        if samples >= least:
            yield window
    if samples < least:
        raise SoundError(f"{file} holds {samples} samples at {clip.sample_rate} Hz, less than one frame of {least}.")


def _mean(parts: list[tuple[np.ndarray, int]]) -> Float[np.ndarray, " width"]:
    """The mean over windows, each weighted with its number of samples."""
    values, samples = zip(*parts, strict=True)
    return np.average(np.stack(values), axis=0, weights=samples).astype(np.float32)


def _frames(file: str, clip: Pretrained) -> tuple[Float[np.ndarray, "frames width"], Float[np.ndarray, " frames"]]:
    """Embeddings over time and their times in seconds, one grid from the file's beginning to its end.

    Windows begin on the grid and overlap by part of a step. A frame is of the window in whose middle it lies best. Of a
    file that ends before the first frame's centre it is the first.
    """
    size = window_size(clip.entry.window, clip.sample_rate)
    first, second = clip.frame_times(2) * clip.sample_rate
    stride = round(second - first)
    shape = eqx.filter_eval_shape(clip.frames, jax.ShapeDtypeStruct((size,), jnp.float32)).shape
    count = max(min(shape[0], math.ceil((size - first) / stride)), 1)  # frames whose centre lies in a window
    hop = max(min(count, size // stride), 1) * stride
    rest = max(math.floor(first + count * stride) - size + 1, 1)  # samples that bring one more centre
    parts, before, samples = [], None, 0
    for window in _windows(file, clip, hop=hop, rest=rest, step=stride):
        frames, start = np.asarray(clip.frames(window.wave))[:count], window.start // stride
        if before is not None:
            behind = (before + count - start + 1) // 2  # of the frames that both windows have, the first half
            parts[-1] = parts[-1][: len(parts[-1]) - (before + count - start) + behind]
            frames = frames[behind:]
        parts.append(frames)
        before, samples = start, window.end
    rows = np.concatenate(parts)
    times = (first + stride * np.arange(len(rows))) / clip.sample_rate
    inside = times < samples / clip.sample_rate
    inside[0] = True
    return rows[inside], times[inside]


def _writable(path: pathlib.Path) -> None:
    """Fails before the work rather than after it. Raises OSError."""
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder: name a file in it.")
    try:
        tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise OSError(f"{path} cannot be written: {path.parent}: {error.strerror}.") from None


def _write_npz(path: pathlib.Path, columns: dict[str, np.ndarray]) -> None:
    np.savez(path, allow_pickle=False, **columns)


def _write_parquet(path: pathlib.Path, columns: dict[str, np.ndarray]) -> None:
    arrow, parquet = _parquet()
    width = columns["embeddings"].shape[1]
    names = [name.encode("utf-8", "backslashreplace").decode() for name in columns["files"].tolist()]
    arrays = {name: arrow.array(values.ravel()) for name, values in (columns | {"files": np.asarray(names)}).items()}
    arrays["embeddings"] = arrow.FixedSizeListArray.from_arrays(arrays["embeddings"], width)
    parquet.write_table(arrow.table(arrays), path)


def _parquet():
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            'Parquet needs pyarrow: pip install "audax-eqx[parquet]", or write an .npz.'
        ) from None
    return pyarrow, pyarrow.parquet


if __name__ == "__main__":
    sys.exit(main())
