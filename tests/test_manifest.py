"""Manifests as people write them: what is understood, and the one sentence for what is not."""

import codecs
import os

import pytest

from train import records
from train.__main__ import main
from train.manifest import read_manifest


def rows(folder, text, **settings):
    """The rows of a manifest with that text, as (file, labels, columns)."""
    path = folder / "manifest.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return [(row.id, row.labels, row.columns) for row in read_manifest(path, **settings)]


@pytest.mark.parametrize(
    "text",
    [
        "files,labels,fold\na.wav,dog;cat,1\n",
        "files, labels, fold\na.wav, dog; cat, 1\n",
        " files ,labels ,\tfold \na.wav,dog;cat , 1 \n",
        '"files","labels","fold"\n"a.wav","dog;cat","1"\n',
        'files, "labels", fold\na.wav, "dog;cat", 1\n',
        'files,labels,fold\na.wav, "dog;cat", "1"\n',
        "\ufefffiles,labels,fold\r\na.wav,dog;cat,1\r\n\r\n",
        '\ufeff"files",labels,fold\na.wav,dog;cat,1',
        "\n\nfiles,labels,fold\n\na.wav,;dog;;cat;dog,1\n",
        "files,labels,fold\ra.wav,dog;cat,1\r",
        "fold,labels,files\n1,dog;cat,a.wav\n",
        "fold,labels,files\n1,dog;cat, a.wav \n",
        "files,labels,fold,\na.wav,dog;cat,1,\n",
        "files,labels,fold\na.wav,dog;cat,1,,\n",
        ",files,labels,fold\n0,a.wav,dog;cat,1\n",  # as pandas writes its index
    ],
)
def test_one_row_in_many_hands(text, tmp_path):
    assert rows(tmp_path, text) == [("a.wav", ["dog", "cat"], {"fold": "1"})]


@pytest.mark.parametrize("delimiter", ["\t", r"\t", "tab"])
def test_a_tab_as_people_type_it(delimiter, tmp_path):
    text = "files\tlabels\na, b.wav\tdog, small\n"
    assert rows(tmp_path, text, delimiter=delimiter) == [("a, b.wav", ["dog, small"], {})]
    text = "files,labels\na.wav,dog\tcat\n"
    assert rows(tmp_path, text, label_delimiter=delimiter) == [("a.wav", ["dog", "cat"], {})]


def test_delimiters_of_any_character_and_labels_of_any_word(tmp_path):
    assert rows(tmp_path, "files labels\na.wav dog\n", delimiter=" ") == [("a.wav", ["dog"], {})]
    assert rows(tmp_path, "files§labels\na.wav§dog and cat\n", delimiter="§", label_delimiter=" and ") == [
        ("a.wav", ["dog", "cat"], {})
    ]


@pytest.mark.parametrize("delimiter", ["", ",,", "tabs", "\n", '"', r"\n"])
def test_a_delimiter_that_is_none_gets_one_sentence(delimiter, tmp_path, capsys):
    with pytest.raises(ValueError, match=r"a delimiter is one character, or .* for a tab, got"):
        rows(tmp_path, "files,labels\na.wav,dog\n", delimiter=delimiter)
    with pytest.raises(ValueError, match="a delimiter of labels has one character or more"):
        rows(tmp_path, "files,labels\na.wav,dog\n", label_delimiter="")
    arguments = ["prepare", str(tmp_path / "manifest.csv"), str(tmp_path / "out"), "--sample-rate", "8000"]
    assert main([*arguments, "--delimiter", delimiter]) == 2
    error = capsys.readouterr().err
    assert error.startswith("audax-train: a delimiter") and error.count("\n") == 1


