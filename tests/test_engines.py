"""Engines: one door to the forward pass, and of several ways the fastest that gives the right vectors."""

import itertools
import threading
from types import SimpleNamespace

import numpy as np
import pytest

from embedkit import UserError, canaries, engines, environment, frameworks
from embedkit.engines import Engine, Way

frameworks.load_frameworks()

import keras  # noqa: E402  after the frameworks were loaded quietly
import tensorflow as tf  # noqa: E402


def test_forward_is_the_inference_pass(dense):
    found = engines.forward(dense)(np.array([[1, 0, 0], [0, 0, 2]], np.float32))
    assert found.tolist() == [[10, 21], [18, 30]]
    assert found.dtype == np.float32


def test_forward_takes_other_number_types_and_any_number_of_rows(dense):
    run = engines.forward(dense)
    assert run(np.array([[1, 0, 0]], np.uint8)).tolist() == [[10, 21]]
    assert run(np.zeros((0, 3))).shape == (0, 2)
    assert run(np.zeros((7, 3), np.float64)).tolist() == [[10, 20]] * 7


def test_forward_takes_named_inputs_and_leaves_out_those_the_model_has_not():
    frameworks.start_keras(0)
    inputs = {"ids": keras.Input((None,), dtype="int32", name="ids"), "mask": keras.Input((None,), dtype="float32", name="mask")}
    total = keras.ops.sum(keras.ops.cast(inputs["ids"], "float32") * inputs["mask"], axis=1, keepdims=True)
    run = engines.forward(keras.Model(inputs, total))
    batch = {"ids": np.array([[1, 2, 3]]), "mask": np.array([[1, 1, 0]]), "other": np.zeros(5)}
    assert run(batch).tolist() == [[3.0]]


def test_predict_keeps_the_order_over_batches_and_their_rest(dense):
    rows = np.random.default_rng(0).normal(size=(25, 3)).astype(np.float32)
    expected = rows @ np.arange(6, dtype=np.float32).reshape(3, 2) + [10, 20]
    assert engines.predict(dense, rows, at_once=10) == pytest.approx(expected, abs=1e-5)


# Which ways there are


@pytest.fixture
def machine(monkeypatch):
    """Says what this machine is to have: graphics cards, products in bfloat16, OpenVINO."""

    def has(gpus=(), bfloat16=False, openvino=False):
        monkeypatch.setattr(engines, "gpus", lambda: list(gpus))
        monkeypatch.setattr(engines, "has_bfloat16", lambda: bfloat16)
        monkeypatch.setattr(engines, "openvino_is_installed", lambda: openvino)

    has()
    return has


def named(found):
    return [f"{way.engine} {way.precision}" for way in found]


def test_the_plain_way_comes_first_and_others_are_what_the_machine_has(machine):
    assert named(engines.ways()) == ["keras float32", "tensorflow float32"]
    machine(bfloat16=True)
    assert named(engines.ways()) == ["keras float32", "tensorflow float32", "tensorflow bfloat16"]
    machine(openvino=True)
    assert named(engines.ways()) == ["keras float32", "tensorflow float32", "openvino float32"]
    machine(bfloat16=True, openvino=True)
    assert named(engines.ways())[3:] == ["openvino float32", "openvino bfloat16"]
    machine(gpus=["one"], openvino=True)  # OpenVINO would run on the processor
    assert named(engines.ways()) == ["keras float32", "tensorflow float32", "tensorflow float16", "tensorflow bfloat16"]


def test_an_engine_that_is_asked_for_is_all_there_is_to_choose_from(machine):
    machine(bfloat16=True, openvino=True)
    assert named(engines.ways("keras")) == ["keras float32"]
    assert named(engines.ways("tensorflow")) == ["tensorflow float32", "tensorflow bfloat16"]
    assert named(engines.ways("openvino")) == ["openvino float32", "openvino bfloat16"]
    machine(gpus=["one"], openvino=True)
    assert named(engines.ways("openvino")) == ["openvino float32"]


