"use strict";
// The script of relate.html: questions, names, sorting, and confirmed.csv. It asks nobody for
// anything. Texts of strangers are only ever set as text, never as HTML.

const data = JSON.parse(document.getElementById("page-data").textContent);
const at = (id) => document.getElementById(id);
const all = (selector) => [...document.querySelectorAll(selector)];
const SVG = "http://www.w3.org/2000/svg";

// Answers: rows of confirmed.csv by the key of their question, in the order they were given.
// Before a change its key and former rows go to `past`, for undo.
let answers = new Map();
let past = [];
let current = 0;
let saved = true;

let names = data.people;
const questionOf = new Map(data.questions.map((question, number) => [question.key, number]));
const open = () => data.questions.slice(0, data.main).filter((q) => !answers.has(q.key)).length;

// What the page keeps in this browser, where the browser lets it

const PLACE = "kinembed-relate-" + data.page;

function load() {
  for (const row of data.rows) put(row.key, [...(answers.get(row.key) || []), row]);
  let kept = null;
  try {
    kept = JSON.parse(localStorage.getItem(PLACE));
  } catch {
    return false; // file:// may have no storage: answers last as long as the page is open
  }
  if (!kept) return false;
  answers = new Map(kept.answers);
  saved = kept.saved;
  return !saved;
}

function keep() {
  try {
    localStorage.setItem(PLACE, JSON.stringify({ answers: [...answers], saved }));
    return true;
  } catch {
    return false;
  }
}

// Answering

function put(key, rows) {
  if (rows && rows.length) answers.set(key, rows);
  else answers.delete(key);
}

function change(key, rows, said) {
  past.push([key, answers.get(key)]);
  put(key, rows);
  saved = false;
  keep();
  refresh();
  say(said);
}

function undo() {
  if (!past.length) return say("There is nothing to undo.");
  const [key, rows] = past.pop();
  put(key, rows);
  saved = false;
  keep();
  if (questionOf.has(key)) current = questionOf.get(key);
  refresh();
  say("Undone. " + (questionOf.has(key) ? position() : ""));
}

// A side of a row: the name of a face, and the mark that ties the answer to it.
const end = (side, face) => ({ [side]: data.faces[face][0], [side + "_mark"]: data.faces[face][3] });

function answer(isYes) {
  const question = data.questions[current];
  if (!question) return;
  const word = question.people ? (isYes ? "kin" : "not-kin") : isYes ? "same" : "different";
  const row = { answer: word, ...end("left", question.left[0]), ...end("right", question.right[0]) };
  const said = (isYes ? "Yes: " : "No: ") + sentence(question.key, row) + ". ";
  const key = question.key;
  const last = current === data.main - 1;
  if (!last && current < data.questions.length - 1) current += 1;
  change(key, [row], said + (last ? `That was the last one. ${todo()}` : position()));
}

const TWICE = "Another card has this name, too: they count as one person. If not, add a surname.";

// As kinembed takes names: NAME or FAMILY/NAME.
const NAME = /^[^/\\\x00-\x1f\x7f-\x9f]+(\/[^/\\\x00-\x1f\x7f-\x9f]+)?$/;

function rename(person, typed) {
  const name = typed.trim().normalize("NFC");
  const key = "name:" + person;
  if (name === names[person]) return;
  if (name && (!NAME.test(name) || name.split("/").some((part) => /^\.?\.?$/.test(part)))) {
    refresh();
    return say(`${name} is no name: write NAME, or FAMILY/NAME. The name stays as it was.`);
  }
  const row = { answer: "name", ...end("left", data.firsts[person]), right: name };
  const twice = names.some((other, number) => number !== person && name && other === name);
  const said = name ? `Named: ${name}.${twice ? ` ${TWICE}` : ""}` : "The name is taken back.";
  change(key, name ? [row] : [], said);
}

function move(step) {
  if (!data.questions.length) return;
  const next = current + step;
  if (next < 0) return say("This is the first question.");
  if (next >= data.questions.length) return say(`This is the last question. ${todo()}`);
  current = next;
  refresh();
  say(position());
}

