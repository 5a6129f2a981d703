"use strict";
// Keyboard, buttons, and the beginning.

/** The tags that the filter leaves, in the order of the page. */
const open = () => [...cards].filter(([, card]) => !card.hidden).map(([tag]) => tag);

function neighbor(by) {
  const tags = open();
  const at = tags.indexOf(state.tag);
  const tag = tags[at < 0 ? (by > 0 ? 0 : tags.length - 1) : Math.min(Math.max(at + by, 0), tags.length - 1)];
  if (!tag) return;
  if (find("large").open) resize_maps(tag);
  else choose(tag);
}

const KEYS = {
  ArrowRight: () => goTo(state.at + 1),
  ArrowLeft: () => goTo(state.at - 1),
  Home: () => goTo(0),
  End: () => goTo(state.run.steps.length - 1),
  " ": () => (state.playing ? pause() : play()),
  j: () => neighbor(1),
  k: () => neighbor(-1),
  Enter: () => state.tag && resize_maps(state.tag),
  "/": () => find("filter").focus(),
  "?": () => find("help").showModal(),
  "+": () => zoomBy(1),
  "-": () => zoomBy(-1),
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || find("help").open) return;
  const on = event.target instanceof Element ? event.target : document.body;
  if (on.id === "filter") {
    if (event.key === "Escape" || event.key === "Enter") on.blur();
    if (event.key === "Escape") filterTags((on.value = ""));
    return;
  }
  const presses = on.closest("button:not(.frame), summary, select, a"); // these have keys of their own
  if (presses && [" ", "Enter", "Home", "End"].includes(event.key)) return;
  if (on.closest("select") && event.key !== "Escape") return;
  if ((event.key === "+" || event.key === "-") && !find("large").open) return;
  if (event.key === "/" && find("large").open) return;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if (!KEYS[key]) return;
  event.preventDefault();
  KEYS[key]();
});
// A frame is a button: its space would enlarge the picture, ours plays.
document.addEventListener("keyup", (event) => {
  if (event.key === " " && event.target instanceof Element && event.target.closest(".frame")) event.preventDefault();
});

find("slider").addEventListener("input", (event) => goTo(Number(event.target.value)));
find("play").addEventListener("click", () => KEYS[" "]());
find("filter").addEventListener("input", (event) => filterTags(event.target.value));
find("run").addEventListener("change", (event) => showRun(event.target.value));
find("ask").addEventListener("click", () => KEYS["?"]());
find("earlier").addEventListener("click", () => KEYS.ArrowLeft());
find("later").addEventListener("click", () => KEYS.ArrowRight());
find("smaller").addEventListener("click", () => zoomBy(-1));
find("bigger").addEventListener("click", () => zoomBy(1));
find("close").addEventListener("click", () => find("large").close());
find("large").addEventListener("close", () => {
  hideTip();
  document.body.append(find("tip"));
  if (state.tag) choose(state.tag);
});
hover(large.frame);
addEventListener("hashchange", () => {
  const run = state.run;
  follow(location.hash);
  if (state.run !== run) build();
  render();
  if (state.tag) choose(state.tag);
});
addEventListener("resize", () => find("large").open && renderLarge());

follow(location.hash);
find("loading").remove();
find("runs").hidden = LOG.runs.length < 2;
find("title").classList.toggle("hidden", LOG.runs.length > 1);
find("run").append(...LOG.runs.map((run) => make("option", {}, run.name)));
build();
render();
if (state.tag) choose(state.tag);
