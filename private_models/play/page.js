"use strict";

const KEY = new URLSearchParams(location.search).get("key") || "";
const STAGES = [
  ["backbone", "features, here"],
  ["encrypt", "encrypt, here"],
  ["server", "server, on ciphertexts"],
  ["decrypt", "decrypt, here"],
];
const SHOWN = 5;
const find = (id) => document.getElementById(id);

let desks = [];
let chosen = 0;
let picked = null; // a file that was chosen or dropped
let drawn = false;

// ------------------------------------------------------------------------- the way to the client

async function get(path, options = {}) {
  const response = await fetch(path, {
    ...options, headers: { "x-key": KEY }, cache: "no-store", redirect: "error",
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
  complain("");
  const desk = desks[chosen];
  find("ask").disabled = true;
  find("ask").textContent = "Asking …";
  try {
    const body = await given(desk.kind);
    const answer = await get(`ask/${chosen}`, { method: "POST", body });
    show(desk, answer);
  } catch (error) {
    complain(error.message);
  } finally {
    find("ask").disabled = false;
    find("ask").textContent = "Ask encrypted";
  }
}

function given(kind) {
  if (kind === "text") return new Blob([find("sentence").value]);
  if (picked) return picked;
  if (kind === "picture") throw new Error("no picture yet: drop one, or choose one");
  return new Promise((done) => find("board").toBlob(done, "image/png"));
}

// ------------------------------------------------------------------------- what came back

function show(desk, answer) {
  find("nothing").hidden = true;
  find("found").hidden = find("journey").hidden = false;
  find("label").textContent = answer.label;
  scores(desk, answer);
  journey(answer);
}

function scores(desk, answer) {
  const order = answer.scores.map((score, at) => [score, desk.classes[at]]);
  order.sort((one, two) => two[0] - one[0]);
  const top = order[0][0];
  const bottom = order[order.length - 1][0];
  find("scores").replaceChildren(...order.slice(0, SHOWN).map(([score, name]) => {
    const line = document.createElement("li");
    const track = piece("span", "track", "");
    const bar = document.createElement("i");
    bar.style.width = `${top > bottom ? (100 * (score - bottom)) / (top - bottom) : 100}%`;
    track.append(bar);
    line.append(piece("span", "name", name), track, piece("span", "value", score.toFixed(2)));
    return line;
  }));
}

function journey(answer) {
  const seen = find("seen");
  seen.hidden = !answer.digit;
  find("count").hidden = Boolean(answer.digit);
  if (answer.digit) paint(seen, answer.digit);
  find("count").textContent = answer.features.toLocaleString();
  find("seen-words").textContent = answer.digit
    ? `centred, then ${answer.features.toLocaleString()} features`
    : "features, made on this machine";
  paint(find("noise"), Array.from(atob(answer.noise), (letter) => letter.charCodeAt(0)));
  find("noise-words").textContent = `what the server gets: ${kilobytes(answer.bytes_up)} of noise`;

  const total = STAGES.reduce((sum, [name]) => sum + answer.milliseconds[name], 0);
  const times = STAGES.map(([name, words]) => [name, words, answer.milliseconds[name]]);
  find("bars").replaceChildren(...times.map(([name, , spent]) => {
    const bar = piece("i", name, "");
    bar.style.width = `${(100 * spent) / total}%`;
    return bar;
  }));
  find("bars").setAttribute("aria-label", times.map(([, w, t]) => `${w} ${t.toFixed(1)} ms`).join(", "));
  find("legend").replaceChildren(...times.map(([name, words, spent]) =>
    piece("li", name, `${words} ${spent.toFixed(1)} ms`)));
  find("bytes").textContent =
    `${total.toFixed(0)} ms in all. ${kilobytes(answer.bytes_up)} up, ${kilobytes(answer.bytes_down)} ` +
    `down, and ${kilobytes(answer.key_bytes)} of evaluation keys once. Ask again: the noise is another.`;
}

function paint(canvas, greys) {
  const context = canvas.getContext("2d");
  const image = context.createImageData(canvas.width, canvas.height);
  for (let at = 0; at < canvas.width * canvas.height; at++) {
    image.data.set([greys[at] || 0, greys[at] || 0, greys[at] || 0, 255], 4 * at);
  }
  context.putImageData(image, 0, 0);
}

const kilobytes = (bytes) => `${(bytes / 1000).toFixed(bytes < 10000 ? 1 : 0)} kB`;

function piece(tag, kind, text) {
  const made = document.createElement(tag);
  made.className = kind;
  made.textContent = text;
  return made;
}

// ------------------------------------------------------------------------- desks

function choose(at) {
  chosen = at;
  picked = null;
  complain("");
  clear();
  const desk = desks[at];
  for (const tab of find("tabs").children) {
    const here = Number(tab.dataset.at) === at;
    tab.setAttribute("aria-selected", String(here));
    tab.tabIndex = here ? 0 : -1;
  }
  for (const kind of ["digit", "picture", "text"]) find(kind).hidden = desk.kind !== kind;
  find("task").textContent = {
    digit: "Draw a digit", picture: "Show a picture", text: "Write something",
  }[desk.kind] || "This model takes arrays: ask it in Python";
  find("ask").disabled = desk.kind === "vector";
  find("stays").textContent =
    `What you ${desk.kind === "text" ? "write" : "show"} stays on this machine, and so do the keys.`;
  find("nothing").hidden = false;
  find("found").hidden = find("journey").hidden = true;
  promise(desk);
}

function promise(desk) {
  const rows = [
    ["Those it learnt from", desk.is_private
      ? `Whoever sees the model or its answers can hardly tell whether any one of them was there: ${desk.promise}. ` +
        "The smaller epsilon is, the less can be told; at 1, the odds of any guess change by a factor of at most e, or 2.7, " +
        "but for the small chance delta."
      : "NOT protected: this model promises no privacy to those whose data it learnt from."],
    ["Your question", "The server gets the encrypted features only, at 128-bit security, whether it keeps to the rules or not: " +
      "as long as nothing decrypted, not even the label, goes back to it."],
    ["The model", desk.response === "private"
      ? "You see scores, and nothing more of the model than they show. Who may ask often enough can rebuild it from them."
      : "NOT protected: answers are plain, and show the model to whoever looks closely."],
    ["Not hidden", "That you asked, when, and how often. Whether the answer is right is the server's word."],
    ["Made by", `${desk.backbone}: public, and on this machine. ${desk.features.toLocaleString()} numbers are encrypted.`],
  ];
  find("who").replaceChildren(...rows.map(([name, words]) => {
    const row = document.createElement("tr");
    const head = piece("th", "", name);
    head.scope = "row";
    row.append(head, piece("td", "", words));
    return row;
  }));
  find("statement").textContent = desk.statement || "none";
}

// ------------------------------------------------------------------------- inputs

function clear() {
  const board = find("board");
  board.getContext("2d").clearRect(0, 0, board.width, board.height);
  const context = board.getContext("2d");
  context.fillStyle = "#000";
  context.fillRect(0, 0, board.width, board.height);
  drawn = false;
  picked = null;
  find("sentence").value = "";
  for (const id of ["file", "digit-file"]) find(id).value = "";
  find("preview").hidden = true;
  find("preview").removeAttribute("src");
  find("drop-words").hidden = false;
}

function drawing() {
  const board = find("board");
  const context = board.getContext("2d");
  let last = null;
  const place = (event) => {
    const frame = board.getBoundingClientRect();
    return [
      ((event.clientX - frame.left) * board.width) / frame.width,
      ((event.clientY - frame.top) * board.height) / frame.height,
    ];
  };
  const line = (from, to) => {
    context.strokeStyle = "#fff";
    context.lineWidth = 24;
    context.lineCap = context.lineJoin = "round";
    context.beginPath();
    context.moveTo(...from);
    context.lineTo(...to);
    context.stroke();
    drawn = true;
  };
  board.addEventListener("pointerdown", (event) => {
    board.setPointerCapture(event.pointerId);
    if (picked) clear();
    last = place(event);
    line(last, last);
  });
  board.addEventListener("pointermove", (event) => {
    if (last === null) return;
    const parts = event.getCoalescedEvents ? event.getCoalescedEvents() : [event];
    for (const part of parts.length ? parts : [event]) {
      const next = place(part);
      line(last, next);
      last = next;
    }
  });
  for (const name of ["pointerup", "pointercancel"]) {
    board.addEventListener(name, () => {
      if (last !== null && drawn) ask();
      last = null;
    });
  }
  board.addEventListener("keydown", (event) => {
    if (event.key === "Delete" || event.key === "Backspace") clear();
    if (event.key === "Enter") ask();
  });
}

function take(file) {
  if (!file) return;
  picked = file;
  const preview = find("preview");
  if (preview.src) URL.revokeObjectURL(preview.src);
  preview.src = URL.createObjectURL(file);
  preview.alt = "the chosen picture";
  preview.hidden = false;
  find("drop-words").hidden = true;
  ask();
}

function dropping() {
  const drop = find("drop");
  for (const name of ["dragover", "dragleave", "drop"]) {
    document.addEventListener(name, (event) => {
      event.preventDefault();
      drop.classList.toggle("over", name === "dragover");
      if (name === "drop" && desks[chosen].kind !== "text") take(event.dataTransfer.files[0]);
    });
  }
  for (const id of ["file", "digit-file"]) {
    find(id).addEventListener("change", () => take(find(id).files[0]));
  }
}

async function begin() {
  find("ask").addEventListener("click", ask);
  find("clear").addEventListener("click", () => { clear(); complain(""); });
  drawing();
  dropping();
  try {
    desks = await get("desks");
  } catch (error) {
    complain(error.message);
    return;
  }
  find("tabs").replaceChildren(...desks.map((desk, at) => {
    const tab = piece("button", "", desk.name);
    tab.type = "button";
    tab.dataset.at = at;
    tab.setAttribute("role", "tab");
    tab.setAttribute("aria-controls", "desk");
    tab.addEventListener("click", () => choose(at));
    return tab;
  }));
  find("tabs").addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    choose((chosen + step + desks.length) % desks.length);
    find("tabs").children[chosen].focus();
  });
  choose(0);
}

begin();