function jump(number) {
  current = number;
  refresh();
  at("card").scrollIntoView({ block: "nearest" });
  at("card").focus();
}

// Names, as typed where there is an answer; a name that was taken back is no longer known.
function named() {
  const result = [...data.people];
  const isName = (row) => row.answer === "name" && row.key.startsWith("name:");
  for (const row of data.rows.filter(isName)) result[row.key.slice(5)] = "no name";
  for (const [key, rows] of answers)
    if (key.startsWith("name:")) result[key.slice(5)] = rows[rows.length - 1].right;
  return result;
}

// In words

const place = () =>
  current < data.main
    ? `Question ${current + 1} of ${data.main}`
    : `A less likely pair, ${current - data.main + 1} of ${data.questions.length - data.main}`;

// The question in a line, for who hears the page.
function position() {
  const question = data.questions[current];
  const [left, right] = (question.people || question.owners).map((person) => names[person]);
  if (question.people) return `${place()}: are ${left} and ${right} kin?`;
  if (left === right) return `${place()}: are all these photos of ${left}?`;
  return `${place()}: are ${left} and ${right} one person?`;
}
const todo = () => (open() ? `${open()} are open.` : "All are answered. Save your answers.");

// A row of confirmed.csv as a sentence.
function sentence(key, row) {
  const [what, ...ends] = key.split(":");
  const question = data.questions[questionOf.get(key)];
  let [left, right] = [`the face ${row.left}`, `the face ${row.right}`];
  if (what === "gone") left += " (which is gone or changed, so this is kept, but not used)";
  if (what === "kin") [left, right] = ends.map((person) => names[person]);
  if (what === "same") {
    [left, right] = question.owners.map((person) => names[person]);
    if (left === right)
      return `the photos of ${left} are of ${row.answer === "same" ? "one person" : "two people"}`;
  }
  switch (row.answer) {
    case "kin": return `${left} and ${right} are kin`;
    case "not-kin": return `${left} and ${right} are not kin`;
    case "same": return `${left} and ${right} are one person`;
    case "different": return `${left} and ${right} are two people`;
    default: return `${what === "gone" ? left : row.left} is named ${row.right}`;
  }
}

// The first answer that others contradict, in words: `kinembed relate` would refuse them.
function conflict() {
  const parent = new Map();
  const root = (face) => (parent.has(face) ? root(parent.get(face)) : face);
  const join = (a, b) => root(a) !== root(b) && parent.set(root(a), root(b));
  const used = [...answers].filter(([key]) => !key.startsWith("gone:"));
  const all = used.flatMap(([key, rows]) => rows.map((row) => [key, row]));
  for (const [, row] of all) if (row.answer === "same") join(row.left, row.right);
  const faceOf = (person) => data.faces[data.firsts[person]][0];
  const isKnown = (person) => data.named[person] || given("name:" + person) !== "";
  for (const [name, , person] of Object.values(data.faces))
    if (data.named[person]) join(name, faceOf(person));
  const called = new Map();
  for (const [person, name] of names.entries()) {
    if (!isKnown(person)) continue;
    if (called.has(name)) join(faceOf(person), faceOf(called.get(name)));
    called.set(name, person);
  }
  const nameOf = new Map();
  for (const [name, person] of called) {
    const face = root(faceOf(person));
    if (nameOf.has(face)) return `${nameOf.get(face)} and ${name} are two names of one person.`;
    nameOf.set(face, name);
  }
  const kin = new Map();
  for (const [key, row] of all) {
    if (row.answer === "same" || row.answer === "name") continue;
    const ends = [root(row.left), root(row.right)].sort();
    const said = sentence(key, row);
    if (ends[0] === ends[1]) return `${said}, but are one person by other answers or by name.`;
    if (row.answer === "different") continue;
    const pair = JSON.stringify(ends);
    if (kin.has(pair) && kin.get(pair) !== row.answer) return `${said}, but the same two are not.`;
    kin.set(pair, row.answer);
  }
  return "";
}

function say(text) {
  at("status").textContent = text;
  at("unsaved").hidden = saved;
}

// Showing