@pytest.mark.parametrize(
    "text, sentence",
    [
        ("path,labels\na.wav,x\n", "has the columns path, labels and needs one named files: name it so"),
        ("file,labels\na.wav,x\n", "has the columns file, labels and needs one named files: rename file"),
        ("Files,labels\na.wav,x\n", "needs one named files: rename Files"),
        ("filename,labels\na.wav,x\n", "needs one named files: rename filename"),
        ("files;labels\na.wav;x\n", "give another delimiter than ','"),
        (
            "files,label\na.wav,x\n",
            "has the columns files, label and none named labels: rename label, or .*--unlabelled",
        ),
        ("files,Labels\na.wav,x\n", "none named labels: rename Labels"),
        ("files,LABELS\na.wav,x\n", "none named labels: rename LABELS"),
        ("files,lables\na.wav,x\n", "none named labels: rename lables"),
        ("files,class\na.wav,x\n", "has the columns files, class and none named labels: name it so"),
        ("files,labels, labels\na.wav,x,y\n", "has more than one column labels: keep one"),
        ("files,files,labels\na.wav,b.wav,y\n", "has more than one column files"),
        ("files,labels\na.wav,\nb.wav, \nc.wav\n", "has 3 rows and no label: fill in"),
        ("files,labels\na.wav,;\n", "has 1 row and no label: "),
        ("files,labels\n", "has no rows"),
        ("", "has the columns none"),
        ("\n\n", "has the columns none"),
        ("files,labels\na.wav,x\nb.wav,x\na.wav,x\n", r"lists 1 file more than once, a\.wav first"),
        ("files,labels\nc.wav,x\n./c.wav,x\nd/../c.wav,y\n", r"lists 1 file more than once, c\.wav first"),
        ("files,labels\na.wav,x,y\n", "has more fields than columns in its row 1"),
        ("files,labels\na.wav,x\n,y\n", "has no file in its row 2"),
        ("files,labels\na.wav,x\n  ,y\n", "has no file in its row 2"),
        ('files,labels\n"a.wav,x\n', "cannot be read as CSV"),
        ("files,labels\na\0.wav,x\n", "has no file in its row 1"),
        ("files,labels\nZoë.wav,x\n".encode("latin-1"), "in its row 1: save it as CSV in UTF-8"),
        ("files,labels\na.wav,Zoë\n".encode("latin-1"), "in its row 1: save it as CSV in UTF-8"),
        (codecs.BOM_UTF16_LE + "files,labels\na.wav,x\n".encode("utf-16-le"), "save it as CSV in UTF-8"),
    ],
)
def test_a_manifest_that_makes_no_sense_gets_one_sentence(tmp_path, text, sentence):
    with pytest.raises(ValueError, match=sentence) as error:
        rows(tmp_path, text)
    assert "\n" not in str(error.value) and str(error.value).isprintable()
    with pytest.raises(ValueError):
        records.prepare(tmp_path / "manifest.csv", tmp_path / "out", sample_rate=8000, processes=1)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("text", ["files\na.wav\n", "files,label\na.wav,x\n", "files,labels\na.wav,\n"])
def test_clips_without_labels_are_asked_for(text, tmp_path):
    ((name, labels, _),) = rows(tmp_path, text, unlabelled=True)
    assert (name, labels) == ("a.wav", [])


def test_a_column_without_a_name_is_left_out_and_said_so(tmp_path, capsys):
    assert rows(tmp_path, "files,,labels\na.wav,lost,x\n") == [("a.wav", ["x"], {})]
    assert "has a column without a name, which is left out." in capsys.readouterr().out


def test_a_name_with_blanks_around_it_is_that_file_if_it_is_there(tmp_path):
    text = "labels,files\nx, a.wav\nx,b.wav \nx,c d.wav\n"
    assert [row[0] for row in rows(tmp_path, text)] == ["a.wav", "b.wav", "c d.wav"]
    for name in (" a.wav", "b.wav "):
        (tmp_path / name).touch()
    assert [row[0] for row in rows(tmp_path, text)] == [" a.wav", "b.wav ", "c d.wav"]


def test_a_name_that_is_not_utf_8_is_that_file_if_it_is_there(tmp_path):
    (tmp_path / os.fsdecode(b"caf\xe9.wav")).touch()
    ((name, _, _),) = rows(tmp_path, b"files,labels\ncaf\xe9.wav,x\n")
    assert os.fsencode(name) == b"caf\xe9.wav"


def test_one_label_in_two_spellings_of_unicode(tmp_path):
    found = rows(tmp_path, "files,labels\na.wav,Caf\u00e9\nb.wav,Cafe\u0301\n")
    assert [labels for _, labels, _ in found] == [["Caf\u00e9"], ["Caf\u00e9"]]


def test_a_label_with_a_zero_byte_is_refused(tmp_path):
    with pytest.raises(ValueError, match="has a label with a zero byte in its row 1"):
        rows(tmp_path, "files,labels\na.wav,a\0\n")
