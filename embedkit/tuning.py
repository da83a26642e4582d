"""Tuning: an encoder and a head on it learn together. Settings, the joint network, and one run of a recipe.

Linear probe, then fine-tune (LP-FT; Kumar et al. 2022, arXiv:2202.10054): a head is trained on the frozen vectors first,
so that the encoder isn't bent by a head that knows nothing yet. The joint network is the encoder, its vectors scaled to mean
0 and mean variance 1, dropout, and one dense layer.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from embedkit import adaptation, augmentation, checkpoints, engines
from embedkit.encoders import Encoder
from embedkit.lessons import Balance, LearnLabels, Lesson, TrainHead, problem_of
from embedkit.pipelines import ImageFeed, TextFeed
from embedkit.preparation import Prepared
from embedkit.settings import UserError
from embedkit.tasks import Task
from embedkit.training import Problem, Rows, Trainer, Training, fit, resolve

Recipe = Literal["lp-ft", "full", "adapter", "scratch"]
RATES = {"lp-ft": 2e-4, "full": 4e-4, "adapter": 1e-3, "scratch": 3e-4}
"""Learning rates of AdamW for the last layer: of a few that were tried on trec, sst2 and hymenoptera, those that did best;
the range test finds another where `training.learning_rate` is `auto`."""
HEAD_RATES = {"full": 10.0}
STEPS, EPOCHS = 300, (5, 40)
"""Steps that a run has by default, within so many epochs: small sets need more passes."""
PROBE_EPOCHS = 200
SCALED_BY = 2048
"""Training rows whose vectors the scaling is taken from at most."""


class FineTune(LearnLabels):
    """How an encoder and a classifier on it learn together."""

    recipe: Recipe = "lp-ft"
    """Train a linear head on the frozen encoder, then all of it (Kumar et al. 2022, arXiv:2202.10054); all of it from the
    start; a linear head, then low-rank additions to the encoder's kernels (LoRA; Hu et al. 2022, arXiv:2106.09685); or the same
    network from random first weights."""
    frozen: NonNegativeInt | str = 0
    """First layers that stay as they are: their number, the name of the last of them (`embedkit layers ENCODER` lists them), or
    `auto`, which unfreezes from the last quarter of the layers on as long as validation rows gain (Howard and Ruder 2018,
    arXiv:1801.06146)."""
    first_layer_rate: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Learning rate of the first layer as a share of the last one's, such as 0.1; those between fall geometrically (Howard and
    Ruder 2018)."""
    head_rate: PositiveFloat | None = None
    """Learning rate of the head, times that of the encoder's last layer; by default 10 for `full`, whose head starts from
    nothing on an encoder that doesn't, and else 1."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of a vector's numbers that the head doesn't see in a training step."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of each label that is spread over all classes (Szegedy et al. 2016, arXiv:1512.00567)."""
    adapter_rank: PositiveInt = 8
    """Rank of the additions that the adapter recipe trains."""
    augment: augmentation.Images = ("none",)
    """How training pictures are changed: `none`, `light`, `strong`, or names of single changes."""
    cut_mix: NonNegativeFloat = 0.0
    """Put pieces of pictures into others, sizes drawn from Beta(cut_mix, cut_mix) (Yun et al. 2019, arXiv:1905.04899); 0 puts
    none."""
    word_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of a training text's tokens that become unknown (Iyyer et al. 2015)."""


@dataclass
class Joint:
    """An encoder with a head on it: `logits` is the whole up to the outputs before softmax or sigmoid."""

    encoder: Any
    logits: Any

    @property
    def scaling(self) -> Any:
        """The layer that scales vectors; its weights are their means and one variance."""
        return self.logits.get_layer("head_scaling")

    @property
    def outputs(self) -> Any:
        """The last layer."""
        return self.logits.get_layer("head_outputs")


def _head(vectors: Any, task: Task, dropout: float) -> Any:
    import keras

    # Batch normalisation that is not trained is a scaling whose numbers are weights, so that a traced step outlives them.
    scaling = keras.layers.BatchNormalization(center=False, scale=False, epsilon=1e-12, trainable=False, name="head_scaling")
    x = keras.layers.Dropout(dropout, name="head_dropout")(scaling(vectors))
    return keras.layers.Dense(task.outputs, kernel_initializer="zeros", name="head_outputs")(x)


def join(encoder: Any, task: Task, dropout: float) -> Joint:
    """An encoder's model with an untrained head on it."""
    import keras

    return Joint(encoder, keras.Model(encoder.input, _head(encoder.output, task, dropout), name="logits"))


def head_of(joint: Joint, task: Task) -> Any:
    """The head alone, from vectors to probabilities, or numbers in the label's unit."""
    import keras

    vectors: Any = keras.Input((int(joint.encoder.output.shape[-1]),), name="vectors")       # (rows, dimension)
    outputs = _head(vectors, task, 0.0)
    if task.kind == "number":
        last: Any = keras.layers.Rescaling(task.scale, task.location, name="in_units")
    else:
        last = keras.layers.Activation("softmax" if task.kind == "class" else "sigmoid", name="probabilities")
    head: Any = keras.Model(vectors, last(outputs), name="head")
    for name in ("head_scaling", "head_outputs"):
        head.get_layer(name).set_weights(joint.logits.get_layer(name).get_weights())
    return head


