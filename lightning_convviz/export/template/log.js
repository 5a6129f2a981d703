"use strict";
// What was logged: runs, their moments, their tags. No drawing here.

const LOG = JSON.parse(document.getElementById("log").textContent);
const find = (id) => document.getElementById(id);

/** What the page shows. `at` is an index into the run's moments; `tag` the chosen one. */
const state = { run: LOG.runs[0], at: LOG.runs[0].steps.length - 1, tag: null, filter: "", playing: false };

/** Where a picture is among the embedded ones: its data URI, its size, its facts. Read when first asked for. */
function picture(number) {
  const held = find(`p${number}`);
  const [width, height] = held.dataset.size.split(" ").map(Number);
  return { uri: held.textContent, width, height, facts: held.dataset.facts ? JSON.parse(held.dataset.facts) : null };
}

/** The last pair [step, ...] at or before a step; undefined if all come later. */
function latest(pairs, step) {
  let low = 0;
  let high = pairs.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (pairs[middle][0] <= step) low = middle + 1;
    else high = middle;
  }
  return pairs[low - 1];
}

/** The epoch of a step, where it is known. */
function epochOf(step) {
  const pair = latest(state.run.steps, step);
  return pair && pair[0] === step ? pair[1] : null;
}

/** A moment in words: "epoch 3 · step 750", or as much as is known. */
function moment(step, epoch = epochOf(step)) {
  if (step === 0 && !(epoch > 0)) return "initial · step 0";
  return epoch === null ? `step ${step}` : `epoch ${epoch} · step ${step}`;
}

/** Likewise in a word, for a mark below the slider. */
function mark([step, epoch]) {
  if (step === 0 && !(epoch > 0)) return "initial";
  return String(epoch === null ? step : epoch);
}

const here = () => state.run.steps[state.at];
const groupOf = (tag) => (tag.includes("/") ? tag.slice(0, tag.indexOf("/")) : "pictures");
const restOf = (tag) => (tag.includes("/") ? tag.slice(tag.indexOf("/") + 1) : tag);

/** Animations tell of the whole run whatever the moment. */
const timeless = (entry) => groupOf(entry.tag) === "animation";

/** What a tag shows now: its picture of this moment, else its last one before, `earlier`; null if it has none yet. */
function shown(entry) {
  const shots = entry.shots;
  const shot = timeless(entry) ? shots[shots.length - 1] : latest(shots, here()[0]);
  return shot ? { step: shot[0], number: shot[1], earlier: !timeless(entry) && shot[0] !== here()[0] } : null;
}

/** The index of the last moment of an epoch, or of the last at or before a step; -1 if there is none. */
function findMoment(epoch, step) {
  const steps = state.run.steps;
  if (epoch !== null) return steps.map((pair) => pair[1]).lastIndexOf(epoch);
  return steps.indexOf(latest(steps, step));
}

/** The address of what is shown, without the part before `#`. */
function address() {
  const [step, epoch] = here();
  const parts = new URLSearchParams();
  if (LOG.runs.length > 1) parts.set("run", state.run.name);
  if (epoch !== null && findMoment(epoch, null) === state.at) parts.set("epoch", epoch);
  else parts.set("step", step);
  if (state.tag) parts.set("tag", state.tag);
  return `#${parts.toString().replaceAll("%2F", "/")}`;
}

/** Go where an address points; what it names and the log lacks is left as it is. */
function follow(hash) {
  const parts = new URLSearchParams(hash.replace(/^#/, "").replaceAll("+", "%2B"));
  const run = LOG.runs.find((each) => each.name === parts.get("run"));
  if (run && run !== state.run) Object.assign(state, { run, at: run.steps.length - 1, tag: null });
  const number = (key) => (/^-?\d+$/.test(parts.get(key) ?? "") ? Number(parts.get(key)) : null);
  const at = parts.has("epoch") || parts.has("step") ? findMoment(number("epoch"), number("step") ?? 0) : -1;
  if (at >= 0) state.at = at;
  if (state.run.tags.some((entry) => entry.tag === parts.get("tag"))) state.tag = parts.get("tag");
}
