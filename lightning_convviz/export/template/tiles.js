"use strict";
// What the tile under the pointer is, from the facts that a picture carries.

/** What rows and columns are called where they are bare numbers, by kind of picture: [row, column]. */
const AXES = {
  activations: ["probe", "channel"], filters: ["", "filter"], kernels: ["", "filter"], gradcam: ["picture", ""],
  mistakes: ["picture", ""], followed: ["picture", "epoch"], confusions: [null, ""],
};

/** The grids of a picture, each with what its rows and columns are called; `also` is one with both swapped. */
function grids(facts) {
  if (!facts) return [];
  const names = AXES[facts.kind] ?? ["row", "column"];
  const also = [facts.also ?? []].flat().map((grid) => ({ ...grid, names: [names[1], names[0]] }));
  return [{ ...facts, names }, ...also].filter((grid) => grid.tiles && grid.tiles.dx > 0 && grid.tiles.dy > 0);
}

/** The tile at a pixel of the picture: its corner, its size, what it is; null between tiles. */
function tileAt(facts, x, y) {
  for (const grid of grids(facts)) {
    const { x: left, y: top, w, h, dx, dy, cols } = grid.tiles;
    const column = Math.floor((x - left) / dx);
    const row = Math.floor((y - top) / dy);
    const within = x - left - column * dx < w && y - top - row * dy < h;
    const told = column >= 0 && column < cols && row >= 0 && within ? describe(facts, grid, row * cols + column) : null;
    if (told) return { x: left + column * dx, y: top + row * dy, w, h, ...told };
  }
  return null;
}

/** A title and a list of [name, value] for the n-th tile of a grid; null if there is none. Tiles run row by row. */
function describe(facts, grid, index) {
  const rows = grid.rows?.length ? grid.rows : [""];
  const columns = grid.columns?.length ? grid.columns : [""];
  const items = grid.items ?? [];
  if (index >= Math.max(rows.length * columns.length, items.length)) return null;
  const row = Math.floor(index / columns.length);
  const column = index % columns.length;
  const called = (value, name) => {
    if (typeof value !== "number") return value ?? "";
    return name === null ? "" : `${name} ${value}`;
  };
  const said = [called(columns[column], grid.names[1]), called(rows[row], grid.names[0])];
  const title = said.map((word) => word.trim()).filter(Boolean).join(" · ");
  const found = itemOf(items, index, row, column, rows, columns);
  const { id, ...item } = (Array.isArray(found) ? { value: found[column] } : found) ?? {};
  const told = lines(id === rows[row] ? item : { id, ...item }, column, columns);
  return { title: title || facts.kind, lines: told };
}

/** Facts are told for each tile, for each row, for each column, or once. */
function itemOf(items, index, row, column, rows, columns) {
  if (items.length === rows.length * columns.length) return items[index];
  if (items.length === rows.length) return items[row];
  if (items.length === columns.length) return items[column];
  return items.length === 1 ? items[0] : {};
}

/** Facts as [name, value]; those of each drawing only for the drawing that the column is. */
function lines(item, column, columns) {
  const told = [];
  for (const [key, value] of Object.entries(item ?? {})) {
    const nested = Array.isArray(value) && value.some((each) => each !== null && typeof each === "object");
    if (nested) told.push(...lines(value[column - (columns.length - value.length)], 0, []));
    else if (value !== null && value !== undefined && typeof value !== "object") told.push([key.replace(/^p_/, "p of ").replaceAll("_", " "), plain(key, value)]);
  }
  return told;
}

/** A value as people write it. */
function plain(key, value) {
  if (typeof value === "boolean") return value ? "yes" : "no";
  if (typeof value !== "number") return String(value);
  if (key.startsWith("p_") || key === "silent") return `${(100 * value).toFixed(value > 0 && value < 0.1 ? 1 : 0)} %`;
  return Number.isInteger(value) ? String(value) : String(Number(value.toPrecision(3)));
}
