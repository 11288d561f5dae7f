"""Arrays that a model does not need are not read from a file."""

import ast_repos
import numpy as np
import pytest
from ast_repos import DECODER, SIZE, ast_folder
from hub import digest
from torch_files import torch_file

import zoo
from zoo._arrays import open_files, shapes_of
from zoo._leaves import named_leaves
from zoo._load import assemble
from zoo._models import entry_from_config
from zoo._source import source_of
from zoo.families import ast

folders, torch_digest = ast_repos.folders, ast_repos.torch_digest


def test_a_file_loads_though_what_rules_drop_cannot_be_read(folders, torch_digest, tmp_path, monkeypatch):
    # In front, where a check of types would look
    weights = {"decoder.0.weight": np.arange(SIZE, dtype=np.float32)} | ast_folder(tmp_path / "model")
    path, data = tmp_path / "model" / "pytorch_model.bin", bytearray(torch_file(weights))
    name = b"archive/data/0"
    for method in (data.index(name) - 22, data.rindex(name) - 36):  # in both headers of the entry: packed, it says
        data[method] = 8
    path.write_bytes(data)
    with pytest.raises(ValueError, match="an entry cannot be unpacked"):
        zoo.arrays(path)["decoder.0.weight"]
    with pytest.raises(ValueError, match=r"decoder\.0\.weight matches 0 rules"):
        zoo.load(tmp_path / "model")
    monkeypatch.setitem(ast.RULES, "ast", (*ast.RULES["ast"], DECODER))
    clip = zoo.load(tmp_path / "model")
    assert digest(named_leaves(clip.model, clip.state)) == torch_digest


class Names(dict):
    """Arrays that remember which of them were read."""

    def __init__(self, arrays):
        super().__init__(arrays)
        self.names = []

    def __getitem__(self, name):
        self.names.append(name)
        return super().__getitem__(name)


def test_each_array_that_is_needed_is_read_once_and_no_other(folders):
    source = source_of(str(folders / "decoder"))
    entry, files = entry_from_config(source), open_files("model.safetensors", source.path)
    names = sorted(files, reverse=True)  # decoder first
    arrays = Names({name: files[name] for name in names})
    assemble(entry, arrays, shapes_of(files), "x", (*ast.RULES["ast"], DECODER))
    assert sorted(arrays.names) == sorted(name for name in names if not name.startswith("decoder."))
