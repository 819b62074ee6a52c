"use strict";
// The page of `kinembed app`. All addresses are relative: the first part of the path is the token.

const $ = (id) => document.getElementById(id);
const NAMES = { same_person: "the same person", kin: "kin", unrelated: "unrelated" };
let limit = Infinity; // bytes of a request

function make(tag, text, attributes = {}) {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

async function ask(path, options = {}) {
  let response;
  try {
    response = await fetch(path, { ...options, redirect: "error" });
  } catch {
    throw new Error("The program does not answer. It may have ended: start kinembed app again.");
  }
  let found;
  try {
    found = await response.json();
  } catch {
    throw new Error(`The program answered ${response.status} and no more.`);
  }
  if (!response.ok) throw new Error(found.error);
  return found;
}

function form(files) {
  const body = new FormData();
  let size = 0;
  for (const [field, file, name] of files) {
    size += file.size;
    body.append(field, file, name ?? plain(file.name));
  }
  if (size > limit) throw new Error(`These are more than ${Math.floor(limit / 2 ** 20)} MB. Choose smaller photos.`);
  return body;
}

// A name that any system takes; the photo's own is not needed for anything else.
function plain(name) {
  const clean = name.replace(/[^\p{L}\p{N} ._()+,=@!#&'-]/gu, "_").replace(/^[.~]+/, "_");
  return [...clean].slice(-60).join("").replace(/^[.~]+/, "_") || "photo";
}

const percent = (share) =>
  share > 0 && share < 0.01 ? "under 1%" : share < 1 && share > 0.99 ? "over 99%" : `${Math.round(100 * share)}%`;

// Percentages that add up to 100, by largest remainders.
function percents(shares) {
  const whole = shares.map((share) => Math.floor(100 * share));
  const order = shares.map((_, number) => number).sort((one, other) => ((100 * shares[other]) % 1) - ((100 * shares[one]) % 1));
  const missing = 100 - whole.reduce((sum, each) => sum + each, 0);
  for (const number of order.slice(0, missing)) whole[number] += 1;
  return whole.map((each, number) =>
    each <= 0 && shares[number] > 0 ? "under 1%" : each >= 100 && shares[number] < 1 ? "over 99%" : `${each}%`);
}

// An answer's sentence, with its probabilities as the bars below it have them.
const sentence = (text) => {
  const told = text.replace(/: 1(?=;|$)/g, ": 100%").replace(/: (under |over )?\.(\d\d)/g, (_, side, share) => `: ${side ?? ""}${Number(share)}%`);
  return told.charAt(0).toUpperCase() + told.slice(1) + ".";
};

function fail(place, error) {
  place.replaceChildren(make("p", error.message, { class: "wrong" }));
}

function notes(lines) {
  const details = make("details");
  details.append(make("summary", "What the numbers hold for"));
  const list = make("ul", undefined, { class: "notes" });
  for (const line of lines) list.append(make("li", line));
  details.append(list);
  return details;
}

function table(caption, columns, rows) {
  const scrolled = make("div", undefined, { class: "scrolled", tabindex: "0", role: "group", "aria-label": caption });
  const whole = make("table");
  whole.append(make("caption", caption));
  const head = make("tr");
  for (const column of columns) head.append(make("th", column, { scope: "col" }));
  whole.append(make("thead"));
  whole.tHead.append(head);
  const body = make("tbody");
  for (const row of rows) {
    const line = make("tr");
    row.forEach((cell, number) => {
      const made = make(number ? "td" : "th", undefined, number ? {} : { scope: "row" });
      made.append(cell); // a text or an element
      line.append(made);
    });
    body.append(line);
  }
  whole.append(body);
  scrolled.append(whole);
  return scrolled;
}

// Photos: shown as they are chosen, with the faces that were found on them.

const shown = new Map(); // of each input of one photo: its address, and which face is meant

function show(input, changed) {
  const preview = input.parentElement.querySelector(".preview");
  const before = shown.get(input);
  if (before) URL.revokeObjectURL(before.address);
  preview.replaceChildren();
  const file = input.files[0];
  if (!file) return void shown.delete(input);
  const address = URL.createObjectURL(file);
  shown.set(input, { address, face: null, changed });
  const image = make("img", undefined, { alt: `The chosen photo, ${file.name}`, src: address });
  image.addEventListener("error", () => {
    preview.replaceChildren(make("p", "Your browser does not show this kind of photo; it may be read all the same."));
  });
  preview.append(image);
}

function mark(input, person) {
  const preview = input.parentElement.querySelector(".preview");
  const image = preview.querySelector("img");
  for (const box of preview.querySelectorAll(".box")) box.remove();
  const photo = person.photos[0];
  if (!image || photo.crop || !image.naturalWidth) return;
  photo.faces.forEach((face, number) => {
    const taken = photo.face === number + 1;
    const box = make("button", undefined, {
      class: "box", type: "button", "aria-pressed": String(taken),
      "aria-label": `Face ${number + 1} of ${photo.faces.length}${taken ? ", taken" : ": take this one"}`,
    });
    if (photo.faces.length > 1) box.append(make("span", String(number + 1), { "aria-hidden": "true" }));
    const [left, top, right, bottom] = face.box;
    const inside = (value, most) => `${Math.min(100, Math.max(0, (100 * value) / most))}%`;
    box.style.left = inside(left, image.naturalWidth);
    box.style.top = inside(top, image.naturalHeight);
    box.style.width = inside(Math.min(right, image.naturalWidth) - Math.max(left, 0), image.naturalWidth);
    box.style.height = inside(Math.min(bottom, image.naturalHeight) - Math.max(top, 0), image.naturalHeight);
    box.addEventListener("click", () => {
      shown.get(input).face = number + 1;
      shown.get(input).changed();
    });
    preview.append(box);
  });
}

function chosen(...inputs) {
  for (const input of inputs) {
    if (!input.files[0]) {
      input.focus();
      throw new Error(`Choose a photo first: ${input.labels[0].textContent.toLowerCase()}.`);
    }
  }
}

function drop(input) {
  const place = input.parentElement;
  for (const kind of ["dragenter", "dragover"]) {
    place.addEventListener(kind, (event) => {
      event.preventDefault();
      place.classList.add("over");
    });
  }
  for (const kind of ["dragleave", "drop"]) place.addEventListener(kind, () => place.classList.remove("over"));
  place.addEventListener("drop", (event) => {
    event.preventDefault();
    if (!event.dataTransfer.files.length || input.webkitdirectory) return;
    const files = new DataTransfer();
    for (const file of [...event.dataTransfer.files].slice(0, input.multiple ? undefined : 1)) files.items.add(file);
    input.files = files.files;
    input.dispatchEvent(new Event("change"));
  });
}
for (const kind of ["dragover", "drop"]) window.addEventListener(kind, (event) => event.preventDefault());

// A form whose button waits for the answer.
function answered(section, work) {
  const [own, place] = [section.querySelector("form"), section.querySelector(".answer")];
  const button = own.querySelector("button[type=submit]");
  let asked = 0;
  const run = async () => {
    const mine = ++asked;
    button.disabled = true;
    place.replaceChildren(make("p", "One moment …"));
    try {
      const found = await work();
      if (mine === asked) place.replaceChildren(...found);
    } catch (error) {
      if (mine === asked) fail(place, error);
    }
    if (mine === asked) button.disabled = false;
  };
  own.addEventListener("submit", (event) => {
    event.preventDefault();
    if (!button.disabled) run();
  });
  return run;
}

const compare = answered($("compare"), async () => {
  const inputs = [$("a"), $("b")];
  chosen(...inputs);
  const query = new URLSearchParams();
  const kin = Number($("compare-prior").value);
  if (kin) {
    if (!(kin >= 1 && kin <= 99)) throw new Error("How many of 100 pairs are kin: from 1 to 99.");
    query.set("prior", String(kin / 100));
  }
  if ($("compare-crops").checked) query.set("crops", "true");
  const faces = inputs.map((input) => shown.get(input).face ?? 1);
  if (inputs.some((input) => shown.get(input).face)) query.set("face", faces.join(","));
  const body = form([["a", inputs[0].files[0]], ["b", inputs[1].files[0]]]);
  const found = await ask(`compare?${query}`, { method: "POST", body });
  inputs.forEach((input, number) => mark(input, found.people[number]));
  const shares = make("dl", undefined, { class: "shares" });
  const rounded = percents(Object.keys(NAMES).map((key) => found[key]));
  Object.entries(NAMES).forEach(([key, name], number) => {
    const bar = make("span", undefined, { class: "bar", "aria-hidden": "true" });
    bar.append(make("i"));
    bar.firstChild.style.width = `${100 * found[key]}%`;
    const value = make("dd");
    value.append(bar, make("span", rounded[number]));
    shares.append(make("dt", name), value);
  });
  return [make("p", sentence(found.sentence), { class: "said" }), shares, several(found.people), notes([...found.notes, `Answered by ${found.source}`])];
});

function several(people) {
  const many = people.some((person) => person.photos[0].faces.length > 1);
  return many ? make("p", "A photo shows several faces. Press another face on it to ask about that one.") : make("p");
}

// A name, and a picture where there is one; the name says all that the picture does not.
function who(found, pictures) {
  const place = make("span", undefined, { class: "who" });
  const picture = pictures[found.photo];
  if (picture) place.append(make("img", undefined, { src: picture, alt: "", width: 64, height: 64, title: found.photo }));
  place.append(make("span", found.name));
  return place;
}

const search = answered($("search"), async () => {
  const input = $("photo");
  chosen(input);
  const query = new URLSearchParams({ top: $("search-top").value || "10" });
  if ($("search-crops").checked) query.set("crops", "true");
  if (shown.get(input).face) query.set("face", String(shown.get(input).face));
  const found = await ask(`search?${query}`, { method: "POST", body: form([["photo", input.files[0]]]) });
  mark(input, found.probe);
  const parts = [];
  const pictures = found.pictures ?? {};
  if (found.same_person.length) {
    const rows = found.same_person.map((each) => [who(each, pictures), each.known ? "by name or photo" : percent(each.same_person), each.photos]);
    parts.push(table("Likelier the same person than kin", ["Who", "The same person", "Photos"], rows));
  }
  const strangers = (each) => (each.strangers >= 0.5 ? `about ${Math.round(each.strangers).toLocaleString("en")}` : "less than 1");
  const rows = found.kin.map((each) => [who(each, pictures), percent(each.kin), strangers(each), each.photos]);
  const best = found.kin[0];
  const said = best
    ? `Most likely kin: ${best.name}, ${percent(best.kin)}. Among the ${found.gallery.toLocaleString("en")} searched, ${strangers(best)} stranger${best.strangers >= 1.5 ? "s" : ""} would look as alike.`
    : "Nobody else is there to be found.";
  parts.unshift(make("p", said, { class: "said" }));
  if (rows.length) parts.push(table("Most likely kin, the most evidence first", ["Who", "Kin", "Strangers as alike", "Photos"], rows));
  if (!Object.keys(pictures).length) parts.push(make("p", "To see pictures of them, start kinembed app with --data and the folder of their photos.", { class: "absent" }));
  return [...parts, several([found.probe]), notes(found.notes)];
});

for (const [id, again] of [["a", compare], ["b", compare], ["photo", search]]) {
  $(id).addEventListener("change", () => show($(id), again));
  drop($(id));
}
drop($("photos"));

// An album: its photos go up one by one, so that none waits for another and the progress shows.

const PHOTO = /\.(jpe?g|png|webp|bmp|tiff?|gif|avif|heic|heif)$/i;
let album = null; // its address
let stopped = false;

function files() {
  const all = [...$("photos").files, ...$("folder").files];
  return all.filter((file) => PHOTO.test(file.name) || file.type.startsWith("image/"));
}

function told() {
  const [all, photos] = [$("photos").files.length + $("folder").files.length, files().length];
  const others = all - photos;
  $("chosen").textContent = all ? `${photos} photo${photos === 1 ? "" : "s"} chosen${others ? `, ${others} other file${others === 1 ? "" : "s"} left out` : ""}.` : "";
}
$("photos").addEventListener("change", told);
$("folder").addEventListener("change", told);

function says(text, done, all) {
  const place = $("progress");
  let line = place.querySelector("p");
  if (!line) place.replaceChildren((line = make("p")));
  line.textContent = text;
  place.querySelector("progress")?.remove();
  if (all !== undefined) place.append(make("progress", undefined, { max: all, value: done, "aria-label": "Photos handed over" }));
}

async function related(work) {
  const buttons = $("album").querySelectorAll("button[type=submit]");
  stopped = false;
  for (const button of buttons) button.disabled = true;
  $("stop").hidden = false;
  $("related").replaceChildren();
  try {
    await work();
    await ask(`${album}/relate`, { method: "POST" });
    for (;;) {
      const found = await ask(album);
      if (found.state === "failed") throw new Error(found.error);
      if (found.state === "done") {
        $("progress").replaceChildren(make("p", "Done."));
        report(found);
        break;
      }
      says(`Looking at ${found.photos} photos: ${Math.round(found.seconds)} seconds so far …`);
      await new Promise((resolve) => setTimeout(resolve, 700));
    }
  } catch (error) {
    if (stopped) $("progress").replaceChildren(make("p", "Stopped. Nothing of the album is kept."));
    else fail($("progress"), error);
  }
  for (const button of buttons) button.disabled = false;
  $("stop").hidden = true;
}

function report(found) {
  const parts = [make("p", found.sentences[0], { class: "said" })];
  for (const line of found.sentences.slice(1)) parts.push(make("p", line));
  const links = make("p");
  const address = { target: "_blank", rel: "noopener" };
  links.append(make("a", "Open the album’s page: its people, links and questions", { href: `${album}/relate.html`, ...address }));
  parts.push(links);
  if (found.links.length) {
    const rows = found.links.map((link) => [`${link.left} and ${link.right}`, percent(link.probability), link.rate]);
    parts.push(table("Most likely kin", ["Who", "Kin", "How rare such a likeness is"], rows));
  }
  const tables = make("p", "Tables: ");
  tables.append(make("a", "people.csv", { href: `${album}/people.csv`, download: "people.csv" }), " · ");
  tables.append(make("a", "relate.csv", { href: `${album}/relate.csv`, download: "relate.csv" }));
  parts.push(tables);
  if (found.left_out.length) parts.push(notes(found.left_out));
  $("related").replaceChildren(...parts);
  $("again").hidden = false;
}

$("album").querySelector("form").addEventListener("submit", (event) => {
  event.preventDefault();
  const photos = files();
  if (!photos.length) return fail($("progress"), new Error("Choose photos first, or a folder of them."));
  related(async () => {
    $("again").hidden = true;
    if (album) await ask(album, { method: "DELETE" }).catch(() => {});
    const top = photos[0].webkitRelativePath.split("/")[0];
    album = `albums/${(await ask(`albums?${new URLSearchParams({ name: plain(top || "album") })}`, { method: "POST" })).id}`;
    for (const [number, file] of photos.entries()) {
      says(`Handing over photo ${number + 1} of ${photos.length} …`, number, photos.length);
      const parts = (file.webkitRelativePath || file.name).split("/").map(plain);
      const name = file.webkitRelativePath ? parts.slice(1).join("/") : `${number + 1}-${parts[0]}`;
      await ask(`${album}/photos`, { method: "POST", body: form([["photo", file, name]]) });
      if (stopped) throw new Error("stopped");
    }
  });
});

$("again").addEventListener("submit", (event) => {
  event.preventDefault();
  const file = $("confirmed").files[0];
  if (!file) return fail($("progress"), new Error("Choose confirmed.csv first: the album’s page saves it."));
  related(() => ask(`${album}/confirmed`, { method: "POST", body: form([["confirmed", file, "confirmed.csv"]]) }));
});

$("stop").addEventListener("click", async () => {
  stopped = true;
  $("stop").hidden = true;
  if (album) await ask(album, { method: "DELETE" }).catch(() => {});
  album = null;
});

(async () => {
  const about = await ask("about");
  limit = about.limit;
  $("source").textContent = `Answered by ${about.source}.`;
  $("kept").textContent = about.kept ? `, but for albums, which it was asked to keep in ${about.kept}` : " when it ends";
  if (about.searched === null) {
    $("searched").replaceChildren(make("span", about.not_searched, { class: "absent" }));
    for (const each of $("search").querySelectorAll("form input, form button")) each.disabled = true;
  } else {
    const what = about.searched_by === "person" ? "people" : "photos";
    $("searched").textContent = `Who among the ${about.searched.toLocaleString("en")} ${what} of this run is most likely kin of this person?`;
  }
})().catch((error) => fail($("source"), error));
