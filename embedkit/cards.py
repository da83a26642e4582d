"""Cards: what an encoder or a classifier is, as a page that people read beside it, in the form of the Hugging Face Hub.

A card is `README.md` in the artifact's folder: Markdown below a header of YAML. It says what the manifest says, and of that
only what repeats with the call: no time, no version, no path, no machine, so that its bytes repeat as those of every file do.
Nothing in it is particular to a stage. Names, labels and notes may be anyone's: none gets into the text but through `escaping`,
none into the header but in quotes.
"""

import json
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from embedkit import escaping
from embedkit.artifacts import Artifact, Manifest, Metric, parse_reference
from embedkit.settings import UserError

CARD = "README.md"
KINDS = ("encoder", "classifier")
"""Kinds of artifact that get a card."""
ROWS = {"images": "a picture", "texts": "a text", "table": "a row of a table"}
"""Kinds of dataset, and what an encoder for one turns into a vector."""
EXAMPLES = {"images": '["a.jpg", "b.png"]', "texts": '["a text", "another"]'}
GIVEN = {"images": "a.jpg FOLDER", "texts": '"a text" FILE.csv', "table": "FILE.csv"}
TASKS = {"images": "image", "texts": "text", "table": "tabular"}
NOT_ON_THE_HUB = ("image-regression", "text-regression")
"""Tasks that the Hub has no name for; a header that named one as its own would be refused."""
MEASURES = {
    "accuracy": "share of the rows whose class is right",
    "balanced_accuracy": "share that is right within a class, the mean over the classes",
    "macro_f1": "F1, the mean over the classes or labels",
    "micro_f1": "F1 over all labels of all rows together",
    "exact_match": "share of the rows of which every label is right",
    "auroc": "area under the ROC curve, 0.5 by chance",
    "auprc": "area under the precision-recall curve",
    "log_loss": "-log of the probability of what is true, in nats; less is better",
    "brier": "squared distance of the probabilities from what is true; less is better",
    "ece": "how far probabilities are from the shares that came true; less is better",
    "rmse": "root mean square error, in the unit of the label; less is better",
    "mae": "mean absolute error, in the unit of the label; less is better",
    "r2": "share of the variance that is explained",
    "mse": "mean square error; less is better",
    "similarity": "rank correlation of the similarities of pairs of rows with the teacher's; 1 is the same order",
    "agreement": "share of the rows on which it decides as its teacher does",
    "fitted_mae": "mean absolute error on the rows that were learned; less is better",
    "fitted_worst_error": "largest absolute error on the rows that were learned; less is better",
}
BESIDE = {
    "guessing": "control: guessing from the training labels alone",
    "pca": "control: as many principal components",
    "mean_picture": "control: the mean picture",
    "teacher": "its teacher",
    "twin": "control: a network of the same size that learned without the teacher",
    "clear": "of the rows that aren't neutral only",
}
"""What stands beside a measure, by the first part of its name."""
HUB_METRICS = {"macro_f1": "f1", "micro_f1": "f1", "auroc": "roc_auc", "r2": "r_squared"}
"""What the Hub calls a measure, where it has another name for it."""
MOST_CLASSES = 20
LONGEST = 500
TIMED = re.compile(r"\d (ms|s|min|h)\b")
"""Found in notes that hold a time of one run, which the next one won't repeat; they are left to the manifest."""


def card(manifest: Manifest, made_from: Sequence[Manifest] = ()) -> str:
    """The card of an encoder or a classifier.

    Args:
        manifest: of the artifact, finished but for its files, version and times.
        made_from: of what it was made from, as `lineage` gives it.
    """
    facts = _encoder(manifest, made_from)
    dataset = next((each for each in made_from if each.kind in ROWS), None)
    modality = facts.get("modality") or (dataset.kind if dataset else None)
    parts = [
        ["---", *_yaml(_header(manifest, made_from, facts, modality, dataset)), "---"],
        [f"# {_reference(manifest)}", "", *_described(manifest, facts, modality)],
        ["## How to use it", "", *_usage(manifest, modality)],
        ["## What was measured", "", *_measured(manifest)],
        ["## What it was made from", "", *_origin(manifest, made_from)],
        ["## Limits", "", *_limits(manifest, made_from)],
        ["## How to check it", "", *_checks(manifest)],
    ]
    return "\n\n".join("\n".join(lines) for lines in parts) + "\n"


