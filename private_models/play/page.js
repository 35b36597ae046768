"use strict";

const KEY = new URLSearchParams(location.search).get("key") || "";
const STAGES = [
  ["backbone", "Features", "own"],
  ["encrypt", "Encrypt", "own"],
  ["server", "Server, on noise", "other"],
  ["decrypt", "Decrypt", "own"],
];
const SHOWN = 5;
const SIDE = 28;
const DARK_TO_LIGHT = { noise: [[24, 16, 48], [232, 224, 255]], features: [[12, 38, 36], [190, 240, 228]] };
const STEP = 0.04; // of the board, for an arrow key
const find = (id) => document.getElementById(id);

let desks = [];
let chosen = 0;
let strokes = []; // each a list of [x, y] in the unit square
let picked = null; // a file that was chosen or dropped
let cursor = null; // the keyboard's pen: {x, y, down}
let asking = false;
let again = false;
const lastQuery = []; // of every desk, to compare the next one with

// ------------------------------------------------------------------------- the way to the client

async function get(path, options = {}) {
  const response = await fetch(path, {
    ...options, headers: { ...options.headers, "x-key": KEY }, cache: "no-store", redirect: "error",
  });
  const value = await response.json().catch(() => null);
  if (!response.ok || value === null) {
    throw new Error((value && value.error) || `the page's server answered ${response.status}`);
  }
  return value;
}

function complain(line) {
  find("fault").textContent = line;
  find("fault").hidden = !line;
}

async function ask() {
  again = asking; // what changed meanwhile is asked when the answer is there
  if (asking) return;
  asking = true;
  find("ask").disabled = true;
  find("ask").textContent = "Asking …";
  do {
    again = false;
    await askOnce(chosen);
  } while (again);
  asking = false;
  find("ask").disabled = desks[chosen].kind === "vector";
  find("ask").textContent = "Ask encrypted";
}

async function askOnce(at) {
  complain("");
  try {
    const answer = await get(`ask/${at}`, { method: "POST", ...given(desks[at].kind) });
    if (at === chosen) show(at, answer);
  } catch (error) {
    if (at === chosen) complain(error instanceof TypeError ? "private-models play has ended" : error.message);
  }
}

function given(kind) {
  const whole = { "content-type": "application/octet-stream" };
  if (kind === "text") return { headers: whole, body: new Blob([find("sentence").value]) };
  if (picked) return { headers: whole, body: picked };
  if (kind === "picture") throw new Error("no picture yet: drop one, or choose one");
  return { headers: { "content-type": "application/json" }, body: JSON.stringify(strokes) };
}

// ------------------------------------------------------------------------- what came back

function show(at, answer) {
  find("nothing").hidden = true;
  find("found").hidden = find("journey").hidden = false;
  find("label").textContent = answer.label;
  find("label").classList.toggle("long", answer.label.length > 8);
  scores(desks[at], answer);
  made(answer);
  sent(at, answer);
  times(answer);
}

function scores(desk, answer) {
  const order = answer.scores.map((score, at) => [score, desk.classes[at]]);
  order.sort((one, two) => two[0] - one[0]);
  const top = order[0][0];
  const bottom = Math.min(0, order[order.length - 1][0]);
  find("scores").replaceChildren(...order.slice(0, SHOWN).map(([score, name]) => {
    const line = document.createElement("li");
    const share = top > bottom ? (score - bottom) / (top - bottom) : 1;
    line.append(piece("span", "name", name), track(share), piece("span", "value", score.toFixed(2).replace("-", "−")));
    return line;
  }));
}

function made(answer) {
  document.querySelector(".made").hidden = false;
  find("seen").hidden = !answer.digit;
  if (answer.digit) paint(find("seen"), bytes(answer.digit), "features");
  const features = new Float32Array(bytes(answer.features).buffer);
  const low = features.reduce((a, b) => Math.min(a, b), Infinity);
  const high = features.reduce((a, b) => Math.max(a, b), -Infinity);
  paint(find("features"), features.map((value) => (255 * (value - low)) / (high - low || 1)), "features");
  find("features-words").textContent =
    `${features.length.toLocaleString()} features, ${kilobytes(4 * features.length)}, made here. They stay here too.`;
}

