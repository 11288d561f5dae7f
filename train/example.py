"""A reader of serialised `tf.train.Example`s that copies nothing.

TensorFlow's own reader copies the sound twice, which takes a tenth of the time of decoding it.

A message is a sequence of fields. A field is a key, which is 8 times the number of the field plus 2 for bytes, then a
length, then that number of bytes. Key and length are in groups of 7 bits, the lowest group first, and the top bit of
each byte says whether another byte follows.

    Example    1: Features    1: entry, one a feature    1: name    2: Feature    1: BytesList    1: value
"""

from collections.abc import Iterator


def byte_feature(record: bytes, name: bytes) -> memoryview:
    """The first value of a feature of bytes. Raises EOFError without such a feature, and for any other message."""
    for features in _fields(memoryview(record)):
        for entry in _fields(features):
            parts = _fields(entry)
            if next(parts, b"") == name:
                for feature in parts:
                    for values in _fields(feature):
                        return next(_fields(values), values)
    raise EOFError(f"it has no {name.decode()}")


def _fields(message: memoryview) -> Iterator[memoryview]:
    """The contents of the fields of a message, in order. Raises EOFError for a field that is not bytes."""
    place = 0
    while place < len(message):
        key, place = _number(message, place)
        size, place = _number(message, place)
        if key % 8 != 2 or size > len(message) - place:
            raise EOFError("it is no record of an example, or cut short")
        yield message[place : place + size]
        place += size


def _number(message: memoryview, place: int) -> tuple[int, int]:
    """The number at this place, and the place behind it."""
    value = shift = 0
    while place < len(message):
        byte = message[place]
        value |= (byte & 127) << shift
        place, shift = place + 1, shift + 7
        if byte < 128:
            return value, place
    raise EOFError("it is cut short")
