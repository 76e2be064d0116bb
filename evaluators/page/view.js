
"use strict";
// Shows recorded puzzles step by step. Step 0 is the question; step s is the answer after s supervision steps.
// Everything in `data` is put on the screen as text (textContent, attributes), never as markup.
const $ = id => document.getElementById(id);
const data = JSON.parse($("data").textContent);
const board = data.board, L = data.cells;
const NONE = data.bytes === 1 ? 255 : 65535;  // an empty cell
const TEMPO = 750;  // milliseconds a step
const state = { puzzle: 0, step: 0, track: 0, cell: null, timer: null };
let shown = null;  // the unpacked puzzle
let cells = [];  // the elements of the board, by number of the cell

function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("--")) element.style.setProperty(key, value);
    else if (value !== null && value !== undefined) element.setAttribute(key, value);
  }
  element.append(...children);
  return element;
}

function svg(name, attributes) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}

const plural = (count, noun) => `${count} ${noun}${count === 1 ? "" : "s"}`;
const percentOf = value => `${Math.round(100 * value)} %`;
const nameOf = token => token === NONE ? "empty" : board.names[token] || "empty";

// Unpacking

async function unpack(puzzle) {
  const packed = Uint8Array.from(atob(puzzle.planes), character => character.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  const buffer = await new Response(stream).arrayBuffer();
  const values = data.bytes === 1 ? new Uint8Array(buffer) : new Uint16Array(buffer);
  let at = 0;
  const planes = count => values.subarray(at, at += count * L);
  const [question, label, asked] = [planes(1), planes(1), planes(1)];
  const pairs = Array.from({ length: puzzle.demonstrations }, () => [planes(1), planes(1)]);
  const tracks = puzzle.trajectories.map(track => {
    const steps = track.q.length, several = () => Array.from({ length: track.candidates }, () => planes(steps));
    return { ...track, steps, tokens: several(), percent: several() };
  });
  const steps = Math.max(...tracks.map(track => track.steps));
  return { ...puzzle, question, label, asked, pairs, tracks, steps };
}

/** The token of a cell after a step. */
function tokenAt(track, step, cell) {
  if (step === 0) return board.keepsClues ? shown.question[cell] : NONE;
  return track.tokens[0][(Math.min(step, track.steps) - 1) * L + cell];
}

const sureAt = (track, step, cell) =>
  step === 0 ? 1 : track.percent[0][(Math.min(step, track.steps) - 1) * L + cell] / 100;
const isGiven = cell => board.keepsClues && ![board.blank, NONE, 0].includes(shown.question[cell]);

/** The token that is right in a cell: of a clue the clue itself, also where no answer is known. null: not known. */
function rightAt(cell) {
  if (shown.labelled) return shown.asked[cell] === 1 ? shown.label[cell] : null;
  return isGiven(cell) ? shown.question[cell] : null;
}

const isWrong = (track, step, cell) =>
  step > 0 && rightAt(cell) !== null && tokenAt(track, step, cell) !== rightAt(cell);

/** Rows and columns of the part of the board in which any of these planes has a cell. */
function extentOf(planes) {
  let rows = 1, columns = 1;
  for (const plane of planes) {
    for (let i = 0; i < plane.length; i++) {
      if (plane[i] === NONE) continue;
      const cell = i % L;
      rows = Math.max(rows, Math.floor(cell / board.columns) + 1);
      columns = Math.max(columns, cell % board.columns + 1);
    }
  }
  return { rows, columns };
}

/** The numbers of the cells to draw, in rows. */
function layout(planes) {
  if (board.line) {
    let length = 1;
    for (let cell = 0; cell < L; cell++) {
      const used = shown.question[cell] > 0 && shown.question[cell] !== NONE || shown.asked[cell] === 1;
      if (used || !shown.labelled && planes.some(plane => plane[plane.length - L + cell] > 0)) length = cell + 1;
    }
    return [Array.from({ length }, (_, cell) => cell)];
  }
  const { rows, columns } = extentOf(planes);
  return Array.from({ length: rows }, (_, row) =>
    Array.from({ length: columns }, (_, column) => row * board.columns + column).filter(cell => cell < L));
}

function placeOf(cell) {
  if (board.line) return `Place ${cell + 1}`;
  return `Row ${Math.floor(cell / board.columns) + 1}, column ${cell % board.columns + 1}`;
}

// Boards

const answerPlanes = () => [...board.keepsClues ? [shown.question] : [], ...shown.labelled ? [shown.label] : [],
  ...shown.tracks.map(track => track.tokens[0])];

function cellElement(cell, rows) {
  const element = make("div", { class: "cell", role: "gridcell", tabindex: -1 });
  if (!board.text) element.append(make("i"));
  edges(element, cell, rows);
  return element;
}

function edges(element, cell, rows) {
  const row = Math.floor(cell / board.columns), column = cell % board.columns;
  if (board.line) return;
  element.classList.toggle("last-column", column === rows[0].length - 1);
  element.classList.toggle("last-row", row === rows.length - 1);
  if (!board.box) return;
  element.classList.toggle("box-row", (row + 1) % board.box[0] === 0 && row < rows.length - 1);
  element.classList.toggle("box-column", (column + 1) % board.box[1] === 0 && column < rows[0].length - 1);
}

/** An empty grid of cells: its element. `made` gets each cell's element, by number. */
function grid(rows, label, made, element = cellElement) {
  const kind = `board ${board.text ? "text" : "colours"}${board.line ? " line" : ""}`;
  const longest = board.text ? Math.max(1, ...board.names.map(name => name.length)) : 1;
  const parent = make("div", { class: kind, role: "grid", "aria-label": label, "--columns": rows[0].length,
    "--scale": longest > 2 ? 1.3 / longest : 0.54 });
  for (const numbers of rows) {
    parent.append(make("div", { role: "row" }, ...numbers.map(cell => made[cell] = element(cell, rows))));
  }
  return parent;
}

function buildBoards() {
  const rows = layout(answerPlanes());
  cells = [];
  const main = grid(rows, "answer; arrow keys move from cell to cell, Page Up and Page Down from step to step", cells);
  main.id = "board";
  const answer = make("figure", { class: "main-board" }, main), stills = make("div", { class: "stills" });
  if (!board.keepsClues) {
    stills.append(still(board.line || !shown.pairs.length ? "question" : "test input", shown.question));
    answer.prepend(make("figcaption", {}, "answer"));
  }
  if (shown.labelled) {
    const truth = still("right answer", shown.label);
    truth.id = "truth";
    stills.append(truth);
  }
  $("boards").className = board.line ? "lines" : "";
  $("boards").replaceChildren(...board.keepsClues ? [answer, stills] : [stills, answer]);
  main.addEventListener("pointerover", event => choose(numberOf(event.target), false));
  main.addEventListener("focusin", event => choose(numberOf(event.target), false));
  main.addEventListener("keydown", event => moveCell(event, rows));
  (cells[state.cell] || cells[rows[0][0]]).tabIndex = 0;
}

function numberOf(element) {
  const cell = cells.indexOf(element.closest(".cell"));
  return cell < 0 ? null : cell;
}

function moveCell(event, rows) {
  const steps = { PageUp: -1, PageDown: 1 };
  if (event.key in steps) { event.preventDefault(); event.stopPropagation(); go(state.step + steps[event.key]); return; }
  const moves = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
  const at = numberOf(document.activeElement);
  if (at === null || !(event.key in moves)) return;
  event.preventDefault();
  event.stopPropagation();
  const row = rows.findIndex(numbers => numbers.includes(at)), column = rows[row].indexOf(at);
  const next = rows[row + moves[event.key][0]]?.[column + moves[event.key][1]];
  if (next === undefined) return;
  cells[at].tabIndex = -1;
  cells[next].tabIndex = 0;
  cells[next].focus();
}

/** A board that does not change, as a picture with its content as text for those who do not see it. */
function still(caption, plane, size = 168) {
  if (board.line) {
    const rows = layout([plane]), made = [];
    const element = grid(rows, caption, made);
    for (const cell of rows[0]) {
      made[cell].textContent = plane[cell] === NONE ? "" : board.names[plane[cell]];
      made[cell].classList.add(made[cell].textContent ? "given" : "empty");
      made[cell].removeAttribute("tabindex");
    }
    return make("figure", { class: "main-board" }, make("figcaption", {}, caption), element);
  }
  const extent = extentOf([plane]);
  const rows = Array.from({ length: extent.rows }, (_, row) => Array.from({ length: extent.columns },
    (_, column) => nameOf(plane[row * board.columns + column])).join(" "));
  const canvas = make("canvas", { class: "still", role: "img",
    "aria-label": `${caption}, ${extent.rows} by ${extent.columns}: ${rows.join(", ")}` });
  canvas.redraw = () => draw(canvas, extent, size, cell => ({ token: plane[cell] }));
  canvas.redraw();
  return make("figure", {}, make("figcaption", {}, caption), canvas);
}

/** Draws a board. `look` gives of each cell its token and, if it is an answer, how sure and whether it is wrong. */
function draw(canvas, extent, size, look) {
  const side = Math.max(3, Math.min(22, size / Math.max(extent.rows, extent.columns)));
  const style = getComputedStyle(document.documentElement), colour = name => style.getPropertyValue(name).trim();
  const width = side * extent.columns, height = side * extent.rows, scale = 2;
  Object.assign(canvas, { width: scale * width, height: scale * height });
  canvas.style.aspectRatio = `${extent.columns} / ${extent.rows}`;
  if (canvas.classList.contains("still")) canvas.style.width = `${width}px`;
  const context = canvas.getContext("2d");
  context.scale(scale, scale);
  Object.assign(context, { textAlign: "center", textBaseline: "middle", font: `600 ${0.68 * side}px system-ui, sans-serif` });
  for (let row = 0; row < extent.rows; row++) {
    for (let column = 0; column < extent.columns; column++) {
      const cell = row * board.columns + column, { token, wrong, given, sure } = look(cell);
      const x = column * side, y = row * side, name = token === NONE ? "" : board.names[token];
      if (board.text) {
        context.fillStyle = colour(wrong ? "--wrong" : sure === undefined || given ? "--given"
          : name === "" ? "--raised" : sure > 0.9 ? "--sure" : "--unsure");
        context.fillRect(x + 0.3, y + 0.3, side - 0.6, side - 0.6);
        context.fillStyle = colour(wrong ? "--raised" : "--ink");
        context.fillText(name, x + side / 2, y + side / 2 + 0.04 * side);
        continue;
      }
      context.fillStyle = colour("--night");
      context.fillRect(x, y, side, side);
      if (token !== NONE) {
        const part = side * (sure === undefined ? 1 : 0.38 + 0.62 * sure), gap = side > 5 ? 0.5 : 0;
        context.fillStyle = board.colours[token];
        context.fillRect(x + (side - part + gap) / 2, y + (side - part + gap) / 2, part - gap, part - gap);
      }
      if (wrong) {
        for (const [line, shade] of [[3, "#000000"], [1.4, "#ffffff"]]) {
          Object.assign(context, { lineWidth: line * side / 12 + 0.4, strokeStyle: shade });
          context.beginPath();
          context.moveTo(x + 0.25 * side, y + 0.25 * side); context.lineTo(x + 0.75 * side, y + 0.75 * side);
          context.moveTo(x + 0.75 * side, y + 0.25 * side); context.lineTo(x + 0.25 * side, y + 0.75 * side);
          context.stroke();
        }
      }
    }
  }
}

function paintBoard(track, forward) {
  for (const [number, element] of cells.entries()) if (element) paintCell(element, number, track, forward);
}

function paintCell(element, cell, track, forward) {
  const step = state.step, token = tokenAt(track, step, cell), name = token === NONE ? "" : board.names[token];
  const given = isGiven(cell), wrong = isWrong(track, step, cell), sure = sureAt(track, step, cell);
  const changed = step > 1 && token !== tokenAt(track, step - 1, cell);
  const unasked = step > 0 && shown.labelled && shown.asked[cell] === 0 && !given;
  const empty = board.text ? name === "" : token === NONE;
  if (board.text) element.textContent = name;
  else {
    element.firstChild.style.setProperty("--colour", token === NONE ? "transparent" : board.colours[token]);
    element.firstChild.dataset.mark = token === NONE ? "" : board.marks[token];
  }
  element.style.setProperty("--sureness", given || board.keepsClues && token === board.blank && step === 0 ? 1 : sure);
  for (const [mark, on] of Object.entries({ given, wrong, empty, unasked })) element.classList.toggle(mark, on);
  element.classList.toggle("fresh", forward && changed);
  const says = [nameOf(token)];
  if (given) says.push("given");
  else if (step > 0 && !empty) says.push(`${Math.round(100 * sure)} percent sure`);
  if (wrong) says.push(`wrong, right is ${nameOf(rightAt(cell))}`);
  if (changed) says.push("changed in this step");
  element.setAttribute("aria-label", `${placeOf(cell)}: ${says.join(", ")}`);
}

// What is said of a step

function changedIn(track, step) {
  let count = 0;
  for (let cell = 0; cell < L; cell++) count += tokenAt(track, step, cell) !== tokenAt(track, step - 1, cell);
  return count;
}

/** Whether the answer is right, as words and as a class; with no label, by the rules. */
function judged(track, step) {
  const at = Math.min(step, track.steps) - 1;
  if (track.wrong) return track.wrong[at] ? [`${plural(track.wrong[at], "cell")} wrong`, "bad"] : ["✓ solved", "good"];
  if (!track.broken) return ["right or not: not known", ""];
  const broken = track.broken[at].filter((name, _, all) => name !== "solved" || all.length === 1);
  const failed = broken.map(name => `“${name.replaceAll("_", " ")}”`).join(", ");
  return failed ? [`✗ fails ${failed}`, "bad"] : ["✓ right by the rules", "good"];
}

function paintVerdict(track) {
  const step = state.step, says = [];
  $("step-name").textContent = step === 0 ? "The puzzle." : `Step ${step} of ${shown.steps}.`;
  if (step > 0) {
    const [words, mark] = judged(track, step), at = Math.min(step, track.steps) - 1;
    says.push(make("span", { class: mark }, words), ` · ${percentOf(track.q[at])} sure`);
    if (step > track.steps) says.push(` · ended after ${plural(track.steps, "step")}`);
    else if (step > 1) says.push(` · ${changedIn(track, step)} changed`);
  }
  $("step-says").replaceChildren(...says);
  if (!state.timer) $("status").textContent = $("verdict").textContent;
}

/** How a puzzle ended, for the list of puzzles. */
function outcome(puzzle) {
  const track = puzzle.trajectories[puzzle.selected ?? 0], marks = track.wrong || track.broken?.map(rules => rules.length);
  if (!marks) return "";
  return marks.at(-1) ? " ✗" : ` ✓ step ${marks.findLastIndex(mark => mark > 0) + 2}`;
}

// Curves

/** Of each curve its title, its values by step, how they are written, and the least and the greatest value. */
function curves() {
  const changed = track => Array.from({ length: track.steps }, (_, i) => i ? changedIn(track, i + 1) : null);
  const cellsOf = shown.tracks.every(track => track.wrong) ? ["wrong cells", track => track.wrong] : ["cells that change", changed];
  const moved = shown.tracks.flatMap(track => track.residual).filter(value => value > 0);
  const written = value => value === null ? "–" : value >= 0.01 ? String(+value.toPrecision(2)) : value.toExponential(0);
  return [
    { title: "how sure it is of the whole", values: track => track.q, written: percentOf, least: 0, most: 1 },
    { title: cellsOf[0], values: cellsOf[1], written: value => value === null ? "–" : String(value), least: 0,
      most: Math.max(1, ...shown.tracks.flatMap(cellsOf[1])) },
    { title: "how far its latents move, ‖zₜ − zₜ₋₁‖", values: track => track.residual, written, logarithmic: true,
      least: Math.min(...moved, 1), most: Math.max(...moved, 1e-9) }];
}

/** Where a value stands between least (0) and most (1). */
function heightOf(curve, value) {
  if (!curve.logarithmic) return (value - curve.least) / (curve.most - curve.least);
  const range = Math.log(curve.most / curve.least);
  return range > 0 ? Math.log(Math.max(value, curve.least) / curve.least) / range : 1;
}

function paintCharts() {
  const W = $("charts").clientWidth || 320, H = 88, left = 34, right = 8, top = 8, bottom = 20;
  const x = step => left + (W - left - right) * step / Math.max(shown.steps, 1);
  const figures = curves().map(curve => {
    const all = shown.tracks.map(curve.values), { title, written: format } = curve;
    const y = value => H - bottom - (H - top - bottom) * heightOf(curve, value);
    const own = all[state.track], at = Math.min(state.step, own.length) - 1;
    const now = at < 0 ? "–" : format(own[at]);
    const picture = svg("svg", { role: "img", "aria-label": `${title}, by step: ${own.map(format).join(", ")}` });
    picture.append(svg("path", { class: "axis", d: `M${left} ${top}V${H - bottom}H${W - right}` }));
    const points = series => series.map((value, i) => value === null ? null : [x(i + 1), y(value)]).filter(Boolean);
    const line = (series, kind) => picture.append(svg("path", { class: kind, d: points(series).map(
      ([px, py], i) => `${i ? "L" : "M"}${px.toFixed(1)} ${py.toFixed(1)}`).join("") }));
    all.forEach((series, i) => { if (i !== state.track) line(series, "other"); });
    line(own, "own");
    if (points(own).length === 1) picture.append(svg("circle", { class: "own-dot", cx: points(own)[0][0], cy: points(own)[0][1], r: 3 }));
    picture.append(svg("line", { class: "cursor", x1: x(state.step), x2: x(state.step), y1: top - 4, y2: H - bottom }));
    if (at >= 0 && own[at] !== null) picture.append(svg("circle", { class: "now", cx: x(at + 1), cy: y(own[at]), r: 4.5 }));
    const label = (text, px, py, anchor) => {
      const element = svg("text", { x: px, y: py, "text-anchor": anchor });
      element.textContent = text;
      picture.append(element);
    };
    label(format(curve.most), left - 5, top + 4, "end");
    label(format(curve.least), left - 5, H - bottom + 3, "end");
    label("1", x(1), H - 3, "middle"); if (shown.steps > 1) label(shown.steps, x(shown.steps), H - 3, "middle");
    const pick = event => go(Math.round((event.clientX - picture.getBoundingClientRect().left - left)
      / (W - left - right) * shown.steps));
    picture.addEventListener("pointerdown", pick);
    picture.addEventListener("pointermove", event => { if (event.buttons) pick(event); });
    return make("div", { class: "chart" }, make("h2", {}, title, make("b", {}, now)), picture);
  });
  $("charts").replaceChildren(...figures);
}

// One cell

function choose(cell) {
  if (cell === null || cell === state.cell) return;
  state.cell = cell;
  paintCellPanel();
}

function swatch(token) {
  if (board.text || token === NONE) return "";
  return make("span", { class: "swatch", "aria-hidden": "true", style: null, "--colour": board.colours[token] });
}

function paintCellPanel() {
  const panel = $("cell"), cell = state.cell, track = shown.tracks[state.track];
  if (cell === null || !cells[cell]) {
    panel.replaceChildren(make("h2", {}, "one cell"), make("p", { class: "soft" },
      "Point at a cell of the board, or go to it with Tab and the arrow keys, to see what else it might be."));
    return;
  }
  const title = make("h2", {}, placeOf(cell)), facts = [];
  if (isGiven(cell)) facts.push("given in the puzzle");
  if (shown.labelled && shown.asked[cell]) facts.push(`right is ${nameOf(shown.label[cell])}`);
  if (facts.length) title.append(`: ${facts.join(", ")}`);
  const list = make("ul", { "aria-label": "candidates" });
  if (state.step > 0) {
    const at = (Math.min(state.step, track.steps) - 1) * L + cell;
    track.tokens.forEach((tokens, rank) => {
      if (tokens[at] === NONE) return;
      const chance = track.percent[rank][at], mark = swatch(tokens[at]);
      const bar = make("i"); bar.style.width = `${chance}%`;
      list.append(make("li", {}, make("span", {}, mark, nameOf(tokens[at])), make("span", { class: "meter", "aria-hidden": "true" }, bar),
        make("span", {}, `${chance} %`)));
    });
  }
  const course = make("div", { class: "course", "aria-label": "this cell, step by step" });
  for (let step = 1; step <= track.steps; step++) {
    const token = tokenAt(track, step, cell), off = isWrong(track, step, cell);
    const tile = make("span", { title: `step ${step}`, "--sureness": sureAt(track, step, cell) },
      swatch(token), board.text ? (token === NONE ? " " : board.names[token] || " ") : off ? "✕" : "");
    tile.classList.toggle("now", step === state.step);
    tile.classList.toggle("off", off);
    course.append(tile);
  }
  panel.replaceChildren(title, list, course);
  for (const mark of panel.querySelectorAll(".swatch")) mark.style.background = mark.style.getPropertyValue("--colour");
}

// Trajectories

function buildTrajectories() {
  const section = $("trajectories");
  section.hidden = shown.tracks.length < 2;
  if (section.hidden) return;
  const extent = extentOf(answerPlanes());
  const buttons = shown.tracks.map((track, i) => {
    const canvas = make("canvas", { "aria-hidden": "true" }), says = make("span");
    const button = make("button", { type: "button", "aria-pressed": "false" }, ...board.line ? [] : [canvas], says);
    button.addEventListener("click", () => { state.track = i; paint(); });
    button.repaint = () => {
      const step = state.step, at = Math.min(step, track.steps) - 1;
      if (!board.line) {
        draw(canvas, extent, 120, cell => ({ token: tokenAt(track, step, cell), given: isGiven(cell),
          wrong: isWrong(track, step, cell), sure: step ? sureAt(track, step, cell) : undefined }));
      }
      button.setAttribute("aria-pressed", i === state.track);
      const lines = [make("b", {}, `${i + 1}${i === shown.selected ? " · taken" : ""}`)];
      if (at >= 0) {
        const [words, mark] = judged(track, step);
        lines.push(make("span", { class: mark }, words), make("br"), `${percentOf(track.q[at])} sure`);
      }
      says.replaceChildren(...lines);
    };
    return button;
  });
  const taken = shown.selected === null ? "the answer is none of them alone" : `number ${shown.selected + 1} was taken`;
  section.replaceChildren(make("h2", { id: "trajectories-title" },
    `${shown.tracks.length} trajectories of this puzzle; ${taken}`), make("div", {}, ...buttons));
}

// Legend and demonstrations

function buildLegend() {
  const key = (classes, text, sureness = 1) => make("span", { class: "key text", "aria-hidden": "true" },
    make("span", { class: `cell ${classes}`, "--sureness": sureness }, text));
  const entry = (...parts) => make("span", {}, ...parts), parts = [];
  if (board.text) {
    if (board.keepsClues) parts.push(entry(key("given", "7"), "given"));
    parts.push(entry(key("", "7", 1), "sure"), entry(key("", "7", 0.3), "unsure: short bar"));
    if (shown.labelled) parts.push(entry(key("wrong", "7", 0.6), "wrong"));
  } else {
    const used = new Set([shown.question, ...answerPlanes()].flatMap(plane => Array.from(plane)));
    for (const token of [...used].filter(token => token !== NONE && board.names[token]).sort((a, b) => a - b)) {
      const mark = swatch(token); mark.style.background = board.colours[token];
      parts.push(entry(mark, board.names[token]));
    }
    parts.push(entry("small square: unsure"));
    if (shown.labelled) parts.push(entry("✕ wrong"));
  }
  if (!board.text && board.marks.some(Boolean)) {
    parts.push(choice("marks", "letters on colours", board.marked, on => $("board").classList.toggle("marked", on)));
  }
  if (shown.labelled) {
    parts.push(choice("truth", "show the right answer", !board.keepsClues, on => { $("truth").hidden = !on; }));
  }
  $("legend").replaceChildren(...parts);
}

/** A box to tick, whose state is kept from puzzle to puzzle. */
function choice(name, text, usual, apply) {
  const box = make("input", { type: "checkbox", id: `show-${name}` });
  box.checked = choice[name] ?? usual;
  box.addEventListener("change", () => { choice[name] = box.checked; apply(box.checked); });
  apply(box.checked);
  return make("label", {}, box, text);
}

function buildDemonstrations() {
  const section = $("examples");
  section.hidden = !shown.pairs.length;
  const pairs = shown.pairs.map(([question, answer], i) => make("div", { class: "pair" },
    still(`input ${i + 1}`, question, 132), make("span", { "aria-hidden": "true" }, "→"), still(`output ${i + 1}`, answer, 132)));
  section.replaceChildren(make("h2", {}, "Demonstrations"), make("div", { class: "pairs" }, ...pairs));
}

// Moving about

function paint(forward = false) {
  const track = shown.tracks[state.track];
  $("step").value = state.step;
  $("step").setAttribute("aria-valuetext", state.step ? `step ${state.step} of ${shown.steps}` : "the puzzle");
  $("count").textContent = `${state.step} / ${shown.steps}`;
  $("before").disabled = state.step === 0;
  $("after").disabled = state.step === shown.steps;
  paintBoard(track, forward);
  paintVerdict(track);
  paintCharts();
  paintCellPanel();
  for (const button of $("trajectories").querySelectorAll("button")) button.repaint();
  const where = [`puzzle=${state.puzzle + 1}`, `step=${state.step}`];
  if (shown.tracks.length > 1) where.push(`trajectory=${state.track + 1}`);
  if (location.hash !== "#" + where.join("&")) history.replaceState(null, "", "#" + where.join("&"));
}

function go(step) {
  const next = Math.max(0, Math.min(shown.steps, step)), forward = next === state.step + 1;
  if (next === state.step) return;
  state.step = next;
  paint(forward);
}

function play(on) {
  clearInterval(state.timer);
  state.timer = null;
  if (on) {
    if (state.step === shown.steps) go(0);
    state.timer = setInterval(() => {
      go(state.step + 1);
      if (state.step === shown.steps) play(false);
    }, TEMPO);
  } else if (shown) {
    $("status").textContent = $("verdict").textContent;
  }
  $("play").setAttribute("aria-label", on ? "pause" : "play");
  $("play").querySelector("path").setAttribute("d", on ? "M6 4h4v16H6zM14 4h4v16h-4z" : "M7 4l13 8-13 8z");
}

/** Shows a puzzle of `data.puzzles`. */
async function open(number, step = 0, track = null) {
  if (typeof DecompressionStream === "undefined") {
    complain("This browser is too old for this page: it cannot unpack it. Any browser since 2023 can.");
    return;
  }
  const puzzle = await unpack(data.puzzles[number]);
  shown = puzzle;
  state.puzzle = number;
  state.step = Math.max(0, Math.min(step, shown.steps));
  state.track = Math.max(0, Math.min(track ?? shown.selected ?? 0, shown.tracks.length - 1));
  $("main").hidden = false;
  $("step").max = shown.steps;
  if ($("puzzle").options.length) $("puzzle").value = number;
  $("puzzle-before").disabled = number === 0;
  $("puzzle-after").disabled = number === data.puzzles.length - 1;
  buildDemonstrations();
  buildBoards();
  buildLegend();
  buildTrajectories();
  paint();
}

function complain(text) {
  $("message").textContent = text;
  $("message").hidden = !text;
}

function openHash() {
  if (!data.puzzles.length) return null;
  const asked = new URLSearchParams(location.hash.slice(1)), whole = (name, other) => {
    const value = Number.parseInt(asked.get(name), 10);
    return Number.isNaN(value) ? other : value;
  };
  const number = Math.max(0, Math.min(whole("puzzle", 1) - 1, data.puzzles.length - 1));
  const track = asked.has("trajectory") ? whole("trajectory", 1) - 1 : null;
  if (asked.has("cell")) state.cell = whole("cell", 1) - 1;
  return open(number, whole("step", 0), track);
}

function start() {
  document.title = $("title").textContent = data.title;
  $("about").textContent = data.about;
  data.puzzles.forEach((puzzle, i) => $("puzzle").append(make("option", { value: i }, `${puzzle.name}${outcome(puzzle)}`)));
  $("choose").hidden = data.puzzles.length < 2;
  const another = number => { play(false); state.cell = null; open(number); };
  $("puzzle").addEventListener("change", () => another(Number($("puzzle").value)));
  $("puzzle-before").addEventListener("click", () => another(state.puzzle - 1));
  $("puzzle-after").addEventListener("click", () => another(state.puzzle + 1));
  $("before").addEventListener("click", () => { play(false); go(state.step - 1); });
  $("after").addEventListener("click", () => { play(false); go(state.step + 1); });
  $("play").addEventListener("click", () => play(!state.timer));
  $("step").addEventListener("input", () => { play(false); go(Number($("step").value)); });
  document.addEventListener("keydown", event => {
    const own = event.target.closest("input, select, textarea, button, [role=grid]");
    if (!shown || event.ctrlKey || event.altKey || event.metaKey) return;
    const typed = event.target.closest("input, select, textarea, [role=grid]");
    if (event.key === " " && !own) { event.preventDefault(); play(!state.timer); return; }
    const to = { ArrowLeft: state.step - 1, ArrowRight: state.step + 1, Home: 0, End: shown.steps }[event.key];
    if (to === undefined || typed) return;
    event.preventDefault();
    play(false);
    go(to);
  });
  window.addEventListener("hashchange", openHash);
  window.addEventListener("resize", () => { if (shown) paintCharts(); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    for (const canvas of document.querySelectorAll("canvas.still")) canvas.redraw();
    if (shown) paint();
  });
  openHash();
}

start();
