"""PaSST against its publisher's numbers through the zoo, its positions, its tokens and its files."""

import functools
import pathlib

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden.seeded import fill
from test_cnn import KEY, error, noise

import zoo
from audax_eqx import networks
from audax_eqx.networks import PaSST
from zoo._arrays import open_file, shapes_of
from zoo._foreign import WeightFile
from zoo.families import passt

PARAMETERS = {"passt": 85_341_696}  # of the publisher's module of 86_153_758, without its two heads
GRID = {"grid": (5, 2), "patch": 8, "stride": (4, 8)}  # 24 frames, 16 bins


@functools.cache
def small(depth=1, **options):
    network, state = fill(functools.partial(PaSST, 8, depth, 2, **GRID | options))
    return eqx.nn.inference_mode(network), state


@eqx.filter_jit
def run(network, state, x):
    return network.features(x, state)[0], network(x, state)[0]


def test_a_converted_file_agrees_with_its_publishers_code(shared, tmp_path):
    file = shared / "oracles" / "passt" / "passt_small.pt"
    clip = zoo.load(zoo.convert(file, tmp_path / "made", network={"heads": 4}, labels=tuple("abcdefghi")))

    @eqx.filter_jit
    def outputs(clip, wave):
        x = clip.model.listen(wave)
        embedding, _ = clip.model.network(x, clip.state)
        return x, embedding, clip.model.logits(embedding)

    with np.load(shared / "oracles" / "passt" / "golden.npz") as golden:
        for length in ("short", "full"):
            x, embedding, logits = outputs(clip, jnp.asarray(golden[f"wave_{length}"].astype(np.float32)))
            assert error(x[::5], golden[f"mel_{length}"]) < 1e-5
            assert error(embedding, golden[f"embedding_{length}"]) < 1e-4
            assert error(logits, golden[f"logits_{length}"]) < 1e-4
        wave = golden["wave_full"].astype(np.float32)
    assert (clip.entry.window, clip.sample_rate, clip.entry.classes) == (10.0, 32000, 9)
    assert clip.model.frontend.max_samples == 320000
    with pytest.warns(UserWarning, match="hears the first 10.00 s of a wave, got 10.03 s"):
        np.testing.assert_array_equal(clip(np.concatenate([wave, wave[:1000]])), clip(wave))


@pytest.mark.parametrize("name", PARAMETERS)
def test_the_published_number_of_parameters(name):
    leaves = jax.tree.leaves(eqx.filter_eval_shape(getattr(networks, name), key=KEY))
    assert sum(leaf.size for leaf in leaves if hasattr(leaf, "shape")) == PARAMETERS[name]


def test_patches_have_the_positions_of_their_time_and_frequency():
    network, state = small(depth=0)
    x = noise(16, 16)
    y, embedding = run(network, state, x)
    patches = np.stack([[x[t : t + 8, f : f + 8].ravel() for f in (0, 8)] for t in (0, 4, 8)])
    tokens = patches @ np.asarray(network.patchify.weight).reshape(64, 8) + np.asarray(network.patchify.bias)
    tokens = tokens + np.asarray(network.time_embedding)[:3, None] + np.asarray(network.freq_embedding)
    assert error(y, network.norm(jnp.asarray(tokens))) < 1e-5
    special = jnp.stack([network.class_token, network.distillation_token]) + network.token_embedding
    assert error(embedding, jnp.mean(network.norm(special), axis=0)) < 1e-5


@pytest.mark.parametrize(("frames", "time"), [(1, 1), (8, 1), (11, 1), (12, 2), (24, 5), (27, 5), (28, 5), (90, 5)])
def test_a_shorter_input_has_fewer_patches_and_a_longer_one_is_cut(frames, time):
    network, state = small()
    x = noise(frames, 16)
    y, embedding = run(network, state, x)
    assert y.shape == (time, 2, 8)
    whole, same = run(network, state, x[: 4 * time + 4] if frames >= 8 else jnp.pad(x, ((0, 8 - frames), (0, 0))))
    assert error(y, whole) < 1e-6 and error(embedding, same) < 1e-6


def test_positions_are_the_middles_of_patches():
    np.testing.assert_array_equal(small()[0].positions(3), [3.5, 7.5, 11.5])


def test_bins_that_do_not_fit_the_grid_are_refused():
    network, state = small()
    with pytest.raises(ValueError, match="has positions for 2 patches over the bins, and 24 bins make 3: give a grid"):
        network(noise(24, 24), state)


