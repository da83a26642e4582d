"""Every stage as a flow of its own. The parameters are read from the stage; nothing is restated."""

import inspect
from typing import Any

import embedkit
from embedkit.artifacts import Artifact
from embedkit.stages import OPTIONS, Stage
from flows.steps import ArtifactFlow, artifact_flow, step


def flow_of(stage: Stage) -> ArtifactFlow:
    """A stage as a flow with the stage's own parameters, artifacts as references, and its docstring."""

    def body(*arguments: Any, **named: Any) -> Artifact:
        return step(stage)(*arguments, **named)

    parameters = stage.__signature__.parameters.values()
    shown = [parameter.replace(annotation=str) if parameter.name in stage.inputs else parameter for parameter in parameters]
    shown = [parameter.replace(annotation=str | None) if parameter.name in stage.optional else parameter for parameter in shown]
    body.__name__ = body.__qualname__ = stage.__name__
    body.__doc__ = (stage.body.__doc__ or "").rstrip() + "".join(f"\n        {name}: {help}" for name, help in OPTIONS.items())
    body.__signature__ = inspect.Signature(shown, return_annotation=Artifact)  # pyright: ignore[reportFunctionMemberAccess]
    return artifact_flow(body)


load_images = flow_of(embedkit.load_images)
load_texts = flow_of(embedkit.load_texts)
load_table = flow_of(embedkit.load_table)
import_encoder = flow_of(embedkit.import_encoder)
make_control = flow_of(embedkit.make_control)
pretrain_autoencoder = flow_of(embedkit.pretrain_autoencoder)
learn_categories = flow_of(embedkit.learn_categories)
embed = flow_of(embedkit.embed)
cut_encoder = flow_of(embedkit.cut_encoder)
train_head = flow_of(embedkit.train_head)
fine_tune = flow_of(embedkit.fine_tune)
mask_texts = flow_of(embedkit.mask_texts)
distil = flow_of(embedkit.distil)
compare_students = flow_of(embedkit.compare_students)
compare_categories = flow_of(embedkit.compare_categories)
compare = flow_of(embedkit.compare)
build_index = flow_of(embedkit.build_index)
export = flow_of(embedkit.export)

FLOWS = [
    *(load_images, load_texts, load_table, import_encoder, make_control, pretrain_autoencoder, learn_categories),
    *(cut_encoder, embed, train_head, fine_tune, mask_texts, distil, compare, compare_students, compare_categories),
    *(build_index, export),
]
