"""The pages in docs/: their Python runs and does what they say, their commands parse, their links and tables hold."""

import importlib
import importlib.util
import json
import os
import re
import subprocess
import sys
import types

import equinox as eqx
import hub as stand_in
import jax
import numpy as np
import pages
import pytest
import soundfile

import zoo
from audax_eqx import lora
from train import __main__ as trainer
from zoo.__main__ import _parser

RUN = {"index", "concepts", "zoo", "features", "frontends", "finetuning", "serving", "search", "publishing", "training"}
ELSEWHERE = {"scale"}  # in test_cluster.py, on a Ray of its own
PAGES = [pages.README, *pages.DOCS]


@pytest.fixture
def after(request, tmp_path, monkeypatch):
    """The names at the end of each section of the page `docs/PARAM.md`, run in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return pages.run(pages.ROOT / "docs" / f"{request.param}.md")


def of(page):
    return pytest.mark.parametrize("after", [page], indirect=True)


def arrays(tree):
    return jax.tree.leaves(eqx.filter(tree, eqx.is_array))


def same(one, other):
    return all(np.array_equal(a, b) for a, b in zip(arrays(one), arrays(other), strict=True))


# Python ---------------------------------------------------------------------------------------------------------------


def test_every_page_with_python_is_run():
    assert {page.stem for page in pages.DOCS if list(pages.blocks(page))} == RUN | ELSEWHERE


ALONE = """
import pathlib, re, sys
sys.path[:0] = sys.argv[1:3]
for page in sys.argv[3:]:
    print(page, file=sys.stderr)
    blocks = re.findall(r"^```python\\n(.*?)^```", pathlib.Path(page).read_text(), re.DOTALL | re.MULTILINE)
    exec("\\n".join(blocks), {})
