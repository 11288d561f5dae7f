"""Frontends against golden features, closed forms and invariances."""

import functools
import json
import re

import equinox as eqx
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

import zoo
from audax_eqx import features, frontends
from audax_eqx.frontends import LogMel, audax_log_mel, librosa_log_mel, torchaudio_log_mel, torchlibrosa_log_mel

SMALL = {"sample_rate": 8000, "bins": 20, "n_fft": 256, "hop_length": 80}
FRAMINGS = ["center", "valid", "audax"]
pytestmark = pytest.mark.filterwarnings("ignore:.* mel filters are empty")
every_framing = pytest.mark.parametrize("framing", FRAMINGS)


def noise(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32))


def error(ours, theirs):
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.shape == theirs.shape
    return np.abs(ours - theirs).max() / np.abs(theirs).max()


# Golden features ------------------------------------------------------------------------------------------------------


def test_audax_log_mel_is_audax(shared):
    with np.load(shared / "oracles" / "audax" / "features.npz") as golden:
        waves, expected = golden["wave"], golden["log_mel"]
    assert error(jax.vmap(audax_log_mel(16000))(waves), expected) < 1e-5


def test_log_mel_of_convnext_audioset(shared):
    with np.load(shared / "oracles" / "convnext_audioset" / "golden.npz") as golden:
        wave, expected = golden["wave"], golden["log_mel"]
    frontend = LogMel(
        32000, bins=224, n_fft=1024, hop_length=320, f_min=50.0, f_max=14000.0, mel_scale="slaney", norm="slaney"
    )
    assert error(frontend(jnp.asarray(wave)), expected) < 1e-4


def test_torchaudio_log_mel_is_decibels_of_torchaudios_mel_spectrogram():
    wave = noise(4000)
    mel = features.mel_spectrogram(wave, sample_rate=22050, n_fft=1024, hop_length=320, n_mels=64)
    expected = features.amplitude_to_db(mel)
    assert error(torchaudio_log_mel(22050)(wave), expected) < 1e-6
    top = torchaudio_log_mel(22050, top_db=10.0)(wave)
    np.testing.assert_allclose(top, np.maximum(expected, np.max(expected) - 10), rtol=1e-5)


def librosa_mel(wave, rate, n_fft, hop, bins, pad_mode):
    """librosa's rules in NumPy: frames around multiples of the hop, Slaney's filters over np.fft.rfftfreq."""
    wave = np.pad(np.asarray(wave, np.float64), n_fft // 2, mode=pad_mode)
    starts = range(0, len(wave) - n_fft + 1, hop)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)
    power = np.abs(np.fft.rfft(np.stack([wave[start : start + n_fft] for start in starts]) * window)) ** 2
    top = 15 + np.log(rate / 2 / 1000) / (np.log(6.4) / 27)
    mels = np.linspace(0, top, bins + 2)
    hz = np.where(mels < 15, mels * 200 / 3, 1000 * np.exp((mels - 15) * np.log(6.4) / 27))
    points = np.fft.rfftfreq(n_fft, 1 / rate)[:, None]
    rise, fall = (points - hz[:-2]) / np.diff(hz)[:-1], (hz[2:] - points) / np.diff(hz)[1:]
    return power @ (np.maximum(0, np.minimum(rise, fall)) * 2 / (hz[2:] - hz[:-2]))


@pytest.mark.parametrize("rate", [22050, 11025, 44101])
@pytest.mark.parametrize("n_fft", [2048, 513])
def test_librosa_log_mel_is_librosas(rate, n_fft):
    wave = np.concatenate([noise(9000), np.zeros(6000, np.float32)])  # which top_db lifts
    db = 10 * np.log10(np.maximum(librosa_mel(wave, rate, n_fft, 512, 128, "constant"), 1e-10))
    options = {"n_fft": n_fft} if n_fft != 2048 else {}
    ours = librosa_log_mel(rate, **options)(jnp.asarray(wave))
    np.testing.assert_allclose(ours, np.maximum(db, db.max() - 80), atol=1e-3)
    loudest = librosa_log_mel(rate, ref="max", **options)(jnp.asarray(wave))  # librosa's ref=np.max
    np.testing.assert_allclose(loudest, np.maximum(db - db.max(), -80), atol=1e-3)


def test_torchlibrosa_log_mel_reflects_and_goes_down_to_its_floor():
    wave = np.concatenate([noise(9000), np.zeros(6000, np.float32)])
    mel = librosa_mel(wave, 32000, 2048, 512, 64, "reflect")
    expected = 10 * np.log10(np.maximum(mel, 1e-10))
    assert expected.min() == -100
    np.testing.assert_allclose(torchlibrosa_log_mel(32000)(jnp.asarray(wave)), expected, atol=1e-3)


