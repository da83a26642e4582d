"""Cards: what the page beside an encoder or a classifier says, that it is true, and that its bytes repeat.

The header is read by the Hub's own library, the text by a Markdown parser, the commands by a shell's rules.
"""

import json
import re
import shlex
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest
import yaml
from conftest import WORDS, write_pictures
from markdown_it import MarkdownIt

from embedkit import (
    Artifact,
    CutEncoder,
    FineTune,
    LoadImages,
    LoadTable,
    LoadTexts,
    MakeControl,
    Settings,
    TrainHead,
    Training,
    cut_encoder,
    embed,
    fine_tune,
    import_encoder,
    learning,
    load_images,
    load_table,
    load_texts,
    make_control,
    train_head,
)
from embedkit.artifacts import EncoderArtifact, Metric, remove
from embedkit.cards import CARD, card, lineage, literal, plain
from embedkit.cli import main
from embedkit.stages import Draft, Facts, stage

SHORT = Training(epochs=2, batch_size=48, learning_rate=0.01, preflight=False)
HEAD = TrainHead(training=SHORT)
HOSTILE = [
    "<script>alert(1)</script>",
    "[click](https://evil.example) ![x](y.png) www.evil.example a@b.c",
    "**bold** _it_ `code` ~~gone~~ | cell | # head",
    "---\nlicense: mit\n---\n# A title\n\n```\n- a list",
    "1. one &lt;b&gt; &copy; &#60;i&#62; $x$",
    "é 日本 🦊 ; \\",
]


@stage("encoder", revision=1)
def wrap(out: Draft, encoder: EncoderArtifact, settings: Settings = Settings()) -> Facts:
    """Wrap an encoder, with a card of its own that a call which was killed may have left."""
    (out / "encoder.json").write_text("{}")
    (out / CARD).write_text("half a ca")
    return Facts()


@stage("vectors", revision=1)
def read(out: Draft, encoder: EncoderArtifact, settings: Settings = Settings()) -> Facts:
    """Make something of an encoder."""
    return Facts()


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A root for artifacts that several tests look at."""
    return tmp_path_factory.mktemp("cards")


def texts_of(path, label, settings=LoadTexts(), **where):
    """120 texts with the labels that a function of their number gives."""
    random = np.random.default_rng(0)
    rows = [{"text": f"{' '.join(random.choice(WORDS, 5))} {number}", "label": label(number)} for number in range(120)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load_texts(path, settings, **where)


@pytest.fixture(scope="module")
def bert(tiny_bert, place):
    return import_encoder(tiny_bert, root=place)


@pytest.fixture(scope="module")
def reviews(place):
    return texts_of(place / "reviews.jsonl", lambda number: ("neg", "pos")[number % 2], root=place)


@pytest.fixture(scope="module")
def head(reviews, bert):
    return train_head(embed(reviews, bert), HEAD)


@pytest.fixture(scope="module")
def tuned(place, normed_network):
    """A classifier of pictures with an encoder half."""
    pictures = load_images(
        write_pictures(place / "pictures.parquet"), LoadImages(split_column="split", label_column="red"), root=place
    )
    return fine_tune(pictures, import_encoder(normed_network, root=place), FineTune(recipe="full", training=SHORT))


def goods_of(place, names):
    """A table of 60 rows: two columns of numbers, one that is no use, and a number to predict."""
    lines = [f"{n / 8},{(n * 7) % 60},text {n},{2 * n}" for n in range(60)]
    (place / "goods.csv").write_text("\n".join([",".join(names), *lines]) + "\n")
    return load_table(place / "goods.csv", LoadTable(label_column=names[-1], label_type="number"), root=place)


@pytest.fixture(scope="module")
def goods(place):
    """The columns of a table as an encoder."""
    return make_control(goods_of(place, ["size", "weight", "title", "price"]))


def text_of(artifact):
    return (artifact / CARD).read_text(encoding="utf-8")


def parted(text):
    """Header, as YAML reads it, and body."""
    start, header, body = text.split("---\n", 2)
    assert start == "" and body.startswith("\n# ")
    return yaml.safe_load(header), body


def header_of(artifact):
    return parted(text_of(artifact))[0]


def section(text, title):
    return text.split(f"## {title}\n")[1].split("\n## ")[0]


def blocks(text, language):
    found = re.finditer(rf"^(?P<fence>```+){language}\n(?P<inside>.*?)\n(?P=fence)$", text, re.MULTILINE | re.DOTALL)
    return [each["inside"] for each in found]


class Page(HTMLParser):
    """Tags and words of a card's body as a Markdown renderer shows it."""

    def __init__(self, body):
        super().__init__()
        self.tags, self.words = [], ""
        self.feed(MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(body))

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, *dict(attrs)))

    def handle_data(self, data):
        self.words += data


