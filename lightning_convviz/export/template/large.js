"use strict";
// One picture, large; and the tooltip over a tile.

const large = { zoom: null, frame: make("div", { class: "frame" }) };

function resize_maps(tag) {
  large.zoom = null;
  choose(tag, false);
  find("stage").replaceChildren(large.frame);
  if (!find("large").open) find("large").showModal();
  renderLarge();
  find("stage").focus();
}

/** How often a picture's pixel is repeated on the screen's pixels so that it fits, at least once. */
function fitting(width, height) {
  const stage = find("stage").getBoundingClientRect();
  return Math.max(1, Math.floor(devicePixelRatio * Math.min(stage.width / (width || 1), stage.height / (height || 1))));
}

function renderLarge() {
  const entry = state.run.tags.find((each) => each.tag === state.tag);
  const now = entry ? shown(entry) : null;
  find("large-title").textContent = state.tag;
  find("large").classList.toggle("earlier", now !== null && now.earlier);
  if (now === null) {
    find("large-when").textContent = `first picture: ${moment(entry.shots[0][0])}`;
    large.frame.wanted = large.frame.facts = null;
    large.frame.replaceChildren();
    return;
  }
  find("large-when").textContent = timeless(entry) ? "whole run" : (now.earlier ? "still from " : "") + moment(now.step);
  put(large.frame, "large", now.number, `${entry.tag}, ${moment(now.step)}`, (width, height) => {
    const times = large.zoom ?? fitting(width, height);
    find("zoom").textContent = `${times} ×`;
    large.times = times;
    return times / devicePixelRatio;
  });
}

function zoomBy(change) {
  large.zoom = Math.min(Math.max((large.zoom ?? large.times ?? 1) + change, 1), 32);
  renderLarge();
}

// -- the tooltip ------------------------------------------------------------------------------------------------------

const spot = make("span", { class: "spot", "aria-hidden": "true" });

function hover(frame) {
  frame.addEventListener("pointermove", (event) => showTip(frame, event));
  frame.addEventListener("pointerleave", hideTip);
}

function showTip(frame, event) {
  const image = frame.querySelector("img");
  if (!image || !frame.facts || !frame.natural) return hideTip();
  const [box, outer] = [image.getBoundingClientRect(), frame.getBoundingClientRect()];
  const by = box.width / frame.natural;
  const tile = tileAt(frame.facts, (event.clientX - box.left) / by, (event.clientY - box.top) / by);
  if (!tile) return hideTip();
  const edge = { left: tile.x * by + box.left - outer.left, top: tile.y * by + box.top - outer.top, width: tile.w * by, height: tile.h * by };
  for (const [side, value] of Object.entries(edge)) spot.style[side] = `${value}px`;
  if (spot.parentNode !== frame) frame.append(spot);
  const list = make("dl", {}, ...tile.lines.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)]));
  const tip = find("tip");
  (frame.closest("dialog") ?? document.body).append(tip); // a dialog covers all that is outside of it
  tip.replaceChildren(make("b", {}, tile.title), list);
  tip.hidden = false;
  const x = Math.min(event.clientX + 16, innerWidth - tip.offsetWidth - 8);
  const y = Math.min(event.clientY + 18, innerHeight - tip.offsetHeight - 8);
  tip.style.transform = `translate(${x}px, ${y}px)`;
  return undefined;
}

function hideTip() {
  spot.remove();
  find("tip").hidden = true;
}
