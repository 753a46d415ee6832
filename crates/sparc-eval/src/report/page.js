"use strict";
document.documentElement.classList.remove("no-js");

// ---- Heatmaps. The formula is that of `draw/heatmap.rs`: keep them equal. ----
const data = JSON.parse(document.getElementById("weights").textContent);
const live = document.getElementById("live");
const { opacity, clearing, weakest } = data.tint;
const CELL = 12; // pixels a patch when smooth; the browser scales them up
let hardBorders = false;

const colours = Array.from({ length: 256 }, (_, i) => parseInt(data.colours.slice(6 * i, 6 * i + 6), 16));
const bytes = text => Array.from({ length: text.length / 2 }, (_, i) => parseInt(text.slice(2 * i, 2 * i + 2), 16));
const mix = (from, to, share) => from + (to - from) * share;

function paint(canvas, weights, [rows, columns]) {
  const levels = weights.map(w => w && weakest + (1 - weakest) * w / 255);
  const scale = hardBorders ? 1 : CELL;
  canvas.width = columns * scale;
  canvas.height = rows * scale;
  canvas.classList.toggle("patches", hardBorders);
  const context = canvas.getContext("2d");
  const picture = context.createImageData(canvas.width, canvas.height);
  for (let y = 0, at = 0; y < canvas.height; y++) {
    const v = Math.min(Math.max((y + 0.5) / scale - 0.5, 0), rows - 1);
    const top = Math.floor(v), bottom = Math.min(top + 1, rows - 1);
    for (let x = 0; x < canvas.width; x++, at += 4) {
      const u = Math.min(Math.max((x + 0.5) / scale - 0.5, 0), columns - 1);
      const left = Math.floor(u), right = Math.min(left + 1, columns - 1);
      const level = mix(
        mix(levels[top * columns + left], levels[top * columns + right], u - left),
        mix(levels[bottom * columns + left], levels[bottom * columns + right], u - left), v - top);
      const colour = colours[Math.round(255 * level)];
      picture.data[at] = colour >> 16;
      picture.data[at + 1] = colour >> 8 & 255;
      picture.data[at + 2] = colour & 255;
      picture.data[at + 3] = Math.round(255 * opacity * (1 - clearing * level));
    }
  }
  context.putImageData(picture, 0, 0);
}

// ---- Cards: one token is pinned by click, tap, focus or key; pointing at another shows it for a while. ----
const cards = [];
for (const card of document.querySelectorAll(".card")) {
  const item = data.items[Number(card.dataset.item)];
  const tokens = [...card.querySelectorAll(".token[data-token]")];
  if (!tokens.length) continue;
  const panels = [...card.querySelectorAll(".panel")];
  const picture = panels[0].querySelector("img");
  for (const panel of panels.slice(1)) panel.querySelector("img").src = picture.src;
  const weights = item.methods.map(method => method.weights.map(bytes));
  let pinned = item.start, shown = null, stop = item.start ?? 0;

  function show(index) {
    shown = index;
    tokens.forEach((token, i) => token.classList.toggle("active", i === index));
    panels.forEach((panel, m) => {
      const canvas = panel.querySelector("canvas");
      const kept = panel.querySelector(".kept");
      canvas.classList.toggle("shown", index !== null);
      if (index === null) return void (kept.textContent = "");
      paint(canvas, weights[m][index], item.grid);
      const count = weights[m][index].filter(Boolean).length;
      kept.textContent = `${count} of ${weights[m][index].length} patches`;
    });
  }
  function pin(index) {
    pinned = index;
    stop = index ?? stop;
    tokens.forEach((token, i) => {
      token.setAttribute("aria-pressed", String(i === index));
      token.tabIndex = i === stop ? 0 : -1; // one tab stop a caption; arrows move inside it
    });
    show(index);
  }
  function say(index) {
    const counts = item.methods.map((method, m) => `${method.name} ${weights[m][index].filter(Boolean).length}`);
    const total = item.grid[0] * item.grid[1];
    live.textContent = `${item.tokens[index]}, token ${index + 1} of ${tokens.length}: patches kept of ${total}: ${counts.join(", ")}`;
  }
  function clear() {
    pin(null);
    live.textContent = "heatmap cleared";
  }

  function toggle(index, off) {
    if (off) return clear();
    pin(index);
    say(index);
  }

  tokens.forEach((token, index) => {
    let wasPinned = false; // before the press, which moves the focus and so pins
    token.addEventListener("pointerdown", () => { wasPinned = pinned === index; });
    token.addEventListener("pointerenter", event => { if (event.pointerType === "mouse") show(index); });
    token.addEventListener("pointerleave", event => { if (event.pointerType === "mouse") show(pinned); });
    token.addEventListener("focus", () => { pin(index); say(index); });
    token.addEventListener("click", () => toggle(index, wasPinned));
    token.addEventListener("keydown", event => {
      const last = tokens.length - 1;
      const to = {
        ArrowRight: Math.min(index + 1, last), ArrowDown: Math.min(index + 1, last),
        ArrowLeft: Math.max(index - 1, 0), ArrowUp: Math.max(index - 1, 0), Home: 0, End: last,
      }[event.key];
      if (event.key === "Escape") clear();
      else if (event.key === "Enter" || event.key === " ") toggle(index, pinned === index);
      else if (to !== undefined && !event.ctrlKey && !event.metaKey && !event.altKey) tokens[to].focus();
      else return;
      event.preventDefault();
    });
  });
  pin(pinned);
  cards.push({ clear, repaint: () => show(shown) });
}

