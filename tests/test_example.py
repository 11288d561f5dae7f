"""Records are read in place, as TensorFlow writes them, and what is no record raises."""

import contextlib

import pytest

from train.example import byte_feature
from train.records import tensorflow


@pytest.fixture(scope="module")
def record():
    train = tensorflow().train
    features = {
        "audio": train.Feature(bytes_list=train.BytesList(value=[bytes(1000), b"second"])),
        "id": train.Feature(bytes_list=train.BytesList(value=[b"\xff\xfe"])),
        "labels": train.Feature(bytes_list=train.BytesList()),
        "samples": train.Feature(int64_list=train.Int64List(value=[300])),
        "scale": train.Feature(float_list=train.FloatList(value=[0.5])),
    }
    return train.Example(features=train.Features(feature=features)).SerializeToString(deterministic=True)


def test_the_first_value_is_what_tensorflow_wrote(record):
    assert byte_feature(record, b"audio") == bytes(1000)
    assert byte_feature(record, b"id") == b"\xff\xfe"
    assert byte_feature(record, b"labels") == b""


def test_what_is_not_there_raises(record):
    with pytest.raises(EOFError, match="it has no title"):
        byte_feature(record, b"title")


@pytest.mark.parametrize("size", [1, 2, 500, -1])
def test_a_cut_record_raises(record, size):
    with pytest.raises(EOFError, match="cut short"):
        byte_feature(record[:size], b"id")


def test_bytes_of_any_kind_give_a_value_or_an_error(record):
    for place in range(40):
        for byte in (0, 127, 255):
            changed = bytearray(record)
            changed[place] = byte
            with contextlib.suppress(EOFError):
                byte_feature(bytes(changed), b"id")
