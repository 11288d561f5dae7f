"""Labels of parts of recordings by Raven and Audacity."""

import pytest
from spans import RATE, RAVEN, manifest, parts, record

from train.__main__ import main
from train.data import Dataset
from train.records import prepare

# Raven and Audacity ---------------------------------------------------------------------------------------------------


@pytest.fixture
def field(tmp_path):
    """A folder of recordings."""
    for number, name in enumerate(("dawn.wav", "dusk.wav", "night.flac", "site/dawn.wav")):
        record(tmp_path / "recordings" / name, 10, seed=number)
    return tmp_path


def annotate(folder, texts, **settings):
    for name, text in texts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    settings = {"manifest": folder / "recordings", "annotations": folder / "notes"} | settings
    prepare(out=folder / "out", sample_rate=RATE, processes=1, **settings)
    return list(parts(Dataset(folder / "out")))


TABLE = f"""{RAVEN}\tAnnotation
1\tWaveform 1\t1\t1.500000\t2.500000\t100.0\t400.0\trobin
1\tSpectrogram 1\t1\t1.500000\t2.500000\t100.0\t400.0\trobin
2\tSpectrogram 1\t1\t2.250000\t4\t0\t500\twren "large"
"""


def test_tables_of_raven_and_labels_of_audacity_belong_to_recordings_by_name(field, capsys):
    examples = annotate(
        field,
        {
            "notes/dawn.Table.1.selections.txt": TABLE,
            "notes/dusk.txt": "\ufeff0,5\t0,5\tcrow\n\\\t100\t200\n3.000000\t4.5\tcaf\u0065\u0301\r\n5\t6\t\n",
            "notes/night.Table.1.selections.txt": f"{RAVEN}\tAnnotation\n",
            "notes/README.txt": "What these are.\n",
        },
    )
    assert examples == [
        ("dawn.wav", 1.5, 2.5, "robin"),
        ("dawn.wav", 2.25, 4.0, 'wren "large"'),
        ("dusk.wav", 0.5, 0.501, "crow"),
        ("dusk.wav", 3.0, 4.5, "caf\u00e9"),
        ("dusk.wav", 5.0, 6.0, ""),
    ]
    printed = capsys.readouterr().out
    assert "1 file of no recording is left out: README.txt." in printed
    assert "1 file without annotations is left out: site/dawn.wav." in printed


def test_an_empty_table_says_that_nothing_is_there(field):
    examples = annotate(field, {"notes/night.txt": "", "notes/dusk.txt": "1\t9.5\tx\n"}, negatives=4.0)
    assert examples == [("dusk.wav", 1.0, 9.5, "x"), ("night.flac", 0.0, 4.0, ""), ("night.flac", 4.0, 8.0, "")]


def test_recordings_of_one_name_are_told_apart_by_their_folders(field):
    notes = {"notes/dawn.txt": "1\t2\trobin\n", "notes/site/dawn.txt": "1\t2\twren\n"}
    assert annotate(field, notes) == [("dawn.wav", 1, 2, "robin"), ("site/dawn.wav", 1, 2, "wren")]
    (field / "recordings/dawn.wav").rename(field / "recordings/other.wav")
    record(field / "recordings/more/dawn.wav", 10)
    with pytest.raises(ValueError, match=r"dawn\.txt may be of more/dawn\.wav, site/dawn\.wav: put it into a folder"):
        annotate(field, notes)


def test_annotations_beside_the_recordings_and_of_one_alone(field):
    texts = {"recordings/dusk.txt": "1\t2\trobin\n", "recordings/dusk.wav.txt": "3\t4\twren\n"}
    examples = annotate(field, texts, annotations=field / "recordings")
    assert examples == [("dusk.wav", 1, 2, "robin"), ("dusk.wav", 3, 4, "wren")]
    (field / "one.csv").write_text("files,split\nrecordings/dawn.wav,test\n")
    examples = annotate(
        field, {"labels.txt": "1\t2\tx\n"}, manifest=field / "one.csv", annotations=field / "labels.txt"
    )
    assert examples == [("recordings/dawn.wav", 1, 2, "x")]
    assert Dataset(field / "out").columns["split"].tolist() == ["test"]


