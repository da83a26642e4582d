"""Built-in data: scikit-learn's digits, and rows read from the source of a library made for these tests."""

import io
import platform
import sys

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from embedkit import builtin
from embedkit.datasets import LoadTable, load_images, load_table, load_texts, read_contents, read_rows
from embedkit.readers import ReadFiles
from embedkit.settings import UserError
from embedkit.sources import Source

FIRST = '''"""A module docstring is nobody's."""

def public(one, /, two=2, *rest, three, **more):
    """This docstring is longer than forty characters."""
    return one


def bare(): pass


async def waits(x) -> int:
    """Too short."""


def _private():
    """A private function's docstring counts as a text too."""


@decorate(1)
@other
class Thing(Base):
    """Things have a docstring of more than forty letters."""

    value: int = 0

    def method(self, x):
        """This docstring is longer than forty characters."""

    @property
    def size_of(self) -> int:
        return 0

    def __len__(self):
        return 0

    class Inner:
        """A class inside a class is on the second level, and that is read."""

        def too_deep(self):
            """What is on the third level is not read, however long it is."""


if True:
    def hidden():
        """A function inside a condition is not at the top level at all."""
'''


@pytest.fixture
def library(tmp_path, monkeypatch):
    """Make an importable library of these files and let the built-in texts and symbols be read from it alone."""

    def make(files, under="site"):
        for name, text in ({"__init__.py": ""} | files).items():
            path = tmp_path / under / "tinylib" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text if isinstance(text, bytes) else text.encode())
        monkeypatch.syspath_prepend(tmp_path / under)
        monkeypatch.setattr(builtin, "LIBRARIES", {"tinylib": "tinylib", "notinstalledlib": "notinstalledlib"})
        builtin._all.cache_clear()

    builtin._all.cache_clear()
    yield make
    builtin._all.cache_clear()
    assert "tinylib" not in sys.modules


def texts(library, files, **options):
    library(files, **options)
    return [row["text"] for row in builtin.rows("docstrings", "texts")]


def test_digits_are_scikit_learns_as_grey_pictures_of_8_by_8():
    rows, digits = list(builtin.rows("digits", "images")), load_digits()
    assert len(rows) == len(digits.target) == 1797
    assert [row["label"] for row in rows] == [str(digit) for digit in digits.target]
    assert rows[3]["path"] == "digit-0003.png"
    levels = np.asarray(Image.open(io.BytesIO(rows[3]["image"])))
    assert levels.shape == (8, 8) and levels.dtype == np.uint8
    assert (np.round(levels / 255 * 16) == digits.images[3]).all()
    assert digits.images[3].max() == 15 and levels.max() == 239


def test_digits_load_as_a_dataset():
    dataset = load_images("builtin:digits")
    rows = read_rows(dataset)
    assert str(dataset).startswith("images/digits@")
    assert dataset.manifest.rows == 1797 and dataset.manifest.details["splits"] == {"train": 1252, "validation": 177, "test": 368}
    assert dataset.manifest.details["label"]["classes"] == {
        **{"0": 178, "1": 182, "2": 177, "3": 183, "4": 181, "5": 182, "6": 181, "7": 179, "8": 174, "9": 180}
    }
    assert len(set(rows["id"].to_pylist())) == 1797 and dataset.manifest.details["copies"] == 0


def test_a_text_is_a_docstring_of_forty_letters_on_the_top_two_levels(library):
    assert texts(library, {"first.py": FIRST}) == [
        "This docstring is longer than forty characters.",
        "A private function's docstring counts as a text too.",
        "Things have a docstring of more than forty letters.",
        "A class inside a class is on the second level, and that is read.",
    ]


def test_the_label_of_a_docstring_is_its_library(library):
    library({"first.py": FIRST})
    assert {row["label"] for row in builtin.rows("docstrings", "texts")} == {"tinylib"}


def test_the_same_docstring_is_taken_once_even_from_two_files(library):
    assert len(texts(library, {"first.py": FIRST, "sub/second.py": FIRST})) == 4


def test_files_come_in_the_order_of_their_names(library):
    def file(word):
        return f'def f():\n    """{word} {"x" * 40}"""\n'

    found = texts(library, {"b.py": file("b"), "a/z.py": file("a/z"), "a.py": file("a")})
    assert [text.split()[0] for text in found] == ["a/z", "a", "b"]
    builtin._all.cache_clear()
    assert [row["text"] for row in builtin.rows("docstrings", "texts")] == found


def test_files_that_are_no_python_and_folders_of_tests_are_left_out(library):
    files = {"bad.py": "def (:\n", "null.py": b"x = 1\0", "latin.py": b'"""\xe9"""\n', "notes.txt": FIRST}
    files |= {"tests/test_it.py": FIRST, "_vendor/copy.py": FIRST, "testing/help.py": FIRST}
    assert texts(library, files) == []
    builtin._all.cache_clear()
    assert len(texts(library, files | {"good.py": FIRST})) == 4


def test_where_python_is_installed_does_not_matter(library):
    assert len(texts(library, {"first.py": FIRST}, under="testing/tests/site")) == 4


def test_a_doubtful_escape_in_a_library_neither_warns_nor_costs_its_file(library):
    escape = 'def f():\n    """A docstring with a doubtful escape \\d in its forty letters."""\n'
    assert len(texts(library, {"first.py": escape})) == 1


def test_nothing_of_a_library_is_run(library, tmp_path):
    marker = tmp_path / "ran"
    run = f"open({str(marker)!r}, 'w')\n"
    library({"__init__.py": run, "first.py": run + FIRST})
    list(builtin.rows("docstrings", "texts"))
    list(builtin.rows("symbols", "table"))
    assert not marker.exists()