def lineage(inputs: Iterable[Artifact]) -> list[Manifest]:
    """The manifests of inputs and of all that they were made from, nearest first, each once, as far as it is still there."""
    found, queue = {}, list(inputs)
    while queue:
        artifact = queue.pop(0)
        if str(artifact) not in found:
            found[str(artifact)] = artifact.manifest
            try:
                queue.extend(artifact.inputs.values())
            except UserError:
                continue
    return list(found.values())


def plain(text: Any) -> str:
    """A text for Markdown as `escaping` gives it, of at most LONGEST signs."""
    line = " ".join(str(text).split())
    return escaping.plain(line if len(line) <= LONGEST else line[: LONGEST - 1].rstrip() + "…")


def literal(text: Any) -> str:
    """A name as `escaping` gives it, of at most LONGEST signs."""
    return escaping.literal(text) if len(str(text)) <= LONGEST else plain(text)


def _reference(manifest: Manifest) -> str:
    return literal(f"{manifest.kind}/{manifest.name}")


def _encoder(manifest: Manifest, made_from: Sequence[Manifest]) -> dict[str, Any]:
    """What is known of the artifact's encoder: its own details, or those of the encoder whose vectors a classifier takes."""
    if manifest.kind == "encoder" or "identity" in manifest.details:
        return manifest.details
    identity = manifest.details.get("encoder")
    found = next((each for each in made_from if identity and each.details.get("identity") == identity), None)
    return found.details | {"reference": _reference(found)} if found else {}


# The header


def _header(
    manifest: Manifest, made_from: Sequence[Manifest], facts: dict[str, Any], modality: str | None, dataset: Manifest | None
) -> dict[str, Any]:
    task = _task(manifest, modality)
    found: dict[str, Any] = {"library_name": "embedkit"}
    if manifest.kind == "classifier":
        found |= {"pipeline_tag": task} if task and task not in NOT_ON_THE_HUB else {}
    elif modality in ("texts", "images"):
        of_texts = "sentence-similarity" if facts.get("normalised") else "feature-extraction"
        found["pipeline_tag"] = of_texts if modality == "texts" else "image-feature-extraction"
    found["tags"] = ["embedkit", "keras", "embeddings" if manifest.kind == "encoder" else "classifier"]
    networks = _hub_names(each for each in (manifest, *made_from) if each.kind in KINDS)
    datasets = _hub_names(each for each in made_from if each.kind in ROWS)
    found |= {"base_model": networks[0] if len(networks) == 1 else networks} if networks else {}
    found |= {"datasets": datasets} if datasets else {}
    measures = [
        {"type": HUB_METRICS.get(name, name), "name": name, "value": metric.value}
        for name, metric in manifest.metrics.items()
        if f"guessing_{name}" in manifest.metrics and not name.startswith("fitted_") and math.isfinite(metric.value)
    ]
    if manifest.kind == "classifier" and task and dataset and measures:
        name = f"{dataset.kind}/{dataset.name}"
        result = {"task": {"type": task}, "dataset": {"type": name, "name": name, "split": "test"}, "metrics": measures}
        found["model-index"] = [{"name": manifest.name, "results": [result]}]
    return found


def _task(manifest: Manifest, modality: str | None) -> str | None:
    kind = "regression" if manifest.details.get("type") == "number" else "classification"
    return f"{TASKS[modality]}-{kind}" if modality in TASKS else None


def _hub_names(manifests: Iterable[Manifest]) -> list[str]:
    """Names on the Hugging Face Hub of what artifacts came from, each once."""
    texts = (str((each.source or {}).get("text")) for each in manifests)
    found = (re.fullmatch(r"hf://([\w.-]+(?:/[\w.-]+)?)(?:@.*)?", text) for text in texts)
    return list(dict.fromkeys(match[1] for match in found if match))


def _yaml(value: Any) -> Iterator[str]:
    """Lines of YAML: mappings and lists in blocks, texts as JSON strings, so that none is taken for anything else."""
    if not isinstance(value, dict | list):
        yield _scalar(value)
    elif isinstance(value, list):
        for item in value:
            first, *rest = _yaml(item)
            yield f"- {first}"
            yield from (f"  {line}" for line in rest)
    else:
        for key, inner in value.items():
            if isinstance(inner, dict | list):
                yield f"{key}:"
                yield from (f"  {line}" for line in _yaml(inner))
            else:
                yield f"{key}: {_scalar(inner)}"


def _scalar(value: Any) -> str:
    if isinstance(value, str):
        return re.sub(r"[^ -~]", lambda sign: f"\\U{ord(sign[0]):08x}", json.dumps(value, ensure_ascii=False))
    return re.sub(r"^(-?\d+)e", r"\1.0e", repr(value))  # YAML 1.1 takes 1e-08 for a text


# The text


