"""A review: the neutral rows of a dataset with proposed labels, the most doubtful first, for a person to decide on.

`review.parquet` has all of them, `review.html` the first so many as a page that needs no network. Decisions stay in the
browser until they are saved as a file of corrections, which `load_*` takes. Texts, labels and file names may be anyone's:
they reach the page as JSON without `<` and are shown as text, never as HTML, and the page's policy allows no other script; in
the file that it saves, none begins a formula (`escaping.cell`).
"""

import base64
import hashlib
import io
import json
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from embedkit import images
from embedkit.artifacts import Artifact
from embedkit.datasets import fetch, read_rows
from embedkit.stages import Draft

MOST_ON_PAGE = 200
THUMBNAIL = 240
"""Longest side of a picture on the page, in pixels; about 10 KB each as a JPEG."""
PIXEL_ART = 64
"""Longest side up to which a picture stays a lossless PNG, shown with its pixels."""


def doubt(probabilities: np.ndarray) -> np.ndarray:
    """How far a prediction is from certain: its entropy as a share of the highest (Shannon 1948).

    Args:
        probabilities: (rows, classes) float, rows summing to 1, two classes at least.

    Returns:
        (rows,) float64, from 0 for one certain class to 1 for all equally likely.
    """
    p = probabilities.astype(np.float64)
    entropy = 0 - np.sum(p * np.log(np.where(p > 0, p, 1)), axis=1)
    return np.clip(entropy / np.log(p.shape[1]), 0, 1)


def write_review(out: Draft, dataset: Artifact, rows: np.ndarray, classes: list[str], probabilities: np.ndarray) -> None:
    """Write rows with their proposed labels, ranked by doubt, as `review.parquet` and `review.html`.

    Args:
        out: where the two files go.
        dataset: the dataset the rows are of.
        rows: (n,) int, places of the rows in the dataset, in any order.
        classes: names of the classes, two at least.
        probabilities: (n, classes) float, rows summing to 1.
    """
    ranked = _ranked(read_rows(dataset).take(pa.array(rows, pa.int64())), classes, probabilities)
    pq.write_table(ranked, out / "review.parquet", compression="zstd")
    first = ranked.slice(0, MOST_ON_PAGE).to_pylist()
    contents = fetch(dataset, [row["id"] for row in first])
    kind = dataset.manifest.kind
    data = {
        "kind": kind,
        "name": dataset.manifest.name,
        "dataset": dataset.manifest.fingerprint,
        "neutral": len(ranked),
        "classes": classes,
        "rows": [_entry(row, content or {}, kind) for row, content in zip(first, contents, strict=True)],
    }
    (out / "review.html").write_text(_page(data), encoding="utf-8", newline="\n")


def _ranked(rows: pa.Table, classes: list[str], probabilities: np.ndarray) -> pa.Table:
    """The rows with proposal and doubt, the most doubtful first, equal ones by id."""
    unsure, ids = doubt(probabilities), rows["id"].to_numpy()
    columns: dict[str, Any] = {"id": rows["id"], "split": rows["split"].cast(pa.string())}
    columns["label"] = rows["label"] if "label" in rows.column_names else pa.nulls(len(rows), pa.string())
    columns["proposed"] = pa.array([classes[place] for place in probabilities.argmax(axis=1)], pa.string())
    columns["probability"] = probabilities.max(axis=1).astype(np.float64)
    return pa.table(columns | {"doubt": unsure}).take(np.lexsort((ids, -unsure)))


def _entry(row: dict[str, Any], content: dict[str, Any], kind: str) -> dict[str, Any]:
    """One row as the page gets it. Ids are texts: JavaScript's numbers would lose their last digits."""
    label = row["label"]
    entry = row | {"id": str(row["id"]), "label": ", ".join(label) if isinstance(label, list) else label}
    if kind == "images":
        source, small = thumbnail(content["image"])
        return entry | {"picture": source, "small": small, "path": content["path"]}
    if kind == "texts":
        return entry | {"text": content["text"]}
    return entry | {"columns": [[name, str(value)] for name, value in content.items() if value is not None]}


def thumbnail(data: bytes) -> tuple[str, bool]:
    """A picture as a data URL, made smaller where it is large, and whether it is so small that its pixels should be seen."""
    from PIL import Image

    pixels = images.decode(data, near=(THUMBNAIL, THUMBNAIL))
    height, width = pixels.shape[:2]
    scale = min(1.0, THUMBNAIL / max(height, width))
    small = max(height, width) <= PIXEL_ART
    shown = images.resize(pixels, max(1, round(height * scale)), max(1, round(width * scale)))
    encoded = io.BytesIO()
    Image.fromarray(shown).save(encoded, "PNG" if small else "JPEG", quality=80)
    kind = "png" if small else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(encoded.getvalue()).decode()}", small


def _page(data: dict[str, Any]) -> str:
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    written = json.dumps(data).replace("<", "\\u003c")  # ASCII, and nothing that could end the script
    parts = {"@NAME@": data["name"], "@DIGEST@": digest, "@STYLE@": STYLE, "@SCRIPT@": SCRIPT, "@DATA@": written}
    page = PAGE
    for mark, part in parts.items():  # the data last: it may hold marks
        page = page.replace(mark, part)
    return page


PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-@DIGEST@'">
<title>Review of @NAME@</title>
<style>@STYLE@</style>
<header>
  <div>
    <h1>Review of @NAME@</h1>
    <p id="count" role="status"></p>
  </div>
  <button id="save" disabled>Save decisions</button>
  <div id="bar"><div></div></div>
</header>
<p id="about"></p>
<p id="lost" role="alert" hidden>This browser keeps nothing for this page: save before you close it.</p>
<main id="rows"></main>
<footer>
  Then load the dataset again, as before, with <code>--corrections corrections.csv</code>.
  Decisions of a later review can be appended to that file.
</footer>
<noscript>This page needs JavaScript; review.parquet beside it holds the same rows.</noscript>
<script type="application/json" id="data">@DATA@</script>
<script>@SCRIPT@</script>
</html>
"""

STYLE = """
:root { color-scheme: light dark; --page: #f5f5f2; --card: #fff; --ink: #1d1d1b; --soft: #6a6a65; --line: #deded8;
  --accent: #1f6fb4; --done: #2b7a4b }
@media (prefers-color-scheme: dark) { :root { --page: #151516; --card: #1e1f21; --ink: #e8e8e4; --soft: #9c9c96; --line: #36373b;
  --accent: #6fb3ef; --done: #62c28a } }
* { box-sizing: border-box }
body { margin: 0 auto; padding: 0 1.25rem 3rem; max-width: 76rem; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif }
header { position: sticky; top: 0; z-index: 1; display: flex; align-items: center; justify-content: space-between; gap: 1rem;
  padding: .9rem 0; background: var(--page) }
h1 { margin: 0; font-size: 1.15rem; overflow-wrap: anywhere }
p { margin: 0 }
#count, #about, footer, .where, .meter { color: var(--soft); font-size: .85rem }
#about { margin: .75rem 0 1.25rem }
#lost { margin-bottom: 1rem; color: #b3261e }
#bar { position: absolute; inset: auto 0 0; height: 2px; background: var(--line) }
#bar div { width: 0; height: 100%; background: var(--done) }
kbd, code { padding: .05em .4em; border: 1px solid var(--line); border-radius: 4px; background: var(--card); font-size: .9em }
button, select { font: inherit; padding: .35rem .7rem; border: 1px solid var(--line); border-radius: 6px; background: var(--card);
  color: inherit; cursor: pointer }
#save { padding: .5rem 1rem; border-color: var(--accent); background: var(--accent); color: var(--card); font-weight: 600;
  white-space: nowrap }
button:disabled { opacity: .4; cursor: default }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px }
main { display: grid; gap: .8rem; margin-bottom: 1.5rem }
article { display: grid; grid-template-columns: minmax(0, 1fr) 17rem; gap: .4rem 1.5rem; align-content: start; padding: 1rem 1.1rem;
  border: 1px solid var(--line); border-left: 4px solid var(--line); border-radius: 8px; background: var(--card);
  scroll-margin: 6rem }
article.decided { border-left-color: var(--done) }
.content { max-height: 12.2em; overflow: hidden; white-space: pre-wrap; overflow-wrap: anywhere }
.content.cut:not(.open) { mask: linear-gradient(#000 70%, transparent) }
.content.open { max-height: none }
.content img { display: block; width: 100%; height: 11rem; object-fit: contain }
img.small { image-rendering: pixelated }
.more { margin-top: .4rem; padding: 0; border: 0; background: none; color: var(--accent); font-size: .85rem }
dl { display: grid; grid-template-columns: repeat(auto-fill, minmax(13rem, 1fr)); gap: .15rem 1.25rem; margin: 0 }
dt, dd { display: inline; margin: 0 .5em 0 0 }
dt { color: var(--soft) }
.where { overflow-wrap: anywhere }
.proposed { font-weight: 600; overflow-wrap: anywhere }
.meter { display: flex; align-items: center; gap: .6rem; margin: .1rem 0 .5rem }
.meter div { flex: 1; height: 4px; border-radius: 2px; background: var(--line) }
.meter div div { height: 100%; background: var(--accent) }
.choose { display: flex; gap: .5rem; margin-bottom: .5rem }
.choose select { flex: 1; min-width: 0 }
.images { grid-template-columns: repeat(auto-fill, minmax(15rem, 1fr)) }
.images article { grid-template-columns: minmax(0, 1fr) }
@media (max-width: 46rem) { article { grid-template-columns: minmax(0, 1fr) } }
"""

SCRIPT = """
"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const key = "embedkit review of " + data.dataset;
const cards = [];
let decisions = {};  // id: label, "" for still neutral; of all reviews of this dataset

function make(tag, properties, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

function recall() {
  try {
    decisions = JSON.parse(localStorage.getItem(key)) ?? {};
  } catch {
    document.getElementById("lost").hidden = false;
  }
}

function decide(row, choice) {
  recall();
  if (choice === 0) delete decisions[row.id];
  else decisions[row.id] = choice === 1 ? "" : data.classes[choice - 2];
  try {
    localStorage.setItem(key, JSON.stringify(decisions));
  } catch {
    document.getElementById("lost").hidden = false;
  }
  show();
}

function choiceOf(row) {
  const label = Object.hasOwn(decisions, row.id) ? decisions[row.id] : null;
  if (label === null || label === "") return label === null ? 0 : 1;
  return data.classes.includes(label) ? data.classes.indexOf(label) + 2 : 0;
}

function contentOf(row) {
  if (data.kind === "images") return make("img", {src: row.picture, alt: row.path, className: row.small ? "small" : ""});
  if (data.kind === "texts") return row.text;
  return make("dl", {}, ...row.columns.map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value))));
}

function cardOf(row) {
  const content = make("div", {className: "content", dir: "auto"}, contentOf(row));
  const more = make("button", {className: "more", textContent: "show all", hidden: true});
  more.onclick = () => { more.textContent = content.classList.toggle("open") ? "show less" : "show all"; };
  const options = ["undecided", "still neutral", ...data.classes].map(name => make("option", {textContent: name}));
  const select = make("select", {ariaLabel: "decision, proposed is " + row.proposed}, ...options);
  select.onchange = () => decide(row, select.selectedIndex);
  const accept = make("button", {textContent: "Accept", title: "take the proposed label"});
  accept.onclick = () => decide(row, data.classes.indexOf(row.proposed) + 2);
  const fill = make("div", {});
  fill.style.width = 100 * row.doubt + "%";
  const where = [row.split, row.label ? "labelled " + row.label : "", row.path].filter(Boolean).join(", ");
  const article = make("article", {tabIndex: 0, id: "row-" + row.id},
    make("div", {}, content, more),
    make("div", {},
      make("p", {className: "proposed", textContent: row.proposed + "?"}),
      make("div", {className: "meter"},
        Math.round(100 * row.probability) + " %", make("div", {}, fill), "doubt " + row.doubt.toFixed(2)),
      make("div", {className: "choose"}, select, accept),
      make("p", {className: "where", textContent: where})));
  return {row, article, content, more, select, accept};
}

function show() {
  let done = 0;
  for (const {row, article, select} of cards) {
    select.selectedIndex = choiceOf(row);
    article.classList.toggle("decided", select.selectedIndex > 0);
    done += select.selectedIndex > 0;
  }
  document.getElementById("count").textContent = `${done} of ${cards.length} decided`;
  document.querySelector("#bar div").style.width = 100 * done / (cards.length || 1) + "%";
  document.getElementById("save").disabled = done === 0;
}

function cut() {
  for (const {content, more} of cards) {
    if (content.classList.contains("open")) continue;
    more.hidden = content.scrollHeight <= content.clientHeight + 1;
    content.classList.toggle("cut", !more.hidden);
  }
}

function save() {
  const cell = text => /^'*[=+\\-@\\t\\r\\n\\uff1d\\uff0b\\uff0d\\uff20]/.test(text) ? "'" + text : text;  // as escaping.cell
  const quoted = text => '"' + cell(text).replaceAll('"', '""') + '"';
  const lines = cards.filter(({row}) => choiceOf(row)).map(({row}) => row.id + "," + quoted(decisions[row.id]));
  const file = new Blob(["id,label\\n" + lines.join("\\n") + "\\n"], {type: "text/csv"});
  const link = make("a", {href: URL.createObjectURL(file), download: "corrections.csv"});
  link.click();
}

function press(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("select, button")) return;
  const here = cards.findIndex(({article}) => article.contains(document.activeElement));
  const go = place => cards[Math.max(0, Math.min(place, cards.length - 1))].article.focus();
  if (event.key === "j") go(here + 1);
  else if (event.key === "k") go(here - 1);
  else if (here >= 0 && "anu".includes(event.key)) {
    const {row, accept} = cards[here];
    if (event.key === "a") accept.click();
    else decide(row, event.key === "n" ? 1 : 0);
    if (event.key !== "u") go(here + 1);
  }
}

const all = `Neutral rows: ${data.neutral.toLocaleString("en")}`;
const some = data.rows.length < data.neutral ? `, of which this page shows the ${data.rows.length} most doubtful` : "";
const keys = ["j", " next, ", "k", " previous, ", "a", " accept the proposed label, ", "n", " still neutral, ", "u", " undecided."];
document.getElementById("about").append(all + some + ". Keys: ",
  ...keys.map((text, place) => place % 2 ? text : make("kbd", {textContent: text})));
recall();
cards.push(...data.rows.map(cardOf));
document.getElementById("rows").classList.add(data.kind);
document.getElementById("rows").append(...cards.map(({article}) => article));
document.getElementById("save").onclick = save;
document.addEventListener("keydown", press);
window.addEventListener("resize", cut);
window.addEventListener("storage", () => { recall(); show(); });
show();
cut();
"""
