"""Batches of prepared datasets: which examples a step has on which host, on devices and by any number of threads."""

import gc
import os
import pathlib
import subprocess
import sys
import threading
import time
import weakref

import jax
import numpy as np
import pytest
from clips import LABELS, LENGTHS, flip, make, make_six, same
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from train.data import Batch, Dataset, Sampler, balanced_weights, crops, to_devices, train_batches

ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return make(tmp_path_factory.mktemp("data"), LENGTHS, LABELS)


@pytest.fixture(scope="module")
def dataset(prepared):
    return Dataset(prepared[0])


def test_a_corrupt_record_raises_in_a_stream_when_it_is_reached(tmp_path):
    own = make_six(tmp_path)
    flip(own, 5, 0.5)
    dataset = Dataset(own)
    batches = train_batches(dataset, Sampler(np.arange(6), 6, seed=0), samples=100, threads=4)
    with pytest.raises(ValueError, match=r"5\.wav cannot be read from .*shard-00001-of-00002\.tfrecord"):
        next(batches)


def stream(dataset, sampler, **settings):
    return list(train_batches(dataset, sampler, **{"samples": 800, "stop": 7, **settings}))


def test_training_crops_and_pads_the_examples_of_its_step(prepared, dataset):
    sampler = Sampler(np.arange(13), 4, seed=3)
    for step, batch in enumerate(stream(dataset, sampler)):
        assert batch.waves.shape == (1, 4, 1, 800) and batch.lengths.shape == (1, 4, 1)
        assert batch.rows[0].tolist() == sampler.rows_of(step).tolist()
        np.testing.assert_array_equal(batch.targets[0], dataset.targets[batch.rows[0]])
        for row, length, wave in zip(batch.rows[0], batch.lengths[0, :, 0], batch.waves[0, :, 0], strict=True):
            clip = prepared[1][row]
            assert length == min(800, len(clip))
            assert wave[:length].tobytes() in clip.tobytes() and not wave[length:].any()


def test_each_epoch_has_each_row_once_in_another_order(dataset):
    rows = dataset.rows("fold", ["0"], held_out=False)  # 8 of them, which batches of 3 do not divide
    sampler = Sampler(rows, 3, seed=0)
    order = np.concatenate([sampler.rows_of(step) for step in range(16)]).reshape(6, 8)
    assert all(sorted(epoch) == rows.tolist() for epoch in order.tolist())
    assert len({tuple(epoch) for epoch in order.tolist()}) == 6
    other = Sampler(rows, 3, seed=1)
    assert not np.array_equal(order[0], np.concatenate([other.rows_of(step) for step in range(3)])[:8])
    np.testing.assert_array_equal(sampler.rows_of(1_000_000), Sampler(rows, 3, seed=0).rows_of(1_000_000))


def test_a_batch_larger_than_an_epoch_spans_several():
    rows = Sampler(np.array([5, 6]), 8, seed=0).rows_of(3)
    assert np.sort(rows.reshape(4, 2), axis=1).tolist() == [[5, 6]] * 4


@pytest.mark.parametrize("start", [1, 3, 6])
def test_training_goes_on_from_any_step(dataset, start):
    sampler = Sampler(np.arange(13), 4, seed=5)  # the first epoch ends in step 3
    same(stream(dataset, Sampler(np.arange(13), 4, seed=5), start=start), stream(dataset, sampler)[start:])


def test_training_without_a_stop_goes_on(dataset):
    sampler = Sampler(np.arange(13), 4, seed=5)
    endless = train_batches(dataset, sampler, samples=800)
    same([next(endless) for _ in range(7)], stream(dataset, sampler))
    far = train_batches(dataset, sampler, samples=800, start=10**9)
    assert next(far).rows[0].tolist() == sampler.rows_of(10**9).tolist()


@pytest.mark.parametrize("accumulate", [1, 2])
def test_two_hosts_share_the_batches_of_one(dataset, accumulate):
    sampler = Sampler(np.arange(13), 8, seed=5)
    settings = {"accumulate": accumulate, "views": 2, "samples": 300}
    hosts = [stream(dataset, sampler, host=host, hosts=2, **settings) for host in range(2)]
    joined = [
        Batch(*(np.concatenate(leaves, 1) for leaves in zip(*pair, strict=True))) for pair in zip(*hosts, strict=True)
    ]
    same(joined, stream(dataset, sampler, **settings))