@pytest.mark.parametrize("power", [1.0, 2.0])
def test_the_reference_has_no_decibels(power):
    wave, options = noise(2000), SMALL | {"power": power}
    plain = LogMel(**options)(wave)
    half = LogMel(**options, ref=10.0)(wave)
    np.testing.assert_allclose(plain - half, 20 / power, atol=1e-4)
    loudest = LogMel(**options, ref="max", top_db=30.0)(wave)
    np.testing.assert_allclose(loudest, np.maximum(plain - np.max(plain), -30), atol=1e-4)
    assert np.all(LogMel(**options, ref="max")(jnp.zeros(2000)) == 0)


# A model of version 0.1 ----------------------------------------------------------------------------------------------


def saved(folder, kind, **options):
    network = {"type": "ResNet", "depths": (1,), "widths": (4,)}
    frontend = {"type": kind, "sample_rate": 8000} | options
    entry = zoo.Entry("small", frontend, network, classes=2, task="multiclass", window=1.0)
    zoo.save(folder, *zoo.create(entry, key=jax.random.key(0)), entry)
    return json.loads((folder / "config.json").read_text()), json.loads(
        (folder / "preprocessor_config.json").read_text()
    )


def test_a_folder_of_version_0_1_hears_what_it_heard(tmp_path):
    # It wrote librosa_log_mel, 128 bins unless told, for torchlibrosa's numbers, and knew no `ref`
    config, numbers = saved(tmp_path, "torchlibrosa_log_mel", bins=128, n_fft=512)
    config["frontend"] = {"type": "librosa_log_mel", "sample_rate": 8000, "n_fft": 512}
    del numbers["ref"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(numbers))
    clip = zoo.load(tmp_path, verify=True)
    assert clip.entry.frontend["type"] == "torchlibrosa_log_mel" and clip.model.frontend.pad_mode == "reflect"


def test_a_folder_of_today_is_librosas(tmp_path):
    _, numbers = saved(tmp_path, "librosa_log_mel", bins=16, n_fft=512)
    assert (numbers["pad_mode"], numbers["top_db"], numbers["ref"]) == ("constant", 80.0, 1.0)
    clip = zoo.load(tmp_path, verify=True)
    assert clip.entry.frontend["type"] == "librosa_log_mel" and clip.model.frontend.pad_mode == "constant"


@pytest.mark.parametrize(("kind", "f_max"), [("torchaudio_log_mel", 5512.0), ("librosa_log_mel", 5512.5)])
def test_what_is_written_beside_a_model_has_its_dialects_highest_frequency(tmp_path, kind, f_max):
    _, numbers = saved(tmp_path, kind, sample_rate=11025, bins=16, n_fft=512)
    assert numbers["f_max"] == f_max


@pytest.mark.parametrize("power", [1.0, 2.0])
def test_a_scale_of_ten_is_twenty_decibels(power):
    wave, frontend = noise(2000), LogMel(**SMALL, power=power)
    np.testing.assert_allclose(frontend(wave) - frontend(0.1 * wave), 20, atol=1e-3)


def test_floor_and_ceiling_bound_the_logarithm():
    wave = jnp.concatenate([jnp.zeros(2000), noise(2000)])
    plain = LogMel(**SMALL, log="natural", floor=1e-30)(wave)
    y = LogMel(**SMALL, log="natural", floor=0.01, ceiling=2.0)(wave)
    assert np.min(plain) < np.log(0.01) and np.max(plain) > np.log(2.0)
    np.testing.assert_allclose(y, np.clip(plain, np.log(0.01), np.log(2.0)), rtol=1e-5)


# Types and invariances ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_any_floats_give_float32(dtype):
    frontend = LogMel(**SMALL)
    with jax.enable_x64(True):
        wave = noise(2000).astype(dtype)
        y = frontend(wave)
    assert wave.dtype == dtype and y.dtype == jnp.float32
    assert error(y, frontend(wave.astype(jnp.float32))) < 1e-6


@every_framing
def test_a_batch_is_a_loop(framing):
    waves, frontend = noise(3, 2000), LogMel(**SMALL, win_length=200, framing=framing)
    loop = np.stack([frontend(wave) for wave in waves])
    assert error(eqx.filter_jit(eqx.filter_vmap(frontend))(waves), loop) < 1e-6


def test_frontends_have_no_parameters():
    for frontend in (LogMel(**SMALL), torchaudio_log_mel(16000), librosa_log_mel(32000), audax_log_mel(16000)):
        assert jax.tree.leaves(frontend) == []


