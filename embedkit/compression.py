"""compare_students: what small students keep of their teacher, at which speed, each beside its controls.

All are measured on the same test rows, so what is kept is paired by row. Controls are each student's twin, which learned
without the teacher; the student as it starts, such as a teacher with layers dropped; the teacher's vectors cut to a student's
width; and words counted under a linear model. Speeds are those of one core.
"""

import shlex
from typing import Annotated, Any

import numpy as np
import pyarrow.parquet as pq
from pydantic import Field, PositiveFloat, PositiveInt

from embedkit import speeds, students
from embedkit.arms import measure_of, parts_of, words
from embedkit.artifacts import Artifact, EncoderArtifact, Metric, Texts
from embedkit.classifiers import WITHOUT_COPIES
from embedkit.datasets import read_contents, read_rows
from embedkit.distillation import LAYERS, Distil, Kind, Teacher, distil, lesson_of, likeness, standardised, taught
from embedkit.embedding import vectors_of_all
from embedkit.leaks import with_lineage
from embedkit.lessons import Lesson
from embedkit.settings import Seeded, Settings, UserError
from embedkit.stages import Draft, Facts, stage, write_json
from embedkit.students_page import write_report
from embedkit.tasks import MAIN
from embedkit.verdicts import SAME_COST, Judge

AIM = {"kept": 0.97, "speedup": 9.4}
"""TinyBERT's with four layers (Jiao et al. 2020, arXiv:1909.10351): 96.9 % of BERT-base at 9.4 times its speed."""
FASTEST: tuple[Kind, ...] = ("static", "narrow", "layers")
"""Kinds of students, the fastest first as one would guess."""
TITLES = {"layers": "{layers} of its layers", "narrow": "{layers} narrow layers", "static": "static vectors"}


class CompareStudents(Seeded):
    """Which students are made, and what is expected of them."""

    students: tuple[Kind, ...] = ("layers", "narrow", "static")
    """Kinds of students, as `distil` makes them."""
    distil: Distil = Distil()
    """How each learns, where it fits the kind; `student`, `seed` and `twin` are decided here."""
    keep: Annotated[float, Field(gt=0, le=1)] = AIM["kept"]
    """Share of the teacher's quality that a student must keep to be recommended; of those that do the fastest is."""
    timed_rows: PositiveInt = 256
    """Test rows whose answers are timed."""
    aim: PositiveFloat = AIM["speedup"]
    """Times the teacher's speed that is aimed for, drawn into the picture; 9.4 is TinyBERT's with four layers."""


def _called(names: dict[str, str], settings: CompareStudents) -> str:
    return f"{names['teacher']}-students"


@stage("report", revision=1, name=_called, keras=True)
def compare_students(
    out: Draft,
    teacher: EncoderArtifact,
    dataset: Texts,
    settings: CompareStudents = CompareStudents(),
    *,
    unlabelled: Texts | None = None,
) -> Facts:
    """Make students of a teacher, and measure what each keeps of it, at which speed, beside its controls.

    Args:
        teacher: an encoder of texts, or a classifier.
        dataset: texts, with labels where the teacher is a classifier.
        unlabelled: more texts to learn from.
    """
    _refuse(teacher, settings)
    made = {}
    for kind in dict.fromkeys(settings.students):
        wanted = _settings_of(kind, settings)
        student = distil(teacher, dataset, wanted, unlabelled=unlabelled)
        start = distil(teacher, dataset, wanted.model_copy(update={"steps": 0}), unlabelled=unlabelled)
        twin = Artifact.open(student.detail("twin", str), student.root)
        made[kind] = {"student": student, "twin": twin, "untrained": start}
    opened = Teacher.open(teacher)
    rows = read_rows(dataset)
    lesson, _ = lesson_of(opened, dataset, rows, settings.seed)
    vectors = vectors_of_all(dataset, opened.embedder)
    models = _models(opened, dataset, lesson, vectors, made, settings)
    timed = _timed(out, dataset, lesson, [teacher, *(each["student"] for each in made.values())], settings)
    for model, found in zip((one for one in models if one["role"] != "control"), timed, strict=True):
        keys = {"ms_1": "ms_1", "ms_32": "ms_32", "rows_per_second": "texts_per_second", "speedup": "speedup"}
        model |= {name: found[key] for key, name in keys.items()}
    lineage = {"dataset": dataset, "teacher": teacher, "unlabelled": unlabelled}
    found = {
        "title": f"{dataset.manifest.name} from {teacher.manifest.name}",
        "teacher": str(teacher),
        "dataset": str(dataset),
        "measure": MAIN.get(lesson.task.kind, "similarity"),
        "task": "vectors" if opened.classifier is None else lesson.task.kind,
        "rows": {"train": len(lesson.train), "validation": len(lesson.validation), "test": int(_leading(lesson).sum())},
        "models": models,
        "aim": {"kept": settings.keep, "speedup": settings.aim},
        "notes": _notes(lesson, models),
        "settings": settings.model_dump(mode="json"),
        "decisions": out.decisions,
        "lineage": [[str(one), role] for role, one in lineage.items() if one is not None],
    }
    chosen = None if lesson.copies.say_nothing else recommended(models, settings.keep)
    command = f"embedkit distil {teacher} {dataset}" + (f" --unlabelled {unlabelled}" if unlabelled else "")
    command += f" {as_options(_settings_of(chosen, settings), Distil())}" if chosen else ""
    found |= {"recommended": chosen, "command": command if chosen else None}
    said = lesson.copies.verdict(sentence(models, chosen, found["measure"], settings.keep))
    found |= {"verdict": with_lineage(said, teacher, dataset, unlabelled)}
    write_json(out / "results.json", found)
    write_report(out, found)
    return _facts(found, found["rows"]["test"])