def test_accumulation_only_reshapes(dataset):
    sampler = Sampler(np.arange(13), 36, seed=5)  # more than a thread decodes at a time
    one, three = stream(dataset, sampler, stop=3), stream(dataset, sampler, stop=3, accumulate=3)
    assert three[0].waves.shape == (3, 12, 1, 800)
    same([Batch(*(leaf.reshape(1, 36, *leaf.shape[2:]) for leaf in batch)) for batch in three], one)


@pytest.mark.parametrize("threads", [1, 5])
def test_threads_change_nothing(dataset, threads):
    sampler = Sampler(np.arange(13), 36, seed=5)
    same(stream(dataset, sampler, threads=threads), stream(dataset, sampler, threads=2))


def test_every_offset_is_reached_and_views_and_visits_differ(prepared, dataset):
    clip, window = prepared[1][3], 800  # 803 samples
    sampler = Sampler(np.array([3]), 50, seed=0)
    waves = np.concatenate([batch.waves[0] for batch in stream(dataset, sampler, stop=2, views=2)])
    offsets = np.array(
        [[next(k for k in range(4) if np.array_equal(wave, clip[k : k + window])) for wave in pair] for pair in waves]
    )
    assert set(offsets[:, 0]) == set(offsets[:, 1]) == {0, 1, 2, 3}
    assert 0.1 < np.mean(offsets[:, 0] == offsets[:, 1]) < 0.45
    assert all(20 < np.sum(offsets == offset) < 85 for offset in range(4))


def test_balanced_weights_are_those_of_psla():
    targets = np.array([[1, 0], [1, 0], [1, 1], [1, 0], [0, 0]], np.float32)
    weights = np.array([1 / 4, 1 / 4, 1 / 4 + 1, 1 / 4, 1 / 4])
    np.testing.assert_allclose(balanced_weights(targets), weights / weights.sum(), rtol=1e-12)


def test_balanced_weights_without_labels_raise():
    with pytest.raises(ValueError, match="none of 3 examples has a label"):
        balanced_weights(np.zeros((3, 2), np.float32))


def test_balanced_sampling_draws_by_weight_anew_in_each_epoch():
    targets = np.repeat(np.eye(2, dtype=np.float32), [90, 10], axis=0)
    sampler = Sampler(np.arange(100) + 7, 100, seed=0, weights=balanced_weights(targets))
    draws = np.array([sampler.rows_of(step) for step in range(100)]) - 7
    assert abs(np.mean(draws >= 90) - 0.5) < 0.02  # four standard deviations
    assert len({tuple(epoch) for epoch in draws.tolist()}) == 100
    np.testing.assert_array_equal(draws[9], sampler.rows_of(9) - 7)


@pytest.mark.parametrize(
    "rows, batch, weights, sentence",
    [
        (0, 4, None, "0 rows in batches of 4"),
        (3, 0, None, "3 rows in batches of 0"),
        (3, 4, np.ones(2), r"3 rows take one weight each, got weights of shape \(2,\)"),
        (2, 4, np.array([1.0, -1.0]), "none of them negative"),
        (2, 4, np.zeros(2), "at least one of them positive"),
        (2, 4, np.array([1.0, np.nan]), "weights are finite numbers"),
        (2, 4, np.array([1.0, np.inf]), "weights are finite numbers"),
    ],
)
def test_a_sampler_of_nothing_raises(rows, batch, weights, sentence):
    with pytest.raises(ValueError, match=sentence):
        Sampler(np.arange(rows), batch, seed=0, weights=weights)


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_a_seed_without_64_bits_raises(seed):
    with pytest.raises(ValueError, match=f"The seed is {seed}: it must be at least 0"):
        Sampler(np.arange(3), 1, seed=seed)


@pytest.mark.parametrize("name", ["samples", "views", "accumulate", "threads"])
def test_counts_below_1_raise_at_once(dataset, name):
    with pytest.raises(ValueError, match=f"{name} is 0: it must be at least 1"):
        train_batches(dataset, Sampler(np.arange(13), 4, seed=0), **{"samples": 800} | {name: 0})


