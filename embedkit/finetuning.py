"""fine_tune: an encoder and a classifier on it learn from labelled rows together.

The artifact is a classifier like those of `train_head`, whose encoder half (`encoder/`) is an encoder like any other:
`embed`, `fine_tune`, `compare` and `search` take the classifier where they take an encoder. It carries the row ids that it
was fitted on, so that nothing made from it is measured on them.
"""

from typing import Any

import numpy as np

from embedkit import adaptation, checkpoints, engines, frameworks
from embedkit.artifacts import Dataset, EncoderArtifact
from embedkit.classifiers import decision, facts_of, labelled_rows, measures, save_classifier
from embedkit.crossfit import Known
from embedkit.datasets import given_away
from embedkit.encoders import HALF, Encoder, encoder_folder, save_encoder
from embedkit.learning import Learned, check, learn, record
from embedkit.lessons import Lesson, assign, balance
from embedkit.preparation import Prepared
from embedkit.settings import UserError
from embedkit.stages import Draft, Facts, is_kept, keep, stage
from embedkit.trainer import decided, settled
from embedkit.training import Progress, Trainer, fit
from embedkit.tuning import SCALED_BY, FineTune, Tuner, head_of, training_of

PHASES = 4
"""Pieces of the network that gradual unfreezing frees one after the other."""


def _called(names: dict[str, str], settings: FineTune) -> str:
    encoder = names["encoder"].removeprefix(names["dataset"] + "-")  # of one that was learned from this dataset
    return f"{names['dataset']}-{encoder}-{settings.recipe}"


@stage("classifier", revision=1, name=_called, keras=True)
def fine_tune(out: Draft, dataset: Dataset, encoder: EncoderArtifact, settings: FineTune = FineTune()) -> Facts:
    """Train a classifier together with the encoder under it, whose later layers move too.

    Args:
        dataset: images, texts or a table, with labels.
        encoder: an encoder for that kind of rows, or a classifier that was fine-tuned before.
    """
    encoder_folder(encoder)
    modality, kind = encoder.detail("modality", str), dataset.manifest.kind
    if modality != kind:
        raise UserError(f"{encoder} takes {modality}, but {dataset} holds {kind}; give it an encoder for {kind}")
    if "interpolate" in settings.rebalance:
        raise UserError("interpolate makes vectors, not rows of an encoder; take oversample, undersample or weights")
    if settings.recipe in ("adapter", "scratch") and settings.frozen not in (0, "0"):
        raise UserError(f"frozen is for lp-ft and full, but recipe {settings.recipe} decides itself what moves; leave it out")
    rows = labelled_rows(dataset.check(), "fine-tune on that")
    lesson = assign(str(dataset), rows, rows["id"].to_numpy(), np.empty((len(rows), 0)), settings)
    lesson.copies = lesson.copies.beside(rows.take(lesson.test), encoder, dataset)
    lesson.notes += given_away(dataset)
    loaded = Encoder.open(encoder)
    frameworks.start_keras(settings.seed)
    places = np.concatenate([lesson.train, lesson.validation, lesson.test])
    prepared = Prepared(dataset, loaded.feed, places, out.work)
    lesson.inputs = _first_vectors(out, loaded, prepared, lesson, Known.of(rows), settings)

    tuner, learned = _tuned(out, loaded, lesson, prepared, settings)
    joint, task, forward = tuner.joint, lesson.task, tuner.forward()

    def predict(chosen: np.ndarray) -> np.ndarray:
        shown = prepared if np.isin(chosen, places).all() else Prepared(dataset, loaded.feed, chosen, out.work / "others")
        return task.predict(shown.encode(forward, chosen, len(rows))[chosen])

    task.decision = decision(lesson, predict(lesson.validation))
    predicted = predict(lesson.test)
    half = loaded.facts.model_copy(update={"source": f"{loaded.facts.source}, fine-tuned ({settings.recipe})"})
    described = save_encoder(out, tuner.plain(), half, loaded.preprocessing, HALF)
    head = head_of(joint, task)
    details = described | save_classifier(out, lesson, head, described["identity"], learned, lesson.test, predicted)
    found = measures(lesson, predicted)
    made_from = [dataset] if settings.recipe == "scratch" else [encoder, dataset]  # of the encoder it has the shape alone
    return facts_of(out, dataset, lesson, rows, predict, predicted, found, learned, details, made_from)