def _refuse(teacher: Artifact, settings: CompareStudents) -> None:
    if not settings.students:
        raise UserError("there is no student to compare; give students at least one of layers, narrow and static")
    for name in ("student", "seed", "twin", "steps"):
        value = getattr(settings.distil, name)
        if value != Distil.model_fields[name].default and not (name == "steps" and value):
            raise UserError(f"distil.{name} is decided by the comparison; leave it out")
    if not taught(settings.distil, teacher.manifest.kind):
        raise UserError("nothing of the teacher's answers counts, so all are twins; give distil.soft or distil.vectors a weight")


def _settings_of(kind: Kind, settings: CompareStudents) -> Distil:
    """The settings of one kind, without those that are for others."""
    unfit: dict[str, Any] = {}
    if kind not in LAYERS:
        unfit |= {"layers": None, "hidden": 0.0, "attention": 0.0}
    if kind == "layers":
        unfit |= {"width": None}
    return settings.distil.model_copy(update=unfit | {"student": kind, "seed": settings.seed})


def _models(
    teacher: Teacher,
    dataset: Artifact,
    lesson: Lesson,
    vectors: np.ndarray,
    made: dict[Kind, dict[str, Artifact]],
    settings: CompareStudents,
) -> list[dict[str, Any]]:
    """The teacher, then each student with its controls, then the others, with their quality; speeds are left open."""
    quality = _Quality(teacher, lesson, vectors, settings.seed)
    loaded = teacher.loaded
    size = {"parameters": int(loaded.model.count_params()), "bytes": _bytes(teacher.embedder)}
    whole = teacher.artifact
    found = [_model("teacher", whole.manifest.name, "the teacher itself", "teacher", None, quality.teacher()) | size]
    found[0]["reference"] = str(whole)
    for kind, each in made.items():
        title = TITLES[kind].format(layers=settings.distil.layers or LAYERS.get(kind))
        for which, artifact in each.items():
            what = {
                "student": f"learned from the teacher in {artifact.detail('steps', int):,} steps",
                "twin": "same shape, first weights and steps, without the teacher",
                "untrained": "as it starts, before it learned",
            }[which]
            name = kind if which == "student" else f"{kind}-{which}"
            role, of = ("student", None) if which == "student" else ("control", kind)
            one = _model(name, title if which == "student" else f"{title}, {which}", what, role, of, quality.artifact(artifact))
            one |= {"parameters": artifact.detail("parameters", int), "bytes": _bytes(artifact), "reference": str(artifact)}
            one |= {"seconds_to_train": artifact.manifest.timings.get("training_seconds")}
            found.append(one | {"speed_of": kind if of else None})
    narrow = min(int(each["student"].detail("dimension", int)) for each in made.values())
    if narrow < vectors.shape[1]:
        what = f"the {narrow} main directions of the teacher's vectors, nothing trained"
        cut = quality.cut(students.directions(vectors[lesson.train], narrow))
        found.append(_model("pca", f"teacher cut to {narrow}", what, "control", None, cut) | size | {"speed_of": "teacher"})
    if teacher.classifier is not None:
        texts = np.array(read_contents(dataset, 0, dataset.manifest.rows or 0)["text"].to_pylist(), object)
        trial = words(lesson.task, texts, lesson, settings.seed)
        what = "words and pairs of words, weighed, under a linear model; no network"
        one = _model("words", "TF-IDF + linear", what, "control", None, quality.of(trial.predicted[quality.leading]))
        found.append(one | {"bytes": trial.bytes, "texts_per_second": 1 / trial.per_row, "seconds_to_train": trial.seconds})
    return found


