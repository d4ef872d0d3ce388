/* Answers the mouse and the keyboard, after graph.js has drawn the graph. */
// ---------------------------------------------------------------- choosing a node

const jump = (place) => { choose(place, true); canvas.focus({ preventScroll: true }); };
const listed = (heading, places, ends) => {
  if (!places.length) return;
  panel.append(html("h4", heading));
  const list = html("ul");
  for (const one of places.slice(0, 40)) {
    const place = edges[one][ends], button = html("button", title(nodes[place]) + "  ");
    const layout = layouts[edges[one][2]];
    button.type = "button";
    const name = /put$/.test(kindOf(nodes[place])) ? kindOf(nodes[place]) : nodes[place].n;
    button.append(html("span", name + (layout ? "  " + layout : ""), "name"));
    button.addEventListener("click", () => jump(place));
    const item = html("li");
    item.append(button);
    list.append(item);
  }
  panel.append(list);
  if (places.length > 40) panel.append(html("p", "and " + (places.length - 40) + " more"));
};
const facts = (rows) => {
  const list = html("dl");
  for (const [name, value] of rows) {
    if (value) list.append(html("dt", name), html("dd", value));
  }
  panel.append(list);
};
const costs = (text) => {
  panel.append(html("h4", "Cost by the plan, a call"));
  const rows = text.split("; ").map((part, place) => {
    const match = /^(.*?)\s*([\d.]+) us$/.exec(part);
    return match ? [place ? match[1] : "as planned", Number(match[2]), match[2] + " µs"] : [part, null, ""];
  });
  const most = Math.max(...rows.map((row) => row[1] || 0)) || 1, grid = html("div", undefined, "cost");
  for (const [name, value, said] of rows) {
    const meter = document.createElement("meter");
    meter.max = most; meter.value = value || 0;
    meter.setAttribute("aria-label", name);
    grid.append(html("span", name), meter, html("span", said));
  }
  panel.append(grid);
};
const describe = (place) => {
  const node = nodes[place];
  panel.textContent = "";
  const put = /put$/.test(kindOf(node));
  const head = html("h3", kindOf(node) === "conversion" ? (node.from || "…") + " → " + node.to : put ? node.n : node.o);
  head.id = "panel-title";
  panel.append(head);
  panel.append(html("span", word(node), "chip k-" + kindOf(node)));
  if (node.edge) panel.append(html("span", "joins an input or splits an output", "chip k-input"));
  if (!put) panel.append(html("p", node.n, "name"));
  if (node.why) panel.append(html("p", "Reason: " + node.why + "."));
  facts([["rule", node.rule], ["module", node.mod], ["takes", (node.takes || []).map((one) => one || "–").join(", ")],
    ["gives", (node.gives || []).map((one) => one || "–").join(", ")],
    ["merged nodes", (node.made || []).map(([op, count]) => (count > 1 ? count + " × " : "") + op).join(", ")]]);
  if (node.cost) costs(node.cost);
  else if (node.rule || node.why) panel.append(html("p", "Cost: nothing to choose from, or no target was priced."));
  if (node.weights) {
    panel.append(html("h4", "Weights, as they are stored"));
    const list = html("dl", undefined, "own");
    for (const [name, dtype, shape, bytes, count] of node.weights) {
      list.append(html("dt", (count > 1 ? count + " × " : "") + name, "name"), html("dd", dtype + " " + shape + ", " + bytes));
    }
    panel.append(list);
  }
  if (node.attrs) { panel.append(html("h4", "Attributes")); facts(node.attrs); }
  if (node.names && (node.names.length > 1 || node.names[0] !== node.n)) {
    panel.append(html("h4", "Names in the merged model"));
    panel.append(html("p", node.names.join(", ") + (node.more ? " and " + node.more + " more" : ""), "name"));
  }
  if (node.in) { panel.append(html("h4", "Nodes in its bodies")); facts(node.in.map(([name, op, kind]) => [op, name + ", " + kind])); }
  listed("Reads from", feeders[place], 0);
  listed("Read by", readers[place], 1);
};
const mark = (place, on) => {
  if (place < 0) return;
  drawnNodes[place].classList.toggle("on", on);
  for (const one of [...readers[place], ...feeders[place]]) {
    if (drawnEdges[one]) drawnEdges[one].classList.toggle("on", on);
    const other = edges[one][0] === place ? edges[one][1] : edges[one][0];
    drawnNodes[other].classList.toggle("near", on);
  }
};
const choose = (place, move) => {
  mark(chosen, false);
  chosen = place;
  mark(place, true);
  if (place < 0) { panel.replaceChildren(...welcome); return; }
  describe(place);
  if (move || !visible(place)) centre(place, 0.75);
};
const welcome = [...panel.childNodes];