function refresh() {
  names = named();
  const problem = conflict();
  at("conflict").textContent = problem && `Answers contradict each other: ${problem} Change one.`;
  showQuestion();
  showAnswers();
  for (const [person, name] of names.entries()) showName(person, name);
  for (const question of data.questions) if (question.people) showLink(question);
  at("undo").disabled = !past.length;
}

function given(key) {
  const rows = answers.get(key);
  return rows ? rows[rows.length - 1].answer : "";
}

function showQuestion() {
  const question = data.questions[current];
  at("card").hidden = !question;
  if (!question) return;
  const kin = Boolean(question.people);
  at("where").textContent = place() + (open() ? `; ${open()} open` : "; all are answered");
  at("ask").textContent = kin
    ? "Are these two people kin, by blood?"
    : "Are these all one and the same person?";
  at("note").textContent = question.note;
  for (const [place, side] of ["left", "right"].entries()) {
    at(side + "-name").textContent = sideName(question, place);
    at(side + "-name").dir = "auto";
    at(side).replaceChildren(...question[side].map(figure));
  }
  const word = given(question.key);
  const isYes = word === "kin" || word === "same";
  at("yes").setAttribute("aria-pressed", Boolean(word) && isYes);
  at("no").setAttribute("aria-pressed", Boolean(word) && !isYes);
  at("given").textContent = word ? `Answered: ${isYes ? "yes" : "no"}. You can change it.` : "";
  at("clear").disabled = !word;
  at("back").disabled = current === 0;
  at("next").disabled = current === data.questions.length - 1;
}

function sideName(question, place) {
  if (question.people) return names[question.people[place]];
  const [left, right] = question.owners;
  if (left !== right) return names[question.owners[place]];
  return `${names[left]}: ${place ? "other photos" : "some photos"}`;
}

function figure(face) {
  const picture = document.createElementNS(SVG, "svg");
  const photo = data.faces[face][1];
  picture.setAttribute("class", "face");
  picture.setAttribute("viewBox", "0 0 112 112");
  picture.setAttribute("role", "img");
  picture.setAttribute("aria-label", `face on ${photo}`);
  const use = document.createElementNS(SVG, "use");
  use.setAttribute("href", "#f" + face);
  picture.append(use);
  const caption = document.createElement("figcaption");
  caption.append(Object.assign(document.createElement("bdi"), { textContent: photo }));
  const result = document.createElement("figure");
  result.append(picture, caption);
  return result;
}

function showAnswers() {
  const items = [];
  for (const [key, rows] of answers) {
    const item = document.createElement("li");
    const text = document.createElement("bdi");
    text.textContent = rows.map((row) => sentence(key, row)).join("; ");
    item.append(text, " ");
    if (questionOf.has(key)) item.append(button("Change", text, () => jump(questionOf.get(key))));
    item.append(button("Take back", text, () => takeBack(key)));
    items.push(item);
  }
  at("answers").replaceChildren(...items);
  at("count").textContent = items.length;
}

function button(word, about, act) {
  const result = document.createElement("button");
  result.type = "button";
  result.textContent = word;
  result.setAttribute("aria-label", `${word}: ${about.textContent}`);
  result.addEventListener("click", act);
  return result;
}

function takeBack(key) {
  change(key, [], "Taken back.");
  at("given-all").querySelector("summary").focus();
}

const nameParts = group(all("[data-name]"), "name");
const nodeParts = group(all("[data-node]"), "node");
const linkParts = group(all("[data-link]"), "link");
const signParts = group(all("[data-sign]"), "sign");
const jumpParts = group(all("[data-jump]"), "jump");
const inputs = group(all("[data-person]"), "person");

function group(elements, key) {
  const result = new Map();
  for (const element of elements) {
    const number = Number(element.dataset[key]);
    result.set(number, [...(result.get(number) || []), element]);
  }
  return result;
}