function sent(at, answer) {
  const query = bytes(answer.query);
  paint(find("noise"), query, "noise");
  find("noise-words").textContent =
    `${kilobytes(query.length)} went up, every byte a dot, with ${entropy(query).toFixed(2)} bits of entropy of at most 8.`;
  const before = lastQuery[at];
  lastQuery[at] = query;
  let same = 0;
  if (before) query.forEach((value, place) => { same += value === before[place]; });
  find("same-words").textContent = before
    ? `${((100 * same) / query.length).toFixed(1)} % of the bytes are as the last time: 0.4 % by chance, and the header.`
    : "Ask again: the noise is another, even for the same question.";
  find("down-words").textContent =
    `Decrypted here, from ${kilobytes(bytes(answer.answer).length)} that came back. The server never had it.`;
}

function times(answer) {
  const spent = STAGES.map(([name]) => answer.milliseconds[name]);
  const most = Math.max(...spent);
  const total = spent.reduce((sum, value) => sum + value, 0);
  find("bars").tBodies[0].replaceChildren(...STAGES.map(([, words, whose], at) => {
    const row = piece("tr", whose, "");
    const head = piece("th", "", words);
    head.scope = "row";
    const bar = document.createElement("td");
    bar.append(track(spent[at] / most));
    row.append(head, bar, piece("td", "value", `${spent[at].toFixed(1)} ms`));
    return row;
  }));
  find("bytes").textContent =
    `${total.toFixed(0)} ms in all. ${kilobytes(bytes(answer.query).length)} up, ` +
    `${kilobytes(bytes(answer.answer).length)} down; evaluation keys once, ${kilobytes(answer.key_bytes)}.`;
}

function track(share) {
  const made = piece("span", "track", "");
  const bar = document.createElement("i");
  bar.style.width = `${Math.max(0, 100 * share)}%`;
  made.style.display = "block";
  made.append(bar);
  return made;
}

/** Values from 0 to 255 as the pixels of a square, as large as it takes. */
function paint(canvas, values, tones) {
  const side = Math.ceil(Math.sqrt(values.length));
  canvas.width = canvas.height = side;
  const context = canvas.getContext("2d");
  const image = context.createImageData(side, side);
  const [dark, light] = DARK_TO_LIGHT[tones];
  values.forEach((value, at) => {
    for (let tone = 0; tone < 3; tone++) {
      image.data[4 * at + tone] = dark[tone] + ((light[tone] - dark[tone]) * value) / 255;
    }
    image.data[4 * at + 3] = 255;
  });
  context.putImageData(image, 0, 0);
}

/** Of single bytes, in bits: 8 if every value is as frequent as any other. */
function entropy(values) {
  const counts = new Array(256).fill(0);
  values.forEach((value) => { counts[value]++; });
  return counts.reduce((sum, n) => sum - (n ? (n / values.length) * Math.log2(n / values.length) : 0), 0);
}

const bytes = (letters) => Uint8Array.from(atob(letters), (letter) => letter.charCodeAt(0));
const kilobytes = (count) => `${(count / 1000).toFixed(count < 10000 ? 1 : 0)} kB`;

function piece(tag, kind, text) {
  const made = document.createElement(tag);
  made.className = kind;
  made.textContent = text;
  return made;
}

// ------------------------------------------------------------------------- desks

function choose(at) {
  chosen = at;
  clear();
  const desk = desks[at];
  for (const tab of find("tabs").children) {
    const here = Number(tab.dataset.at) === at;
    tab.setAttribute("aria-selected", String(here));
    tab.tabIndex = here ? 0 : -1;
    if (here) find("desk").setAttribute("aria-labelledby", tab.id);
  }
  for (const kind of ["digit", "picture", "text"]) find(kind).hidden = desk.kind !== kind;
  find("task").textContent = {
    digit: "Draw a digit", picture: "Show a picture", text: "Write something",
  }[desk.kind] || "This model takes arrays: ask it in Python";
  if (!asking) find("ask").disabled = desk.kind === "vector";
  find("clear").hidden = desk.kind === "vector";
  promise(desk);
}