// ---------------------------------------------------------------- search and filter

const haystack = nodes.map((node) => [node.o, node.n, word(node), node.rule, node.mod, node.why, node.from, node.to,
  ...(node.takes || []), ...(node.gives || []), ...(node.weights || []).map((one) => one[0]), ...(node.names || [])]
  .filter(Boolean).join("\n").toLowerCase());
const pressed = new Set();
let hits = [], at = -1;
const dim = () => {
  const terms = search.value.trim().toLowerCase().split(/\s+/).filter(Boolean);
  const any = terms.length > 0 || pressed.size > 0;
  hits = [];
  nodes.forEach((node, place) => {
    const hit = terms.every((term) => haystack[place].includes(term)) && (!pressed.size || pressed.has(kindOf(node)));
    if (hit) hits.push(place);
    drawnNodes[place].classList.toggle("dim", any && !hit);
    drawnNodes[place].classList.toggle("hit", terms.length > 0 && hit);
  });
  drawnEdges.forEach((edge) => { if (edge) edge.classList.toggle("dim", any); });
  found.textContent = any ? hits.length + " of " + nodes.length : "";
  at = -1;
  list(terms.length > 0);
};
const list = (open) => {
  results.hidden = !open || !hits.length;
  search.setAttribute("aria-expanded", String(!results.hidden));
  results.textContent = "";
  hits.slice(0, 60).forEach((place, number) => {
    const item = html("li");
    item.id = "hit-" + number;
    item.setAttribute("role", "option");
    item.setAttribute("aria-selected", String(number === at));
    item.append(html("b", nodes[place].o), html("span", "  " + nodes[place].n, "name"));
    item.addEventListener("pointerdown", (event) => { event.preventDefault(); take(number); });
    results.append(item);
  });
};
const point = (number) => {
  const shown = Math.min(hits.length, 60);
  if (!shown) return;
  at = (number + shown) % shown;
  [...results.children].forEach((item, place) => item.setAttribute("aria-selected", String(place === at)));
  search.setAttribute("aria-activedescendant", "hit-" + at);
  results.children[at].scrollIntoView({ block: "nearest" });
  choose(hits[at], true);
};
const take = (number) => { at = number; choose(hits[number], true); list(false); canvas.focus({ preventScroll: true }); };
search.addEventListener("input", dim);
search.addEventListener("keydown", (event) => {
  if (event.key === "ArrowDown") point(at + 1);
  else if (event.key === "ArrowUp") point(at < 0 ? -1 : at - 1);
  else if (event.key === "Enter" && hits.length) take(Math.max(0, at));
  else if (event.key === "Escape") { search.value = ""; dim(); canvas.focus({ preventScroll: true }); }
  else return;
  event.preventDefault();
  event.stopPropagation();
});
search.addEventListener("blur", () => list(false));
for (const button of document.querySelectorAll(".key")) {
  button.addEventListener("click", () => {
    const kind = button.dataset.kind, on = !pressed.has(kind);
    if (on) pressed.add(kind); else pressed.delete(kind);
    button.setAttribute("aria-pressed", String(on));
    dim();
  });
}

// ---------------------------------------------------------------- keys

const beside = (place, step) => {
  const node = nodes[place];
  const near = nodes.map((other, i) => [i, other.x - node.x, Math.abs(other.y - node.y)])
    .filter(([i, dx, dy]) => i !== place && dx * step > 0 && dy < 120)
    .sort((a, b) => a[2] * 2 + Math.abs(a[1]) - b[2] * 2 - Math.abs(b[1]));
  return near.length ? near[0][0] : place;
};
const along = (place, ways, end) => {
  const next = ways[place].map((one) => edges[one][end]);
  const straight = next.sort((a, b) => Math.abs(nodes[a].x - nodes[place].x) - Math.abs(nodes[b].x - nodes[place].x));
  return straight.length ? straight[0] : place;
};
const go = (key) => {
  if (chosen < 0) return choose(0, true);
  if (key === "ArrowDown") choose(along(chosen, readers, 1));
  else if (key === "ArrowUp") choose(along(chosen, feeders, 0));
  else choose(beside(chosen, key === "ArrowRight" ? 1 : -1));
};
canvas.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key.startsWith("Arrow")) go(event.key);
  else if (event.key === "Home") choose(0, true);
  else if (event.key === "End") choose(nodes.length - 1, true);
  else if (event.key === "+" || event.key === "=") zoom(1.3);
  else if (event.key === "-") zoom(1 / 1.3);
  else if (event.key === "0") fit();
  else if (event.key === "Enter" && chosen >= 0) centre(chosen, 1);
  else return;
  event.preventDefault();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "/" && !/^(INPUT|TEXTAREA)$/.test(event.target.tagName)) {
    event.preventDefault();
    search.focus();
    search.select();
  } else if (event.key === "Escape") {
    choose(-1);
    search.value = "";
    dim();
  }
});

