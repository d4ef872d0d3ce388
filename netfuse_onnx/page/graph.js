/* Draws the graph of the page: the boxes have their places already. build.py joins the scripts in one scope. */
const scene = JSON.parse(document.getElementById("scene").textContent);
const { nodes, edges, kinds, layouts, columns } = scene;
const W = 168, H = 40, ROOM = 24;
const canvas = document.getElementById("canvas"), panel = document.getElementById("panel");
const search = document.getElementById("search"), results = document.getElementById("results");
const found = document.getElementById("found"), theme = document.getElementById("theme");
const NS = "http://www.w3.org/2000/svg";
const svg = (tag, attributes, text) => {
  const made = document.createElementNS(NS, tag);
  for (const key in attributes) made.setAttribute(key, attributes[key]);
  if (text !== undefined) made.textContent = text;
  return made;
};
const html = (tag, text, kind) => {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (kind) made.className = kind;
  return made;
};
const WORDS = { conversion: "layout change", routing: "rows and checks" };
const kindOf = (node) => kinds[node.k];
const word = (node) => WORDS[kindOf(node)] || kindOf(node);

// ---------------------------------------------------------------- drawing

const cut = (text, most) => {
  if (text.length <= most) return text;
  return "…" + text.slice(text.length - most + 1);
};
const short = (text, most) => text.length <= most ? text : text.slice(0, most - 1) + "…";
const title = (node) => {
  if (kindOf(node) === "conversion") return "→ " + node.to;
  if (kindOf(node) === "input" || kindOf(node) === "output") return cut(node.n, 20);
  const made = (node.made || []).reduce((sum, one) => sum + one[1], 0);
  return short(node.o, made > 1 ? 12 : 16) + (made > 1 ? " ×" + made : "");
};
const subtitle = (node) => {
  if (kindOf(node) === "input" || kindOf(node) === "output") {
    const count = (node.names || []).length + (node.more || 0);
    return count > 1 ? kindOf(node) + ", " + count + " tensors" : kindOf(node);
  }
  return cut(node.n, 24);
};
const path = (edge) => {
  const [start, end, , , bends] = edge, from = nodes[start], to = nodes[end];
  const points = [[from.x, from.y + H / 2]];
  for (let i = 0; i < bends.length; i += 2) points.push([bends[i], bends[i + 1]]);
  points.push([to.x, to.y - H / 2]);
  let text = "M" + points[0];
  for (let i = 1; i < points.length; i++) {
    const [x0, y0] = points[i - 1], [x1, y1] = points[i];
    if (x0 === x1) { text += "V" + y1; continue; }
    const middle = Math.min(Math.abs(y1 - y0) / 2, 60) * Math.sign(y1 - y0 || 1);
    text += "C" + [x0, y0 + middle, x1, y1 - middle, x1, y1];
  }
  return text;
};
const readers = nodes.map(() => []), feeders = nodes.map(() => []);
edges.forEach((edge, place) => { readers[edge[0]].push(place); feeders[edge[1]].push(place); });

