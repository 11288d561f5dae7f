"""Torch files made by hand: what torch no longer writes, and what nobody should."""

import pathlib
import pickle
import struct
import zlib

import numpy as np
import pytest

import zoo

GOLDEN = np.load(pathlib.Path(__file__).parent / "golden" / "torch_files.npz")


@pytest.fixture
def file(tmp_path):
    """Writes a file and gives its path."""

    def write(content, name="weights.pt"):
        path = tmp_path / name
        path.write_bytes(content)
        return path

    return write


def expect_refusal(path, *parts, read=zoo.arrays):
    """That reading raises one sentence about the file, with these parts."""
    with pytest.raises(ValueError) as raised:
        read(path)
    message = str(raised.value)
    assert message.startswith(f"{path} ") and message.endswith(".") and len(message) < 600
    assert not any(ord(letter) < 32 for letter in message)
    for part in parts:
        assert part in message
    return message


def golden(name):
    return GOLDEN[f"file/{name}"].tobytes()


# By hand: what torch no longer writes, and what nobody should


def pack(entries, end=None, comment=b""):
    """A zip archive. An entry is its bytes, or a dictionary of these and fields of its two headers to be other ones."""
    body, listing = b"", b""
    for name, entry in entries.items() if isinstance(entries, dict) else entries:
        entry = entry if isinstance(entry, dict) else {"data": entry}
        data, label = entry["data"], entry.get("name", name).encode(errors="surrogateescape")
        content = zlib.compressobj(9, zlib.DEFLATED, -15) if entry.get("deflate") else None
        payload = content.compress(data) + content.flush() if content else data
        fields = {
            "flags": 0,
            "method": 8 if content else 0,
            "packed": len(payload),
            "size": len(data),
            "place": len(body),
        }
        own, central = fields | entry.get("local", {}), fields | entry.get("central", {})
        sizes = [struct.pack("<3I", 0, each["packed"], each["size"]) for each in (own, central)]
        local = struct.pack("<4s5H", b"PK\3\4", 20, own["flags"], own["method"], 0, 0) + sizes[0]
        extra = entry.get("extra", b"")
        listing += struct.pack("<4s6H", b"PK\1\2", 20, 20, central["flags"], central["method"], 0, 0) + sizes[1]
        listing += struct.pack("<5H2I", len(label), len(extra), 0, 0, 0, 0, central["place"]) + label + extra
        own_label = entry.get("local_name", label)
        body += local + struct.pack("<2H", len(own_label), 0) + own_label + payload
    fields = {"count": len(entries), "size": len(listing), "start": len(body)} | (end or {})
    tail = struct.pack(
        "<4s4H2IH", b"PK\5\6", 0, 0, fields["count"], fields["count"], fields["size"], fields["start"], len(comment)
    )
    return body + listing + fields.get("insert", b"") + tail + comment


NUMBERS = struct.pack("<6f", *range(6))


def archive(code, storages=None, root="archive/"):
    storages = {"0": NUMBERS} if storages is None else storages
    return pack({f"{root}data.pkl": code} | {f"{root}data/{key}": data for key, data in storages.items()})


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def number(value):
    return b"K" + bytes([value]) if 0 <= value < 256 else pickle.dumps(value, 2)[2:-1]


def numbers(*values):
    return b"(" + b"".join(map(number, values)) + b"t"


def global_name(full):
    module, _, last = full.rpartition(".")
    return f"c{module}\n{last}\n".encode()


def storage(kind="torch.FloatStorage", key="0", count=6, mark="storage", more=b""):
    return b"(" + text(mark) + global_name(kind) + text(key) + text("cpu") + number(count) + more + b"tQ"


def tensor(offset=0, shape=(6,), strides=(1,), source=None, rebuild="torch._utils._rebuild_tensor_v2", more=None):
    more = b"\x89" + global_name("collections.OrderedDict") + b")R" if more is None else more
    source = storage() if source is None else source
    return global_name(rebuild) + b"(" + source + number(offset) + numbers(*shape) + numbers(*strides) + more + b"tR"


def holding(*pairs):
    """A pickle of a dictionary."""
    return b"\x80\x02}(" + b"".join(pairs) + b"u."


def row(content, keys=("0",), storages=NUMBERS, magic=0x1950A86A20F9469CFC6C, little=True):
    parts = [pickle.dumps(each, 2) for each in (magic, 1001, {"little_endian": little})]
    counts = struct.pack("<q", len(storages) // 4) + storages
    return b"".join(parts) + content + pickle.dumps(list(keys), 2) + counts


# Models


def torch_file(arrays):
    """A torch file of these arrays."""
    pairs, storages = [], {}
    for index, (key, array) in enumerate(arrays.items()):
        strides = tuple(stride // array.itemsize for stride in array.strides)
        kind = {"float32": "torch.FloatStorage", "float16": "torch.HalfStorage"}[array.dtype.name]
        source = storage(kind, str(index), array.size)
        pairs += [text(key), tensor(0, array.shape, strides, source)]
        storages[str(index)] = array.tobytes()
    return archive(holding(*pairs), storages)
