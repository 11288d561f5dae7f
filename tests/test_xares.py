"""X-ARES's encoder: its attributes and frames, and one task of the suite itself, where it is installed."""

import sys

import numpy as np
import pytest

import zoo


def noise(*shape, seed=0):
    return np.random.default_rng(seed).uniform(-0.5, 0.5, shape).astype(np.float32)


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch", reason="torch is not installed")


@pytest.fixture(scope="module")
def encoder(torch):
    return zoo.xares.load_model("resnet_fsdd")


def test_without_torch_the_remedy_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ModuleNotFoundError, match=r"zoo\.xares needs torch: pip install xares"):
        zoo.xares.load_model()


def test_attributes_are_those_that_xares_asks_for(encoder, torch):
    clip = encoder.clip
    assert isinstance(encoder, torch.nn.Module) and encoder.sampling_rate == clip.sample_rate == 8000
    assert encoder.output_dim == clip.frames(noise(8000)).shape[1]
    first, second = clip.frame_times(2)
    assert encoder.hop_size_in_ms == pytest.approx(1000 * (second - first))
    name = type(encoder).__name__
    assert name.startswith("ResnetFsdd_") and name.endswith("Encoder")
    assert type(zoo.xares.load_model("resnet_fsdd")).__name__ == name != type(zoo.xares.load_model()).__name__


@pytest.mark.parametrize("samples", [100, 8000, 50000])
def test_frames_are_those_of_the_engine_at_any_length(encoder, torch, samples):
    waves = noise(2, samples)
    embeddings = encoder(torch.from_numpy(waves))
    assert embeddings.dtype == torch.float32 and embeddings.shape[::2] == (2, encoder.output_dim)
    expected = [result.values for result in zoo.embed(encoder.clip, [(wave, 8000) for wave in waves], each="frame")]
    np.testing.assert_array_equal(embeddings.numpy(), expected)
    seconds = embeddings.shape[1] * encoder.hop_size_in_ms / 1000
    assert abs(seconds - samples / 8000) <= encoder.hop_size_in_ms / 1000
    np.testing.assert_array_equal(encoder(torch.from_numpy(waves[0])), embeddings[:1])


@pytest.mark.parametrize("shape", [(), (0,), (2, 0), (1, 2, 800)])
def test_other_shapes_are_refused_in_a_sentence(encoder, torch, shape):
    with pytest.raises(ValueError, match=r"\(n_sounds, n_samples\), got the shape"):
        encoder(torch.zeros(shape))
    with pytest.raises(ValueError, match="got a list"):
        encoder([0.0])


def test_a_task_of_xares_on_spoken_digits(torch, shared, tmp_path):
    pytest.importorskip("xares", reason="X-ARES is not installed: pip install xares 'torchaudio<2.9'")
    from xares.audio_encoder_checker import check_audio_encoder
    from xares.audiowebdataset import write_audio_tar
    from xares.task import TaskConfig, XaresTask

    encoder = zoo.xares.load_model("resnet_fsdd")
    with pytest.warns(UserWarning, match="far larger"):  # its noise has a deviation of 1
        assert check_audio_encoder(encoder)
    recordings, folder = shared / "data" / "fsdd" / "recordings", tmp_path / "digits"
    folder.mkdir()
    for split, indices in {"train": range(10, 14), "valid": range(14, 15), "test": range(15, 17)}.items():
        names = [(digit, speaker, index) for digit in range(4) for speaker in ("george", "theo") for index in indices]
        paths = [str(recordings / f"{digit}_{speaker}_{index}.wav") for digit, speaker, index in names]
        labels = [str(digit) for digit, _, _ in names]
        write_audio_tar(paths, labels, str(folder / f"{split}-*.tar"), num_shards=1)
    (folder / ".audio_tar_ready").touch()
    config = TaskConfig(
        name="digits",
        env_root=tmp_path,
        encoder=encoder,
        label_processor=lambda row: int(row["label"]),
        output_dim=4,
        epochs=8,
        learning_rate=1e-1,
        batch_size_train=8,
        num_encoder_workers=0,
    )
    config.encoded_tar_name_of_split = {split: f"wds-encoded-{split}-*.tar" for split in ("train", "valid", "test")}
    task = XaresTask(config)
    task.make_encoded_tar()
    assert task.run_mlp()[0] > 0.8  # 0.25 by chance
    assert task.run_knn()[0] > 0.8
