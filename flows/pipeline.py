"""The whole chain as one flow: unlabelled pictures become an encoder, its vectors a classifier and an index."""

import embedkit
from embedkit.artifacts import Artifact
from embedkit.autoencoder import PretrainAutoencoder
from embedkit.controls import MakeControl
from embedkit.datasets import LoadImages
from embedkit.embedding import Embed
from embedkit.heads import TrainHead
from embedkit.index import BuildIndex
from flows.steps import artifact_flow, step

CONTROLS = ("pixels", "pca", "random")


@artifact_flow
def pipeline(
    source: str = "builtin:digits",
    load: LoadImages = LoadImages(),
    autoencoder: PretrainAutoencoder = PretrainAutoencoder(),
    embed: Embed = Embed(),
    head: TrainHead = TrainHead(),
    index: BuildIndex = BuildIndex(),
) -> list[Artifact]:
    """Learn an encoder from pictures, train a head on its vectors and index them; the same head on each control beside it.

    Args:
        source: pictures: a folder, a Parquet file, a hub's name or builtin:digits.
        load: how they become a dataset.
        autoencoder: how the encoder learns.
        embed: how rows become vectors.
        head: how vectors become a classifier; give labels_per_class to see what few labels do.
        index: how vectors are indexed.
    """
    pictures = step(embedkit.load_images)(source, load)
    encoders = [step(embedkit.pretrain_autoencoder)(pictures, autoencoder)]
    for control in CONTROLS:
        like = MakeControl(control=control, network=autoencoder.network, seed=autoencoder.seed)
        encoders.append(step(embedkit.make_control)(pictures, like))
    vectors = [step(embedkit.embed)(pictures, encoder, embed) for encoder in encoders]
    heads = [step(embedkit.train_head)(of, head) for of in vectors]
    return [pictures, *encoders, *vectors, *heads, step(embedkit.build_index)(vectors[0], index)]