function promise(desk) {
  const rows = [
    ["Those it learnt from", desk.is_private, desk.is_private
      ? `Whoever sees the model or its answers can ${desk.epsilon > 2 ? "tell only within limits, and wide ones," : "hardly tell"} ` +
        `whether any one of them was there: ${desk.promise}. ` +
        "The odds of any guess change by a factor of at most e to the epsilon, here " +
        `${Math.exp(desk.epsilon).toLocaleString(undefined, { maximumSignificantDigits: 3 })}, but for a chance of about delta.`
      : "NOT protected: this model promises no privacy to those whose data it learnt from."],
    ["Your question", true, "The server gets encrypted features and nothing else, at 128-bit security (CKKS), whether it keeps to the " +
      "rules or not, as long as nothing decrypted, not even the label, goes back to it."],
    ["The model", desk.response === "private", desk.response === "private"
      ? "You see scores, and nothing more of the model than they show. Who may ask often enough can rebuild it from them."
      : "NOT protected: answers are plain, and show the model to whoever looks closely."],
    ["Not hidden", false, "That you asked, when, and how often. Whether the answer is right is the server's word. " +
      "On this machine, whatever can read your browser can read what you ask."],
    ["Made by", true, `${desk.backbone}: public, and on this machine. The server is ${desk.place}.`],
  ];
  find("who").replaceChildren(...rows.flatMap(([name, closed, words]) =>
    [piece("dt", closed ? "" : "open", name), piece("dd", "", words)]));
  find("statement").textContent = desk.statement || "none";
}

// ------------------------------------------------------------------------- inputs

function clear() {
  strokes = [];
  cursor = null;
  complain("");
  unpick();
  find("sentence").value = "";
  redraw();
  forget();
}

function unpick() {
  picked = null;
  for (const id of ["file", "digit-file"]) find(id).value = "";
  find("preview").hidden = true;
}

/** An answer to what is no longer there. */
function forget() {
  find("nothing").hidden = false;
  find("found").hidden = find("journey").hidden = document.querySelector(".made").hidden = true;
  find("noise").width = find("noise").height;
  find("noise-words").textContent = "Nothing was sent yet. Each byte that is will be a dot here.";
  for (const id of ["same-words", "down-words"]) find(id).textContent = "";
}

function redraw() {
  const board = find("board");
  const context = board.getContext("2d");
  context.clearRect(0, 0, board.width, board.height);
  context.strokeStyle = "#fff";
  context.lineWidth = board.width / 14;
  context.lineCap = context.lineJoin = "round";
  for (const stroke of strokes) {
    context.beginPath();
    context.moveTo(stroke[0][0] * board.width, stroke[0][1] * board.height);
    for (const [x, y] of stroke) context.lineTo(x * board.width, y * board.height);
    context.stroke();
  }
  if (cursor && document.activeElement === board) {
    context.fillStyle = cursor.down ? "#ffb347" : "#74cabf";
    context.beginPath();
    context.arc(cursor.x * board.width, cursor.y * board.height, 9, 0, 7);
    context.fill();
  }
}

function byPointer() {
  const board = find("board");
  let pen = null;
  const place = (event) => {
    const frame = board.getBoundingClientRect();
    const inside = (value) => Math.min(1, Math.max(0, value));
    return [inside((event.clientX - frame.left) / frame.width), inside((event.clientY - frame.top) / frame.height)];
  };
  board.addEventListener("pointerdown", (event) => {
    if (pen !== null || event.button !== 0) return;
    if (picked) clear();
    board.setPointerCapture(event.pointerId);
    pen = event.pointerId;
    cursor = null;
    strokes.push([place(event)]);
    redraw();
  });
  board.addEventListener("pointermove", (event) => {
    if (pen !== event.pointerId) return;
    const parts = event.getCoalescedEvents ? event.getCoalescedEvents() : [];
    for (const part of parts.length ? parts : [event]) strokes[strokes.length - 1].push(place(part));
    redraw();
  });
  for (const name of ["pointerup", "pointercancel"]) {
    board.addEventListener(name, (event) => {
      if (pen !== event.pointerId) return;
      pen = null;
      ask();
    });
  }
}