@pytest.mark.parametrize(
    "options", [{"top_db": 80.0, "ref": "max"}, {"log": "natural"}, {"power": 1.0}, {"framing": "audax"}]
)
def test_gradients_are_finite_at_silence(options):
    frontend = LogMel(**SMALL, **options)
    for wave in (jnp.zeros(1000), 1e-22 * noise(1000)):
        gradient = jax.grad(lambda wave: jnp.sum(frontend(wave)))(wave)
        assert np.all(np.isfinite(gradient))
    loud = jax.grad(lambda wave: jnp.sum(frontend(wave)))(noise(1000))
    assert np.all(np.isfinite(loud)) and np.any(loud != 0)


# Time -----------------------------------------------------------------------------------------------------------------


@every_framing
@pytest.mark.parametrize("win_length", [None, 160])
def test_an_impulse_at_a_frames_time_peaks_in_that_frame(framing, win_length):
    frontend = LogMel(**SMALL, win_length=win_length, framing=framing, floor=1e-30)
    for frame in (3, 7):
        sample = float(frontend.times(np.array([float(frame)]))[0]) * 8000
        assert sample == round(sample)
        power = 10 ** (frontend(jnp.zeros(2000).at[round(sample)].set(1.0)) / 10)
        energy = np.asarray(power).sum(axis=1)
        assert np.argmax(energy) == frame
        np.testing.assert_allclose(energy[frame - 1], energy[frame + 1], rtol=1e-3)  # the window is symmetric


@every_framing
def test_times_are_a_hop_apart_and_linear_between(framing):
    frontend = LogMel(**SMALL, framing=framing)
    times = frontend.times(np.array([0.0, 0.25, 1.0, 10.0]))
    np.testing.assert_allclose((times - times[0]) * 8000, [0, 20, 80, 800], atol=1e-9)


# Bad inputs -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [{"framing": framing} for framing in FRAMINGS]
    + [{"framing": "audax", "win_length": 160}]
    + [{"pad_mode": pad_mode} for pad_mode in ("constant", "replicate", "circular")],
    ids=lambda options: " ".join(map(str, options.values())),
)
def test_the_shortest_waveform(options):
    frontend = LogMel(**SMALL, **options)
    least = frontend.min_samples
    assert np.all(np.isfinite(frontend(noise(least))))
    with pytest.raises(ValueError, match=rf"at least {least} samples .* got {least - 1}: pad the clip"):
        frontend(jnp.zeros(least - 1))


BAD = {
    "`floor`, which must be > 0: got 0.0": {"floor": 0.0},
    "`floor`, which must be > 0: got -1.0": {"floor": -1.0},
    "top_db is in decibels: use it with log='decibel', got log='natural'": {"log": "natural", "top_db": 80.0},
    "ref has 0 decibels: use it with log='decibel', got log='natural'": {"log": "natural", "ref": "max"},
    "ref is an energy > 0, which has 0 decibels, or 'max': got 0.0": {"ref": 0.0},
    "ref is an energy > 0, which has 0 decibels, or 'max': got nan": {"ref": float("nan")},
    "0 <= f_min < f_max, got f_min = 5000": {"f_min": 5000.0},
}


@pytest.mark.parametrize(("message", "options"), BAD.items(), ids=BAD)
def test_bad_options_raise_a_sentence(message, options):
    with pytest.raises(ValueError, match=re.escape(message)):
        LogMel(**SMALL | options)


@pytest.mark.parametrize("name", ["framing", "mel_scale", "log", "norm", "fbanks_dtype"])
def test_unknown_choices_are_named(name):
    with pytest.raises(ValueError, match=rf"^unknown {name} 'mystery': expected one of "):
        LogMel(**SMALL, **{name: "mystery"})


@pytest.mark.parametrize(
    ("build", "name"),
    [
        (frontends.PCEN, "mel_scale"),
        (frontends.PCEN, "norm"),
        (frontends.PerchLogMel, "framing"),
        (frontends.CLAPLogMel, "fill"),
        (frontends.CLAPLogMel, "mel_scale"),
        (frontends.CLAPLogMel, "norm"),
        (functools.partial(frontends.Wav2Vec, key=jax.random.key(0)), "norm"),
    ],
    ids=str,
)
def test_unknown_choices_of_other_frontends_are_named(build, name):
    with pytest.raises(ValueError, match=rf"^unknown {name} 'mystery': expected one of "):
        build(16000, **{name: "mystery"})


def test_an_unknown_reference_is_named():
    with pytest.raises(ValueError, match="ref is an energy > 0, which has 0 decibels, or 'max': got mystery"):
        LogMel(**SMALL, ref="mystery")


def test_wrong_shapes_are_named():
    with pytest.raises(jaxtyping.TypeCheckError, match=r"f32\[2,2000\][\s\S]*'samples'"):
        LogMel(**SMALL)(noise(2, 2000))
    with pytest.raises(jaxtyping.TypeCheckError, match=r"i16\[2000\][\s\S]*Float"):
        LogMel(**SMALL)(jnp.zeros(2000, jnp.int16))