def test_a_number_type_that_is_asked_for_is_the_only_one(machine):
    machine(bfloat16=True, openvino=True)
    assert named(engines.ways(precision="float32")) == ["keras float32", "tensorflow float32", "openvino float32"]
    assert named(engines.ways(precision="bfloat16")) == ["tensorflow bfloat16", "openvino bfloat16"]
    assert named(engines.ways("openvino", "bfloat16")) == ["openvino bfloat16"]


def test_int8_is_taken_only_where_it_is_asked_for(machine):
    machine(bfloat16=True, openvino=True)
    assert "openvino int8" not in named([*engines.ways(), *engines.ways("openvino")])
    assert named(engines.ways(precision="int8")) == named(engines.ways("openvino", "int8")) == ["openvino int8"]


@pytest.mark.parametrize(
    ("engine", "precision", "words"),
    [
        ("keras", "bfloat16", "keras in bfloat16 can't be had here; there is keras float32$"),
        ("tensorflow", "bfloat16", "tensorflow in bfloat16 can't be had here; there is tensorflow float32$"),
        ("auto", "float16", "auto in float16 can't be had here; there is keras float32, tensorflow float32$"),
        ("auto", "int8", "auto in int8 can't be had here; there is keras float32, tensorflow float32$"),
        ("openvino", "auto", r"openvino is not installed; run `pip install 'embedkit\[openvino\]'`, or take another engine"),
    ],
)
def test_what_this_machine_has_not_is_refused_with_what_it_has(machine, engine, precision, words):
    with pytest.raises(UserError, match=words):
        engines.ways(engine, precision)


@pytest.mark.parametrize(
    ("text", "has"),
    [
        ("processor\t: 0\nflags\t\t: fpu avx512f avx512_bf16 sse\n", True),
        ("flags\t\t: fpu amx_bf16\nflags\t\t: fpu\n", True),
        ("processor\t: 0\nBogoMIPS\t: 243\nFeatures\t: fp asimd bf16\n", True),
        ("flags\t\t: fpu avx512f avx512_vbmi2\nbugs\t\t: bf16\n", False),
        ("flags\t\t: fpu xbf16 bf16x\n", False),
        ("", False),
        (None, False),
    ],
)
def test_a_processor_says_whether_it_multiplies_in_bfloat16(tmp_path, monkeypatch, text, has):
    if text is not None:
        (tmp_path / "cpuinfo").write_text(text)
    monkeypatch.setattr(environment, "Path", lambda _: tmp_path / "cpuinfo")
    monkeypatch.setattr(environment, "flags", environment.flags.__wrapped__)
    assert engines.has_bfloat16() is has


def test_the_cores_of_a_process_may_be_bounded(monkeypatch):
    monkeypatch.delenv(engines.CORES, raising=False)
    assert engines.cores() >= 1
    monkeypatch.setenv(engines.CORES, "3")
    assert engines.cores() == 3
    monkeypatch.setenv(engines.CORES, "0")
    assert engines.cores() == 1


# The fastest that agrees

ROWS = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
SAMPLE = [ROWS[:4], ROWS[4:]]
KERAS, FROZEN, HALF = Way("keras", "float32"), Way("tensorflow", "float32"), Way("tensorflow", "bfloat16")


@pytest.fixture
def built(monkeypatch):
    """Builds engines that do to the right vectors what is said here, so many rows a second."""

    def build(changes=None, rates=None):
        def stub(model, way, frozen=None, sample=(), folder=None):
            change, right = (changes or {}).get(way, lambda vectors: vectors), engines.forward(model)
            return Engine(way.engine, way.precision, 1, lambda batch: change(right(batch)))

        monkeypatch.setattr(engines, "build", stub)
        given = {way: iter(seen) for way, seen in (rates or {}).items()}
        monkeypatch.setattr(engines, "rate", lambda engine, _: next(given[Way(engine.name, engine.precision)]))

    return build


def sure(engine):
    """A check that every engine passes."""
    return 1.0


