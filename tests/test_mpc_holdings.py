"""A party's own records: what is read, and what is said, to it alone, of what cannot be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mpc_training.batches import Batches
from mpc_training.errors import DataError, MPCError, SettingsError
from mpc_training.holdings import MAX_VALUE, Holding, read_holding
from mpc_training.record_files import read_array, read_csv
from mpc_training.schema import Schema

CSV = "id,age,pressure,ill\nx,0.5,1.25,1\ny,-1,2,0\nz,3,4.5,1\n"


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "t.csv"
    path.write_text(CSV)
    return path


def test_csv(table: Path) -> None:
    holding = read_holding("rows", table, label_column="ill", id_column="id")
    assert holding.features.tolist() == [[0.5, 1.25], [-1, 2], [3, 4.5]]
    assert holding.labels is not None and holding.labels.tolist() == [1, 0, 1]
    assert holding.ids == ("x", "y", "z")
    assert holding.one_hot(slice(0, 2), 2).tolist() == [[0, 1], [1, 0]]
    chosen = read_csv(table, columns=["pressure", "age"])
    assert chosen.features[0].tolist() == [1.25, 0.5] and chosen.names == ("pressure", "age")


@pytest.mark.parametrize(
    ("content", "options", "said"),
    [
        ("", {}, "expected a header line"),
        ("a,b\n1,2\n", {"label_column": "c"}, "lacks the columns c; it has a, b"),
        ("a,b\n1,2\n", {"columns": ("a", "x", "y")}, "lacks the columns x, y"),
        ("a,b\n1\n", {}, "line 2: expected 2 cells"),
        ("a,b\n1,tall\n2,\n", {}, "line 2, column b: 'tall'; line 3, column b: ''"),
        ("a,b\n1,nan\n", {}, "expected finite numbers"),
        ("a,b\n1,0.5\n", {"label_column": "b"}, "expected labels 0, 1, 2"),
        ("a,b\n1,-1\n", {"label_column": "b"}, "expected labels 0, 1, 2"),
        ("a,b\n1,1\n900,0\n", {"label_column": "b"}, "features go up to 900, expected at most 64"),
        ("a,b\n1,1\n", {}, "no labels"),
    ],
)
def test_what_is_wrong_with_a_csv(tmp_path: Path, content: str, options: dict, said: str) -> None:
    path = tmp_path / "t.csv"
    path.write_text(content)
    with pytest.raises(DataError, match=said):
        read_holding("rows", path, **options)


def test_columns_need_ids_that_differ(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("id,a\nx,1\nx,2\n")
    with pytest.raises(DataError, match="2 records, 1 different ids"):
        read_holding("columns", path, id_column="id")
    with pytest.raises(DataError, match="no record ids"):
        read_holding("columns", path, columns=("a",))


def test_arrays_and_idx(tmp_path: Path) -> None:
    pixels = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    np.save(tmp_path / "x.npy", pixels)
    np.save(tmp_path / "y.npy", np.array([0, 1]))
    (tmp_path / "x-idx3-ubyte").write_bytes(
        bytes([0, 0, 8, 3]) + np.array([2, 3, 3], ">u4").tobytes() + pixels.tobytes()
    )
    for name in ("x.npy", "x-idx3-ubyte"):
        holding = read_holding(
            "rows", tmp_path / name, labels=tmp_path / "y.npy", divisor=255, shape=(1, 3, 3)
        )
        assert holding.shape == (1, 3, 3)
        assert np.array_equal(holding.values(slice(None))[:, 0], pixels / 255)


@given(st.binary(max_size=60))
def test_no_idx_file_brings_it_down(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.mktemp("idx") / "x"
    path.write_bytes(content)
    try:
        array = read_array(path)
    except DataError:
        return
    assert array.nbytes <= len(content)


def test_files_that_are_not_what_they_seem(tmp_path: Path) -> None:
    np.save(tmp_path / "objects.npy", np.array([{}], object), allow_pickle=True)
    np.save(tmp_path / "text.npy", np.array(["a"]))
    (tmp_path / "none.npy").write_bytes(b"")
    for name in ("objects.npy", "text.npy", "none.npy", "missing.npy", "missing.csv"):
        with pytest.raises(DataError, match=name.partition(".")[0]):
            read_holding("rows", tmp_path / name)


def test_folders_of_images(tmp_path: Path) -> None:
    for name, shade in (("cat", 10), ("dog", 200)):
        (tmp_path / name).mkdir()
        Image.new("L", (4, 3), shade).save(tmp_path / name / "one.png")
    holding = read_holding("rows", tmp_path, divisor=255)
    assert holding.features.shape == (2, 1, 3, 4)
    assert holding.labels is not None and holding.labels.tolist() == [0, 1]
    # A party that has no cats must not call dogs 0.
    both = ("ant", "cat", "dog")
    agreed = read_holding("rows", tmp_path, divisor=255, classes=both)
    assert agreed.labels is not None and agreed.labels.tolist() == [1, 2]
    with pytest.raises(DataError, match="classes dog: expected"):
        read_holding("rows", tmp_path, classes=("cat",))
    Image.new("RGB", (4, 3)).save(tmp_path / "dog" / "two.png")
    with pytest.raises(DataError, match="expected one size"):
        read_holding("rows", tmp_path)
    (tmp_path / "dog" / "two.png").write_bytes(b"not an image")
    with pytest.raises(DataError, match="not an image that can be read"):
        read_holding("rows", tmp_path)


def test_scales_and_shapes() -> None:
    labels = np.zeros(2, np.int64)
    Holding("rows", np.array([[MAX_VALUE], [0.0]]), labels)
    for features, divisor, said in (
        (np.array([[MAX_VALUE * 1.01], [0.0]]), 1.0, "divide them"),
        (np.array([[np.inf], [0.0]]), 1.0, "NaN or infinite"),
        (np.zeros(2), 1.0, "expected \\(records, …\\)"),
        (np.zeros((2, 1)), 0.0, "divisor 0.0"),
        (np.zeros((3, 1)), 1.0, "labels for 3 records"),
    ):
        with pytest.raises(DataError, match=said):
            Holding("rows", features, labels, divisor)


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        (Schema(("age", "pressure")), None),
        (Schema(("pressure", "age")), "columns stand as age, pressure, agreed was pressure, age"),
        (Schema(("age", "weight")), "columns weight are missing, and pressure were not agreed on"),
        (Schema(low=-1, high=5), None),
        (Schema(low=0, high=5), "go from -1 to 4.5, agreed is 0 to 5"),
        (Schema(low=-1, high=1), "correct the divisor"),
        (Schema(low=-60, high=60), "divided twice?"),
    ],
)
def test_records_are_held_against_what_was_agreed(
    table: Path, schema: Schema, said: str | None
) -> None:
    holding = read_holding("rows", table, label_column="ill", columns=("age", "pressure"))
    if said is None:
        schema.check(holding)
        return
    with pytest.raises(DataError, match=said):
        schema.check(holding)


def test_a_schema_needs_names_and_a_range() -> None:
    nameless = Holding("rows", np.zeros((2, 3)), np.zeros(2, np.int64))
    with pytest.raises(DataError, match="use a CSV file"):
        Schema(("a", "b", "c")).check(nameless)
    for low, high in ((0.0, None), (1.0, 0.0), (-100.0, 0.0)):
        with pytest.raises(SettingsError, match="low"):
            Schema(low=low, high=high)


def test_digests_tell_records_apart() -> None:
    x, y = np.zeros((3, 2)), np.array([0, 1, 1])
    digests = {
        Holding("rows", x, y).digest, Holding("rows", x + 1, y).digest,
        Holding("rows", x, 1 - y).digest, Holding("rows", x, y, 2.0).digest,
        Holding("rows", x.astype(np.int64), y).digest,  # the same bytes
    }  # fmt: skip
    assert len(digests) == 5 and Holding("rows", x.copy(), y).digest in digests


@given(
    st.tuples(*[st.integers(0, 50)] * 3).filter(lambda counts: sum(counts) > 0),
    st.integers(1, 40),
    st.integers(0, 2**40),
)
def test_an_epoch_takes_each_record_once(counts: tuple[int, ...], batch: int, seed: int) -> None:
    batches = Batches(counts, batch, seed)
    taken: list[tuple[int, int]] = []
    for step in range(batches.steps):
        rows = batches.rows(step)
        assert sum(map(len, rows)) == batches.size
        taken += [(party, int(row)) for party, chosen in enumerate(rows) for row in chosen]
    assert len(set(taken)) == len(taken) == batches.steps * batches.size
    assert all(0 <= row < counts[party] for party, row in taken)


def test_nothing_to_train_on() -> None:
    with pytest.raises(SettingsError, match="at least one"):
        Batches((0, 0, 0), 8, 1)
    assert issubclass(DataError, MPCError)