def _described(manifest: Manifest, facts: dict[str, Any], modality: str | None) -> list[str]:
    row = ROWS.get(modality or "", "a row")
    if manifest.kind == "encoder":
        return [f"This encoder turns {row}{_vector(facts)}."]
    details, kind = manifest.details, manifest.details.get("type")
    lines = [f"This classifier predicts a number of {row}, in the unit of the labels it learned from."]
    if kind != "number":
        names = details.get("classes") or ["?"]
        what = ("one", "class", "classes") if kind == "class" else ("any", "label", "labels")
        shown = ", ".join(f'"{plain(str(name)[:40])}"' for name in names[:MOST_CLASSES])
        more = f" and {len(names) - MOST_CLASSES:,} more (`classifier.json` has them all)" if len(names) > MOST_CLASSES else ""
        lines = [f"This classifier gives {row} {what[0]} of {len(names):,} {what[1 + (len(names) != 1)]}: {shown}{more}."]
    if details.get("decision"):
        words = "a weight for each class" if kind == "class" else "a threshold for each label"
        lines.append(f"It decides by `decision` in `classifier.json`: {words}, found on validation rows.")
    whose = "Its own encoder, which lies in `encoder/`," if "identity" in details else f"The encoder {facts.get('reference')}"
    return [*lines, f"{whose} turns {row}{_vector(facts)}."] if facts else lines


def _vector(facts: dict[str, Any]) -> str:
    """How an encoder makes a vector, as the end of a sentence."""
    if "dimension" not in facts:
        return " into a vector"
    seen = [f"resized to {plain(facts['height'])} x {plain(facts.get('width'))} pixels"] if facts.get("height") else []
    seen += [f'after the prompt "{plain(facts["prompt"])}"'] if facts.get("prompt") else []
    seen += [f"{facts['maximal_length']:,} tokens at most"] if facts.get("maximal_length") else []
    pooling = facts.get("pooling", "none")
    made = [
        f"layer {literal(facts.get('layer', ''))} of {literal(facts.get('source', ''))}",
        "not pooled" if pooling == "none" else f"pooled by {literal(pooling)}",
    ]
    made += [f"{facts['parameters']:,} weights"] if facts.get("parameters") else []
    scaled = "scaled to length 1" if facts.get("normalised") else "of any length"
    into = f" into a vector of {facts['dimension']:,} numbers, {scaled}: {', '.join(made)}"
    return (f" ({', '.join(seen)})" if seen else "") + into


def _usage(manifest: Manifest, modality: str | None) -> list[str]:
    kind, name = manifest.kind, f"{manifest.kind}/{manifest.name}"
    rows = EXAMPLES.get(modality or "", "rows")
    if kind == "encoder":
        width = manifest.details.get("dimension", "dimension")
        python = ["from embedkit import Encoder", "", f'encoder = Encoder.open("{name}")']
        python += [f"vectors = encoder.encode({rows})  # (rows, {width}) float32, in their order"]
        command = f"embedkit embed {modality or 'texts'}/NAME {name}"
    else:
        python = ["from embedkit import Classifier", "", f'classifier = Classifier.open("{name}")']
        python += [f"for prediction in classifier.predict({rows}):", "    print(prediction.label, prediction.probability)"]
        command = f"embedkit predict {name} {GIVEN.get(modality or '', 'FILE.csv')}"
    lines = [escaping.fenced("\n".join(python), "python"), "", escaping.fenced(command, "sh"), ""]
    lines.append(f"Both look for it at `{name}/<version>/` in the artifact root: `artifacts/`, or `$EMBEDKIT_ARTIFACTS`.")
    if modality == "table":
        lines.append("`rows` are dictionaries of a value by each column's name; `columns.json` of the encoder lists the columns.")
    if kind == "classifier":
        own = "identity" in manifest.details
        needed = "Commands that take an encoder take it too, for its encoder." if own else ""
        lines.append(needed or "It needs what it was made from (below) in the same root, where its encoder lies.")
    return lines


def _measured(manifest: Manifest) -> list[str]:
    lines = [f"**{_sentence(manifest.verdict)}**", ""] if manifest.verdict else []
    if not manifest.metrics:
        return [*lines, "Nothing. What it is worth is measured by `embedkit compare` on a labelled dataset."]
    beside = {name: _base(name, manifest.metrics) for name in manifest.metrics}
    lines += ["Value ± standard error (n: rows).", "", "| measure | measured | beside it |", "|---|---|---|"]
    for name, metric in manifest.metrics.items():
        if not beside[name]:
            others = [f"{literal(one)} {manifest.metrics[one]}" for one, of in beside.items() if of == name]
            lines.append(f"| {literal(name)} | {metric} | {'; '.join(others)} |")
    known = {name: words for name, words in MEASURES.items() if name in manifest.metrics and not beside[name]}
    firsts = {name.removesuffix(f"_{of}") for name, of in beside.items() if of}
    known |= {f"{first}_...": words for first, words in BESIDE.items() if first in firsts}
    return [*lines, "", *(f"- `{name}`: {words}" for name, words in known.items()), *_counted(manifest)]


