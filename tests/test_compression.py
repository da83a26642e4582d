"""compare_students: what students keep of their teacher, each beside its controls."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from embedkit import (
    CompareStudents,
    Distil,
    FineTune,
    LoadTexts,
    Training,
    UserError,
    compare_students,
    fine_tune,
    import_encoder,
    load_texts,
)
from embedkit.artifacts import Artifact
from embedkit.compression import as_options, recommended, sentence

FAST = Training(batch_size=16, preflight=False)


@pytest.fixture(scope="module")
def taught(tmp_path_factory, tiny_bert):
    """A teacher fine-tuned for moments, and the films that it learned from."""
    root, source = tmp_path_factory.mktemp("students") / "artifacts", tmp_path_factory.mktemp("source") / "films.csv"
    random, words = np.random.default_rng(0), "the film plot cat dog sat mat red blue".split()
    lines = [f"{' '.join(random.choice(words, 4))} {'good' if n % 2 else 'bad'} {n},{n % 2}" for n in range(120)]
    source.write_text("text,label\n" + "\n".join(lines) + "\n")
    films = load_texts(str(source), LoadTexts(), root=root)
    bert = import_encoder(str(tiny_bert), name="bert", root=root)
    settings = FineTune(training=FAST.model_copy(update={"epochs": 2, "learning_rate": 0.01}))
    return fine_tune(films, bert, settings), films


@pytest.fixture(scope="module")
def compared(taught):
    """The teacher, its films, and the report on a static student of it."""
    teacher, films = taught
    few = CompareStudents(students=("static",), distil=Distil(steps=20, width=8, training=FAST), timed_rows=8)
    return teacher, films, few, compare_students(teacher, films, few)


@pytest.mark.slow
def test_a_report_holds_teacher_student_twin_start_and_controls(compared):
    teacher, _, _, report = compared
    found = json.loads((report / "results.json").read_text())
    assert [one["name"] for one in found["models"]] == ["teacher", "static", "static-twin", "static-untrained", "pca", "words"]
    by_name = {one["name"]: one for one in found["models"]}
    assert by_name["teacher"]["value"] == pytest.approx(teacher.manifest.metrics["accuracy"].value)
    assert by_name["static-twin"]["of"] == "static" and by_name["static-twin"]["speed_of"] == "static"
    assert by_name["static"]["speedup"]["median"] > 0 and by_name["teacher"]["speedup"]["median"] == 1
    assert by_name["static"]["parameters"] < by_name["teacher"]["parameters"]
    assert {"report.html", "report.md", "quality.png"} <= {path.name for path in report.path.iterdir()}
    assert report.manifest.verdict == found["verdict"] and "Its twin" in found["verdict"]
    assert found["verdict"].endswith("was imported, and what it learned from is not recorded.")


@pytest.mark.slow
def test_what_is_kept_is_the_share_of_the_teachers_hits_on_the_same_rows(compared):
    teacher, _, _, report = compared
    found = {one["name"]: one for one in json.loads((report / "results.json").read_text())["models"]}
    student = Artifact.open(report.manifest.details["students"]["static"], report.root)
    hits = []
    for one in (student, teacher):
        table = pq.read_table(one / "predictions.parquet")
        hits.append((np.array(table["label"].to_pylist()) == np.array(table["predicted"].to_pylist())).mean())
    assert found["static"]["kept"]["value"] == pytest.approx(hits[0] / hits[1])
    assert found["static"]["kept"]["error"] >= 0 and found["teacher"]["kept"] is None


@pytest.mark.slow
def test_the_same_call_again_is_the_same_report(compared):
    teacher, films, few, report = compared
    assert compare_students(teacher, films, few) == report


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (CompareStudents(students=()), "^there is no student to compare; give students at least one of layers, narrow and static$"),
        (CompareStudents(distil=Distil(student="narrow")), "^distil.student is decided by the comparison; leave it out$"),
        (CompareStudents(distil=Distil(twin=False)), "^distil.twin is decided by the comparison; leave it out$"),
        (CompareStudents(distil=Distil(soft=0, vectors=0, labels=1)), "^nothing of the teacher's answers counts, so all"),
        (CompareStudents(distil=Distil(steps=0)), "^distil.steps is decided by the comparison; leave it out$"),
    ],
)
def test_what_the_comparison_decides_is_refused(taught, settings, words):
    with pytest.raises(UserError, match=words):
        compare_students(*taught, settings)


def model(name, kept, speed, role="student", error=0.005):
    share = {"value": kept, "error": error}
    return {"name": name, "title": f"the {name} kind", "role": role, "kept": share, "speedup": {"median": speed}}


MODELS = [
    {"name": "teacher", "role": "teacher", "kept": None, "speedup": {"median": 1.0}},
    model("layers", 0.99, 2.0),
    model("layers-twin", 0.9, 2.0, "control"),
    model("narrow", 0.975, 10.0),
    model("narrow-twin", 0.97, 10.0, "control"),
    model("static", 0.9, 200.0),
    model("static-twin", 0.8, 200.0, "control"),
]


def test_the_fastest_student_that_keeps_enough_is_recommended():
    assert recommended(MODELS, 0.97) == "narrow" and recommended(MODELS, 0.98) == "layers"
    assert recommended(MODELS, 0.995) is None and recommended(MODELS, 0.5) == "static"


def test_the_clock_of_another_run_does_not_change_which_student_is_recommended():
    def among(layers, narrow):
        return recommended([model("layers", 0.99, layers), model("narrow", 0.98, narrow), model("static", 0.9, 200.0)], 0.97)

    assert among(4.0, 3.8) == among(3.8, 4.0) == among(5.0, 3.4) == "narrow" and among(5.0, 3.3) == "layers"


def test_a_verdict_says_what_the_twin_keeps_and_whether_the_teacher_helped():
    said = sentence(MODELS, "layers", "accuracy", 0.98)
    assert said == (
        "The student of the layers kind keeps 99.0 ± 0.5 % of the teacher's accuracy at 2 times its speed on one core. "
        "Its twin, which learned without the teacher, keeps 90.0 ± 0.5 %."
    )
    assert sentence(MODELS, "narrow", "accuracy", 0.97).endswith("no clear difference: the teacher may have brought nothing.")
    none = sentence(MODELS, None, "accuracy", 0.995)
    assert none.startswith("No student keeps 99.5 %: the nearest, of the layers kind, keeps 99.0 ± 0.5 %")


def test_settings_as_options_are_those_that_are_not_as_usual():
    training = Training(batch_size=32, layer_rates=("first=0.1", "token*=0"))
    said = as_options(Distil(student="narrow", copies=10, twin=False, training=training), Distil())
    rates = "--training.layer-rates first=0.1 --training.layer-rates 'token*=0'"
    assert said == f"--student narrow --copies 10 --no-twin --training.batch-size 32 {rates}"
    assert as_options(Distil(), Distil()) == ""