@pytest.mark.parametrize("options", [{"grid": (0, 2)}, {"patch": 0}, {"stride": (4, 0)}])
def test_sizes_are_at_least_one(options):
    with pytest.raises(ValueError, match="PaSST cuts frames x bins into patches and takes sizes of at least 1, got"):
        small(**options)


# Files ----------------------------------------------------------------------------------------------------------------


def recognised(shared, file="passt.pt", change=None, **given):
    shapes = dict(shapes_of(open_file(shared / "oracles" / "passt" / "passt_small.pt")[1])) | (change or {})
    return passt.recognise(WeightFile(pathlib.Path(file), "torch", {}, shapes, **given)).entry


@pytest.mark.parametrize(
    ("grid", "file", "stride", "hop", "window"),
    [
        ((99, 12), "passt-s-f128-p16-s10-ap.476-swa.pt", 10, 320, 10.0),
        ((62, 8), "passt-s-f128-p16-s16-ap.468.pt", 16, 320, 10.0),
        ((200, 12), "passt-s-f128-20sec-p16-s10-ap.474-swa.pt", 10, 320, 20.0),
        ((300, 12), "passt-s-f128-30sec-p16-s10-ap.473-swa.pt", 10, 320, 30.0),
        ((200, 12), "passt-s-f128-stfthop160-p16-s10-ap.473-swa.pt", 10, 160, 10.0),
        ((320, 12), "passt-s-f128-stfthop100-p16-s10-ap.473-swa.pt", 10, 100, 10.0),
    ],
)
def test_the_published_files_are_told_by_their_positions_and_names(shared, grid, file, stride, hop, window):
    change = {"time_new_pos_embed": (1, 48, 1, grid[0]), "freq_new_pos_embed": (1, 48, grid[1], 1)}
    entry = recognised(shared, file, change)
    assert (entry.network["grid"], entry.network["stride"]) == (grid, (stride, stride))
    assert (entry.frontend["hop_length"], entry.window) == (hop, window)
    assert entry.frontend["max_frames"] == round(window * 32000 / hop)


def test_positions_that_no_stride_makes_are_told(shared):
    with pytest.raises(
        ValueError, match="has 50 positions over the bins, and no stride of patches of 16 makes them of"
    ):
        recognised(shared, change={"freq_new_pos_embed": (1, 48, 50, 1)})
    assert recognised(shared, network={"stride": (10, 9)}).network["stride"] == (10, 9)


def test_files_of_other_sizes_or_classes_are_nobodys(shared):
    entry = recognised(shared)
    assert (entry.classes, entry.task, entry.license, entry.source) == (9, "multiclass", None, None)
    assert passt.RELEASE.license == "Apache-2.0"


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        (
            {"file": "passt-stfthop0.pt"},
            "passt-stfthop0.pt takes a hop_length from 1 to 1048576, a whole number, got 0",
        ),
        ({"file": f"passt-stfthop{'9' * 5000}.pt"}, "takes a hop_length from 1 to 1048576"),
        ({"frontend": {"hop_length": 0}}, "takes a hop_length from 1 to 1048576, a whole number, got 0"),
        ({"frontend": {"hop_length": -5}}, "takes a hop_length from 1 .* got -5"),
        ({"frontend": {"bins": "x"}}, "takes bins from 1 to 1024, a whole number, got 'x'"),
        ({"frontend": {"bins": 10**9}}, "takes bins from 1 to 1024, a whole number, got 1000000000"),
        ({"frontend": {"sample_rate": 0}}, "takes a sample_rate from 1 to"),
        ({"window": float("nan")}, "takes a window above 0 and up to 3600 seconds, got nan"),
        ({"window": float("inf")}, "takes a window above 0 and up to 3600 seconds, got inf"),
        ({"network": {"stride": 5}}, r"takes a stride that is a tuple \(frames, bins\), got 5"),
        ({"network": {"stride": "x"}}, r"takes a stride that is a tuple \(frames, bins\), got 'x'"),
        ({"network": {"stride": ("a", "b")}}, "takes strides from 1 to 1048576, a whole number, got 'a'"),
        ({"network": {"stride": (0, 0)}}, "takes strides from 1 to 1048576, a whole number, got 0"),
    ],
)
def test_sizes_that_make_no_sense_are_told(shared, options, fault):
    with pytest.raises(ValueError, match=fault) as raised:
        recognised(shared, **options)
    assert str(raised.value).endswith(".") and len(str(raised.value)) < 6000