const root = svg("svg", { "aria-hidden": "true" });
const world = svg("g", {}), lines = svg("g", {}), boxes = svg("g", {}), heads = svg("g", {});
const drawnEdges = edges.map((edge) => {
  if (edge[4] === 0) return null;
  const layout = layouts[edge[2]];
  const kind = layout === "SHARED" ? " shared" : layout === "PER_MODEL" ? " each" : "";
  const made = svg("path", { class: "e" + kind, d: path(edge) });
  lines.append(made);
  return made;
});
const round = (node) => /^(conversion|input|output)$/.test(kindOf(node));
const drawnNodes = nodes.map((node, place) => {
  const made = svg("g", { class: "v k-" + kindOf(node), "data-i": place,
    transform: "translate(" + (node.x - W / 2) + " " + (node.y - H / 2) + ")" });
  made.append(svg("rect", { class: "box", width: W, height: H, rx: round(node) ? H / 2 : 6 }));
  boxes.append(made);
  return made;
});
// The words of a box are made when they are first large enough to be read: most boxes never need them.
const worded = new Uint8Array(nodes.length);
const away = (place, ways) => ways[place].filter((one) => edges[one][4] === 0);
const words = (place) => {
  worded[place] = 1;
  const node = nodes[place], made = drawnNodes[place], middle = round(node);
  const at = { x: middle ? W / 2 : 13, "text-anchor": middle ? "middle" : "start" };
  if (!middle) made.append(svg("rect", { class: "side", width: 5, height: H, rx: 2 }));
  made.append(svg("text", { ...at, y: 17 }, title(node)), svg("text", { ...at, class: "sub", y: 32 }, subtitle(node)));
  if (kindOf(node) === "replicated") {
    for (const off of [3, 6]) made.prepend(svg("rect", { class: "copy", x: off, y: -off, width: W, height: H, rx: 6 }));
  }
  const tag = (y, text) => boxes.append(svg("text", { class: "tag", x: node.x, y, "text-anchor": "middle" }, text));
  const to = away(place, readers), from = away(place, feeders);
  if (to.length) tag(node.y + H / 2 + 12, "⤳ " + to.length + (to.length > 1 ? " readers" : " reader") + " further on");
  if (from.length) {
    tag(node.y - H / 2 - 4, "⤳ " + cut(nodes[edges[from[0]][0]].n, 22) + (from.length > 1 ? " +" + (from.length - 1) : ""));
  }
};
const drawnHeads = columns.map(([left, , text]) => {
  const made = svg("text", { class: "col", x: left, y: -30 }, text);
  heads.append(made);
  return made;
});
world.append(lines, boxes, heads);
root.append(world);
canvas.append(root);

// ---------------------------------------------------------------- view

let scale = 1, left = 0, top = 0, chosen = -1;
const show = () => {
  world.setAttribute("transform", "translate(" + left.toFixed(2) + " " + top.toFixed(2) + ") scale(" + scale.toFixed(4) + ")");
  root.setAttribute("class", scale < 0.28 ? "far farther" : scale < 0.55 ? "far" : "");
  if (scale >= 0.28) {
    const [width, height] = size();
    nodes.forEach((node, place) => {
      if (worded[place]) return;
      const x = left + node.x * scale, y = top + node.y * scale;
      if (x > -W && y > -W && x < width + W && y < height + W) words(place);
    });
  }
  const letters = Math.min(90, Math.max(13, 12 / scale));
  drawnHeads.forEach((head, place) => {
    const room = (columns[place][1] - columns[place][0] + 90) / (letters * 0.58);
    head.setAttribute("font-size", letters.toFixed(1));
    const [, , long, short] = columns[place];
    head.textContent = long.length <= room ? long : short.length <= room ? short : cut(short, Math.max(3, Math.floor(room)));
  });
};
const size = () => [canvas.clientWidth || 800, canvas.clientHeight || 500];
const fit = () => {
  const [width, height] = size(), above = 60;
  scale = Math.min(1.25, (width - 2 * ROOM) / scene.width, (height - 2 * ROOM) / (scene.height + above));
  left = (width - scene.width * scale) / 2;
  top = (height - scene.height * scale) / 2 + above * scale / 2;
  show();
};
const zoom = (factor, x, y) => {
  const [width, height] = size(), cx = x === undefined ? width / 2 : x, cy = y === undefined ? height / 2 : y;
  const next = Math.min(3, Math.max(0.03, scale * factor));
  left = cx - (cx - left) * next / scale;
  top = cy - (cy - top) * next / scale;
  scale = next;
  show();
};
const centre = (place, least) => {
  const [width, height] = size(), node = nodes[place];
  scale = Math.max(scale, least);
  left = width / 2 - node.x * scale;
  top = height / 2 - node.y * scale;
  show();
};
const visible = (place) => {
  const [width, height] = size(), x = left + nodes[place].x * scale, y = top + nodes[place].y * scale;
  return x > 90 * scale && y > 30 * scale && x < width - 90 * scale && y < height - 30 * scale;
};