def _model(name: str, title: str, what: str, role: str, of: str | None, quality: dict[str, Any]) -> dict[str, Any]:
    empty = ("parameters", "bytes", "ms_1", "ms_32", "texts_per_second", "speedup", "speed_of", "reference", "seconds_to_train")
    return {"name": name, "title": title, "what": what, "role": role, "of": of} | quality | dict.fromkeys(empty)


def _bytes(artifact: Artifact) -> int:
    """Bytes of the networks and what stands before them, as they lie in the artifact."""
    kept = ("model.keras", "tokenizer.json", "columns.json")
    return sum(file.bytes for file in artifact.manifest.files if file.path.rsplit("/", 1)[-1] in kept)


def _pair(found: Metric) -> dict[str, Any]:
    return {"value": found.value, "error": found.standard_error}


def _leading(lesson: Lesson) -> np.ndarray:
    """Of which test rows is said what a student keeps, (test rows,) bool: those that equal no row which is learned from."""
    return lesson.copies.leading if lesson.copies.count else np.ones(len(lesson.test), bool)


class _Quality:
    """Measures on the test rows, each beside the teacher's."""

    def __init__(self, teacher: Teacher, lesson: Lesson, vectors: np.ndarray, seed: int):
        self.lesson, self.task, self.seed, self.leading = lesson, lesson.task, seed, _leading(lesson)
        self.test = lesson.test[self.leading]
        self.opened, self.vectors = teacher, vectors[self.test]
        self.classifies = teacher.classifier is not None
        if self.classifies:
            self.judge = Judge(self.task, self.test)
            self.said = self.task.predict(standardised(self.task, teacher.outputs(self.vectors)))
            self.parts = parts_of(self.task, self.test, self.said)
            self.resampled = self.judge.resampled(self.parts[None])

    def teacher(self) -> dict[str, Any]:
        """The teacher's own."""
        if not self.classifies:
            return {"value": 1.0, "error": 0.0, "kept": None, "agreement": None, "ece": None, "log_loss": None}
        return self.of(self.said) | {"kept": None, "agreement": None}

    def artifact(self, artifact: Artifact) -> dict[str, Any]:
        """Those of a student, by what it predicted of the test rows, or by its vectors of them."""
        if self.classifies:
            table = pq.read_table(artifact / "predictions.parquet")
            assert np.array_equal(table["id"].to_numpy(), self.lesson.ids[self.lesson.test])
            table = table.filter(self.leading)
            if self.task.kind == "number":
                return self.of(table["predicted"].to_numpy())
            return self.of(np.stack(table["probabilities"].to_numpy(zero_copy_only=False)).astype(np.float64))
        measured = artifact.manifest.metrics
        return self._alike(measured.get(f"similarity{WITHOUT_COPIES}", measured["similarity"]), measured.get("cosine"))

    def cut(self, way: np.ndarray) -> dict[str, Any]:
        """Those of the teacher with vectors of fewer numbers."""
        short = self.vectors @ way @ way.T
        if self.classifies:
            return self.of(self.task.predict(standardised(self.task, self.opened.outputs(short))))
        return self._alike(likeness(short, self.vectors, self.seed)["similarity"], None)

    def _alike(self, similarity: Metric, cosine: Metric | None) -> dict[str, Any]:
        near = _pair(cosine) if cosine else None
        return _pair(similarity) | {"kept": _pair(similarity), "agreement": near, "ece": None, "log_loss": None}

    def of(self, predicted: np.ndarray) -> dict[str, Any]:
        """Measures of predictions: (rows, ...) as `Task.predict` gives them."""
        parts = parts_of(self.task, self.test, predicted)
        resampled = self.judge.resampled(parts[None])
        value, whole = (float(measure_of(self.task, each.sum(axis=0))) for each in (parts, self.parts))
        ratios = self.resampled / np.maximum(resampled, 1e-12) if self.task.kind == "number" else resampled / self.resampled
        share = whole / max(value, 1e-12) if self.task.kind == "number" else value / max(whole, 1e-12)
        others = self.task.measure(self.test, predicted)
        agreement = None if self.task.kind == "number" else _pair(self.task.agreement(predicted, self.said))
        return {
            "value": value,
            "error": float(resampled.std(ddof=1)),
            "kept": {"value": share, "error": float(ratios.std(ddof=1))},
            "agreement": agreement,
            "ece": others["ece"].value if "ece" in others else None,
            "log_loss": others["log_loss"].value if "log_loss" in others else None,
        }