class Tuner:
    """An encoder ready to learn by one recipe, as often as one likes: each run begins at first weights of its own.

    Args:
        loaded: the encoder.
        task: what to predict.
        settings: how; their recipe decides what moves.
        frozen: how many of the first layers stay.
    """

    def __init__(self, loaded: Encoder, task: Task, settings: FineTune, frozen: int = 0):
        self.loaded, self.task, self.settings = loaded, task, settings
        scratch = settings.recipe == "scratch"
        encoder = adaptation.copy_of(loaded.model, settings.seed if scratch else None)
        for layer in encoder._flatten_layers():  # a file may say otherwise of its layers, but here the settings decide
            layer.trainable = True
        if not encoder.trainable_variables:
            raise UserError(f"{loaded.name} has no weights that could move; train a head on its vectors instead")
        (adaptation.quicken_statistics if scratch else adaptation.keep_statistics)(encoder)
        self.movable = adaptation.movable(encoder)
        adaptation.freeze(self.movable, frozen)
        if settings.recipe == "adapter":
            adaptation.add_adapters(encoder, settings.adapter_rank, settings.seed)
        self.joint = join(encoder, task, settings.dropout)
        head_rate = settings.head_rate or HEAD_RATES.get(settings.recipe, 1.0)
        self.factor = _factor(encoder, 1.0 if scratch else settings.first_layer_rate, head_rate)
        self.augment, self.state = _augment(loaded, task, settings)
        self.first = checkpoints.values([*self.joint.logits.variables, *self.state])
        self.trainer: Trainer | None = None
        self._forward: Any = None

    def begin(self, lesson: Lesson, balance: Balance, seed: int) -> None:
        """Set first weights: the encoder's own or random ones, the scaling of its vectors, a head that predicts the prior.

        Args:
            lesson: its `inputs` are the vectors that the encoder gives at these weights.
            balance: of its classes.
            seed: of what is random.
        """
        recipe, encoder = self.settings.recipe, self.joint.encoder
        checkpoints.assign([*self.joint.logits.variables, *self.state], self.first)
        if recipe == "scratch" and seed != self.settings.seed:
            checkpoints.assign(encoder.variables, checkpoints.values(adaptation.copy_of(self.loaded.model, seed).variables))
        if recipe == "adapter":
            adaptation.draw_adapters(encoder, seed)
        known = lesson.inputs[lesson.train[:SCALED_BY]]
        center, variance = known.mean(axis=0), float(known.var(axis=0).mean()) or 1.0
        self.joint.scaling.set_weights([center, np.full_like(center, variance)])
        bias = self.task.bias(balance.seen, len(lesson.train)).astype(np.float32)
        self.joint.outputs.set_weights([np.zeros((len(center), self.task.outputs), np.float32), bias])

    def probe(self, lesson: Lesson, seed: int, folder: Path | None) -> None:
        """Train a linear head on the frozen vectors, and take it as the joint network's."""
        settings = Training(batch_size=self.settings.training.batch_size)
        plain = lesson.settings.model_copy(update={"mixup": 0.0})
        _, logits, problem, _ = problem_of(_linear(lesson, plain), seed)
        fit(Trainer(problem, resolve(settings, linear=True, epochs=PROBE_EPOCHS)), seed, folder)
        scale, shift = logits.get_layer("scaling"), self.joint.scaling.get_weights()
        kernel, bias = logits.get_layer("outputs").get_weights()
        spread = np.sqrt(shift[1][0]) * float(scale.scale)  # from our scaling of the vectors to the probe's
        offset = (shift[0] * float(scale.scale) + np.array(scale.offset, np.float32)) @ kernel
        self.joint.outputs.set_weights([kernel * spread, bias + offset])

    def problem(self, lesson: Lesson, prepared: Prepared, balance: Balance, order: Any = None) -> Problem:
        """What is to be learned; `order` gives the places of each epoch where the balance doesn't."""
        task, settings = self.task, self.settings
        targets = task.targets

        def rows(part: np.ndarray, **more: Any) -> Rows:
            def batch(chosen: np.ndarray) -> tuple[Any, np.ndarray]:
                return prepared.batch(part[chosen]), targets[part[chosen]]

            return Rows(len(part), batch, lesson.ids[part], signature=prepared.signature(targets), **more)

        begins_at_prior = settings.recipe in ("full", "scratch") and not settings.rebalance and not settings.label_smoothing
        return Problem(
            self.joint.logits,
            task.loss(settings.label_smoothing),
            rows(lesson.train, weights=balance.weights, order=balance.order or order),
            rows(lesson.validation, weights=balance.held),
            augment=self.augment,
            state=self.state,
            scores=task.scores(lesson.validation),
            expected=task.entropy(lesson.train, balance.seen) if begins_at_prior else None,
            factor=self.factor,
            keep_start=settings.recipe in ("lp-ft", "adapter"),
        )

    def ready(self, problem: Problem, training: Training) -> Trainer:
        """A trainer at the joint network's present weights; its traced steps are those of the last run."""
        if self.trainer is None:
            self.trainer = Trainer(problem, training)
        else:
            self.trainer.settings = training
            self.trainer.restart(problem, checkpoints.values(problem.model.variables))
        return self.trainer

    def forward(self) -> Any:
        """The joint network at its present weights, from inputs to outputs; traced once."""
        if self._forward is None:
            self._forward = engines.forward(self.joint.logits)
        return self._forward

    def plain(self) -> Any:
        """The encoder as it is now, without additions."""
        found = adaptation.copy_of(self.loaded.model)
        adaptation.merge(self.joint.encoder, found)
        return found


