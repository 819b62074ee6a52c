"use strict";
// Draws the photos as dots on a canvas, and shows who is chosen, their kin and their photos.
(() => {
  const data = JSON.parse(document.getElementById("page-data").textContent);
  const $ = (id) => document.getElementById(id);
  const canvas = $("map"), context = canvas.getContext("2d"), tip = $("tip");
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const GRID = 10000, HIT = 14, FARTHEST = 200, LABELS = 16;
  // Okabe and Ito's colours, which the colour-blind distinguish, without black; shapes go with them.
  const COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#a89400"];
  const COLOURS_ON_DARK = ["#4aa8e0", "#f07b2a", "#1fc594", "#e39ac2", "#f0b429", "#8fd0f5", "#f0e442"];
  const photos = data.x.length;
  const size = { w: 0, h: 0 };
  const view = { zoom: 1, x: GRID / 2, y: GRID / 2 }; // what is in the middle
  let chosen = null; // {kind, id, people}
  let under = -1; // the photo under the pointer, or that the arrow keys came to
  let colours = COLOURS, style = {};

  const ofPerson = data.people.map(() => []);
  data.person.forEach((person, photo) => ofPerson[person].push(photo));
  const ofFamily = data.families.map(() => []);
  data.family.forEach((family, person) => { if (data.people[person]) ofFamily[family].push(person); });
  const kinOf = data.people.map(() => []);
  for (const [a, b, how] of data.kin) { kinOf[a].push([b, how]); kinOf[b].push([a, how]); }

  const counted = (n, one, many) => `${n.toLocaleString("en")} ${n === 1 ? one : many}`;
  const nameOf = (person) => data.people[person] || "nobody known";
  const fileOf = (photo) => [data.folders[data.folder[photo]], data.file[photo]].filter(Boolean).join("/");

  // The photo that lies nearest to the middle of a person's: lines begin there.
  const centres = ofPerson.map((own) => {
    let x = 0, y = 0, best = own[0], least = Infinity;
    for (const photo of own) { x += data.x[photo] / own.length; y += data.y[photo] / own.length; }
    for (const photo of own) {
      const distance = (data.x[photo] - x) ** 2 + (data.y[photo] - y) ** 2;
      if (distance < least) { least = distance; best = photo; }
    }
    return best;
  });

  // Places

  const range = (numbers) => numbers.reduce(([low, high], value) => [Math.min(low, value), Math.max(high, value)], [GRID, 0]);
  const [LEFT, RIGHT] = range(data.x), [TOP, BOTTOM] = range(data.y);
  const scale = () => Math.min((size.w - 48) / Math.max(1, RIGHT - LEFT), (size.h - 48) / Math.max(1, BOTTOM - TOP)) * view.zoom;
  const px = (photo) => (data.x[photo] - view.x) * scale() + size.w / 2;
  const py = (photo) => (data.y[photo] - view.y) * scale() + size.h / 2;

  function zoom(factor, x = size.w / 2, y = size.h / 2) {
    const before = scale();
    view.zoom = Math.min(FARTHEST, Math.max(1, view.zoom * factor));
    view.x += (x - size.w / 2) * (1 / before - 1 / scale());
    view.y += (y - size.h / 2) * (1 / before - 1 / scale());
    move(0, 0);
  }
  function move(dx, dy) {
    const inside = (value) => Math.min(GRID, Math.max(0, value));
    view.x = inside(view.x + dx / scale());
    view.y = inside(view.y + dy / scale());
    draw();
  }
  function whole() {
    Object.assign(view, { zoom: 1, x: GRID / 2, y: GRID / 2 });
    draw();
  }
  function fit(own) {
    const xs = own.map((photo) => data.x[photo]), ys = own.map((photo) => data.y[photo]);
    const [left, right, top, bottom] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
    Object.assign(view, { zoom: 1, x: (left + right) / 2, y: (top + bottom) / 2 });
    const wanted = Math.min(size.w / Math.max(60, right - left), size.h / Math.max(60, bottom - top));
    zoom(0.8 * wanted / scale());
  }

  // Drawing

  function shape(kind, x, y, r) {
    context.beginPath();
    if (kind === 0) context.arc(x, y, r, 0, 7);
    else if (kind === 1) context.rect(x - r * 0.9, y - r * 0.9, r * 1.8, r * 1.8);
    else {
      const corners = kind === 2 ? [[0, -1.2], [1.1, 0.8], [-1.1, 0.8]] : kind === 3 ? [[0, -1.3], [1.3, 0], [0, 1.3], [-1.3, 0]] : [[0, 1.2], [1.1, -0.8], [-1.1, -0.8]];
      corners.forEach(([dx, dy], i) => context[i ? "lineTo" : "moveTo"](x + dx * r, y + dy * r));
      context.closePath();
    }
  }
  const markOf = (place) => ({ colour: colours[place % colours.length], kind: (place + Math.floor(place / colours.length)) % 5 });
  const groupOf = (photo) => {
    const person = data.person[photo];
    if (!data.people[person] || $("colour").value === "none") return -1;
    if ($("colour").value === "family" && data.families[data.family[person]]) return data.family[person];
    return person;
  };

  let waiting = false;
  function draw() {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => { waiting = false; paint(); });
  }
  function paint() {
    context.setTransform(devicePixelRatio, 0, 0, devicePixelRatio, 0, 0);
    context.clearRect(0, 0, size.w, size.h);
    const radius = Math.min(6, Math.max(photos > 3000 ? 1.6 : 2.6, 1.3 * Math.sqrt(view.zoom)));
    const batches = new Map();
    for (let photo = 0; photo < photos; photo++) {
      const x = px(photo), y = py(photo);
      if (x < -9 || y < -9 || x > size.w + 9 || y > size.h + 9) continue;
      const group = chosen ? -1 : groupOf(photo);
      const colour = group < 0 ? style.dot : colours[group % colours.length];
      if (!batches.has(colour)) batches.set(colour, []);
      batches.get(colour).push(x, y);
    }
    context.globalAlpha = chosen ? 0.35 : photos > 3000 ? 0.75 : 0.9;
    for (const [colour, places] of batches) {
      context.fillStyle = colour;
      context.beginPath();
      for (let i = 0; i < places.length; i += 2) {
        context.moveTo(places[i] + radius, places[i + 1]);
        context.arc(places[i], places[i + 1], radius, 0, 7);
      }
      context.fill();
    }
    context.globalAlpha = 1;
    if (chosen) paintChosen(radius);
    if (under >= 0) {
      context.strokeStyle = style.ink;
      context.lineWidth = 2;
      shape(0, px(under), py(under), radius + 5);
      context.stroke();
    }
  }
  function paintChosen(radius) {
    const places = new Map(chosen.people.map((person, place) => [person, place]));
    const lines = data.kin.filter(([a, b]) => places.has(a) && places.has(b) && (chosen.kind === "family" || a === chosen.id || b === chosen.id));
    context.strokeStyle = style.ink;
    context.lineWidth = 1.6;
    context.beginPath();
    for (const [a, b] of lines) {
      context.moveTo(px(centres[a]), py(centres[a]));
      context.lineTo(px(centres[b]), py(centres[b]));
    }
    context.stroke();
    for (const [person, place] of places) {
      const mark = markOf(place);
      context.strokeStyle = context.fillStyle = mark.colour;
      context.lineWidth = 1;
      context.globalAlpha = 0.55;
      context.beginPath();
      for (const photo of ofPerson[person]) {
        context.moveTo(px(centres[person]), py(centres[person]));
        context.lineTo(px(photo), py(photo));
      }
      context.stroke();
      context.globalAlpha = 1;
      for (const photo of ofPerson[person]) {
        shape(mark.kind, px(photo), py(photo), Math.max(4.5, radius + 1.5));
        context.fillStyle = mark.colour;
        context.fill();
        context.strokeStyle = style.card;
        context.stroke();
      }
    }
    if (places.size > LABELS) return;
    context.font = "600 13px system-ui, sans-serif";
    context.lineWidth = 4;
    context.lineJoin = "round";
    const taken = [];
    for (const person of places.keys()) {
      const text = nameOf(person).split("/").pop(), width = context.measureText(text).width;
      const right = px(centres[person]) + 10 + width < size.w;
      const x = px(centres[person]) + (right ? 10 : -10 - width);
      let y = py(centres[person]) + 4;
      for (let turn = 0; turn < 20 && taken.some(([l, t, r]) => Math.abs(t - y) < 14 && l < x + width && r > x); turn++) y += 15;
      taken.push([x, y, x + width]);
      context.strokeStyle = style.card;
      context.strokeText(text, x, y);
      context.fillStyle = style.ink;
      context.fillText(text, x, y);
    }
  }

  // Who is under the pointer, and who is chosen

  function nearestTo(x, y) {
    let best = -1, least = HIT * HIT;
    for (let photo = 0; photo < photos; photo++) {
      let distance = (px(photo) - x) ** 2 + (py(photo) - y) ** 2;
      if (chosen && chosen.people.includes(data.person[photo])) distance /= 4; // they lie on top
      if (distance < least) { least = distance; best = photo; }
    }
    return best;
  }
  function element(tag, text = "", about = {}) {
    const made = Object.assign(document.createElement(tag), about);
    if (text) made.textContent = text;
    return made;
  }
  function point(photo) {
    if (photo === under) return;
    under = photo;
    tip.hidden = photo < 0;
    if (photo >= 0) {
      const words = element("div");
      const person = data.person[photo];
      words.append(element("strong", nameOf(person)), element("span", fileOf(photo)));
      if (kinOf[person].length) words.append(element("span", `${counted(kinOf[person].length, "listed relative", "listed relatives")} here`));
      tip.replaceChildren(...(data.pictures[photo] ? [element("img", "", { src: data.pictures[photo], alt: "" })] : []), words);
      const x = px(photo), y = py(photo);
      tip.style.left = `${Math.max(0, Math.min(x + 12, size.w - tip.offsetWidth - 2))}px`;
      tip.style.top = `${y + 16 + tip.offsetHeight > size.h ? Math.max(0, y - tip.offsetHeight - 12) : y + 14}px`;
    }
    draw();
  }
  const say = (text) => { $("status").textContent = text; };

  function choose(kind, id) {
    const people = kind === "family" ? ofFamily[id] : [id, ...new Set(kinOf[id].map(([other]) => other))];
    chosen = { kind, id, people };
    $("clear").disabled = false;
    const title = kind === "family" ? `Family ${data.families[id]}` : nameOf(id);
    const own = people.flatMap((person) => ofPerson[person]);
    $("chosen-title").textContent = title;
    fill(own);
    $("chosen").hidden = false;
    say(kind === "family"
      ? `${title}: ${counted(people.length, "person", "people")}, ${counted(own.length, "photo", "photos")}. Lines join listed kin.`
      : `${title}: ${counted(ofPerson[id].length, "photo", "photos")}, ${counted(people.length - 1, "listed relative", "listed relatives")}${people.length > 1 ? ", whom lines join" : ""}.`);
    draw();
  }
  function clear() {
    chosen = null;
    $("clear").disabled = true;
    $("chosen").hidden = true;
    $("find").value = "";
    say("Nothing is chosen.");
    draw();
  }
  function fill(own) {
    const closer = element("button", "Zoom to them", { type: "button" });
    closer.addEventListener("click", () => { fit(own); canvas.scrollIntoView({ block: "nearest" }); });
    const family = chosen.kind === "person" && data.families[data.family[chosen.id]];
    const buttons = element("p", "", { className: "buttons" });
    buttons.append(closer);
    if (family) {
      const all = element("button", `Whole family ${family}`, { type: "button" });
      all.addEventListener("click", () => choose("family", data.family[chosen.id]));
      buttons.append(all);
    }
    const table = element("table"), head = element("tr"), body = element("tbody");
    head.append(...["person", "photos", "listed kin"].map((text) => element("th", text, { scope: "col" })));
    const top = element("thead");
    top.append(head);
    chosen.people.forEach((person, place) => {
      const row = element("tr"), name = element("th", "", { scope: "row" }), kin = element("td"), faces = element("td", String(ofPerson[person].length));
      const pick = element("button", chosen.kind === "family" ? nameOf(person).split("/").pop() : nameOf(person), { type: "button" });
      pick.addEventListener("click", () => choose("person", person));
      name.append(swatch(markOf(place)), pick);
      for (const [other, how] of kinOf[person]) kin.append(element("span", `${nameOf(other).split("/").pop()}${how ? ` (${how})` : ""} `));
      const pictures = ofPerson[person].filter((photo) => data.pictures[photo]);
      if (pictures.length) {
        const strip = element("div", "", { className: "faces" });
        strip.append(...pictures.slice(0, 12).map((photo) => element("img", "", { src: data.pictures[photo], alt: "", title: fileOf(photo) })));
        faces.append(strip);
      }
      row.append(name, faces, kin);
      body.append(row);
    });
    table.append(top, body);
    const scrolled = element("div", "", { className: "scrolled", tabIndex: 0, role: "group", ariaLabel: "Table of the people chosen" });
    scrolled.append(table);
    $("chosen-body").replaceChildren(buttons, scrolled);
  }
  function swatch(mark) {
    const made = element("canvas", "", { className: "swatch", width: 36, height: 36, ariaHidden: "true" });
    const own = made.getContext("2d");
    const path = { 0: () => own.arc(18, 18, 12, 0, 7), 1: () => own.rect(7, 7, 22, 22) }[mark.kind];
    own.fillStyle = mark.colour;
    own.beginPath();
    if (path) path();
    else (mark.kind === 2 ? [[18, 4], [32, 30], [4, 30]] : mark.kind === 3 ? [[18, 3], [33, 18], [18, 33], [3, 18]] : [[18, 32], [32, 6], [4, 6]]).forEach(([x, y]) => own.lineTo(x, y));
    own.fill();
    return made;
  }
  function pick(photo) {
    const person = data.person[photo];
    if (!data.people[person]) { say(`${fileOf(photo)}: who it shows is not known.`); return; }
    const family = data.family[person];
    if ($("colour").value === "family" && data.families[family] && !(chosen && chosen.kind === "family" && chosen.id === family)) choose("family", family);
    else choose("person", person);
  }
  function find() {
    const text = $("find").value.trim().toLowerCase();
    if (!text) return;
    const lists = [["family", data.families], ["person", data.people]];
    for (const test of [(name) => name.toLowerCase() === text, (name) => name.toLowerCase().includes(text)]) {
      for (const [kind, names] of lists) {
        const id = names.findIndex((name) => name && test(name));
        if (id >= 0) { choose(kind, id); return; }
      }
    }
    say(`No person or family here is called ${$("find").value.trim()}.`);
  }

  // Pointer and keys

  let from = null;
  const at = (event) => { const box = canvas.getBoundingClientRect(); return [event.clientX - box.left - 1, event.clientY - box.top - 1]; };
  canvas.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    from = { x: event.clientX, y: event.clientY, moved: false };
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!from) { point(nearestTo(...at(event))); return; }
    const dx = event.clientX - from.x, dy = event.clientY - from.y;
    if (!from.moved && Math.hypot(dx, dy) < 5) return;
    Object.assign(from, { x: event.clientX, y: event.clientY, moved: true });
    canvas.classList.add("dragged");
    point(-1);
    move(-dx, -dy);
  });
  canvas.addEventListener("pointerup", (event) => {
    if (from && !from.moved) {
      const photo = nearestTo(...at(event));
      point(photo);
      if (photo >= 0) pick(photo); else if (chosen) clear();
    }
    from = null;
    canvas.classList.remove("dragged");
  });
  canvas.addEventListener("pointercancel", () => { from = null; canvas.classList.remove("dragged"); });
  canvas.addEventListener("pointerleave", () => { if (!from) point(-1); });
  canvas.addEventListener("wheel", (event) => {
    if (!(event.ctrlKey || event.metaKey || document.activeElement === canvas)) return; // the page scrolls
    event.preventDefault();
    zoom(Math.exp(-event.deltaY / 400), ...at(event));
  }, { passive: false });

  const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  function step([dx, dy]) {
    const start = under >= 0 ? [px(under), py(under)] : [size.w / 2, size.h / 2];
    let best = -1, least = Infinity;
    for (let photo = 0; photo < photos; photo++) {
      const x = px(photo) - start[0], y = py(photo) - start[1], along = x * dx + y * dy, aside = Math.abs(x * dy + y * dx);
      if (photo !== under && along > 0.5 && along + 2 * aside < least) { least = along + 2 * aside; best = photo; }
    }
    if (best < 0) return;
    const x = px(best), y = py(best);
    if (x < 8 || y < 8 || x > size.w - 8 || y > size.h - 8) { view.x = data.x[best]; view.y = data.y[best]; }
    point(best);
    say(`${nameOf(data.person[best])}, ${fileOf(best)}`);
  }
  canvas.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const arrow = ARROWS[event.key];
    if (arrow && event.shiftKey) move(arrow[0] * size.w / 6, arrow[1] * size.h / 6);
    else if (arrow) step(arrow);
    else if (event.key === "Enter" || event.key === " ") { if (under >= 0) pick(under); }
    else if (event.key === "+" || event.key === "=") zoom(1.5);
    else if (event.key === "-") zoom(1 / 1.5);
    else if (event.key === "0") whole();
    else if (event.key === "Escape") { point(-1); if (chosen) clear(); }
    else return;
    event.preventDefault();
  });
  canvas.addEventListener("blur", () => point(-1));
  $("nearer").addEventListener("click", () => zoom(1.6));
  $("farther").addEventListener("click", () => zoom(1 / 1.6));
  $("whole").addEventListener("click", whole);
  $("clear").addEventListener("click", clear);
  $("find").addEventListener("change", find);
  $("controls").addEventListener("submit", (event) => { event.preventDefault(); find(); });
  $("colour").addEventListener("change", () => { legend(); draw(); });

  function legend() {
    const what = $("colour").value;
    const names = what === "person" ? data.people.filter(Boolean) : what === "family" ? data.families.filter(Boolean) : [];
    const place = $("legend");
    place.replaceChildren();
    if (names.length > colours.length) {
      place.textContent = `${names.length.toLocaleString("en")} ${what === "person" ? "people" : "families"} share ${colours.length} colours: choose one to see it alone.`;
      return;
    }
    for (const name of names) {
      const list = what === "person" ? data.people : data.families;
      place.append(swatch({ kind: 0, colour: colours[list.indexOf(name) % colours.length] }), `${name}  `);
    }
  }
  function look() {
    const root = getComputedStyle(document.documentElement);
    style = Object.fromEntries(["ink", "dot", "card"].map((name) => [name, root.getPropertyValue(`--${name}`).trim()]));
    colours = dark.matches ? COLOURS_ON_DARK : COLOURS;
    legend();
    draw();
  }
  function resize() {
    size.w = canvas.clientWidth;
    size.h = canvas.clientHeight;
    canvas.width = Math.round(size.w * devicePixelRatio);
    canvas.height = Math.round(size.h * devicePixelRatio);
    draw();
  }
  resize(); // now, as keys may come before the observer does
  new ResizeObserver(resize).observe(canvas);
  dark.addEventListener("change", () => { look(); if (chosen) choose(chosen.kind, chosen.id); });
  if (!ofFamily.some((own, family) => data.families[family] && own.length)) {
    $("colour").value = data.people.some(Boolean) ? "person" : "none";
  }
  look();
  const asked = decodeURIComponent(location.hash.slice(1)); // map.html#F0002 opens with it chosen
  if (asked) { $("find").value = asked; find(); }
})();