// Escape clears everything when no token has the focus.
document.addEventListener("keydown", event => {
  if (event.key === "Escape" && !event.defaultPrevented) cards.forEach(card => card.clear());
});
const borders = document.getElementById("patches");
borders?.addEventListener("click", () => {
  hardBorders = !hardBorders;
  borders.setAttribute("aria-pressed", String(hardBorders));
  cards.forEach(card => card.repaint());
});

// ---- Charts: pointing at the plot reads off every line. ----
for (const plot of document.querySelectorAll(".plot")) {
  const svg = plot.querySelector("svg");
  const readout = plot.parentElement.querySelector(".readout");
  const rest = [...readout.childNodes];
  const [xLow, xHigh] = plot.dataset.x.split(" ").map(Number);
  const [yLow, yHigh] = plot.dataset.y.split(" ").map(Number);
  const log = plot.dataset.log === "1";
  const lines = [...plot.querySelectorAll(".line")].map(path => ({
    path, points: [...path.getAttribute("d").matchAll(/[ML]([\d.-]+) ([\d.-]+)/g)].map(m => [Number(m[1]), Number(m[2])]),
  }));
  const cursor = document.createElementNS(svg.namespaceURI, "path");
  cursor.setAttribute("class", "cursor");
  const number = value => Math.abs(value) >= 1000 ? String(Math.round(value)) : value.toPrecision(3);

  svg.addEventListener("pointermove", event => {
    const box = svg.getBoundingClientRect();
    const x = Math.min(Math.max((event.clientX - box.left) / box.width, 0), 1) * 1000;
    cursor.setAttribute("d", `M${x.toFixed(1)} 0V1000`);
    svg.append(cursor);
    const head = document.createElement("span");
    head.textContent = `${plot.dataset.xLabel} ${Math.round(mix(xLow, xHigh, x / 1000)).toLocaleString("en")}`;
    readout.replaceChildren(head, ...lines.filter(line => line.points.length).map(({ path, points }) => {
      const nearest = points.reduce((a, b) => Math.abs(b[0] - x) < Math.abs(a[0] - x) ? b : a);
      const share = 1 - nearest[1] / 1000;
      const value = log ? yLow * (yHigh / yLow) ** share : mix(yLow, yHigh, share);
      const entry = document.createElement("span");
      const name = document.createElement("b");
      name.className = path.getAttribute("class").replace("line", "").trim();
      name.textContent = path.dataset.method;
      entry.append(name, ` ${number(value)}`);
      return entry;
    }));
  });
  svg.addEventListener("pointerleave", () => { cursor.remove(); readout.replaceChildren(...rest); });
}
