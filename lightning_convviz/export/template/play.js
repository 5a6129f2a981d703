"use strict";
// Playing the moments one after the other.

const BEAT = 700; // milliseconds that each moment stays

function play() {
  if (state.run.steps.length < 2) return;
  state.playing = true;
  if (state.at === state.run.steps.length - 1) goTo(0);
  showPlaying();
  beat();
}

function pause() {
  state.playing = false;
  clearTimeout(state.timer);
  showPlaying();
}

function showPlaying() {
  const [symbol, word] = state.playing ? ["❚❚", "Pause"] : ["▶", "Play"];
  find("play").setAttribute("aria-pressed", state.playing);
  find("play").title = `${word} (space)`;
  find("play").children[0].textContent = symbol;
  find("play").children[1].textContent = word;
}

/** The next moment, when the pictures of this one have been seen. */
async function beat() {
  clearTimeout(state.timer);
  await Promise.all([...visible].map((card) => card.frame.done));
  state.timer = setTimeout(() => {
    if (!state.playing) return;
    goTo(state.at + 1);
    if (state.at === state.run.steps.length - 1) pause();
    else beat();
  }, BEAT);
}