def training_of(settings: FineTune, rows: int) -> Training:
    """The training settings of a recipe for so many training rows, resolved."""
    asked = settings.training
    asked = asked.model_copy(update={"schedule": "cosine" if asked.schedule == "auto" else asked.schedule})
    epochs = int(np.clip(-(-STEPS // -(-rows // asked.batch_size)), *EPOCHS))
    return resolve(asked, linear=False, epochs=epochs, rate=RATES[settings.recipe])


def _linear(lesson: Lesson, settings: Any) -> Lesson:
    shared = {name: getattr(settings, name) for name in LearnLabels.model_fields}
    return replace(lesson, settings=TrainHead(**shared), hidden=())


def _factor(encoder: Any, first_layer_rate: float, head_rate: float) -> Any:
    rates = adaptation.rates(encoder, first_layer_rate)
    return lambda path: head_rate if path.split("/")[0] == "head_outputs" else rates(path)


def _augment(loaded: Encoder, task: Task, settings: FineTune) -> tuple[Any, list[Any]]:
    """What is done to training rows inside the step, and the state of its random generators.

    Raises:
        UserError: when the settings ask for what the encoder's rows don't have.
    """
    import keras

    images, texts = isinstance(loaded.feed, ImageFeed), isinstance(loaded.feed, TextFeed)
    layers = augmentation.layers(settings.augment, settings.seed)
    for name, asked, fits in (
        ("augment", layers, images),
        ("cut_mix", settings.cut_mix, images and task.kind == "class"),
        ("mixup", settings.mixup, images and task.kind == "class"),
        ("word_dropout", settings.word_dropout, texts),
    ):
        if asked and not fits:
            mixed = images and name in ("cut_mix", "mixup")
            what = f"the {loaded.facts.modality} of {loaded.name}" + (" with such labels" if mixed else "")
            raise UserError(f"{name} is not for {what}; leave it out")
    if settings.label_smoothing and task.kind == "number":
        raise UserError("label_smoothing is for classes, but the labels are numbers; leave it out")
    if settings.cut_mix and "weights" in settings.rebalance:
        raise UserError("mixed rows have no weight of their own; take oversample instead of weights, or leave cut_mix out")
    if not layers and not (settings.cut_mix or settings.mixup or settings.word_dropout):
        return None, []
    generator = keras.random.SeedGenerator(settings.seed)
    words: Any = _word_dropper(loaded.feed, settings.word_dropout, generator) if isinstance(loaded.feed, TextFeed) else None

    def augment(inputs: Any, targets: Any) -> tuple[Any, Any]:
        if words:
            return words(inputs), targets
        inputs = augmentation.apply(layers, inputs)
        if settings.cut_mix:
            inputs, targets = augmentation.cut_mix(inputs, _shares(targets, task), settings.cut_mix, generator)
        if settings.mixup:
            inputs, targets = augmentation.mix_up(inputs, _shares(targets, task), settings.mixup, generator)
        return inputs, targets

    return augment, [*(variable for layer in layers for variable in layer.variables), generator.state]


def _shares(targets: Any, task: Task) -> Any:
    from keras import ops

    return targets if len(targets.shape) == 2 else ops.one_hot(targets, task.outputs)


def _word_dropper(feed: TextFeed, share: float, generator: Any) -> Any:
    names = ("[UNK]", "<unk>", "[CLS]", "[SEP]", "[PAD]", "<s>", "</s>", "<pad>", "[MASK]", "<mask>")
    known = {name: feed.tokenizer.token_to_id(name) for name in names}
    special = [number for name, number in known.items() if number is not None and name not in ("[UNK]", "<unk>")]
    unknown = next((known[name] for name in ("[UNK]", "<unk>") if known[name] is not None), None)
    if unknown is None:
        raise UserError("this encoder's tokenizer has no token for unknown words, which word_dropout puts in; leave it out")

    def drop(inputs: Any) -> Any:
        ids = augmentation.drop_words(inputs["token_ids"], inputs["padding_mask"], share, unknown, special, generator)
        return inputs | {"token_ids": ids}

    return drop