def test_a_table_of_many_recordings_counts_from_the_start_of_each(field):
    head = f"{RAVEN}\tBegin Path\tFile Offset (s)\tLabel\tScore"
    rows = "1\tSpectrogram 1\t1\t1\t2\t0\t500\t/data/dawn.wav\t1\tx\t0.9\n"
    rows += "2\tSpectrogram 1\t1\t13\t14\t0\t500\tC:\\a\\dusk.wav\t3\ty\t1"
    (field / "recordings/site/dawn.wav").unlink()
    examples = annotate(field, {"all.selections.txt": f"{head}\n{rows}\n"}, annotations=field / "all.selections.txt")
    assert examples == [("dawn.wav", 1, 2, "x"), ("dusk.wav", 3, 4, "y")]
    for old, new, sentence in (
        ("dusk.wav", "dust.wav", r"has a selection of C:\\a\\dust\.wav, which is none of the 3 recordings"),
        ("File Offset (s)", "Delta Time (s)", r"of several recordings and no column File Offset \(s\)"),
    ):
        text = f"{head}\n{rows}\n".replace(old, new)
        with pytest.raises(ValueError, match=sentence):
            annotate(field, {"all.selections.txt": text}, annotations=field / "all.selections.txt")


def test_the_column_of_the_labels(field):
    table = TABLE.replace("Annotation", "Call Type")
    with pytest.raises(
        ValueError, match="and none with a usual name for labels: name the column that has the labels, --label-c"
    ):
        annotate(field, {"notes/dusk.txt": table})
    examples = annotate(field, {"notes/dusk.txt": table}, label_column="call type")
    assert [label for *_, label in examples] == ["robin", 'wren "large"']
    with pytest.raises(ValueError, match="and none named Species: name"):
        annotate(field, {"notes/dusk.txt": table}, label_column="Species")


@pytest.mark.parametrize(
    "text, sentence",
    [
        ("1\t2\tx\n3\t2\ty\n", r"dusk\.txt in its line 2 ends at 2 s, in front of its start at 3 s"),
        ("1.0 2.0 robin\n", r"dusk\.txt in its line 1 has no start, end and label with tabs between them"),
        ("one\ttwo\tx\n", r"dusk\.txt in its line 1 has the start 'one'"),
        ("\t\tx\n", r"dusk\.txt in its line 1 has no times"),
        (TABLE.replace("2.250000", ""), r"dusk\.txt in its line 4 has the start ''"),
        ("1\t2\tZo\xeb\n".encode("latin-1"), r"dusk\.txt cannot be read as UTF-8"),
    ],
)
def test_annotations_that_make_no_sense_get_one_sentence(field, text, sentence):
    with pytest.raises(ValueError, match=sentence) as error:
        annotate(field, {"notes/dusk.txt": text})
    assert "\n" not in str(error.value) and not (field / "out").exists()


def test_annotations_of_nothing_get_one_sentence(field, capsys):
    arguments = ["prepare", str(field / "recordings"), str(field / "out"), "--sample-rate", "1000", "--annotations"]
    assert main([*arguments, str(field / "none")]) == 2
    assert "none is neither a file nor a folder" in capsys.readouterr().err
    (field / "notes").mkdir()
    assert main([*arguments, str(field / "notes")]) == 2
    assert "has no annotations of the 4 recordings of" in capsys.readouterr().err
    (field / "notes/dusk.txt").write_text("1\t2\tx\n")
    assert main([*arguments, str(field / "notes"), "--negatives", "2", "--negative-label", "none"]) == 0
    assert len(Dataset(field / "out")) == 1 + 4
    path = manifest(field / "recordings", "dusk.wav,x", head="files,labels")
    with pytest.raises(ValueError, match=r"has labels or times of its own, of dusk\.wav first"):
        prepare(path, field / "out", sample_rate=RATE, annotations=field / "notes")
