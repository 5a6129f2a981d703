"use strict";
// Drawing: the slider, a card for each tag, alarms, charts.

const FIRST = ["evolution", "layer_stats"]; // what tells of the whole run stands on top
const SMALL = 320; // pixels: narrower pictures are enlarged by whole numbers
const KEPT = 240; // decoded pictures that are kept

// -- pictures ---------------------------------------------------------------------------------------------------------

const decoded = new Map();

/** A picture as an `<img>` of its own for one place, decoded before it is shown, so that nothing flickers. */
function imageOf(place, number) {
  const key = `${place} ${number}`;
  let held = decoded.get(key);
  if (!held) {
    const { uri, width, height, facts } = picture(number);
    const image = new Image(width || undefined, height || undefined);
    image.src = uri;
    held = { image, width, height, facts, ready: image.decode().catch(() => {}) };
  }
  decoded.delete(key); // and in again, as the newest
  decoded.set(key, held);
  if (decoded.size > KEPT) decoded.delete(decoded.keys().next().value);
  return held;
}

/** Show a picture in a frame, as soon as it is decoded and if it is still the one that is wanted. */
function put(frame, place, number, alt, zoom) {
  const held = imageOf(place, number);
  frame.wanted = number;
  frame.done = held.ready.then(() => {
    if (frame.wanted !== number) return;
    const { image, width, height } = held;
    const by = zoom(width, height);
    image.alt = alt;
    image.draggable = false;
    image.classList.toggle("crisp", by * devicePixelRatio > 1);
    image.style.width = width ? `${width * by}px` : "";
    frame.facts = held.facts;
    frame.natural = width;
    if (frame.firstChild !== image || frame.childNodes.length > 1) frame.replaceChildren(image);
  });
  return frame.done;
}

// -- cards ------------------------------------------------------------------------------------------------------------

let cards = new Map(); // by tag
let plots = [];
const visible = new Set();
const watcher = new IntersectionObserver(
  (entries) => {
    for (const { target, isIntersecting } of entries) {
      if (isIntersecting) {
        visible.add(target);
        update(target);
      } else visible.delete(target);
    }
  },
  { rootMargin: "400px" },
);

function cardOf(entry) {
  const title = make("h3", {}, restOf(entry.tag));
  const when = make("span", { class: "when" });
  const frame = make("button", { class: "frame", type: "button", "aria-label": `${entry.tag}, larger` });
  const card = make("article", { class: "card", "data-tag": entry.tag, "aria-label": entry.tag }, make("div", { class: "head" }, title, when), frame);
  if (entry.legend) {
    const details = make("details", {}, make("summary", {}, "How to read this"));
    const text = make("div");
    text.innerHTML = entry.legend; // made from Markdown by the exporter, which escapes all HTML
    details.append(text);
    card.append(details);
  }
  Object.assign(card, { entry, frame, when });
  frame.append(roomFor(entry));
  frame.addEventListener("click", () => resize_maps(entry.tag));
  frame.addEventListener("focus", () => choose(entry.tag, false));
  hover(frame);
  return card;
}

/** Room for a tag's pictures, so that nothing moves when they come. */
function roomFor(entry) {
  const { width, height } = picture((shown(entry) ?? { number: entry.shots[0][1] }).number);
  const by = cardZoom(width);
  return make("span", { class: "room", style: `width:${width * by}px;aspect-ratio:${width || 1}/${height || 1}` });
}

/** Narrow pictures are enlarged, by whole numbers; wide ones are shrunk by the page, if they have to. */
const cardZoom = (width) => (width && width <= SMALL / 2 ? Math.floor(SMALL / width) : 1);

function update(card) {
  const { entry, frame, when } = card;
  const now = shown(entry);
  const earlier = now !== null && now.earlier;
  card.classList.toggle("earlier", earlier);
  if (now === null) {
    const first = entry.shots[0];
    const { width, height } = picture(first[1]);
    const by = cardZoom(width);
    const box = make("span", { class: "empty", style: `width:${width * by}px;height:${Math.min(height * by, 200)}px` });
    box.append(`First picture: ${moment(first[0])}`);
    frame.wanted = frame.facts = null;
    frame.replaceChildren(box);
    when.textContent = "";
    return;
  }
  when.textContent = timeless(entry) ? "whole run" : (earlier ? "still from " : "") + moment(now.step);
  put(frame, entry.tag, now.number, `${entry.tag}, ${moment(now.step)}`, cardZoom);
  for (const near of [state.at - 1, state.at + 1]) {
    const pair = state.run.steps[near] && !timeless(entry) ? latest(entry.shots, state.run.steps[near][0]) : null;
    if (pair) imageOf(entry.tag, pair[1]);
  }
}

/** The groups of a run's tags: what tells of the whole run first, animations last. */
function groups(tags) {
  const found = new Map();
  for (const entry of tags) {
    const name = groupOf(entry.tag);
    if (!found.has(name)) found.set(name, []);
    found.get(name).push(entry);
  }
  const rank = ([name]) => (FIRST.includes(name) ? FIRST.indexOf(name) - FIRST.length : name === "animation" ? 1 : 0);
  return [...found].sort((one, other) => rank(one) - rank(other));
}