function showName(person, name) {
  for (const element of nameParts.get(person) || []) {
    if (element.textContent !== name) element.textContent = name;
    element.title = name;
  }
  for (const element of nodeParts.get(person) || []) {
    if (element.getAttribute("aria-label") === name) continue;
    element.setAttribute("aria-label", name);
    element.querySelector("title").textContent = name;
    const letters = [...name];
    element.querySelector("text").textContent =
      letters.length <= 13 ? name : letters.slice(0, 12).join("").trimEnd() + "…";
  }
  for (const input of inputs.get(person) || []) {
    if (input !== document.activeElement && input.value !== name) input.value = name;
    const twice = names.some((other, number) => number !== person && other === name);
    const note = input.closest("li").querySelector(".twice");
    if (note) note.hidden = !twice;
    else if (twice) {
      const added = Object.assign(document.createElement("p"), { className: "twice" });
      added.textContent = TWICE;
      input.closest("label").after(added);
    }
  }
}

function showLink(question) {
  const word = given(question.key);
  const set = (element) => {
    element.classList.toggle("kin", word === "kin");
    element.classList.toggle("not-kin", word === "not-kin");
  };
  const signs = { kin: "✓", "not-kin": "✕" };
  for (const element of linkParts.get(question.link) || []) set(element);
  for (const element of signParts.get(question.link) || []) {
    set(element);
    element.querySelector("text").textContent = signs[word] || element.dataset.chance;
  }
  for (const element of jumpParts.get(question.link) || []) {
    set(element);
    const text = { kin: "yes", "not-kin": "no" }[word];
    element.textContent = text || "?";
    const [left, right] = question.people.map((person) => names[person]);
    element.setAttribute("aria-label", `${text || "answer"}: are ${left} and ${right} kin?`);
  }
}

// The table

let sorting = ["p", -1];

function sortBy(key) {
  const isSame = sorting[0] === key;
  sorting = [key, isSame ? -sorting[1] : key === "p" || key === "photos" ? -1 : 1];
  const value = (row) =>
    key === "who" ? row.querySelector("th").textContent : Number(row.dataset[key]);
  const order = (a, b) => {
    const [x, y] = [value(a), value(b)];
    return sorting[1] * (key === "who" ? x.localeCompare(y, undefined, { numeric: true }) : x - y);
  };
  at("links").append(...[...at("links").children].sort(order));
  for (const head of all("thead button")) {
    const direction = sorting[1] > 0 ? "ascending" : "descending";
    if (head.dataset.sort === key) head.parentElement.setAttribute("aria-sort", direction);
    else head.parentElement.removeAttribute("aria-sort");
  }
  fold(at("links"));
}

// Shows the beginning of a long list; the rest after a press of its button.
function fold(list) {
  const isBelow = at("below") && at("below").checked;
  const items = [...list.children].filter((item) => isBelow || !item.matches(".below"));
  const limit = Number(list.dataset.limit);
  for (const [place, item] of items.entries()) item.hidden = place >= limit;
  const more = at(list.id + "-more");
  more.hidden = items.length <= limit;
  more.textContent = `Show all ${items.length}`;
}

function unfold(list) {
  list.dataset.limit = Infinity;
  fold(list);
}

// Saving