def test_symbols_are_the_public_functions_and_classes_with_what_they_look_like(library):
    library({"first.py": FIRST})
    rows = list(builtin.rows("symbols", "table"))
    common = {"package": "tinylib", "module": "tinylib.first"}
    plain = {"owner": "", "first_argument": "", "decorator": "", "returns": False, "arguments": 0}
    function, method = plain | {"kind": "function"}, plain | {"kind": "method", "owner": "Thing", "first_argument": "self"}
    assert rows == [
        common | function | {"prefix": "public", "first_argument": "one", "arguments": 3, "lines": 2, "documented": "yes"},
        common | function | {"prefix": "bare", "lines": 1, "documented": "no"},
        common
        | function
        | {"prefix": "waits", "first_argument": "x", "arguments": 1, "returns": True, "lines": 1, "documented": "yes"},
        common | plain | {"kind": "class", "prefix": "thing", "decorator": "decorate", "lines": 19, "documented": "yes"},
        common | method | {"prefix": "method", "arguments": 2, "lines": 1, "documented": "yes"},
        common
        | method
        | {"prefix": "size", "decorator": "property", "arguments": 1, "returns": True, "lines": 2, "documented": "no"},
        common | plain | {"kind": "class", "owner": "Thing", "prefix": "inner", "lines": 4, "documented": "yes"},
    ]


def test_private_modules_and_classes_have_no_public_symbols(library):
    library({"_hidden.py": "def f(): pass\n", "sub/_deep/x.py": "def f(): pass\n", "a.py": "class _C:\n    def f(self): pass\n"})
    assert list(builtin.rows("symbols", "table")) == []


def test_what_a_package_defines_in_its_init_file_is_public(library):
    library({"__init__.py": "def top(): pass\n", "sub/__init__.py": "def below(): pass\n"})
    assert [row["prefix"] for row in builtin.rows("symbols", "table")] == ["top", "below"]


def test_docstrings_and_symbols_load_as_datasets(library):
    library({"first.py": FIRST, "sub/second.py": 'def f(*, a):\n    """A second file has a docstring too, of fifty letters."""\n'})
    found = load_texts("builtin:docstrings")
    assert str(found).startswith("texts/docstrings@")
    assert found.manifest.rows == 5 and found.manifest.details["label"]["classes"] == {"tinylib": 5}
    symbols = load_table("builtin:symbols", LoadTable(label_column="documented"))
    assert symbols.manifest.rows == 8 and symbols.manifest.details["label"]["classes"] == {"no": 2, "yes": 6}
    assert symbols.manifest.details["columns"] == {
        **dict.fromkeys(("package", "module", "owner", "prefix", "kind", "first_argument", "decorator"), "string"),
        **{"returns": "bool", "arguments": "int64", "lines": "int64"},
    }
    assert read_contents(symbols, 7, 8).to_pylist()[0]["module"] == "tinylib.sub.second"


def test_a_real_library_gives_many_rows(monkeypatch):
    monkeypatch.setattr(builtin, "LIBRARIES", {"filelock": "filelock"})
    builtin._all.cache_clear()
    found = load_texts("builtin:docstrings")
    builtin._all.cache_clear()
    assert found.manifest.rows > 20 and found.manifest.details["label"]["classes"] == {"filelock": found.manifest.rows}


def test_a_limit_holds_for_built_in_data_too(library):
    library({"first.py": FIRST})
    assert load_table("builtin:symbols", LoadTable(files=ReadFiles(limit=3))).manifest.rows == 3


def test_what_decides_built_in_rows_is_the_version_of_what_they_are_read_from(monkeypatch):
    import sklearn

    assert builtin.content("digits") == f"scikit-learn={sklearn.__version__}"
    assert "numpy=" + np.__version__ in builtin.content("symbols") == builtin.content("docstrings")
    monkeypatch.setattr(builtin, "LIBRARIES", {"sklearn": "scikit-learn", "gone": "gone"})
    python = platform.python_version()
    assert builtin.content("symbols") == f"python={python} scikit-learn={sklearn.__version__} gone=None"


def test_built_in_texts_name_the_python_and_the_libraries_that_they_are_read_with(library, monkeypatch):
    source = load_texts("builtin:docstrings").manifest.source
    assert source["with"] == builtin.content("docstrings") and f"python={platform.python_version()} " in source["with"]
    monkeypatch.setattr(platform, "python_version", lambda: "3.99.0")
    assert Source("builtin:docstrings").content() != source["sha256"]


def test_every_library_that_rows_are_read_from_is_installed():
    assert all(builtin.package_version(distribution) for distribution in builtin.LIBRARIES.values())
    assert not {name for name in builtin.LIBRARIES if builtin.importlib.util.find_spec(name) is None}


def test_an_unknown_name_is_refused_with_the_near_ones():
    with pytest.raises(UserError, match=r"built-in dataset 'digit' is not known; did you mean 'digits'\?"):
        load_images("builtin:digit")
    with pytest.raises(UserError, match="built-in dataset 'xyz' is not known; there is digits, docstrings, symbols"):
        builtin.rows("xyz", "images")
    with pytest.raises(UserError, match="built-in dataset '' is not known"):
        load_images("builtin:")


@pytest.mark.parametrize(
    ("load", "name", "message"),
    [
        (load_texts, "digits", "builtin:digits holds images, not texts; load it with `embedkit load-images builtin:digits`"),
        (load_table, "docstrings", "builtin:docstrings holds texts, not table; .* `embedkit load-texts builtin:docstrings`"),
        (load_images, "symbols", "builtin:symbols holds table, not images; .* `embedkit load-table builtin:symbols`"),
    ],
)
def test_another_kind_is_refused_with_the_command_that_fits(load, name, message):
    with pytest.raises(UserError, match=message):
        load(f"builtin:{name}")