// ---------------------------------------------------------------- mouse

let from = null, pinch = 0;
const fingers = new Map();
canvas.addEventListener("pointerdown", (event) => {
  fingers.set(event.pointerId, [event.clientX, event.clientY]);
  from = [event.clientX - left, event.clientY - top, event.clientX, event.clientY, event.target];
  canvas.setPointerCapture(event.pointerId);
  canvas.classList.add("drag");
});
canvas.addEventListener("pointermove", (event) => {
  if (!fingers.has(event.pointerId)) return;
  fingers.set(event.pointerId, [event.clientX, event.clientY]);
  if (fingers.size === 2) {
    const [a, b] = [...fingers.values()], apart = Math.hypot(a[0] - b[0], a[1] - b[1]), box = canvas.getBoundingClientRect();
    if (pinch) zoom(apart / pinch, (a[0] + b[0]) / 2 - box.left, (a[1] + b[1]) / 2 - box.top);
    pinch = apart;
    from = null;
  } else if (from) {
    left = event.clientX - from[0];
    top = event.clientY - from[1];
    show();
  }
});
const lift = (event) => {
  fingers.delete(event.pointerId);
  pinch = 0;
  canvas.classList.remove("drag");
  if (from && event.type === "pointerup" && Math.hypot(event.clientX - from[2], event.clientY - from[3]) < 4) {
    const box = from[4].closest && from[4].closest(".v");
    if (box) choose(Number(box.dataset.i));
    else choose(-1);
  }
  from = null;
};
canvas.addEventListener("pointerup", lift);
canvas.addEventListener("pointercancel", lift);
canvas.addEventListener("dblclick", (event) => {
  const box = canvas.getBoundingClientRect();
  zoom(1.6, event.clientX - box.left, event.clientY - box.top);
});
canvas.addEventListener("wheel", (event) => {
  if (!event.ctrlKey && !event.metaKey && document.activeElement !== canvas) return;
  event.preventDefault();
  const box = canvas.getBoundingClientRect();
  zoom(Math.exp(-event.deltaY * (event.ctrlKey ? 0.01 : 0.0018)), event.clientX - box.left, event.clientY - box.top);
}, { passive: false });
document.getElementById("in").addEventListener("click", () => zoom(1.4));
document.getElementById("out").addEventListener("click", () => zoom(1 / 1.4));
document.getElementById("fit").addEventListener("click", fit);

// ---------------------------------------------------------------- colours, print, start

const THEMES = ["system", "light", "dark"];
const paint = (name) => {
  if (name === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = name;
  theme.textContent = "Colours: " + name;
  theme.setAttribute("aria-label", "Colours: " + name + ". Press for the next.");
};
const kept = () => { try { return localStorage.getItem("netfuse-colours"); } catch { return null; } };
let now = THEMES.includes(kept()) ? kept() : "system";
theme.addEventListener("click", () => {
  now = THEMES[(THEMES.indexOf(now) + 1) % THEMES.length];
  paint(now);
  try { localStorage.setItem("netfuse-colours", now); } catch { /* a page from a file may have no storage */ }
});
paint(now);
let before = null;
addEventListener("beforeprint", () => {
  before = [scale, left, top];
  root.setAttribute("viewBox", "-20 -60 " + (scene.width + 40) + " " + (scene.height + 80));
  [scale, left, top] = [1, 0, 0];
  nodes.forEach((_, place) => { if (!worded[place]) words(place); });
  show();
  for (const one of document.querySelectorAll("details")) one.open = true;
});
addEventListener("afterprint", () => {
  root.removeAttribute("viewBox");
  [scale, left, top] = before;
  show();
});
addEventListener("resize", () => { if (chosen < 0) fit(); });
fit();
document.documentElement.dataset.drawn = String(nodes.length);
