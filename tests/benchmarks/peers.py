"""What others make of the same files, each in an environment of its own: a process that is told by lines when to do it.

`python peers.py KIND FILES MODEL` loads its model, says `ready`, and for each line on standard input reads the files, makes
their vectors and says how many seconds that took; a line that is a path also gets the vectors, as a .npy file. Nothing of
embedkit is imported here.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np

LENGTH = 256
SIDE = 224


def texts_of(path):
    return [json.loads(line)["text"] for line in Path(path).open()]


def sentence_transformers(path, model, backend, number_type, batch):
    import torch
    from sentence_transformers import SentenceTransformer

    options = {"model_kwargs": {"torch_dtype": torch.bfloat16}} if number_type == "bfloat16" else {}
    loaded = SentenceTransformer(model, backend=backend, device="cpu", **options)
    loaded.max_seq_length = LENGTH
    return lambda: loaded.encode(texts_of(path), batch_size=batch, convert_to_numpy=True).astype(np.float32)


def onnxruntime(path, model, batch):
    """As fastembed does it: the graph in onnxruntime, batches in the order of the texts, mean over tokens, unit length."""
    import onnxruntime
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(f"{model}/tokenizer.json")
    tokenizer.enable_truncation(LENGTH)
    tokenizer.enable_padding()
    session = onnxruntime.InferenceSession(f"{model}/onnx/model.onnx", providers=["CPUExecutionProvider"])
    wanted = {given.name for given in session.get_inputs()}

    def embed():
        texts, found = texts_of(path), []
        for start in range(0, len(texts), batch):
            encoded = tokenizer.encode_batch(texts[start : start + batch])
            ids, mask = (np.array([getattr(one, name) for one in encoded], np.int64) for name in ("ids", "attention_mask"))
            inputs = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
            states = session.run(None, {name: inputs[name] for name in wanted})[0]
            vectors = (states * mask[..., None]).sum(axis=1) / mask.sum(axis=1, keepdims=True)
            found.append(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
        return np.concatenate(found).astype(np.float32)

    return embed


def keras_directory(folder, weights):
    """Keras's own way: `predict` on `image_dataset_from_directory`."""
    import keras

    network = keras.applications.MobileNetV2(
        input_shape=(SIDE, SIDE, 3), alpha=0.35, include_top=False, weights=weights, pooling="avg"
    )

    def embed():
        rows = keras.utils.image_dataset_from_directory(
            folder, image_size=(SIDE, SIDE), batch_size=32, shuffle=False, verbose=False
        )
        ready = rows.map(lambda pixels, _: keras.applications.mobilenet_v2.preprocess_input(pixels), num_parallel_calls=-1)
        return network.predict(ready.prefetch(2), verbose=0)

    return embed


def torch_photos(folder, weights):
    """As timm's loaders do it: Pillow in worker processes, batches of 32, torchvision's MobileNetV2 at a width of 0.35."""
    import torch
    import torchvision
    from torchvision import transforms

    network = torchvision.models.mobilenet_v2(width_mult=0.35).features.eval()  # random weights: speed alone
    steps = [transforms.Resize((SIDE, SIDE)), transforms.ToTensor(), transforms.Normalize([0.5] * 3, [0.5] * 3)]
    rows = torchvision.datasets.ImageFolder(folder, transforms.Compose(steps))

    def embed():
        loader = torch.utils.data.DataLoader(rows, batch_size=32, num_workers=2)
        with torch.inference_mode():
            return np.concatenate([network(pixels).mean(dim=(2, 3)).numpy() for pixels, _ in loader])

    return embed


KINDS = {
    "st-32": lambda files, model: sentence_transformers(files, model, "torch", "float32", 32),
    "st-bfloat16-32": lambda files, model: sentence_transformers(files, model, "torch", "bfloat16", 32),
    "st-bfloat16-64": lambda files, model: sentence_transformers(files, model, "torch", "bfloat16", 64),
    "st-onnx-32": lambda files, model: sentence_transformers(files, model, "onnx", "float32", 32),
    "st-openvino-32": lambda files, model: sentence_transformers(files, model, "openvino", "float32", 32),
    "onnxruntime-32": lambda files, model: onnxruntime(files, model, 32),
    "keras-directory": keras_directory,
    "torch-photos": torch_photos,
}


def main():
    kind, files, model = sys.argv[1:]
    embed = KINDS[kind](files, model)
    print("ready", flush=True)
    for line in sys.stdin:
        start = time.perf_counter()
        vectors = embed()
        seconds = time.perf_counter() - start
        if line.strip():
            np.save(line.strip(), vectors)
        print(f"seconds {seconds}", flush=True)


if __name__ == "__main__":
    main()