OURS = {"h1", "h2", "p", "pre", "code", "strong", "ul", "li", "table", "thead", "tbody", "tr", "th", "td"}


# Where a card is ----------------------------------------------------------------------------------------------------


def test_every_encoder_and_classifier_has_a_card_among_its_files(bert, goods, head, tuned, capsys):
    cut = cut_encoder(bert, CutEncoder(layer="transformer_layer_0"))
    for artifact in (bert, goods, cut, head, tuned):
        assert CARD in {file.path for file in artifact.manifest.files} and artifact.problems() == []
        assert main(["artifacts", "verify", str(artifact), "--root", str(artifact.root)]) == 0
        assert text_of(artifact) == card(artifact.manifest, lineage(artifact.inputs.values()))
    assert capsys.readouterr().out == 5 * "1 artifact is as published\n"


def test_nothing_else_has_one(reviews, head):
    for artifact in (reviews, head.inputs["vectors"]):
        assert not (artifact / CARD).exists()


def test_what_an_earlier_call_left_of_a_card_is_written_anew(bert):
    assert text_of(wrap(bert, name="wrapped")).startswith('---\nlibrary_name: "embedkit"\n')


def test_an_artifact_without_a_card_stays_valid_and_is_used(bert, tmp_path):
    copy = shutil.copytree(bert.path, tmp_path / "root" / bert.path.relative_to(bert.root))
    (copy / CARD).unlink()
    old = Artifact.at(copy).manifest
    old.files = [file for file in old.files if file.path != CARD]
    (copy / "manifest.json").write_bytes(old.sealed())
    old = Artifact.at(copy).check()
    assert read(old).manifest.fingerprint == read(bert).manifest.fingerprint


# What it says -------------------------------------------------------------------------------------------------------


def test_the_card_of_a_text_encoder_says_what_it_is(bert):
    header, body = parted(text_of(bert))
    tags = ["embedkit", "keras", "embeddings"]
    assert header == {"library_name": "embedkit", "pipeline_tag": "sentence-similarity", "tags": tags}
    assert body.startswith("\n# `encoder/tiny-bert`\n\n")
    assert (
        "This encoder turns a text (32 tokens at most) into a vector of 16 numbers, scaled to length 1: "
        f"layer `transformer_layer_1` of `tiny-bert`, pooled by `mean`, {bert.manifest.details['parameters']:,} weights.\n"
    ) in body
    assert json.loads(blocks(body, "json")[0]) == bert.manifest.settings
    source = bert.manifest.source["sha256"][:8]
    assert f"Made by `import_encoder` (revision 1) from local files (content `{source}`)." in body
    assert "Licences aren't known here. Look at those of what it came from (`tiny-bert`) before you pass it on." in body
    assert bert.manifest.details["identity"] in body and "`canaries.npz`" in body
    assert "Nothing. What it is worth is measured by `embedkit compare` on a labelled dataset." in body


def test_an_encoder_whose_vectors_have_any_length_is_not_said_to_be_for_similarity(bert):
    details = bert.manifest.details | {"normalised": False, "prompt": "query: ", "pooling": "none"}
    header, body = parted(card(bert.manifest.model_copy(update={"details": details})))
    assert header["pipeline_tag"] == "feature-extraction"
    words = 'a text (after the prompt "query:", 32 tokens at most) into a vector of 16 numbers, of any length: layer'
    assert words in body and "`tiny-bert`, not pooled, " in body