def test_batches_that_do_not_split_raise_at_once(dataset):
    with pytest.raises(ValueError, match=r"a batch of 12 does not split into 2 x 4 equal parts .* a multiple of 8"):
        train_batches(dataset, Sampler(np.arange(13), 12, seed=0), samples=800, accumulate=2, hosts=4)
    with pytest.raises(ValueError, match="host 2 is not one of 2"):
        train_batches(dataset, Sampler(np.arange(13), 4, seed=0), samples=800, host=2, hosts=2)


def test_batches_on_devices_are_the_same_batches(dataset):
    sampler = Sampler(np.arange(13), 16, seed=5)
    sharding = NamedSharding(Mesh(np.array(jax.devices()), ("data",)), PartitionSpec(None, "data"))
    expected = stream(dataset, sampler, accumulate=2)
    batches = list(to_devices(iter(expected), sharding))
    assert all(leaf.sharding == sharding and len(leaf.addressable_shards) == 8 for leaf in batches[0])
    same([Batch(*map(np.asarray, batch)) for batch in batches], expected)


def test_devices_are_fed_ahead(dataset):
    batches_read = []

    def source():
        for batch in stream(dataset, Sampler(np.arange(13), 2, seed=5)):
            batches_read.append(batch)
            yield batch

    batches = to_devices(source(), jax.sharding.SingleDeviceSharding(jax.devices()[0]))
    next(batches)
    assert len(batches_read) == 3
    assert len(list(batches)) == 6


def test_a_closed_stream_gives_up_its_threads(dataset):
    def count():
        return len(os.listdir("/proc/self/task")) if os.path.exists("/proc/self/task") else threading.active_count()

    sampler = Sampler(np.arange(13), 16, seed=5)
    first = train_batches(dataset, sampler, samples=800, threads=2)
    next(first)
    first.close()
    before = count()
    for _ in range(10):
        batches = train_batches(dataset, sampler, samples=800, threads=2)
        next(batches)
        batches.close()
    deadline = time.monotonic() + 20
    while count() > before + 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_closed_stream_gives_up_its_memory(tmp_path):
    dataset = Dataset(make_six(tmp_path))
    batches = train_batches(dataset, Sampler(np.arange(6), 4, seed=0), samples=800)
    next(batches)
    batches.close()
    reference = weakref.ref(dataset)
    del dataset, batches
    deadline = time.monotonic() + 20
    while reference() is not None:  # until the thread that decoded last is done
        assert time.monotonic() < deadline
        time.sleep(0.05)
        gc.collect()


def test_an_abandoned_stream_leaves_no_thread(dataset):
    batches = train_batches(dataset, Sampler(np.arange(13), 64, seed=5), samples=800, threads=3)
    next(batches)
    assert any(thread.name.startswith("train-data") for thread in threading.enumerate())
    del batches
    assert not any(thread.name.startswith("train-data") for thread in threading.enumerate())


def test_crops_are_of_the_seed_the_place_and_the_view(dataset):
    rows = np.full(2000, 10)  # 5000 samples
    starts = crops(dataset, rows, 4001, 2, 7, np.arange(2000))
    assert starts.min() >= 0 and starts.max() < 1000 and np.abs(starts.mean(axis=0) - 499.5).max() < 25
    assert np.abs(np.corrcoef(starts.T)[0, 1]) < 0.1
    np.testing.assert_array_equal(crops(dataset, rows[:3], 4001, 1, 7, np.arange(50, 53))[:, 0], starts[50:53, 0])
    assert np.mean(crops(dataset, rows, 4001, 2, 8, np.arange(2000)) == starts) < 0.01
    assert not crops(dataset, rows, 5000, 2, 7, np.arange(2000)).any()


ABANDONED = """
import sys
import numpy as np
from train.data import Dataset, Sampler, train_batches
dataset = Dataset(sys.argv[1])
streams = [train_batches(dataset, Sampler(np.arange(13), 64, seed=0), samples=800, threads=4) for _ in range(3)]
for stream in streams:
    next(stream)
"""


def test_a_process_ends_well_with_streams_that_are_open(prepared):
    process = subprocess.run(
        [sys.executable, "-c", ABANDONED, prepared[0]], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert process.returncode == 0, process.stderr
    assert "Traceback" not in process.stderr and "Fatal" not in process.stderr