def _timed(
    out: Draft, dataset: Artifact, lesson: Lesson, artifacts: list[Artifact], settings: CompareStudents
) -> list[dict[str, Any]]:
    """Speeds, measured once: a resumed call keeps them."""

    def timed() -> list[dict[str, Any]]:
        some = np.sort(np.random.default_rng(settings.seed).permutation(lesson.test)[: settings.timed_rows])
        texts = read_contents(dataset, 0, dataset.manifest.rows or 0)["text"].take(some).to_pylist()
        return speeds.measure(artifacts, texts)

    return out.decide("speeds", timed)


def recommended(models: list[dict[str, Any]], keep: float) -> Any:
    """The fastest student that keeps enough, of about equally fast ones the first of FASTEST; None where none keeps enough.

    Speeds that differ by less than SAME_COST decide nothing, so that the same call recommends the same whatever its clock said.
    """
    able = {one["name"]: one["speedup"]["median"] for one in models if one["role"] == "student" and one["kept"]["value"] >= keep}
    fast = {name for name, speed in able.items() if SAME_COST * speed >= max(able.values())}
    return next((name for name in FASTEST if name in fast), None)


def as_options(given: Settings, usual: Settings, prefix: str = "") -> str:
    """Settings as a command line gives them: those that are not as usual, groups dotted."""
    words = []
    for name, value in given:
        default, option = getattr(usual, name), f"--{prefix}{name.replace('_', '-')}"
        if isinstance(value, Settings):
            words.append(as_options(value, default, f"{prefix}{name.replace('_', '-')}."))
        elif value != default and isinstance(value, bool):
            words.append(option if value else f"--{prefix}no-{name.replace('_', '-')}")
        elif value != default:
            each = value if isinstance(value, tuple) else (value,)
            words += [f"{option} {shlex.quote(str(one))}" for one in each]
    return " ".join(word for word in words if word)


def sentence(models: list[dict[str, Any]], chosen: str | None, measure: str, keep: float) -> str:
    """The verdict: what is kept, at which speed, and what the twin keeps."""
    made = [one for one in models if one["role"] == "student"]
    one = next((each for each in made if each["name"] == chosen), None) or max(made, key=lambda each: each["kept"]["value"])
    twin = next(each for each in models if each["name"] == f"{one['name']}-twin")
    what = f"the teacher's {measure.replace('_', ' ')}" if measure != "similarity" else "the order of the teacher's similarities"
    said = f"{_share(one)} of {what} at {one['speedup']['median']:.3g} times its speed on one core"
    first = f"The student of {one['title']} keeps {said}."
    if chosen is None:
        first = f"No student keeps {100 * keep:.3g} %: the nearest, of {one['title']}, keeps {said}."
    gain = one["kept"]["value"] - twin["kept"]["value"]
    clear = gain > 2 * np.hypot(one["kept"]["error"], twin["kept"]["error"])
    words = "" if clear else ", no clear difference: the teacher may have brought nothing"
    return f"{first} Its twin, which learned without the teacher, keeps {_share(twin)}{words}."


def _share(one: dict[str, Any]) -> str:
    return f"{100 * one['kept']['value']:.1f} ± {100 * one['kept']['error']:.1f} %"


def _notes(lesson: Lesson, models: list[dict[str, Any]]) -> list[str]:
    found = [*lesson.notes, "the student was chosen by these test rows, so what it keeps flatters it a little"]
    if any(one["name"] == "words" for one in models):
        found.append("TF-IDF was timed in this process on all its test rows at once, not on one core in rounds as the others")
    return found


def _facts(found: dict[str, Any], rows: int) -> Facts:
    """What the manifest says: each model's measure, what it keeps, and its speed; the rest in `results.json`."""
    measured, timings = {}, {}
    for one in found["models"]:
        measured[f"{one['name']}_{found['measure']}"] = Metric(value=one["value"], n=rows, standard_error=one["error"])
        if one["kept"]:
            measured[f"{one['name']}_kept"] = Metric(value=one["kept"]["value"], n=rows, standard_error=one["kept"]["error"])
        if one["speedup"]:
            timings |= {f"{one['name']}_speedup": round(one["speedup"]["median"], 3)}
            timings |= {f"{one['name']}_texts_per_second": round(one["texts_per_second"], 2)}
    details = {key: found[key] for key in ("recommended", "command")}
    details["students"] = {one["name"]: one["reference"] for one in found["models"] if one["reference"]}
    return Facts(rows=rows, metrics=measured, verdict=found["verdict"], notes=found["notes"], details=details, timings=timings)