def test_the_cards_of_other_modalities_say_what_they_take(goods, tuned):
    pictures = text_of(tuned.inputs["encoder"])
    assert yaml.safe_load(pictures.split("---\n")[1])["pipeline_tag"] == "image-feature-extraction"
    assert "turns a picture (resized to 8 x 8 pixels) into" in pictures and '["a.jpg", "b.png"]' in pictures
    table = text_of(goods)
    assert "pipeline_tag" not in header_of(goods) and "turns a row of a table into a vector of 2 numbers" in table
    assert "`rows` are dictionaries of a value by each column's name" in table
    assert "- Left out: 'title' (more than 20 different texts)\n" in table
    train = goods.manifest.details["fitted"]
    assert f"It learned from {train:,} rows; `fitted.parquet` says which" in table
    assert "| `dataset` | `table/goods` | `" in table and "(`table/goods`) before you pass it on" in table


def test_the_header_of_a_classifier_holds_the_figures_of_its_manifest_as_the_hub_reads_them(head, tuned):
    from huggingface_hub import ModelCard

    for artifact, task, dataset in (
        (head, "text-classification", "texts/reviews"),
        (tuned, "image-classification", "images/pictures"),
    ):
        read = ModelCard(text_of(artifact)).data
        assert (read.library_name, read.pipeline_tag, read.model_name) == ("embedkit", task, artifact.manifest.name)
        assert read.base_model is read.license is None
        metrics = artifact.manifest.metrics
        found = {each.metric_name: each for each in read.eval_results}
        assert list(found) == [name for name in metrics if not name.startswith("guessing_")]
        assert {name: each.metric_value for name, each in found.items()} == {name: metrics[name].value for name in found}
        assert {(each.task_type, each.dataset_type, each.dataset_name, each.dataset_split) for each in found.values()} == {
            (task, dataset, dataset, "test")
        }
        assert (found["macro_f1"].metric_type, found["accuracy"].metric_type) == ("f1", "accuracy")


def test_a_classifier_shows_each_measure_with_its_rows_its_error_and_its_control(head):
    text, metrics = section(text_of(head), "What was measured"), head.manifest.metrics
    lines = [line for line in text.split("\n") if line.startswith("| `")]
    assert lines == [
        f"| `{name}` | {metrics[name]} | `guessing_{name}` {metrics[f'guessing_{name}']} |"
        for name in metrics
        if not name.startswith("guessing_")
    ]
    assert re.search(r"\| `accuracy` \| 0\.\d+ ± 0\.\d+ \(n=\d+\) \| `guessing_accuracy` 0\.\d+ ± 0\.\d+ \(n=\d+\) \|", text)
    verdict = head.manifest.verdict
    assert f"{verdict[1:]}" in Page(text).words and f"{verdict[0].upper()}{verdict[1:]}" in Page(text).words
    assert "- `guessing_...`: control: guessing from the training labels alone\n" in text
    assert "- `accuracy`: share of the rows whose class is right\n" in text
    used = head.manifest.details["used"]
    assert f"Rows: {used['train']} train, {used['validation']} validation, {used['test']} test." in text


def test_a_head_says_whose_vectors_it_reads_and_a_fine_tuned_classifier_that_it_has_its_own_encoder(head, tuned):
    text = text_of(head)
    assert 'This classifier gives a text one of 2 classes: "neg", "pos".\n' in text
    assert "The encoder `encoder/tiny-bert` turns a text (32 tokens at most) into a vector of 16 numbers" in text
    assert "It needs what it was made from (below) in the same root, where its encoder lies." in text
    origin = section(text, "What it was made from")
    fingerprints = {one.manifest.kind: one.manifest.fingerprint[:8] for one in head.ancestors()}
    assert f"| `vectors` | `vectors/reviews-tiny-bert` | `{fingerprints['vectors']}` | `embed` |\n" in origin
    assert f"| behind it | `texts/reviews` | `{fingerprints['texts']}` | `load_texts` from local files (content `" in origin
    assert f"| behind it | `encoder/tiny-bert` | `{fingerprints['encoder']}` | `import_encoder` from local files" in origin
    own = text_of(tuned)
    assert "Its own encoder, which lies in `encoder/`, turns a picture (resized to 8 x 8 pixels) into" in own
    assert "Commands that take an encoder take it too, for its encoder." in own and "where its encoder lies" not in own