function byKeys() {
  const board = find("board");
  const ways = { ArrowLeft: [-STEP, 0], ArrowRight: [STEP, 0], ArrowUp: [0, -STEP], ArrowDown: [0, STEP] };
  board.addEventListener("keydown", (event) => {
    const way = ways[event.key];
    if (event.key === "Enter") return void ask();
    if (event.key === "Delete" || event.key === "Backspace") return clear();
    if (!way && event.key !== " ") return;
    event.preventDefault();
    if (picked) clear();
    cursor = cursor || { x: 0.5, y: 0.5, down: false };
    if (way) {
      cursor.x = Math.min(1, Math.max(0, cursor.x + way[0]));
      cursor.y = Math.min(1, Math.max(0, cursor.y + way[1]));
      if (cursor.down) strokes[strokes.length - 1].push([cursor.x, cursor.y]);
    } else {
      cursor.down = !cursor.down;
      if (cursor.down) strokes.push([[cursor.x, cursor.y]]);
      else ask();
    }
    redraw();
  });
  for (const name of ["focus", "blur"]) board.addEventListener(name, redraw);
}

async function take(file) {
  if (!file) return;
  strokes = [];
  redraw();
  picked = file;
  ask();
  const target = desks[chosen].kind === "picture" ? find("preview") : find("board");
  const bitmap = await createImageBitmap(file).catch(() => null); // what is wrong with it is told by the answer
  if (bitmap === null || picked !== file) return;
  if (target.id === "preview") {
    const scale = Math.min(1, 640 / Math.max(bitmap.width, bitmap.height));
    target.width = Math.max(1, bitmap.width * scale);
    target.height = Math.max(1, bitmap.height * scale);
    target.hidden = false;
  }
  target.getContext("2d").drawImage(bitmap, 0, 0, target.width, target.height);
}

function byFiles() {
  const drop = find("drop");
  for (const name of ["dragover", "dragleave", "drop"]) {
    document.addEventListener(name, (event) => {
      event.preventDefault();
      drop.classList.toggle("over", name === "dragover");
      const takes = desks.length && ["digit", "picture"].includes(desks[chosen].kind);
      if (name === "drop" && takes) take(event.dataTransfer.files[0]);
    });
  }
  for (const id of ["file", "digit-file"]) {
    find(id).addEventListener("change", () => take(find(id).files[0]));
  }
}

function tabs() {
  find("tabs").replaceChildren(...desks.map((desk, at) => {
    const tab = piece("button", "", desk.name);
    tab.type = "button";
    tab.id = `tab-${at}`;
    tab.dataset.at = at;
    tab.setAttribute("role", "tab");
    tab.setAttribute("aria-controls", "desk");
    tab.addEventListener("click", () => choose(at));
    return tab;
  }));
  find("tabs").addEventListener("keydown", (event) => {
    const last = desks.length - 1;
    const to = {
      ArrowRight: chosen === last ? 0 : chosen + 1, ArrowLeft: chosen === 0 ? last : chosen - 1,
      Home: 0, End: last,
    }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    choose(to);
    find("tabs").children[to].focus();
  });
}

async function begin() {
  find("ask").addEventListener("click", ask);
  find("clear").addEventListener("click", clear);
  find("sentence").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) ask();
  });
  byPointer();
  byKeys();
  byFiles();
  try {
    desks = await get("desks");
  } catch (error) {
    complain(error.message);
    return;
  }
  tabs();
  choose(0);
}

begin();