function csv() {
  const cell = (text) => {
    let safe = text.replace(/\r/g, "\n");
    // as kinembed writes tables: no spreadsheet takes a name for a formula
    if (/^'*[=+\-@\t\n]/.test(safe)) safe = "'" + safe;
    return /[",\n]/.test(safe) ? `"${safe.replace(/"/g, '""')}"` : safe;
  };
  const rows = [...answers.values()].flat();
  const columns = ["answer", "left", "right", "left_mark", "right_mark"];
  const lines = rows.map((row) => columns.map((column) => cell(row[column] || "")).join(","));
  return [columns.join(","), ...lines, ""].join("\n");
}

function save() {
  const address = URL.createObjectURL(new Blob([csv()], { type: "text/csv" }));
  const link = document.createElement("a");
  link.href = address;
  link.download = "confirmed.csv";
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(address), 10000);
  saved = true;
  keep();
  say("Saved as confirmed.csv, where your browser puts downloads. Move it where step 2 says.");
}

// Keys

// A key answers only a question that can be seen: else the page goes there first.
const seen = (act) => () => {
  const { top, bottom } = at("ask").getBoundingClientRect();
  if (top >= 0 && bottom <= innerHeight) return act();
  jump(current);
  say(position());
};

const KEYS = {
  y: seen(() => answer(true)),
  n: seen(() => answer(false)),
  j: seen(() => move(1)),
  k: seen(() => move(-1)),
  ArrowRight: seen(() => move(1)),
  ArrowLeft: seen(() => move(-1)),
  u: undo,
  s: save,
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey || !at("keys").checked) return;
  if (event.target.closest("input[type=text], select, textarea")) return;
  const isArrow = event.key.startsWith("Arrow");
  if (isArrow && event.target.closest(".scrolled")) return; // it scrolls there
  const act = KEYS[isArrow ? event.key : event.key.toLowerCase()];
  if (!act) return;
  event.preventDefault();
  act();
});

for (const [id, act] of Object.entries({
  yes: () => answer(true),
  no: () => answer(false),
  next: () => move(1),
  back: () => move(-1),
  clear: () => change(data.questions[current].key, [], "Taken back."),
  undo,
  save,
})) at(id).addEventListener("click", act);

for (const input of all("[data-person]")) {
  input.disabled = false;
  input.addEventListener("change", () => rename(Number(input.dataset.person), input.value));
}
for (const element of all("[data-jump]")) {
  const number = data.questions.findIndex((q) => q.link === Number(element.dataset.jump));
  element.disabled = false;
  element.addEventListener("click", () => jump(number));
}
for (const head of all("thead button"))
  head.addEventListener("click", () => sortBy(head.dataset.sort));
for (const list of all("[data-limit]")) {
  fold(list);
  at(list.id + "-more").addEventListener("click", () => {
    const next = [...list.children].find((item) => item.hidden);
    unfold(list);
    next.tabIndex = -1;
    next.focus();
  });
}
if (at("below")) at("below").addEventListener("change", () => fold(at("links")));

// A drawing that does not fit opens where most links are, and says that it moves.
for (const box of all(".scrolled")) {
  const drawing = box.querySelector("svg");
  if (!drawing) continue;
  const links = new Map();
  for (const line of box.querySelectorAll(".link"))
    for (const end of line.dataset.ends.split(" ")) links.set(end, (links.get(end) || 0) + 1);
  const nodes = [...box.querySelectorAll(".node")];
  const most = nodes.reduce((a, b) =>
    (links.get(b.dataset.node) || 0) > (links.get(a.dataset.node) || 0) ? b : a);
  const middle = most.querySelector("circle");
  const centre = () => {
    if (box.scrollWidth > box.clientWidth)
      box.scrollLeft = middle.getAttribute("cx") - box.clientWidth / 2;
  };
  new ResizeObserver(() => {
    box.classList.toggle("moves", box.scrollWidth > box.clientWidth);
    if (!box.dataset.seen && box.clientWidth) {
      box.dataset.seen = "yes";
      centre();
    }
  }).observe(box);
}

// Whose face the mouse or the focus is on: the links of that person stand out.
for (const node of all(".node")) {
  const look = (isOn) => () => {
    const family = node.closest(".family");
    family.classList.toggle("looking", isOn);
    for (const line of family.querySelectorAll(".link")) {
      const isNear = isOn && line.dataset.ends.split(" ").includes(node.dataset.node);
      line.classList.toggle("near", isNear);
      for (const sign of signParts.get(Number(line.dataset.link)) || [])
        sign.classList.toggle("near", isNear);
    }
  };
  node.addEventListener("click", () => unfold(at("people")));
  for (const kind of ["pointerenter", "focus"]) node.addEventListener(kind, look(true));
  for (const kind of ["pointerleave", "blur"]) node.addEventListener(kind, look(false));
}

addEventListener("beforeunload", (event) => {
  if (!saved && !keep()) event.preventDefault();
});

// Start

const isKept = load();
const first = data.questions.findIndex((question) => !answers.has(question.key));
current = first >= 0 && first < data.main ? first : 0;
at("questions").hidden = !data.questions.length;
at("bar").hidden = false;
refresh();
if (isKept) say("This browser kept your answers from before.");
else say(answers.size ? `Answers so far: ${answers.size}.` : "No answers yet.");