def test_the_fastest_way_is_taken_by_the_median_of_rounds_and_what_was_measured_is_told(dense, built):
    built(rates={KERAS: [5, 5, 5], FROZEN: [90, 7, 1], HALF: [6, 6, 60]})
    found, engine = engines.choose(dense, [KERAS, FROZEN, HALF], SAMPLE, sure)
    assert found == {
        **{"engine": "tensorflow", "precision": "float32"},
        "measured": [
            {"engine": "keras", "precision": "float32", "agreement": 1.0, "rows_per_second": 5},
            {"engine": "tensorflow", "precision": "float32", "agreement": 1.0, "rows_per_second": 7},
            {"engine": "tensorflow", "precision": "bfloat16", "agreement": 1.0, "rows_per_second": 6},
        ],
    }
    assert (engine.name, engine.precision) == ("tensorflow", "float32")


def test_one_way_alone_is_compared_but_not_timed(dense, built):
    built()
    found, _ = engines.choose(dense, [FROZEN], SAMPLE, sure)
    assert found["measured"] == [{"engine": "tensorflow", "precision": "float32", "agreement": 1.0}]


def lines(found):
    return {f"{line['engine']} {line['precision']}": line.get("left_out") for line in found["measured"]}


def test_a_way_with_other_vectors_is_left_out_however_fast_it_is(dense, built):
    built({HALF: lambda vectors: vectors * 1.02}, {KERAS: [1] * 3, FROZEN: [2] * 3})
    found, engine = engines.choose(dense, [KERAS, FROZEN, HALF], SAMPLE, sure)
    words = "other vectors: an agreement of 0.9999 is needed at least"
    assert lines(found) == {"keras float32": None, "tensorflow float32": None, "tensorflow bfloat16": words}
    assert found["measured"][2]["agreement"] == pytest.approx(1 - 0.02**2 / 2, abs=1e-6)
    assert engine.precision == "float32"


def test_one_wrong_row_of_any_batch_is_enough_to_be_left_out(dense, built):
    def last_row(vectors):
        return vectors if len(vectors) > 2 else vectors * [[1], [1.1]]

    built({FROZEN: last_row})
    assert lines(engines.choose(dense, [KERAS, FROZEN], SAMPLE, sure)[0])["tensorflow float32"].startswith("other vectors")


def test_the_canaries_must_agree_too(dense, built):
    built()
    found, _ = engines.choose(dense, [KERAS, FROZEN], SAMPLE, lambda engine: 1.0 if engine.name == "keras" else 0.99)
    assert found["measured"][1] == {
        **{"engine": "tensorflow", "precision": "float32", "agreement": 0.99},
        "left_out": "other vectors: an agreement of 0.9999 is needed at least",
    }


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_way_whose_vectors_are_not_finite_is_left_out(dense, built, value):
    def overflow(vectors):
        return np.where(np.arange(len(vectors))[:, None] == 1, np.float32(value), vectors)

    built({FROZEN: overflow})
    assert lines(engines.choose(dense, [KERAS, FROZEN], SAMPLE, sure)[0])["tensorflow float32"]


def test_a_row_that_no_way_can_embed_is_no_reason_against_any(dense, built):
    built(rates={KERAS: [1] * 3, FROZEN: [2] * 3})
    far = np.array([[np.inf, 0, 0], [1, 2, 3]], np.float32)
    found, _ = engines.choose(dense, [KERAS, FROZEN], [*SAMPLE, far, far[:1]], sure)
    assert lines(found) == {"keras float32": None, "tensorflow float32": None}


def test_a_way_that_fails_is_left_out_with_its_own_words(dense, built):
    def fail(vectors):
        raise RuntimeError("no kernel for this\nand a long story")

    built({FROZEN: fail})
    found, _ = engines.choose(dense, [KERAS, FROZEN], SAMPLE, sure)
    assert lines(found)["tensorflow float32"] == "RuntimeError: no kernel for this"


def test_when_no_way_is_left_the_reasons_are_told(dense, built):
    def fail(vectors):
        raise RuntimeError("no kernel")

    built({FROZEN: fail, HALF: lambda vectors: -vectors})
    words = (
        r"nothing that was asked for gives the right vectors here \(tensorflow float32: RuntimeError: no kernel; tensorflow "
        r"bfloat16: other vectors: .* at least\); set engine and precision to auto"
    )
    with pytest.raises(UserError, match=words):
        engines.choose(dense, [FROZEN, HALF], SAMPLE, sure)


