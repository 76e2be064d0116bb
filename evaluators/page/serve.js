
// One's own puzzle: a board to type it into, solved by the server of this page as one watches.
const own = data.serve;
let inputs = [];  // the cells of the editor, by number
let solving = null;  // the request that runs

/** Reads the board, or the text where the kind is not typed cell by cell. */
function typed() {
  if (!own.alphabet) return $("own-text").value.trim();
  return inputs.map(input => input.value || own.blank).join("");
}

function setCell(cell, character) {
  const input = inputs[cell], token = [...own.alphabet].indexOf(own.also[character] ?? character) + 1;
  const blank = character === own.blank || own.also[character] === own.blank;
  input.value = blank ? "" : character;
  if (!board.text) input.style.background = board.colours[blank ? board.blank : token];
  input.setAttribute("aria-label", `${placeOf(cell)}${blank ? ", blank" : ""}`);
}

const known = character => own.alphabet.includes(character) || character in own.also;

/** Fills the board with characters from a cell on. Returns what is wrong with them, or "". */
function fill(text, from = 0) {
  const clean = own.alphabet.includes(" ") ? text.replace(/[\r\n]/g, "") : text.replace(/\s/g, "");
  const characters = [...clean], first = characters.length === L ? 0 : from, wrong = characters.findIndex(one => !known(one));
  if (wrong >= 0) return `Character ${wrong + 1} is “${characters[wrong]}”; a cell is one of “${own.alphabet}”.`;
  if (first + characters.length > L) {
    return `That is ${characters.length} characters; the board has ${L} cells${first ? `, ${L - first} from this one on` : ""}.`;
  }
  characters.forEach((character, i) => setCell(first + i, character));
  return "";
}

function editCell(cell) {
  const numeric = /^[\d.]+$/.test(own.alphabet);
  const input = make("input", { inputmode: numeric ? "numeric" : "text", autocomplete: "off", autocapitalize: "off", spellcheck: "false",
    tabindex: cell ? -1 : 0 });
  const focus = next => {
    if (next < 0 || next >= L) return;
    input.tabIndex = -1;
    inputs[next].tabIndex = 0;
    inputs[next].focus();
  };
  input.addEventListener("focus", () => input.select());
  input.addEventListener("input", () => {
    const character = [...input.value].at(-1) ?? own.blank;
    complain(known(character) ? "" : `“${character}” is no cell; a cell is one of “${own.alphabet}”.`);
    setCell(cell, known(character) ? character : own.blank);
    if (known(character)) focus(cell + 1);
  });
  input.addEventListener("keydown", event => {
    const move = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -board.columns, ArrowDown: board.columns }[event.key];
    if (event.key === "Enter") solve();
    if (event.key === "Backspace" && !input.value && cell) {
      setCell(cell - 1, own.blank);
      focus(cell - 1);
    } else if (event.key === "Backspace" || event.key === "Delete") {
      setCell(cell, own.blank);
    } else if (event.key === " ") {
      setCell(cell, own.blank);
      focus(cell + 1);
    } else if (move) {
      focus(cell + move);
    } else {
      return;
    }
    event.preventDefault();
  });
  input.addEventListener("paste", event => {
    event.preventDefault();
    complain(fill(event.clipboardData.getData("text"), cell));
  });
  inputs[cell] = input;
  return input;
}

function buildEditor() {
  const buttons = [["solve", "Solve", "main", () => solve()], ["clear", "Clear", "", () => clear()],
    ...own.examples.length ? [["example", "Another example", "", () => example()]] : []];
  const row = make("div", { class: "row" }, ...buttons.map(([id, text, look, act]) => {
    const button = make("button", { type: "button", id, class: look }, text);
    button.addEventListener("click", act);
    return button;
  }));
  const parts = [make("h2", { id: "editor-title" }, "Your puzzle")];
  if (own.alphabet) {
    const rows = Array.from({ length: board.rows }, (_, r) => Array.from({ length: board.columns }, (_, c) => r * board.columns + c));
    const element = grid(rows, "your puzzle", [], (cell, all) => {
      const parent = make("div", { class: "cell empty", role: "gridcell" }, editCell(cell));
      edges(parent, cell, all);
      return parent;
    });
    const blanks = [own.blank, ...Object.keys(own.also).filter(one => own.also[one] === own.blank)].filter(one => one.trim());
    const way = blanks.length ? `; ${blanks.join(" or ")} or Space is a blank` : "";
    parts.push(element, make("p", { class: "soft hint" },
      `Type into the cells, or paste a whole puzzle, a character a cell${way}. Characters: ${[...own.alphabet].filter(one => one.trim()).join(" ")}`));
  } else {
    parts.push(make("label", { for: "own-text", class: "soft" }, own.format),
      make("textarea", { id: "own-text", spellcheck: "false", autocomplete: "off" }));
  }
  $("editor").replaceChildren(...parts, row);
  if (own.alphabet) inputs.forEach((_, cell) => setCell(cell, own.blank));
  if (own.examples.length) example();
}

function clear() {
  complain("");
  if (own.alphabet) inputs.forEach((_, cell) => setCell(cell, own.blank));
  else $("own-text").value = "";
}

function example() {
  const text = own.examples[example.next = ((example.next ?? -1) + 1) % own.examples.length];
  complain("");
  if (own.alphabet) fill(text);
  else $("own-text").value = text;
}

function edit() {
  solving?.abort();
  play(false);
  $("main").hidden = true;
  $("editor").hidden = false;
  $("again").hidden = true;
  ($("own-text") || inputs[0]).focus();
}

/** Sends the puzzle, and shows each answer as the server writes it, a line a step. */
async function solve() {
  complain("");
  const mine = solving = new AbortController();
  $("solve").disabled = true;
  $("solve").textContent = "Thinking…";
  try {
    const response = await fetch("/solve", { method: "POST", headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ puzzle: typed() }), signal: mine.signal });
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let text = "", lines = 0;
    for (;;) {
      const { value, done } = await reader.read();
      text += value ?? "";
      const whole = text.split("\n");
      text = whole.pop();
      for (const line of whole) await take(JSON.parse(line), lines++);
      if (done) break;
    }
  } catch (error) {
    if (error.name !== "AbortError") complain("The server does not answer. Is it still running?");
  } finally {
    if (solving === mine) solving = null;
    $("solve").disabled = false;
    $("solve").textContent = "Solve";
  }
}

async function take(line, number) {
  if (line.error) { complain(line.error); return; }
  const follows = number === 0 || state.step === shown.steps;
  data.puzzles = [line.puzzle];
  $("editor").hidden = true;
  $("again").hidden = false;
  if (number === 0) { await open(0, 1); $("again").focus(); return; }
  const track = state.track;
  shown = await unpack(line.puzzle);
  state.track = Math.min(track, shown.tracks.length - 1);
  if (shown.selected !== null) state.track = shown.selected;
  $("step").max = shown.steps;
  if (!board.keepsClues) { buildBoards(); buildLegend(); }
  buildTrajectories();
  const before = state.step;
  if (follows) state.step = shown.steps;
  paint(state.step === before + 1);
}

function startServed() {
  const again = make("button", { type: "button", id: "again" }, "Change the puzzle");
  again.hidden = true;
  again.addEventListener("click", edit);
  document.querySelector("header").append(again);
  buildEditor();
  $("editor").hidden = false;
}

startServed();