def _first_vectors(out: Draft, loaded: Encoder, prepared: Prepared, lesson: Lesson, known: Known, settings: FineTune) -> np.ndarray:
    """The vectors that the encoder gives before it moves, (rows, dimension): of all rows that a probe needs, computed once."""
    scratch = settings.recipe == "scratch"
    places = np.concatenate([lesson.train[:SCALED_BY]] if scratch else [lesson.train, lesson.validation])
    path = out.work / "vectors.npy"
    if not is_kept(path):
        if scratch:
            forward = engines.forward(adaptation.copy_of(loaded.model, settings.seed))
            vectors = prepared.encode(forward, places, len(lesson.ids))[places]
        else:
            vectors = prepared.frozen(loaded, known, places)
        checkpoints.save_array(path, vectors)
        keep(path)
    found = np.zeros((len(lesson.ids), loaded.facts.dimension), np.float32)
    found[places] = np.load(path, allow_pickle=False)
    return found


def _tuned(out: Draft, loaded: Encoder, lesson: Lesson, prepared: Prepared, settings: FineTune) -> tuple[Tuner, Learned]:
    """Run the recipe; what was learned is left in the tuner."""
    balanced = balance(lesson, lesson.task.targets[lesson.train])
    gradual = settings.frozen == "auto"
    total = len(adaptation.layers_of(loaded.model))
    frozen = total if gradual else adaptation.frozen_count(loaded.model, _number(settings.frozen))
    tuner = Tuner(loaded, lesson.task, settings, frozen=min(frozen, total - total // PHASES) if gradual else frozen)
    tuner.begin(lesson, balanced, settings.seed)
    if settings.recipe in ("lp-ft", "adapter"):
        tuner.probe(lesson, settings.seed, out.work / "probe")
    training = training_of(settings, len(lesson.train))
    size = len(lesson.train)
    problem = tuner.problem(lesson, prepared, balanced, prepared.order(lesson.train, size, training.batch_size))
    if gradual:
        learned = _gradually(out, tuner, problem, training, total, settings)
    else:
        learned = learn(out, problem, training, settings.seed)
        learned.details["frozen"] = frozen
    balanced.correct(tuner.joint.outputs)
    if problem.keep_start and learned.run.best_epoch == 0:
        what = "the first weights were" if settings.recipe == "full" else "the linear head on the frozen encoder was"
        learned.notes.append(f"moving the encoder brought validation rows nothing: {what} kept")
    if learned.run.start:
        learned.details["start"] = learned.run.start
    return tuner, learned


def _number(frozen: int | str) -> int | str:
    return int(frozen) if isinstance(frozen, str) and frozen.isdecimal() else frozen


def _gradually(out: Draft, tuner: Tuner, problem: Any, training: Any, total: int, settings: FineTune) -> Learned:
    """Free one piece of the network after the other, from the last on, as long as validation rows gain by it."""
    phases, whole, notes, kept = [], Progress(), [], total
    asked = training.model_copy(update={"epochs": -(-training.epochs // PHASES)})
    training = settled(out, asked)
    problem.keep_start = True
    trainer: Any = None
    for phase in range(1, PHASES + 1):
        frozen = total - total * phase // PHASES
        adaptation.freeze(tuner.movable, frozen)
        trainer = Trainer(problem, training)
        if phase == 1:
            notes = check(out, trainer, settings.seed)
            training = trainer.settings
            decided(out, asked)
        run = fit(trainer, settings.seed, out.work / f"checkpoints-{phase}")
        phases.append({"frozen": frozen, "epochs": run.epoch, "best_epoch": run.best_epoch, "start": run.start})
        if run.best_epoch:
            kept, whole.best_epoch = frozen, whole.epoch + run.best_epoch
        for entry in run.history:
            whole.history.append(entry | {"epoch": whole.epoch + entry["epoch"]})
        whole.start = whole.start or run.start
        whole.epoch, whole.step = whole.epoch + run.epoch, whole.step + run.step
        whole.seconds, whole.waited = whole.seconds + run.seconds, whole.waited + run.waited
        if not run.best_epoch:
            break
    learned = record(out, trainer, whole, notes)
    learned.details |= {"frozen": kept, "phases": phases}
    learned.notes.append(f"unfrozen piece by piece: {kept} of {total} layers stayed as they were")
    return learned