"""
EXTRAS = {page: tuple(sorted(pages.extras(page))) for page in PAGES if page.stem not in {"publishing", *ELSEWHERE}}


@pytest.mark.parametrize("chosen", sorted(set(EXTRAS.values())))
def test_pages_run_where_no_more_is_installed_than_they_say(chosen, tmp_path, tmp_path_factory):
    site = tmp_path_factory.mktemp("site")
    pages.environment(site, *chosen)
    paths = [page for page in PAGES if EXTRAS.get(page) == chosen and list(pages.blocks(page))]
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", ALONE, site, pages.ROOT, *paths],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr


@of("index")
def test_index(after):
    names = after[""]
    clip, frames = names["clip"], names["frames"]
    assert {label for label, _ in names["tags"]} < set(clip.labels) and len(names["tags"]) == 3
    assert names["logits"].shape == (clip.entry.classes,) and names["embedding"].shape == frames.shape[1:]
    assert (np.diff(names["seconds"]) > 0).all() and names["seconds"].shape == frames.shape[:1]
    assert names["embeddings"].shape == (4, *frames.shape[1:])


@of("concepts")
def test_concepts(after):
    names = after["One example; the batch is yours"]
    clip = names["clip"]
    assert names["embeddings"].shape == (20, clip.model.network.width)
    assert f"takes waves at {clip.sample_rate} Hz, got sample_rate=44100" in after["Waves"]["message"]
    expected = clip.model.head(names["embeddings"][0])
    np.testing.assert_allclose(after["What is in a model"]["logits"], expected, rtol=1e-4, atol=1e-5)
    assert after["Parameters and State"]["names"][-2:] == ["head.weight", "head.bias"]
    assert len(after["Parameters and State"]["names"]) == len(arrays(clip.model))
    names = after["Training mode"]
    assert names["logits"].shape == (4, 3) and not same(names["new_state"], names["state"])


@of("zoo")
def test_zoo(after):
    assert after[""]["entry"].name == "ast_audioset" and isinstance(after[""]["clip"], zoo.Pretrained)
    names = after["An entry is the model as data"]
    saved = zoo.load("birds")
    assert saved.entry == names["entry"] and same(saved.model, names["model"])
    names = after["HEAR"]
    assert names["scenes"].shape == (1, names["model"].scene_embedding_size)
    assert names["embeddings"].shape == (*names["milliseconds"].shape, names["model"].timestamp_embedding_size)
    assert np.diff(names["milliseconds"]).max() <= 500


@of("features")
def test_features(after):
    names = after[""]
    np.testing.assert_allclose(names["back"], names["waves"], atol=1e-5)
    frames = 1 + names["wave"].size // 160
    shapes = {"mel": (2, frames, 40), "log_mel": (2, frames, 40), "mfcc": (2, frames, 20), "slopes": (2, frames, 20)}
    assert {name: names[name].shape for name in shapes} == shapes
    assert names["gained"].shape == names["mel"].shape and names["fbank"].shape[::2] == (2, 80)
    assert names["slower"].shape == (2, names["wave"].size // 2)
    mel, features = names["mel"], names["features"]
    names = after["Dialects of log-mel"]
    np.testing.assert_allclose(names["log_mel"], features.amplitude_to_db(mel[0]), atol=1e-3)
    assert np.isfinite(after["In a loss"]["at_silence"]).all()


@of("frontends")
def test_frontends(after):
    names = after[""]
    assert names["x"].shape == (len(names["seconds"]), 64) and names["log_mel"](names["wave"]).shape == (101, 64)
    assert np.allclose(np.diff(names["seconds"]), 0.01)
    assert after["A model of your own"]["logits"].shape == (2,)
    names = after["A frontend of your own"]
    assert len(arrays(names["spectrum"])) == 1
    assert names["embedding"].shape == (16,) and np.isfinite(names["embedding"]).all()
    assert same(names["mine"].model, names["model"]) and names["mine"].labels == ("rain", "clock")
    names = after["A network or a model of your own"]
    assert {label for label, _ in names["tags"]} == {"rain", "clock"}


@pytest.fixture(scope="module")
def finetuned(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("finetuning")
        patch.chdir(folder)
        yield pages.run(pages.ROOT / "docs" / "finetuning.md")


def test_embeddings_separate_rain_from_a_clock(finetuned):
    assert finetuned["Embeddings and scikit-learn"]["accuracy"] == 1.0


def test_the_probe_is_saved_whole_and_hears_what_it_should(finetuned):
    names, saved = finetuned["Linear probe"], zoo.load("rain_or_clock")
    guesses = np.argmax(saved.model.head(jax.numpy.asarray(names["inputs"][names["test"]])), axis=1)
    np.testing.assert_array_equal(guesses, names["targets"][names["test"]])
    assert same(saved.model.network, names["clip"].model.network) and same(saved.model.head, names["head"])


def test_fine_tuning_moves_all_but_what_is_frozen_and_the_head_fastest(finetuned):
    names = finetuned["Full fine-tuning"]
    before, after = names["clip"].model.network, names["tuned"].model.network
    assert same(before.stages[0], after.stages[0])
    assert not any(same(before.stages[stage], after.stages[stage]) for stage in range(1, len(before.stages)))
    kept, moved = names["clip"].state, names["tuned"].state
    assert not same(kept, moved)
    factors, last = names["factors"].network, len(before.stages) - 1
    assert names["factors"].head.weight == 1.0 and factors.norm.weight == 0.5 ** (last + 2)
    assert [set(jax.tree.leaves(stage)) for stage in factors.stages[1:]] == [
        {0.5 ** (last + 1 - i)} for i in range(1, last + 1)
    ]
    data = finetuned[""]
    np.testing.assert_array_equal(names["guesses"], data["targets"][data["test"]])


def test_an_adapter_starts_as_nothing_and_learns_alone(finetuned):
    names = finetuned["LoRA"]
    assert names["losses"][-1] < names["losses"][0]
    adapted, merged, model = names["adapted"], names["merged"], names["model"]
    assert same(lora.merge(adapted).network, model.network)
    x = jax.random.normal(jax.random.key(0), (8000,))
    before, start, end = (each(x, names["state"])[0] for each in (model, adapted, merged))
    np.testing.assert_array_equal(before, start)
    assert np.abs(end - start).max() > 1e-3 and not same(merged.network, model.network)
    assert same(zoo.load("rain_or_clock_lora").model, names["merged"])


@of("serving")
def test_serving(after):
    names = after["Many files"]
    clip = names["clip"]
    results = list(zoo.embed(clip, names["recordings"], errors="keep"))
    assert [result.error for result in results] == [None, "none.wav is not a file.", None]
    np.testing.assert_array_equal(names["embedding"], results[-1].values)
    assert names["tags"].values.shape == (4, 10) and names["event"].label == "clock_tick" and names["event"].end == 20
    embeddings = after["Several devices"]["embeddings"]
    assert len(jax.devices()) > 1 and {shard.data.shape[0] for shard in embeddings.addressable_shards} == {2}
    names = after["Export"]
    wanted = np.stack([clip.probabilities(wave) for wave in names["clips"]])
    np.testing.assert_allclose(names["served"], wanted, atol=1e-5)
    np.save("clips.npy", names["clips"])
    elsewhere = [block for heading, block in pages.blocks(pages.ROOT / "docs" / "serving.md") if heading == "Export"][1]
    code = f"import sys, jax, numpy as np\nclips = np.load('clips.npy')\n{elsewhere}\nnp.save('served.npy', served)"
    code += "\nassert not {'equinox', 'audax_eqx', 'zoo'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
    np.testing.assert_allclose(np.load("served.npy"), wanted, atol=1e-5)
    light, logits = after["Half precision"]["light"], after["Half precision"]["logits"]
    assert {leaf.dtype.name for leaf in arrays(light.model.network)} == {"bfloat16"} and logits.dtype == np.float32
    assert 0 < np.abs(jax.nn.softmax(logits) - wanted[0]).max() < 0.05


@of("search")
def test_search(after):
    names = after["Apply it"]
    assert names["matches"][0].file == "recordings/3.wav" and len(names["matches"]) == 8
    assert names["matches"][0].similarity == pytest.approx(1.0, abs=1e-3)  # the same second, resampled in a cut
    wave, _ = soundfile.read("match_0.wav")
    assert len(wave) == names["rate"]
    assert len(names["labels"]) == 8 + 2 * 3
    assert {row[0] for row in names["found"]} == {"recordings/2.wav", "recordings/3.wav"} and len(names["found"]) == 10
    saved, (places, rows) = zoo.load("rain_or_clock"), next(names["blocks"]())
    (result,) = zoo.tag(saved, [places[0][0]], each="window")
    np.testing.assert_allclose(result.values, names["classifier"].predict_proba(rows[:5]), atol=1e-4)
    assert saved.labels == ("clock", "rain")


def test_publishing(tmp_path):
    """By the real client against a stand-in for the Hub, which only a new process takes for it."""
    blocks = "\n".join(block for _, block in pages.blocks(pages.ROOT / "docs" / "publishing.md"))
    code = f"{blocks}\nimport json\nprint(json.dumps([plan, url, clip.entry.name, clip.labels]))"
    chosen = {"HF_HOME": str(tmp_path), "HF_TOKEN": stand_in.TOKEN, "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0"}
    with stand_in.serve() as (hub, address):
        environment = os.environ | chosen | {"HF_ENDPOINT": address, "PYTHONPATH": str(pages.ROOT)}
        process = subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert process.returncode == 0, process.stderr
        plan, url, name, labels = json.loads(process.stdout.splitlines()[-1])
        (repo,) = hub.repos
        files = set(hub.repos[repo].commits[hub.repos[repo].branches["main"][-1]])
        assert repo == "user/rain-or-clock" and hub.repos[repo].private and url.startswith(f"{address}/{repo}/commit/")
    table = set(re.findall(r"^\| `(\S+)` \|", (pages.ROOT / "docs" / "publishing.md").read_text(), re.MULTILINE))
    assert table == files - {".gitattributes"} and all(file in plan for file in table)
    assert (name, labels) == ("rain_or_clock", ["rain", "clock"])


def test_training():
    entry = pages.run(pages.ROOT / "docs" / "training.md")["Recipes"]["recipe"].entry(("robin", "wren"))
    assert (entry.classes, entry.network["type"], entry.window) == (2, "efficientnet_b0", 5.0)


# Shell ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_zoos_commands_parse(page, monkeypatch):
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    for words in pages.commands(page, "audax-zoo"):
        assert callable(_parser(words[:1]).parse_args(words).run)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_trainers_commands_parse_and_then_miss_their_data(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path))  # or training would set it, for this whole process
    ((_, recipe),) = pages.blocks(pages.ROOT / "docs" / "training.md")
    (tmp_path / "birds.py").write_text(recipe)
    for words in pages.commands(page, "audax-train"):
        assert trainer.main(words) == 2  # a wrong option raises SystemExit
        assert "audax-train: " in capsys.readouterr().err


# The site -------------------------------------------------------------------------------------------------------------


def test_the_menu_has_every_page():
    config = (pages.ROOT / "mkdocs.yml").read_text()
    assert sorted(re.findall(r"^  - .*: (\w+\.md)$", config, re.MULTILINE)) == [page.name for page in pages.DOCS]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page):
    text = page.read_text()
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", text):
        file, _, anchor = target.partition("#")
        there = page.parent / file if file else page
        assert there.is_file(), target
        headings = re.findall(r"^#+ (.*)$", there.read_text(), re.MULTILINE) if anchor else []
        assert not anchor or anchor in [re.sub(r"[^\w]+", "-", heading.lower()).strip("-") for heading in headings]


def test_the_reference_has_all_public_classes_and_functions():
    text = (pages.ROOT / "docs" / "reference.md").read_text()
    assert len(re.findall(r"^::: \S+$", text, re.MULTILINE)) == 15
    for name, options in re.findall(r"^::: (\S+)\n    options:\n((?: {6,}.*\n)+)", text, re.MULTILINE):
        module = importlib.import_module(name)
        names = getattr(module, "__all__", [each for each in vars(module) if not each.startswith("_")])
        public = [each for each in names if isinstance(getattr(module, each), type | types.FunctionType)]
        assert sorted(re.findall(r"\w+", options.replace("members", ""))) == sorted(public)


def test_the_tables_of_models_are_those_of_the_entries():
    spec = importlib.util.spec_from_file_location("models", pages.ROOT / "docs" / "models.py")
    models = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(models)
    rows = models.table()
    assert all(f"| `{name}` |" in rows for name in zoo.list_models())
    for page in models.PAGES:
        assert models.replace(page.read_text(), rows) == page.read_text(), "run python docs/models.py"
    page = (pages.ROOT / "docs" / "zoo.md").read_text()
    assert models.replace(page, models.family_table(), models.FAMILIES) == page, "run python docs/models.py"