/** Everything anew, for another run. */
function build() {
  watcher.disconnect();
  visible.clear();
  decoded.clear();
  cards = new Map();
  find("title").textContent = state.run.name;
  document.title = state.run.name;
  const count = state.run.tags.reduce((sum, entry) => sum + entry.shots.length, 0);
  find("subtitle").textContent = `${count} pictures of ${state.run.tags.length} tags · the slider moves all of them through the training`;
  find("groups").replaceChildren(
    ...groups(state.run.tags).map(([name, entries]) => {
      const list = make("div", { class: "cards" });
      for (const entry of entries) {
        const card = cardOf(entry);
        cards.set(entry.tag, card);
        list.append(card);
        watcher.observe(card);
      }
      const count = make("span", { class: "when" }, entries.length === 1 ? "1 tag" : `${entries.length} tags`);
      return make("section", { class: "group", "aria-label": name }, make("h2", {}, name, count), list);
    }),
  );
  buildFigures();
  buildAlarms();
  buildTicks();
  find("run").value = state.run.name;
  filterTags(state.filter);
}

function buildFigures() {
  const go = (step) => goTo(state.run.steps.reduce((best, pair, i, all) => (Math.abs(pair[0] - step) < Math.abs(all[best][0] - step) ? i : best), 0));
  plots = [...charts(state.run.figures)].map(([name, series]) => chart(name, series, go));
  if (!plots.length) return;
  const details = make("details", { class: "group figures", open: "" }, make("summary", {}, "figures"));
  details.append(make("div", { class: "cards" }, ...plots));
  find("groups").append(details);
}

function buildAlarms() {
  const alarms = state.run.alarms;
  find("alarms").hidden = !alarms.length;
  const rows = alarms.map((alarm) => {
    const jump = make("button", { type: "button" }, moment(alarm.step, alarm.epoch));
    jump.addEventListener("click", () => goTo(Math.max(0, findMoment(null, alarm.step))));
    const text = make("div");
    text.innerHTML = alarm.html; // as a legend
    return Object.assign(make("li", {}, jump, text), { step: alarm.step });
  });
  const title = make("h2", { id: "alarms-title" }, alarms.length === 1 ? "1 alarm" : `${alarms.length} alarms`);
  find("alarms").replaceChildren(title, make("ol", {}, ...rows));
}

/** Marks below the slider: epochs if they are known, else steps; as many as fit, each at its moment. */
function buildTicks() {
  const steps = state.run.steps;
  const all = steps.map((pair, index) => ({ pair, index }));
  const told = all.filter(({ pair }) => pair[1] !== null || pair[0] === 0); // epochs, if any are known: no mix with steps
  const marked = told.length ? told : all;
  const stride = Math.ceil(marked.length / 16);
  const ticks = marked.filter((each, place) => place % stride === 0);
  find("ticks").replaceChildren(
    ...ticks.map(({ pair, index }) => {
      const left = steps.length > 1 ? (100 * index) / (steps.length - 1) : 0;
      return make("span", { style: `left:${left}%`, "data-at": index }, mark(pair));
    }),
  );
}

// -- the moment -------------------------------------------------------------------------------------------------------

/** Show what the state says. */
function render() {
  const steps = state.run.steps;
  const slider = find("slider");
  slider.max = steps.length - 1;
  slider.disabled = find("play").disabled = steps.length < 2;
  slider.value = state.at;
  slider.setAttribute("aria-valuetext", moment(here()[0]));
  find("moment").replaceChildren(moment(here()[0]), make("small", {}, `${state.at + 1} of ${steps.length}`));
  for (const tick of find("ticks").children) tick.classList.toggle("here", Number(tick.dataset.at) === state.at);
  for (const card of visible) update(card);
  for (const plot of plots) plot.update(here()[0]);
  for (const row of find("alarms").querySelectorAll("li")) row.classList.toggle("coming", row.step > here()[0]);
  if (find("large").open) renderLarge();
  hideTip();
  remember();
}

function remember() {
  try {
    history.replaceState(null, "", address());
  } catch {
    // a browser may forbid it for files: the page works without
  }
}

function goTo(at) {
  state.at = Math.min(Math.max(at, 0), state.run.steps.length - 1);
  render();
}

function showRun(name) {
  Object.assign(state, { run: LOG.runs.find((run) => run.name === name), tag: null });
  state.at = state.run.steps.length - 1;
  pause();
  build();
  render();
}

/** Mark a tag as the chosen one; with `move` bring it into view and give it the keyboard. */
function choose(tag, move = true) {
  state.tag = tag;
  for (const [each, card] of cards) card.classList.toggle("chosen", each === tag);
  const card = cards.get(tag);
  if (card && move) {
    card.frame.focus({ preventScroll: true });
    card.scrollIntoView({ block: "nearest" });
  }
  remember();
}

function filterTags(text) {
  state.filter = text;
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  const fits = (tag) => words.every((word) => tag.toLowerCase().includes(word));
  for (const [tag, card] of cards) card.hidden = !fits(tag);
  for (const plot of plots) plot.hidden = !fits(plot.textContent);
  let left = 0;
  for (const group of find("groups").children) {
    const open = [...group.querySelectorAll(".card")].filter((card) => !card.hidden).length;
    group.hidden = !open;
    left += open;
  }
  find("nothing").hidden = left > 0;
  find("nothing").textContent = `No tag has “${text}” in it.`;
}