def _base(name: str, metrics: dict[str, Metric]) -> str | None:
    """The measure that another stands beside: `accuracy` for `guessing_accuracy`; None for a measure of its own."""
    if f"guessing_{name}" in metrics:
        return None
    others = (other for other in metrics if name.endswith(f"_{other}") and _base(other, metrics) is None)
    return max(others, key=len, default=None)


def _counted(manifest: Manifest) -> list[str]:
    used, fitted = manifest.details.get("used"), manifest.details.get("fitted")
    if not used:
        return []
    counts = ", ".join(f"{count:,} {plain(split)}" for split, count in used.items())
    same = " (what stopped it are training rows)" if fitted and used.get("train", 0) + used.get("validation", 0) > fitted else ""
    return ["", f"Rows: {counts}{same}."]


def _origin(manifest: Manifest, made_from: Sequence[Manifest]) -> list[str]:
    lines = [f"Made by {literal(manifest.stage)} (revision {manifest.revision}){_given(manifest)}."]
    fitted = manifest.details.get("fitted")
    if fitted:
        lines.append(f"It learned from {fitted:,} rows; `fitted.parquet` says which, so that none of them is measured on.")
    known = {f"{each.kind}/{each.name}@{each.version}": each for each in made_from}
    direct = [(given.role, given.ref, given.fingerprint) for given in manifest.inputs]
    behind = [("", ref, each.fingerprint) for ref, each in known.items() if ref not in {ref for _, ref, _ in direct}]
    if direct:
        lines += ["", "| input | artifact | fingerprint | made by |", "|---|---|---|---|"]
    for role, ref, fingerprint in (direct + behind) if direct else []:
        made = known.get(ref)
        by = f"{literal(made.stage)}{_given(made)}" if made else ""
        name = "/".join(parse_reference(ref)[:2])
        lines.append(f"| {literal(role) if role else 'behind it'} | {literal(name)} | {literal(fingerprint[:8])} | {by} |")
    settings = json.dumps(manifest.settings, indent=1, ensure_ascii=False)
    return [*lines, "", "Settings, as given and by default:", "", escaping.fenced(settings, "json")]


def _given(manifest: Manifest) -> str:
    """Where an artifact's source is from, by its name where that is the same everywhere, and the first digits of its content."""
    if not manifest.source:
        return ""
    text = str(manifest.source.get("text"))
    name = literal(text) if re.fullmatch(r"builtin:.*|\w+://.*", text) else "local files"
    return f" from {name} (content {literal(str(manifest.source.get('sha256'))[:8])})"


def _limits(manifest: Manifest, made_from: Sequence[Manifest]) -> list[str]:
    lines = [f"- {_sentence(note)}" for note in manifest.notes if not TIMED.search(note)]
    imported = [each for each in (manifest, *made_from) if each.kind in KINDS and each.source]
    if imported:
        lines.append("- What an imported network had learned from before isn't known here; look at its source.")
    sources = [literal(each.details.get("source", each.name)) for each in imported]
    sources += [_reference(each) for each in made_from if each.kind in ROWS]
    whose = f"those of what it came from ({', '.join(dict.fromkeys(sources))})" if sources else "those of what it came from"
    return [*lines, f"- Licences aren't known here. Look at {whose} before you pass it on."]


def _checks(manifest: Manifest) -> list[str]:
    reference = f"{manifest.kind}/{manifest.name}"
    lines = ["```sh", f"embedkit artifacts verify {reference}", f"embedkit artifacts show {reference}", "```", ""]
    lines += ["The first holds every file against its checksum; the second shows what `manifest.json` says beyond this page."]
    if identity := manifest.details.get("identity") or manifest.details.get("encoder"):
        lines += ["", f"Identity of the encoder: {literal(identity)}, a hash of all that decides a vector; its vectors carry it."]
    lines += [
        "The encoder's `canaries.npz` holds inputs and the vectors they had when it was made. Whoever opens the encoder embeds",
        "some of them again, and is refused where they moved.",
    ]
    return lines


def _sentence(text: str) -> str:
    text = plain(text)
    return text[:1].upper() + text[1:]