@pytest.mark.slow
def test_the_programs_and_commands_on_a_card_run(bert, head, place, reviews, monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("EMBEDKIT_ARTIFACTS", str(place))
    (tmp_path / "FILE.csv").write_text("text,more\nthe cat,1\na dog,2\n")
    for artifact in (bert, head):
        names = {}
        (program,) = blocks(text_of(artifact), "python")
        exec(compile(program, CARD, "exec"), names)
        if artifact == bert:
            assert names["vectors"].shape == (2, 16) and "# (rows, 16) float32, in their order" in program
        else:
            assert names["prediction"].label in ("neg", "pos")
        for block in blocks(text_of(artifact), "sh"):
            for command in block.replace("texts/NAME", "texts/reviews").split("\n"):
                first, *words = shlex.split(command)
                assert first == "embedkit" and main(words) == 0, capsys.readouterr().err
    assert capsys.readouterr().out.count("artifact is as published\n") == 2


# Kinds of labels ----------------------------------------------------------------------------------------------------


def test_numbers_are_regression_and_the_hub_has_no_name_for_that_of_texts(goods, place, bert):
    found = train_head(embed(goods.inputs["dataset"], goods), HEAD)
    header, body = parted(text_of(found))
    assert header["pipeline_tag"] == header["model-index"][0]["results"][0]["task"]["type"] == "tabular-regression"
    assert "This classifier predicts a number of a row of a table, in the unit of the labels it learned from.\n" in body
    figures = {each["name"]: each["value"] for each in header["model-index"][0]["results"][0]["metrics"]}
    assert figures == {name: found.manifest.metrics[name].value for name in ("rmse", "mae", "r2")}
    texts = texts_of(place / "stars.jsonl", float, LoadTexts(label_type="number"), root=place)
    header = header_of(train_head(embed(texts, bert), HEAD))
    assert "pipeline_tag" not in header and header["model-index"][0]["results"][0]["task"]["type"] == "text-regression"


def test_a_surrogate_claims_nothing_of_rows_it_has_not_seen(goods):
    settings = TrainHead(purpose="surrogate", training=SHORT)
    found = train_head(embed(goods.inputs["dataset"], goods), settings, name="surrogate")
    header, body = parted(text_of(found))
    assert "model-index" not in header and "Rows: 60 train, 60 validation, 0 test (what stopped it are training rows)." in body
    assert f"| `fitted_mae` | {found.manifest.metrics['fitted_mae']} | `guessing_fitted_mae` " in body
    assert f"| `fitted_worst_error` | {found.manifest.metrics['fitted_worst_error']} |  |" in body


def test_several_labels_are_named_and_one_alone_is_one(place, bert):
    for count, words in ((3, 'any of 3 labels: "a", "b", "c".'), (1, 'any of 1 label: "a".')):
        chosen = list("abc"[:count])

        def label(number, chosen=chosen):
            return ",".join(chosen[: number % (len(chosen) + 1)]) or ","

        texts = texts_of(place / f"labels{count}.jsonl", label, LoadTexts(label_separator=","), root=place)
        found = train_head(embed(texts, bert), HEAD)
        header, body = parted(text_of(found))
        assert found.manifest.details["classes"] == chosen and header["pipeline_tag"] == "text-classification"
        assert f"This classifier gives a text {words}\n" in body and "a threshold for each label, found on validation rows." in body
        assert f"| `micro_f1` | {found.manifest.metrics['micro_f1']} | `guessing_micro_f1` " in body


@pytest.mark.parametrize(("count", "words"), [(1, '1 class: "0".'), (20, '"19".'), (300, '"19" and 280 more')])
def test_many_classes_are_shortened_to_their_number(head, count, words):
    details = head.manifest.details | {"classes": [str(number) for number in range(count)]}
    text = card(head.manifest.model_copy(update={"details": details}))
    assert words in text and f"one of {count} class" in text and '"20"' not in text


def test_a_measure_of_several_seeds_says_so(reviews, bert):
    found = train_head(embed(reviews, bert), TrainHead(training=SHORT, seeds=2))
    assert f"| `accuracy` | {found.manifest.metrics['accuracy']} |" in text_of(found)
    assert ", 2 seeds ± " in text_of(found)


def test_a_measure_beside_another_is_shown_beside_it_whatever_comes_before_its_name(head):
    one = Metric(value=0.5, n=7, standard_error=0.1)
    names = ("accuracy", "balanced_accuracy", "teacher_accuracy", "guessing_accuracy", "guessing_balanced_accuracy", "mse")
    names += ("pca_mse", "twin_guessing_accuracy", "agreement")
    text = section(card(head.manifest.model_copy(update={"metrics": dict.fromkeys(names, one)})), "What was measured")
    assert [line for line in text.split("\n") if line.startswith("| `")] == [
        f"| `accuracy` | {one} | `teacher_accuracy` {one}; `guessing_accuracy` {one}; `twin_guessing_accuracy` {one} |",
        f"| `balanced_accuracy` | {one} | `guessing_balanced_accuracy` {one} |",
        f"| `mse` | {one} | `pca_mse` {one} |",
        f"| `agreement` | {one} |  |",
    ]
    assert "- `teacher_...`: its teacher\n" in text and "- `pca_...`: control: as many principal components\n" in text


# Where it came from -------------------------------------------------------------------------------------------------


def from_hub(manifest, text):
    return manifest.model_copy(update={"source": {"text": text, "sha256": "0" * 64}})


def test_what_came_from_the_hub_is_named_as_there_and_nothing_else_is(head):
    vectors, texts, encoder = lineage(head.inputs.values())
    made_from = [vectors, from_hub(texts, "hf://owner/films@main"), from_hub(encoder, "hf://owner/a.model-2@0123abc")]
    header, body = parted(card(head.manifest, made_from))
    assert (header["base_model"], header["datasets"]) == ("owner/a.model-2", ["owner/films"])
    assert "`import_encoder` from `hf://owner/a.model-2@0123abc` (content `00000000`)" in body
    both = [*made_from, from_hub(encoder, "hf://bert-base-uncased")]
    assert parted(card(head.manifest, both))[0]["base_model"] == ["owner/a.model-2", "bert-base-uncased"]
    for other in ("keras://bert_tiny", "applications://MobileNetV2", "/hf://owner/name", "hf://a b", "builtin:digits"):
        made_from = [vectors, texts, from_hub(encoder, other)]
        assert not {"base_model", "datasets"} & set(parted(card(head.manifest, made_from))[0])


def test_a_lineage_that_is_gone_leaves_a_card_that_says_less(tmp_path):
    encoder = make_control(goods_of(tmp_path, ["size", "weight", "title", "price"]))
    remove(encoder.inputs["dataset"])
    text = text_of(wrap(str(encoder), root=tmp_path))
    assert f"| `encoder` | `encoder/goods-control` | `{encoder.manifest.fingerprint[:8]}` | `make_control` |\n" in text
    assert "table/goods" not in text


def test_a_card_can_be_written_of_a_manifest_alone(head):
    header, body = parted(card(head.manifest))
    assert "model-index" not in header and "gives a row one of 2 classes" in body
    assert "| `vectors` | `vectors/reviews-tiny-bert` | `" in body and "Licences aren't known here." in body


# The same call, the same bytes --------------------------------------------------------------------------------------


def copied(root, *artifacts):
    for artifact in artifacts:
        shutil.copytree(artifact.path, root / artifact.path.relative_to(artifact.root))
    return [Artifact.open(str(artifact), root) for artifact in artifacts]


def test_the_same_calls_in_another_root_from_a_moved_source_give_the_same_cards(tiny_bert, bert, head, reviews, tmp_path):
    moved = shutil.copytree(tiny_bert, tmp_path / "moved" / tiny_bert.name)
    shutil.copy(reviews.manifest.source["text"], tmp_path / "moved")
    texts = load_texts(tmp_path / "moved/reviews.jsonl", root=tmp_path / "root")
    again = import_encoder(moved, root=tmp_path / "root")
    assert again.manifest.source["text"] != bert.manifest.source["text"]
    there = train_head(embed(texts, again), HEAD)
    for ours, theirs in ((bert, again), (head, there)):
        assert (ours / CARD).read_bytes() == (theirs / CARD).read_bytes()
        assert ours.manifest.files == theirs.manifest.files


def of_another_run(manifest):
    """What the same call leaves on another machine at another time."""
    changed = {"version": f"20010203T040506Z-{manifest.fingerprint[:8]}", "created": "2001-02-03T04:05:06+00:00", "files": []}
    changed |= {"seconds": 12.5, "peak_memory_bytes": 99, "timings": {"training_seconds": 9.5}, "environment": {"device": "TPU"}}
    inputs = [given.model_copy(update={"ref": re.sub("@[0-9TZ]+", "@20010203T040506Z", given.ref)}) for given in manifest.inputs]
    return manifest.model_copy(update=changed | {"inputs": inputs})


def test_a_card_holds_nothing_of_this_run_and_this_machine(bert, head, tuned, place):
    for artifact in (bert, head, tuned):
        made_from = lineage(artifact.inputs.values())
        assert card(of_another_run(artifact.manifest), [of_another_run(each) for each in made_from]) == text_of(artifact)
        for one in (artifact, *artifact.ancestors()):
            assert one.manifest.version not in text_of(artifact) and one.manifest.created[:10] not in text_of(artifact)
        assert str(place.parent) not in text_of(artifact)


def test_a_note_that_holds_a_time_stays_in_the_manifest(reviews, bert, tmp_path, monkeypatch):
    monkeypatch.setattr(learning, "WAITING", -1)
    monkeypatch.setattr(learning, "WAITED", -1)
    vectors = embed(reviews, bert)
    settings = TrainHead(training=SHORT.model_copy(update={"epochs_factor": 2}))
    found = train_head(vectors, settings, name="waiting")
    (again,) = copied(tmp_path / "root", vectors, *vectors.ancestors())[:1]
    again = train_head(again, settings, name="waiting")
    longer, waiting = found.manifest.notes
    assert re.search(r"of the steps' time was spent waiting for rows.*here [\d.]+ ms", waiting)  # another one in each run
    assert longer[1:] in text_of(found) and "waiting for rows" not in text_of(found)
    assert text_of(again) == text_of(found)


def test_names_are_no_part_of_the_calls_that_follow(bert, tiny_bert, tmp_path):
    other = import_encoder(tiny_bert, root=tmp_path / "root", name="another")
    assert text_of(other) != text_of(bert)
    assert read(other).manifest.fingerprint == read(bert).manifest.fingerprint


# Anyone's texts -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", HOSTILE)
def test_plain_text_is_shown_as_it_is_and_nothing_of_it_is_read(text):
    for around in ("{}", "- {}", "| a |\n|---|\n| {} |", "**{}**", '"{}"'):
        page = Page(around.format(plain(text)))
        assert " ".join(text.split()) in " ".join(page.words.split())
        assert {tag for tag, *_ in page.tags} <= {"p", "ul", "li", "strong", "table", "thead", "tbody", "tr", "th", "td", "code"}
        assert sum(tag == "li" for tag, *_ in page.tags) <= 1
    assert literal("a_b/c-1.d") == "`a_b/c-1.d`" and literal(text) == plain(text)


def test_a_long_text_is_cut():
    assert plain("word " * 1000) == ("word " * 100).rstrip() + "…"


def test_hostile_labels_and_columns_break_neither_header_nor_text(tmp_path, tiny_bert):
    encoder = import_encoder(tiny_bert)
    texts = texts_of(tmp_path / "texts.jsonl", lambda number: HOSTILE[number % len(HOSTILE)])
    names = ["size", "weight", '"<img src=x onerror=alert(1)>"', "price"]
    for artifact, seen in (
        (train_head(embed(texts, encoder), HEAD), [label[:40] for label in HOSTILE]),
        (make_control(goods_of(tmp_path, names)), ["<img src=x onerror=alert(1)>"]),
    ):
        assert artifact.problems() == []
        header, body = parted(text_of(artifact))
        assert header["tags"][0] == "embedkit" and "license" not in header
        page = Page(body)
        assert {tag for tag, *_ in page.tags} <= OURS and all(rest in ([], ["class"]) for _, *rest in page.tags)
        for text in seen:
            assert " ".join(text.split()) in " ".join(page.words.split())
        titles = [line for line in body.split("\n") if line.startswith("# ")]
        assert titles == [f"# `{artifact.manifest.kind}/{artifact.manifest.name}`"]


@pytest.mark.parametrize("name", ["null", "1e5", "2026-01-01", "---", "0x1f", "yes", "_", "--", "a.b-c_d"])
def test_any_name_that_an_artifact_can_have_stays_a_text(head, name):
    made_from = [each.model_copy(update={"name": name}) for each in lineage(head.inputs.values())]
    index = parted(card(head.manifest.model_copy(update={"name": name}), made_from))[0]["model-index"][0]
    assert (index["name"], index["results"][0]["dataset"]["name"]) == (name, f"texts/{name}")


@pytest.mark.parametrize("value", [1e-08, 3.1934996025842147e-16, 1e22, 0.1 + 0.2, -5.0, 0.0, float("nan"), float("inf")])
def test_any_finite_number_stays_that_number(head, value):
    metrics = {name: Metric(value=value, n=3) for name in ("odd_é🦊", "guessing_odd_é🦊")}
    header, body = parted(card(head.manifest.model_copy(update={"metrics": metrics}), lineage(head.inputs.values())))
    if np.isfinite(value):
        figures = header["model-index"][0]["results"][0]["metrics"]
        assert figures == [{"type": "odd_é🦊", "name": "odd_é🦊", "value": value}]
        assert type(figures[0]["value"]) is float
    else:
        assert "model-index" not in header
    assert f"{value:.4g} (n=3)" in body


def test_a_manifest_of_anyone_breaks_neither_header_nor_text(head):
    odd = "`<b>` [x](javascript:alert(1)) ![x](http://evil.example/a.png)\n# head | cell"
    made_from = [
        each.model_copy(update={"stage": odd, "source": {"text": odd, "sha256": odd}, "details": each.details | {"source": odd}})
        for each in lineage(head.inputs.values())
    ]
    details = head.manifest.details | {"height": odd, "width": odd, "pooling": odd, "layer": odd, "source": odd, "classes": [odd]}
    given = [each.model_copy(update={"fingerprint": odd, "role": odd}) for each in head.manifest.inputs]
    details |= {"identity": odd, "dimension": 3, "used": {odd: 3}}
    changed = {"stage": odd, "verdict": odd, "notes": [odd], "details": details}
    header, body = parted(card(head.manifest.model_copy(update=changed | {"inputs": given}), made_from))
    page = Page(body)
    assert header["tags"][0] == "embedkit" and {tag for tag, *_ in page.tags} <= OURS
    assert len([line for line in body.split("\n") if line.startswith("# ")]) == 1 and "resized to" in body


def test_hostile_settings_stay_in_their_block(bert):
    settings = {"prompt": "```\n</code><b>\n\n# A title", "layer": "`a`"}
    _, body = parted(card(bert.manifest.model_copy(update={"settings": settings})))
    page = Page(body)
    assert json.loads(blocks(body, "json")[0]) == settings and {tag for tag, *_ in page.tags} <= OURS


def test_the_control_of_pictures_has_a_card_too(tuned):
    found = make_control(tuned.inputs["dataset"], MakeControl(control="pixels"))
    assert "layer `flat` of `pixels`, not pooled" in text_of(found) and "It learned from" not in text_of(found)