def test_int8_may_differ_more(dense, built):
    int8 = Way("openvino", "int8")
    built({int8: lambda vectors: vectors * 1.2})
    assert engines.choose(dense, [int8], SAMPLE, sure)[0]["measured"][0]["agreement"] == pytest.approx(0.98)
    built({int8: lambda vectors: vectors * 1.5})
    with pytest.raises(UserError, match="openvino int8: other vectors: an agreement of 0.9 is needed at least"):
        engines.choose(dense, [int8], SAMPLE, sure)


def test_real_ways_agree_and_one_of_them_is_chosen(dense, monkeypatch):
    monkeypatch.setattr(engines, "SECONDS", 0.01)
    plain = engines.forward(dense)

    def check(engine):
        return float(canaries.agreement(engine.run(ROWS), plain(ROWS)).min())

    found, engine = engines.choose(dense, [KERAS, FROZEN], SAMPLE, check)
    assert [line["agreement"] for line in found["measured"]] == [1.0, 1.0]
    assert all("rows_per_second" in line for line in found["measured"])
    assert (engine.name, engine.precision) == (found["engine"], found["precision"])
    assert engine.run(ROWS) == pytest.approx(plain(ROWS), abs=1e-6)


def test_a_rate_is_measured_with_all_streams_busy(monkeypatch):
    ticks = itertools.count(0, 0.3)
    monkeypatch.setattr(engines, "time", SimpleNamespace(perf_counter=lambda: next(ticks)))
    together, seen = threading.Barrier(3), []

    def run(batch):
        together.wait(timeout=60)  # only three at once get through
        seen.append(len(batch))
        return batch

    rate = engines.rate(Engine("stub", "float32", 3, run), [np.zeros((n, 1)) for n in (1, 2, 3)])
    assert sorted(seen) == [1, 1, 1, 2, 2, 2, 3, 3, 3]  # a warm-up and two rounds, until 0.7 seconds are over
    assert rate == pytest.approx(12 / 0.9)


def test_rows_are_counted_of_arrays_and_of_dictionaries():
    assert engines.count(np.zeros((4, 2))) == 4
    assert engines.count({"ids": np.zeros((5, 2)), "mask": np.zeros((5, 2))}) == 5


# Within memory


def narrow(most, error):
    """Doubles batches of at most so many rows; seen are the sizes it was asked for."""
    seen = []

    def run(inputs):
        seen.append(engines.count(inputs))
        if seen[-1] > most:
            raise error
        return (inputs["x"] if isinstance(inputs, dict) else inputs) * 2.0

    return run, seen


ERRORS = [MemoryError(), tf.errors.ResourceExhaustedError(None, None, "OOM when allocating")]


@pytest.mark.parametrize("error", ERRORS, ids=["python", "tensorflow"])
@pytest.mark.parametrize("named", [False, True])
def test_a_batch_that_memory_does_not_hold_is_halved_as_often_as_needed(error, named):
    rows = np.arange(7.0)[:, None]
    for most in (1, 2, 7):
        run, seen = narrow(most, error)
        assert engines.within_memory(run, {"x": rows, "y": rows} if named else rows).tolist() == (2 * rows).tolist()
        assert sum(size for size in seen if size <= most) == 7


def test_one_row_that_memory_does_not_hold_is_refused():
    run, seen = narrow(0, MemoryError())
    with pytest.raises(UserError, match="memory doesn't hold one row; take a smaller encoder, or fewer pixels or tokens of a row"):
        engines.within_memory(run, np.zeros((3, 1)))
    assert min(seen) == 1


def test_other_errors_of_a_batch_are_passed_on():
    run, seen = narrow(0, ValueError("shapes"))
    with pytest.raises(ValueError, match="shapes"):
        engines.within_memory(run, np.zeros((3, 1)))
    assert seen == [3]
